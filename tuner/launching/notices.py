"""Tells people who don't watch how a launch fares: when it has ended, when it stalls, when it waits for its database.

A webhook, whose URL is a secret and therefore comes from the environment, and a command of the user's own. A notice that does not arrive
costs a line of warning and nothing else.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final, Literal, Protocol
from urllib.parse import urlsplit

from trainers.errors import InputError
from tuner.results.describe import describe_duration

WEBHOOK_VARIABLE: Final = "TUNER_WEBHOOK"
# Our own choices. Whoever is told that something stalls goes and looks, so it is said late rather than wrongly: at least the first, and so
# many times the longest time that this launch has got nowhere before. Nothing is known of that until the first epoch has ended.
STALL_S: Final = 15 * 60.0
_USUAL_GAPS: Final = 5
_FIRST_EPOCH_S: Final = 2 * 3600.0
_LOOK_S: Final = 5.0
_WEBHOOK_S: Final = 10.0
_COMMAND_S: Final = 60.0

Event = Literal["ended", "failed", "stalled", "moving", "paused", "resumed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """event: ended, failed (the launch, with its reason), stalled, moving (again), paused or resumed (its database was away).

    text: what happened, in a sentence. finished, asked: trials.
    """

    event: Event
    study: str
    text: str
    finished: int
    asked: int


class Notifier:
    """Sends notices to a webhook, as a POST of JSON whose `text` chat programs show, and to a command, which finds it on its stdin.

    warn: gets a sentence where one could not be sent. The URL is in none.
    """

    def __init__(self, webhook: str | None, command: str | None, warn: Callable[[str], None]) -> None:
        self._webhook = None if webhook is None else _checked_webhook(webhook)
        self._command = None if command is None else _checked_command(command)
        self._warn = warn

    @classmethod
    def from_environment(cls, command: str | None, warn: Callable[[str], None]) -> Notifier:
        """With the webhook of TUNER_WEBHOOK, which other processes are not to inherit. InputError for a bad URL or command."""
        return cls(os.environ.pop(WEBHOOK_VARIABLE, None), command, warn)

    def send(self, notice: Notice) -> None:
        """Sends it everywhere, one after the other; waits for a webhook 10 s, for a command a minute."""
        content = json.dumps(asdict(notice)).encode()
        if self._webhook is not None:
            self._post(self._webhook, content)
        if self._command is not None:
            self._run(self._command, content)

    def _post(self, url: str, content: bytes) -> None:
        request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=_WEBHOOK_S):
                pass
        except urllib.error.HTTPError as error:
            self._warn(f"the webhook of {WEBHOOK_VARIABLE} refused a notice: status {error.code}")
        except (OSError, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            self._warn(f"the webhook of {WEBHOOK_VARIABLE} could not be reached: {type(reason).__name__}")

    def _run(self, command: list[str], content: bytes) -> None:
        try:
            done = subprocess.run(
                command, input=content, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_COMMAND_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self._warn(f"{command[0]} could not be told: {type(error).__name__}")
        else:
            if done.returncode:
                self._warn(f"{command[0]}, which was to tell of the launch, ended with status {done.returncode}")


class Progress(Protocol):
    """What is watched of a launch: finished trials, epochs of running ones, and whether its database is away."""

    finished: int
    is_paused: bool

    @property
    def epochs_done(self) -> int: ...


class Watch:
    """Says what to tell of a launch each time it is looked at, once each."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._seen = self._state()
        self._longest_s: float | None = None
        self._moved_s = time.monotonic()
        self._is_stalled = self._is_paused = False

    def look(self) -> tuple[Event, str] | None:
        """An event with its sentence; None while there is nothing new."""
        if self._progress.is_paused != self._is_paused:
            return self._changed_pause()
        if (state := self._state()) != self._seen:
            return self._moved(state)
        still_s = time.monotonic() - self._moved_s
        if self._is_stalled or self._is_paused or still_s < self._patience_s():
            return None
        self._is_stalled = True
        return "stalled", f"no epoch and no trial has ended for {describe_duration(still_s)}"

    def _moved(self, state: tuple[int, int]) -> tuple[Event, str] | None:
        now_s = time.monotonic()
        self._longest_s = max(self._longest_s or 0.0, now_s - self._moved_s)
        self._seen, self._moved_s = state, now_s
        was_stalled, self._is_stalled = self._is_stalled, False
        return ("moving", "trials get on again") if was_stalled else None

    def _changed_pause(self) -> tuple[Event, str]:
        self._is_paused = self._progress.is_paused
        self._moved_s = time.monotonic()
        if self._is_paused:
            return "paused", "the database does not answer; what is being trained goes on, and its results are kept"
        return "resumed", "the database answers again"

    def _patience_s(self) -> float:
        return _FIRST_EPOCH_S if self._longest_s is None else max(STALL_S, _USUAL_GAPS * self._longest_s)

    def _state(self) -> tuple[int, int]:
        return self._progress.finished, self._progress.epochs_done


@contextmanager
def watching(progress: Progress, tell: Callable[[Event, str], None]) -> Iterator[None]:
    """Looks every few seconds while inside, in a thread of its own."""
    over = threading.Event()
    watch = Watch(progress)

    def look() -> None:
        while not over.wait(_LOOK_S):
            if (found := watch.look()) is not None:
                tell(*found)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def _checked_webhook(url: str) -> str:
    # The URL itself is a secret, so it is not shown.
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise InputError(f"{WEBHOOK_VARIABLE} is no URL of a webhook, it must begin with https:// or http:// and name a host")
    return url


def _checked_command(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if not words or shutil.which(words[0]) is None:
        raise InputError(f"--notify is '{command}', it must be a command whose program can be run here")
    return words
