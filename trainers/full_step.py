"""Whether a training can be made at all: its network takes the sides, and a full step fits into the GPUs that this process may use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from trainers.config import TrainConfig
from trainers.device import device_name, peak_memory_mib, reset_peak_memory
from trainers.rehearsal import Rehearsal, or_out_of_memory
from trainers.schedule import Step


class StepMemory(NamedTuple):
    """Of one device: its name, MiB that a full step took at its peak, and MiB that were free before."""

    device: str
    peak_mib: float
    free_mib: float


def step_memory(config: TrainConfig, num_classes: int) -> Iterator[StepMemory]:
    """Makes a full step, uncompiled, on every CUDA device in turn, with a rank's part of the batch. OutOfMemoryError where it doesn't fit.

    Yields nothing where there is no CUDA device.
    """
    alone = dataclasses.replace(config, ranks=1, batch_size=config.batch_size // config.ranks, compile=False)
    step = Step(config.data.full_px, "full")
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        here = dataclasses.replace(alone, device=str(device))
        free_mib = torch.cuda.mem_get_info(device)[0] / 2**20
        reset_peak_memory(device)
        or_out_of_memory(lambda here=here: Rehearsal(here, num_classes).make_one(step), here, step, num_classes)  # type: ignore[misc]
        yield StepMemory(device_name(device), peak_memory_mib(device), free_mib)
        torch.cuda.empty_cache()


def training_state_bytes(config: TrainConfig, num_classes: int) -> int:
    """Size of a checkpoint's tensors: parameters and buffers, what the optimizer keeps of every parameter (SGD one, Adam two), and sampled
    weights."""
    from trainers.models import build_model

    model = build_model(config.model, num_classes, config.data.full_px)
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    copies = {"sgd": 2, "adamw": 3, "adam": 3}[config.optimizer] + config.weight_sampling.copies
    return parameters * copies + buffers * (2 if config.weight_sampling.copies else 1)


def try_sides(config: TrainConfig, steps: Iterable[Step], num_classes: int) -> None:
    """InputError where the network can't take the side or the kernels of one of the steps, as `check_sides` says it."""
    from trainers.downsampling import check_sides
    from trainers.models import build_model

    full_px = config.data.full_px
    check_sides(build_model(config.model, num_classes, full_px), steps, full_px, side_multiple=config.schedule.side_multiple)
