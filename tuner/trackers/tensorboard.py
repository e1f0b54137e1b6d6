"""Runs for TensorBoard: a folder a trial, with its curve over epochs and over time, and its fields for the HParams page."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from tuner.trackers.runs import TrackedRun

_BEGUN: Final = ".begun-"
# TensorBoard's axes take whole steps.
_TIME_STEPS: Final = 1000


class TensorBoard:
    """folder: what `tensorboard --logdir` is given."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # What was being written when someone pulled the plug.
        for begun in folder.glob(f"{_BEGUN}*"):
            shutil.rmtree(begun)

    def numbers(self) -> set[int]:
        """Trials of the study that are there already."""
        return {int(name) for path in self._folder.glob("trial-*") if (name := path.name.removeprefix("trial-")).isdigit()}

    def add(self, run: TrackedRun) -> None:
        """Writes a folder; it has its name once it is whole."""
        name = f"trial-{run.number:05d}"
        begun = self._folder / f"{_BEGUN}{name}"
        with SummaryWriter(str(begun), write_to_disk=True) as writer:
            for row in run.epochs:
                writer.add_scalar("val_accuracy/by_epoch", row.val_accuracy, row.epoch)
                if row.relative_time is not None:
                    writer.add_scalar("val_accuracy/by_relative_time_permille", row.val_accuracy, round(_TIME_STEPS * row.relative_time))
            for value, number in run.values.items():
                writer.add_scalar(f"result/{value}", number)
            writer.add_text("schedule", run.schedule)
            self._add_fields(writer, run)
        begun.rename(self._folder / name)

    def _add_fields(self, writer: Any, run: TrackedRun) -> None:
        fields = {name: value for name, value in run.params.items() if isinstance(value, str | bool | int | float)}
        for summary in hparams(fields, {f"result/{name}": value for name, value in run.values.items()}):
            writer.file_writer.add_summary(summary)
