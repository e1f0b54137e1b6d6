"""`tuner logs`: what the training of a trial said, also while it goes on."""

from __future__ import annotations

import itertools
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from optuna.trial import FrozenTrial, TrialState

from trainers.errors import InputError, RunError
from trainers.places import shown_place
from trainers.watchdog import rank_log
from tuner.launching.places import CHECKPOINTS, root_place
from tuner.launching.trial_log import LOG_NAME
from tuner.results.describe import printable
from tuner.storage.lookup import open_study
from tuner.storage.opening import with_retries
from tuner.storage.owner import is_dead
from tuner.storage.rows import LINEAGE, OWNER
from tuner.storage.store import StudyStore

_POLL_S: Final = 1.0
# Enough of the last lines to find them again in a log whose oldest half was dropped.
_ANCHOR_BYTES: Final = 2000

T = TypeVar("T")


def show_logs(study: str, storage: str | None, trial: int, follow: bool) -> None:
    """Prints the log of one trial, and with `follow` what is added until the trial ends.

    InputError where there is no such trial; RunError, with the reason, where it has no log that can be read here.
    """
    store = open_study(study, storage)
    log = _AttemptLog(store, trial)
    tail = Tail()
    while True:
        # Asked before the log is read, so that the last lines are shown too.
        is_over = log.is_over()
        content = log.read() or b""
        if not content and (is_over or not follow):
            raise RunError(log.why_none())
        fresh = tail.new(content, whole=is_over or not follow)
        _show(fresh)
        if is_over or not follow:
            log.show_other_ranks()
            return
        time.sleep(_POLL_S)


def _show(content: bytes) -> None:
    sys.stdout.write(printable(content.decode("utf-8", "backslashreplace")))
    sys.stdout.flush()


class Tail:
    """What is new in a log that grows, and whose oldest part may be dropped."""

    def __init__(self) -> None:
        self._seen = b""

    def new(self, content: bytes, *, whole: bool) -> bytes:
        """What `content`, all of the log, has that it had not before. whole: no more will come, so that half a line is one too."""
        if not whole:
            content = content[: content.rfind(b"\n") + 1]
        start = len(self._seen)
        if not content.startswith(self._seen):
            start = _end_of_overlap(self._seen, content)
        self._seen = content
        return content[start:]


def _end_of_overlap(seen: bytes, content: bytes) -> int:
    """Where in `content` the last of what was seen ends: as many of its last lines as are there; 0 where none is."""
    lines = seen[-_ANCHOR_BYTES:].splitlines(keepends=True)
    for first in range(len(lines)):
        last_lines = b"".join(lines[first:])
        if (found := content.rfind(last_lines)) >= 0:
            return found + len(last_lines)
    return 0


class _AttemptLog:
    """Where the log of one attempt is, and whether more will come."""

    def __init__(self, store: StudyStore, number: int) -> None:
        count = store.trial_count()
        if not 0 <= number < count:
            numbered = f"its trials are 0 to {count - 1}" if count else "it has no trials yet"
            raise InputError(f"study '{store.name}' has no trial {number}, {numbered}")
        self._store, self._number = store, number
        self._trial_id = self._retried(lambda: store.storage.get_trial_id_from_study_id_trial_number(store.study_id, number))
        trial = self._trial()
        lineage = {"root": None, "attempt": 1} | (trial.user_attrs.get(LINEAGE) or {})
        root = number if lineage["root"] is None else lineage["root"]
        self._attempt: int = lineage["attempt"]
        self._owner: dict[str, Any] = trial.user_attrs.get(OWNER) or {}
        self._study_place: str | None = store.get_attr(CHECKPOINTS)
        self._place = None if self._study_place is None else root_place(self._study_place, root)

    def show_other_ranks(self) -> None:
        """Prints what ranks 1 and above said as they hung; most have nothing to say."""
        for rank in itertools.count(1):
            if (content := self.read(rank)) is None:
                return
            if content:
                _show(f"rank {rank}:\n".encode() + content)

    def read(self, rank: int = 0) -> bytes | None:
        """The log as it is now; None where there is none."""
        if self._place is None:
            return None
        try:
            return self._place.read(self._attempt, rank_log(LOG_NAME, rank).name)
        except OSError as error:
            raise RunError(f"the log of trial {self._number} can't be read: {error}") from None

    def is_over(self) -> bool:
        """Whether nothing is added any more: the trial has ended, or its driver is known to be dead."""
        trial = self._trial()
        return trial.state.is_finished() or is_dead(trial.user_attrs.get(OWNER) or {}) is True

    def why_none(self) -> str:
        """Why there is no log to show."""
        trial, which = self._trial(), f"trial {self._number} of study '{self._store.name}'"
        if trial.state == TrialState.WAITING:
            return f"{which} has no log, because it has not been started"
        if self._study_place is None:
            return f"{which} has no log that is known of, because the study does not say where it keeps what its trials leave"
        where, host = shown_place(self._study_place), self._owner.get("host")
        if "://" not in where and not Path(where).is_dir():
            elsewhere = f"; it was launched on {host}" if host and host != socket.gethostname() else ""
            return f"the log of {which} is kept in {where}, which is not there on {socket.gethostname()}{elsewhere}"
        if not trial.state.is_finished():
            return f"{which} has no log yet, because its training has not begun; --follow waits for it"
        return f"{which} left no log in {where}: it ended before its training began, or was trained while --checkpoints named another place"

    def _trial(self) -> FrozenTrial:
        return self._retried(lambda: self._store.storage.get_trial(self._trial_id))

    def _retried(self, call: Callable[[], T]) -> T:
        return with_retries(call, f"the database {self._store.storage.url}")
