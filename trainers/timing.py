"""A stopwatch that sums seconds by part, on the CPU's clock or on the GPU's own."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Sums the seconds spent in named parts.

    On CUDA each part is bracketed by events on the current stream and read only in `seconds()`: a synchronisation at every step would
    slow down the training that is being measured.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._totals: defaultdict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to `name`."""
        if self._cuda:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
        else:
            started = time.perf_counter()
            yield
            self._totals[name] += time.perf_counter() - started

    def seconds(self) -> dict[str, float]:
        """Seconds by part so far. Waits for the GPU."""
        if self._events:
            torch.cuda.synchronize()
            for name, start, end in self._events:
                self._totals[name] += start.elapsed_time(end) / 1000
            self._events.clear()
        return dict(self._totals)
