"""How searches are compared: mean hypervolume over spent budget, time to reach a rival's, what a chosen schedule costs too much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tuner.replay.simulation import SimulatedTrial
from tuner.results.best import best_for_drop
from tuner.storage.trials import CompletedTrial

Floats = NDArray[np.float64]

# Shares of the budget at which a search is looked at: after each of 100 baseline trainings.
GRID: Final = tuple(step / 100 for step in range(1, 101))
RESAMPLES: Final = 2000
_INTERVAL: Final = (0.025, 0.975)
# Hypervolumes are stored with six digits.
_ROUNDING: Final = 1e-9


class Choice(NamedTuple):
    """A schedule's relative time and noise-free accuracy."""

    time: float
    accuracy: float


class Band(NamedTuple):
    """Mean over seeds at each budget [n], and the ends of its bootstrap 95 % interval [n]."""

    mean: Floats
    low: Floats
    high: Floats


def band(curves: ArrayLike, seed: int = 0) -> Band:
    """Of curves [seeds, n]: percentile bootstrap over the seeds; the same curves and seed give the same band."""
    values = np.asarray(curves, dtype=np.float64)
    low, high = np.quantile(_resampled(values, np.random.default_rng(seed)), _INTERVAL, axis=0)
    return Band(values.mean(axis=0), low, high)


def budget_ratio(ours: ArrayLike, goal: float, grid: Sequence[float] = GRID) -> float:
    """The first share of the budget at which our mean curve [n] is at least `goal`; inf where it never is."""
    reached = np.flatnonzero(np.asarray(ours) >= goal - _ROUNDING)
    return grid[reached[0]] if len(reached) else math.inf


def ratio_interval(ours: ArrayLike, rival: ArrayLike, grid: Sequence[float] = GRID, seed: int = 0) -> tuple[float, float]:
    """Bootstrap 95 % interval of the budget ratio against one rival, over the seeds of both [seeds, n]."""
    rng = np.random.default_rng(seed)
    pairs = zip(_resampled(np.asarray(ours), rng), _resampled(np.asarray(rival), rng)[:, -1], strict=True)
    ratios = [budget_ratio(mean, goal, grid) for mean, goal in pairs]
    # No interpolation: some may be infinite.
    low, high = np.quantile(ratios, _INTERVAL, method="inverted_cdf")
    return float(low), float(high)


def regret(taken: Choice, known: Sequence[Choice], limit: float) -> tuple[float, float]:
    """How much more relative time a chosen schedule takes than it need, and by how much its noise-free accuracy misses `limit`.

    It is compared with the fastest known schedule that is at least as accurate as was asked. One that only seemed accurate enough, and
    misses the limit, is compared with the fastest that is at least as accurate as it really is: else a lucky value that made a search
    choose a schedule too fast to be good would count as time saved. The miss stands beside it, because it is the worse mistake of the two.
    known: must hold a schedule as accurate as the chosen one, itself for instance.
    """
    asked = min(limit, taken.accuracy)
    fastest = min(choice.time for choice in known if choice.accuracy >= asked - _ROUNDING)
    return max(0.0, taken.time - fastest), max(0.0, limit - taken.accuracy)


def chosen(trials: Sequence[SimulatedTrial], baseline: Mapping[str, Any], max_drop: float) -> int | None:
    """Number of the trial that `tuner best --max-drop` takes, by the values that the search saw; None before the baseline is complete."""
    first = next((trial.number for trial in trials if baseline.items() <= trial.params.items()), None)
    if first is None:
        return None
    return best_for_drop([_completed(trial, is_baseline=trial.number == first) for trial in trials], max_drop).number


def _completed(trial: SimulatedTrial, *, is_baseline: bool) -> CompletedTrial:
    return CompletedTrial(
        number=trial.number,
        root=trial.number,
        attempt=1,
        params=trial.params,
        values={"relative_time": trial.relative_time, "val_accuracy": trial.val_accuracy},
        rival="baseline" if is_baseline else None,
        seed=trial.seed,
        curve=[],
        counts={},
        seconds={},
        observed_over_calibrated=None,
        test_accuracy=None,
        device="",
        versions={},
        commit="",
    )


def _resampled(values: Floats, rng: np.random.Generator) -> Floats:
    """Means over seeds drawn with replacement [RESAMPLES, n]."""
    drawn = rng.integers(len(values), size=(RESAMPLES, len(values)))
    # As weights, because [resamples, seeds, n] is large.
    weights = np.stack([np.bincount(row, minlength=len(values)) for row in drawn]) / len(values)
    return np.asarray(weights @ values)
