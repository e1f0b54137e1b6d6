"""The walk over a network's torch.fx graph that finds its `ChannelGraph`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from trainers.methods.filter_activity import ACTIVATIONS, Activity, evaluating
from trainers.methods.filter_constants import after_convolution, after_norm, measured
from trainers.methods.filter_graph import ChannelGraph, Channels, Reader
from trainers.pads import own_pads

# Names of torch's layers, functions and methods in lower case and without underscores. prelu is left out: it has a weight a channel.
_DROPOUTS: Final = {"dropout", "dropout2d", "stochasticdepth"}
_PER_PIXEL: Final = ACTIVATIONS.difference({"prelu"}) | _DROPOUTS | {"identity", "contiguous", "clone"}
_POOLS: Final = {"maxpool2d", "avgpool2d", "adaptiveavgpool2d", "adaptivemaxpool2d", "interpolate", "upsample"}
_BINARY: Final = {"add", "iadd", "sub", "isub", "mul", "imul"}
_FLATTENS: Final = {"flatten", "view", "reshape"}
_TORCHS: Final = {"torch", "torchvision", "_operator", "builtins"}


@torch.no_grad()
def channel_graph(model: nn.Module, graph: fx.Graph, probe: Tensor, activities: Mapping[str, Activity]) -> ChannelGraph:
    """graph: of `trace_network`. probe: any image [1, channels, H, W]; the walk runs it through the network in evaluation mode.

    activities: of the images for which channels shall be constant. Channels that meet anything that this file doesn't know are fixed.
    """
    walk = _Walk(model, graph, activities)
    with evaluating(model):
        walk.run(torch.cat([probe, probe]))
    return walk.found


class _Walk(fx.Interpreter):
    def __init__(self, model: nn.Module, graph: fx.Graph, activities: Mapping[str, Activity]) -> None:
        super().__init__(model, graph=graph)
        self.found = ChannelGraph()
        self._activities = activities
        self._alone = _used_once(model, graph)
        self._channels: dict[fx.Node, Channels] = {}
        # As in `filter_activities`: outputs of convolutions, and of batch norms after them, that nothing has read yet.
        self._outputs: dict[fx.Node, tuple[str, int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op != "output":
            channels = self._known(n, value) if n.op.startswith("call_") else None
            self._set(n, value, channels or self._unknown(n, value))
        elif n.op == "output" or any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            self._fix_inputs(n)
        return value

    def _set(self, node: fx.Node, value: Tensor, channels: Channels) -> None:
        name, stage = self._outputs.get(node, ("", 0))
        if name in self._activities and self._activities[name].stage == stage:
            seen = measured(self._activities[name])
            channels = channels._replace(constants=torch.where(channels.constants.isnan(), seen, channels.constants))
        # What overwrites its input changes what other nodes hold.
        for holder in [node, *(other for other, held in self.env.items() if held is value)]:
            self._channels[holder] = channels

    def _unknown(self, node: fx.Node, value: Tensor) -> Channels:
        self._fix_inputs(node)
        return self._fresh(value.shape[1] if value.ndim > 1 else 0, fixed=True)

    def _fix_inputs(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            if source in self._channels:
                self.found.fix(self._channels[source].numbers)

    def _fresh(self, count: int, fixed: bool, constant: float = torch.nan) -> Channels:
        numbers = self.found.fresh(count)
        if fixed:
            self.found.fix(numbers)
        return Channels(numbers, torch.full((count,), constant, dtype=torch.float64))

    def _known(self, node: fx.Node, value: Tensor) -> Channels | None:
        """None where it is not known what the node does to channels."""
        layer = self.fetch_attr(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.Module) and layer.state_dict() and str(node.target) not in self._alone:
            return None
        kind = _kind(node, layer)
        if kind in _BINARY:
            return self._binary(kind, node, value)
        if kind in ("cat", "concat"):
            return self._concatenated(node, value)
        sources = [self._channels[source] for source in node.all_input_nodes if source in self._channels]
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if len(sources) != 1 or not args or not isinstance(args[0], Tensor):
            return None
        if isinstance(layer, nn.Conv2d | _BatchNorm | nn.Linear):
            return self._layer(kind, node, layer, sources[0], args[0])
        return self._shaped(kind, node, sources[0], args, kwargs, value)

    def _layer(self, kind: str, node: fx.Node, layer: nn.Module, source: Channels, images: Tensor) -> Channels | None:
        name = str(node.target)
        match kind, layer:
            case "conv2d", nn.Conv2d():
                return self._convolution(node, name, layer, source)
            case (("batchnorm2d" | "batchnorm1d"), _BatchNorm()) if images.ndim != 3:
                self._follow(node)
                self.found.followers[name] = source.numbers
                before = node.all_input_nodes[0]
                if str(before.target) in self.found.filters and len(before.users) == 1 and layer.running_mean is not None:
                    self.found.norms[str(before.target)] = name
                return source._replace(constants=after_norm(layer, source.constants))
            case "linear", nn.Linear() if images.ndim == 2:
                self.found.readers.append(Reader(name, source, padded=False))
                return self._fresh(layer.out_features, fixed=True)
        return None

    def _convolution(self, node: fx.Node, name: str, layer: nn.Conv2d, source: Channels) -> Channels | None:
        padded = layer.padding_mode == "zeros" and any(side for pads in own_pads(layer) for side in pads)
        constants = after_convolution(layer, source.constants, padded)
        if layer.groups == 1:
            self.found.readers.append(Reader(name, source, padded))
            numbers = self.found.filters[name] = self.found.fresh(layer.out_channels)
        elif layer.groups == layer.in_channels == layer.out_channels:
            numbers = self.found.followers[name] = source.numbers
        else:
            return None
        self._outputs[node] = name, 0
        return Channels(numbers, constants)

    def _follow(self, node: fx.Node) -> None:
        """The node is the batch norm or the activation function of what it reads."""
        if node.all_input_nodes[0] in self._outputs:
            name, stage = self._outputs.pop(node.all_input_nodes[0])
            self._outputs[node] = name, stage + 1

    def _shaped(
        self, kind: str, node: fx.Node, source: Channels, args: tuple[Any, ...], kwargs: dict[str, Any], value: Tensor
    ) -> Channels | None:
        """Of what has no parameters and one input."""
        images, *rest = args
        if kind in _DROPOUTS:
            return source if torch.equal(images, value) else None
        if kind in _PER_PIXEL:
            if kind in ACTIVATIONS:
                self._follow(node)
            constants = self._again(node, source.constants[None, :, None, None].clone(), rest, kwargs)
            return source._replace(constants=constants.flatten())
        if kind in _POOLS and images.ndim == 4:
            ones = torch.ones_like(images[:1, :1])
            keeps = torch.allclose(self._again(node, ones, rest, kwargs), ones.new_ones(()))
            return source if keeps else source._replace(constants=_zeros_only(source.constants))
        if kind == "pad":
            return self._padded(node, source, images, *rest, **kwargs)
        if kind in _FLATTENS and _flattens(node, kind, images, value):
            times = value.shape[1] // max(1, images.shape[1])
            return Channels(source.numbers.repeat_interleave(times), source.constants.repeat_interleave(times))
        over_pixels = (kind == "mean" and _over_pixels(images, *rest, **kwargs)) or (kind == "getitem" and _cuts_pixels(images, rest[0]))
        return source if over_pixels else None

    def _again(self, node: fx.Node, images: Tensor, rest: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        """What the node makes of other images."""
        return torch.as_tensor(getattr(self, node.op)(node.target, (images, *rest), kwargs))

    def _binary(self, kind: str, node: fx.Node, value: Tensor) -> Channels | None:
        parts = [self._channels.get(arg) if isinstance(arg, fx.Node) else arg for arg in node.args]
        tensors = [part for part in parts if isinstance(part, Channels)]
        shapes = [self.env[arg].shape for arg in node.args if isinstance(arg, fx.Node) and arg in self._channels]
        known = all(isinstance(part, Channels | int | float) for part in parts)
        if (
            len(parts) != 2
            or node.kwargs
            or not known
            or not tensors
            or value.ndim < 2
            or any(len(shape) != value.ndim or shape[1] != value.shape[1] for shape in shapes)
        ):
            return None
        if len(tensors) == 2:
            self.found.join(tensors[0].numbers, tensors[1].numbers)
        one, other = (part.constants if isinstance(part, Channels) else torch.as_tensor(part) for part in parts)
        return tensors[0]._replace(constants=_combined(kind, one, other))

    def _concatenated(self, node: fx.Node, value: Tensor) -> Channels | None:
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        inputs = node.args[0] if node.args else None
        if not isinstance(inputs, list | tuple) or dim not in (1, 1 - value.ndim):
            return None
        parts = [self._channels[part] for part in inputs if isinstance(part, fx.Node)]
        return Channels(torch.cat([part.numbers for part in parts]), torch.cat([part.constants for part in parts]))

    def _padded(
        self, node: fx.Node, source: Channels, images: Tensor, pads: Sequence[int], mode: str = "constant", value: float | None = None
    ) -> Channels | None:
        """Pads of new channels may shrink with their sets where their number follows from shapes, as that of option-A shortcuts."""
        written = node.args[1] if len(node.args) > 1 else None
        front, back = (*pads[4:6], 0, 0)[:2]
        if images.ndim != 4 or mode != "constant" or not isinstance(written, list | tuple) or min(front, back) < 0:
            return None
        constants = source.constants
        if any(pads[:4]):
            constants = torch.where(constants == (value or 0), constants, torch.nan)
        follows = [isinstance(count, fx.Node) for count in (*written[4:6], 0, 0)[:2]]
        new = [self._fresh(count, not free, value or 0.0) for count, free in zip((front, back), follows, strict=True)]
        parts = [new[0], Channels(source.numbers, constants), new[1]]
        return Channels(torch.cat([part.numbers for part in parts]), torch.cat([part.constants for part in parts]))


def _kind(node: fx.Node, layer: object) -> str:
    """The name of the layer's class, function or method in lower case and without underscores; empty where it is not torch's."""
    if layer is not None:
        name = type(layer).__name__ if type(layer).__module__.startswith("torch.nn.modules") else ""
    elif isinstance(node.target, str):
        name = node.target
    else:
        owner = getattr(node.target, "__module__", None) or "torch"
        name = getattr(node.target, "__name__", "") if owner.split(".")[0] in _TORCHS else ""
    return name.lower().replace("_", "")


def _used_once(model: nn.Module, graph: fx.Graph) -> set[str]:
    """Layers that are called once and whose parameters nothing else uses."""
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return {
        name
        for name, count in calls.items()
        if count == 1 and name not in read and all(owners[id(parameter)] == 1 for parameter in model.get_submodule(name).parameters())
    }


def _combined(kind: str, one: Tensor, other: Tensor) -> Tensor:
    if "mul" in kind:
        return torch.where((one == 0) | (other == 0), 0.0, one * other)
    return one - other if "sub" in kind else one + other


def _zeros_only(constants: Tensor) -> Tensor:
    return torch.where(constants == 0, constants, torch.nan)


def _over_pixels(images: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> bool:
    dims = (dim,) if isinstance(dim, int) else tuple(dim or (0,))
    return all(one % images.ndim > 1 for one in dims)


def _cuts_pixels(images: Tensor, index: object) -> bool:
    whole = slice(None)
    cuts = isinstance(index, tuple) and len(index) <= images.ndim and all(isinstance(one, slice) for one in index)
    return cuts and isinstance(index, tuple) and index[:2] == (whole, whole)


def _flattens(node: fx.Node, kind: str, images: Tensor, value: Tensor) -> bool:
    """Whether all but the images' dimension become one, however many channels there are."""
    sizes = node.args[1] if len(node.args) > 1 and isinstance(node.args[1], list | tuple) else node.args[1:]
    follows = kind == "flatten" or sizes[-1:] in ((-1,), [-1])
    return follows and images.ndim > 1 and value.ndim == 2 and len(value) == len(images)
