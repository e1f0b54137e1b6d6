"""A study's stopper in a launch: what it learns from, what each trial costs by epochs, and what is kept of one that it stops.

`judge` is called in Ray's event loop, everything else in the dispatcher's work thread: planning a long training takes seconds.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from studies.spec import OBJECTIVES, StudySpec
from trainers.config import TrainConfig
from trainers.cost import step_name
from trainers.errors import InputError
from trainers.schedule import Plan, Schedule
from tuner.launching.jobs import EpochDone, TrialStopped
from tuner.launching.maker import Running
from tuner.launching.pricing import Pricing
from tuner.results.front import TIME, front, rival_front
from tuner.stoppers import Stop, Stopper
from tuner.storage.trials import CompletedTrial, PrunedTrial, StudyTrials, UnmeasuredTrial

# Of the trials that have finished elsewhere or before, the stopper learns from the newest ones and from the front.
NEWEST: Final = 200
# Steps an epoch that a finished trial is planned with: shares of its time are exact to within one of them, in a fraction of the time.
_COARSE_STEPS: Final = 32


class Stopping:
    """Asks the stopper about the trials of one driver; None stops nothing. spec, pricing: the study's."""

    def __init__(self, stopper: Stopper | None, spec: StudySpec, pricing: Pricing) -> None:
        self._stopper = stopper
        self._spec = spec
        self._pricing = pricing
        self._steps_per_epoch = pricing.baseline_steps // spec.training.epochs
        self._learned: set[int] = set()
        self._lock = threading.Lock()

    def judge(self, running: Running, report: EpochDone) -> bool:
        """Whether a trial that has reported is to end now, which it then keeps as `stopped`."""
        stop = self._decided(running.claimed, report.curve, running.times)
        if stop is not None:
            running.stopped = TrialStopped(report, stop)
        return stop is not None

    def priced(self, running: Running) -> Running:
        """A trial that is about to be trained, with the relative times of its epochs."""
        return running if self._stopper is None else replace(running, times=self._times(self._plan(running), self._steps_per_epoch))

    def finished(self, running: Running, curve: Sequence[float]) -> None:
        """A trial of this driver has ended, with its result or without."""
        self._learned.add(running.claimed.root)
        self._decided(running.claimed, curve, running.times)

    def learn(self, trials: StudyTrials) -> None:
        """Shows the stopper what it has not seen of a study, of other drivers and earlier launches, in the order of their numbers."""
        if self._stopper is None:
            return
        finished: list[CompletedTrial | PrunedTrial] = [*trials.completed, *trials.pruned]
        unseen = {trial.number: trial for trial in finished if trial.root not in self._learned}
        self._learned.update(trial.root for trial in unseen.values())
        objectives = {name: OBJECTIVES[name] for name in self._spec.objectives}
        chosen = set(sorted(unseen)[-NEWEST:])
        if len(chosen) < len(unseen):
            best = [*front(trials.completed, objectives), *rival_front(trials.completed, objectives)]
            chosen |= {trial.number for trial in best} & unseen.keys()
        for number in sorted(chosen):
            self._show(unseen[number])

    def record(self, running: Running, stopped: TrialStopped) -> dict[str, Any]:
        """What is kept of a stopped trial, JSON-ready: what its worker has measured so far, and why it was stopped."""
        report, config = stopped.report, running.job.config
        steps = itertools.chain.from_iterable(self._plan(running).epochs[: report.epoch])
        return {
            "curve": list(report.curve),
            "counts": {step_name(step): count for step, count in Counter(steps).items()},
            "seconds": report.seconds,
            "seed": config.seed,
            "device": report.device,
            "commit": self._pricing.commit,
            **stopped.stop.record(report.epoch),
            "note": f"- stopped early: {stopped.stop.reason}",
        }

    def _decided(self, trial: UnmeasuredTrial | CompletedTrial, curve: Sequence[float], times: Sequence[float]) -> Stop | None:
        if self._stopper is None:
            return None
        with self._lock:
            return self._stopper.decide(trial, len(curve), curve, times)

    def _show(self, trial: CompletedTrial | PrunedTrial) -> None:
        steps = min(self._steps_per_epoch, _COARSE_STEPS)
        try:
            schedule = self._spec.search.schedule(trial.params, trial.seed or 0)
            plan = schedule.plan(trial.params["epochs"] * steps, self._spec.dataset.full_px, steps)
            times = self._times(plan, steps)
        except (InputError, KeyError):
            return  # another program's trial, outside the space
        if isinstance(trial, CompletedTrial):
            scale = trial.values[TIME] / times[-1]
            times = tuple(scale * time for time in times)
        self._decided(trial, trial.curve, times)

    def _plan(self, running: Running) -> Plan:
        config = running.job.config
        schedule: Schedule = config.schedule
        return schedule.plan(config.epochs * self._steps_per_epoch, config.data.full_px, self._steps_per_epoch)

    def _times(self, plan: Plan, steps_per_epoch: int) -> tuple[float, ...]:
        costs = self._pricing.reference.costs
        unit = steps_per_epoch * self._spec.training.epochs
        return tuple(itertools.accumulate(sum(costs[step].relative for step in epoch) / unit for epoch in plan.epochs))


def stopped_line(number: int, config: TrainConfig, stored: Mapping[str, Any]) -> str:
    """A stopped trial in one line. stored: its record as it is stored."""
    return f"trial {number} stopped after {stored['stopped']['epoch']} of {config.epochs} epochs: {stored['stopped']['reason']}"
