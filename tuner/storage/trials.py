"""What a trial is once it is read back: plain frozen values that fronts, exports and plots work on. Knows neither Optuna nor Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

# Marks of trials that never take a reduced step. `baseline` is the study's full training, `shorter` its shorter full-resolution start
# points, `full` a full-resolution trial that the sampler chose. None marks a trial with reduced steps.
Rival = Literal["baseline", "shorter", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedTrial:
    """A training that ran to its end and was told. Anything else can't be a point of a front, so it is no CompletedTrial.

    params: every field of the search space. values: objective name -> finite value.
    curve: validation accuracy after each epoch, shares in [0, 1]. counts: kind of step (`trainers.cost.step_name`) -> steps.
    figures: what methods that joined the training said after each epoch, by `<method>.<figure>`, and of single layers too after the last
    one; empty without any.
    seconds: train, data, evaluation, checkpoint. observed_over_calibrated: training seconds over the calibrated price of the plan.
    alone: no other trial of its driver ran beside it.
    """

    number: int
    root: int
    attempt: int
    params: dict[str, Any]
    values: dict[str, float]
    rival: Rival | None
    seed: int
    curve: list[float]
    counts: dict[str, int]
    seconds: dict[str, float]
    observed_over_calibrated: float | None
    test_accuracy: float | None
    device: str
    versions: dict[str, str]
    commit: str
    metrics: dict[str, float] = field(default_factory=dict)
    figures: list[dict[str, float]] = field(default_factory=list)
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmeasuredTrial:
    """What is known of a trial without a result. seed: None where it derives from the root trial's number."""

    number: int
    root: int
    attempt: int
    params: dict[str, Any]
    rival: Rival | None
    seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTrial(UnmeasuredTrial):
    """A trial that ended without a result. kind: `interrupted` (its driver or user stopped it), `lost` (its worker died) or `error`."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedTrial(UnmeasuredTrial):
    """A trial that was stopped early: what it would have reached is not known. curve: validation accuracy after each epoch so far.

    seconds, counts: as of a CompletedTrial, as far as they are known.
    """

    curve: list[float]
    seconds: dict[str, float]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial(UnmeasuredTrial):
    """A trial that some driver answers for. owner: host, boot_id, pid, started (the process's start time).

    curve: validation accuracy after each epoch, as far as its driver has told.
    """

    owner: dict[str, Any]
    curve: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StudyTrials:
    """All trials of a study by what became of them. finished = completed + pruned, the number a budget counts."""

    completed: list[CompletedTrial]
    pruned: list[PrunedTrial]
    failed: list[FailedTrial]
    running: list[RunningTrial]

    @property
    def finished(self) -> int:
        return len(self.completed) + len(self.pruned)

    @property
    def failures(self) -> list[FailedTrial]:
        """Attempts that failed, without those that were only interrupted."""
        return [trial for trial in self.failed if trial.kind != "interrupted"]

    @property
    def interrupted(self) -> list[FailedTrial]:
        """Attempts whose launch was stopped or died, as far as nobody has gone on with them yet."""
        taken_up: list[CompletedTrial | UnmeasuredTrial] = [*self.completed, *self.pruned, *self.running]
        going_on = {trial.root for trial in taken_up}
        last = {trial.root: trial for trial in sorted(self.failed, key=lambda trial: trial.attempt)}
        return [trial for trial in self.failed if trial.kind == "interrupted" and trial is last[trial.root] and trial.root not in going_on]

    @property
    def ended_roots(self) -> set[int]:
        """Root trials of which no attempt runs; some that failed may be retried."""
        ended: list[CompletedTrial | UnmeasuredTrial] = [*self.completed, *self.pruned, *self.failed]
        return {trial.root for trial in ended} - {trial.root for trial in self.running}
