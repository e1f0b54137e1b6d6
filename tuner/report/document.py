"""A study as one compact JSON document: what its page shows, by column, so that ten thousand trials are a megabyte."""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from studies.spec import StudySpec
from trainers.cost import CostTable
from trainers.errors import RunError
from tuner.launching.timing import COST_TABLES, kept_timing, timing_doubt
from tuner.report.details import EpochClock, details, last_finite, rounded
from tuner.report.headline import confirmed_columns, headline
from tuner.report.importance import field_importance
from tuner.report.origin import cost_rows, facts, origins
from tuner.results.confirmation import stored_confirmation
from tuner.results.describe import describe_schedule, describe_training, printable, quantity
from tuner.results.front import ACCURACY, TIME, Direction, StudyFront, front, hypervolume, measured, non_dominated, time_saved
from tuner.results.stored import front_of
from tuner.storage.lookup import stored_spec
from tuner.storage.store import StudyStore
from tuner.storage.trials import CompletedTrial, PrunedTrial, StudyTrials

# Read by the page, which refuses another one. Raise it when a key changes its meaning.
VERSION: Final = 2
# Besides the points of the fronts so many of the newest trials come with schedule, curve and seconds.
NEWEST: Final = 200

# Of importance; another seed of its sampling moves a share by more.
_LEAST_SHARE: Final = 0.005

# How the page marks a trial: reduced steps, full resolution, the baseline, or stopped early.
_MARKS: Final = {None: "r", "full": "f", "shorter": "f", "baseline": "b"}
_STOPPED: Final = "s"


class NothingToReport(RunError):  # noqa: N818  a state that ends, not a mistake
    """No trial of the study has completed yet."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A finished trial where the page draws it. time, accuracy: of a stopped one so far; None where they are not known."""

    trial: CompletedTrial | PrunedTrial
    time: float | None
    accuracy: float | None
    mark: str


def study_document(store: StudyStore) -> dict[str, Any]:
    """What the page shows of a study, JSON-ready; shares in [0, 1]. NothingToReport while no trial has completed."""
    spec, trials = stored_spec(store), store.trials()
    results = front_of(spec, trials.completed)
    if not trials.completed:
        raise NothingToReport(f"study '{results.study}' has no completed trial yet, so there is nothing to report")
    results = replace(results, confirmation=stored_confirmation(store, results))
    timing = kept_timing(store)
    clock = EpochClock(spec, *timing) if timing else None
    rows = _rows(trials, clock)
    doubt = _sentence(timing_doubt(store))
    return {
        "version": VERSION,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "study": printable(spec.name),
        "full_px": results.full_px,
        "objectives": [printable(quantity(name).label) for name in results.objectives],
        "in_plane": set(results.objectives) == {TIME, ACCURACY},
        "counts": _counts(trials),
        "headline": headline(results),
        "timing_doubt": doubt,
        "confirmed": confirmed_columns(results.confirmation),
        "trials": _columns(rows, results),
        "front": [trial.number for trial in results.front],
        "rival_front": [trial.number for trial in results.rival_front],
        "newest": NEWEST,
        "details": {row.trial.number: details(row.trial, row.time, results, clock) for row in _detailed(rows, results)},
        "hypervolume": _hypervolumes(trials.completed, results.objectives),
        "importance": _importance(spec, trials.completed),
        "costs": [cost_rows(CostTable.from_dict(table)) for table in store.get_attr(COST_TABLES) or ()],
        "facts": facts(spec, trials, doubt),
        "origins": origins(trials.completed),
    }


def _importance(spec: StudySpec, completed: Sequence[CompletedTrial]) -> list[dict[str, Any]]:
    """One an objective, its fields in the order of their shares; those that decide nothing are left out."""
    return [
        {
            "objective": printable(quantity(name).label),
            "explained": rounded(found.explained),
            "fields": [
                [printable(field), rounded(alone), rounded(in_all)]
                for field, (alone, in_all) in found.shares.items()
                if in_all >= _LEAST_SHARE
            ],
        }
        for name, found in field_importance(spec, completed).items()
    ]


def _rows(trials: StudyTrials, clock: EpochClock | None) -> list[_Row]:
    rows = [_Row(trial, measured(trial, TIME), measured(trial, ACCURACY), _MARKS[trial.rival]) for trial in trials.completed]
    rows += [_Row(trial, clock.time_so_far(trial) if clock else None, last_finite(trial.curve), _STOPPED) for trial in trials.pruned]
    return sorted(rows, key=lambda row: row.trial.number)


def _counts(trials: StudyTrials) -> dict[str, int]:
    """running: trials that have told an epoch. The database doesn't know whether a worker has begun the others, which are handed out."""
    begun = sum(bool(trial.curve) for trial in trials.running)
    return {
        "completed": len(trials.completed),
        "stopped": len(trials.pruned),
        "running": begun,
        "handed_out": len(trials.running) - begun,
        "failed": len(trials.failures),
        "interrupted": len(trials.interrupted),
    }


def _columns(rows: Sequence[_Row], results: StudyFront) -> dict[str, Any]:
    """Every finished trial, a list a column. marks: a letter a trial; words: each text once, and which of them a trial has."""
    beaten = _fastest_rivals(results)
    saved = [time_saved(row.trial, beaten) if isinstance(row.trial, CompletedTrial) else None for row in rows]
    return {
        "number": [row.trial.number for row in rows],
        "time": [rounded(row.time) for row in rows],
        "accuracy": [rounded(row.accuracy) for row in rows],
        "saved": [rounded(share) for share in saved],
        "marks": "".join(row.mark for row in rows),
        "schedule": _shared([describe_schedule(row.trial.params, results.full_px) for row in rows]),
        "training": _shared([describe_training(row.trial.params) for row in rows]),
    }


def _fastest_rivals(results: StudyFront) -> list[CompletedTrial]:
    """The full-resolution trials that no other one beats in time and accuracy: time_saved finds the same among them as among all."""
    rivals = [trial for trial in results.completed if trial.rival is not None]
    places = [[measured(trial, TIME) or math.nan, measured(trial, ACCURACY) or 0.0] for trial in rivals]
    kept = non_dominated(np.array(places).reshape(-1, 2), ["minimize", "maximize"])
    return list(itertools.compress(rivals, kept))


def _sentence(words: str | None) -> str | None:
    return f"{printable(words[:1].upper() + words[1:])}." if words else None


def _shared(texts: Sequence[str]) -> dict[str, Any]:
    place = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    return {"texts": list(place), "of": [place[text] for text in texts]}


def _detailed(rows: Sequence[_Row], results: StudyFront) -> list[_Row]:
    chosen = {trial.number for trial in (*results.front, *results.rival_front)} | {row.trial.number for row in rows[-NEWEST:]}
    chosen |= {trial.number for trial in (results.baseline,) if trial}
    chosen |= set(results.confirmation.by_number) if results.confirmation else set()
    return [row for row in rows if row.trial.number in chosen]


def _hypervolumes(completed: Sequence[CompletedTrial], objectives: Mapping[str, Direction]) -> dict[str, list[Any]] | None:
    """After how many completed trials the hypervolume rose, and to what; None for objectives that have none."""
    if hypervolume((), objectives) is None:
        return None
    best: list[CompletedTrial] = []
    reached = 0.0
    trials, values = [0], [rounded(reached)]
    for count, trial in enumerate(sorted(completed, key=lambda trial: trial.number), start=1):
        volume = hypervolume([*best, trial], objectives) or 0.0
        if volume > reached:
            best, reached = front([*best, trial], objectives), volume
            trials.append(count)
            values.append(rounded(volume))
    return {"trials": trials, "values": values}
