"""Measures full, half-side and pooled half-side steps of one network: milliseconds, memory, time by class of operation, and the floor."""

from __future__ import annotations

import math
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles
from typing import Any, Final

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.floor import CLASSES, CONVOLUTIONS, FILTER_POOLING, PARAMETERS, RESIZE, floor_parts, ideal_work, real_work
from trainers import TrainConfig
from trainers.config import DataConfig, Precision
from trainers.convolution import PooledConvolution
from trainers.device import peak_memory_mib, reset_peak_memory
from trainers.filters import pool_kernel
from trainers.geometry import pooled_convolutions
from trainers.rehearsal import Rehearsal
from trainers.schedule import Step, round_side

NUM_CLASSES: Final = 10
MEMORY_STEPS: Final = 3
# GPU kernels are launched ahead of the device: a timed unit there is long enough to hide the launch of its first step.
CUDA_BURST: Final = 5
_CLASS_PATTERNS: Final = (
    ("batch norm", re.compile("batch_?norm", re.IGNORECASE)),
    (CONVOLUTIONS, re.compile("conv|mm(backward|$)|matmul|linear", re.IGNORECASE)),
    ("copies", re.compile("pad|copy|clone|contiguous|slice_?backward|aten::cat", re.IGNORECASE)),
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: rounds of warm-up, timed rounds, profiled steps of each kind.

    deadline: on the monotonic clock; no round begins after it, once LEAST_ROUNDS are done.
    """

    warm_up: int
    rounds: int
    profiled: int
    deadline: float = math.inf


LEAST_ROUNDS: Final = 5


def config_of(model: str, side_px: int, batch: int, device: str, threads: int) -> TrainConfig:
    """A training of this network; its images are made up, so no folder is read. bf16 on CUDA."""
    precision: Precision = "bf16" if device == "cuda" else "fp32"
    data = DataConfig(name="folder", side_px=side_px)
    return TrainConfig(model=model, data=data, batch_size=batch, precision=precision, device=device, threads=threads)


def kinds_of(full_px: int) -> dict[str, Step]:
    """The three kinds of step, by the name that tables give them."""
    half_px = round_side(0.5, full_px, 4)
    return {"full": Step(full_px, "full"), "half": Step(half_px, "full"), "pooled": Step(half_px, "pooled")}


class StepRunner:
    """Runs, times and profiles single steps of any kind on a throw-away network with made-up images."""

    def __init__(self, config: TrainConfig) -> None:
        self.rehearsal = Rehearsal(config, NUM_CLASSES)
        self.device = self.rehearsal.device
        self.model = self.rehearsal.model
        self.full_px = config.data.full_px

    def run(self, step: Step) -> None:
        """One step of this kind: forward, backward, optimizer, and the resizing of the images, which a full step has none of."""
        self.rehearsal.make(step, *self.rehearsal.batch(step))

    def milliseconds(self, step: Step) -> float:
        """Time of one step of this kind."""
        burst = CUDA_BURST if self.device.type == "cuda" else 1
        self.synchronize()
        started = time.perf_counter()
        for _ in range(burst):
            self.run(step)
        self.synchronize()
        return (time.perf_counter() - started) * 1000 / burst

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def pooled(self, step: Step) -> list[PooledConvolution]:
        return pooled_convolutions(self.model, step, self.full_px)

    def profile_ms(self, work: Callable[[], None], times: int, pooled: Sequence[PooledConvolution] = ()) -> dict[str, float]:
        """Milliseconds of the operations of `work` by class, medians of `times` profiles."""
        work()
        profiles = [self._one_profile(work, pooled) for _ in range(times)]
        return {name: median(one[name] for one in profiles) for name in CLASSES}

    def filter_pooling_ms(self, step: Step, times: int) -> float:
        """Milliseconds of pooling every filter once and of its gradient, by the profiler as all classes are."""
        pooled = self.pooled(step)
        weights = [convolution.layer.weight for convolution in pooled]
        if not weights:
            return 0.0
        with torch.no_grad():
            gradients = [pool_kernel(weight, one.size) for weight, one in zip(weights, pooled, strict=True)]

        def pool() -> None:
            filters = [pool_kernel(weight, one.size) for weight, one in zip(weights, pooled, strict=True)]
            torch.autograd.grad(filters, weights, gradients)

        return sum(self.profile_ms(pool, times, pooled).values())

    def _one_profile(self, work: Callable[[], None], pooled: Sequence[PooledConvolution]) -> dict[str, float]:
        """On CUDA the time of the GPU's kernels, by the operation that launched them; else that of the operations themselves."""
        cuda = self.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        shapes = {shape for one in pooled for shape in _pooling_shapes(one)}
        self.synchronize()
        with profile(activities=activities, record_shapes=True, acc_events=True) as profiler:
            work()
            self.synchronize()
        by_class = dict.fromkeys(CLASSES, 0.0)
        for event in profiler.events():
            if event.device_type == DeviceType.CPU:
                spent_us = event.self_device_time_total if cuda else event.self_cpu_time_total
                by_class[class_of(event, shapes)] += spent_us / 1000
        return by_class


def class_of(event: Any, pooling_shapes: set[tuple[int, int]]) -> str:
    """Class of a profiled operation, by its name and those of the operations around it, innermost first."""
    chain = [event]
    while chain[-1].cpu_parent is not None:
        chain.append(chain[-1].cpu_parent)
    names = [one.name for one in chain]
    if any(name.startswith("Optimizer.") or "AccumulateGrad" in name for name in names):
        return PARAMETERS
    if any("upsample" in name for name in names):
        return RESIZE
    if any("PoolFilters" in name for name in names) or any(tuple(shape[-2:]) in pooling_shapes for shape in event.input_shapes or ()):
        return FILTER_POOLING
    for name in names:
        for name_of_class, pattern in _CLASS_PATTERNS:
            if pattern.search(name):
                return name_of_class
    return "elementwise"


def _pooling_shapes(convolution: PooledConvolution) -> tuple[tuple[int, int], ...]:
    """Of the small matrix that pools one kernel or four (trainers.filters), forward and backward."""
    taps, pooled_taps = math.prod(convolution.layer.kernel_size), math.prod(convolution.size)
    return tuple(shape for count in (1, 4) for shape in ((count * taps, count * pooled_taps), (count * pooled_taps, count * taps)))


def measure(config: TrainConfig, effort: Effort) -> dict[str, Any]:
    """Times, profile and floor of the three kinds of step, and on CUDA their peak memory, JSON-ready."""
    runner = StepRunner(config)
    kinds = kinds_of(runner.full_px)
    load = [os.getloadavg()[0]]
    times = _times(runner, kinds, effort)
    load.append(os.getloadavg()[0])
    profiles = {name: runner.profile_ms(partial(runner.run, step), effort.profiled, runner.pooled(step)) for name, step in kinds.items()}
    pooling_ms = {name: runner.filter_pooling_ms(step, effort.profiled) for name, step in kinds.items()}
    ideal = {name: ideal_work(runner.model, step, runner.full_px) for name, step in kinds.items()}
    real = {name: real_work(runner.model, step, runner.full_px) for name, step in kinds.items()}
    least = {name: ideal[name].least(real[name]) for name in kinds}
    full_ms = median(times["full"])
    steps = {}
    for name, step in kinds.items():
        floor = floor_parts(profiles["full"], least[name], least["full"], pooling_ms[name])
        steps[name] = {
            "side_px": step.side_px,
            **_summary(times[name], full_ms, floor),
            "ms_by_class": _scaled(profiles[name], median(times[name])),
            "work_per_image": {"ideal": ideal[name]._asdict(), "real": real[name]._asdict()},
            "memory_mib": peak_memory(runner, step) if runner.device.type == "cuda" else None,
        }
    return {"n": len(times["full"]), "load_average": load, "steps": steps}


def _times(runner: StepRunner, kinds: Mapping[str, Step], effort: Effort) -> dict[str, list[float]]:
    """Milliseconds of single steps, kinds interleaved in another random order every round."""
    times: dict[str, list[float]] = {name: [] for name in kinds}
    order = list(kinds)
    shuffle = random.Random(0).shuffle
    for _ in range(effort.warm_up):
        for step in kinds.values():
            runner.milliseconds(step)
    for done in range(effort.rounds):
        if done >= LEAST_ROUNDS and time.monotonic() > effort.deadline:
            break
        shuffle(order)
        for name in order:
            times[name].append(runner.milliseconds(kinds[name]))
    return times


def _summary(times: Sequence[float], full_ms: float, floor: Mapping[str, float]) -> dict[str, Any]:
    over_full, floor_over_full = median(times) / full_ms, sum(floor.values())
    return {
        "ms": median(times),
        "quartiles_ms": quantiles(times, n=4)[::2],
        "over_full": over_full,
        "floor_over_full": floor_over_full,
        "over_floor": over_full / floor_over_full,
        "floor_ms_by_class": {name: frac * full_ms for name, frac in floor.items()},
        "each_ms": [round(one, 3) for one in times],
    }


def _scaled(profile_ms: Mapping[str, float], step_ms: float) -> dict[str, float]:
    """Profiled milliseconds by class, shrunk to the step's own where profiling took longer, and what no operation accounts for."""
    total_ms = sum(profile_ms.values())
    by_class = {name: ms * min(1.0, step_ms / total_ms) for name, ms in profile_ms.items()}
    return by_class | {"outside operations": max(0.0, step_ms - total_ms)}


def peak_memory(runner: StepRunner, step: Step) -> dict[str, float]:
    """MiB before the first step and at the peak of three: allocated on CUDA, resident in the whole process on a CPU."""
    runner.synchronize()
    reset_peak_memory(runner.device)
    before = peak_memory_mib(runner.device)
    for _ in range(MEMORY_STEPS):
        runner.run(step)
    runner.synchronize()
    return {"before": before, "peak": peak_memory_mib(runner.device)}
