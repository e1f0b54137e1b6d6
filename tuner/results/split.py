"""How a trial's time splits into what its schedule saves and what fewer epochs save, and which training its figures need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from studies.space import METHOD_FIELDS, TRAINING_FIELDS
from tuner.results.describe import describe_share, printable
from tuner.results.front import TIME, measured
from tuner.storage.trials import CompletedTrial


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """A trial's time over that of a full-resolution training is epochs / full_epochs * epoch_cost.

    epochs, full_epochs: of the trial and of that training. epoch_cost: of an epoch with the trial's schedule, in the mean over its epochs,
    over an epoch at full resolution.
    """

    epochs: int
    full_epochs: int
    epoch_cost: float

    @property
    def schedule_saves(self) -> float:
        """Share of time that the schedule saves in as many epochs; below 0 where it costs more."""
        return 1 - self.epoch_cost

    @property
    def epochs_save(self) -> float:
        """Share of time that so many epochs save at full resolution; below 0 where they are more."""
        return 1 - self.epochs / self.full_epochs

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        alone = {"schedule_alone_saves": self.schedule_saves, "epochs_alone_save": self.epochs_save}
        return {"epochs": self.epochs, "full_resolution_epochs": self.full_epochs, "epoch_cost": self.epoch_cost, **alone}


def time_split(trial: CompletedTrial, full: CompletedTrial | None) -> TimeSplit | None:
    """Against the full-resolution trial `full`; None where there is none, or where times or epochs are missing."""
    per_epoch, per_full_epoch = _time_of_an_epoch(trial), _time_of_an_epoch(full) if full else None
    if full is None or per_epoch is None or per_full_epoch is None:
        return None
    return TimeSplit(trial.params["epochs"], full.params["epochs"], per_epoch / per_full_epoch)


def split_words(split: TimeSplit) -> str:
    """What each part saves by itself, which needs no order of the two; the costs that are left multiply."""
    if split.epochs == split.full_epochs:
        return f"all by the schedule, in the same {split.epochs} epochs"
    epochs = f"{split.epochs} epochs instead of {split.full_epochs}"
    if abs(split.schedule_saves) < 1e-9:
        return f"all by {epochs}"
    return f"the schedule alone saves {_share(split.schedule_saves)}, {epochs} alone {_share(split.epochs_save)}"


def trained_with(trial: CompletedTrial) -> dict[str, Any]:
    """What a trial trained with beside its schedule: epochs, learning rate, weight decay and the methods that joined."""
    return {name: trial.params[name] for name in (*TRAINING_FIELDS, *METHOD_FIELDS) if name in trial.params}


def needed_words(trial: CompletedTrial, split: TimeSplit | None = None) -> str:
    """What a training needs beside the schedule to come to a trial's figures; with a split of its time also what it saves without that."""
    needed = ", ".join(f"{name}={_typed(value)}" for name, value in trained_with(trial).items() if value != "none")
    words = f"its figures need {needed or 'the training that it was found with'} in your training"
    if split is None or trial.rival is not None:
        return words
    return f"{words}; the schedule alone saves {_share(split.schedule_saves)} of the time"


def _share(saved: float) -> str:
    return describe_share(saved) if saved > -1e-9 else f"nothing (it takes {describe_share(-saved)} more)"


def _typed(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else printable(str(value))


def _time_of_an_epoch(trial: CompletedTrial) -> float | None:
    epochs, time = trial.params.get("epochs"), measured(trial, TIME)
    # Another program's trial may hold anything.
    return time / epochs if isinstance(epochs, int) and epochs > 0 and time else None
