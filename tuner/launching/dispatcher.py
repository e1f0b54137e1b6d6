"""Between Ray and the database: keeps proposals ready, keeps results, notices dead drivers.

Ray's event loop calls `take`, `epoch_done`, `trial_done` and `is_unwanted`, which never wait. One thread of ours does what can wait, in
this order: tell what has finished, fail and retry what was lost, ask for the next trial. A second thread beats, so that a slow sampler or
a long retry can't make our trials look dead. While the database is away, trainings go on and results wait.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from optuna.trial import TrialState

from trainers.errors import RunError
from tuner.launching.delivery import FINISHED, deliver, last_report
from tuner.launching.failures import FailureWatch
from tuner.launching.inbox import Inbox
from tuner.launching.jobs import EpochDone, Job, Report, TrialDone, TrialFailed, TrialStopped
from tuner.launching.maker import Running, TrialMaker
from tuner.launching.pricing import Pricing
from tuner.launching.retention import Retention
from tuner.launching.source import TrialSource
from tuner.launching.stop_rules import StopRules
from tuner.launching.stopping import Stopping, stopped_line
from tuner.results.stored import front_roots
from tuner.stoppers import Stopper
from tuner.storage.opening import HEARTBEAT_S, DatabaseAway
from tuner.storage.records import refused_values
from tuner.storage.store import StudyStore
from tuner.storage.trials import StudyTrials

RECONCILE_S: Final = 30.0
# With nothing to train but what other drivers have, it is time to see whether they still live.
IDLE_RECONCILE_S: Final = 5.0
STOP_POLL_S: Final = 2.0
# Reading a study of 10,000 trials takes a third of a second.
RULES_S: Final = 5.0
EVENTS_S: Final = 0.5
STOP_REQUEST: Final = "stop_requested"


class Dispatcher:
    """Hands out jobs and keeps results until `trials` are finished, something asks to stop, or nothing is left to train."""

    def __init__(
        self,
        store: StudyStore,
        maker: TrialMaker,
        pricing: Pricing,
        *,
        trials: int,
        slots: int,
        deadline_s: float | None,
        stopper: Stopper | None = None,
        rules: StopRules | None = None,
    ) -> None:
        self.store = store
        self.trials = trials
        self.deadline_s = deadline_s
        self.stop_reason: str | None = None
        self.enough = False
        self.running: dict[str, Running] = {}
        self.on_event: Callable[[str], None] = lambda line: None
        self._maker = maker
        self._pricing = pricing
        self._stopping = Stopping(stopper, store.spec, pricing)
        self._rules = rules
        self.slots = slots
        self._ready: deque[Running] = deque()
        self._inbox = Inbox()
        self._unwanted: set[str] = set()
        self._failures = FailureWatch()
        self._retention = Retention(maker.place, store.spec.checkpoints.keep)
        self._source = TrialSource(store, maker, trials)
        self.is_paused = False
        self._error: BaseException | None = None
        self._exhausted = False
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}
        self.finished = store.finished_count()

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
        self._inbox.wake()
        return trial.job

    def epoch_done(self, tune_id: str, report: EpochDone) -> None:
        """Notes a running trial's progress for the display, and whether it is to end early."""
        if running := self.running.get(tune_id):
            running.curve = report.curve
            if self._stopping.judge(running, report):
                self._unwanted.add(tune_id)

    def trial_done(self, tune_id: str, report: Report | None) -> None:
        """A trial's last report; None when its worker died without one."""
        with self._lock:
            running = self.running.pop(tune_id, None)
            self._unwanted.discard(tune_id)
        if running is not None:
            self._inbox.add(running, report)

    def is_unwanted(self, tune_id: str) -> bool:
        """Whether a worker trains what is to end early, or what has a result already: another attempt was faster."""
        return tune_id in self._unwanted

    def dropped(self, tune_id: str) -> None:
        """A worker was stopped; what is still wanted stays among the running, for `close` to give back."""
        with self._lock:
            running = self.running.pop(tune_id, None) if tune_id in self._unwanted else None
            self._unwanted.discard(tune_id)
        if running is not None and running.stopped is not None:
            self._inbox.add(running, running.stopped)

    @property
    def epochs_done(self) -> int:
        """Of the trials that run now, together."""
        return sum(len(running.curve) for running in list(self.running.values()))

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
        self._inbox.wake()
        for thread in self._threads:
            thread.join()
        # Whoever showed events may be what failed.
        self.on_event = lambda line: None
        try:
            self._tell()
            for trial in [*self._ready, *self.running.values()]:
                self.store.fail(trial.claimed.number, "interrupted", f"the launch ended: {self.stop_reason or 'no reason given'}")
            self._retention.look_again()
            self._look_at(self.store.trials())
        except DatabaseAway as error:
            kept = "what has finished is kept beside its checkpoints, and the next launch tells it"
            self._error = self._error or RunError(f"{error}; {kept}")
        finally:
            if self._error is not None:
                raise self._error

    def _work(self) -> None:
        try:
            while not self._closing.is_set():
                self._turn()
        except BaseException as error:  # noqa: BLE001  SystemExit too, which rich raises when the terminal is gone; close() raises it again
            self._end_with(error)

    def _turn(self) -> None:
        try:
            self._housekeeping()
            self._prepare()
            self._inbox.wait(EVENTS_S)
            self._tell()
        except DatabaseAway as error:
            if not self.is_paused:
                self.is_paused = True
                self.on_event(f"paused: {error}; what is being trained goes on, and its results are kept beside its checkpoints")
            return
        if self.is_paused:
            self.is_paused = False
            self.on_event("the database answers again")

    def _beat(self) -> None:
        told: dict[int, int] = {}
        while not self._closing.wait(HEARTBEAT_S / 2):
            with self._lock:
                curves = {trial.claimed.number: trial.curve for trial in [*self._ready, *self.running.values()]}
            try:
                self.store.beat(curves, {number: curve for number, curve in curves.items() if len(curve) > told.get(number, 0)})
                told = {number: len(curve) for number, curve in curves.items()}
            except RunError:
                # The other thread meets the same, and decides; a trial that was failed as silent meanwhile is taken up again.
                continue

    def _tell(self) -> None:
        """Brings every report into the database. One that the database went away with is told again: telling twice changes nothing."""
        for running, report in self._inbox.untold():
            match report or last_report(self._maker.place, running.claimed):
                case TrialFailed(reason, may_pass):
                    self._fail(running, "lost" if may_pass else "error", reason)
                case TrialDone() | TrialStopped() as end:
                    self._finish(running, end)

    def _finish(self, running: Running, end: TrialDone | TrialStopped) -> None:
        claimed = running.claimed
        if isinstance(end, TrialStopped):
            values, stored = None, self._stopping.record(running, end)
        else:
            values, stored = self._pricing.values(end.record, alone=running.alone)
        if values is not None and (reason := refused_values(self.store.spec.objectives, values)):
            self._fail(running, "error", reason)
            return
        number = deliver(self.store, claimed, values, stored, self._maker.distributions, self.trials)
        self.finished = self.store.finished_count()
        if number is None:
            why = f"root trial {claimed.root} has a result, or enough trials have one"
            self.on_event(f"trial {claimed.number} has finished too late: {why}")
            return
        self._failures.finished()
        self._stopping.finished(running, stored["curve"])
        config = running.job.config
        self.on_event(stopped_line(number, config, stored) if values is None else self._pricing.line(number, config, values, stored))

    def _fail(self, running: Running, kind: str, reason: str) -> None:
        claimed = running.claimed
        self.store.fail(claimed.number, kind, reason)
        self._source.retry_soon()
        self.on_event(f"trial {claimed.number} failed: {reason}")
        if (why := self._failures.failed(reason)) is not None:
            self._end_with(RunError(why))

    def _end_with(self, error: BaseException) -> None:
        self._error = self._error or error
        self.request_stop(str(error))

    def _housekeeping(self) -> None:
        if self.deadline_s is not None and time.monotonic() > self.deadline_s:
            self.request_stop("its time is over")
        if self._is_due("stop", STOP_POLL_S) and self.store.get_attr(STOP_REQUEST):
            self.request_stop("tuner stop asked for it")
        if self._is_due("reconcile", RECONCILE_S):
            self._reconcile()
        if self._rules is not None and self._is_due("rules", RULES_S) and (reason := self._rules.reason(self.store.trials())):
            self.enough = True
            self.request_stop(reason)

    def _is_due(self, what: str, every_s: float) -> bool:
        now = time.monotonic()
        due = now >= self._due.get(what, 0.0)
        if due:
            self._due[what] = now + every_s
        return due

    def _reconcile(self) -> None:
        self._look_at(self._source.reconcile())
        self._look_after_own()

    def _look_at(self, trials: StudyTrials) -> None:
        self.finished = trials.finished
        self._stopping.learn(trials)
        over = trials.ended_roots - {retry.root for retry in self.store.retries()}
        try:
            self._retention.prune(over, front_roots(self.store.spec, trials.completed))
        except OSError as error:
            self.on_event(f"checkpoints that are needed no more stay for now: {error}")

    def _look_after_own(self) -> None:
        """Takes up own trials that were failed as silent while the database was away, and stops what has a result already."""
        with self._lock:
            own = [*self.running.items(), *((None, trial) for trial in self._ready)]
        states = self.store.states(trial.claimed.number for _, trial in own)
        for tune_id, trial in own:
            if states[trial.claimed.number] == TrialState.RUNNING:
                continue
            if any(state in FINISHED for state in self.store.family(trial.claimed.root).values()):
                self._stop_training(tune_id, trial)
            elif (claimed := self._source.take_up(trial.claimed)) is not None:
                trial.claimed = claimed

    def _stop_training(self, tune_id: str | None, trial: Running) -> None:
        with self._lock:
            if tune_id is not None:
                self._unwanted.add(tune_id)
            elif trial in self._ready:
                self._ready.remove(trial)

    def _prepare(self) -> None:
        """Keeps every slot busy and one proposal ready beyond, as far as trials are still wanted: more would be asked too early."""
        while self.stop_reason is None and len(self._ready) + len(self.running) <= self.slots:
            self.finished = self.store.finished_count()
            if self.finished >= self.trials:
                self._exhausted = True
                return
            if self.finished + self.store.running_count() >= self.trials:
                self._wait_for_others()
                return
            claim = self._source.next()
            if claim is None:
                # With nothing under way either, the launch is over.
                self._exhausted = self._source.exhausted and not self._inbox and self.store.running_count() == 0
                return
            running = self._stopping.priced(self._maker.running(claim.trial))
            if claim.record is not None:
                self._inbox.add(replace(running, alone=False), TrialDone(claim.record))
                return
            with self._lock:
                self._ready.append(running)

    def _wait_for_others(self) -> None:
        """Enough trials run, here or with other drivers; one that dies leaves its part to the others."""
        if not self.running and not self._ready and self._is_due("idle", IDLE_RECONCILE_S):
            self._reconcile()
