"""What is trained next: retries first, then what the study proposes, as far as the budget that all drivers share goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tuner.launching.maker import TrialMaker
from tuner.launching.places import root_place
from tuner.launching.proposals import Ledger, Proposal
from tuner.storage.store import ClaimedTrial, StudyStore
from tuner.storage.trials import CompletedTrial, StudyTrials, UnmeasuredTrial


@dataclass(frozen=True, slots=True)
class Claim:
    """A trial of this driver. record: its worker's, where an earlier attempt has left it, so that there is nothing to train."""

    trial: ClaimedTrial
    record: dict[str, Any] | None = None


class TrialSource:
    """Claims trials of one study for one driver. wanted: finished trials asked for, those under way included."""

    def __init__(self, store: StudyStore, maker: TrialMaker, wanted: int) -> None:
        self._store = store
        self._maker = maker
        self._wanted = wanted
        self._ledger = Ledger()
        self._retries_due = True
        # What could not work in an earlier launch may work in this one: the rivals are too important to be given up.
        self._first_number: Final = store.trial_count()

    def reconcile(self) -> StudyTrials:
        """Fails what nobody answers for, and looks at the study as all drivers have left it."""
        self._store.reconcile()
        trials = self._store.trials()
        self._retries_due = True
        self._ledger = Ledger()
        # What became of a root trial is what became of its last attempt: one that was interrupted first may have failed for good later.
        last = {trial.root: trial for trial in sorted(trials.failed, key=lambda trial: trial.attempt)}
        failed = [trial for trial in last.values() if trial.kind != "error" or trial.number >= self._first_number]
        kept: list[UnmeasuredTrial | CompletedTrial] = [*failed, *trials.running, *trials.pruned, *trials.completed]
        for trial in kept:
            self._ledger.add(trial.root, Proposal(trial.params, trial.rival, trial.seed))
        return trials

    def retry_soon(self) -> None:
        """A trial has failed, so there may be something to retry."""
        self._retries_due = True

    def next(self) -> Claim | None:
        """The next trial, which is then RUNNING and this driver's. None where there is none, or where another driver was faster."""
        return self._next_retry() or self._next_proposal()

    @property
    def exhausted(self) -> bool:
        """Whether nothing new is proposed, however few trials there are."""
        return self._maker.proposer.propose(self._ledger) is None

    def take_up(self, lost: ClaimedTrial) -> ClaimedTrial | None:
        """The next attempt at a root trial whose training goes on although its trial was failed; None where another driver has it."""
        retry = next((retry for retry in self._store.retries() if retry.root == lost.root), None)
        return None if retry is None else self._store.claim_retry(retry, self._maker.distributions, self._wanted)

    def _next_retry(self) -> Claim | None:
        if self._retries_due:
            for retry in self._store.retries():
                if (claimed := self._store.claim_retry(retry, self._maker.distributions, self._wanted)) is not None:
                    return Claim(claimed, self._kept_record(claimed.root))
            self._retries_due = False
        return None

    def _kept_record(self, root: int) -> dict[str, Any] | None:
        try:
            found = root_place(self._maker.place, root).result()
        except OSError:
            # Trained again, then; what ails the place is said by the doctor at the start and by the training itself.
            return None
        return None if found is None else found[1]

    def _next_proposal(self) -> Claim | None:
        proposal = self._maker.proposer.propose(self._ledger)
        if proposal is None:
            return None
        claimed = self._store.create_trial(
            fixed=proposal.fixed,
            distributions=self._maker.distributions,
            sampler=self._maker.sampler,
            rival=proposal.rival,
            seed=proposal.seed,
            wanted=self._wanted,
            once=proposal.once,
        )
        if claimed is None:
            self.reconcile()
            return None
        self._ledger.add(claimed.root, Proposal(claimed.params, proposal.rival, claimed.seed))
        return Claim(claimed)
