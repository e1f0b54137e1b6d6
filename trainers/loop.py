"""One training from its configuration to its result: the main path of this package.

train(config):
    data, network, schedule's plan, optimizer                           Training._set_up
    newest whole checkpoint of any attempt, if there is one             Training._resume
    what is left of the plan, compiled if it shall be                   Training._compile
    every epoch:                                                        Training.run_epoch
        every step as the plan says, full or reduced                    Training._step
        accuracy on the validation split, checkpoint, report
    result: accuracies, exact counts of steps, seconds by part          Training.result
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainers.checkpoint import newest_checkpoint, save_checkpoint
from trainers.config import TrainConfig
from trainers.data import load_data, steps_per_epoch
from trainers.device import device_name, peak_memory_mib, reset_peak_memory, set_threads, versions
from trainers.distributed import RankPool
from trainers.downsampling import Downsampler, check_sides
from trainers.errors import InputError, NonFiniteLossError
from trainers.evaluation import evaluate
from trainers.methods.joined import JoinedMethods, join_methods
from trainers.methods.method import TrainingParts
from trainers.methods.settings import SETTINGS
from trainers.models import build_training_model
from trainers.optim import build_optimizer, learning_rate, set_learning_rate
from trainers.places import RootPlace
from trainers.ranks import ALONE, Ranks
from trainers.rehearsal import compile_steps, or_out_of_memory
from trainers.result import EpochReport, TrainResult
from trainers.schedule import Step
from trainers.steps import training_step
from trainers.timing import Stopwatch
from trainers.watchdog import UNWATCHED, Watch

# Where and how a training runs may change between two sittings; everything else in its configuration may not.
_MAY_CHANGE = ("checkpoint", "attempt", "device", "threads", "ranks")
# Between the seeds of two ranks' random numbers in one epoch: dropout must not drop the same of every part of a batch.
_RANK_SEEDS: Final = 7_368_787
_PARTS = ("train", "data", "compile", "evaluation", "checkpoint")


def train(config: TrainConfig, on_epoch: Callable[[EpochReport], None] | None = None) -> TrainResult:
    """Trains to the end, from the last checkpoint where there is one.

    Raises InputError before the first step, NonFiniteLossError, and OutOfMemoryError with the batch that would fit.
    """
    with RankPool(config.ranks, config.device) as pool:
        training = pool.start(Training, config)
        while not training.done:
            report = pool.call(training.run_epoch)
            if on_epoch is not None:
                on_epoch(report)
        return training.result()


class Training:
    """A training that runs epoch by epoch, so that whoever runs it can report, stop and resume between them.

    ranks: of a RankPool, where each makes its own of the same configuration; rank 0 has the result and writes the checkpoints.
    watchdog: a Watchdog ends the process where the set-up or an epoch hangs; each rank has its own. Between epochs it waits for nothing.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks = ALONE, watchdog: Watch = UNWATCHED) -> None:
        if ranks.size != config.ranks:
            raise InputError(f"ranks is {config.ranks}, it must be the size of the RankPool that trains, which is {ranks.size}")
        self.config, self.ranks = config, ranks
        self._watchdog = watchdog.of_rank(ranks.rank)
        self._place = None if config.checkpoint is None else RootPlace(config.checkpoint)
        with self._watchdog:
            self._set_up(config, ranks)

    def _set_up(self, config: TrainConfig, ranks: Ranks) -> None:
        self.device = ranks.device(config.device)
        set_threads(ranks.threads(config.threads))
        reset_peak_memory(self.device)
        self.data = load_data(config.data, self.device)
        self.steps_per_epoch = steps_per_epoch(len(self.data.train), config.batch_size)
        self.total_batches = config.epochs * self.steps_per_epoch
        torch.manual_seed(config.seed)
        self.model = build_training_model(config, self.data.num_classes, self.device)
        self.downsampler = self._downsampler()
        check_sides(self.model, self.downsampler.plan.counts(), config.data.full_px, side_multiple=config.schedule.side_multiple)
        self._largest_work = max(_work(step) for step in self.downsampler.plan.counts())
        self.optimizer = build_optimizer(self.model, config)
        self.methods = self._join_methods()
        self.curve: list[float] = []
        self.figures: list[dict[str, float]] = []
        self.val_loss = float("nan")
        self._earlier_seconds: dict[str, float] = {}
        self._slowest_seconds: dict[str, float] = {}
        self._peak_memory_mib = 0.0
        self._stopwatch = Stopwatch(self.device)
        self._resume()
        ranks.check_equal("the number of epochs in the checkpoint", self.epochs_done)
        self._parallel = ranks.parallel(self.model)
        if config.compile:
            self._compile(self.epochs_done)

    def _downsampler(self) -> Downsampler:
        return Downsampler(self.model, self.config.schedule, self.total_batches, self.config.data.full_px, self.steps_per_epoch)

    def _join_methods(self) -> JoinedMethods:
        parts = TrainingParts(
            config=self.config,
            data=self.data,
            model=self.model,
            optimizer=self.optimizer,
            ranks=self.ranks,
            steps_per_epoch=self.steps_per_epoch,
            total_steps=len(self.downsampler.plan),
            followers=[self._change_downsampler],
        )
        return join_methods(parts)

    @property
    def epochs_done(self) -> int:
        return len(self.curve)

    @property
    def done(self) -> bool:
        return self.epochs_done == self.config.epochs

    def run_epoch(self) -> EpochReport:
        """Trains one epoch, evaluates and writes the checkpoint. NonFiniteLossError names the first step whose loss was not finite."""
        with self._watchdog:
            return self._run_epoch()

    def _run_epoch(self) -> EpochReport:
        # Each epoch has its own seed, so that a resumed training draws what an undisturbed one does.
        torch.manual_seed(self.config.seed * 1_000_003 + self.epochs_done + self.ranks.rank * _RANK_SEEDS)
        train_loss = self._train_epoch()
        self._watchdog.pause()
        with self._stopwatch.part("evaluation"):
            changed = self.methods.after_epoch(self.epochs_done + 1)
        if changed:
            self._follow_network()
        with self._stopwatch.part("evaluation"), self.methods.evaluated():
            self.ranks.share_buffers(self.model)
            accuracy, self.val_loss = evaluate(self.model, self.data.val, self.config.batch_size, self.ranks, self._watchdog)
        self.curve.append(accuracy)
        self.figures.append(self.methods.figures())
        self._compare_ranks()
        with self._stopwatch.part("checkpoint"):
            self._save()
        return EpochReport(self.epochs_done, train_loss, accuracy, self.val_loss, self.figures[-1])

    def result(self) -> TrainResult:
        """What came of the training. Call it when `done`."""
        self.methods.after_training()
        return TrainResult(
            val_accuracy=self.curve[-1],
            val_loss=self.val_loss,
            curve=tuple(self.curve),
            figures=tuple(self.figures),
            counts=self.downsampler.plan.counts(),
            seconds=self.seconds(),
            peak_memory_mib=max(self._peak_memory_mib, peak_memory_mib(self.device)),
            device=device_name(self.device),
            versions=versions(self.device),
            model=self.model,
        )

    def seconds(self) -> dict[str, float]:
        """Seconds by part, of the slowest rank, earlier sittings included."""
        own, slowest, earlier = self._stopwatch.seconds(), self._slowest_seconds, self._earlier_seconds
        return {name: max(own.get(name, 0.0), slowest.get(name, 0.0)) + earlier.get(name, 0.0) for name in _PARTS}

    def _compare_ranks(self) -> None:
        own = self._stopwatch.seconds()
        self._slowest_seconds = {name: self.ranks.slowest(own.get(name, 0.0)) for name in _PARTS}
        self._peak_memory_mib = self.ranks.slowest(peak_memory_mib(self.device))

    def _change_downsampler(self, change: Callable[[nn.Module], None]) -> None:
        # Whichever there is by then.
        self.downsampler.follow(change)

    def _follow_network(self) -> None:
        """After a method has changed the network's layers or parameters."""
        state = self.downsampler.state_dict()
        self.downsampler = self._downsampler()
        self.downsampler.load_state_dict(state)
        self._parallel = self.ranks.parallel(self.model)
        if self.config.compile:
            self._compile(self.epochs_done + 1)

    def _compile(self, epochs_done: int) -> None:
        left = {step for epoch in self.downsampler.plan.epochs[epochs_done:] for step in epoch}
        with self._stopwatch.part("compile"):
            compile_steps(self.config, left, self.data.num_classes, self.ranks, self.model)

    def _train_epoch(self) -> float:
        """Mean training loss of the epoch's images."""
        self.model.train()
        steps = self.downsampler.plan.epochs[self.epochs_done]
        batches_done = self.epochs_done * self.steps_per_epoch
        batches = self.data.train.batches(
            self.config.batch_size,
            seed=self.config.seed,
            epoch=self.epochs_done,
            augment=self.config.augment,
            training=True,
            steps=steps,
            strengths=self.config.schedule.augment_strengths(steps, batches_done, self.total_batches),
            ranks=self.ranks,
        )
        losses = []
        self._watchdog.alive(share=None)
        self._stopwatch.start()
        for step in steps:
            images, labels = next(batches)
            self._stopwatch.lap("data")
            losses.append(self._step(step, images, labels, batches_done))
            self._stopwatch.lap("train")
            self._watchdog.alive(_work(step) / self._largest_work)
            batches_done += step.batches
        # Looked at once an epoch: reading every loss would make the GPU wait at every step.
        epoch_losses = self.ranks.mean(torch.stack(losses).cpu())
        self._stopwatch.collect()
        self._check_finite(epoch_losses)
        return float((epoch_losses * torch.tensor([step.batches for step in steps])).sum()) / self.steps_per_epoch

    def _step(self, step: Step, images: Tensor, labels: Tensor, batches_done: int) -> Tensor:
        set_learning_rate(self.optimizer, learning_rate(self.config, batches_done, self.total_batches, step.batches))

        def make() -> Tensor:
            try:
                with self.downsampler.step(images) as step_images:
                    return training_step(self._parallel, self.optimizer, step_images, labels, self.config, self.methods.before_update)
            except RuntimeError:
                # Out of memory: what would fit is found by trying.
                self._watchdog.pause()
                raise

        loss = or_out_of_memory(make, self.config, step, self.data.num_classes)
        self.methods.after_step(self.downsampler.steps_done)
        return loss

    def _check_finite(self, losses: Tensor) -> None:
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            step = self.downsampler.steps_done - len(losses) + int(bad[0])
            raise NonFiniteLossError(
                f"the training loss became {float(losses[bad[0]])} at step {step + 1} of {len(self.downsampler.plan)} "
                f"(learning rate {self.config.lr:g})"
            )

    def _save(self) -> None:
        if self._place is None or self.ranks.rank > 0:
            return
        self._watchdog.pause()
        content = {
            "config": _fingerprint(self.config),
            "model": self.model.state_dict(),
            "downsampler": self.downsampler.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "methods": self.methods.state_dict(),
            "curve": self.curve,
            "figures": self.figures,
            "val_loss": self.val_loss,
            "seconds": self.seconds(),
        }
        save_checkpoint(self._place, self.config.attempt, self.epochs_done, content)

    def _resume(self) -> None:
        content = None if self._place is None else newest_checkpoint(self._place)
        if content is None:
            return
        if content["config"] != _fingerprint(self.config):
            raise InputError(f"checkpoint {self._place} belongs to a training with another configuration; name another place")
        # First: the checkpoint's network may have fewer filters than a fresh one.
        if self.methods.load_state_dict(content.get("methods", {})):
            self.downsampler = self._downsampler()
        self.model.load_state_dict(content["model"])
        self.downsampler.load_state_dict(content["downsampler"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.curve, self.val_loss, self._earlier_seconds = content["curve"], content["val_loss"], content["seconds"]
        self.figures = content.get("figures") or [{} for _ in self.curve]


def _work(step: Step) -> int:
    """Images' pixels in a step, in batches: what its time grows with."""
    return step.batches * step.side_px**2


def _fingerprint(config: TrainConfig) -> dict[str, Any]:
    # A method that has not joined and a preset that is none are left out, so that checkpoints older than them are gone on from.
    unused = {key for key in SETTINGS if getattr(config, key).name == "none"}
    fields = {name: value for name, value in dataclasses.asdict(config).items() if name not in unused.union(_MAY_CHANGE)}
    del fields["data"]["root"]
    if config.schedule.preset == "none":
        del fields["schedule"]["preset"]
    return fields
