"""The stopper that ends a trial once its optimistic outcome is dominated: it knows its time, and extrapolates its accuracy.

Source: our own choice, from known parts: extrapolating a curve from those of earlier trainings (Baker et al. 2017, arXiv 1705.10823, with
regression on what is known after a share of the training), jackknife+ for the interval (Barber, Candes, Ramdas, Tibshirani 2021, Annals of
Statistics 49(1)), and Pareto dominance in place of one best value.

A trial is asked after a share of its epochs, where the curve of the learning rate is the same for all. Over the completed trials, ridge
regression predicts the final accuracy from three things known there: accuracy now, the final relative time, and the share of that time
that is spent (a schedule whose full steps are still to come has its rise before it). The optimistic outcome is the jackknife+ upper bound
at `confidence`: the ceil((n + 1) confidence)-th of the n predictions without one trial, each plus that trial's residual. With too few
completed trials for that (fewer than 19 at 0.95) nothing is stopped. The final relative time is no prediction: the plan and the cost table
give it. Accuracies are log odds in it, times logarithms: a curve that nears 100 % has less room for surprises.

Own choices: a trial is stopped where at least two completed trials dominate the optimistic outcome. The front's accuracies are the luckiest
of many; that two of them were lucky at one place is much less likely. Trials of the start points are never stopped, and other
full-resolution ones only by completed full-resolution trials, because every gain is stated against their front. Stopped trials are missing
among the completed ones, which would slowly teach the regression that weak beginnings end well; so EXEMPT_FRAC of the root trials, drawn by
their number, always run to their end. Of the completed trials the newest MOST_CURVES teach; all of them dominate.

Evidence: 320 trainings of a made-up network with noise, in turn, three times (tests/test_stoppers.py): at 0.95 a quarter of the time was
saved, and of about 125 stopped trials none, none and 3 would have been on the final front of 27. Of 52 real trainings on digits, which are
few to learn from, 7 were stopped and 4 % saved.

Cost: 0.1 ms a look, below a millisecond after a new result; the exempt trials are trained for nothing.

When it hurts: the confidence is that of one look at one trial, and a trial is looked at after every epoch, so more than 1 - confidence of
the good ones are lost over a training. Trials unlike all that have completed (the first with a new policy) are extrapolated; the bound
widens with their distance, but only as far as the line holds. Where validation accuracy says nothing until the end, nothing is stopped.
Interacts with samplers: one that learns from `Stop.expected` sees a guess, not a measurement.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.results.describe import describe_share
from tuner.stoppers import Stop
from tuner.storage.trials import CompletedTrial, UnmeasuredTrial

Floats = NDArray[np.float64]

EXEMPT_FRAC: Final = 0.1
MOST_CURVES: Final = 300
_DOMINATORS: Final = 2
# Of standardised columns: as much as one trial at one deviation.
_RIDGE: Final = 1.0
# Nearer to 0 and 1 accuracies are all the same: of 200 images half of one.
_LEAST_ODDS: Final = 0.0025


class Dominance:
    """confidence: in (0, 1), that the optimistic outcome is not exceeded. seed: of the draw of exempt root trials."""

    def __init__(self, confidence: float, seed: int = 0) -> None:
        self._confidence = confidence
        self._seed = seed
        self._finished: set[int] = set()
        self._curves: deque[_Curve] = deque(maxlen=MOST_CURVES)
        self._all, self._full = _Best(), _Best()
        self._stacked: _Curves | None = None
        # None where nothing can be said at that share of a training.
        self._fits: dict[tuple[int, int], _Fit | None] = {}

    def decide(self, trial: UnmeasuredTrial | CompletedTrial, epoch: int, curve: Sequence[float], times: Sequence[float]) -> Stop | None:
        """See Stopper."""
        epoch = min(epoch, len(curve))
        if epoch >= len(times):
            self._learn(trial, _Curve.of(curve, times))
        elif self._may_stop(trial, epoch):
            with np.errstate(all="ignore"):
                return self._judged(trial, epoch, _Curve.of(curve[:epoch], times))
        return None

    def _may_stop(self, trial: UnmeasuredTrial | CompletedTrial, epoch: int) -> bool:
        is_start_point = trial.rival in ("baseline", "shorter")
        return epoch >= 1 and not is_start_point and trial.root not in self._finished and not is_exempt(trial.root, self._seed)

    def _learn(self, trial: UnmeasuredTrial | CompletedTrial, curve: _Curve) -> None:
        if trial.root in self._finished or not math.isfinite(curve.time + curve.accuracy):
            return
        self._finished.add(trial.root)
        self._curves.append(curve)
        self._all.add(curve.time, curve.accuracy)
        if trial.rival is not None:
            self._full.add(curve.time, curve.accuracy)
        self._stacked = None
        self._fits.clear()

    def _judged(self, trial: UnmeasuredTrial | CompletedTrial, epoch: int, curve: _Curve) -> Stop | None:
        known = _Curves.of([curve]).known(epoch, curve.epochs)[0]
        fit = self._fit(epoch, curve.epochs)
        if fit is None or not np.isfinite(known).all():
            return None
        best = self._all if trial.rival is None else self._full
        expected, bound = fit.outcome(known, self._confidence)
        if best.dominators(curve.time, bound) < _DOMINATORS:
            return None
        return Stop(
            f"with {describe_share(self._confidence)} confidence it reaches at most {describe_share(bound)} accuracy in "
            f"{describe_share(curve.time)} of the baseline's time, and finished trials are better in both",
            expected,
        )

    def _fit(self, epoch: int, epochs: int) -> _Fit | None:
        divisor = math.gcd(epoch, epochs)
        share = (epoch // divisor, epochs // divisor)
        if share not in self._fits:
            self._stacked = self._stacked or _Curves.of(self._curves)
            known = self._stacked.known(*share)
            usable = np.isfinite(known).all(axis=1)
            rank = _rank(int(usable.sum()), self._confidence)
            self._fits[share] = None if rank is None else _Fit(known[usable], self._stacked.accuracies[usable])
        return self._fits[share]


def is_exempt(root: int, seed: int) -> bool:
    """Whether a root trial always runs to its end; the same for every driver and launch with this seed."""
    drawn = hashlib.blake2b(f"{seed}/{root}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn) < EXEMPT_FRAC * 2**64


def _rank(count: int, confidence: float) -> int | None:
    """Which of `count` values in ascending order bounds the next one with this confidence; None where they are too few."""
    # Rounded first: 20 x 0.95 is more than 19 in binary.
    rank = math.ceil(round((count + 1) * confidence, 9))
    return rank if 1 <= rank <= count else None


class _Curve(NamedTuple):
    """A trial's accuracies [epochs], NaN where there is none (yet), and its relative times [epochs]."""

    accuracies: Floats
    times: Floats

    @classmethod
    def of(cls, curve: Sequence[float], times: Sequence[float]) -> _Curve:
        accuracies = np.full(len(times), math.nan)
        accuracies[: min(len(curve), len(times))] = curve[: len(times)]
        return cls(accuracies, np.array(times, dtype=float))

    @property
    def epochs(self) -> int:
        return len(self.times)

    @property
    def time(self) -> float:
        return float(self.times[-1]) if len(self.times) else math.nan

    @property
    def accuracy(self) -> float:
        return float(self.accuracies[-1]) if len(self.times) else math.nan


class _Curves(NamedTuple):
    """Some trials: epochs [n]; accuracies and relative times after 0, 1, ... epochs [n, most epochs + 1], NaN where there is none."""

    epochs: NDArray[np.intp]
    curves: Floats
    spent: Floats

    @classmethod
    def of(cls, trials: Sequence[_Curve] | deque[_Curve]) -> _Curves:
        epochs = np.array([trial.epochs for trial in trials], dtype=np.intp)
        curves, spent = np.full((2, len(epochs), epochs.max(initial=0) + 1), math.nan)
        spent[:, 0] = 0.0
        for row, trial in enumerate(trials):
            curves[row, 1 : trial.epochs + 1] = trial.accuracies
            spent[row, 1 : trial.epochs + 1] = trial.times
        return cls(epochs, curves, spent)

    @property
    def accuracies(self) -> Floats:
        """The last ones [n]."""
        return self.curves[np.arange(len(self.epochs)), self.epochs]

    def known(self, done: int, of: int) -> Floats:
        """What is known of each trial after done/of of its epochs [n, 3]; NaN where no epoch is over by then."""
        times = self.spent[np.arange(len(self.epochs)), self.epochs]
        spent = self._at(self.spent, done, of)
        return np.column_stack([_log_odds(self._at(self.curves, done, of)), np.log(times), np.log(spent / times)])

    def _at(self, table: Floats, done: int, of: int) -> Floats:
        """Of each row what it is after a share of the epochs, between two columns where that is between two epochs [n]."""
        # Whole numbers stay exact, so that after an epoch's end the next one has no part in it.
        places, left = np.divmod(self.epochs * done, of)
        rows, part = np.arange(len(table)), left / of
        here, there = table[rows, places], table[rows, np.minimum(places + 1, self.epochs)]
        return np.where(left > 0, here + part * (there - here), here)


def _log_odds(accuracies: Floats) -> Floats:
    inside = np.clip(accuracies, _LEAST_ODDS, 1 - _LEAST_ODDS)
    return np.log(inside / (1 - inside))


def _share(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))


class _Fit:
    """Ridge regression of final accuracies [n] on rows [n, k], and what it would be without each of the trials."""

    def __init__(self, rows: Floats, accuracies: Floats) -> None:
        self._mean = rows.mean(axis=0)
        deviation = rows.std(axis=0)
        # A column that is the same everywhere, to rounding, says nothing.
        self._scale = np.where(deviation > 1e-9, deviation, np.inf)
        design = self._design(rows)
        penalty = np.diag([0.0, *[_RIDGE] * rows.shape[1]])
        self._solved = np.linalg.solve(design.T @ design + penalty, design.T)
        targets = _log_odds(accuracies)
        self._weights = self._solved @ targets
        leverage = (design * self._solved.T).sum(axis=1)
        # Below 1, because the columns have mean 0 and the penalty is above 0.
        self._residuals = (targets - design @ self._weights) / (1 - leverage)

    def _design(self, rows: Floats) -> Floats:
        return np.column_stack([np.ones(len(rows)), (rows - self._mean) / self._scale])

    def outcome(self, row: Floats, confidence: float) -> tuple[float, float]:
        """Expected accuracy and its jackknife+ upper bound for what is known of a trial [k]."""
        design = self._design(row[None])[0]
        expected = float(design @ self._weights)
        rank = _rank(len(self._residuals), confidence)
        assert rank is not None  # no fit is made where there is none
        without = expected - (design @ self._solved) * self._residuals
        return _share(expected), _share(float(np.sort(without + self._residuals)[rank - 1]))


class _Best:
    """The finished trials that fewer than _DOMINATORS others dominate. What the others dominate, these do, often enough."""

    def __init__(self) -> None:
        self._times, self._accuracies = np.empty(0), np.empty(0)

    def add(self, time: float, accuracy: float) -> None:
        times, accuracies = np.append(self._times, time), np.append(self._accuracies, accuracy)
        kept = self._dominating(times[:, None], accuracies[:, None], times, accuracies).sum(axis=0) < _DOMINATORS
        self._times, self._accuracies = times[kept], accuracies[kept]

    def dominators(self, time: float, accuracy: float) -> int:
        """How many dominate this outcome, at most those that are kept."""
        return int(self._dominating(self._times, self._accuracies, time, accuracy).sum())

    @staticmethod
    def _dominating(times: Floats, accuracies: Floats, time: float | Floats, accuracy: float | Floats) -> NDArray[np.bool_]:
        return (times <= time) & (accuracies >= accuracy) & ((times < time) | (accuracies > accuracy))
