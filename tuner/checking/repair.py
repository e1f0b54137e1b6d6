"""`tuner check`: shows whether a study's promise holds, and mends what can be mended."""

from __future__ import annotations

import dataclasses
import json
import sys
from datetime import UTC, datetime
from typing import Any, Final

from optuna.storages._rdb import models
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import update

from tuner.checking.check import StudyCheck, check_study
from tuner.checking.check_disk import read_files
from tuner.checking.snapshot import Kind, Snapshot, Violation
from tuner.launching.delivery import deliver
from tuner.launching.places import CHECKPOINTS, root_place
from tuner.launching.provenance import code_commit
from tuner.results.describe import printable
from tuner.storage.distributions import distributions
from tuner.storage.lookup import open_study
from tuner.storage.opening import with_retries
from tuner.storage.records import refused_values
from tuner.storage.rows import transaction
from tuner.storage.store import StudyStore

_MARKS: Final = {True: ("✓", "green"), False: ("✗", "red"), None: ("-", "dim")}
_ONE_MORE: Final = "nothing is deleted; tuner launch with --trials one higher trains another one in its place"
_NEXT_LAUNCH: Final = "the next launch sees to it"
_OTHER_PROGRAM: Final = "only another program can have written this"
# What to do about what --repair leaves as it is.
_ADVICE: Final[dict[Kind, str]] = {
    "no_record": _ONE_MORE,
    "no_values": f"fronts and exports leave it out; {_ONE_MORE}",
    "stray_values": f"{_OTHER_PROGRAM}; fronts and exports leave it out",
    "attempts": f"{_OTHER_PROGRAM}; its results count as they are",
    "trained_twice": "the first result will count, the other one comes too late",
    "finished_twice": f"the first one counts; {_ONE_MORE}",
    "duplicate": f"the first one counts; {_ONE_MORE}",
    "too_many": "nothing is deleted; what is finished can be used",
    "unfinished": "give tuner launch again",
    "values": f"{_OTHER_PROGRAM}; the worker's record on disk is what was measured",
    "untold": _NEXT_LAUNCH,
}


def show_check(reference: str, storage: str | None, as_json: bool, mend: bool) -> None:
    """`tuner check`: exit code 1 where something does not hold, after the repair where one is asked for."""
    store = open_study(reference, storage)
    done, check = repair(store) if mend else (None, check_study(store))
    if as_json:
        print(json.dumps(_document(check, done), indent=2, allow_nan=False))
    else:
        _show(check, done)
    if not check.holds:
        sys.exit(1)


def repair(store: StudyStore) -> tuple[list[str], StudyCheck]:
    """Mends what can be mended; what was done, a line each, and the study as it is then. Done twice, it changes nothing.

    What a live driver has is left alone: results are told and files removed only while there is none.
    """
    check, done = check_study(store), list[str]()
    # In this order: a dead driver's trial may have a result, and a told result may need its checkpoints no more.
    for mend in (_end_abandoned, _end_waiting, _tell_results, _remove_leftovers):
        if lines := mend(store, check):
            done += lines
            check = check_study(store)
    return done, check


def _end_abandoned(store: StudyStore, check: StudyCheck) -> list[str]:
    sentences = {violation.trial: violation.sentence for violation in check.of("zombie")}
    ended = store.reconcile() if sentences else []
    return [f"failed trial {number}, which the next launch goes on with: {sentences.get(number, 'its driver is gone')}" for number in ended]


def _end_waiting(store: StudyStore, check: StudyCheck) -> list[str]:
    def fail_all() -> None:
        now = datetime.now(UTC).replace(tzinfo=None)
        waiting = (models.TrialModel.study_id == store.study_id) & (models.TrialModel.state == TrialState.WAITING)
        with transaction(store.storage) as session:
            session.execute(update(models.TrialModel).where(waiting).values(state=TrialState.FAIL, _datetime_complete_utc=now))

    if waiting := check.of("waiting"):
        with_retries(fail_all, f"the database {store.storage.url}")
    return [f"failed trial {violation.trial}, which nobody would have started" for violation in waiting]


def _tell_results(store: StudyStore, check: StudyCheck) -> list[str]:
    roots = [violation.root for violation in check.of("untold") if violation.repairable and violation.root is not None]
    if not roots:
        return []
    study = Snapshot(store)
    return [line for root in roots if (line := _tell(store, study, root))]


def _tell(store: StudyStore, study: Snapshot, root: int) -> str:
    """Tells a root trial's result as its next attempt's; nothing where a driver that has begun meanwhile was faster."""
    found = root_place(str(study.place), root).result()
    if found is None or study.pricing is None:
        return ""
    values, stored = dataclasses.replace(study.pricing, commit=code_commit()).values(found[1], alone=False)
    wanted = sys.maxsize if study.asked is None else study.asked
    retry = study.reader.next_attempt(study.trials, root)
    claimed = store.claim_retry(retry, distributions(study.spec.search), wanted)
    if claimed is None:
        return ""
    if reason := refused_values(study.spec.objectives, values):
        store.fail(claimed.number, "error", reason)
        return f"failed trial {claimed.number} with the result of root trial {root}: {reason}"
    number = deliver(store, claimed, values, stored, distributions(study.spec.search), wanted)
    return "" if number is None else f"told the result of root trial {root}, which is trial {number} now"


def _remove_leftovers(store: StudyStore, check: StudyCheck) -> list[str]:
    place = str(store.get_attr(CHECKPOINTS))
    return [
        _remove(place, violation.root, violation) for violation in check.of("checkpoints", "temporary_files") if violation.root is not None
    ]


def _remove(place: str, root: int, violation: Violation) -> str:
    files = root_place(place, root)
    try:
        if violation.kind == "checkpoints":
            files.remove_checkpoints()
            return f"removed the checkpoints of root trial {root}"
        for attempt, name in read_files(files).temporary:
            files.remove(attempt, name)
    except OSError as error:
        return f"could not remove files of root trial {root}: {error}"
    return f"removed the temporary files of root trial {root}"


def _document(check: StudyCheck, done: list[str] | None) -> dict[str, Any]:
    counts = {name: getattr(check, name) for name in ("study", "asked", "completed", "pruned", "failed", "running")}
    return {
        **counts,
        "checked": [{"what": one.what, "ok": one.ok, "sentence": one.sentence} for one in check.checked],
        "violations": [dataclasses.asdict(violation) for violation in check.violations],
        "holds": check.holds,
        **({} if done is None else {"repaired": done}),
    }


def _show(check: StudyCheck, done: list[str] | None) -> None:
    console = Console()
    table = Table(show_header=False, box=None, padding=(0, 1))
    for one in check.checked:
        mark, colour = _MARKS[one.ok]
        table.add_row(Text(mark, style=colour), Text(one.what), Text(printable(one.sentence)))
    console.print(table)
    for line in done or ():
        console.print(Text(printable(f"repaired: {line}")), soft_wrap=True)
    for violation in check.violations:
        advice = f"; {_ADVICE[violation.kind]}" if done is not None and violation.kind in _ADVICE else ""
        console.print(Text(printable(f"{violation.kind}: {violation.sentence}{advice}")), soft_wrap=True)
    console.print(Text(_verdict(check, asked_to_mend=done is not None)), soft_wrap=True)


def _verdict(check: StudyCheck, *, asked_to_mend: bool) -> str:
    if check.holds:
        return f"study '{check.study}': nothing is lost, nothing is counted twice"
    if len(check.violations) == len(check.of("unfinished")):
        return f"study '{check.study}' is unfinished; nothing else is wrong: give tuner launch again"
    repairable = sum(violation.repairable for violation in check.violations)
    hint = f"; --repair mends {repairable} of them" if repairable and not asked_to_mend else ""
    return f"study '{check.study}': {len(check.violations)} violations{hint}"
