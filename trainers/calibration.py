"""Times every kind of step once, in a quiet window, on a throw-away network: the only place where step times are measured.

Warm-up is dropped, kinds are interleaved in random order, and short steps are repeated until they are watched as long as a full one.
When the machine is not quiet the calibration is repeated and then refused. Our own choice.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from trainers.config import TrainConfig
from trainers.cost import MAX_OTHERS_FRAC, CostTable, StepCost
from trainers.device import available_cores, device_name, resolve_device, set_threads, versions
from trainers.downsampling import Downsampler, check_sides, resize
from trainers.errors import NoisyTimingError, RunError
from trainers.loop import build_training_model, training_step
from trainers.optim import build_optimizer
from trainers.schedule import Schedule, Step

# Where a process's tensors come to lie moves its times by a percent or two, so the network is built anew many times.
BUILDS: Final = 8
ROUNDS: Final = 6
# A machine's speed drifts by a few percent from half a minute to the next, and not alike for all kinds of step (docs/LOG.md).
MIN_SECONDS: Final = 60.0
WARM_UP_STEPS: Final = 3
ATTEMPTS: Final = 3
# GPU kernels are launched ahead of the device: a timed unit there is long enough to hide the launch of its first step.
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
    """How much of a calibration is done, in percent of its first attempt."""

    done: int
    expected: int = 100


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

    At least BUILDS times ROUNDS rounds and MIN_SECONDS; up to ATTEMPTS times, each later one twice as long; then NoisyTimingError says
    why. `accept_noisy` takes the shortest single attempt, however steady it was. InputError if the network can't take a side.
    """
    full = Step(config.data.full_px, "full")
    kinds = frozenset(steps) | {full}
    reason: str | None = None
    for attempt in range(1 if accept_noisy else ATTEMPTS):
        # Whatever disturbed the first attempt may be over in a moment.
        time.sleep(2.0 * attempt)
        times, load = _Times(full), _LoadMeter()
        length = _Length(BUILDS, 0.0) if accept_noisy else _Length(BUILDS, MIN_SECONDS).times(min(2, attempt + 1))
        while not length.reached(times.builds):
            times.add_build(list(_timed_rounds(_StepTimer(config, kinds, num_classes), kinds)))
            yield Progress(length.percent(times.builds))
            if load.too_high() and not accept_noisy:
                break
        table = CostTable(cost_conditions(config), times.full_ms(), times.costs(), times.rounds, load.others_frac())
        reason = table.reason_to_doubt()
        if reason is None or accept_noisy:
            yield table
            return
    raise NoisyTimingError(f"step times could not be measured: {reason}; run nothing else meanwhile, or give --accept-noisy-timing")


def _timed_rounds(timer: _StepTimer, kinds: frozenset[Step]) -> Iterator[dict[Step, float]]:
    """Milliseconds of one step of every kind, round by round, each round in another random order."""
    order = sorted(kinds)
    shuffle = random.Random(0).shuffle
    timer.warm_up()
    for _ in range(ROUNDS):
        shuffle(order)
        yield {step: timer.milliseconds(step) for step in order}


class _Length:
    """How long an attempt lasts: so many builds, and so many seconds."""

    def __init__(self, builds: int, seconds: float) -> None:
        self._builds, self._seconds = builds, seconds
        self._started = time.monotonic()

    def times(self, factor: int) -> _Length:
        return _Length(self._builds * factor, self._seconds * factor)

    def reached(self, builds: int) -> bool:
        return builds >= self._builds and time.monotonic() - self._started >= self._seconds

    def percent(self, builds: int) -> int:
        elapsed_frac = (time.monotonic() - self._started) / self._seconds if self._seconds else 1.0
        return min(100, int(100 * min(builds / self._builds, elapsed_frac)))


class _Times:
    """Milliseconds of each kind of step, build by build and round by round."""

    def __init__(self, full: Step) -> None:
        self._full = full
        self._times: defaultdict[Step, list[list[float]]] = defaultdict(list)

    def add_build(self, rounds: Sequence[Mapping[Step, float]]) -> None:
        for step in rounds[0]:
            self._times[step].append([one_round[step] for one_round in rounds])

    @property
    def builds(self) -> int:
        return len(self._times[self._full])

    @property
    def rounds(self) -> int:
        return sum(map(len, self._times[self._full]))

    def full_ms(self) -> float:
        return median(itertools.chain.from_iterable(self._times[self._full]))

    def costs(self) -> dict[Step, StepCost]:
        return {step: StepCost.of(times, self._times[self._full]) for step, times in self._times.items()}


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
        self.full = Step(side, "full")
        self.bursts = dict.fromkeys(steps, CUDA_BURST if self.device.type == "cuda" else 1)

    def warm_up(self) -> None:
        """Drops the first steps, and lets cheap steps run several times a round, so that each kind is watched as long as a full step."""
        for _ in range(WARM_UP_STEPS):
            times = {step: self.milliseconds(step) for step in self.bursts}
        self.bursts = {step: max(burst, round(burst * times[self.full] / times[step])) for step, burst in self.bursts.items()}

    def milliseconds(self, step: Step) -> float:
        """Time of one step of this kind: forward, backward, optimizer, and the resizing of the images."""
        self._synchronize()
        started = time.perf_counter()
        for _ in range(self.bursts[step]):
            with self.downsampler.run_as(step):
                training_step(self.model, self.optimizer, resize(self.images, step.side_px), self.labels, self.config)
        self._synchronize()
        return (time.perf_counter() - started) * 1000 / self.bursts[step]

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

    def too_high(self) -> bool:
        """Whether this calibration can be given up already."""
        others_frac = self.others_frac()
        return others_frac is not None and others_frac > MAX_OTHERS_FRAC

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
