"""What a training says of itself, epoch by epoch and at its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from trainers.schedule import Step


@dataclass(frozen=True, slots=True)
class EpochReport:
    """After an epoch: epochs done, mean training loss, validation accuracy (share) and loss; figures of the methods that have joined."""

    epoch: int
    train_loss: float
    val_accuracy: float
    val_loss: float
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training.

    val_accuracy, val_loss: after the last epoch (never the best one: that would select on noise). curve: validation accuracy after each
    epoch. figures: of the methods that have joined, after each epoch. counts: steps by kind. seconds: train, data, compile, evaluation,
    checkpoint, summed over all sittings; like the peak memory those of the slowest (largest) rank. model: on its device.
    """

    val_accuracy: float
    val_loss: float
    curve: tuple[float, ...]
    figures: tuple[dict[str, float], ...]
    counts: dict[Step, int]
    seconds: dict[str, float]
    peak_memory_mib: float
    device: str
    versions: dict[str, str]
    model: nn.Module
