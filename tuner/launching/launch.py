"""A study from its spec to its finished trials: the main path of this package.

launch(store, spec):
    continue what the database holds: fail dead trials, count finished ones     StudyStore
    look whether disk, database, images, network and nodes are fit              doctor
    start or join Ray                                                           ray_cluster
    time every kind of step, or reuse what was timed                            study_timing
    train until enough trials are finished: Tune runs, the dispatcher decides   _run_trials
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from rich.console import Console

from studies.spec import StudySpec
from tuner.launching.cluster import ray_cluster
from tuner.launching.dispatcher import STOP_REQUEST, Dispatcher
from tuner.launching.display import LaunchDisplay, calibration_progress, waiting, warn
from tuner.launching.doctor import check_here, check_nodes, raise_problems, warnings_in
from tuner.launching.maker import TrialMaker
from tuner.launching.node_checks import Finding, check_load
from tuner.launching.notices import Event, Notice, Notifier, watching
from tuner.launching.places import study_place
from tuner.launching.pricing import FirstBaseline, Pricing
from tuner.launching.proposals import Proposer, SearchProposer
from tuner.launching.provenance import code_commit
from tuner.launching.stop_rules import StopRules
from tuner.launching.timing import COST_TABLES, data_root, device_kinds, study_timing, timing_doubt, trial_device
from tuner.results.stored import study_front
from tuner.samplers.build import build_sampler
from tuner.samplers.plan_cost import PlanCost
from tuner.stoppers.build import build_stopper
from tuner.storage.distributions import distributions
from tuner.storage.store import StudyStore

INTERRUPTED: Final = "Ctrl-C was pressed"
TERMINATED: Final = "it was asked to terminate"
# Study attribute: how many finished trials the last launch asked for.
ASKED: Final = "asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """How one launch runs.

    trials: finished ones in all. timeout_s: of this launch. address: of a Ray cluster, None starts one here. checkpoints: folder or
    fsspec URL below which the study keeps checkpoints and results, None the one of its last launch. notifier: who is told of stalls.
    """

    trials: int
    timeout_s: float | None = None
    address: str | None = None
    checkpoints: str | None = None
    accept_noisy_timing: bool = False
    notifier: Notifier | None = None


@dataclass(frozen=True, slots=True)
class LaunchOutcome:
    """How a launch ended. stop_reason: None when the asked number of trials is finished. enough: a rule of the budget ended it."""

    finished: int
    stop_reason: str | None = None
    enough: bool = False


def launch(store: StudyStore, spec: StudySpec, options: LaunchOptions, console: Console, proposer: Proposer | None = None) -> LaunchOutcome:
    """Trains until `options.trials` trials of the study are finished, or something asks to stop. Continues what is there.

    proposer: what to train; None means the study's rivals and search. A proposer of the caller's own opens the test split.
    """
    place = study_place(store, options.checkpoints)
    store.set_attr(STOP_REQUEST, None)
    store.reconcile()
    # Beside another driver of the study, the larger number is what is asked for.
    beside = store.running_count() > 0
    store.change_attr(ASKED, lambda kept: max(kept or 0, options.trials) if beside else options.trials)
    if (finished := store.finished_count()) >= options.trials:
        return LaunchOutcome(finished)
    # What is given by name is trained whatever it costs.
    rules = StopRules(spec) if proposer is None and StopRules(spec).any else None
    if rules is not None and (enough := rules.reason(store.trials())) is not None:
        return LaunchOutcome(finished, enough, enough=True)
    if _times_steps_here(store, options):
        # The first thing that is said: the refusal itself comes after minutes.
        _examine([check_load()], console)
    _examine(check_here(spec, store.storage, place, address=options.address), console)
    deadline_s = None if options.timeout_s is None else time.monotonic() + options.timeout_s
    with ray_cluster(options.address, spec, console) as slots:
        _examine(check_nodes(spec, place), console)
        pricing = _pricing(store, spec, options, console, of_search=proposer is None)
        maker = TrialMaker(
            spec=spec,
            proposer=proposer or SearchProposer(spec),
            sampler=build_sampler(spec, _plan_cost(spec, pricing), store.launch_number()),
            distributions=distributions(spec.search),
            place=place,
            data_root=data_root(spec),
            device=trial_device(spec),
            open_test=proposer is not None,
        )
        dispatcher = Dispatcher(
            store,
            maker,
            pricing,
            trials=options.trials,
            slots=slots,
            deadline_s=deadline_s,
            stopper=build_stopper(spec) if proposer is None else None,
            rules=rules,
        )
        display = LaunchDisplay(console, dispatcher, lambda: study_front(store))
        with _stopping_on_signals(dispatcher, console), display.showing(), watching(dispatcher, _teller(dispatcher, options.notifier)):
            _run_trials(dispatcher, spec)
    if (sentence := pricing.held_up.summary()) is not None:
        console.print(sentence, soft_wrap=True)
    if dispatcher.finished >= options.trials:
        return LaunchOutcome(dispatcher.finished)
    return LaunchOutcome(dispatcher.finished, dispatcher.stop_reason, dispatcher.enough)


def _examine(findings: Sequence[Finding], console: Console) -> None:
    raise_problems(findings)
    for sentence in warnings_in(findings):
        warn(console, sentence)


def _times_steps_here(store: StudyStore, options: LaunchOptions) -> bool:
    """Whether this machine's load may keep step times from being measured: not on a cluster, nor where all prices are known."""
    return options.address is None and not options.accept_noisy_timing and not store.get_attr(COST_TABLES)


def _pricing(store: StudyStore, spec: StudySpec, options: LaunchOptions, console: Console, *, of_search: bool) -> Pricing:
    with waiting(console, "loading torch and the images on each kind of device"):
        devices = device_kinds(spec)
    with calibration_progress(console) as on_progress:
        timing = study_timing(store, spec, devices, accept_noisy=options.accept_noisy_timing, on_progress=on_progress)
    if (doubt := timing_doubt(store)) is not None:
        # The first table prices a study for good, so that its trials stay comparable.
        better = f"--set name={spec.name}-quiet on an otherwise idle machine starts a study with better ones"
        warn(console, f"this study's {doubt}; {better if of_search else 'the accuracies that are confirmed do not depend on them'}")
    return Pricing(
        objectives=spec.objectives,
        reference=timing.reference,
        tables=timing.tables,
        baseline_steps=spec.training.epochs * timing.steps_per_epoch,
        commit=code_commit(),
        baseline=FirstBaseline(lambda: store.trials().completed),
    )


def _plan_cost(spec: StudySpec, pricing: Pricing) -> PlanCost:
    relative = {step: cost.relative for step, cost in pricing.reference.costs.items()}
    return PlanCost(spec.search, relative, pricing.baseline_steps // spec.training.epochs, pricing.baseline_steps)


def _run_trials(dispatcher: Dispatcher, spec: StudySpec) -> None:
    from ray import tune

    from tuner.launching.searcher import StopWhenAsked, StudySearcher
    from tuner.launching.worker import TrialWorker

    # Of a worker that dies the dispatcher says one line; Tune would add its own page for each, and call the launch a failure at the end.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # Workers start side by side; how many trials there may be at once is the dispatcher's to say.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(dispatcher.slots)
    dispatcher.start()
    try:
        # What Tune writes is disposable: the database is the one truth, and checkpoints are the trainings' own.
        with tempfile.TemporaryDirectory(prefix="downsample-tuner-") as scratch:
            tune.Tuner(
                tune.with_resources(TrialWorker, {"cpu": spec.resources.cpus, "gpu": spec.resources.gpus}),
                tune_config=tune.TuneConfig(
                    search_alg=StudySearcher(dispatcher),
                    num_samples=-1,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(name="tune", storage_path=scratch, verbose=0, stop=StopWhenAsked(dispatcher)),
            ).fit()
    finally:
        dispatcher.close()


def _teller(dispatcher: Dispatcher, notifier: Notifier | None) -> Callable[[Event, str], None]:
    def tell(event: Event, text: str) -> None:
        # Of its database the dispatcher has said so itself.
        if event in ("stalled", "moving"):
            dispatcher.on_event(text)
        if notifier is not None:
            study = dispatcher.store.name
            notifier.send(
                Notice(event=event, study=study, text=f"study '{study}': {text}", finished=dispatcher.finished, asked=dispatcher.trials)
            )

    return tell


@contextmanager
def _stopping_on_signals(dispatcher: Dispatcher, console: Console) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM stops cleanly, the second one at once: the next launch finds what was under way in either case."""

    def stop(signal_number: int, frame: FrameType | None) -> None:
        if dispatcher.stop_reason is not None:
            raise KeyboardInterrupt
        dispatcher.request_stop(INTERRUPTED if signal_number == signal.SIGINT else TERMINATED)
        console.print("stopping; what is being trained goes on from its last epoch at the next launch (once more: stop at once)")

    signals = (signal.SIGINT, signal.SIGTERM)
    previous: list[Any] = [signal.signal(number, stop) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
