"""The studies of a database: which there are, how one is made, and when one may be continued."""

from __future__ import annotations

import warnings
from typing import Any, Final

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection

from studies.configs import meaning_differences
from studies.spec import OBJECTIVES, StudySpec
from trainers.errors import InputError, nearest_name
from tuner.storage import rows
from tuner.storage.opening import with_retries

SPEC: Final = "spec"
DESCRIPTION: Final = "description"
_SHOWN_DIFFERENCES: Final = 5


def specs(storage: RDBStorage, needed: str | None = None) -> dict[str, Any]:
    """Name and stored spec of each study of ours; InputError where `needed` is none of them."""
    studies = with_retries(storage.get_all_studies, f"the database {storage.url}")
    found = {study.study_name: study.user_attrs[SPEC] for study in studies if SPEC in study.user_attrs}
    if needed is not None and needed not in found:
        known = f"its studies are {', '.join(found)}{nearest_name(needed, found)}" if found else "it holds no study yet"
        raise InputError(f"study '{needed}' is unknown in {storage.url}, {known}")
    return found


def found_or_made(storage: RDBStorage, spec: StudySpec) -> None:
    """Makes the study, or brings what may change of its spec up to date. InputError where its values would mean something else."""

    def once() -> None:
        study_id = _study_id(storage, spec)
        kept = storage.get_study_user_attrs(study_id).get(SPEC)
        if kept is None:
            _refuse_foreign(storage, study_id, spec)
        else:
            _refuse_other_meaning(kept, spec)
        _write_spec(storage, study_id, spec)

    with_retries(once, f"the database {storage.url}")


def _study_id(storage: RDBStorage, spec: StudySpec) -> int:
    directions = [StudyDirection[OBJECTIVES[name].upper()] for name in spec.objectives]
    try:
        return storage.create_new_study(directions, spec.name)
    except DuplicatedStudyError:
        return storage.get_study_id_from_name(spec.name)


def _refuse_other_meaning(kept: dict[str, Any], spec: StudySpec) -> None:
    differences = meaning_differences(kept, spec.to_json_dict())
    if differences:
        shown = "; ".join(differences[:_SHOWN_DIFFERENCES])
        more = f" and {len(differences) - _SHOWN_DIFFERENCES} more" if len(differences) > _SHOWN_DIFFERENCES else ""
        raise InputError(
            f"study '{spec.name}' can't be continued, because its trials' values would mean something else: {shown}{more}; "
            "undo that or choose another name"
        )


def _refuse_foreign(storage: RDBStorage, study_id: int, spec: StudySpec) -> None:
    """A study without a spec is just being made by another driver, or was by one that was killed, or is another program's."""
    directions = [direction.name.lower() for direction in storage.get_study_directions(study_id)]
    if storage.get_all_trials(study_id, deepcopy=False) or directions != [OBJECTIVES[name] for name in spec.objectives]:
        raise InputError(
            f"study '{spec.name}' in {storage.url} was made by another program, it can't be continued here: choose another name"
        )


def _write_spec(storage: RDBStorage, study_id: int, spec: StudySpec) -> None:
    goals = ", ".join(f"{OBJECTIVES[name]} {name}" for name in spec.objectives)
    description = f"Downsampling schedules for {spec.model} on {spec.dataset.name}: {goals}."
    storage.set_study_user_attr(study_id, DESCRIPTION, description)
    rows.set_study_note(storage, study_id, description)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study = optuna.load_study(study_name=spec.name, storage=storage, sampler=RandomSampler())
        study.set_metric_names(list(spec.objectives))
    # Last, because a study that has a spec is complete.
    storage.set_study_user_attr(study_id, SPEC, spec.to_json_dict())
