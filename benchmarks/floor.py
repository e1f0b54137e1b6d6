"""What a reduced step would take if it took what its arithmetic takes.

    floor(step) / full step = sum over classes of  share(class) * work(class, step) / work(class, full step)  +  filter pooling, as it is

share(class): of the time of a full step's operations, by torch's profiler. work: multiply-accumulates for convolutions and linear layers,
elements passed over for batch norm, copies and everything elementwise, nothing saved on what works on parameters (the optimizer). Work is
counted on ideal maps, of the size that each layer's unpooled kernel gives, or as the trainers do it where that is less: neither padded
copies nor wider maps raise the floor. Our own choice; docs/steps.md says how to read it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from trainers.downsampling import Downsampler
from trainers.geometry import pooled_convolutions
from trainers.pads import own_pads
from trainers.schedule import Schedule, Step

CONVOLUTIONS: Final = "convolutions"
BY_ELEMENTS: Final = ("batch norm", "elementwise", "copies")
PARAMETERS: Final = "parameters"
FILTER_POOLING: Final = "filter pooling"
RESIZE: Final = "resize"
# A full step does none of the last two.
CLASSES: Final = (CONVOLUTIONS, *BY_ELEMENTS, PARAMETERS, FILTER_POOLING, RESIZE)


class Work(NamedTuple):
    """What a forward and backward pass does for one image.

    macs: multiply-accumulates of convolutions and linear layers. elements: summed over all other operations, views aside, the size of
    the largest tensor that the operation reads or writes. What doesn't grow with the batch is in neither.
    """

    macs: int
    elements: int

    def least(self, other: Work) -> Work:
        return Work(min(self.macs, other.macs), min(self.elements, other.elements))


def ideal_work(model: nn.Module, step: Step, full_px: int) -> Work:
    """With pooled kernels and every map at the size that the unpooled kernels give, on shapes alone."""
    shapes = copy.deepcopy(model).to("meta").train()
    with _ideal_kernels(shapes, step, full_px):
        macs = _work(shapes, step.side_px).macs
    # Pooled kernels leave ideal maps as they are, so elements are counted without them: no slice or pad of the above is among them.
    return Work(macs, _work(shapes, step.side_px).elements)


def real_work(model: nn.Module, step: Step, full_px: int) -> Work:
    """As the trainers make the pass: padded copies, wider and narrower maps included."""
    plain = copy.deepcopy(model).to("cpu").train()
    with Downsampler(plain, Schedule(), total_steps=0, full_px=full_px).run_as(step):
        return _work(plain, step.side_px)


def floor_parts(full_profile_ms: Mapping[str, float], work: Work, full_work: Work, filter_pooling_ms: float = 0.0) -> dict[str, float]:
    """The floor by class, each over the whole full step; their sum is the floor.

    full_profile_ms: time of a full step's operations by class. filter_pooling_ms: of pooling every filter once, forward and backward, by
    the same clock.
    """
    ratios = {
        CONVOLUTIONS: work.macs / full_work.macs,
        **dict.fromkeys(BY_ELEMENTS, work.elements / full_work.elements),
        PARAMETERS: 1.0,
    }
    total_ms = sum(full_profile_ms.values())
    parts = {name: full_profile_ms[name] * ratio / total_ms for name, ratio in ratios.items()}
    return parts | {FILTER_POOLING: filter_pooling_ms / total_ms}


def _work(model: nn.Module, side_px: int) -> Work:
    few, more = (_batch_work(model, side_px, batch) for batch in (2, 4))
    return Work((more.macs - few.macs) // 2, (more.elements - few.elements) // 2)


def _batch_work(model: nn.Module, side_px: int, batch: int) -> Work:
    device = next(model.parameters()).device
    images = torch.zeros(batch, 3, side_px, side_px, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    with _ElementCounter() as elements, FlopCounterMode(display=False) as operations:
        F.cross_entropy(model(images), labels).backward()
    model.zero_grad(set_to_none=True)
    # torch counts a multiply-accumulate as two operations.
    return Work(operations.get_total_flops() // 2, elements.elements)


class _ElementCounter(TorchDispatchMode):
    """Sums the elements that operations pass over, matrix products, convolutions and views aside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket not in flop_registry and not func.is_view and "empty" not in func.__name__:
            self.elements += max((leaf.numel() for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)), default=0)
        return result


@contextmanager
def _ideal_kernels(model: nn.Module, step: Step, full_px: int) -> Iterator[None]:
    """Kernels of the pooled size and, whatever the trainers do for speed, maps of the unpooled one."""
    pooled = pooled_convolutions(model, step, full_px)
    for convolution in pooled:
        vars(convolution.layer)["_conv_forward"] = functools.partial(_ideal_convolution, convolution.layer, convolution.size)
    try:
        yield
    finally:
        for convolution in pooled:
            del vars(convolution.layer)["_conv_forward"]


def _ideal_convolution(layer: nn.Conv2d, size: tuple[int, int], images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Only shapes count here, so a slice stands for the pooled kernel: pooling it would add products of its own."""
    removed = [d * (k - k_pooled) for d, k, k_pooled in zip(layer.dilation, layer.kernel_size, size, strict=True)]
    rows, columns = (sum(pads) - px for pads, px in zip(own_pads(layer), removed, strict=True))
    images = F.pad(images, [0, columns, 0, rows])
    return F.conv2d(images, weight[:, :, : size[0], : size[1]], bias, layer.stride, 0, layer.dilation, layer.groups)
