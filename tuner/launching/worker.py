"""The Ray side of a trial: trains one job and reports between epochs. It needs no database and is reused from trial to trial."""

from __future__ import annotations

import functools
import gc
import time
import traceback
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from ray import tune

from trainers.errors import InputError, NonFiniteLossError
from trainers.places import RootPlace
from trainers.watchdog import Watchdog
from tuner.launching.jobs import EpochDone, Job, Report, TrialDone, TrialFailed
from tuner.launching.trial_log import TrialLog, trial_log

if TYPE_CHECKING:
    from trainers.config import TrainConfig
    from trainers.distributed import RankPool
    from trainers.loop import Training
    from trainers.result import EpochReport


# Each report costs a round trip through Tune, which short epochs would feel; a trial can be stopped at its reports only.
REPORT_EVERY_S: Final = 2.0


class TrialWorker(tune.Trainable):
    """One call of `step` is one epoch, or as many short ones as fit into REPORT_EVERY_S.

    On several GPUs this process is rank 0 and starts the others itself: a trial never spans nodes, and Ray has made its GPUs visible.
    """

    # Kept from trial to trial, like this process.
    _pool: RankPool | None = None

    def setup(self, config: dict[str, Any]) -> None:
        self._job: Job = config["job"]
        self._training: Training | None = None
        self._log: TrialLog | None = None
        self._open_log = ExitStack()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next trial in the same process: importing torch anew costs seconds."""
        self._open_log.close()
        self.setup(new_config)
        # The last trial's network and optimizer are in reference cycles, and their memory would be missing in this one.
        gc.collect()
        _freeze_what_stays()
        return True

    def step(self) -> dict[str, Any]:
        report = self._next_report()
        return {"report": report, "done": not isinstance(report, EpochDone)}

    def cleanup(self) -> None:
        """Ends the processes of the other ranks."""
        self._open_log.close()
        if self._pool is not None:
            self._pool.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Trainings write their own checkpoints, keyed by root trial; Tune's would be a second, disposable truth."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See save_checkpoint."""

    def _next_report(self) -> Report:
        try:
            log = self._started_log()
            report = self._train_on(Watchdog(log.path))
            log.flush()
        except Exception as error:  # noqa: BLE001  whatever a user's network raises fails this trial only, and the worker lives on
            traceback.print_exc()
            self._training = None
            # The same configuration gives the same losses and meets the same refusals; memory or a disk may be there the next time.
            report = TrialFailed(f"{type(error).__name__}: {error}", may_pass=not isinstance(error, InputError | NonFiniteLossError))
        if not isinstance(report, EpochDone):
            self._open_log.close()
        return report

    def _train_on(self, watchdog: Watchdog) -> Report:
        from trainers.loop import Training

        pool = self._pool_for(self._job.config)
        if self._training is None:
            self._training = pool.start(Training, self._job.config, watchdog=watchdog)
        report_at = time.monotonic() + REPORT_EVERY_S
        while not self._training.done:
            epoch = self._run_epoch(pool)
            if not self._training.done and time.monotonic() >= report_at:
                return _progress(self._training, epoch.train_loss)
        with watchdog:
            record = _record(self._training, self._job)
        self._keep(record)
        return TrialDone(record)

    def _run_epoch(self, pool: RankPool) -> EpochReport:
        assert self._training is not None
        started_s = time.monotonic()
        epoch = pool.call(self._training.run_epoch)
        seconds = time.monotonic() - started_s
        figures = f"training loss {epoch.train_loss:.4g}, validation accuracy {epoch.val_accuracy:.2%}, {seconds:.3g} s"
        print(f"epoch {epoch.epoch} of {self._job.config.epochs}: {figures}")
        return epoch

    def _started_log(self) -> TrialLog:
        if self._log is None:
            self._log = self._open_log.enter_context(trial_log(self._place(), self._job.config.attempt))
        return self._log

    def _keep(self, record: dict[str, Any]) -> None:
        """Leaves the result beside the checkpoints before anyone is told: driver and database may be gone for long."""
        try:
            self._place().write_result(self._job.config.attempt, record)
        except OSError as error:
            warnings.warn(f"the result is reported only, because {error}", stacklevel=2)

    def _place(self) -> RootPlace:
        place = self._job.config.checkpoint
        assert place is not None, "every job has one"
        return RootPlace(place)

    def _pool_for(self, config: TrainConfig) -> RankPool:
        from trainers.distributed import RankPool

        if self._pool is None:
            self._pool = RankPool(config.ranks, config.device)
        return self._pool


@functools.cache
def _freeze_what_stays() -> None:
    """Exempts what has survived the first trial, modules and images, from later collections, which would take 0.2 s a trial over it.

    Once a process: of what a later trial leaves behind, some may still become garbage.
    """
    gc.freeze()


def _progress(training: Training, train_loss: float) -> EpochDone:
    from trainers.device import device_name

    return EpochDone(tuple(training.curve), train_loss, training.seconds(), device_name(training.device))


def _record(training: Training, job: Job) -> dict[str, Any]:
    from trainers.cost import step_name
    from trainers.evaluation import evaluate_test

    result = training.result()
    return {
        "val_accuracy": result.val_accuracy,
        "val_loss": result.val_loss,
        "test_accuracy": evaluate_test(job.config, result.model) if job.open_test else None,
        "curve": list(result.curve),
        "figures": list(result.figures) if any(result.figures) else [],
        "counts": {step_name(step): count for step, count in result.counts.items()},
        "seconds": result.seconds,
        "peak_memory": result.peak_memory_mib,
        "seed": job.config.seed,
        "device": result.device,
        "versions": result.versions,
    }
