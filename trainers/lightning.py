"""A found schedule in a Lightning training: `Trainer(callbacks=[DownsamplingCallback("schedule.yaml", full_px=224)])`.

Needs the package `lightning`, which nothing else here does.
"""

from __future__ import annotations

from contextlib import ExitStack
from math import inf
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from trainers.downsampling import Downsampler, resize
from trainers.errors import InputError
from trainers.schedule import Schedule, Step


class DownsamplingCallback(Callback):
    """Runs the batches of a fit in the steps of a schedule. Validation, testing and the saved weights are those of the plain network.

    A step is an optimizer step: with `accumulate_grad_batches` all of its batches have one side and one kind of kernels. The fit's
    length must be known before it starts (`max_epochs` or `max_steps`). It continues from the trainer's own checkpoints.
    Automatic optimization with one optimizer is what it was made for, on one device or with DDP.

    schedule: the schedule or its file. full_px: shorter side of full inputs in pixels. network: name of the LightningModule's attribute
    that takes the images as its first argument; None where `training_step` calls the LightningModule itself.
    """

    def __init__(self, schedule: Schedule | str | Path, full_px: int, network: str | None = None) -> None:
        self._schedule = schedule if isinstance(schedule, Schedule) else Schedule.load(schedule)
        self._full_px = full_px
        self._network = network
        self.downsampler: Downsampler | None = None
        self._restored: dict[str, Any] | None = None
        self._fit = ExitStack()
        self._batch = ExitStack()
        self._step: Step | None = None
        self._was_called = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the plan; InputError where the fit has no known length, or the network can't take one of the sides."""
        total_steps = trainer.estimated_stepping_batches
        if total_steps == inf:
            raise InputError("the Trainer has neither max_epochs nor max_steps, one must be given: a schedule is planned before it starts")
        network = self._found(pl_module)
        self.downsampler = Downsampler(network, self._schedule, int(total_steps), self._full_px)
        if self._restored is not None:
            self.downsampler.load_state_dict(self._restored)
        self._fit.callback(network.register_forward_pre_hook(self._resize).remove)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Puts the network into the plan's next step."""
        assert self.downsampler is not None
        if self.downsampler.steps_done >= len(self.downsampler.plan):
            raise InputError(f"all {len(self.downsampler.plan)} planned steps are done, the Trainer must end where it said at the start")
        self._step = self.downsampler.plan[self.downsampler.steps_done]
        self._was_called = False
        self._batch.enter_context(self.downsampler.run_as(self._step))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Back to the plain network; the step counts where the optimizer has made one."""
        assert self.downsampler is not None
        self._leave_batch()
        if not self._was_called:
            which = "the LightningModule" if self._network is None else f"its network '{self._network}'"
            raise InputError(f"training_step did not call {which}, the argument `network` must name what takes the images")
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch:
            self.downsampler.steps_done += 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the network as it was."""
        self._fit.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """As on_train_end; a step that failed does not count."""
        self._leave_batch()
        self._fit.close()

    def state_dict(self) -> dict[str, Any]:
        """Part of the trainer's checkpoint."""
        return {} if self.downsampler is None else self.downsampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read as the fit starts, which is when the network is there."""
        self._restored = state_dict or None

    def _found(self, pl_module: LightningModule) -> nn.Module:
        network = pl_module if self._network is None else getattr(pl_module, self._network, None)
        if not isinstance(network, nn.Module):
            names = ", ".join(name for name, _ in pl_module.named_children())
            raise InputError(f"network is '{self._network}', it must be a module of the LightningModule, which has {names}")
        return network

    def _resize(self, network: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        self._was_called = True
        if self._step is None:
            return None
        images, *others = arguments
        shorter = min(images.shape[-2:])
        if shorter != self._full_px:
            raise InputError(f"the shorter side of the images is {shorter} px, it must be full_px, which is {self._full_px}")
        return (resize(images, self._step.side_px), *others)

    def _leave_batch(self) -> None:
        self._step = None
        self._batch.close()
