"""Which layers of a network compute with pooled kernels in a step, and with which paddings.

Every layer keeps the output size of its unpooled filter (pads.py), but for pairs of layers that are one pixel off in between
(even_pads.py). Our own choice; downsampling.md states the rules.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn

from trainers.convolution import PooledConvolution
from trainers.errors import InputError
from trainers.even_pads import EvenChoice, EvenPads, choose_even_pads
from trainers.filters import pool_once, pooling_matrices
from trainers.pads import Pads, PooledShape
from trainers.pooled_layers import choose_layers
from trainers.schedule import Step
from trainers.tracing import ShapeNetwork, Trace, shape_network


class Geometry:
    """The pooled convolutions of a network in each kind of step, worked out once a kind; full_px: shorter side of full images.

    The network's layers must stay the same objects.
    """

    def __init__(self, model: nn.Module, full_px: int) -> None:
        self._model = model
        self._full_px = full_px
        self._known: dict[Step, list[PooledConvolution]] = {}
        self._shapes: ShapeNetwork | None = None

    def convolutions(self, step: Step) -> list[PooledConvolution]:
        """The layers whose kernels are smaller in this step, in order of execution where that is known; InputError if one can't be pooled,
        or if layers are to be chosen in a network that can't be traced."""
        kind = Step(step.side_px, step.kernel)
        if kind not in self._known:
            self._known[kind] = self._convolutions(kind)
        return self._known[kind]

    def _convolutions(self, step: Step) -> list[PooledConvolution]:
        layers = poolable_layers(self._model, step, self._full_px)
        shapes = {name: PooledShape.of(layer, step.side_px, self._full_px) for name, layer in layers.items()}
        plain = self._trace(step.side_px) if shapes else None
        if plain is None or self._shapes is None:
            return padded_convolutions(layers, shapes) if step.kernel == "pooled" or not shapes else self._refuse(step)
        chosen = choose_even_pads(self._shapes, plain, shapes, step.side_px)
        every = _arranged(layers, shapes, plain, chosen)
        names = choose_layers(self._model, step, plain, chosen, {convolution.name: convolution for convolution in every})
        return [convolution for convolution in every if convolution.name in names]

    def _trace(self, side_px: int) -> Trace | None:
        self._shapes = self._shapes or shape_network(self._model)
        return None if self._shapes is None else self._shapes.run(side_px)

    def _refuse(self, step: Step) -> list[PooledConvolution]:
        raise InputError(
            f"schedule field 'pooled_layers' is '{step.kernel.removeprefix('pooled_')}', but network {type(self._model).__name__} can't be "
            f"traced on torch's meta device with square images of {step.side_px} px, so its layers can't be compared: use 'all'"
        )


def pooled_convolutions(model: nn.Module, step: Step, full_px: int) -> list[PooledConvolution]:
    """`Geometry.convolutions` of a network that runs one kind of step."""
    return Geometry(model, full_px).convolutions(step)


def poolable_layers(model: nn.Module, step: Step, full_px: int) -> dict[str, nn.Conv2d]:
    """By name, the layers whose kernels are smaller at the step's side; none in steps with full kernels. InputError if one can't be."""
    if step.kernel == "full":
        return {}
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and PooledShape.of(layer, step.side_px, full_px).size != layer.kernel_size:
            _check_poolable(name, layer)
            found[name] = layer
    return found


def padded_convolutions(layers: dict[str, nn.Conv2d], shapes: dict[str, PooledShape]) -> list[PooledConvolution]:
    """Each layer keeps its output size by paddings of its own; the sides take turns in the order in which the layers are registered."""
    turns = _Turns()
    return [PooledConvolution(name, layer, shapes[name], turns.pads(shapes[name], None), None) for name, layer in layers.items()]


def _arranged(layers: dict[str, nn.Conv2d], shapes: dict[str, PooledShape], plain: Trace, chosen: EvenChoice) -> list[PooledConvolution]:
    """In order of execution; layers that this trace did not meet come last."""
    turns = _Turns()
    order = dict.fromkeys([*(call.name for call in plain.calls if call.name in layers), *layers])
    arranged = []
    for name in order:
        even = chosen.pads.get(name)
        arranged.append(PooledConvolution(name, layers[name], shapes[name], turns.pads(shapes[name], even), even))
    return arranged


class _Turns:
    """To which side the odd pixel moves the window, axis by axis (1x7 and 7x1 in a row must not share a turn): so that moves cancel."""

    def __init__(self) -> None:
        self._moved = [0, 0]

    def pads(self, shape: PooledShape, even: EvenPads | None) -> tuple[Pads, Pads]:
        """The layer's paddings; where symmetric ones were chosen, those that move the window to the same side as they do."""
        on_left = [moved < 0 if even is None else even.kind == "narrow" for moved in self._moved]
        for axis, odd in enumerate(shape.odd):
            self._moved[axis] += odd * (1 if on_left[axis] else -1)
        return shape.pads((on_left[0], on_left[1]))


@contextmanager
def pooled_kernels(convolutions: Sequence[PooledConvolution]) -> Iterator[None]:
    """Inside, each of these layers computes with its pooled kernel, and outside as before, also after an exception.

    The filters are pooled once, on entry. They are pooled anew at each use once a weight has changed, or where a layer does not convolve
    with its own parameter. In a compiled graph the former is not seen: make one optimizer step at most.
    """
    for convolution in convolutions:
        _check_poolable(convolution.name, convolution.layer)
    _keep_filters(convolutions)
    for convolution in convolutions:
        vars(convolution.layer)["_conv_forward"] = convolution
    try:
        yield
    finally:
        for convolution in convolutions:
            del vars(convolution.layer)["_conv_forward"]
            convolution.kept = convolution.matrices = None


def _keep_filters(convolutions: Sequence[PooledConvolution]) -> None:
    """A parametrized weight is not kept: it is another tensor at each use, and its own graph survives one backward pass only."""
    plain = [convolution for convolution in convolutions if convolution.layer._parameters.get("weight") is not None]
    kept = pool_once([convolution.layer.weight for convolution in plain], [convolution.size for convolution in plain])
    for convolution, one in zip(plain, kept, strict=True):
        convolution.kept = one
    for convolution in convolutions:
        layer = convolution.layer
        if type(layer) is not nn.Conv2d:
            # Its weight may be made at each use, then pooled in the compiled graph too, which must find the matrices ready.
            parameter = next(layer.parameters())
            convolution.matrices = pooling_matrices(layer.kernel_size, convolution.size, parameter.dtype, parameter.device)


def _check_poolable(name: str, layer: nn.Conv2d) -> None:
    own = "_conv_forward" in vars(layer) or type(layer)._conv_forward is not nn.Conv2d._conv_forward
    if own or not _calls_conv_forward(type(layer)):
        raise InputError(
            f"the kernel of layer '{name}' can't be pooled, because its class {type(layer).__name__} computes the convolution by "
            "itself: use schedule field kernel 'full', or let its forward call self._conv_forward(input, weight, bias)"
        )


def _calls_conv_forward(layer_type: type[nn.Conv2d]) -> bool:
    """Whether `forward` names `_conv_forward`, itself or in the parent's `forward` that it names."""
    for owner in layer_type.__mro__:
        if owner is nn.Conv2d:
            return True
        if "forward" in vars(owner):
            forward = inspect.unwrap(cast("Callable[..., Tensor]", vars(owner)["forward"]))
            names = forward.__code__.co_names if inspect.isfunction(forward) else ()
            if "forward" not in names:
                return "_conv_forward" in names
    return False
