"""What one attempt at a trial prints, kept as its log.txt: stdout and stderr, warnings, logging, and what native code writes."""

from __future__ import annotations

import ctypes
import io
import os
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TextIO

from trainers.places import RootPlace

LOG_NAME: Final = "log.txt"
# Of a log that grows beyond the first, the newest part of the second size stays.
MAX_BYTES: Final = 2**20
_KEPT_BYTES: Final = MAX_BYTES // 2
_LONGEST_LINE: Final = 2**16
# A log at a place that is no folder is copied as a whole each time.
_COPY_EVERY_S: Final = 10.0


class TrialLog:
    """An attempt's open log. path: the local file, to be opened for appending only, because it is cut in place when it is too large.

    Nothing here raises because of a full disk or a place that is away: the training matters more, and the log says what it lacks.
    """

    def __init__(self, place: RootPlace, attempt: int) -> None:
        self._place, self._attempt = place, attempt
        self.path, self._is_copied = _local_path(place, attempt)
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._lost = 0
        self._cutting = threading.Lock()
        self._copied_size = 0
        self._copied_s = -_COPY_EVERY_S
        self._is_away = False

    def append(self, line: str) -> None:
        """Adds a line under the present time."""
        if self._lost and self._write(f"{self._lost} lines could not be written, for want of space"):
            self._lost = 0
        self._lost += not self._write(line)
        self._cut()

    def flush(self) -> None:
        """Copies the log to its place where that is no folder here; to be called now and then, at most every ten seconds it does so."""
        self._cut()
        if time.monotonic() - self._copied_s >= _COPY_EVERY_S:
            self._copy()

    def close(self) -> None:
        """The last copy. What still holds the file, such as the processes of other ranks, can add nothing to the log from now on."""
        self._copy()
        os.close(self.descriptor)
        with suppress(OSError):
            if not self._is_copied:
                # Renamed over the file that others hold.
                self._place.write(self._attempt, LOG_NAME, self.path.read_bytes())
            elif not self._is_away:
                self.path.unlink()

    def _write(self, line: str) -> bool:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        data = f"{stamp} {line}\n".encode("utf-8", "backslashreplace")
        try:
            return os.write(self.descriptor, data) == len(data)
        except OSError:
            return False

    def _cut(self) -> None:
        # Not waited for: whoever has the lock is cutting it, and in a forked process nobody would ever give it back.
        if os.fstat(self.descriptor).st_size <= MAX_BYTES or not self._cutting.acquire(blocking=False):
            return
        try:
            size = os.fstat(self.descriptor).st_size
            newest = os.pread(self.descriptor, _KEPT_BYTES, size - _KEPT_BYTES)
            os.ftruncate(self.descriptor, 0)
            self._write("older lines were dropped, because the log grew too large")
            os.write(self.descriptor, newest.partition(b"\n")[2] or newest)
        except OSError:
            self._lost += 1
        finally:
            self._cutting.release()

    def _copy(self) -> None:
        size = os.fstat(self.descriptor).st_size
        if not self._is_copied or size == self._copied_size:
            return
        try:
            self._place.write(self._attempt, LOG_NAME, self.path.read_bytes())
        except OSError as error:
            if not self._is_away:
                self.append(f"the log is only in {self.path} on {socket.gethostname()} for now: {error}")
            self._is_away = True
        else:
            self._is_away, self._copied_size = False, size
        self._copied_s = time.monotonic()


@contextmanager
def trial_log(place: RootPlace, attempt: int) -> Iterator[TrialLog]:
    """Sends what this process and its children print to the log of an attempt, and nowhere else, until it is left. Don't nest.

    Lines of Python code get the time before them. What native code and other processes write goes to the file as it is, and a
    process that dies at once has its last words in it.
    """
    with ExitStack() as stack:
        log = TrialLog(place, attempt)
        stack.callback(log.close)
        log.append(f"attempt {attempt} on {socket.gethostname()}, process {os.getpid()}")
        log.flush()
        stack.enter_context(_descriptors_sent_to(log))
        stack.enter_context(_streams_sent_to(log))
        # Else a warning that an earlier trial of this process had would be left out.
        with warnings.catch_warnings():
            pass
        yield log


class _Stream(io.TextIOBase):
    """In the place of sys.stdout or sys.stderr: whole lines go to the log that is open, and else to the stream that was there before.

    There is one of each in a process, because logging handlers keep what they found as sys.stderr in an earlier trial.
    """

    def __init__(self) -> None:
        self.original: TextIO = io.StringIO()
        self._log: TrialLog | None = None
        # Not yet a whole line, by thread. Without a lock, which a forked process might find locked for ever.
        self._begun: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def write(self, text: str) -> int:
        if self._log is None:
            return self.original.write(text)
        *lines, rest = (self._begun.pop(threading.get_ident(), "") + text).split("\n")
        for line in lines:
            self._log.append(_last_shown(line))
        rest = _last_shown(rest)
        if len(rest) > _LONGEST_LINE:
            self._log.append(rest)
        elif rest:
            self._begun[threading.get_ident()] = rest
        return len(text)

    def flush(self) -> None:
        if self._log is None:
            self.original.flush()

    def fileno(self) -> int:
        return self.original.fileno()

    def writable(self) -> bool:
        return True

    def start(self, log: TrialLog, original: TextIO) -> None:
        self._log, self.original = log, original

    def end(self) -> None:
        log, self._log = self._log, None
        while self._begun and log is not None:
            log.append(self._begun.popitem()[1])


_STREAMS: Final = {"stdout": _Stream(), "stderr": _Stream()}


@contextmanager
def _streams_sent_to(log: TrialLog) -> Iterator[None]:
    for name, stream in _STREAMS.items():
        stream.start(log, getattr(sys, name))
        setattr(sys, name, stream)
    try:
        yield
    finally:
        for name, stream in _STREAMS.items():
            setattr(sys, name, stream.original)
            stream.end()


@contextmanager
def _descriptors_sent_to(log: TrialLog) -> Iterator[None]:
    _flush_buffers()
    kept = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(log.descriptor, number)
    try:
        yield
    finally:
        _flush_buffers()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


def _flush_buffers() -> None:
    """Python's and the C library's: what is in them belongs to where the descriptors led until now."""
    for stream in (sys.stdout, sys.stderr):
        # A full disk.
        with suppress(OSError):
            stream.flush()
    ctypes.CDLL(None).fflush(None)


def _last_shown(line: str) -> str:
    """What a terminal would show of a line that progress bars have written over."""
    return line.rstrip("\r").rpartition("\r")[2]


def _local_path(place: RootPlace, attempt: int) -> tuple[Path, bool]:
    """The file to write, and whether it is one that has to be copied to its place."""
    # A place that can't be written now may be so later.
    with suppress(OSError):
        if (folder := place.local_folder(attempt)) is not None:
            return folder / LOG_NAME, False
    descriptor, name = tempfile.mkstemp(prefix="downsample-tuner-log-", suffix=".txt")
    os.close(descriptor)
    return Path(name), True
