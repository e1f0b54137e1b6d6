"""What a page that watches a study asks of its database every few seconds, whatever its size: has anything finished, and what runs?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import func, or_, select

from tuner.storage import rows
from tuner.storage.catalog import SPEC
from tuner.storage.opening import GRACE_S, with_retries
from tuner.storage.records import TrialReader
from tuner.storage.store import StudyStore, abandoned
from tuner.storage.trials import RunningTrial

T = TypeVar("T")
_FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True, slots=True)
class WatchedTrial:
    """A RUNNING trial, and why nobody answers for it any more: nothing where somebody does or may."""

    trial: RunningTrial
    abandoned: str


def study_version(store: StudyStore, beside: str) -> str | None:
    """A text that is another one once a trial of the study, or of the study named `beside`, has ended, or an attribute of the study has
    changed; None where the study is in the database no more."""
    trials, studies, attributes = models.TrialModel, models.StudyModel, models.StudyUserAttributeModel
    ended = func.max(trials._datetime_complete_utc)
    watched = select(studies.study_id).where(or_(studies.study_id == store.study_id, studies.study_name == beside))
    counts = (
        select(trials.study_id, trials.state, func.count(), ended)
        .where(trials.study_id.in_(watched), trials.state.in_((*_FINISHED, TrialState.FAIL)))
        .group_by(trials.study_id, trials.state)
    )
    kept = select(attributes.key, attributes.value_json).where(attributes.study_id == store.study_id).order_by(attributes.key)

    def read() -> str | None:
        with rows.transaction(store.storage) as session:
            found = [tuple(row) for row in session.execute(kept)]
            if not any(key == SPEC for key, _ in found):
                return None
            return repr((found, sorted(map(str, session.execute(counts)))))

    content = _asked(store, read)
    return None if content is None else hashlib.sha256(content.encode()).hexdigest()


def watched_trials(store: StudyStore, grace_s: float = GRACE_S) -> list[WatchedTrial]:
    """What runs now, whoever made it, in the order of the numbers; the finished trials, of which there may be thousands, are not read."""
    silent = {beat.number: abandoned(beat, grace_s) for beat in _asked(store, lambda: rows.running_trials(store.storage, store.study_id))}
    frozen = _asked(store, lambda: store.storage.get_all_trials(store.study_id, deepcopy=False, states=(TrialState.RUNNING,)))
    running = TrialReader(store.spec).trials(frozen).running
    return [WatchedTrial(trial, silent[trial.number]) for trial in running if trial.number in silent]


def study_beside(store: StudyStore, name: str) -> StudyStore | None:
    """The study of that name in the same database, read by the spec of `store`; None where there is none."""
    studies = models.StudyModel

    def read() -> bool:
        with rows.transaction(store.storage) as session:
            return session.execute(select(studies.study_id).where(studies.study_name == name)).first() is not None

    return StudyStore(store.storage, name, store.spec) if _asked(store, read) else None


def last_durations_s(store: StudyStore, most: int) -> list[float]:
    """Seconds from birth to end of the trials that finished last, `most` of them at most."""
    trials = models.TrialModel
    query = (
        select(trials._datetime_start_utc, trials._datetime_complete_utc)
        .where(trials.study_id == store.study_id, trials.state.in_(_FINISHED))
        .order_by(trials.trial_id.desc())
        .limit(most)
    )

    def read() -> list[Any]:
        with rows.transaction(store.storage) as session:
            return [tuple(row) for row in session.execute(query)]

    return [(end - start).total_seconds() for start, end in _asked(store, read) if start and end]


def _asked(store: StudyStore, question: Callable[[], T]) -> T:
    return with_retries(question, f"the database {store.storage.url}")
