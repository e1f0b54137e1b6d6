"""The one trial to take from a study: fastest for an accuracy, most accurate for a time, or the bend of the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from trainers.checks import check_number
from trainers.errors import RunError
from tuner.results.front import ACCURACY, TIME, baseline, measured, non_dominated
from tuner.storage.trials import CompletedTrial

# Shares such as 0.7 - 0.005 are not exact in binary; a trial on the limit itself is within it.
_ROUNDING = 1e-9


# Drops are offered in tenths of a point, and times are told in tenths of a percent of the baseline's: our own choice.
_OFFERED_DROP: Final = 0.001
_LEAST_GAIN: Final = 0.0005


class Offer(NamedTuple):
    """A schedule that a rule did not take, and the `max_drop` that takes it."""

    trial: CompletedTrial
    max_drop: float


class _Candidate(NamedTuple):
    trial: CompletedTrial
    time: float
    accuracy: float


def best_for_drop(trials: Sequence[CompletedTrial], max_drop: float) -> CompletedTrial:
    """The fastest trial whose validation accuracy is at most `max_drop` (a share in [0, 1]) below the baseline's.

    Full-resolution trials take part. RunError while the baseline has not completed.
    """
    check_number("max-drop", max_drop, high=1)
    reference = baseline(trials)
    reached = None if reference is None else measured(reference, ACCURACY)
    if reached is None:
        raise RunError("no drop can be stated yet, because the study's baseline has not completed")
    return _fastest_from(_candidates(trials), reached - max_drop).trial


def best_for_time(trials: Sequence[CompletedTrial], max_time: float) -> CompletedTrial:
    """The most accurate trial whose relative time (1 is the baseline's) is at most `max_time`; RunError if none is that fast."""
    check_number("max-time", max_time, above=0)
    candidates = _candidates(trials)
    within = [candidate for candidate in candidates if candidate.time <= max_time + _ROUNDING]
    if not within:
        trial, time, _ = min(candidates, key=_fastest)
        fastest = f"the fastest, trial {trial.number}, takes {time:.3g}"
        raise RunError(f"no completed trial takes at most {max_time:g} of the baseline's time: {fastest}")
    return min(within, key=_most_accurate).trial


def knee(trials: Sequence[CompletedTrial]) -> CompletedTrial:
    """The trial of the time-accuracy front that lies farthest above the chord between the front's ends, both axes scaled to [0, 1].

    Ties go to the smaller time, then the smaller number. Where no trial lies above the chord (as with fewer than three) there is no
    bend, and the most accurate one is taken. Our own choice, after the usual geometric meaning of a knee.
    """
    on_front = _front(_candidates(trials))
    heights = _heights_above_chord(on_front)
    highest = int(np.argmax(heights > heights.max() - _ROUNDING))
    return on_front[highest].trial if heights[highest] > _ROUNDING else min(on_front, key=_most_accurate).trial


def nearest_offer(trials: Sequence[CompletedTrial], chosen: CompletedTrial) -> Offer | None:
    """The schedule with reduced steps, faster than `chosen`, that the smallest max_drop takes.

    None where there is none, or while the baseline has not completed.
    """
    reference = baseline(trials)
    reached, time = None if reference is None else measured(reference, ACCURACY), measured(chosen, TIME)
    if reached is None or time is None:
        return None
    on_front = _front(_candidates(trials))
    for drop in sorted({_offered_drop(reached - candidate.accuracy) for candidate in on_front}):
        taken = _fastest_from(on_front, reached - drop)
        if taken.trial.rival is None and taken.time < time - _LEAST_GAIN:
            return Offer(taken.trial, drop)
    return None


def _offered_drop(drop: float) -> float:
    tenths = max(0, math.ceil(drop / _OFFERED_DROP - _ROUNDING))
    return float(f"{tenths * _OFFERED_DROP:.3f}")


def _fastest_from(candidates: Sequence[_Candidate], least: float) -> _Candidate:
    """The fastest that is at least so accurate."""
    return min((candidate for candidate in candidates if candidate.accuracy >= least - _ROUNDING), key=_fastest)


def _front(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """The non-dominated ones, the fastest first."""
    mask = non_dominated([[candidate.time, candidate.accuracy] for candidate in candidates], ["minimize", "maximize"])
    return sorted((candidate for candidate, kept in zip(candidates, mask, strict=True) if kept), key=_fastest)


def _heights_above_chord(on_front: Sequence[_Candidate]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Accuracy minus time of front points in ascending time, both scaled to [0, 1]: the distance from the chord times sqrt(2)."""
    times, accuracies = (np.array([candidate[column] for candidate in on_front], dtype=np.float64) for column in (1, 2))
    if times[0] == times[-1]:
        return np.zeros(len(times))
    return np.asarray((accuracies - accuracies[0]) / (accuracies[-1] - accuracies[0]) - (times - times[0]) / (times[-1] - times[0]))


def _fastest(candidate: _Candidate) -> tuple[float, float, int]:
    return candidate.time, -candidate.accuracy, candidate.trial.number


def _most_accurate(candidate: _Candidate) -> tuple[float, float, int]:
    return -candidate.accuracy, candidate.time, candidate.trial.number


def _candidates(trials: Sequence[CompletedTrial]) -> list[_Candidate]:
    """Trials that have both relative time and validation accuracy; RunError if there are none."""
    measures = [(trial, measured(trial, TIME), measured(trial, ACCURACY)) for trial in trials]
    candidates = [_Candidate(trial, time, accuracy) for trial, time, accuracy in measures if time is not None and accuracy is not None]
    if not candidates:
        raise RunError(f"the study has no completed trial with both {TIME} and {ACCURACY}")
    return candidates
