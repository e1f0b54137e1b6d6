"""How good a search's finds are, by what configurations give on average over seeds, not by the values that the search saw."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from tuner.results.front import Direction, hypervolume_2d, non_dominated

T = TypeVar("T", bound=tuple[float, ...])
_MINIMIZED: Final[tuple[Direction, Direction]] = ("minimize", "minimize")


@dataclass(frozen=True, slots=True)
class Point:
    """The state of a search once a trial is complete. spent_s: accelerator seconds of all workers.

    hypervolume: of the complete trials' noise-free points, inside the table's reference. shown: of those among them only that are on the
    front of the values that the search saw, which is what a user would be shown; a lucky one there may hide a better one.
    """

    spent_s: float
    hypervolume: float
    shown: float


class Score:
    """Adds complete trials one by one. reference: relative time and error that bound the hypervolume."""

    def __init__(self, reference: tuple[float, float]) -> None:
        self._reference = reference
        self._best: list[tuple[float, float]] = []
        self._front: list[tuple[float, float, float]] = []

    def add(self, spent_s: float, relative_time: float, val_accuracy: float, mean_accuracy: float) -> Point:
        """val_accuracy: as the search saw it; mean_accuracy: over seeds."""
        error, mean_error = 1 - val_accuracy, 1 - mean_accuracy
        self._best = _undominated([*self._best, (relative_time, mean_error)])
        self._front = _undominated([*self._front, (relative_time, error, mean_error)])
        return Point(spent_s, self._volume(self._best), self._volume([(time, mean) for time, _, mean in self._front]))

    def _volume(self, points: Sequence[tuple[float, float]]) -> float:
        volume = hypervolume_2d(points, self._reference, _MINIMIZED)
        assert volume is not None  # there are two objectives
        return volume


def hypervolumes(trajectory: Sequence[Point], at_s: Sequence[float]) -> NDArray[np.float64]:
    """Hypervolume that a search had reached after each of so many accelerator seconds; 0 before its first complete trial."""
    spent_s = [point.spent_s for point in trajectory]
    reached = [0.0, *(point.hypervolume for point in trajectory)]
    return np.array([reached[bisect_right(spent_s, time_s)] for time_s in at_s], dtype=np.float64)


def _undominated(points: list[T]) -> list[T]:
    """The points whose first two numbers no other point's dominate."""
    mask = non_dominated([point[:2] for point in points], _MINIMIZED)
    return [point for point, kept in zip(points, mask, strict=True) if kept]
