"""Reduced training steps for any network with Conv2d layers: smaller inputs, pooled kernels, batch-norm statistics of their own.

Source: Poulos, Nouri and Moshovos 2019 (arXiv 1910.06548), of which only the abstract is public. downsampling.md says what is theirs and
what is our own choice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainers.errors import InputError
from trainers.filters import pool_kernel
from trainers.geometry import Geometry, padded_convolutions, poolable_layers, pooled_kernels
from trainers.pads import PooledShape
from trainers.schedule import Schedule, Step

__all__ = ["Downsampler", "check_sides", "pool_kernel", "resize"]

_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")


def resize(images: Tensor, side_px: int) -> Tensor:
    """Images [n, channels, height, width] with their shorter side at `side_px` pixels and the longer one in proportion, halves up.

    Antialiased bilinear, in the dtype and memory format of `images`; `images` itself where it has that size already. The operator is
    part of what a schedule means, so it is stated here: Composer's progressive resizing documents bilinear and computes nearest.
    """
    height, width = images.shape[-2:]
    shorter = min(height, width)
    if shorter == side_px:
        return images
    size = [(2 * side * side_px + shorter) // (2 * shorter) for side in (height, width)]
    # torch has no antialiased resize of half-precision tensors on CPU.
    half = images.dtype in (torch.float16, torch.bfloat16)
    resized = F.interpolate(images.float() if half else images, size=size, mode="bilinear", antialias=True)
    return resized.to(images.dtype)


class Downsampler:
    """Makes a network run the steps of a schedule; its parameters, optimizer state and `state_dict()` stay those of the plain network.

        downsampler = Downsampler(model, Schedule.load("schedule.yaml"), total_steps=epochs * len(loader), full_px=224)
        for images, labels in batches:
            with downsampler.step(images) as images:  # this step's side and kernels
                criterion(model(images), labels).backward()
            optimizer.step()

    Outside of the `with` block the network is exactly the plain one, so evaluation and export use it in full. The backward pass belongs
    inside: activation checkpointing must recompute with the same kernels. So do all micro-batches of a step: its filters are pooled once.
    Conv2d layers are pooled; 1d, 3d and transposed convolutions stay as they are.

    model: the network, on any device; moving it later is fine, replacing its layers is not. schedule: which steps are reduced, and how.
    total_steps: batches of the whole training, steps_per_epoch of them an epoch; as many as optimizer steps unless batches grow.
    full_px: shorter side of full inputs in pixels. InputError if the plan pools a kernel that can't be pooled.
    """

    def __init__(self, model: nn.Module, schedule: Schedule, total_steps: int, full_px: int, steps_per_epoch: int | None = None) -> None:
        self.model = model
        self.schedule = schedule
        self.plan = schedule.plan(total_steps, full_px, steps_per_epoch)
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch
        self.steps_done = 0
        self._full = Step(full_px, "full")
        # Without a single full step nothing would train the network's own statistics, which evaluation uses.
        self._separate = schedule.batch_norm == "separate" and self._full in self.plan
        # Of the reduced steps, by buffer name. Empty until the first of them, which starts from a copy of the network's.
        self._statistics: dict[str, Tensor] = {}
        self._geometry = Geometry(model, full_px)
        for step in set(self.plan):
            self._geometry.convolutions(step)

    @contextmanager
    def step(self, images: Tensor) -> Iterator[Tensor]:
        """Puts the network into the plan's next step and yields the images [n, channels, height, width] at that step's side.

        A clean exit advances `steps_done` by one, an exception does not. Images come at the full side, or already at the step's:
        InputError at any other, and beyond the plan's last step.
        """
        if self.steps_done >= len(self.plan):
            raise InputError(f"all {len(self.plan)} planned steps are done: give the Downsampler the training's true total_steps")
        step = self.plan[self.steps_done]
        shorter = min(images.shape[-2:])
        if shorter not in (self._full.side_px, step.side_px):
            raise InputError(f"the shorter side of the images is {shorter} px, it must be full_px, which is {self._full.side_px}")
        with self.run_as(step):
            yield images if step == self._full else resize(images, step.side_px)
        self.steps_done += 1

    @contextmanager
    def run_as(self, step: Step) -> Iterator[None]:
        """Puts the network into one kind of step, whatever the plan says, and counts nothing. Resizing the images is the caller's."""
        if (step.side_px, step.kernel) == (self._full.side_px, "full"):
            yield
            return
        with pooled_kernels(self._geometry.convolutions(step)), self._own_statistics():
            yield

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the network's state; made of what `torch.load(weights_only=True)` accepts."""
        statistics = {name: value.clone() for name, value in self._statistics.items()}
        return self._identity() | {"steps_done": self.steps_done, "statistics": statistics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict()` was taken; InputError if that was another schedule, length, side or network."""
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise InputError(f"{name} is {value!r} here and {state.get(name)!r} in the checkpoint, they must be equal to continue")
        statistics: dict[str, Tensor] = state["statistics"]
        shapes = {name: layer.get_buffer(buffer).shape for name, layer, buffer in self._tracked()}
        if statistics and {name: value.shape for name, value in statistics.items()} != shapes:
            raise InputError("the checkpoint's batch-norm statistics belong to a network with other layers than this one")
        self.steps_done = state["steps_done"]
        self._statistics = {name: value.clone() for name, value in statistics.items()}

    def follow(self, change: Callable[[nn.Module], None]) -> None:
        """Call it before `change` is made to the network's layers: the statistics of reduced steps are changed likewise.

        A new Downsampler of the changed network then takes the `state_dict()` of this one.
        """
        if not self._statistics:
            return
        network = copy.deepcopy(self.model)
        for name, own in self._statistics.items():
            network.get_buffer(name).copy_(own)
        change(network)
        self._statistics = {name: network.get_buffer(name) for name in self._statistics}

    def _identity(self) -> dict[str, Any]:
        # Without a preset, checkpoints from before there were any are gone on from.
        kept = {name: value for name, value in self.schedule.to_dict().items() if (name, value) != ("preset", "none")}
        fields = {f"schedule field '{name}'": value for name, value in kept.items()}
        return fields | {"total_steps": self.total_steps, "steps_per_epoch": self.steps_per_epoch, "full_px": self._full.side_px}

    @contextmanager
    def _own_statistics(self) -> Iterator[None]:
        """Gives the reduced steps running statistics of their own where the schedule says so; weight and bias are shared."""
        tracked = list(self._tracked()) if self._separate else []
        networks = [layer.get_buffer(buffer) for _, layer, buffer in tracked]
        for (name, layer, buffer), network in zip(tracked, networks, strict=True):
            own = self._statistics[name] if name in self._statistics else network.clone()
            self._statistics[name] = layer._buffers[buffer] = own.to(network)
        try:
            yield
        finally:
            for (_, layer, buffer), network in zip(tracked, networks, strict=True):
                layer._buffers[buffer] = network

    def _tracked(self) -> Iterator[tuple[str, _BatchNorm, str]]:
        for name, layer in self.model.named_modules():
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
                yield from ((f"{name}.{buffer}", layer, buffer) for buffer in _STATISTICS)


def check_sides(model: nn.Module, plan_steps: Iterable[Step], full_px: int, channels: int = 3, side_multiple: int = 4) -> None:
    """Runs the network once in every distinct step of a plan, on a zero batch of 2, before any training; its state stays as it was.

    InputError if it can't take one of the sides, with the smallest side (a multiple of `side_multiple`, same kernel rule) from which on
    it can, or if it can't even take `full_px`. In evaluation mode without gradients: what only training can refuse passes.
    """
    with _undisturbed(model):
        name = type(model).__name__
        reason = _refusal(model, Step(full_px, "full"), full_px, channels)
        if reason is not None:
            raise InputError(f"network {name} does not take inputs of {full_px} px with {channels} channels ({reason})")
        kinds = {Step(step.side_px, step.kernel) for step in plan_steps}
        for step in sorted(kinds - {Step(full_px, "full")}):
            reason = _refusal(model, step, full_px, channels)
            if reason is not None:
                smallest = _smallest_side(model, step, full_px, channels, side_multiple)
                raise InputError(
                    f"network {name} can't take a reduced side of {step.side_px} px with {step.kernel} kernels ({reason}), "
                    f"the smallest side that works is {smallest} px{', the full one' if smallest == full_px else ''}"
                )


def _smallest_side(model: nn.Module, step: Step, full_px: int, channels: int, side_multiple: int) -> int:
    """Goes down from the full side, because a side is no advice if a larger one on the way of a growing schedule fails."""
    smallest = full_px
    for side_px in range((full_px - 1) // side_multiple * side_multiple, step.side_px, -side_multiple):
        if _refusal(model, Step(side_px, step.kernel), full_px, channels) is not None:
            break
        smallest = side_px
    return smallest


def _refusal(model: nn.Module, step: Step, full_px: int, channels: int) -> str | None:
    """First line of the reason why the network can't run this step, or None if it can."""
    parameter = next(model.parameters(), torch.empty(0))
    images = torch.zeros(2, channels, step.side_px, step.side_px, device=parameter.device, dtype=parameter.dtype)
    # Other layers or paddings would not change what fits: a step's kernels keep the sizes of the unpooled network.
    layers = poolable_layers(model, step, full_px)
    padded = padded_convolutions(layers, {name: PooledShape.of(layer, step.side_px, full_px) for name, layer in layers.items()})
    try:
        with pooled_kernels(padded):
            model(images)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:  # torchvision's transformers assert their side
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, flag in training.items():
            module.training = flag
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
