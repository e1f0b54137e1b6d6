"""In which order a network calls its convolutions and with which sizes, found by running a copy that has shapes but no numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

Size = tuple[int, int]

# What a forward pass of unknown code may raise when its sizes don't fit, or when it needs numbers.
FORWARD_ERRORS: Final = (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, LookupError, ArithmeticError)


class Call(NamedTuple):
    """One use of a Conv2d: its name in the network, and the height and width of its input and output in pixels."""

    name: str
    input_px: Size
    output_px: Size


class Trace(NamedTuple):
    """The calls of one forward pass in order, and the shapes of the tensors that it returns.

    chained: pairs of indices of calls; the output of the first reaches the second, and nothing else but through it.
    """

    calls: tuple[Call, ...]
    outputs: tuple[torch.Size, ...]
    chained: tuple[tuple[int, int], ...]


class Form(NamedTuple):
    """Kernel size and symmetric padding (height, width) that a layer computes with."""

    size: Size
    padding: Size


class ShapeNetwork:
    """A copy of a network on torch's meta device, in training mode. The network itself and torch's random state stay as they are."""

    def __init__(self, model: nn.Module) -> None:
        self._copy = copy_without_numbers(model, torch.device("meta")).train()
        _drop_hooks(self._copy)
        self._layers = {name: layer for name, layer in self._copy.named_modules() if isinstance(layer, nn.Conv2d)}
        self._calls: list[Call] = []
        self._nodes: list[Node | None] = []
        for name, layer in self._layers.items():
            layer.register_forward_hook(self._recorder(name))

    def run(self, side_px: int, forms: Mapping[str, Form] | None = None) -> Trace | None:
        """Traces square images; the layers of `forms` compute in another form than their own. None if the network can't run so."""
        first = next(iter(self._layers.values()))
        images = torch.empty(2, first.in_channels, side_px, side_px, dtype=first.weight.dtype, device="meta", requires_grad=True)
        self._calls, self._nodes = [], []
        chosen = {self._layers[name]: form for name, form in (forms or {}).items()}
        try:
            for layer, form in chosen.items():
                vars(layer)["_conv_forward"] = _shaped(layer, form)
            # Gradients on, because the graph for them shows where each output goes.
            with torch.enable_grad(), torch.random.fork_rng(devices=[]):
                outputs = [output for output in tree_leaves(self._copy(images + 0)) if isinstance(output, Tensor)]
        except FORWARD_ERRORS:
            return None
        finally:
            for layer in chosen:
                del vars(layer)["_conv_forward"]
        chained = _chained(self._nodes, [output.grad_fn for output in outputs])
        return Trace(tuple(self._calls), tuple(output.shape for output in outputs), chained)

    def _recorder(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def record(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._calls.append(Call(name, pixels(inputs[0]), pixels(output)))
            self._nodes.append(output.grad_fn)

        return record


def _chained(nodes: Sequence[Node | None], ends: Sequence[Node | None]) -> tuple[tuple[int, int], ...]:
    """Which call feeds one other alone. nodes: of the calls' outputs in the graph for gradients; ends: of the network's outputs."""
    index = {node: number for number, node in enumerate(nodes) if node is not None}
    fed: dict[int, list[int | None]] = {number: [] for number in index.values()}
    for node, number in index.items():
        for source in _sources([parent for parent, _ in node.next_functions], index):
            fed[source].append(number)
    for source in _sources(ends, index):
        fed[source].append(None)
    return tuple((source, goals[0]) for source, goals in fed.items() if len(goals) == 1 and goals[0] is not None)


def _sources(starts: Iterable[Node | None], index: Mapping[Node, int]) -> set[int]:
    """The calls from which these nodes get their input with no other call in between."""
    found, seen, left = set(), set(), list(starts)
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in index:
            found.add(index[node])
        else:
            left += [parent for parent, _ in node.next_functions]
    return found


def shape_network(model: nn.Module) -> ShapeNetwork | None:
    """The network's copy for tracing; None if it has no Conv2d or can't be copied."""
    if not any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
        return None
    try:
        return ShapeNetwork(model)
    except FORWARD_ERRORS:
        return None


def copy_without_numbers(model: nn.Module, device: torch.device) -> nn.Module:
    """A deep copy whose parameters and buffers are uninitialised tensors on `device`."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device=device), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device=device)
    return copy.deepcopy(model, memo)


def _drop_hooks(copied: nn.Module) -> None:
    """The user's hooks are for trainings; those that make a layer's weight before its use (torch's older weight_norm) stay."""
    for module in copied.modules():
        module._forward_hooks.clear()
        if not isinstance(module, nn.Conv2d):
            module._forward_pre_hooks.clear()


def pixels(images: Tensor) -> Size:
    """Height and width of images [..., height, width]."""
    return images.shape[-2], images.shape[-1]


def _shaped(layer: nn.Conv2d, form: Form) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    height, width = form.size

    def convolve(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        taps = weight[:, :, :height, :width]
        return F.conv2d(images, taps, bias, layer.stride, form.padding, layer.dilation, layer.groups)

    return convolve
