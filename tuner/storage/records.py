"""From and to what Optuna keeps of a trial: plain values in, the trials of tuner.storage.trials out. Tolerates trials of other programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast, get_args

from optuna.trial import FrozenTrial, TrialState

from studies.spec import StudySpec
from trainers.errors import InputError
from tuner.storage.rows import ENDED, LINEAGE, OWNER
from tuner.storage.trials import CompletedTrial, FailedTrial, PrunedTrial, Rival, RunningTrial, StudyTrials, UnmeasuredTrial

RECORD: Final = "record"
CURVE: Final = "curve"
# Of an error's text, no one reads more; some databases refuse much longer ones.
LONGEST_TEXT: Final = 4000
# A configuration that fails of the same thing each time (memory, a crash in native code, a step that hangs) is not given a fourth go.
MAX_LOST: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A root trial to be trained again, with the same parameters and seed, from its last checkpoint. attempt: the next one's number."""

    root: int
    attempt: int
    params: dict[str, Any]
    rival: Rival | None
    seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedTrial(UnmeasuredTrial):
    """A RUNNING trial that this process answers for. params: every field of the search space. root: the number of its first attempt."""

    trial_id: int


def plain(value: Any) -> Any:
    """`value` as every database and browser takes it: no NUL bytes, no endless texts, None for NaN and infinity, which JSON lacks."""
    if isinstance(value, str):
        return value.replace("\0", "")[:LONGEST_TEXT]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return value


def refused_values(objectives: Sequence[str], values: Mapping[str, Any]) -> str:
    """Why these can't be the values of a completed trial; nothing when they can."""
    for name in objectives:
        if name not in values:
            return f"its {name} is missing"
        if not _is_finite(values[name]):
            return f"its {name} is {str(values[name])[:100]}, it must be a finite number"
    return ""


class TrialReader:
    """Reads the trials of one study."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec

    def trials(self, trials: Sequence[FrozenTrial]) -> StudyTrials:
        """All trials by what became of them. A COMPLETE one that lacks a finite value, which only other programs write, has failed."""
        completed = [trial for trial in trials if trial.state == TrialState.COMPLETE and not self._refused(trial)]
        failed = [
            trial for trial in trials if trial.state == TrialState.FAIL or (trial.state == TrialState.COMPLETE and self._refused(trial))
        ]
        return StudyTrials(
            completed=[self._completed(trial) for trial in completed],
            pruned=[self._pruned(trial) for trial in trials if trial.state == TrialState.PRUNED],
            failed=[self._failed(trial) for trial in failed],
            running=[self._running(trial) for trial in trials if trial.state == TrialState.RUNNING],
        )

    def retries(self, trials: Sequence[FrozenTrial]) -> list[Retry]:
        """Root trials whose last attempt was interrupted, or lost for less than the MAX_LOST-th time, in the order of their numbers."""
        families: dict[int, list[FrozenTrial]] = {}
        for trial in sorted(trials, key=lambda trial: (lineage_of(trial)["attempt"], trial.number)):
            families.setdefault(lineage_of(trial)["root"], []).append(trial)
        return [self._retry(family[-1]) for _, family in sorted(families.items()) if self._may_be_retried(family)]

    def next_attempt(self, trials: Sequence[FrozenTrial], root: int) -> Retry:
        """One more attempt at a root trial, whatever became of the others."""
        attempts = [trial for trial in trials if lineage_of(trial)["root"] == root]
        return self._retry(max(attempts, key=lambda trial: lineage_of(trial)["attempt"]))

    def claimed(self, trial: FrozenTrial) -> ClaimedTrial:
        """A trial of this process, once its parameters are chosen."""
        return ClaimedTrial(**self._unmeasured(trial), trial_id=trial._trial_id)

    def params(self, trial: FrozenTrial) -> dict[str, Any]:
        """Every field of the search space, the fixed ones too; as they are where another program chose them outside the space."""
        try:
            return self._spec.search.complete(trial.params)
        except InputError:
            return dict(trial.params)

    def rival(self, trial: FrozenTrial) -> Rival | None:
        """The trial's mark; a sampler can choose full resolution unasked, and then it is a rival like the others."""
        rival = lineage_of(trial)["rival"]
        if rival in get_args(Rival):
            return cast("Rival", rival)
        params = self.params(trial)
        return "full" if self._is_whole(trial) and self._spec.search.is_full_resolution(params) else None

    def _is_whole(self, trial: FrozenTrial) -> bool:
        return self._spec.search.searched.keys() <= trial.params.keys()

    def _refused(self, trial: FrozenTrial) -> str:
        """Why a COMPLETE trial is no point of a front; nothing for the others."""
        if trial.state != TrialState.COMPLETE:
            return ""
        return refused_values(self._spec.objectives, dict(zip(self._spec.objectives, trial.values or (), strict=False)))

    def _failure(self, trial: FrozenTrial) -> tuple[str, str]:
        """Kind and reason. Without a mark of ours some other program failed a silent trial, so it was interrupted."""
        if refused := self._refused(trial):
            return "error", refused
        ended = {"kind": "interrupted", "reason": "another program failed it"} | _mapping(trial.user_attrs.get(ENDED))
        # What another program made, or what died before all its parameters were chosen, can't be repeated.
        can_be_repeated = LINEAGE in trial.user_attrs and self._is_whole(trial)
        return (ended["kind"] if can_be_repeated else "error"), ended["reason"]

    def _may_be_retried(self, family: Sequence[FrozenTrial]) -> bool:
        if any(trial.state != TrialState.FAIL for trial in family):
            return False
        kinds = [self._failure(trial)[0] for trial in family]
        return kinds[-1] == "interrupted" or (kinds[-1] == "lost" and kinds.count("lost") < MAX_LOST)

    def _retry(self, trial: FrozenTrial) -> Retry:
        lineage = lineage_of(trial)
        return Retry(
            root=lineage["root"], attempt=lineage["attempt"] + 1, params=dict(trial.params), rival=lineage["rival"], seed=lineage["seed"]
        )

    def _common(self, trial: FrozenTrial) -> dict[str, Any]:
        lineage = lineage_of(trial)
        params, rival = self.params(trial), self.rival(trial)
        return {"number": trial.number, "root": lineage["root"], "attempt": lineage["attempt"], "params": params, "rival": rival}

    def _unmeasured(self, trial: FrozenTrial) -> dict[str, Any]:
        return self._common(trial) | {"seed": lineage_of(trial)["seed"]}

    def _running(self, trial: FrozenTrial) -> RunningTrial:
        return RunningTrial(**self._unmeasured(trial), owner=_mapping(trial.user_attrs.get(OWNER)), curve=_curve(trial))

    def _failed(self, trial: FrozenTrial) -> FailedTrial:
        kind, reason = self._failure(trial)
        return FailedTrial(**self._unmeasured(trial), kind=kind, reason=reason)

    def _pruned(self, trial: FrozenTrial) -> PrunedTrial:
        record = _mapping(trial.user_attrs.get(RECORD))
        seed, seconds = record.get("seed", lineage_of(trial)["seed"]), _mapping(record.get("seconds"))
        about = {"seed": seed, "curve": _curve(trial), "seconds": seconds, "counts": _mapping(record.get("counts"))}
        return PrunedTrial(**self._unmeasured(trial) | about)

    def _completed(self, trial: FrozenTrial) -> CompletedTrial:
        record = _mapping(trial.user_attrs.get(RECORD))
        seed = record.get("seed", lineage_of(trial)["seed"])
        return CompletedTrial(
            **self._common(trial),
            values=dict(zip(self._spec.objectives, trial.values, strict=True)),
            seed=seed if isinstance(seed, int) else 0,
            curve=_curve(trial),
            figures=_figures(record),
            counts=_mapping(record.get("counts")),
            seconds=_mapping(record.get("seconds")),
            observed_over_calibrated=record.get("observed_over_calibrated"),
            test_accuracy=record.get("test_accuracy"),
            device=record.get("device") or "",
            versions=_mapping(record.get("versions")),
            commit=record.get("commit") or "",
            metrics=_mapping(record.get("metrics")),
            alone=record.get("alone") is True,
        )


def lineage_of(trial: FrozenTrial) -> dict[str, Any]:
    """root (the trial's own number where it is the first attempt), attempt, rival and seed."""
    kept = _mapping(trial.user_attrs.get(LINEAGE))
    lineage = {"root": None, "attempt": 1, "rival": None, "seed": None} | kept
    return lineage | {"root": trial.number if lineage["root"] is None else lineage["root"]}


def expected_accuracy(trial: FrozenTrial) -> float | None:
    """Accuracy that the whole training of a stopped trial was expected to reach; None where its stopper had no idea."""
    expected = _mapping(_mapping(trial.user_attrs.get(RECORD)).get("stopped")).get("expected")
    return expected if _is_finite(expected) else None


def _curve(trial: FrozenTrial) -> list[float]:
    kept = trial.user_attrs.get(CURVE)
    return [value if isinstance(value, int | float) else math.nan for value in kept] if isinstance(kept, list | tuple) else []


def _figures(record: Mapping[str, Any]) -> list[dict[str, float]]:
    kept = record.get("figures")
    return [_mapping(epoch) for epoch in kept] if isinstance(kept, list) else []


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
