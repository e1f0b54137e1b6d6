"""A recorded table while it grows: lines of trainings on disk. The compressed file that it becomes is tuner.replay.table's."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from studies.rules import parse_duration
from trainers.errors import InputError

Line = dict[str, Any]
# Byte of the lock file that who appends holds; the bytes behind it are those of the trainings, by number.
_APPENDING: Final = 0


class PartialTable:
    """JSON lines, one a finished training, which several processes append to; a training is claimed by a lock that ends with its process.

    A last line that a power failure tore is as if it had never been written; a torn line elsewhere is an InputError. Close it when done.
    key: what the trainings' numbers are called in the lines.
    """

    def __init__(self, path: Path, key: str = "seed") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._key = key
        # A file of its own: closing any handle of a file gives up all locks that the process has on it.
        self._locks = path.with_suffix(".lock").open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._locks.close()

    def lines(self) -> list[Line]:
        """What has been recorded so far."""
        return read_lines(self.path)

    def append(self, line: Line) -> None:
        """Adds a line behind the last whole one; it is on the disk when this returns."""
        with self._locked(_APPENDING), self.path.open("ab") as file:
            file.truncate(_intact(self.path)[1])
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def claim(self, number: int) -> Iterator[bool]:
        """Inside, no other process makes the training of this number; False if one does, or if it has been recorded."""
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number + 1)
        except (BlockingIOError, PermissionError):
            yield False
            return
        try:
            yield all(line[self._key] != number for line in self.lines())
        finally:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, number + 1)

    @contextmanager
    def _locked(self, byte: int) -> Iterator[None]:
        fcntl.lockf(self._locks, fcntl.LOCK_EX, 1, byte)
        try:
            yield
        finally:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, byte)


def read_lines(path: Path) -> list[Line]:
    """The lines of a partial table, none where there is no file; InputError where one before the last is torn."""
    return _intact(path)[0]


def _intact(path: Path) -> tuple[list[Line], int]:
    """The whole lines, and how many bytes they take."""
    raw = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    lines: list[Line] = []
    for number, text in enumerate(raw, start=1):
        line = _parsed(text)
        if line is not None:
            lines.append(line)
        elif number < len(raw):
            raise InputError(f"line {number} of {path} is no line of a table, only the last one may be torn")
    return lines, sum(map(len, raw[: len(lines)]))


def _parsed(text: bytes) -> Line | None:
    """The line, None if it is torn."""
    try:
        line: object = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and text.endswith(b"\n") else None


def duration(text: str) -> int:
    """Seconds of a time such as 90m, for argparse."""
    try:
        return parse_duration(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
