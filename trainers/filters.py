"""Pooled convolution filters: the pooling operator, and filters that are pooled once a step however often they are used.

Operator and gain are our own choice: of the source (Poulos, Nouri and Moshovos 2019, arXiv 1910.06548) only the abstract is public.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
Matrices = tuple[Tensor, Tensor]

# Filters are multiplied so many at a time: a product with fewer than 16 rows and columns spends its time on overhead (docs/LOG.md).
_BLOCKS: Final = 4


def pool_kernel(weight: Tensor, size: Size) -> Tensor:
    """Pools filters [out, in, kh, kw] to [out, in, kh', kw'] with `size` = (kh', kw'); `weight` itself where that is its size.

    Adaptive average pooling, then times (kh kw) / (kh' kw'), so that a constant filter keeps its sum and a constant image its response.
    Differentiable: the gradient reaches `weight`. Keeps dtype and memory format.
    """
    kernel = (weight.shape[2], weight.shape[3])
    if kernel == size:
        return weight
    return _map_taps(weight, *pooling_matrices(kernel, size, weight.dtype, weight.device), size)


def pool_by(weight: Tensor, matrices: Matrices, size: Size) -> Tensor:
    """`pool_kernel` with the `pooling_matrices` of these sizes, and of the weight's type and device."""
    return _map_taps(weight, *matrices, size)


def _map_taps(filters: Tensor, matrix: Tensor, blocks: Tensor, size: Size) -> Tensor:
    """Filters [out, in, kh, kw] times a matrix [kh kw, kh' kw'], as [out, in, kh', kw'] with `size` = (kh', kw').

    blocks: the matrix along the diagonal, _BLOCKS times.
    """
    out_channels, in_channels, height, width = filters.shape
    # A product with one small matrix takes a third of the time of adaptive_avg_pool2d, whose gradient on CUDA also differs from run to
    # run. Outside of autocast, which would round the weights before they are averaged.
    with torch.autocast(filters.device.type, enabled=False):
        if filters.is_contiguous() or not filters.is_contiguous(memory_format=torch.channels_last):
            rows = filters.reshape(-1, height * width)
            if len(rows) % _BLOCKS == 0:
                rows, matrix = rows.reshape(-1, _BLOCKS * height * width), blocks
            return (rows @ matrix).reshape(out_channels, in_channels, *size)
        # The taps of a channels-last filter lie apart: multiplied from the left, it is neither copied before nor after.
        taps = filters.permute(0, 2, 3, 1).reshape(out_channels, height * width, in_channels)
        mapped = torch.bmm(matrix.t().expand(out_channels, -1, -1), taps)
    return mapped.reshape(out_channels, *size, in_channels).permute(0, 3, 1, 2)


@functools.lru_cache
def pooling_matrices(kernel: Size, size: Size, dtype: torch.dtype, device: torch.device) -> Matrices:
    """[kh kw, kh' kw']: what pooling makes of each single tap, gain included; and that in blocks along the diagonal."""
    # It is kept for later steps, so it must not become an inference tensor because inference asked first.
    with torch.inference_mode(mode=False), torch.no_grad():
        taps = torch.eye(math.prod(kernel), dtype=torch.float64).reshape(-1, 1, *kernel)
        pooled = F.adaptive_avg_pool2d(taps, size) * (math.prod(kernel) / math.prod(size))
        matrix = pooled.reshape(math.prod(kernel), math.prod(size)).to(device, dtype)
        return matrix, torch.block_diag(*[matrix] * _BLOCKS)


class KeptFilter(NamedTuple):
    """A pooled filter for as long as the parameter that it was made of stays as it is."""

    source: Tensor
    version: int
    pooled: Tensor

    def serves(self, weight: Tensor) -> bool:
        """Whether pooling `weight` now would give `pooled` and its gradient."""
        # A compiled graph can't look at versions: inside one step of a plan no parameter changes before its last use.
        unchanged = weight is self.source and (torch.compiler.is_compiling() or weight._version == self.version)
        return unchanged and (self.pooled.requires_grad or not (weight.requires_grad and torch.is_grad_enabled()))


def pool_once(weights: Sequence[Tensor], sizes: Sequence[Size]) -> list[KeptFilter]:
    """Pools each of `weights` [out, in, kh, kw] to its size of `sizes`. The gradient may flow back through the result several times."""
    groups: defaultdict[tuple[torch.device, bool], list[int]] = defaultdict(list)
    for index, weight in enumerate(weights):
        groups[weight.device, weight.requires_grad].append(index)
    pooled: dict[int, Tensor] = {}
    for members in groups.values():
        filters = _PoolFilters.apply([sizes[index] for index in members], *(weights[index] for index in members))
        pooled |= dict(zip(members, filters, strict=True))
    return [KeptFilter(weight, weight._version, pooled[index]) for index, weight in enumerate(weights)]


class _PoolFilters(torch.autograd.Function):
    """`pool_kernel` of many filters as one node of the graph, which costs the overhead of one.

    Nothing is saved for the backward pass, so nothing is freed by it: every micro-batch of a step goes back through the same node.
    """

    @staticmethod
    def forward(ctx: Any, sizes: Sequence[Size], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.kernels = [(weight.shape[2], weight.shape[3]) for weight in weights]
        return tuple(pool_kernel(weight, size) for weight, size in zip(weights, sizes, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_spread_all(grads, ctx.kernels)


def _spread_all(grads: Iterable[Tensor | None], kernels: Iterable[Size]) -> list[Tensor | None]:
    """The gradient of each filter from that of its pooled one; None stays None: a layer that this forward pass did not use."""
    return [None if grad is None else _spread(grad, kernel) for grad, kernel in zip(grads, kernels, strict=True)]


def _spread(grad: Tensor, kernel: Size) -> Tensor:
    matrix, blocks = pooling_matrices(kernel, (grad.shape[2], grad.shape[3]), grad.dtype, grad.device)
    return _map_taps(grad, matrix.t(), blocks.t(), kernel)
