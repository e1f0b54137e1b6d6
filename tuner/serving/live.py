"""A study as its live page asks for it: what runs, looked at when somebody asks, and the document, made anew when something has ended."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from trainers.errors import InputError, RunError
from tuner.launching.launch import ASKED
from tuner.report.details import last_finite, rounded
from tuner.report.document import NothingToReport, study_document
from tuner.results.confirmation import confirmation_name
from tuner.results.describe import describe_schedule, describe_training, printable
from tuner.serving.attached import attach_plots
from tuner.serving.packed import Packed
from tuner.serving.under_way import confirming_words, time_left, under_way_words
from tuner.storage.store import StudyStore
from tuner.storage.watching import WatchedTrial, last_durations_s, study_version, watched_trials

# However many look on, the database is asked this often at most.
LOOK_S: Final = 1.0
# The document is made this often at most, and so that at most a fifth of a core goes into it.
PAUSE_S: Final = 3.0
_PAUSES: Final = 4.0
# Trials that tell how long one takes: more would be of an earlier launch on other machines.
_TIMED: Final = 20

READING: Final = "The study is being read."
NOTHING_YET: Final = "No trial of this study has completed yet; the first one appears here by itself."
GONE: Final = "The study is in its database no more: this is what was read before."
AWAY: Final = "The database doesn't answer, so this is what was read before; it is asked again every few seconds."
BROKEN: Final = "The study can't be read, so this is what was read before; tuner dashboard says why in its terminal."
UNPICTURED: Final = "Optuna's dashboard couldn't be given new pictures; tuner dashboard says why in its terminal."

_NOTHING_RUNS: Final[dict[str, Any]] = {"running": [], "under_way": "", "left": "", "confirming": ""}


class LiveStudy:
    """Safe for use from several threads; whoever asks gets what is there at once, but for the first time."""

    def __init__(self, store: StudyStore) -> None:
        self._store = store
        self._looking = threading.Lock()
        self._seen: dict[str, Any] | None = None
        self._seen_s = 0.0
        self._document: Packed | None = None
        self._waiting = READING
        self._trouble = ""
        self._reported = ""
        self._version: str | None = None
        self._seen_version: str | None = None
        self._pictured: object = None
        self._is_building = False
        self._is_hurried = False
        self._next_build_s = 0.0

    @property
    def document(self) -> Packed | None:
        """The newest one (tuner.report.document); None while there is none."""
        return self._document

    def state(self) -> dict[str, Any]:
        """What runs, JSON-ready, the ETag of the newest document, and whether something that has ended is not in it yet (is_behind).

        Looks into the database where nobody has for LOOK_S.
        """
        # A second one does not wait for the first one's look.
        if self._looking.acquire(blocking=self._seen is None):
            try:
                if self._seen is None or time.monotonic() - self._seen_s >= LOOK_S:
                    self._seen = self._look(self._seen)
                    self._seen_s = time.monotonic()
            finally:
                self._looking.release()
        # Before the document, which is made first: never an older one that counts as up to date.
        seen = self._seen or {}
        is_behind = self._seen_version != self._version and seen.get("problem") in ("", UNPICTURED)
        document = self._document
        return seen | {
            "document": document and document.etag,
            "is_behind": is_behind,
            "is_reading": self._is_building,
            "waiting": "" if document else self._waiting,
        }

    def hurry(self) -> None:
        """Has the next look read what has ended without a pause: who opens the page shall not see what is old."""
        self._is_hurried = True

    def notice(self) -> None:
        """Has the study looked at soon, for those who look on elsewhere; returns at once."""
        if time.monotonic() - self._seen_s >= PAUSE_S and not self._looking.locked():
            threading.Thread(target=self.state, daemon=True).start()

    def _look(self, former: dict[str, Any] | None) -> dict[str, Any]:
        store = self._store
        about = {"study": printable(store.name), "optuna": f"/dashboard/studies/{store.study_id}", "finished": None, "asked": None}
        seen = former or about | _NOTHING_RUNS
        try:
            version = study_version(store, confirmation_name(store.name))
            under_way = _NOTHING_RUNS if version is None else self._under_way()
        except RunError as error:
            self._report(error)
            return seen | {"problem": AWAY}
        if version is None:
            return seen | under_way | {"problem": GONE}
        self._seen_version = version
        self._build_when_due(version)
        return seen | under_way | {"problem": self._trouble}

    def _under_way(self) -> dict[str, Any]:
        store, running = self._store, watched_trials(self._store)
        asked, finished = store.get_attr(ASKED), store.finished_count()
        return {
            "running": [_running(one) for one in running],
            "under_way": under_way_words(running),
            "finished": finished,
            "asked": asked if isinstance(asked, int) else None,
            "left": time_left(asked, finished, running, last_durations_s(store, _TIMED)),
            "confirming": confirming_words(store),
        }

    def _build_when_due(self, version: str) -> None:
        is_due = self._is_hurried or time.monotonic() >= self._next_build_s
        if version != self._version and is_due and not self._is_building:
            self._is_building, self._is_hurried = True, False
            threading.Thread(target=self._build, args=(version,), daemon=True).start()

    def _build(self, version: str) -> None:
        # Not of the wall clock: beside trainings a core is shared, and a page would be old for minutes.
        begun_s = time.process_time()
        try:
            self._trouble = self._made(version)
        except Exception as error:  # noqa: BLE001  a thread has nobody to raise to: terminal and page say it, and the next look tries again
            self._report(error)
            self._trouble = BROKEN
        finally:
            took_s = time.process_time() - begun_s
            self._next_build_s = time.monotonic() + max(PAUSE_S, _PAUSES * took_s)
            self._is_building = False

    def _made(self, version: str) -> str:
        """Reads the study as it is at `version`, and gives what is to be said of that."""
        try:
            made = study_document(self._store)
        except NothingToReport:
            self._waiting, self._version = NOTHING_YET, version
            return ""
        self._document = Packed.of(json.dumps(made, separators=(",", ":"), allow_nan=False), "application/json")
        pictured = (made["front"], made["rival_front"], made["confirmed"])
        self._version = version
        if pictured != self._pictured:
            try:
                attach_plots(self._store)
            except RunError as error:
                self._report(error)
                return UNPICTURED
            self._pictured = pictured
        return ""

    def _report(self, error: Exception) -> None:
        """In the terminal, once for as long as it is the same."""
        line = printable(f"warning: {type(error).__name__}: {error}")
        if line != self._reported:
            print(line, file=sys.stderr, flush=True)
        self._reported = line


def _running(watched: WatchedTrial) -> dict[str, Any]:
    trial = watched.trial
    epochs = trial.params.get("epochs")
    host, pid = trial.owner.get("host"), trial.owner.get("pid")
    return {
        "number": trial.number,
        "attempt": trial.attempt,
        **_words(trial.params),
        "epoch": len(trial.curve),
        "epochs": epochs if isinstance(epochs, int) else None,
        "accuracy": rounded(last_finite(trial.curve)),
        "driver": printable(f"process {pid} on {host}") if host else "",
        "abandoned": printable(watched.abandoned),
    }


def _words(params: Mapping[str, Any]) -> dict[str, str]:
    if not params:
        return {"schedule": "its parameters are being chosen", "training": ""}
    try:
        return {"schedule": describe_schedule(params), "training": describe_training(params)}
    except (InputError, TypeError, ValueError):
        return {"schedule": "another program's, outside the space", "training": ""}
