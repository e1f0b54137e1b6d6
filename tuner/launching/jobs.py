"""What travels between the driver and a worker: one job there, reports back. Plain values, so that Ray pickles no connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainers.config import TrainConfig
from tuner.stoppers import Stop


@dataclass(frozen=True, slots=True)
class Job:
    """One trial to be trained. number: the trial's in the study. open_test: also measure the test split (only to confirm)."""

    number: int
    config: TrainConfig
    open_test: bool = False

    def __str__(self) -> str:
        return f"trial {self.number}"


@dataclass(frozen=True, slots=True)
class EpochDone:
    """A worker's report between two epochs.

    curve: validation accuracy after each epoch so far, those of earlier attempts included. seconds: train, data and so on, so far.
    """

    curve: tuple[float, ...]
    train_loss: float
    seconds: dict[str, float]
    device: str

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.curve)

    @property
    def val_accuracy(self) -> float:
        return self.curve[-1]


@dataclass(frozen=True, slots=True)
class TrialDone:
    """A worker's last report: what was measured, as JSON-ready values (see tuner.storage.trials.CompletedTrial)."""

    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrialFailed:
    """A worker's last report when the training can't go on: one sentence that says why. may_pass: another attempt may work."""

    reason: str
    may_pass: bool = False


@dataclass(frozen=True, slots=True)
class TrialStopped:
    """Not a worker's: the end of a trial that the driver has stopped after one of its reports."""

    report: EpochDone
    stop: Stop


Report = EpochDone | TrialDone | TrialFailed | TrialStopped
