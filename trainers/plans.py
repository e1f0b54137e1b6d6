"""What a plan is made of: kinds of step, their sides, and the steps of a whole training. Pure arithmetic, knows no torch."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from typing import Literal, NamedTuple

# What a step does with convolution kernels; "pooled" alone means those of all layers.
StepKernel = Literal["full", "pooled", "pooled_largest_maps", "pooled_most_saved"]


class Step(NamedTuple):
    """One kind of step: side of the input in pixels, what is pooled, and how many of the training's batches it takes at once."""

    side_px: int
    kernel: StepKernel
    batches: int = 1


class Plan(tuple[Step, ...]):
    """The kind of each optimizer step of a training, in order.

    epochs: the same steps, epoch by epoch. The `batches` of an epoch's steps add up to the batches that the training has an epoch.
    """

    epochs: tuple[tuple[Step, ...], ...]

    def __new__(cls, epochs: Iterable[Iterable[Step]]) -> Plan:
        parts = tuple(tuple(epoch) for epoch in epochs)
        plan = super().__new__(cls, itertools.chain.from_iterable(parts))
        plan.epochs = parts
        return plan

    def __getnewargs__(self) -> tuple[tuple[tuple[Step, ...], ...]]:
        # Else a pickle or a copy would hand the flat steps to __new__, which would take each for an epoch.
        return (self.epochs,)

    def counts(self) -> dict[Step, int]:
        """Exact number of steps of each kind."""
        return dict(Counter(self))


def constant_work_batches(side_px: int, full_px: int) -> int:
    """How many batches of reduced images have no more pixels than one full batch: floor((full side / side)^2)."""
    return full_px**2 // side_px**2


def round_side(scale: Fraction | float, full_px: int, multiple: int) -> int:
    """Reduced side in pixels: scale * full_px rounded to a multiple, halves up, at least one multiple and at most full_px.

    Scale 1 is the full side, whether that is a multiple or not.
    """
    exact = scale if isinstance(scale, Fraction) else exactly(scale)
    if exact == 1:
        return full_px
    rounded = math.floor(exact * full_px / multiple + Fraction(1, 2)) * multiple
    return min(full_px, max(multiple, rounded))


def pooled_size(size: int, side_px: int, full_px: int) -> int:
    """Length of a pooled kernel side: ceil(size * side_px / full_px), in integers so that no rounding error enters."""
    return -(-size * side_px // full_px)


def exactly(value: float) -> Fraction:
    """The decimal number that was written, not its binary neighbour."""
    return Fraction(str(value))
