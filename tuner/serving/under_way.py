"""What is under way, in words: how many trials run as far as the database knows, how long it still takes, and what `tuner confirm` does."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any, Final

from tuner.launching.launch import ASKED
from tuner.results.confirmation import confirmation_name
from tuner.results.describe import describe_duration
from tuner.storage.store import StudyStore
from tuner.storage.watching import WatchedTrial, study_beside, watched_trials

_FEWEST_TIMED: Final = 3


def under_way_words(watched: Sequence[WatchedTrial], what: str = "trial") -> str:
    """A sentence. A trial runs once it has told an epoch: a launch claims trials before a worker is free for them, and the database doesn't
    know when one has begun."""
    alive = [one.trial for one in watched if not one.abandoned]
    begun = sum(bool(trial.curve) for trial in alive)
    waiting, stale = len(alive) - begun, len(watched) - len(alive)
    clauses = [f"{_are(begun, what)} running"] if begun or not waiting else []
    if waiting:
        clauses.append(f"{_are(waiting, 'more' if begun else what)} handed out and {'has' if waiting == 1 else 'have'} told no epoch yet")
    return ", ".join(clauses) + "." + (f" {_are(stale, what)} stale." if stale else "")


def time_left(asked: Any, finished: int, watched: Sequence[WatchedTrial], durations_s: Sequence[float]) -> str:
    """About how long it takes until as many trials are finished as the last launch asked for; nothing where it can't be told.

    By Little's law: as many trials end in a second as are under way at once, over how long each is.
    """
    alive = sum(not one.abandoned for one in watched)
    if not isinstance(asked, int) or finished >= asked or not alive or len(durations_s) < _FEWEST_TIMED:
        return ""
    left_s = (asked - finished) * mean(durations_s) / alive
    # Nobody knows the seconds of some minutes.
    return f"about {describe_duration(max(10, round(left_s, -1)) if left_s < 120 else 60 * round(left_s / 60))} left"


def confirming_words(store: StudyStore) -> str:
    """How far `tuner confirm` is with the study's front; nothing where none was asked for or all is done."""
    confirmation = study_beside(store, confirmation_name(store.name))
    if confirmation is None:
        return ""
    asked, finished, watched = confirmation.get_attr(ASKED), confirmation.finished_count(), watched_trials(confirmation)
    if not isinstance(asked, int) or (finished >= asked and not watched):
        return ""
    now = under_way_words(watched, "training") if watched else "No training is under way: it is starting, or was stopped."
    return f"tuner confirm: {finished} of {asked} trainings with fresh seeds are finished. {now}"


def _are(count: int, what: str) -> str:
    if what == "more":
        return f"{count} more {'is' if count == 1 else 'are'}"
    return f"{count or 'No'} {what} is" if count < 2 else f"{count} {what}s are"
