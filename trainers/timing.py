"""A stopwatch that sums seconds by part, on the CPU's clock or on the GPU's own."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Sums the seconds spent in named parts.

    On CUDA the ends of parts are events on the current stream and read only in `collect()`: a synchronisation at every step would slow
    down the training that is being measured.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._totals: defaultdict[str, float] = defaultdict(float)
        self._mark_s = 0.0
        # What lies between each event and the one before it; None before the first of a row of parts.
        self._events: list[tuple[str | None, torch.cuda.Event]] = []

    def start(self) -> None:
        """Begins a row of parts, each ended by `lap`."""
        if self._cuda:
            self._record(None)
        else:
            self._mark_s = time.perf_counter()

    def lap(self, name: str) -> None:
        """Adds the time since `start` or the last `lap` to `name`."""
        if self._cuda:
            self._record(name)
            return
        now_s = time.perf_counter()
        self._totals[name] += now_s - self._mark_s
        self._mark_s = now_s

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to `name`. Not within a row of laps."""
        self.start()
        yield
        self.lap(name)

    def collect(self) -> None:
        """Adds up the GPU's events so far, so that they don't pile up over a long training. Waits for the GPU."""
        if self._events:
            self._events[-1][1].synchronize()
            for (_, start), (name, end) in itertools.pairwise(self._events):
                if name is not None:
                    self._totals[name] += start.elapsed_time(end) / 1000
            # The last event may be the one that the next lap counts from.
            self._events = [(None, self._events[-1][1])]

    def seconds(self) -> dict[str, float]:
        """Seconds by part so far. Waits for the GPU."""
        self.collect()
        return dict(self._totals)

    def _record(self, name: str | None) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append((name, event))
