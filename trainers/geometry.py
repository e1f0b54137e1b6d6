"""Pooled convolution kernels, and the paddings under which every layer keeps the output size of its unpooled filter.

Our own choice: of the source (Poulos, Nouri and Moshovos 2019, arXiv 1910.06548) only the abstract is public. Notation, along one axis
of one convolution:

    k, k'   kernel length and pooled kernel length in taps, k' = ceil(k * side / full side)
    d       dilation, pixels from tap to tap
    l, r    the layer's own padding on the left (top) and right (bottom) in pixels; l = r = p where it is one number p

The unpooled window spans d(k-1)+1 pixels and the pooled one d(k-k') fewer, so the padding shrinks by d(k-k') pixels and the output size
stays floor((n + l + r - d(k-1) - 1) / stride) + 1. Half of these pixels leave each side, which keeps the window's centre; where d(k-k')
is odd the centre moves by half a pixel, to one side in this layer and to the other in the next, so that the shifts cancel.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.errors import InputError
from trainers.schedule import Step, pooled_size


class Pads(NamedTuple):
    """Padding along one axis in pixels; a negative number crops."""

    left: int
    right: int


def own_pads(layer: nn.Conv2d) -> tuple[Pads, Pads]:
    """Paddings (height, width) that the layer applies without pooling, numbers as well as 'same' and 'valid'."""
    if layer.padding == "valid":
        return Pads(0, 0), Pads(0, 0)
    if isinstance(layer.padding, str):
        height, width = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        return Pads(height // 2, height - height // 2), Pads(width // 2, width - width // 2)
    height, width = layer.padding
    return Pads(height, height), Pads(width, width)


def pooled_pads(own: Pads, removed_px: int, odd_on_left: bool) -> Pads:
    """Paddings of the pooled kernel: `removed_px` = d(k-k') fewer, half from each side, the odd pixel from the left or the right."""
    from_left = (removed_px + odd_on_left) // 2
    return Pads(own.left - from_left, own.right - (removed_px - from_left))


def pool_kernel(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Pools filters [out, in, kh, kw] to [out, in, kh', kw'] with `size` = (kh', kw'); `weight` itself where that is its size.

    Adaptive average pooling, then times (kh kw) / (kh' kw'), so that a constant filter keeps its sum and a constant image its response.
    Differentiable: the gradient reaches `weight`. Operator and gain are our own choice.
    """
    kernel = (weight.shape[2], weight.shape[3])
    if kernel == size:
        return weight
    # A product with one small matrix takes a third of the time of adaptive_avg_pool2d, whose gradient on CUDA also differs from run to
    # run. Outside of autocast, which would round the weights before they are averaged.
    with torch.autocast(weight.device.type, enabled=False):
        pooled = weight.reshape(-1, math.prod(kernel)) @ _pooling_matrix(kernel, size, weight.dtype, weight.device)
    return pooled.reshape(*weight.shape[:2], *size)


@functools.lru_cache
def _pooling_matrix(kernel: tuple[int, int], size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[kh kw, kh' kw']: what pooling makes of each single tap, gain included."""
    # It is kept for later steps, so it must not become an inference tensor because inference asked first.
    with torch.inference_mode(mode=False), torch.no_grad():
        taps = torch.eye(math.prod(kernel), dtype=torch.float64).reshape(-1, 1, *kernel)
        pooled = F.adaptive_avg_pool2d(taps, size) * (math.prod(kernel) / math.prod(size))
        return pooled.reshape(math.prod(kernel), math.prod(size)).to(device, dtype)


class PooledConvolution(NamedTuple):
    """What one layer does instead of its own convolution: kernel size (height, width) and paddings (height, width)."""

    layer: nn.Conv2d
    size: tuple[int, int]
    pads: tuple[Pads, Pads]

    def __call__(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Takes the place of the layer's `_conv_forward`, which torch hands the final weight, parametrizations applied."""
        padding = [0, 0]
        if self.layer.padding_mode == "zeros" and all(0 <= pads.left == pads.right for pads in self.pads):
            padding = [pads.left for pads in self.pads]  # no padded copy of the images, which would cost what pooling saves
        else:
            images = _pad(images, self.pads, self.layer.padding_mode)
        weight = pool_kernel(weight, self.size)
        return F.conv2d(images, weight, bias, self.layer.stride, padding, self.layer.dilation, self.layer.groups)


def _pad(images: Tensor, pads: tuple[Pads, Pads], mode: str) -> Tensor:
    (top, bottom), (left, right) = pads
    sides = [left, right, top, bottom]
    if mode == "zeros":
        return F.pad(images, sides)
    if any(side > 0 for side in sides):
        images = F.pad(images, [max(side, 0) for side in sides], mode=mode)
    return F.pad(images, [min(side, 0) for side in sides])


def pooled_convolutions(model: nn.Module, step: Step, full_px: int) -> list[PooledConvolution]:
    """The layers whose kernels are smaller in this step; InputError if one of them can't be pooled."""
    if step.kernel == "full":
        return []
    pooled = []
    odd_on_left = [False, False]  # one turn per axis: 1x7 and 7x1 in a row would shift each axis always to the same side
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        height, width = (pooled_size(k, step.side_px, full_px) for k in layer.kernel_size)
        if (height, width) == layer.kernel_size:
            continue
        _check_poolable(name, layer)
        removed = [d * (k - size) for d, k, size in zip(layer.dilation, layer.kernel_size, (height, width), strict=True)]
        rows, columns = (pooled_pads(*args) for args in zip(own_pads(layer), removed, odd_on_left, strict=True))
        odd_on_left = [left != bool(px % 2) for left, px in zip(odd_on_left, removed, strict=True)]
        pooled.append(PooledConvolution(layer, (height, width), (rows, columns)))
    return pooled


@contextmanager
def pooled_kernels(model: nn.Module, step: Step, full_px: int) -> Iterator[None]:
    """Every Conv2d of `model` computes with the step's pooled kernel inside, and as before outside, also after an exception."""
    pooled = pooled_convolutions(model, step, full_px)
    for convolution in pooled:
        vars(convolution.layer)["_conv_forward"] = convolution
    try:
        yield
    finally:
        for convolution in pooled:
            del vars(convolution.layer)["_conv_forward"]


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
