"""Times every kind of step once, in a quiet window, on a throw-away network: the only place where step times are measured.

Warm-up is dropped, kinds are interleaved in random order, and each round's times are divided by that round's full step, so that a
drifting clock cancels. When the machine is not quiet the calibration is repeated and then refused. Our own choice.
"""

from __future__ import annotations

import dataclasses
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from trainers.config import TrainConfig
from trainers.cost import MAX_INTERVAL_FRAC, CostTable, StepCost
from trainers.device import available_cores, device_name, resolve_device, set_threads, versions
from trainers.downsampling import Downsampler, check_sides, resize
from trainers.errors import NoisyTimingError, RunError
from trainers.loop import build_training_model, training_step
from trainers.optim import build_optimizer
from trainers.schedule import Schedule, Step

WARM_UP_ROUNDS: Final = 3
ROUNDS: Final = 25
MAX_ROUNDS: Final = 75
ATTEMPTS: Final = 3
# GPU kernels are launched ahead of the device, so one timed unit there is a burst long enough to hide the launch of its first step.
CUDA_BURST: Final = 5
_PROC_STAT: Final = Path("/proc/stat")


def cost_conditions(config: TrainConfig) -> dict[str, Any]:
    """What a cost table holds for. A table is reused while all of it stays the same."""
    device = resolve_device(config.device)
    return {
        "model": config.model,
        "full_px": config.data.full_px,
        "batch_size": config.batch_size,
        "optimizer": config.optimizer,
        "precision": config.precision if device.type == "cuda" else "fp32",
        "device": device_name(device),
        "threads": set_threads(config.threads) if device.type == "cpu" else 0,
        "versions": versions(device),
    }


@dataclass(frozen=True, slots=True)
class Progress:
    """Rounds timed so far, and how many are expected."""

    done: int
    expected: int


def calibrate(config: TrainConfig, steps: Iterable[Step], num_classes: int = 10, *, accept_noisy: bool = False) -> CostTable:
    """Times every kind of step of `steps` (and the full one) with the configuration's network, batch and optimizer; see `calibration`."""
    for progress in calibration(config, steps, num_classes, accept_noisy=accept_noisy):
        if isinstance(progress, CostTable):
            return progress
    raise RunError("the calibration ended without a table")


def calibration(
    config: TrainConfig, steps: Iterable[Step], num_classes: int = 10, *, accept_noisy: bool = False
) -> Iterator[Progress | CostTable]:
    """Yields its progress and, last, the cost table.

    Runs until every interval is narrow, at most MAX_ROUNDS rounds, and ATTEMPTS times in all; then NoisyTimingError says why, unless
    `accept_noisy`. InputError if the network can't take a side.
    """
    kinds = frozenset(steps) | {Step(config.data.full_px, "full")}
    reason: str | None = None
    for attempt in range(1 if accept_noisy else ATTEMPTS):
        # Whatever disturbed the first attempt may be over in a moment.
        time.sleep(2.0 * attempt)
        ratios, full_ms, load = _Ratios(), [], _LoadMeter()
        for times in _timed_rounds(_StepTimer(config, kinds, num_classes), kinds):
            full_ms.append(times[Step(config.data.full_px, "full")])
            ratios.add(times, full_ms[-1])
            yield Progress(len(full_ms), ROUNDS)
            if len(full_ms) >= ROUNDS and ratios.narrow():
                break
        table = CostTable(cost_conditions(config), median(full_ms), ratios.costs(), len(full_ms), load.others_frac())
        reason = table.reason_to_doubt()
        if reason is None or accept_noisy:
            yield table
            return
    raise NoisyTimingError(f"step times could not be measured: {reason}; run nothing else meanwhile, or give --accept-noisy-timing")


def _timed_rounds(timer: _StepTimer, kinds: frozenset[Step]) -> Iterator[dict[Step, float]]:
    """Milliseconds of one step of every kind, round by round, each round in another random order."""
    order = sorted(kinds)
    shuffle = random.Random(0).shuffle
    for done in range(WARM_UP_ROUNDS + MAX_ROUNDS):
        shuffle(order)
        times = {step: timer.milliseconds(step) for step in order}
        if done >= WARM_UP_ROUNDS:
            yield times


class _Ratios:
    """Each kind's times over those of the same round's full step: a clock that drifts from round to round cancels."""

    def __init__(self) -> None:
        self._ratios: defaultdict[Step, list[float]] = defaultdict(list)

    def add(self, times: Mapping[Step, float], full_ms: float) -> None:
        for step, milliseconds in times.items():
            self._ratios[step].append(milliseconds / full_ms)

    def costs(self) -> dict[Step, StepCost]:
        return {step: StepCost.of(ratios) for step, ratios in self._ratios.items()}

    def narrow(self) -> bool:
        return all(cost.interval_frac <= MAX_INTERVAL_FRAC for cost in self.costs().values())


class _StepTimer:
    """Runs single steps of any kind on a throw-away network with made-up images."""

    def __init__(self, config: TrainConfig, steps: frozenset[Step], num_classes: int) -> None:
        self.device = resolve_device(config.device)
        set_threads(config.threads)
        # A tiny learning rate keeps the figures of made-up data finite; the arithmetic is the same.
        self.config = dataclasses.replace(config, lr=1e-6)
        torch.manual_seed(0)
        self.model = build_training_model(config, num_classes, self.device)
        check_sides(self.model, steps, config.data.full_px, side_multiple=config.schedule.side_multiple)
        self.optimizer = build_optimizer(self.model, self.config)
        side = config.data.full_px
        self.images = torch.randn(config.batch_size, 3, side, side, device=self.device)
        self.labels = torch.randint(num_classes, (config.batch_size,), device=self.device)
        self.downsampler = Downsampler(self.model, Schedule(), total_steps=0, full_px=side)
        self.burst = CUDA_BURST if self.device.type == "cuda" else 1

    def milliseconds(self, step: Step) -> float:
        self._synchronize()
        started = time.perf_counter()
        for _ in range(self.burst):
            with self.downsampler.run_as(step):
                training_step(self.model, self.optimizer, resize(self.images, step.side_px), self.labels, self.config)
        self._synchronize()
        return (time.perf_counter() - started) * 1000 / self.burst

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _LoadMeter:
    """How much of the cores that this process may use went to others since the meter was made."""

    def __init__(self) -> None:
        self._start = self._reading()

    def others_frac(self) -> float | None:
        end = self._reading()
        if self._start is None or end is None:
            return None
        busy, own, elapsed = (after - before for before, after in zip(self._start, end, strict=True))
        return max(0.0, (busy - own) / (elapsed * len(available_cores())))

    @staticmethod
    def _reading() -> tuple[float, float, float] | None:
        """Busy seconds of our cores, CPU seconds of this process, and the clock."""
        if not _PROC_STAT.exists():
            return None
        cores = {f"cpu{core}" for core in available_cores()}
        ticks = 0
        for line in _PROC_STAT.read_text(encoding="ascii").splitlines():
            name, *fields = line.split()
            if name in cores:
                user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
                ticks += user + nice + system + irq + softirq + steal
        own = os.times()
        return ticks / os.sysconf("SC_CLK_TCK"), own.user + own.system, time.monotonic()
