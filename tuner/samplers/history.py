"""A study's trials as the sampler learns from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

Floats = NDArray[np.float64]
Point = Mapping[str, Any]
# The accuracy to learn from a trial that was stopped early; None for nothing.
Guess = Callable[[FrozenTrial], float | None]


class Known(NamedTuple):
    """A trial with all its parameters. time: relative, of its plan. accuracy: None where none is known. state: none that failed."""

    point: Point
    time: float
    accuracy: float | None
    state: TrialState


@dataclass(frozen=True, slots=True)
class Trials:
    """Some trials: points, relative times (n,), accuracies (n,), NaN where none is known, and whether each is COMPLETE."""

    points: list[Point]
    times: Floats
    accuracies: Floats
    complete: NDArray[np.bool_]

    @classmethod
    def of(cls, known: Iterable[Known]) -> Trials:
        rows = list(known)
        return cls(
            [trial.point for trial in rows],
            np.array([trial.time for trial in rows]),
            np.array([math.nan if trial.accuracy is None else trial.accuracy for trial in rows]),
            np.array([trial.state == TrialState.COMPLETE for trial in rows], dtype=bool),
        )

    def __len__(self) -> int:
        return len(self.points)


class History:
    """Reads trials, and prices each only once.

    fields: parameters that a whole trial has. cost: relative time of a point. accuracy_index: of val_accuracy among the objectives.
    """

    def __init__(self, fields: Iterable[str], cost: Callable[[Point], float], accuracy_index: int, guess: Guess) -> None:
        self._fields = frozenset(fields)
        self._cost = cost
        self._accuracy_index = accuracy_index
        self._guess = guess
        self._ended: dict[int, Known] = {}

    def read(self, trials: Sequence[FrozenTrial]) -> list[Known]:
        """What is known of each trial that runs or is finished, in their order; failed ones and NaN ones aside."""
        return [known for trial in trials if (known := self._ended.get(trial.number) or self._known(trial)) is not None]

    def _known(self, trial: FrozenTrial) -> Known | None:
        if trial.state not in (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED) or not self._fields <= trial.params.keys():
            return None
        accuracy = self._accuracy(trial)
        if trial.state == TrialState.COMPLETE and accuracy is None:
            return None
        known = Known(trial.params, self._cost(trial.params), accuracy, trial.state)
        if trial.state != TrialState.RUNNING:
            self._ended[trial.number] = known
        return known

    def _accuracy(self, trial: FrozenTrial) -> float | None:
        if trial.state == TrialState.PRUNED:
            return self._guess(trial)
        accuracy = trial.values[self._accuracy_index] if trial.state == TrialState.COMPLETE else None
        return accuracy if accuracy is not None and math.isfinite(accuracy) else None


def informative(trials: Trials, limit: int) -> NDArray[np.intp]:
    """Indices of at most `limit` trials, in their order: half of them least below the front, the others evenly over the times."""
    if len(trials) <= limit:
        return np.arange(len(trials))
    order = np.argsort(trials.times, kind="stable")
    best = np.maximum.accumulate(trials.accuracies[order])
    below = np.empty(len(trials))
    below[order] = best - trials.accuracies[order]
    near = np.argsort(below, kind="stable")[: limit // 2]
    others = order[~np.isin(order, near)]
    spread = others[np.linspace(0, len(others) - 1, limit - len(near)).astype(int)]
    return np.sort(np.concatenate([near, spread]))
