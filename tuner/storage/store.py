"""A study in its database, the one source of truth: every write goes through StudyStore, every trial is read back from it."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NoReturn, TypeVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from studies.spec import StudySpec
from tuner.storage import rows
from tuner.storage.catalog import SPEC, found_or_made, specs
from tuner.storage.opening import GRACE_S, DatabaseAway, with_retries
from tuner.storage.owner import is_dead, this_owner
from tuner.storage.proposal import chosen_params
from tuner.storage.records import CURVE, MAX_LOST, RECORD, ClaimedTrial, Retry, TrialReader, plain, refused_values
from tuner.storage.trials import Rival, StudyTrials

__all__ = ["MAX_LOST", "ClaimedTrial", "Retry", "StudyStore"]

T = TypeVar("T")
_LAUNCHES: Final = "launches"


class StudyStore:
    """One study. Safe for use from several threads; it stays in the driver's process, because it holds the connection."""

    def __init__(self, storage: RDBStorage, name: str, spec: StudySpec) -> None:
        self.name = name
        self.spec = spec
        self.storage = storage
        self._reader = TrialReader(spec)
        self.study = self._retried(lambda: optuna.load_study(study_name=name, storage=storage, sampler=RandomSampler()))
        self.study_id: int = self.study._study_id
        self._trial_ids: dict[int, int] = {}
        # Of the trials that this process made: what it signs their births and ends with.
        self._claims: dict[int, str] = {}
        self._unanswered: set[str] = set()
        self._asking = threading.Lock()

    def __repr__(self) -> str:
        return f"StudyStore({self.name!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a StudyStore can't be pickled, because the database's password would be in the pickle")

    @classmethod
    def create_or_continue(cls, storage: RDBStorage, spec: StudySpec) -> StudyStore:
        """The study of that name, made where it is missing. InputError where it exists and its values would mean something else."""
        found_or_made(storage, spec)
        return cls(storage, spec.name, spec)

    @classmethod
    def load(cls, storage: RDBStorage, name: str) -> StudyStore:
        """An existing study; InputError, with the nearest name, where there is none of that name."""
        return cls(storage, name, StudySpec.from_json_dict(specs(storage, name)[name]))

    @staticmethod
    def names(storage: RDBStorage) -> list[str]:
        """The studies in the database, in the order of their creation; those of other programs are left out."""
        return list(specs(storage))

    @staticmethod
    def delete(storage: RDBStorage, name: str) -> None:
        """Deletes a study with all its trials; InputError where there is none of that name."""
        specs(storage, name)
        with_retries(lambda: storage.delete_study(storage.get_study_id_from_name(name)), f"the database {storage.url}")

    def spec_json(self) -> dict[str, Any]:
        """The study's spec as the database has it now, as `StudySpec.to_json_dict` writes it."""
        spec: dict[str, Any] = self.get_attr(SPEC)
        return spec

    def get_attr(self, key: str) -> Any:
        """A JSON value kept with the study, None where it has none of that key."""
        return self._retried(lambda: self.storage.get_study_user_attrs(self.study_id)).get(key)

    def set_attr(self, key: str, value: Any) -> None:
        """Keeps a JSON value with the study."""
        self._retried(lambda: self.storage.set_study_user_attr(self.study_id, key, plain(value)))

    def change_attr(self, key: str, change: Callable[[Any], Any]) -> Any:
        """What `change` makes of the JSON value kept with the study (None where there is none), kept as one step for all drivers.

        `change` must be safe to repeat, as for `with_retries`.
        """
        return self._retried(lambda: rows.change_study_attribute(self.storage, self.study_id, key, lambda kept: plain(change(kept))))

    def keep_first(self, key: str, value: Any) -> Any:
        """The JSON value kept with the study under `key`: this one, unless there was one already."""
        return self.change_attr(key, lambda kept: value if kept is None else kept)

    def create_trial(
        self,
        *,
        fixed: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        sampler: BaseSampler,
        rival: Rival | None,
        seed: int | None = None,
        wanted: int | None = None,
        once: bool = False,
    ) -> ClaimedTrial | None:
        """A new RUNNING trial of this process. The sampler chooses the parameters that `fixed` leaves open, and isn't asked for none.

        seed: the training's, where it is not to be derived from the root trial's number. wanted: how many trials may run or be finished.
        None where as many do, or where the same `fixed` and `seed` were meant to be tried only `once` and another driver was faster.
        """
        proposal = _proposal_key(fixed, seed) if once else None
        lineage = {"root": None, "attempt": 1, "rival": rival, "seed": seed, "proposal": proposal}
        return self._claim(fixed, distributions, sampler, lineage, wanted)

    def claim_retry(self, retry: Retry, distributions: Mapping[str, BaseDistribution], wanted: int | None = None) -> ClaimedTrial | None:
        """The next attempt at a root trial as a trial of this process; None where another driver was faster, or enough trials run."""
        lineage = {"root": retry.root, "attempt": retry.attempt, "rival": retry.rival, "seed": retry.seed, "proposal": None}
        return self._claim(retry.params, distributions, None, lineage, wanted)

    def complete(self, number: int, values: Mapping[str, float], record: Mapping[str, Any]) -> bool:
        """Ends a trial as COMPLETE, with its record (see CompletedTrial; `note`: a text for the dashboard).

        False where it did not become COMPLETE: it runs no more, and nothing is changed; or an objective's value is missing, NaN or
        infinite, and the trial has failed with that reason.
        """
        if reason := refused_values(self.spec.objectives, values):
            self._end(number, TrialState.FAIL, "error", reason, record=record)
            return False
        return self._end(number, TrialState.COMPLETE, values=[float(values[name]) for name in self.spec.objectives], record=record)

    def fail(self, number: int, kind: str, reason: str) -> bool:
        """Ends a trial as FAIL; False where it runs no more. kind: `interrupted` and `lost` are retried, `error` is not."""
        return self._end(number, TrialState.FAIL, kind, reason)

    def prune(self, number: int, record: Mapping[str, Any]) -> bool:
        """Ends a trial as PRUNED, which counts as finished but is no point of a front; False where it runs no more."""
        return self._end(number, TrialState.PRUNED, record=record)

    def beat(self, numbers: Iterable[int], curves: Mapping[int, Sequence[float]] = MappingProxyType({})) -> None:
        """Says that these trials are alive. Needed at least every GRACE_S from whoever claimed them.

        curves: for whoever watches, validation accuracy after each epoch so far of those that have reached another one, by number.
        """
        trial_ids = [self._trial_id(number) for number in numbers]
        if trial_ids:
            self._retried(lambda: rows.beat(self.storage, trial_ids))
        if curves:
            noted = {self._trial_id(number): {CURVE: plain(curve)} for number, curve in curves.items()}
            self._retried(lambda: rows.note_running(self.storage, noted))

    def reconcile(self, grace_s: float = GRACE_S) -> list[int]:
        """Fails the RUNNING trials that nobody answers for any more, and returns their numbers.

        Those are trials of a dead process of this host at once, any other after `grace_s` without a beat; never those of this process.
        """
        running = self._retried(lambda: rows.running_trials(self.storage, self.study_id))
        reasons = {beat.number: abandoned(beat, grace_s) for beat in running}
        return [number for number, reason in reasons.items() if reason and self.fail(number, "interrupted", reason)]

    def states(self, numbers: Iterable[int]) -> dict[int, TrialState]:
        """What became of trials, by number."""
        trial_ids = {self._trial_id(number): number for number in numbers}
        found = self._retried(lambda: rows.states_of(self.storage, trial_ids)) if trial_ids else {}
        return {trial_ids[trial_id]: state for trial_id, state in found.items()}

    def family(self, root: int) -> dict[int, TrialState]:
        """Number and state of every attempt at a root trial."""
        return self._retried(lambda: rows.family(self.storage, self.study_id, root))

    def retries(self) -> list[Retry]:
        """What has to be trained again, derived from the trials alone, so that asking twice changes nothing."""
        return self._reader.retries(self._frozen_trials())

    def next_attempt(self, root: int) -> Retry:
        """One more attempt at a root trial, whatever became of the others: for a result that came late."""
        return self._reader.next_attempt(self._frozen_trials(), root)

    def trials(self) -> StudyTrials:
        """All trials as they are now, in the order of their numbers."""
        return self._reader.trials(self._frozen_trials())

    def finished_count(self) -> int:
        """How many trials are COMPLETE or PRUNED, without reading them."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        return self._retried(lambda: rows.count_trials(self.storage, self.study_id, states))

    def running_count(self) -> int:
        """How many trials are RUNNING, of whatever driver."""
        return self._retried(lambda: rows.count_trials(self.storage, self.study_id, (TrialState.RUNNING,)))

    def trial_count(self) -> int:
        """How many trials there are, whatever became of them."""
        return self._retried(lambda: rows.count_trials(self.storage, self.study_id, TrialState))

    def launch_number(self) -> int:
        """0 for the study's first launch, and another one for every later launch, of whatever driver."""
        launches: int = self.change_attr(_LAUNCHES, lambda kept: (kept or 0) + 1)
        return launches - 1

    def _retried(self, call: Callable[[], T]) -> T:
        return with_retries(call, f"the database {self.storage.url}")

    def _frozen_trials(self) -> list[FrozenTrial]:
        return self._retried(lambda: self.study.get_trials(deepcopy=False))

    def _claim(
        self,
        fixed: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        sampler: BaseSampler | None,
        lineage: dict[str, Any],
        wanted: int | None,
    ) -> ClaimedTrial | None:
        self._give_back_unanswered()
        claim = uuid.uuid4().hex
        self._unanswered.add(claim)
        decided = {name: fixed[name] for name in distributions if name in fixed}
        is_whole = decided.keys() == distributions.keys()
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=decided if is_whole else {},
            distributions=dict(distributions) if is_whole else {},
            user_attrs={rows.LINEAGE: lineage | {"claim": claim}, rows.OWNER: this_owner()},
            system_attrs={} if is_whole else {"fixed_params": decided},
        )
        born = self._retried(lambda: rows.insert_trial(self.storage, self.study_id, template, wanted=wanted))
        if born is None:
            self._unanswered.discard(claim)
            return None
        trial_id, number = born
        self._trial_ids[number], self._claims[number] = trial_id, claim
        if sampler is not None and not is_whole:
            self._sample(number, trial_id, distributions, sampler)
        claimed = self._reader.claimed(self._retried(lambda: self.storage.get_trial(trial_id)))
        self._unanswered.discard(claim)
        return claimed

    def _give_back_unanswered(self) -> None:
        """Fails the trials that were born while the database went away: nobody here knows of them, so nobody would ever end them."""
        for claim in list(self._unanswered):
            number = self._retried(partial(rows.claimed_number, self.storage, self.study_id, claim))
            if number is not None:
                self.fail(number, "interrupted", "the database went away while it was made")
            self._unanswered.discard(claim)

    def _sample(self, number: int, trial_id: int, distributions: Mapping[str, BaseDistribution], sampler: BaseSampler) -> None:
        """Lets the sampler decide what is open; a trial that it can't decide fails."""
        try:
            with self._asking:
                self.study.sampler = sampler
                # Else the sampler would see the other trials, pending ones included, as they were at the last ask.
                self.study._thread_local.cached_all_trials = None
                trial = self._retried(lambda: self.storage.get_trial(trial_id))
                params = self._retried(lambda: chosen_params(self.study, trial, distributions))
                self._retried(lambda: rows.set_params(self.storage, trial_id, params, distributions))
        except DatabaseAway:
            raise  # given back once the database answers again
        except BaseException as error:
            self.fail(number, "error", f"no parameters could be chosen for it: {type(error).__name__}: {error}")
            raise

    def _end(
        self,
        number: int,
        state: TrialState,
        kind: str = "",
        reason: str = "",
        *,
        values: Sequence[float] = (),
        record: Mapping[str, Any] | None = None,
    ) -> bool:
        kept = {name: plain(value) for name, value in (record or {}).items()}
        # The same for the same end, so that one whose answer was lost is recognised however much later it is told again.
        signed = number in self._claims
        token = " ".join([self._claims[number], state.name, *map(repr, values)]) if signed else uuid.uuid4().hex
        attributes = {rows.ENDED: {"kind": kind, "reason": plain(reason), "token": token}}
        note = str(kept.pop("note", ""))
        if kept:
            attributes |= {CURVE: kept.pop("curve", []), RECORD: kept}
        trial_id = self._trial_id(number)
        return self._retried(lambda: rows.end_trial(self.storage, trial_id, state, values=values, attributes=attributes, note=note))

    def _trial_id(self, number: int) -> int:
        if number not in self._trial_ids:
            self._trial_ids[number] = self._retried(lambda: self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number))
        return self._trial_ids[number]


def _proposal_key(fixed: Mapping[str, Any], seed: int | None) -> str:
    """A name for what is to be tried, the same whichever driver proposes it."""
    return hashlib.sha256(json.dumps([sorted(fixed.items()), seed]).encode()).hexdigest()[:32]


def abandoned(beat: rows.Beat, grace_s: float) -> str:
    """Why nobody answers for a running trial; nothing where somebody does or may."""
    if beat.owner == this_owner():
        return ""
    if beat.owner is not None and is_dead(beat.owner):
        return f"its driver, process {beat.owner.get('pid')} on {beat.owner.get('host')}, is gone"
    return f"its driver has not been heard of for {beat.silent_s:.0f} s" if beat.silent_s > grace_s else ""
