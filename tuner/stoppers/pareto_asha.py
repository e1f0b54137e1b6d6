"""Asynchronous successive halving for two objectives, the known rival of our own stopper.

Source: Schmucker, Donini, Zafar, Salinas, Archambeau 2021, "Multi-objective asynchronous successive halving" (arXiv 2106.12639), its
non-dominated sorting with crowding distance (Deb, Pratap, Agarwal, Meyarivan 2002, NSGA-II, section III); a trial that falls behind is
stopped, not paused, as in Li et al. 2020 (arXiv 1810.05934).

Published: at a rung a trial goes on if it is among the best 1/eta of those that have reached it so far, ordered by non-dominated rank and
then by crowding distance, largest first; the first ones to come always go on.

Own choices: rungs lie at equal cost, FIRST_RUNG * ETA^k of the baseline's time, because epochs of different schedules cost different
amounts; the accuracy there is interpolated between two epochs. The other objective is the final relative time, which is known, and not the
time so far, which is the same for all at a rung. Equal trials are equally good: a trial is stopped for those that are strictly better.
Trials of the start points are never stopped, and other full-resolution ones are compared with full-resolution ones only. A rung remembers
its newest MOST_TRIALS.

Cost: below a millisecond, and only when a rung is reached. It needs no completed trial.

When it hurts: rank among the trials of a rung says nothing about how far away the front is, so a fixed share is stopped however good they
are, and the very first ones go on however bad; and a schedule whose full steps come last looks weak at every rung but the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.results.describe import describe_share
from tuner.results.front import non_dominated
from tuner.stoppers import Stop
from tuner.storage.trials import CompletedTrial, UnmeasuredTrial

Floats = NDArray[np.float64]

FIRST_RUNG: Final = 0.05
ETA: Final = 3
MOST_TRIALS: Final = 200
# Beyond any training: 10^18 baselines.
_MOST_RUNGS: Final = 40
# Times are sums, which are not exact in binary.
_ROUNDING: Final = 1 + 1e-9


class _Arrival(NamedTuple):
    """A trial at a rung: its final relative time and its accuracy there."""

    time: float
    accuracy: float
    is_full: bool


class ParetoAsha:
    """first_rung: relative time of the lowest rung. eta: one in so many goes on, and the next rung costs as many times more."""

    def __init__(self, first_rung: float = FIRST_RUNG, eta: int = ETA) -> None:
        self._first_rung = first_rung
        self._eta = eta
        # By root trial, in the order of their arrival.
        self._rungs: list[dict[int, _Arrival]] = []
        self._stops: dict[int, Stop] = {}

    def decide(self, trial: UnmeasuredTrial | CompletedTrial, epoch: int, curve: Sequence[float], times: Sequence[float]) -> Stop | None:
        """See Stopper."""
        epoch = min(epoch, len(curve), len(times))
        if epoch < 1 or not max(times) < math.inf or not min(times) >= 0:
            return None
        reached = self._arrive(trial, np.array(curve[:epoch], dtype=float), np.array(times, dtype=float))
        if epoch == len(times) or trial.rival in ("baseline", "shorter"):
            return None
        for rung in reached:
            if trial.root not in self._stops and (stop := self._judged(rung, trial.root)) is not None:
                self._stops[trial.root] = stop
        return self._stops.get(trial.root)

    def _arrive(self, trial: UnmeasuredTrial | CompletedTrial, curve: Floats, times: Floats) -> list[int]:
        """The rungs that the trial was not known to have reached."""
        reached = []
        spent = times[: len(curve)]
        rung = 0
        while (level := self._level(rung)) <= spent[-1] * _ROUNDING and rung < _MOST_RUNGS:
            if rung == len(self._rungs):
                self._rungs.append({})
            arrivals = self._rungs[rung]
            if trial.root not in arrivals:
                arrivals[trial.root] = _Arrival(float(times[-1]), float(np.interp(level, spent, curve)), trial.rival is not None)
                if len(arrivals) > MOST_TRIALS:
                    del arrivals[next(iter(arrivals))]
                reached.append(rung)
            rung += 1
        return reached

    def _level(self, rung: int) -> float:
        return self._first_rung * float(self._eta) ** rung

    def _judged(self, rung: int, root: int) -> Stop | None:
        mine = self._rungs[rung][root]
        peers = {other: arrival for other, arrival in self._rungs[rung].items() if arrival.is_full or not mine.is_full}
        values = np.array([arrival[:2] for arrival in peers.values()])
        better = count_better(values, list(peers).index(root))
        if better < max(1, len(peers) // self._eta):
            return None
        kind = "full-resolution trials" if mine.is_full else "trials"
        return Stop(
            f"at {describe_share(self._level(rung))} of the baseline's time {better} of {len(peers)} {kind} were better, "
            f"and 1 in {self._eta} goes on",
            None,
        )


def count_better(values: Floats, mine: int) -> int:
    """How many rows of (time, accuracy) [n, 2] are strictly better than row `mine`.

    Those of a lower non-dominated rank, and those of its own rank that lie less crowded. A row that is not finite is behind all others.
    """
    left, better = np.arange(len(values)), 0
    while (on_front := non_dominated(values[left], ("minimize", "maximize"))).any():
        front = left[on_front]
        if mine in front:
            distances = crowding(values[front])
            return better + int((distances > distances[front == mine]).sum())
        better += len(front)
        left = left[~on_front]
    return better


def crowding(front: Floats) -> Floats:
    """Crowding distance [n] of the points of one front [n, 2]: infinite at its ends, shared by equal points."""
    points, place = np.unique(front, axis=0, return_inverse=True)
    distances = np.full(len(points), np.inf)
    if len(points) > 2:
        # In ascending time the accuracies of a front ascend, too: one order for both.
        distances[1:-1] = ((points[2:] - points[:-2]) / (points[-1] - points[0])).sum(axis=1)
    return distances[place.reshape(-1)]
