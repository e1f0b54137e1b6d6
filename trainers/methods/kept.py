"""What is kept of a network's tensors when filters are removed from it, as plain lists; and how network and optimizer follow."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainers.errors import InputError

# Kept indices by dimension, of one tensor.
Indices = dict[int, list[int]]
# By the name of a parameter or buffer in the network; tensors that stay whole are not in it.
Kept = dict[str, Indices]


def shrunk(tensor: Tensor, indices: Mapping[int, list[int]]) -> Tensor:
    """The kept part of a tensor, a copy in the same memory format; the tensor itself where all of it is kept."""
    channels_last = tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    for dim, kept in indices.items():
        tensor = tensor.index_select(dim, torch.tensor(kept, device=tensor.device))
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor


def chained(first: Kept, second: Kept) -> Kept:
    """What is kept by two removals in a row; the indices of `second` are those in what `first` has left."""
    both = {name: dict(indices) for name, indices in first.items()}
    for name, indices in second.items():
        earlier = both.setdefault(name, {})
        for dim, kept in indices.items():
            earlier[dim] = [earlier[dim][index] for index in kept] if dim in earlier else kept
    return both


@torch.no_grad()
def shrink_network(model: nn.Module, kept: Kept, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Leaves only the kept parts of the network's tensors, in place, and of what the optimizer keeps of each parameter.

    Parameters become new objects in the same places, in the optimizer's groups too. Layers that hold them: Conv2d (dense or depthwise),
    batch norm, Linear.
    """
    replaced: dict[nn.Parameter, tuple[nn.Parameter, Indices]] = {}
    for name, indices in kept.items():
        layer_name, _, tensor_name = name.rpartition(".")
        layer = model.get_submodule(layer_name)
        if tensor_name in layer._buffers:
            layer._buffers[tensor_name] = shrunk(layer.get_buffer(tensor_name), indices)
        else:
            old = layer.get_parameter(tensor_name)
            new = nn.Parameter(shrunk(old.detach(), indices), old.requires_grad)
            layer._parameters[tensor_name] = new
            replaced[old] = new, indices
    for layer_name in {name.rpartition(".")[0] for name in kept}:
        _set_counts(model.get_submodule(layer_name))
    if optimizer is not None:
        _follow(optimizer, replaced)


def fit_network(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads weights that were saved after filters had been removed into a whole network of the same kind, which shrinks to their sizes.

    InputError where a tensor is missing, or the network has a smaller one.
    """
    own = model.state_dict()
    kept: Kept = {}
    for name, tensor in own.items():
        if name not in state or state[name].ndim != tensor.ndim or any(s > o for s, o in zip(state[name].shape, tensor.shape, strict=True)):
            found = list(state[name].shape) if name in state else "missing"
            raise InputError(f"tensor '{name}' of the weights is {found}, it must be there and fit into the network's {list(tensor.shape)}")
        sizes = enumerate(zip(state[name].shape, tensor.shape, strict=True))
        kept[name] = {dim: list(range(size)) for dim, (size, whole) in sizes if size < whole}
    shrink_network(model, {name: indices for name, indices in kept.items() if indices})
    model.load_state_dict(dict(state))


def _set_counts(layer: nn.Module) -> None:
    """Makes a layer's own figures those of its tensors."""
    if isinstance(layer, nn.Conv2d):
        outputs, inputs = layer.weight.shape[:2]
        if layer.groups > 1:
            layer.groups = outputs
        layer.out_channels, layer.in_channels = outputs, inputs * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.in_features = layer.weight.shape[1]
    elif isinstance(layer, _BatchNorm):
        tensors = (layer.running_mean, layer.weight)
        layer.num_features = next(len(tensor) for tensor in tensors if tensor is not None)


def _follow(optimizer: torch.optim.Optimizer, replaced: Mapping[nn.Parameter, tuple[nn.Parameter, Indices]]) -> None:
    for group in optimizer.param_groups:
        group["params"] = [replaced[one][0] if one in replaced else one for one in group["params"]]
    for old, (new, indices) in replaced.items():
        if old in optimizer.state:
            state = optimizer.state.pop(old)
            optimizer.state[new] = {
                key: shrunk(value, indices) if isinstance(value, Tensor) and value.shape == old.shape else value
                for key, value in state.items()
            }
