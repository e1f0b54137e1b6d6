"""A study from its spec to its finished trials: the main path of this package.

launch(store, spec):
    continue what the database holds: fail dead trials, count finished ones     StudyStore
    start or join Ray                                                           ray_cluster
    time every kind of step, or reuse what was timed                            study_timing
    train until enough trials are finished: Tune runs, the dispatcher decides   _run_trials
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rich.console import Console

from studies.spec import StudySpec
from tuner.cluster import ray_cluster
from tuner.dispatcher import STOP_REQUEST, Dispatcher, TrialMaker
from tuner.display import LaunchDisplay, calibration_progress, waiting
from tuner.pricing import FirstBaseline, Pricing
from tuner.proposals import Proposer, SearchProposer
from tuner.provenance import code_commit
from tuner.results import study_front
from tuner.sampling import build_sampler, distributions
from tuner.store import StudyStore
from tuner.timing import data_root, device_kinds, study_timing, trial_device

RUNS_FOLDER: Final = Path("runs")
INTERRUPTED: Final = "Ctrl-C was pressed"
_STUDY_ID: Final = "study_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """How one launch runs. trials: finished ones in all. timeout_s: of this launch. address: of a Ray cluster, None starts one here."""

    trials: int
    timeout_s: float | None = None
    address: str | None = None
    accept_noisy_timing: bool = False


@dataclass(frozen=True, slots=True)
class LaunchOutcome:
    """How a launch ended. stop_reason: None when the asked number of trials is finished."""

    finished: int
    stop_reason: str | None = None


def launch(store: StudyStore, spec: StudySpec, options: LaunchOptions, console: Console, proposer: Proposer | None = None) -> LaunchOutcome:
    """Trains until `options.trials` trials of the study are finished, or something asks to stop. Continues what is there.

    proposer: what to train; None means the study's rivals and search. A proposer of the caller's own opens the test split.
    """
    store.set_attr(STOP_REQUEST, None)
    store.reconcile()
    if (finished := store.finished_count()) >= options.trials:
        return LaunchOutcome(finished)
    deadline_s = None if options.timeout_s is None else time.monotonic() + options.timeout_s
    with ray_cluster(options.address, spec, console) as slots:
        pricing = _pricing(store, spec, options, console)
        maker = TrialMaker(
            spec=spec,
            proposer=proposer or SearchProposer(spec),
            sampler=build_sampler(spec.sampler, spec.search, seed=spec.seed, trials_so_far=store.trial_count()),
            distributions=distributions(spec.search),
            checkpoints=_checkpoint_folder(store),
            data_root=data_root(spec),
            device=trial_device(spec),
            open_test=proposer is not None,
        )
        dispatcher = Dispatcher(store, maker, pricing, trials=options.trials, slots=slots, deadline_s=deadline_s)
        display = LaunchDisplay(console, dispatcher, lambda: study_front(store))
        with _stopping_on_ctrl_c(dispatcher, console), display.showing():
            _run_trials(dispatcher, spec)
    return LaunchOutcome(dispatcher.finished, dispatcher.stop_reason if dispatcher.finished < options.trials else None)


def _pricing(store: StudyStore, spec: StudySpec, options: LaunchOptions, console: Console) -> Pricing:
    with waiting(console, "loading torch and the images on each kind of device"):
        devices = device_kinds(spec)
    with calibration_progress(console) as on_progress:
        timing = study_timing(store, spec, devices, accept_noisy=options.accept_noisy_timing, on_progress=on_progress)
    if (reason := timing.reference.reason_to_doubt()) is not None:
        console.print(f"warning: this study's relative times are worth less, because {reason}")
    return Pricing(
        objectives=spec.objectives,
        reference=timing.reference,
        tables=timing.tables,
        baseline_steps=spec.training.epochs * timing.steps_per_epoch,
        commit=code_commit(),
        baseline=FirstBaseline(lambda: store.trials().completed),
    )


def _run_trials(dispatcher: Dispatcher, spec: StudySpec) -> None:
    from ray import tune

    from tuner.searcher import StopWhenAsked, StudySearcher
    from tuner.worker import TrialWorker

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


@contextmanager
def _stopping_on_ctrl_c(dispatcher: Dispatcher, console: Console) -> Iterator[None]:
    """The first Ctrl-C stops cleanly, the second one at once: the next launch finds what was under way in either case."""

    def stop(signal_number: int, frame: FrameType | None) -> None:
        if dispatcher.stop_reason is not None:
            raise KeyboardInterrupt
        dispatcher.request_stop(INTERRUPTED)
        console.print("stopping; what is being trained goes on from its last epoch at the next launch (Ctrl-C again: stop at once)")

    previous: Any = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _checkpoint_folder(store: StudyStore) -> Path:
    """Named after the study and an id of its own: another database may hold a study of the same name."""
    study_id = store.get_attr(_STUDY_ID)
    if study_id is None:
        study_id = uuid.uuid4().hex[:8]
        store.set_attr(_STUDY_ID, study_id)
    return (RUNS_FOLDER / f"{store.name}-{study_id}" / "checkpoints").absolute()
