"""What the page shows of one trial when it is asked for: its schedule as a strip and as a file, its curve over time, its seconds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from studies.spec import StudySpec
from trainers.cost import CostTable, parse_step
from trainers.errors import InputError
from trainers.schedule import PROVENANCE_KEY, Schedule
from tuner.results.describe import five_digits, printable, schedule_of
from tuner.results.export import found_with
from tuner.results.front import StudyFront
from tuner.results.plots import PICTURED_STEPS
from tuner.results.split import needed_words, time_split
from tuner.storage.trials import CompletedTrial, PrunedTrial

# Steps that a training is planned with for the times of its epochs: their shares are exact to within a step, and a long plan takes long.
_PLANNED_STEPS: Final = 1024
_MOST_STEPS_PER_EPOCH: Final = 32
# A strip's steps are letters, this one for its first kind of step.
_FIRST_LETTER: Final = ord("0")


@dataclass(frozen=True, slots=True)
class EpochClock:
    """Relative time at the end of each epoch, by the costs that price the study. steps_per_epoch: of its trainings."""

    spec: StudySpec
    costs: CostTable
    steps_per_epoch: int

    def time_so_far(self, trial: PrunedTrial) -> float | None:
        """Relative time of the steps that a stopped trial made; None where they aren't known or have no price."""
        try:
            counts = {parse_step(name): count for name, count in trial.counts.items()}
        except InputError:
            return None  # another program's trial
        if not counts or not counts.keys() <= self.costs.costs.keys():
            return None
        return self.costs.relative_time(counts, self.spec.training.epochs * self.steps_per_epoch)

    def ends(self, trial: CompletedTrial | PrunedTrial, until: float) -> list[float] | None:
        """Relative time at the end of each epoch of a trial's curve, the last being `until`; None where its plan has no price."""
        try:
            epochs = int(trial.params["epochs"])
            steps = max(1, min(_MOST_STEPS_PER_EPOCH, self.steps_per_epoch, _PLANNED_STEPS // epochs))
            schedule = self.spec.search.schedule(trial.params, trial.seed or 0)
            plan = schedule.plan(epochs * steps, self.spec.dataset.full_px, steps)
            prices = [sum(self.costs.costs[step].relative for step in epoch) for epoch in plan.epochs]
        except (InputError, KeyError, ValueError):
            return None  # another program's trial, outside the space
        ends = list(itertools.accumulate(prices[: len(trial.curve)]))
        return [until * end / ends[-1] for end in ends] if len(ends) == len(trial.curve) and ends else None


def details(trial: CompletedTrial | PrunedTrial, time: float | None, results: StudyFront, clock: EpochClock | None) -> dict[str, Any]:
    """JSON-ready. time: relative time of the trial, of a stopped one so far. needs: what its figures need beside the code that is shown."""
    schedule = schedule_of(trial)
    content = {
        "params": {printable(name): _plain(value) for name, value in trial.params.items()},
        "seed": trial.seed,
        "strip": strip(schedule, results.full_px),
        "curve": curve(trial, time, clock),
        "seconds": {printable(part): rounded(seconds) for part, seconds in trial.seconds.items()},
    }
    if isinstance(trial, PrunedTrial):
        return content
    file = yaml.safe_dump(schedule.to_dict() | {PROVENANCE_KEY: found_with(trial, results)}, sort_keys=False)
    needs = f"These lines set the schedule only: {needed_words(trial, time_split(trial, results.baseline))}."
    return content | {"file": file, "needs": needs, "test_accuracy": rounded(trial.test_accuracy), "device": printable(trial.device)}


def strip(schedule: Schedule, full_px: int) -> dict[str, Any]:
    """PICTURED_STEPS steps of a training with that schedule. kinds: side in pixels and whether kernels are pooled; steps: a letter each."""
    # Batch by batch: the axis is the progress of the training.
    plan = schedule.batch_by_batch(PICTURED_STEPS, full_px)
    letters = {kind: chr(_FIRST_LETTER + place) for place, kind in enumerate(sorted(set(plan), reverse=True))}
    return {"kinds": [[kind.side_px, kind.kernel != "full"] for kind in letters], "steps": "".join(letters[step] for step in plan)}


def curve(trial: CompletedTrial | PrunedTrial, time: float | None, clock: EpochClock | None) -> dict[str, Any] | None:
    """Accuracy after each epoch over relative time. priced: false where no costs are known, and epochs are drawn as if equally long."""
    if not trial.curve or time is None:
        return None
    ends = clock.ends(trial, time) if clock else None
    even = [time * (epoch + 1) / len(trial.curve) for epoch in range(len(trial.curve))]
    return {
        "time": [rounded(end) for end in ends or even],
        "accuracy": [rounded(value) for value in trial.curve],
        "priced": ends is not None,
    }


def rounded(value: float | None) -> float | None:
    """The value as the page gets it; None for what is not finite."""
    return five_digits(value) if value is not None and math.isfinite(value) else None


def last_finite(values: Sequence[float]) -> float | None:
    """The last of them that is a number."""
    return next((value for value in reversed(values) if math.isfinite(value)), None)


def _plain(value: object) -> object:
    return rounded(value) if isinstance(value, float) else value if isinstance(value, bool | int) else printable(str(value))
