"""What of a front is confirmed: the one place that reads what `tuner confirm` has measured, for every place that shows a front."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import mean, stdev
from typing import Any, Final

import numpy as np

from trainers.errors import InputError, RunError
from tuner.results.describe import describe_value, percent, printable
from tuner.results.front import ACCURACY, TIME, StudyFront, non_dominated
from tuner.results.stored import study_front
from tuner.storage.lookup import stored_spec
from tuner.storage.store import StudyStore
from tuner.storage.trials import CompletedTrial

# Far from the seeds of a search, which count up from the study's own.
FIRST_FRESH_SEED: Final = 1_000_000
# Heading of what `confirmed_accuracy` says.
CONFIRMED_HEAD: Final = "test accuracy"


@dataclass(frozen=True, slots=True)
class ConfirmedPoint:
    """A point of the searched front, or a full-resolution rival, measured anew.

    searched: validation accuracy in the search. validation, test: accuracies of the fresh seeds. interval: 95 % interval of the mean test
    accuracy (Student's t). stays: no other confirmed point is at least as fast with a higher mean.
    """

    trial: CompletedTrial
    relative_time: float
    searched: float
    validation: list[float]
    test: list[float]
    interval: tuple[float, float]
    stays: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "trial": self.trial.number,
            "rival": self.trial.rival,
            "relative_time": self.relative_time,
            "searched_val_accuracy": self.searched,
            "val_accuracy": self.validation,
            "test_accuracy": self.test,
            "test_mean": mean(self.test),
            "test_deviation": stdev(self.test),
            "test_interval": list(self.interval),
            "stays_on_the_front": self.stays,
        }


@dataclass(frozen=True)
class Confirmation:
    """points: those of the front, the full-resolution front and the baseline that have at least two fresh seeds.

    lucky: numbers of the points of the searched front that leave it. missing: numbers of those without such seeds.
    """

    points: list[ConfirmedPoint]
    lucky: list[int]
    missing: list[int]

    @property
    def seeds(self) -> int:
        """Fresh seeds that every confirmed point has."""
        return min(len(point.test) for point in self.points)

    @cached_property
    def by_number(self) -> dict[int, ConfirmedPoint]:
        """The confirmed points by the number of their trial."""
        return {point.trial.number: point for point in self.points}

    @property
    def judged(self) -> list[CompletedTrial]:
        """The confirmed trials with the mean of the fresh seeds' test accuracy as their accuracy."""
        return [replace(point.trial, values={TIME: point.relative_time, ACCURACY: mean(point.test)}) for point in self.points]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        points = [point.to_dict() for point in self.points]
        return {"seeds": self.seeds, "points": points, "by_luck": self.lucky, "not_confirmed_yet": self.missing}


def confirmed_front(store: StudyStore) -> StudyFront:
    """A stored study as people look at it, with what is confirmed of it."""
    results = study_front(store)
    return replace(results, confirmation=stored_confirmation(store, results))


def stored_confirmation(store: StudyStore, results: StudyFront) -> Confirmation | None:
    """What `tuner confirm` has measured of the front as it is now; None where nothing is, or where the study has other objectives."""
    name = confirmation_name(store.name)
    if set(results.objectives) != {TIME, ACCURACY} or not results.completed or name not in StudyStore.names(store.storage):
        return None
    searched = stored_spec(store).search.searched
    repeats: defaultdict[tuple[Any, ...], dict[int, CompletedTrial]] = defaultdict(dict)
    for trial in StudyStore.load(store.storage, name).trials().completed:
        if trial.test_accuracy is not None:
            # A seed counts once, whoever trained it again.
            repeats[_key(trial.params, searched)].setdefault(trial.seed, trial)
    wanted = points_to_confirm(results)
    chosen = [trial for trial in wanted if len(repeats[_key(trial.params, searched)]) > 1]
    points = confirmed_points(chosen, [list(repeats[_key(trial.params, searched)].values()) for trial in chosen]) if chosen else []
    return confirmation_of(points, results)


def confirmation_of(points: Sequence[ConfirmedPoint], results: StudyFront) -> Confirmation | None:
    """What the confirmed points mean for a front; None where there are none."""
    on_front = [trial.number for trial in results.front]
    stays = {point.trial.number: point.stays for point in points}
    lucky = [number for number in on_front if not stays.get(number, True)]
    return Confirmation(list(points), lucky, [number for number in on_front if number not in stays]) if points else None


def confirmation_words(results: StudyFront) -> str:
    """Whether the front is confirmed, in one clause for wherever it is shown."""
    found = results.confirmation
    if found is None:
        return f"one seed a point on the validation split, not confirmed (tuner confirm {printable(results.study)})"
    words = [f"confirmed on {found.seeds} fresh seeds of the test split"]
    words += [f"on the front by luck: {_trials(found.lucky)}"] if found.lucky else []
    words += [f"not confirmed yet: {_trials(found.missing)}"] if found.missing else []
    return "; ".join(words)


def confirmed_accuracy(number: int, results: StudyFront) -> str:
    """A trial's mean test accuracy with its 95 % interval, "by luck" where it leaves the front; a dash where it is not confirmed."""
    point = results.confirmation and results.confirmation.by_number.get(number)
    if not point:
        return "-"
    low, high = (percent(end, 2) for end in point.interval)
    return f"{describe_value(ACCURACY, mean(point.test))} ({low}-{high})" + ("" if point.stays else ", by luck")


def confirmation_name(study: str) -> str:
    """Name of the study that holds another one's confirming trainings."""
    return f"{study}.confirm"


def points_to_confirm(results: StudyFront) -> list[CompletedTrial]:
    """The front, the full-resolution front and the baseline, each trial once, the fastest first."""
    if set(results.objectives) != {TIME, ACCURACY}:
        names = ", ".join(results.objectives)
        raise InputError(f"the objectives of '{results.study}' are {names}, but confirm needs {TIME} and {ACCURACY}")
    if not results.completed:
        raise RunError(f"study '{results.study}' has no completed trial yet, so there is nothing to confirm")
    rivals = results.rival_front + ([results.baseline] if results.baseline else [])
    points = {trial.number: trial for trial in [*results.front, *rivals]}
    return sorted(points.values(), key=lambda trial: trial.values[TIME])


def confirmed_points(chosen: Sequence[CompletedTrial], repeats: Sequence[Sequence[CompletedTrial]]) -> list[ConfirmedPoint]:
    """What each of `chosen` is worth by its repeats with fresh seeds, of which it needs two.

    A point stays on the front unless another one is at least as fast and has the higher mean test accuracy.
    """
    times = [trial.values[TIME] for trial in chosen]
    tests = [[float(trial.test_accuracy) for trial in trials if trial.test_accuracy is not None] for trials in repeats]
    stays = non_dominated(np.column_stack([times, [mean(test) for test in tests]]), ["minimize", "maximize"])
    return [
        ConfirmedPoint(
            trial=trial,
            relative_time=trial.values[TIME],
            searched=trial.values[ACCURACY],
            validation=[repeat.values[ACCURACY] for repeat in repeats[index]],
            test=tests[index],
            interval=_interval(tests[index]),
            stays=bool(stays[index]),
        )
        for index, trial in enumerate(chosen)
    ]


def _interval(values: Sequence[float]) -> tuple[float, float]:
    if len(set(values)) == 1:
        return values[0], values[0]
    # It takes a while to load, and most studies are not confirmed.
    from scipy import stats

    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean(values), scale=stats.sem(values))
    return float(low), float(high)


def _key(params: Mapping[str, Any], searched: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(params.get(name) for name in sorted(searched))


def _trials(numbers: Sequence[int]) -> str:
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
