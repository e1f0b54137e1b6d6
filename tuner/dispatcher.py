"""Between Ray and the database: keeps proposals ready, keeps results, notices dead drivers.

Ray's event loop calls `take`, `epoch_done` and `trial_done`, which never wait. One thread of ours does what can wait, in this order:
tell what has finished, fail and retry what was lost, ask for the next trial. A second thread beats, so that a slow sampler or a long
retry can't make our trials look dead.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler

from studies.spec import StudySpec
from trainers.errors import RunError
from tuner.jobs import EpochDone, Job, Report, TrialDone, TrialFailed
from tuner.pricing import Pricing
from tuner.proposals import Ledger, Proposal, Proposer
from tuner.storage import HEARTBEAT_S
from tuner.store import ClaimedTrial, StudyStore
from tuner.trials import CompletedTrial, FailedTrial, RunningTrial

RECONCILE_S: Final = 30.0
STOP_POLL_S: Final = 2.0
STOP_REQUEST: Final = "stop_requested"
# A study whose every trial fails would never reach its number of finished trials: FAIL does not count.
MAX_FAILURES_IN_ROW: Final = 5


@dataclass(slots=True)
class Running:
    """A trial that a worker has. alone: no other trial of this driver has run beside it so far."""

    claimed: ClaimedTrial
    job: Job
    started_s: float = field(default_factory=time.monotonic)
    epoch: int = 0
    val_accuracy: float | None = None
    alone: bool = True


@dataclass(frozen=True, slots=True)
class TrialMaker:
    """What every new trial of a study is made from."""

    spec: StudySpec
    proposer: Proposer
    sampler: BaseSampler
    distributions: dict[str, BaseDistribution]
    checkpoints: Path
    data_root: str
    device: str
    open_test: bool = False

    def job(self, claimed: ClaimedTrial) -> Job:
        seed = claimed.seed if claimed.seed is not None else self.spec.seed + claimed.root
        config = self.spec.train_config(
            claimed.params,
            seed,
            device=self.device,
            threads=self.spec.resources.cpus,
            checkpoint=str(self.checkpoint(claimed.root)),
            root=self.data_root,
        )
        return Job(claimed.number, config, self.open_test)

    def checkpoint(self, root: int) -> Path:
        """Keyed by root trial, so that a retry goes on where its predecessor was lost."""
        return self.checkpoints / f"root-{root:05d}.pt"


class Dispatcher:
    """Hands out jobs and keeps results until `trials` are finished, something asks to stop, or nothing is left to train."""

    def __init__(
        self, store: StudyStore, maker: TrialMaker, pricing: Pricing, *, trials: int, slots: int, deadline_s: float | None
    ) -> None:
        self.store = store
        self.trials = trials
        self.deadline_s = deadline_s
        self.stop_reason: str | None = None
        self.failure_reasons: list[str] = []
        self.running: dict[str, Running] = {}
        self.on_event: Callable[[str], None] = lambda line: None
        self._maker = maker
        self._pricing = pricing
        self.slots = slots
        self._ready: deque[Running] = deque()
        self._events: queue.SimpleQueue[tuple[Running, Report | None] | None] = queue.SimpleQueue()
        self._untold = 0
        self._failures_in_row = 0
        self._retries_due = True
        self._ledger = Ledger()
        self._others_running = 0
        self._error: BaseException | None = None
        self._exhausted = False
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}
        self.finished = 0

    # Called in Ray's event loop: never wait here.

    def take(self, tune_id: str) -> Job | None:
        """The next job, or None while there is none."""
        with self._lock:
            if not self._ready or self.stop_reason is not None:
                return None
            trial = self._ready.popleft()
            self.running[tune_id] = replace(trial, started_s=time.monotonic())
            # Tune takes the next job while the last trial still trains, so with one slot there are two as well.
            if self.slots > 1 and len(self.running) > 1:
                for running in self.running.values():
                    running.alone = False
        self._events.put(None)
        return trial.job

    def epoch_done(self, tune_id: str, report: EpochDone) -> None:
        """Notes a running trial's progress for the display."""
        if running := self.running.get(tune_id):
            running.epoch, running.val_accuracy = report.epoch, report.val_accuracy

    def trial_done(self, tune_id: str, report: Report | None) -> None:
        """A trial's last report; None when its worker died without one."""
        with self._lock:
            running = self.running.pop(tune_id, None)
            self._untold += running is not None
        if running is not None:
            self._events.put((running, report))

    @property
    def exhausted(self) -> bool:
        """Nothing is left to hand out, now or later."""
        return self._exhausted or self.stop_reason is not None

    def request_stop(self, reason: str) -> None:
        """Ends the launch after the current event; what runs is retried by the next launch."""
        self.stop_reason = self.stop_reason or reason

    # The driver's side.

    def start(self) -> None:
        """Starts the two threads."""
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._work, self._beat)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Tells what has finished, gives back what has not, and raises what went wrong in the threads."""
        self._closing.set()
        self._events.put(None)
        for thread in self._threads:
            thread.join()
        # Whoever showed events may be what failed.
        self.on_event = lambda line: None
        try:
            while not self._events.empty():
                self._handle_events()
            for trial in [*self._ready, *self.running.values()]:
                self.store.fail(trial.claimed.number, "interrupted", f"the launch ended: {self.stop_reason or 'no reason given'}")
            self.finished = self.store.finished_count()
        finally:
            if self._error is not None:
                raise self._error

    def _work(self) -> None:
        try:
            while not self._closing.is_set():
                self._housekeeping()
                self._prepare()
                self._handle_events()
            while not self._events.empty():
                self._handle_events()
        except BaseException as error:  # noqa: BLE001  SystemExit too, which rich raises when the terminal is gone; close() raises it again
            self._end_with(error)

    def _beat(self) -> None:
        while not self._closing.wait(HEARTBEAT_S / 2):
            with self._lock:
                numbers = [trial.claimed.number for trial in [*self._ready, *self.running.values()]]
            try:
                self.store.beat(numbers)
            except RunError as error:
                # Trials that can't be kept alive now may be so later; results are told by the other thread, which decides.
                self.on_event(f"no beat went through: {error}")

    def _handle_events(self) -> None:
        try:
            event = self._events.get(timeout=0.5)
        except queue.Empty:
            return
        if event is None:
            return
        running, report = event
        match report:
            case TrialDone(record):
                self._complete(running, record)
            case TrialFailed(reason):
                self._fail(running, "error", reason)
            case _:
                self._fail(running, "lost", "its worker died (out of memory, or killed)")
        with self._lock:
            self._untold -= 1

    def _complete(self, running: Running, record: dict[str, Any]) -> None:
        claimed = running.claimed
        values, priced = self._pricing.values(record, alone=running.alone)
        if not self.store.complete(claimed.number, values, priced):
            self._fail(running, "error", f"its values were refused: {values}")
            return
        self._failures_in_row = 0
        self.finished = self.store.finished_count()
        self._maker.checkpoint(claimed.root).unlink(missing_ok=True)
        self.on_event(self._pricing.line(claimed.number, running.job.config, values, priced))

    def _fail(self, running: Running, kind: str, reason: str) -> None:
        claimed = running.claimed
        self.store.fail(claimed.number, kind, reason)
        self.failure_reasons.append(reason)
        self._failures_in_row += 1
        if kind == "error":
            self._ledger.drop(claimed.root)
        self._retries_due = True
        self.on_event(f"trial {claimed.number} failed: {reason}")
        if self._failures_in_row >= MAX_FAILURES_IN_ROW:
            self._end_with(RunError(f"{MAX_FAILURES_IN_ROW} trials in a row failed, the last one because {reason}"))

    def _end_with(self, error: BaseException) -> None:
        self._error = self._error or error
        self.request_stop(str(error))

    def _housekeeping(self) -> None:
        if self._is_due("stop", STOP_POLL_S) and self.store.get_attr(STOP_REQUEST):
            self.request_stop("tuner stop asked for it")
        if self.deadline_s is not None and time.monotonic() > self.deadline_s:
            self.request_stop("its time is over")
        if self._is_due("reconcile", RECONCILE_S):
            self._retries_due |= bool(self.store.reconcile())
            self._read_ledger()

    def _is_due(self, what: str, every_s: float) -> bool:
        now = time.monotonic()
        due = now >= self._due.get(what, 0.0)
        if due:
            self._due[what] = now + every_s
        return due

    def _read_ledger(self) -> None:
        trials = self.store.trials()
        with self._lock:
            own = {trial.claimed.number for trial in [*self._ready, *self.running.values()]}
        self._others_running = sum(trial.number not in own for trial in trials.running) - self._untold
        self.finished = trials.finished
        self._ledger = Ledger()
        hopeful = [trial for trial in trials.failed if trial.kind != "error"]
        kept: list[FailedTrial | RunningTrial | CompletedTrial] = [*hopeful, *trials.running, *trials.completed]
        for trial in kept:
            self._ledger.add(trial.root, Proposal(trial.params, trial.rival, trial.seed))

    def _prepare(self) -> None:
        """Keeps every slot busy and one proposal ready beyond, as far as trials are still wanted: more would be asked too early."""
        while self.stop_reason is None and len(self._ready) + len(self.running) <= self.slots:
            with self._lock:
                under_way = len(self._ready) + len(self.running) + self._untold + self._others_running
            if self.finished + under_way >= self.trials:
                self._exhausted = self.finished >= self.trials
                return
            claimed = self._claim()
            if claimed is None:
                self._exhausted = under_way == 0
                return
            with self._lock:
                self._ready.append(Running(claimed, self._maker.job(claimed)))

    def _claim(self) -> ClaimedTrial | None:
        if self._retries_due:
            for retry in self.store.retries():
                if (claimed := self.store.claim_retry(retry, self._maker.distributions)) is not None:
                    return claimed
            self._retries_due = False
        proposal = self._maker.proposer.propose(self._ledger)
        if proposal is None:
            return None
        claimed = self.store.create_trial(
            fixed=proposal.fixed,
            distributions=self._maker.distributions,
            sampler=self._maker.sampler,
            rival=proposal.rival,
            seed=proposal.seed,
        )
        self._ledger.add(claimed.root, Proposal(claimed.params, proposal.rival, claimed.seed))
        return claimed
