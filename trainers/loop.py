"""One training from its configuration to its result: the main path of this package.

train(config):
    data, network, schedule's plan, optimizer, learning-rate curve      Training.__init__
    last checkpoint, if there is one                                    Training._resume
    every epoch:                                                        Training.run_epoch
        every batch: step as the plan says, full or reduced             Training._step
        accuracy on the validation split, checkpoint, report
    result: accuracies, exact counts of steps, seconds by part          Training.result
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.checkpoint import load_checkpoint, save_checkpoint
from trainers.config import TrainConfig
from trainers.data import Split, load_data, load_test, steps_per_epoch
from trainers.device import device_name, peak_memory_mib, reset_peak_memory, resolve_device, set_threads, versions
from trainers.downsampling import Downsampler, check_sides
from trainers.errors import InputError, NonFiniteLossError
from trainers.models import build_model
from trainers.optim import build_lr_curve, build_optimizer
from trainers.schedule import Step
from trainers.timing import Stopwatch

# Where and how a training runs may change between two sittings; everything else in its configuration may not.
_MAY_CHANGE = ("checkpoint", "device", "threads")


@dataclass(frozen=True, slots=True)
class EpochReport:
    """After an epoch: epochs done, mean training loss, validation accuracy (share) and loss."""

    epoch: int
    train_loss: float
    val_accuracy: float
    val_loss: float


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training.

    val_accuracy, val_loss: after the last epoch (never the best one: that would select on noise). curve: validation accuracy after each
    epoch. counts: steps by kind. seconds: train, data, evaluation, checkpoint, summed over all sittings. model: on its device.
    """

    val_accuracy: float
    val_loss: float
    curve: tuple[float, ...]
    counts: dict[Step, int]
    seconds: dict[str, float]
    peak_memory_mib: float
    device: str
    versions: dict[str, str]
    model: nn.Module


def train(config: TrainConfig, on_epoch: Callable[[EpochReport], None] | None = None) -> TrainResult:
    """Trains to the end, from the last checkpoint where there is one. Raises NonFiniteLossError, or InputError before the first step."""
    training = Training(config)
    while not training.done:
        report = training.run_epoch()
        if on_epoch is not None:
            on_epoch(report)
    return training.result()


def evaluate_test(config: TrainConfig, model: nn.Module) -> float:
    """Accuracy on the test split, the only place where it is opened: call it to confirm, never to select."""
    device = next(model.parameters()).device
    return evaluate(model, load_test(config.data, device), config.batch_size)[0]


class Training:
    """A training that runs epoch by epoch, so that whoever runs it can report, stop and resume between them."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        set_threads(config.threads)
        reset_peak_memory(self.device)
        self.data = load_data(config.data, self.device)
        self.steps_per_epoch = steps_per_epoch(len(self.data.train), config.batch_size)
        total_steps = config.epochs * self.steps_per_epoch
        torch.manual_seed(config.seed)
        self.model = build_training_model(config, self.data.num_classes, self.device)
        self.downsampler = Downsampler(self.model, config.schedule, total_steps, config.data.full_px)
        check_sides(self.model, self.downsampler.plan.counts(), config.data.full_px, side_multiple=config.schedule.side_multiple)
        self.optimizer = build_optimizer(self.model, config)
        self.lr_curve = build_lr_curve(self.optimizer, config, total_steps)
        self.curve: list[float] = []
        self.val_loss = float("nan")
        self._earlier_seconds: dict[str, float] = {}
        self._stopwatch = Stopwatch(self.device)
        self._resume()

    @property
    def epochs_done(self) -> int:
        return len(self.curve)

    @property
    def done(self) -> bool:
        return self.epochs_done == self.config.epochs

    def run_epoch(self) -> EpochReport:
        """Trains one epoch, evaluates and writes the checkpoint. NonFiniteLossError names the first step whose loss was not finite."""
        # Each epoch has its own seed, so that a resumed training draws what an undisturbed one does.
        torch.manual_seed(self.config.seed * 1_000_003 + self.epochs_done)
        losses = self._train_epoch()
        with self._stopwatch.part("evaluation"):
            accuracy, self.val_loss = evaluate(self.model, self.data.val, self.config.batch_size)
        self.curve.append(accuracy)
        with self._stopwatch.part("checkpoint"):
            self._save()
        return EpochReport(self.epochs_done, float(losses.mean()), accuracy, self.val_loss)

    def result(self) -> TrainResult:
        """What came of the training. Call it when `done`."""
        return TrainResult(
            val_accuracy=self.curve[-1],
            val_loss=self.val_loss,
            curve=tuple(self.curve),
            counts=self.downsampler.plan.counts(),
            seconds=self.seconds(),
            peak_memory_mib=peak_memory_mib(self.device),
            device=device_name(self.device),
            versions=versions(self.device),
            model=self.model,
        )

    def seconds(self) -> dict[str, float]:
        """Seconds by part, earlier sittings included."""
        parts = self._stopwatch.seconds()
        return {name: parts.get(name, 0.0) + self._earlier_seconds.get(name, 0.0) for name in ("train", "data", "evaluation", "checkpoint")}

    def _train_epoch(self) -> Tensor:
        self.model.train()
        batches = self.data.train.batches(
            self.config.batch_size, seed=self.config.seed, epoch=self.epochs_done, augment=self.config.augment, training=True
        )
        losses = []
        for _ in range(self.steps_per_epoch):
            with self._stopwatch.part("data"):
                images, labels = next(batches)
            with self._stopwatch.part("train"):
                losses.append(self._step(images, labels))
        # Looked at once an epoch: reading every loss would make the GPU wait at every step.
        epoch_losses = torch.stack(losses).cpu()
        self._check_finite(epoch_losses)
        return epoch_losses

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        with self.downsampler.step(images) as step_images:
            loss = training_step(self.model, self.optimizer, step_images, labels, self.config)
        self.lr_curve.step()
        return loss

    def _check_finite(self, losses: Tensor) -> None:
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            step = self.epochs_done * self.steps_per_epoch + int(bad[0])
            raise NonFiniteLossError(
                f"the training loss became {float(losses[bad[0]])} at step {step + 1} of {len(self.downsampler.plan)} "
                f"(learning rate {self.config.lr:g})"
            )

    def _save(self) -> None:
        if self.config.checkpoint is None:
            return
        content = {
            "config": _fingerprint(self.config),
            "model": self.model.state_dict(),
            "downsampler": self.downsampler.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_curve": self.lr_curve.state_dict(),
            "curve": self.curve,
            "val_loss": self.val_loss,
            "seconds": self.seconds(),
        }
        save_checkpoint(self.config.checkpoint, content)

    def _resume(self) -> None:
        content = load_checkpoint(self.config.checkpoint) if self.config.checkpoint is not None else None
        if content is None:
            return
        if content["config"] != _fingerprint(self.config):
            raise InputError(f"checkpoint {self.config.checkpoint} belongs to a training with another configuration; name another file")
        self.model.load_state_dict(content["model"])
        self.downsampler.load_state_dict(content["downsampler"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.lr_curve.load_state_dict(content["lr_curve"])
        self.curve, self.val_loss, self._earlier_seconds = content["curve"], content["val_loss"], content["seconds"]


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    """Forward, backward and optimizer on one batch, in whatever kind of step the network is in. Returns the loss, detached."""
    # bf16 is for the GPU: on most processors it is slower than fp32, and it would change results without a gain.
    with torch.autocast("cuda", torch.bfloat16, enabled=config.precision == "bf16" and images.is_cuda):
        loss = F.cross_entropy(model(images), labels, label_smoothing=config.label_smoothing)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def build_training_model(config: TrainConfig, num_classes: int, device: torch.device) -> nn.Module:
    """The configuration's network on its device, channels-last on CUDA, where convolutions run faster that way."""
    model = build_model(config.model, num_classes, config.data.full_px).to(device)
    # torch's stub takes memory_format only in an overload that returns Any.
    return model.to(memory_format=torch.channels_last) if device.type == "cuda" else model


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, batch_size: int) -> tuple[float, float]:
    """Accuracy (share) and mean cross-entropy of the full network over a split."""
    model.eval()
    device = next(model.parameters()).device
    # Summed on the device and read once: a read a batch would make the GPU wait.
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), device=device)
    for images, labels in split.batches(batch_size, seed=0, epoch=0, augment=(), training=False):
        logits = model(images)
        correct += (logits.argmax(1) == labels).sum()
        loss += F.cross_entropy(logits.float(), labels, reduction="sum")
    return float(correct) / len(split), float(loss) / len(split)


def _fingerprint(config: TrainConfig) -> dict[str, Any]:
    fields = {name: value for name, value in dataclasses.asdict(config).items() if name not in _MAY_CHANGE}
    del fields["data"]["root"]
    return fields
