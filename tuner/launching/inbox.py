"""What workers have reported and the database does not have yet."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator

from tuner.launching.jobs import Report
from tuner.launching.maker import Running


class Inbox:
    """Filled in Ray's event loop by `add`, which never waits; everything else is the work thread's. None: a worker died without a word."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[tuple[Running, Report | None] | None] = queue.SimpleQueue()
        self._untold: deque[tuple[Running, Report | None]] = deque()

    def __bool__(self) -> bool:
        return bool(self._untold)

    def add(self, running: Running, report: Report | None) -> None:
        """A trial's last report."""
        self._events.put((running, report))

    def wake(self) -> None:
        """Something else has happened that the work thread should look at."""
        self._events.put(None)

    def wait(self, timeout_s: float) -> None:
        """Collects what there is, and waits for it where there is nothing."""
        try:
            event = self._events.get(timeout=timeout_s)
            while True:
                if event is not None:
                    self._untold.append(event)
                event = self._events.get_nowait()
        except queue.Empty:
            return

    def untold(self) -> Iterator[tuple[Running, Report | None]]:
        """Each report in turn. It leaves when the next one is asked for: one that could not be told comes again."""
        while not self._events.empty():
            self.wait(0.0)
        while self._untold:
            yield self._untold[0]
            self._untold.popleft()
