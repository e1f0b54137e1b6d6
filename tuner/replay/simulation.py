"""A launch in simulated time: the same proposals, store and delivery, workers that answer from a table, and a clock that jumps.

simulate(replay, sampler):
    ask for trials until every worker has one and as many lie ready as in a launch     TrialSource
    jump to the next end of an epoch, of whichever worker comes first
    ask the stopper; tell what has ended, stopped or complete                          deliver, StudyStore.prune
"""

from __future__ import annotations

import heapq
import math
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from sqlalchemy import event

from trainers.checks import check_integer
from trainers.cost import step_name
from trainers.errors import InputError
from tuner.launching.delivery import deliver
from tuner.launching.maker import TrialMaker
from tuner.launching.pricing import Pricing
from tuner.launching.proposals import Proposer, SearchProposer
from tuner.launching.source import TrialSource
from tuner.replay.answers import Answer, Replay
from tuner.replay.score import Point, Score
from tuner.stoppers import Stop, Stopper
from tuner.storage.distributions import distributions
from tuner.storage.opening import open_storage
from tuner.storage.store import ClaimedTrial, StudyStore
from tuner.storage.urls import masked

# A launch keeps one proposal ready beyond its workers, so that none of them waits: it is made before the last results are in.
AHEAD: Final = 1
# Trainings of two simulations share no seed, unless one has more trials than this.
_SEEDS_APART: Final = 100_000
_NO_LIMIT: Final = 2**31
# Sums of seconds are not exact in binary; a trial that ends with the budget is within it.
_ROUNDING: Final = 1 + 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a simulation ends: accelerator seconds used by all workers together, or finished trials, whichever comes first."""

    budget_s: float = math.inf
    trials: int = _NO_LIMIT

    def __post_init__(self) -> None:
        check_integer("trials", self.trials, lowest=1)
        if not self.budget_s > 0:
            raise InputError(f"budget_s is {self.budget_s}, it must be a number above 0")
        if self.budget_s == math.inf and self.trials == _NO_LIMIT:
            raise InputError("neither budget_s nor trials is given, a simulation needs one of them to end")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedTrial:
    """A trial that ended. start_s, end_s: of the simulated clock; their difference is what it used of the budget.

    relative_time, val_accuracy: what the search was told, of a pruned one up to where it stopped. mean_accuracy: what a complete one of
    its configuration has on average over seeds.
    """

    number: int
    params: dict[str, Any]
    seed: int
    pruned: bool
    relative_time: float
    val_accuracy: float
    mean_accuracy: float
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulated search found. trajectory: a point for every complete trial. ask_s: wall seconds of each proposal, store included."""

    trials: list[SimulatedTrial]
    trajectory: list[Point]
    ask_s: list[float]


@dataclass(slots=True)
class _Running:
    """A trial that a simulated worker has. epoch: the one whose end comes next."""

    claimed: ClaimedTrial
    seed: int
    answer: Answer
    start_s: float = 0.0
    epoch: int = 1

    def end_s(self, epoch: int) -> float:
        return self.start_s + self.answer.elapsed_s[epoch - 1]


@dataclass(slots=True)
class _Clock:
    """Simulated seconds, and the trials that workers have, by the next time that something happens to them."""

    now_s: float = 0.0
    events: list[tuple[float, int, _Running]] = field(default_factory=list)

    def add(self, running: _Running) -> None:
        # At the same time the earlier trial comes first.
        heapq.heappush(self.events, (running.end_s(running.epoch), running.claimed.number, running))


def simulate(
    replay: Replay,
    sampler: BaseSampler,
    limits: Limits,
    *,
    workers: int = 1,
    seed: int = 0,
    stopper: Stopper | None = None,
    proposer: Proposer | None = None,
    url: str | None = None,
) -> Outcome:
    """Searches a table. The same arguments give the same outcome, as far as the sampler does.

    sampler: as `build_sampler` gives it. seed: of the trainings. proposer: None means rivals and search, as in a launch.
    url: of a database that has no trial of this table's study yet; None takes a temporary one.
    """
    check_integer("workers", workers, lowest=1)
    spec = replay.table.spec.model_copy(update={"seed": seed * _SEEDS_APART})
    with _opened(url) as storage:
        store = StudyStore.create_or_continue(storage, spec)
        if store.trial_count():
            raise InputError(f"study '{spec.name}' in {masked(str(url))} has trials, a simulation must begin without any")
        maker = TrialMaker(
            spec=spec,
            proposer=proposer or SearchProposer(spec),
            sampler=sampler,
            distributions=distributions(spec.search),
            place="",
            data_root="",
            device="cpu",
        )
        return _Simulation(replay, store, maker, limits, workers, stopper).run()


class _Simulation:
    def __init__(self, replay: Replay, store: StudyStore, maker: TrialMaker, limits: Limits, workers: int, stopper: Stopper | None) -> None:
        self._replay = replay
        self._store = store
        self._maker = maker
        self._limits = limits
        self._workers = workers
        self._stopper = stopper
        table = replay.table
        self._pricing = Pricing(store.spec.objectives, table.costs, {table.device: table.costs}, table.baseline_steps, "replay")
        self._source = TrialSource(store, maker, limits.trials)
        self._clock = _Clock()
        self._ready: deque[_Running] = deque()
        self._score = Score(table.reference)
        self._used_s = 0.0
        self._outcome = Outcome([], [], [])

    def run(self) -> Outcome:
        self._prepare()
        while self._clock.events:
            now_s, _, running = heapq.heappop(self._clock.events)
            if self._spent_s(now_s, running) > self._limits.budget_s * _ROUNDING:
                self._clock.add(running)
                break
            self._clock.now_s = now_s
            self._end_epoch(running)
            self._prepare()
        for running in [*self._ready, *(running for _, _, running in self._clock.events)]:
            self._store.fail(running.claimed.number, "interrupted", "the simulation ended")
        return self._outcome

    def _spent_s(self, now_s: float, running: _Running) -> float:
        """Accelerator seconds of all workers until then, trials under way included."""
        under_way = [running, *(other for _, _, other in self._clock.events)]
        return self._used_s + sum(now_s - one.start_s for one in under_way)

    def _prepare(self) -> None:
        """Gives every free worker a trial, and keeps AHEAD more ready, as far as trials are wanted."""
        while True:
            while self._ready and len(self._clock.events) < self._workers:
                running = self._ready.popleft()
                running.start_s = self._clock.now_s
                self._clock.add(self._at_its_next_event(running))
            under_way = len(self._ready) + len(self._clock.events)
            if under_way >= self._workers + AHEAD or len(self._outcome.trials) + under_way >= self._limits.trials:
                return
            if (asked := self._asked()) is None:
                return
            self._ready.append(asked)

    def _asked(self) -> _Running | None:
        begin_s = time.perf_counter()
        claim = self._source.next()
        while claim is None and not self._source.exhausted:
            claim = self._source.next()
        if claim is None:
            return None
        self._outcome.ask_s.append(time.perf_counter() - begin_s)
        config = self._maker.running(claim.trial).job.config
        return _Running(claim.trial, config.seed, self._replay.answer(claim.trial.params, config.seed))

    def _at_its_next_event(self, running: _Running) -> _Running:
        # Nobody asks what happens between without a stopper.
        if self._stopper is None:
            running.epoch = len(running.answer.curve)
        return running

    def _end_epoch(self, running: _Running) -> None:
        answer, epoch = running.answer, running.epoch
        stop = self._stop(running)
        if epoch == len(answer.curve):
            self._complete(running)
        elif stop is not None:
            self._prune(running, stop)
        else:
            running.epoch += 1
            self._clock.add(running)

    def _stop(self, running: _Running) -> Stop | None:
        if self._stopper is None:
            return None
        answer, epoch = running.answer, running.epoch
        return self._stopper.decide(running.claimed, epoch, answer.curve[:epoch], self._times(answer))

    def _times(self, answer: Answer) -> tuple[float, ...]:
        return tuple(elapsed_s / self._replay.table.baseline_s for elapsed_s in answer.elapsed_s)

    def _complete(self, running: _Running) -> None:
        counts = {step_name(step): count for step, count in running.answer.counts.items()}
        record = self._record(running) | {"counts": counts}
        values, stored = self._pricing.values(record, alone=False)
        number = deliver(self._store, running.claimed, values, stored, self._maker.distributions, self._limits.trials)
        assert number == running.claimed.number  # nobody else works on this study
        self._note(running, pruned=False, relative_time=values["relative_time"])
        spent_s = self._used_s + sum(self._clock.now_s - other.start_s for _, _, other in self._clock.events)
        self._outcome.trajectory.append(
            self._score.add(spent_s, values["relative_time"], values["val_accuracy"], running.answer.mean_accuracy)
        )

    def _prune(self, running: _Running, stop: Stop) -> None:
        self._store.prune(running.claimed.number, self._record(running) | stop.record(running.epoch))
        self._note(running, pruned=True, relative_time=self._times(running.answer)[running.epoch - 1])

    def _record(self, running: _Running) -> dict[str, Any]:
        """What a worker would report at the end of this epoch, as far as a table knows it."""
        curve = running.answer.curve[: running.epoch]
        seconds = {"train": running.answer.elapsed_s[running.epoch - 1], "data": 0.0, "evaluation": 0.0, "checkpoint": 0.0}
        unknown: dict[str, Any] = {"val_loss": math.nan, "peak_memory": math.nan, "test_accuracy": None, "versions": {}}
        measured = {"curve": list(curve), "val_accuracy": curve[-1], "seconds": seconds}
        return {**measured, **unknown, "seed": running.seed, "device": self._replay.table.device}

    def _note(self, running: _Running, *, pruned: bool, relative_time: float) -> None:
        self._used_s += self._clock.now_s - running.start_s
        self._outcome.trials.append(
            SimulatedTrial(
                number=running.claimed.number,
                params=running.claimed.params,
                seed=running.seed,
                pruned=pruned,
                relative_time=relative_time,
                val_accuracy=running.answer.curve[running.epoch - 1],
                mean_accuracy=running.answer.mean_accuracy,
                start_s=running.start_s,
                end_s=self._clock.now_s,
            )
        )


@contextmanager
def _opened(url: str | None) -> Iterator[RDBStorage]:
    if url is not None:
        yield open_storage(url)
        return
    with tempfile.TemporaryDirectory(prefix="downsample-tuner-replay-") as folder:
        storage = open_storage(f"sqlite:///{Path(folder) / 'replay.db'}")
        # Nobody needs it after a power failure.
        event.listen(storage.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        storage.engine.dispose()
        yield storage
        storage.engine.dispose()
