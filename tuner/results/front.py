"""Which trials no other trial beats, what they save against full-resolution training, and how much of the plane they cover."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainers.checks import check_name
from trainers.errors import InputError
from tuner.storage.trials import CompletedTrial

if TYPE_CHECKING:
    from tuner.results.confirmation import Confirmation

Direction = Literal["minimize", "maximize"]

TIME: Final = "relative_time"
ACCURACY: Final = "val_accuracy"

# Worst value that still counts in the hypervolume. Fixed, because a reference that moved with the trials would make a study's
# hypervolumes incomparable with each other: the baseline's own time, and no accuracy at all.
REFERENCE: Final[Mapping[str, float]] = {TIME: 1.0, ACCURACY: 0.0}

_CHUNK_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class StudyFront:
    """A study's completed trials and the fronts among them.

    objectives: name -> direction, in the study's order. full_px: full side of the study's images in pixels. confirmation: what is
    confirmed of the front; None where nothing is, or where nobody has looked (tuner.results.confirmation).
    """

    study: str
    model: str
    full_px: int
    objectives: dict[str, Direction]
    completed: list[CompletedTrial]
    confirmation: Confirmation | None = None

    @cached_property
    def front(self) -> list[CompletedTrial]:
        """The non-dominated trials, full-resolution ones included."""
        return front(self.completed, self.objectives)

    @cached_property
    def rival_front(self) -> list[CompletedTrial]:
        """The non-dominated ones of the full-resolution trials: what every gain is stated against."""
        return rival_front(self.completed, self.objectives)

    @property
    def baseline(self) -> CompletedTrial | None:
        return baseline(self.completed)

    def time_saved(self, point: CompletedTrial) -> float | None:
        return time_saved(point, self.completed)


def non_dominated(values: ArrayLike, directions: Sequence[Direction]) -> NDArray[np.bool_]:
    """Whether no other row dominates each row: bool [n] for values [n, d], d >= 1, with one direction a column.

    A row dominates another if it is at least as good in every column and better in one, so all duplicates of a front row are on the
    front. A row that holds NaN or an infinity is a failed measurement: it is never on the front and dominates nothing.
    """
    costs = _costs(values, directions)
    mask = np.zeros(len(costs), dtype=bool)
    usable = np.flatnonzero(np.isfinite(costs).all(axis=1))
    costs = costs[usable]
    order = np.lexsort(costs.T[::-1])
    ascending = costs[order]
    first_of_kind = np.ones(len(ascending), dtype=bool)
    first_of_kind[1:] = (ascending[1:] != ascending[:-1]).any(axis=1)
    distinct = ascending[first_of_kind]
    kept = _kept_2d(distinct) if len(directions) == 2 else _kept(distinct)
    mask[usable[order]] = kept[np.cumsum(first_of_kind) - 1]
    return mask


def front(trials: Sequence[CompletedTrial], objectives: Mapping[str, Direction]) -> list[CompletedTrial]:
    """The non-dominated trials, best first objective first, then by number. A trial without one of the objectives is never among them."""
    names = list(objectives)
    values = [[trial.values.get(name, math.nan) for name in names] for trial in trials]
    mask = non_dominated(np.array(values, dtype=float).reshape(len(trials), len(names)), list(objectives.values()))
    sign = 1 if objectives[names[0]] == "minimize" else -1
    chosen = [trial for trial, kept in zip(trials, mask, strict=True) if kept]
    return sorted(chosen, key=lambda trial: (sign * trial.values[names[0]], trial.number))


def rival_front(trials: Sequence[CompletedTrial], objectives: Mapping[str, Direction]) -> list[CompletedTrial]:
    """The front of the full-resolution trials alone, in the order of `front`."""
    return front([trial for trial in trials if trial.rival is not None], objectives)


def baseline(trials: Iterable[CompletedTrial]) -> CompletedTrial | None:
    """The study's full training, the earliest if there are several; None while it has not completed."""
    return min((trial for trial in trials if trial.rival == "baseline"), key=lambda trial: trial.number, default=None)


def measured(trial: CompletedTrial, name: str) -> float | None:
    """A trial's objective or other metric; None where it has none or where it is not finite."""
    value = trial.values.get(name, trial.metrics.get(name, math.nan))
    return value if math.isfinite(value) else None


def fastest_rival(point: CompletedTrial, trials: Iterable[CompletedTrial]) -> CompletedTrial | None:
    """The fastest full-resolution trial whose validation accuracy is at least the point's, the earliest of equals.

    Only full-resolution ones among `trials` are looked at. None when none of them is as accurate, or the point has no accuracy.
    """
    accuracy = measured(point, ACCURACY)
    if accuracy is None:
        return None
    measures = [(measured(trial, TIME), measured(trial, ACCURACY), trial) for trial in trials if trial.rival is not None]
    good = [(time, trial.number, trial) for time, reached, trial in measures if time and reached is not None and reached >= accuracy]
    return min(good, key=lambda one: one[:2])[2] if good else None


def time_saved(point: CompletedTrial, trials: Iterable[CompletedTrial]) -> float | None:
    """Share of relative time saved against `fastest_rival`. None where there is none, or the point lacks either value."""
    rival = fastest_rival(point, trials)
    time, needed = measured(point, TIME), measured(rival, TIME) if rival else None
    return None if time is None or needed is None else 1 - time / needed


def hypervolume(trials: Sequence[CompletedTrial], objectives: Mapping[str, Direction]) -> float | None:
    """Area that the trials dominate inside REFERENCE; None unless the objectives are two that have a reference."""
    if len(objectives) != 2 or not set(objectives) <= set(REFERENCE):
        return None
    points = np.array([[trial.values.get(name, math.nan) for name in objectives] for trial in trials], dtype=float).reshape(-1, 2)
    return hypervolume_2d(points, [REFERENCE[name] for name in objectives], list(objectives.values()))


def hypervolume_2d(points: ArrayLike, reference: Sequence[float], directions: Sequence[Direction]) -> float | None:
    """Area between the points [n, 2] and the reference [2]; None unless there are two objectives.

    A point that is not better than the reference in both contributes nothing, nor does one with NaN or an infinity.
    """
    if len(directions) != 2:
        return None
    costs = _costs(points, directions)
    worst_x, worst_y = _costs([reference], directions)[0]
    inside = costs[np.isfinite(costs).all(axis=1) & (costs[:, 0] < worst_x) & (costs[:, 1] < worst_y)]
    area, lowest = 0.0, float(worst_y)
    for x, y in inside[np.lexsort(inside.T[::-1])]:
        area += float(worst_x - x) * max(0.0, lowest - float(y))
        lowest = min(lowest, float(y))
    return area


def _costs(values: ArrayLike, directions: Sequence[Direction]) -> NDArray[np.float64]:
    """Values [n, d] as float64 with every column to be minimised."""
    for direction in directions:
        check_name("direction", direction, get_args(Direction))
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not directions or array.shape[1] != len(directions):
        raise InputError(f"values have shape {list(array.shape)}, they must be rows of one column for each of {len(directions)} directions")
    signs = np.array([1.0 if direction == "minimize" else -1.0 for direction in directions])
    costs: NDArray[np.float64] = array * signs
    return costs


def _kept_2d(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Non-dominated rows of distinct rows in lexicographic order: those with a lower second column than every row before."""
    lowest_before = np.minimum.accumulate(np.concatenate(([np.inf], costs[:-1, 1])))
    return costs[:, 1] < lowest_before[: len(costs)]


def _kept(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Non-dominated rows of distinct rows [n, d] in lexicographic order, where only an earlier row can dominate a later one."""
    kept = np.ones(len(costs), dtype=bool)
    for start in range(0, len(costs), _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        kept[chunk] = ~_covered(costs[:start][kept[:start]], costs[chunk]).any(axis=0)
        among = costs[chunk][kept[chunk]]
        kept[chunk.start + np.flatnonzero(kept[chunk])] = ~np.triu(_covered(among, among), k=1).any(axis=0)
    return kept


def _covered(costs: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[n, m]: whether row i of `costs` [n, d] is at most row j of `others` [m, d] in every column."""
    covered = np.ones((len(costs), len(others)), dtype=bool)
    for column in range(costs.shape[1]):
        covered &= costs[:, column, None] <= others[None, :, column]
    return covered
