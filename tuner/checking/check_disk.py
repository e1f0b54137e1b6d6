"""The part of `tuner check` that compares a study with what its trainings left in its place: results, checkpoints, temporary files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from optuna.trial import TrialState

from studies.spec import OBJECTIVES
from trainers.cost import parse_step
from trainers.errors import InputError
from trainers.places import RESULT_NAME, RootPlace, whole_record
from trainers.wording import shown
from tuner.checking.snapshot import Attempt, Checked, Snapshot, Violation
from tuner.launching.places import root_place
from tuner.results.front import non_dominated
from tuner.storage.records import CURVE, plain, refused_values
from tuner.storage.rows import ENDED

# Pricing again adds the same numbers in the same order; this leaves room for another order.
_TOLERANCE: Final = 1e-12


@dataclass(frozen=True, slots=True)
class RootFiles:
    """What lies in the place of a root trial. results: attempt and record of every whole one. checkpoints: how many.

    temporary: attempt and name of each file that a writer has begun and not ended.
    """

    results: list[tuple[int, dict[str, Any]]]
    checkpoints: int
    temporary: list[tuple[int, str]]


def read_files(place: RootPlace) -> RootFiles:
    """OSError, in one sentence, where the place does not answer."""
    attempts = place.attempts()
    read = [(attempt, whole_record(place.read(attempt, RESULT_NAME) or b"")) for attempt in attempts]
    # Only writing into folders of this machine makes temporary files.
    folders = [(attempt, place.local_folder(attempt)) for attempt in attempts]
    return RootFiles(
        results=[(attempt, record) for attempt, record in read if record is not None],
        checkpoints=len(place.checkpoints()) if attempts else 0,
        temporary=[(attempt, path.name) for attempt, folder in folders if folder for path in sorted(folder.glob("*.tmp"))],
    )


def check_disk(study: Snapshot) -> list[Checked]:
    """Whether values equal what workers wrote, every result was told, and nothing is left that is not kept."""
    try:
        files = _files(study)
    except (OSError, InputError) as error:
        unknown = f"not looked at, because {error}"
        return [_values(study, {}), Checked("results", unknown, looked=False), Checked("leftovers", unknown, looked=False)]
    return [_values(study, files), _results(study, files), _leftovers(study, files)]


def _files(study: Snapshot) -> dict[int, RootFiles]:
    if study.place is None:
        raise InputError("no launch has kept anything on disk yet")
    if "://" not in study.place and not Path(study.place).is_dir():
        raise InputError(f"its place {study.place} is not on this machine")
    return {root: read_files(root_place(study.place, root)) for root in study.families}


def _values(study: Snapshot, files: Mapping[int, RootFiles]) -> Checked:
    violations, compared = [], 0
    completed = [one for one in study.of(TrialState.COMPLETE) if one.record is not None]
    for one in completed:
        results = files[one.root].results if one.root in files else []
        compared += bool(results)
        if reason := _unlike_metrics(study, one) or _unlike_price(study, one) or _unlike_workers(study, one, results):
            violations.append(Violation(kind="values", trial=one.number, root=one.root, sentence=f"trial {one.number}: {reason}"))
    prices = "" if study.pricing else " (there is no cost table to price them again)"
    words = f"{len(completed)} completed trials against their counts{prices}, {compared} of them against their workers' records on disk"
    return Checked("values", words, violations)


def _measured(study: Snapshot, one: Attempt) -> dict[str, Any]:
    return dict(zip(study.spec.objectives, one.trial.values or (), strict=False))


def _metrics(one: Attempt) -> dict[str, Any]:
    metrics = (one.record or {}).get("metrics")
    return dict(metrics) if isinstance(metrics, Mapping) else {}


def _unlike_metrics(study: Snapshot, one: Attempt) -> str:
    kept = _metrics(one)
    for name, value in _measured(study, one).items():
        if name in kept and not _same(value, kept[name]):
            return f"its {name} is {value}, what is kept of its training says {shown(kept[name])}"
    return ""


def _unlike_price(study: Snapshot, one: Attempt) -> str:
    told = (_metrics(one) | _measured(study, one)).get("relative_time")
    if study.pricing is None or told is None:
        return ""
    counts = (one.record or {}).get("counts") or {}
    try:
        priced = study.pricing.reference.relative_time({parse_step(name): counts[name] for name in counts}, study.pricing.baseline_steps)
    except (InputError, KeyError):
        return f"its counts {shown(counts)} can't be priced by the study's cost table"
    return "" if _same(told, priced) else f"its relative_time is {told}, its counts cost {priced}"


def _unlike_workers(study: Snapshot, one: Attempt, results: Sequence[tuple[int, dict[str, Any]]]) -> str:
    """Any record of its root trial will do: whichever attempt was faster has been told."""
    record = one.record or {}
    told = {name: (_metrics(one) | _measured(study, one)).get(name) for name in ("val_accuracy", "val_loss")}
    told |= {"counts": record.get("counts"), "curve": one.trial.user_attrs.get(CURVE), "seed": record.get("seed")}
    unlike = [[name for name in told if not _same(told[name], plain(result.get(name)))] for _, result in results]
    if not all(unlike) or not unlike:
        return ""
    (attempt, result), name = results[0], unlike[0][0]
    return f"{name} {shown(told[name])} in the database, {shown(result.get(name))} in its worker's record (attempt {attempt})"


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON, floats within _TOLERANCE."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_TOLERANCE)
    return bool(one == other)


def _results(study: Snapshot, files: Mapping[int, RootFiles]) -> Checked:
    untold = [root for root, family in study.families.items() if files[root].results and not _is_told(study, family, files[root])]
    words = f"{sum(len(found.results) for found in files.values())} on disk, {len(untold)} of root trials without one in the database"
    if study.goes_on or (study.asked is not None and len(study.finished) >= study.asked):
        why = "a launch goes on, which tells them" if study.goes_on else "as many as were asked for are there"
        return Checked("results", f"{words} ({why})" if untold else words)
    violations = [
        Violation(
            kind="untold",
            root=root,
            sentence=f"root trial {root} has a result on disk (attempt {files[root].results[0][0]}) and none in the database",
            repairable=study.pricing is not None,
        )
        for root in untold
    ]
    return Checked("results", words, violations)


def _is_told(study: Snapshot, family: Sequence[Attempt], files: RootFiles) -> bool:
    """Finished, or failed for good because of that very result."""
    if any(one.is_finished for one in family):
        return True
    was_error = any((one.trial.user_attrs.get(ENDED) or {}).get("kind") == "error" for one in family)
    if not was_error or study.pricing is None:
        return False
    values, _ = study.pricing.values(files.results[0][1], alone=False)
    return bool(refused_values(study.spec.objectives, values))


def _leftovers(study: Snapshot, files: Mapping[int, RootFiles]) -> Checked:
    if study.goes_on:
        return Checked("leftovers", "not looked at, because a launch goes on, which removes them", looked=False)
    stay = _with_checkpoints(study)
    over = [root for root, found in files.items() if found.checkpoints and root not in stay]
    begun = [root for root, found in files.items() if found.temporary]
    kept = sum(found.checkpoints for root, found in files.items() if root in stay)
    violations = [
        Violation(
            kind="checkpoints",
            root=root,
            sentence=f"root trial {root} needs no checkpoints any more, but {files[root].checkpoints} of them are left",
            repairable=True,
        )
        for root in over
    ]
    violations += [
        Violation(
            kind="temporary_files",
            root=root,
            sentence=f"root trial {root} has files that killed writers left: "
            + ", ".join(f"attempt-{attempt}/{name}" for attempt, name in files[root].temporary),
            repairable=True,
        )
        for root in begun
    ]
    return Checked("leftovers", f"{kept} checkpoints are kept; {len(over)} root trials have some that are not needed", violations)


def _with_checkpoints(study: Snapshot) -> set[int]:
    """Root trials whose checkpoints stay: the unfinished ones, and what checkpoints.keep says of the others."""
    keep = study.spec.checkpoints.keep
    if keep == "all":
        return set(study.families)
    unfinished = {retry.root for retry in study.reader.retries(study.trials)} | {one.root for one in study.running}
    return unfinished | (_front(study) if keep == "front" else set())


def _front(study: Snapshot) -> set[int]:
    # From the bare values: making CompletedTrials of 10,000 trials takes seconds.
    objectives = study.spec.objectives
    completed = {one.root: one.trial.values for one in study.of(TrialState.COMPLETE) if len(one.trial.values or ()) == len(objectives)}
    values = np.array(list(completed.values()), dtype=float).reshape(len(completed), len(objectives))
    on_front = non_dominated(values, [OBJECTIVES[name] for name in objectives])
    return {root for root, is_on_front in zip(completed, on_front, strict=True) if is_on_front}
