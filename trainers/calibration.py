"""Times every kind of step once, in a quiet window, on a throw-away network: the only place where step times are measured.

Warm-up is dropped, kinds are interleaved in random order, and short steps are repeated until they are watched as long as a full one.
When the machine is not quiet the calibration is repeated and then refused. Our own choice.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import torch

from trainers.config import TrainConfig
from trainers.cores import available_cores, busy_seconds, own_seconds
from trainers.cost import MAX_OTHERS_FRAC, CostTable, StepCost
from trainers.device import device_name, peak_memory_mib, reset_peak_memory, resolve_device, set_threads, versions
from trainers.distributed import RankPool
from trainers.downsampling import check_sides
from trainers.errors import NoisyTimingError, RunError
from trainers.ranks import Ranks
from trainers.rehearsal import Rehearsal, compile_steps, or_out_of_memory
from trainers.schedule import Step

# Where a process's tensors come to lie moves its times by a percent or two, so the network is built anew many times.
BUILDS: Final = 12
ROUNDS: Final = 4
# A machine's speed drifts by a few percent from half a minute to the next, and not alike for all kinds of step (docs/LOG.md).
MIN_SECONDS: Final = 60.0
WARM_UP_STEPS: Final = 2
ATTEMPTS: Final = 5
# GPU kernels are launched ahead of the device: a timed unit there is long enough to hide the launch of its first step.
CUDA_BURST: Final = 5


def cost_conditions(config: TrainConfig) -> dict[str, Any]:
    """What a cost table holds for. A table is reused while all of it stays the same."""
    device = resolve_device(config.device)
    # Named only where it is on: tables older than the method still hold.
    grouping = {} if config.grouping.name == "none" else {"grouping": config.grouping.name}
    return {
        "model": config.model,
        "full_px": config.data.full_px,
        "batch_size": config.batch_size,
        "optimizer": config.optimizer,
        "precision": config.precision if device.type == "cuda" else "fp32",
        "compile": config.compile,
        "accumulate": config.accumulate,
        "device": device_name(device),
        "threads": set_threads(Ranks(size=config.ranks).threads(config.threads)) if device.type == "cpu" else 0,
        "ranks": config.ranks,
        "versions": versions(device),
        **grouping,
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

    At least BUILDS times ROUNDS rounds and MIN_SECONDS. Up to ATTEMPTS times: what was timed in a quiet window is kept and added to, what
    was timed beside others is dropped; then NoisyTimingError says why. `accept_noisy` takes the shortest single attempt, however steady
    it was. InputError if the network can't take a side, OutOfMemoryError if a kind of step doesn't fit. Of several ranks the slowest
    counts, in every timed unit.
    """
    with RankPool(config.ranks, config.device) as pool:
        found = pool.start(_calibration, config, frozenset(steps), num_classes, accept_noisy)
        while not isinstance(latest := pool.call(found.__next__), CostTable):
            yield latest
        yield latest


def _calibration(
    config: TrainConfig, steps: frozenset[Step], num_classes: int, accept_noisy: bool, *, ranks: Ranks
) -> Iterator[Progress | CostTable]:
    """What every rank does. All decisions are agreed on, because a rank that stopped alone would leave the others waiting."""
    full = Step(config.data.full_px, "full")
    kinds = steps | {full}
    _check(config, kinds, num_classes, ranks)
    reason: str | None = None
    times = _Times(full)
    for attempt in range(1 if accept_noisy else ATTEMPTS):
        # Whatever disturbed the first attempt may be over in a moment.
        time.sleep(2.0 * attempt)
        load = _LoadMeter(ranks)
        length = _Length(times.builds + BUILDS, 0.0 if accept_noisy else MIN_SECONDS)
        while not ranks.any(length.reached(times.builds)):
            timer = _StepTimer(config, kinds, num_classes, ranks)
            times.add_build(list(_timed_rounds(timer, kinds)))
            yield Progress(length.percent(times.builds))
            if load.too_high() and not accept_noisy:
                break
        table = CostTable(cost_conditions(config), times.full_ms(), times.costs(), times.rounds, load.others_frac(), timer.peak_mib())
        reason = table.reason_to_doubt()
        if reason is None or accept_noisy:
            yield table
            return
        if load.too_high():
            times = _Times(full)
    raise NoisyTimingError(f"step times could not be measured: {reason}; run nothing else meanwhile, or give --accept-noisy-timing")


def _check(config: TrainConfig, kinds: frozenset[Step], num_classes: int, ranks: Ranks) -> None:
    """Refuses what the network can't do, and compiles, before the clock and the load meter start."""
    model = Rehearsal(config, num_classes, ranks).model
    check_sides(model, kinds, config.data.full_px, side_multiple=config.schedule.side_multiple)
    if config.compile:
        compile_steps(config, kinds, num_classes, ranks)


def _timed_rounds(timer: _StepTimer, kinds: frozenset[Step]) -> Iterator[dict[Step, float]]:
    """Milliseconds of one step of every kind, round by round, each round in another random order."""
    order = sorted(kinds)
    shuffle = random.Random(0).shuffle
    timer.warm_up()
    for _ in range(ROUNDS):
        shuffle(order)
        yield {step: timer.milliseconds(step) for step in order}


class _Length:
    """How long an attempt lasts: until there are so many builds, and so many seconds."""

    def __init__(self, builds: int, seconds: float) -> None:
        self._builds, self._seconds = builds, seconds
        self._started = time.monotonic()

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
    """Times single steps of any kind on a throw-away network with made-up images."""

    def __init__(self, config: TrainConfig, steps: frozenset[Step], num_classes: int, ranks: Ranks) -> None:
        self._config, self._num_classes, self._ranks = config, num_classes, ranks
        self._rehearsal = Rehearsal(config, num_classes, ranks)
        self._full = Step(config.data.full_px, "full")
        self._cuda = self._rehearsal.device.type == "cuda"
        # In one order in all ranks, which that of a set is not.
        self._bursts = dict.fromkeys(sorted(steps), CUDA_BURST if self._cuda else 1)

    def warm_up(self) -> None:
        """Drops the first steps, and lets cheap steps run several times a round, so that each kind is watched as long as a full step."""
        for _ in range(WARM_UP_STEPS):
            times = {step: self.milliseconds(step) for step in self._bursts}
        self._bursts = {step: max(burst, round(burst * times[self._full] / times[step])) for step, burst in self._bursts.items()}

    def milliseconds(self, step: Step) -> float:
        """Time of one step of this kind: forward, backward, optimizer, and the resizing of the images."""
        own = or_out_of_memory(lambda: self._milliseconds(step), self._config, step, self._num_classes)
        # It also has all ranks begin the next unit together.
        return self._ranks.slowest(own)

    def peak_mib(self) -> dict[Step, float] | None:
        """Peak memory of one step of each kind on CUDA, weights and optimizer included. None on a CPU, where only the process has one."""
        if not self._cuda:
            return None
        peaks = {}
        for step in self._bursts:
            reset_peak_memory(self._rehearsal.device)
            self._rehearsal.make_one(step)
            peaks[step] = self._ranks.slowest(peak_memory_mib(self._rehearsal.device))
        return peaks

    def _milliseconds(self, step: Step) -> float:
        images, labels = self._rehearsal.batch(step)
        self._synchronize()
        started = time.perf_counter()
        for _ in range(self._bursts[step]):
            self._rehearsal.make(step, images, labels)
        self._synchronize()
        return (time.perf_counter() - started) * 1000 / self._bursts[step]

    def _synchronize(self) -> None:
        if self._cuda:
            torch.cuda.synchronize(self._rehearsal.device)


class _LoadMeter:
    """How much of the cores that these processes may use went to others since the meter was made; the same in every rank."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._start = self._reading()

    def others_frac(self) -> float | None:
        end = self._reading()
        if self._start is None or end is None:
            return None
        busy, own, elapsed = (after - before for before, after in zip(self._start, end, strict=True))
        return self._ranks.slowest(max(0.0, (busy - own) / (elapsed * len(available_cores()))))

    def too_high(self) -> bool:
        """Whether this calibration can be given up already."""
        others_frac = self.others_frac()
        return others_frac is not None and others_frac > MAX_OTHERS_FRAC

    def _reading(self) -> tuple[float, float, float] | None:
        """Busy seconds of our cores, CPU seconds of all ranks, and the clock."""
        busy_s = busy_seconds()
        return None if busy_s is None else (busy_s, self._ranks.total(own_seconds()), time.monotonic())
