"""Runs for Weights & Biases, through its own library: a project a study, a run a trial. WANDB_MODE=offline keeps them in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import wandb

from tuner.trackers.runs import TrackedRun

# Of each project, what has been handed to the library in this folder. The library itself knows only after a question to its server.
_LIST: Final = "exported-{study}.txt"


class WeightsAndBiases:
    """folder: for what the library keeps, and for the list of what it was given."""

    def __init__(self, folder: Path, study: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # The library writes from a process of its own, which stays where it was begun.
        self._folder, self._study = folder.resolve(), study
        self._list = self._folder / _LIST.format(study=study)

    def numbers(self) -> set[int]:
        """Trials of the study that were exported from this folder."""
        return {int(line) for line in self._list.read_text(encoding="utf-8").split()} if self._list.exists() else set()

    def add(self, run: TrackedRun) -> None:
        """A run of the trial's own id, begun anew each time: with `resume` one that was cut off would get its epochs twice."""
        config = {**run.params, "schedule": run.schedule, "stopped_early": run.stopped_early}
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True, save_code=False)
        with wandb.init(
            project=self._study,
            id=f"{self._study}-{run.number}",
            name=f"trial {run.number}",
            dir=self._folder,
            config=config,
            settings=settings,
        ) as logged:
            logged.define_metric("val_accuracy_by_epoch", step_metric="epoch")
            for row in run.epochs:
                times = {} if row.relative_time is None else {"relative_time_so_far": row.relative_time}
                logged.log({"epoch": row.epoch, "val_accuracy_by_epoch": row.val_accuracy, **times})
            logged.summary.update(run.values)
        with self._list.open("a", encoding="utf-8") as kept:
            kept.write(f"{run.number}\n")
