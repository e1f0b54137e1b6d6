"""The Ray side of a trial: trains one job and reports between epochs. It needs no database and is reused from trial to trial."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any, Final

from ray import tune

from tuner.jobs import EpochDone, Job, Report, TrialDone, TrialFailed

if TYPE_CHECKING:
    from trainers.loop import Training


# Each report costs a round trip through Tune, which short epochs would feel; a trial can be stopped at its reports only.
REPORT_EVERY_S: Final = 2.0


class TrialWorker(tune.Trainable):
    """One call of `step` is one epoch, or as many short ones as fit into REPORT_EVERY_S."""

    def setup(self, config: dict[str, Any]) -> None:
        self._job: Job = config["job"]
        self._training: Training | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next trial in the same process: importing torch anew costs seconds."""
        self.setup(new_config)
        # The last trial's network and optimizer are in reference cycles, and their memory would be missing in this one.
        gc.collect()
        return True

    def step(self) -> dict[str, Any]:
        report = self._next_report()
        return {"report": report, "done": not isinstance(report, EpochDone)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Trainings write their own checkpoints, keyed by root trial; Tune's would be a second, disposable truth."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See save_checkpoint."""

    def _next_report(self) -> Report:
        from trainers.loop import Training

        try:
            if self._training is None:
                self._training = Training(self._job.config)
            report_at = time.monotonic() + REPORT_EVERY_S
            while not self._training.done:
                epoch = self._training.run_epoch()
                if not self._training.done and time.monotonic() >= report_at:
                    return EpochDone(epoch.epoch, epoch.val_accuracy, epoch.train_loss)
            return TrialDone(_record(self._training, self._job))
        except Exception as error:  # noqa: BLE001  whatever a user's network raises fails this trial only, and the worker lives on
            self._training = None
            return TrialFailed(f"{type(error).__name__}: {error}")


def _record(training: Training, job: Job) -> dict[str, Any]:
    from trainers.cost import step_name
    from trainers.loop import evaluate_test

    result = training.result()
    return {
        "val_accuracy": result.val_accuracy,
        "val_loss": result.val_loss,
        "test_accuracy": evaluate_test(job.config, result.model) if job.open_test else None,
        "curve": list(result.curve),
        "counts": {step_name(step): count for step, count in result.counts.items()},
        "seconds": result.seconds,
        "peak_memory": result.peak_memory_mib,
        "seed": job.config.seed,
        "device": result.device,
        "versions": result.versions,
    }
