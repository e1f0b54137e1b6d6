"""`tuner confirm`: the front and its rivals again with fresh seeds and the test split opened, because a search selects luck too.

The trainings are a study of their own beside the searched one ("<name>.confirm"), so that they too survive a kill and count once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy import stats

from studies.spec import StudySpec
from trainers.errors import InputError, RunError
from tuner.commands import open_study
from tuner.describe import describe_schedule, describe_training, printable
from tuner.front import ACCURACY, TIME, StudyFront, non_dominated
from tuner.launch import INTERRUPTED, LaunchOptions, launch
from tuner.proposals import ListProposer, Proposal
from tuner.results import stored_spec, study_front
from tuner.store import StudyStore
from tuner.timing import COST_TABLES, DATASET_FACTS
from tuner.trials import CompletedTrial

# Far from the seeds of a search, which count up from the study's own.
FIRST_FRESH_SEED: Final = 1_000_000


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


def confirm_front(reference: str, storage: str | None, seeds: int, address: str | None, accept_noisy_timing: bool, as_json: bool) -> None:
    """Trains what is missing, then shows what each point is worth."""
    console = Console(stderr=as_json)
    store = open_study(reference, storage)
    chosen = points_to_confirm(study_front(store))
    confirmation = _confirmation_study(store)
    spec = stored_spec(confirmation)
    fresh = range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + seeds)
    proposals = [Proposal(_searched(trial, spec), trial.rival, seed) for seed in fresh for trial in chosen]
    trained = _trained(confirmation, spec)
    missing = sum(_key(proposal.fixed, proposal.seed) not in trained for proposal in proposals)
    console.print(f"confirming {len(chosen)} points of '{store.name}' with {seeds} seeds: {missing} of {len(proposals)} trainings are left")
    if missing:
        wanted = confirmation.finished_count() + missing
        options = LaunchOptions(trials=wanted, address=address, accept_noisy_timing=accept_noisy_timing)
        outcome = launch(confirmation, spec, options, console, ListProposer(proposals))
        if outcome.stop_reason is not None:
            console.print(Text(printable(f"stopped: {outcome.stop_reason}; give the same command again to go on")), soft_wrap=True)
            sys.exit(130 if outcome.stop_reason == INTERRUPTED else 1)
        trained = _trained(confirmation, spec)
    points = confirmed_points(chosen, [[trained[_key(_searched(trial, spec), seed)] for seed in fresh] for trial in chosen])
    if as_json:
        print(json.dumps({"study": store.name, "seeds": seeds, "points": [point.to_dict() for point in points]}, indent=2, allow_nan=False))
    else:
        _show(points, store.name, console)


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
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean(values), scale=stats.sem(values))
    return float(low), float(high)


def _confirmation_study(store: StudyStore) -> StudyStore:
    """The study that holds the confirming trainings, priced by the searched study's own cost tables."""
    spec = stored_spec(store)
    confirmation = StudyStore.create_or_continue(store.storage, spec.model_copy(update={"name": f"{spec.name}.confirm"}))
    for key in (COST_TABLES, DATASET_FACTS):
        confirmation.set_attr(key, store.get_attr(key))
    return confirmation


def _searched(trial: CompletedTrial, spec: StudySpec) -> dict[str, Any]:
    return {name: trial.params[name] for name in spec.search.searched}


def _key(params: dict[str, Any], seed: int | None) -> tuple[Any, ...]:
    return (*sorted(params.items()), seed)


def _trained(confirmation: StudyStore, spec: StudySpec) -> dict[tuple[Any, ...], CompletedTrial]:
    return {_key(_searched(trial, spec), trial.seed): trial for trial in confirmation.trials().completed}


def _show(points: Sequence[ConfirmedPoint], study: str, console: Console) -> None:
    table = Table(title=Text(f"{study}: confirmed on the test split with {len(points[0].test)} fresh seeds"), title_justify="left")
    for heading in ("trial", "time", "searched (val.)", "test mean", "deviation", "95 % interval", "front"):
        table.add_column(heading, justify="right")
    for heading in ("schedule", "training"):
        table.add_column(heading, overflow="fold")
    for point in points:
        low, high = point.interval
        figures = (f"{point.relative_time:.1%}", f"{point.searched:.2%}", f"{mean(point.test):.2%}", f"{100 * stdev(point.test):.2f}")
        words = (describe_schedule(point.trial.params), describe_training(point.trial.params))
        stays = "stays" if point.stays else "leaves"
        table.add_row(str(point.trial.number), *figures, f"{100 * low:.2f}-{100 * high:.2f}", stays, *map(Text, words))
    console.print(table)
    lucky = [str(point.trial.number) for point in points if not point.stays]
    if lucky:
        console.print(f"on the searched front by luck, or only full-resolution rivals: trials {', '.join(lucky)}")
