"""The few writes that must be one transaction each, on Optuna's own tables: a trial's birth, its beat and its end.

Optuna makes several transactions of each, and a driver killed between two of them would leave a trial without an owner, or with a
record and no end. On SQLite its check that a trial still runs is no lock either.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.orm import Session

LINEAGE: Final = "lineage"
OWNER: Final = "owner"
ENDED: Final = "ended"
# As optuna-dashboard cuts its notes into attributes; longer ones are cut off.
NOTE_CHARS: Final = 2045
# What a budget counts: finished, or about to be.
_COUNTED: Final = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)


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


def insert_trial(storage: RDBStorage, study_id: int, template: FrozenTrial, *, wanted: int | None = None) -> tuple[int, int] | None:
    """Writes a RUNNING trial with its first beat; (trial id, number), or None where it must not be.

    It must not where another attempt at its root trial runs, is finished or is as late as this one; where a trial of the same proposal
    runs or is finished; and where `wanted` trials run or are finished: one budget for however many drivers, drawn under the study's lock.
    Safe to repeat: the claim in the template's lineage finds a trial whose birth was committed but not answered.
    """
    lineage = template.user_attrs[LINEAGE]
    with transaction(storage) as session:
        _lock_study(session, study_id)
        relatives = _relatives(session, study_id, lineage)
        for trial_id, number, _, other in relatives:
            if other["claim"] == lineage["claim"]:
                return trial_id, number
        if any(state in _COUNTED or _is_as_late(other, lineage) for _, _, state, other in relatives):
            return None
        if wanted is not None and _count(session, study_id, _COUNTED) >= wanted:
            return None
        trial: Any = storage._get_prepared_new_trial(study_id, template, session)
        session.add(models.TrialHeartbeatModel(trial_id=trial.trial_id, heartbeat=_database_time(session)))
        return trial.trial_id, trial.number


def set_params(storage: RDBStorage, trial_id: int, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> None:
    """Writes the parameters of a RUNNING trial at once: each alone is a transaction of Optuna's. Safe to repeat."""
    written = models.TrialParamModel
    with transaction(storage) as session:
        trial: Any = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
        storage.check_trial_is_updatable(trial_id, trial.state)
        present = set(session.scalars(select(written.param_name).where(written.trial_id == trial_id)))
        for name in params.keys() - present:
            value, kind = distributions[name].to_internal_repr(params[name]), distribution_to_json(distributions[name])
            session.add(written(trial_id=trial_id, param_name=name, param_value=value, distribution_json=kind))


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


def replace_study_pieces(storage: RDBStorage, study_id: int, prefix: str, pieces: Mapping[str, str]) -> None:
    """These system attributes in place of all of the study's whose key begins with `prefix`: a reader finds either, never a mixture."""
    attributes = models.StudySystemAttributeModel
    with transaction(storage) as session:
        _lock_study(session, study_id)
        session.execute(delete(attributes).where(attributes.study_id == study_id, attributes.key.startswith(prefix, autoescape=True)))
        session.execute(
            insert(attributes), [{"study_id": study_id, "key": key, "value_json": json.dumps(text)} for key, text in pieces.items()]
        )


def beat(storage: RDBStorage, trial_ids: Iterable[int]) -> None:
    """A sign of life of running trials."""
    heartbeats = models.TrialHeartbeatModel
    with transaction(storage) as session:
        session.execute(update(heartbeats).where(heartbeats.trial_id.in_(list(trial_ids))).values(heartbeat=_database_time(session)))


def note_running(storage: RDBStorage, attributes: Mapping[int, Mapping[str, Any]]) -> None:
    """Attributes of trials while they are RUNNING, by trial id; what runs no more keeps those that it ended with. Safe to repeat."""
    running = models.TrialModel.trial_id.in_(list(attributes)) & (models.TrialModel.state == TrialState.RUNNING)
    with transaction(storage) as session:
        # Writing first is what locks the rows, as in end_trial.
        session.execute(update(models.TrialModel).where(running).values(state=TrialState.RUNNING))
        for trial_id in list(session.scalars(select(models.TrialModel.trial_id).where(running))):
            for key, value in attributes[trial_id].items():
                storage._set_trial_attr_without_commit(session, models.TrialUserAttributeModel, trial_id, key, value)


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
    with transaction(storage) as session:
        return _count(session, study_id, states)


def states_of(storage: RDBStorage, trial_ids: Iterable[int]) -> dict[int, TrialState]:
    """What became of these trials, by trial id."""
    query = select(models.TrialModel.trial_id, models.TrialModel.state).where(models.TrialModel.trial_id.in_(list(trial_ids)))
    with transaction(storage) as session:
        return {trial_id: state for trial_id, state in session.execute(query)}  # noqa: C416  a Result is no pair of columns to dict()


def family(storage: RDBStorage, study_id: int, root: int) -> dict[int, TrialState]:
    """Number and state of every attempt at a root trial, in the order of their numbers."""
    with transaction(storage) as session:
        relatives = _relatives(session, study_id, {"claim": None, "root": root, "proposal": None})
    return {number: state for _, number, state, _ in sorted(relatives, key=lambda relative: relative[1])}


def claimed_number(storage: RDBStorage, study_id: int, claim: str) -> int | None:
    """The number of the trial that was born with this claim; None where there is none."""
    with transaction(storage) as session:
        born = _relatives(session, study_id, {"claim": claim, "root": None, "proposal": None})
        return born[0][1] if born else None


def change_study_attribute(storage: RDBStorage, study_id: int, key: str, change: Callable[[Any], Any]) -> Any:
    """What `change` makes of the study's attribute (None where it has none), then kept: whoever else changes it at the same time."""
    attributes = models.StudyUserAttributeModel
    with transaction(storage) as session:
        _lock_study(session, study_id)
        query = select(attributes).where(attributes.study_id == study_id, attributes.key == key)
        kept: Any = session.execute(query).scalar_one_or_none()
        changed = change(None if kept is None else json.loads(kept.value_json))
        if kept is None:
            session.add(attributes(study_id=study_id, key=key, value_json=json.dumps(changed)))
        else:
            kept.value_json = json.dumps(changed)
        return changed


def _lock_study(session: Session, study_id: int) -> None:
    # A write that changes nothing: SQLite has no SELECT FOR UPDATE. It shuts out Optuna's own creation of trials, too.
    studies = models.StudyModel
    session.execute(update(studies).where(studies.study_id == study_id).values(study_name=studies.study_name))


def _relatives(session: Session, study_id: int, lineage: Mapping[str, Any]) -> list[tuple[int, int, TrialState, dict[str, Any]]]:
    """Trial id, number, state and lineage of what has the same claim or proposal, and of every attempt at the same root trial."""
    attributes = models.TrialUserAttributeModel
    meant = {key: lineage[key] for key in ("claim", "proposal", "root") if lineage[key] is not None}
    if not meant:
        return []
    # Sifted in the database, because a study may have 100,000 trials; "root": 1 also finds 12, hence the second look.
    texts = [attributes.value_json.contains(f'"{key}": {json.dumps(value)}') for key, value in meant.items()]
    # A root trial's own lineage names no root.
    is_root = models.TrialModel.number == meant.get("root", -1)
    query = (
        select(models.TrialModel.trial_id, models.TrialModel.number, models.TrialModel.state, attributes.value_json)
        .join(attributes, attributes.trial_id == models.TrialModel.trial_id)
        .where(models.TrialModel.study_id == study_id, attributes.key == LINEAGE, or_(is_root, *texts))
    )
    found = [(trial_id, number, state, json.loads(value_json)) for trial_id, number, state, value_json in session.execute(query)]
    return [row for row in found if row[1] == meant.get("root") or any(row[3].get(key) == value for key, value in meant.items())]


def _is_as_late(other: Mapping[str, Any], lineage: Mapping[str, Any]) -> bool:
    return lineage["root"] is not None and bool(other["attempt"] >= lineage["attempt"])


def _count(session: Session, study_id: int, states: Iterable[TrialState]) -> int:
    query = select(func.count()).where(models.TrialModel.study_id == study_id, models.TrialModel.state.in_(list(states)))
    return session.execute(query).scalar_one()


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
