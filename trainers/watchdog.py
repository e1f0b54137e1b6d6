"""Ends a process whose training hangs, also where native code holds Python's lock, and says what it was doing. Knows no torch."""

from __future__ import annotations

import faulthandler
import statistics
import time
from collections import deque
from math import inf
from pathlib import Path
from typing import IO, Final

# How much longer than usual a step may take.
USUAL_STEPS: Final = 10
# The usual step is the median of the last so many (our own choice): it follows a machine that gets slower, and no single step moves it.
LAST_STEPS: Final = 100
# Arming starts a thread, which short steps would feel.
ARM_EVERY_S: Final = 1.0


class Watch:
    """Whom a training gives its signs of life. This one does nothing with them."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def of_rank(self, rank: int) -> Watch:
        return self

    def alive(self, share: float | None = 1.0) -> None: ...

    def pause(self) -> None: ...


UNWATCHED: Final = Watch()


class Watchdog(Watch):
    """Ends this process, with status 1, when a training in it goes on for too long without a sign of life.

    That is USUAL_STEPS times the usual step, and at least `floor_s`. Where no step is usual yet, and in phases without steps such as
    set-up, compiling or writing to a slow disk, it is `patient_s`. Only watched inside `with`. It pickles, so every rank can have its own
    (`of_rank`).

    log: file to which the end and the stack of every thread are appended. There is one timer in a process: that of
    faulthandler.dump_traceback_later, which nothing else may use at the same time.
    """

    def __init__(self, log: str | Path, floor_s: float = 60.0, patient_s: float = 3600.0) -> None:
        self._log, self._floor_s, self._patient_s = log, floor_s, patient_s
        self._file: IO[bytes]
        self._seconds: deque[float] = deque(maxlen=LAST_STEPS)
        self._last_s = self._armed_s = -inf

    def __reduce__(self) -> tuple[type[Watchdog], tuple[str | Path, float, float]]:
        return Watchdog, (self._log, self._floor_s, self._patient_s)

    def __enter__(self) -> None:
        self._file = Path(self._log).open("ab")
        self._last_s = time.monotonic()
        self.pause()

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._file.close()

    def of_rank(self, rank: int) -> Watchdog:
        """The one of a rank: with a log of its own, see rank_log, because ranks hang together and their words would be mixed."""
        return Watchdog(rank_log(self._log, rank), self._floor_s, self._patient_s)

    def alive(self, share: float | None = 1.0) -> None:
        """A step has ended that was as much work as this share of the largest step; None: something else went on, such as an evaluation."""
        now_s = time.monotonic()
        if share is not None:
            self._seconds.append((now_s - self._last_s) / share)
        self._last_s = now_s
        if now_s - self._armed_s >= ARM_EVERY_S:
            self._arm(self._limit_s())
            self._armed_s = now_s

    def pause(self) -> None:
        """A phase without steps begins, which the next sign of life ends."""
        self._arm(self._patient_s)
        self._armed_s = -inf

    def _limit_s(self) -> float:
        if not self._seconds:
            return self._patient_s
        # Signs of life within ARM_EVERY_S of the last arming count as well.
        return max(self._floor_s, USUAL_STEPS * statistics.median(self._seconds)) + ARM_EVERY_S

    def _arm(self, limit_s: float) -> None:
        faulthandler.dump_traceback_later(limit_s, file=self._file, exit=True)


def rank_log(log: str | Path, rank: int) -> Path:
    """Where a rank's words go: "log.txt" for rank 0, beside it "log.rank1.txt" for rank 1."""
    path = Path(log)
    return path if rank == 0 else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")
