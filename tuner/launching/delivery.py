"""A finished training's way into the database: told once, to whichever attempt at its root trial can still take it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from tuner.launching.jobs import Report, TrialDone, TrialFailed
from tuner.launching.places import root_place
from tuner.launching.trial_log import LOG_NAME
from tuner.storage.store import ClaimedTrial, StudyStore

FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED)
# Other drivers may fail and retry the same root trial meanwhile; each turn of this needs such a coincidence.
_ATTEMPTS: Final = 5
# How faulthandler, which the watchdog works with, begins what it writes.
_HUNG: Final = re.compile(rb"Timeout \((?P<limit>[\d:.]+)\)!(?P<stacks>.*)", re.DOTALL)
_FRAME: Final = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>\S+)')


def deliver(
    store: StudyStore,
    claimed: ClaimedTrial,
    values: Mapping[str, float] | None,
    stored: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    wanted: int,
) -> int | None:
    """Number of the trial that has become COMPLETE with this result, or PRUNED where there are no values; None where none may.

    Usually it is the trial that was trained. Where that was failed as silent meanwhile, it is the attempt that runs now, or a new one:
    the first result of a root trial counts, and only the first.
    """
    number: int | None = claimed.number
    for _ in range(_ATTEMPTS):
        if number is not None and (store.prune(number, stored) if values is None else store.complete(number, values, stored)):
            return number
        family = store.family(claimed.root)
        if any(state in FINISHED for state in family.values()):
            return None
        running = [number for number, state in family.items() if state == TrialState.RUNNING]
        number = running[-1] if running else _new_attempt(store, claimed.root, distributions, wanted)
    return None


def last_report(place: str, claimed: ClaimedTrial) -> Report:
    """What a worker that died without a word has left in the study's place: its result, or a sentence about its end."""
    try:
        root = root_place(place, claimed.root)
        found = root.result()
        log = root.read(claimed.attempt, LOG_NAME) or b""
    except OSError:
        found, log = None, b""
    return TrialFailed(_reason(log), may_pass=True) if found is None else TrialDone(found[1])


def _reason(log: bytes) -> str:
    found = list(_HUNG.finditer(log))
    if not found:
        return "its worker died (out of memory, or killed)"
    stacks = found[-1]["stacks"].decode(errors="replace")
    # The main thread is the last one of the stacks; its innermost frame comes first.
    frame = _FRAME.search(stacks.rpartition("\n\n")[2])
    where = f", in {frame['function']} ({frame['file'].rpartition('/')[2]}, line {frame['line']})" if frame else ""
    return f"it hung: no step for {found[-1]['limit'].decode()}{where}"


def _new_attempt(store: StudyStore, root: int, distributions: Mapping[str, BaseDistribution], wanted: int) -> int | None:
    claimed = store.claim_retry(store.next_attempt(root), distributions, wanted)
    return None if claimed is None else claimed.number
