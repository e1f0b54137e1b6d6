"""What a tracker is told of a trial, and what a tracker has to be able to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from studies.spec import StudySpec
from tuner.launching.timing import kept_timing
from tuner.report.details import EpochClock
from tuner.results.describe import describe_schedule
from tuner.storage.lookup import stored_spec
from tuner.storage.store import StudyStore
from tuner.storage.trials import CompletedTrial, PrunedTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRow:
    """After an epoch, counted from 1. relative_time: of the training so far; None where its plan has no price."""

    epoch: int
    val_accuracy: float
    relative_time: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """A finished trial. params: every field of the study's space, and the seed. values: objectives and what else was measured; of a trial
    that was stopped early none, because its last accuracy is no result.
    """

    number: int
    schedule: str
    params: dict[str, Any]
    epochs: tuple[EpochRow, ...]
    values: dict[str, float]
    stopped_early: bool


class Tracker(Protocol):
    """Where runs are kept, each whole or not at all."""

    def numbers(self) -> set[int]:
        """Trials of the study that are there already."""
        ...

    def add(self, run: TrackedRun) -> None:
        """Adds one that is not."""
        ...


class Runs:
    """The finished trials of a study as runs."""

    def __init__(self, store: StudyStore) -> None:
        self._store = store
        self._spec: StudySpec = stored_spec(store)
        timing = kept_timing(store)
        self._clock = EpochClock(self._spec, *timing) if timing else None

    def finished(self) -> list[TrackedRun]:
        """By number."""
        trials = self._store.trials()
        ended: list[CompletedTrial | PrunedTrial] = [*trials.completed, *trials.pruned]
        return [self._run(trial) for trial in sorted(ended, key=lambda trial: trial.number)]

    def _run(self, trial: CompletedTrial | PrunedTrial) -> TrackedRun:
        values: dict[str, float] = {}
        if isinstance(trial, CompletedTrial):
            values = {**trial.values, **{f"{part}_s": seconds for part, seconds in trial.seconds.items()}}
        return TrackedRun(
            number=trial.number,
            schedule=describe_schedule(trial.params),
            params={**self._spec.search.complete(trial.params), "seed": trial.seed},
            epochs=self._epochs(trial),
            values=values,
            stopped_early=isinstance(trial, PrunedTrial),
        )

    def _epochs(self, trial: CompletedTrial | PrunedTrial) -> tuple[EpochRow, ...]:
        until = trial.values.get("relative_time") if isinstance(trial, CompletedTrial) else None
        if until is None and isinstance(trial, PrunedTrial) and self._clock is not None:
            until = self._clock.time_so_far(trial)
        ends = None if until is None or self._clock is None else self._clock.ends(trial, until)
        times: list[float] | list[None] = ends or [None] * len(trial.curve)
        return tuple(
            EpochRow(epoch=number, val_accuracy=accuracy, relative_time=time)
            for number, (accuracy, time) in enumerate(zip(trial.curve, times, strict=True), start=1)
        )
