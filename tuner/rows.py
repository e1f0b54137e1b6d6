"""The few writes that must be one transaction each, on Optuna's own tables: a trial's birth, its beat and its end.

Optuna makes several transactions of each, and a driver killed between two of them would leave a trial without an owner, or with a
record and no end. On SQLite its check that a trial still runs is no lock either.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

LINEAGE: Final = "lineage"
OWNER: Final = "owner"
ENDED: Final = "ended"
# As optuna-dashboard cuts its notes into attributes; longer ones are cut off.
NOTE_CHARS: Final = 2045


@dataclass(frozen=True, slots=True)
class Beat:
    """A running trial and how long ago it last gave a sign of life: its last beat, or its start where it never beat."""

    trial_id: int
    number: int
    owner: dict[str, Any] | None
    silent_s: float


@contextmanager
def transaction(storage: RDBStorage) -> Iterator[Session]:
    """One transaction, committed at the end, rolled back at an exception."""
    with Session(storage.engine) as session, session.begin():
        yield session


def insert_trial(storage: RDBStorage, study_id: int, template: FrozenTrial) -> tuple[int, int] | None:
    """Writes a RUNNING trial with its first beat; (trial id, number), or None where its attempt at its root trial exists already.

    Safe to repeat: the claim in the template's lineage finds a trial whose birth was committed but not answered.
    """
    lineage = template.user_attrs[LINEAGE]
    with transaction(storage) as session:
        _lock_study(session, study_id)
        for trial_id, number, other in _relatives(session, study_id, lineage):
            if other["claim"] == lineage["claim"]:
                return trial_id, number
            if other["attempt"] >= lineage["attempt"]:
                return None
        trial: Any = storage._get_prepared_new_trial(study_id, template, session)
        session.add(models.TrialHeartbeatModel(trial_id=trial.trial_id, heartbeat=_database_time(session)))
        return trial.trial_id, trial.number


def end_trial(
    storage: RDBStorage,
    trial_id: int,
    state: TrialState,
    *,
    values: Sequence[float] = (),
    attributes: Mapping[str, Any],
    note: str = "",
) -> bool:
    """Ends a RUNNING trial together with all that is known of it. False, and nothing is changed, where it runs no more.

    Safe to repeat: the token among the attributes under ENDED recognises an end that was committed but not answered.
    """
    with transaction(storage) as session:
        running = (models.TrialModel.trial_id == trial_id) & (models.TrialModel.state == TrialState.RUNNING)
        # Writing first is what locks the row, on both databases.
        locked: Any = session.execute(update(models.TrialModel).where(running).values(state=TrialState.RUNNING))
        if locked.rowcount == 0:
            return bool(_attribute(session, trial_id, ENDED) == attributes[ENDED])
        trial: Any = session.get_one(models.TrialModel, trial_id)
        for objective, value in enumerate(values):
            storage._set_trial_value_without_commit(session, trial, objective, value)
        for key, attribute in attributes.items():
            storage._set_trial_attr_without_commit(session, models.TrialUserAttributeModel, trial_id, key, attribute)
        if note:
            _add_note(session, trial.study_id, f"dashboard:{trial_id}:", note)
        trial.state = state
        trial.datetime_complete = datetime.now()
    return True


def set_study_note(storage: RDBStorage, study_id: int, note: str) -> None:
    """The study's text in optuna-dashboard, unless somebody has written one there."""
    with transaction(storage) as session:
        _lock_study(session, study_id)
        _add_note(session, study_id, "dashboard:", note)


def beat(storage: RDBStorage, trial_ids: Iterable[int]) -> None:
    """A sign of life of running trials."""
    heartbeats = models.TrialHeartbeatModel
    with transaction(storage) as session:
        session.execute(update(heartbeats).where(heartbeats.trial_id.in_(list(trial_ids))).values(heartbeat=_database_time(session)))


def running_trials(storage: RDBStorage, study_id: int) -> list[Beat]:
    """Every RUNNING trial of the study by the database's clock, whoever made it."""
    with transaction(storage) as session:
        now = _database_time(session)
        query = (
            select(models.TrialModel, models.TrialHeartbeatModel.heartbeat)
            .outerjoin(models.TrialHeartbeatModel, models.TrialHeartbeatModel.trial_id == models.TrialModel.trial_id)
            .where(models.TrialModel.study_id == study_id, models.TrialModel.state == TrialState.RUNNING)
            .order_by(models.TrialModel.number)
        )
        return [
            Beat(
                trial.trial_id,
                trial.number,
                _attribute(session, trial.trial_id, OWNER),
                (now - (heartbeat or trial._datetime_start_utc or datetime.min)).total_seconds(),
            )
            for trial, heartbeat in session.execute(query)
        ]


def count_trials(storage: RDBStorage, study_id: int, states: Iterable[TrialState]) -> int:
    """How many trials of the study are in one of `states`, without reading them."""
    query = select(func.count()).where(models.TrialModel.study_id == study_id, models.TrialModel.state.in_(list(states)))
    with transaction(storage) as session:
        return session.execute(query).scalar_one()


def _lock_study(session: Session, study_id: int) -> None:
    # A write that changes nothing: SQLite has no SELECT FOR UPDATE. It shuts out Optuna's own creation of trials, too.
    studies = models.StudyModel
    session.execute(update(studies).where(studies.study_id == study_id).values(study_name=studies.study_name))


def _relatives(session: Session, study_id: int, lineage: Mapping[str, Any]) -> list[tuple[int, int, dict[str, Any]]]:
    """Trial id, number and lineage of what has the same claim, and of later attempts at the same root trial."""
    attributes = models.TrialUserAttributeModel
    # Sifted in the database, because a study may have 100,000 trials. Without a root trial there is no such text: JSON writes null.
    same = attributes.value_json.contains(lineage["claim"]) | attributes.value_json.contains(f'"root": {lineage["root"]},')
    query = (
        select(models.TrialModel.trial_id, models.TrialModel.number, attributes.value_json)
        .join(attributes, attributes.trial_id == models.TrialModel.trial_id)
        .where(models.TrialModel.study_id == study_id, attributes.key == LINEAGE, same)
    )
    return [(trial_id, number, json.loads(value_json)) for trial_id, number, value_json in session.execute(query)]


def _attribute(session: Session, trial_id: int, key: str) -> Any:
    attributes = models.TrialUserAttributeModel
    value_json = session.execute(
        select(attributes.value_json).where(attributes.trial_id == trial_id, attributes.key == key)
    ).scalar_one_or_none()
    return None if value_json is None else json.loads(value_json)


def _add_note(session: Session, study_id: int, prefix: str, note: str) -> None:
    attributes = models.StudySystemAttributeModel
    version = select(attributes).where(attributes.study_id == study_id, attributes.key == f"{prefix}note_ver")
    if session.execute(version).first() is None:
        for key, value in (("note_ver", 1), ("note_str:0", note[:NOTE_CHARS])):
            session.add(attributes(study_id=study_id, key=prefix + key, value_json=json.dumps(value)))


def _database_time(session: Session) -> datetime:
    """The database's clock, which all drivers share, in UTC and without a zone, as Optuna's columns are."""
    now: datetime = session.execute(select(func.now())).scalar_one()
    return now.replace(tzinfo=None)
