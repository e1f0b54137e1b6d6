"""What the commands do that read or write one study: each function is a command of tuner.cli."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from studies.spec import StudySpec, parse_duration
from trainers.checks import check_name
from trainers.errors import DownsampleTunerError, InputError, RunError
from tuner.commands.usage import check_out_file, check_out_folder
from tuner.launching.dispatcher import STOP_REQUEST
from tuner.launching.places import check_checkpoints
from tuner.launching.timing import timing_doubt
from tuner.results.confirmation import confirmation_words, confirmed_front
from tuner.results.describe import printable
from tuner.results.export import DEFAULT_PATHS, Format, front_table, render, write_export
from tuner.results.front import hypervolume
from tuner.storage.lookup import database_url, open_study, spec_to_launch, stored_spec
from tuner.storage.opening import open_existing, open_storage
from tuner.storage.store import StudyStore

if TYPE_CHECKING:
    from tuner.launching.launch import LaunchOptions, LaunchOutcome


def launch_study(
    reference: str,
    storage: str | None,
    trials: int | None,
    timeout: str | None,
    address: str | None,
    overrides: Sequence[str],
    checkpoints: str | None,
    accept_noisy_timing: bool,
    notify: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """`tuner launch`. quiet: no progress; as_json: none either, and the outcome as a document."""
    from tuner.launching.display import warn
    from tuner.launching.launch import INTERRUPTED, TERMINATED, LaunchOutcome
    from tuner.launching.notices import Notifier

    console = Console(quiet=quiet or as_json)
    notifier = Notifier.from_environment(notify, partial(warn, console))
    spec = spec_to_launch(reference, storage, overrides)
    store, options = study_to_launch(spec, storage, trials, timeout, address, checkpoints, accept_noisy_timing)
    already = store.finished_count()
    if already >= options.trials:
        outcome = LaunchOutcome(already)
        console.print(f"study '{spec.name}' has {already} finished trials and {options.trials} are asked for: nothing to do")
    else:
        if already:
            console.print(f"study '{spec.name}' goes on from {already} finished trials")
        outcome = _launch_and_tell(store, spec, replace(options, notifier=notifier), console)
        if not as_json:
            _print_outcome(store, outcome, options.trials)
    if as_json:
        print(json.dumps({**_status(store), "asked": options.trials, "stop_reason": outcome.stop_reason}, indent=2, allow_nan=False))
    sys.exit({INTERRUPTED: 130, TERMINATED: 143}.get(outcome.stop_reason or "", 0))


def _print_outcome(store: StudyStore, outcome: LaunchOutcome, wanted: int) -> None:
    console = Console()
    results = confirmed_front(store)
    if results.completed:
        console.print(front_table(results))
    interrupted = len(store.trials().interrupted)
    console.print(f"{outcome.finished} of {wanted} trials are finished{_go_on(interrupted)}", soft_wrap=True)
    if (doubt := timing_doubt(store)) is not None:
        console.print(doubt, soft_wrap=True)
    if outcome.stop_reason is not None:
        go_on = "raise that rule of its budget to go on" if outcome.enough else "give the same command again to go on"
        console.print(Text(printable(f"stopped, because {outcome.stop_reason}; {go_on}")), soft_wrap=True)


def _launch_and_tell(store: StudyStore, spec: StudySpec, options: LaunchOptions, console: Console) -> LaunchOutcome:
    """A launch whose end the notifier is told of, whichever it is."""
    from tuner.launching.launch import launch
    from tuner.launching.notices import Notice

    def tell(event: Literal["ended", "failed"], text: str, finished: int) -> None:
        if options.notifier is not None:
            said = f"study '{spec.name}': {text}"
            options.notifier.send(Notice(event=event, study=spec.name, text=said, finished=finished, asked=options.trials))

    before = store.finished_count()
    try:
        outcome = launch(store, spec, options, console)
    except DownsampleTunerError as error:
        tell("failed", str(error), before)
        raise
    why = "" if outcome.stop_reason is None else f"; stopped, because {outcome.stop_reason}"
    tell("ended", f"{outcome.finished} of {options.trials} trials are finished{why}", outcome.finished)
    return outcome


def study_to_launch(
    spec: StudySpec,
    storage: str | None,
    trials: int | None,
    timeout: str | None,
    address: str | None,
    checkpoints: str | None,
    accept_noisy_timing: bool,
) -> tuple[StudyStore, LaunchOptions]:
    """The study of a spec in its database, made where it is missing, and how a launch of it is to run."""
    from tuner.launching.launch import LaunchOptions

    wanted = spec.budget.trials if trials is None else trials
    timeout_s = spec.budget.timeout_s if timeout is None else parse_duration(timeout)
    check_checkpoints(checkpoints)  # before anything is written
    store = StudyStore.create_or_continue(open_storage(database_url(storage, spec.storage)), spec)
    return store, LaunchOptions(
        trials=wanted, timeout_s=timeout_s, address=address, checkpoints=checkpoints, accept_noisy_timing=accept_noisy_timing
    )


def dry_run_study(
    reference: str,
    storage: str | None,
    trials: int | None,
    timeout: str | None,
    address: str | None,
    overrides: Sequence[str],
    checkpoints: str | None,
) -> None:
    """`tuner launch --dry-run`."""
    from tuner.commands.dry_run import check_before_launch, show_dry_run

    check_checkpoints(checkpoints)
    spec = spec_to_launch(reference, storage, overrides)
    timeout_s = spec.budget.timeout_s if timeout is None else parse_duration(timeout)
    url, console = database_url(storage, spec.storage), Console()
    show_dry_run(spec, url, trials or spec.budget.trials, timeout_s, console)
    check_before_launch(spec, url, address, checkpoints, console)


def show_status(reference: str | None, storage: str | None, as_json: bool) -> None:
    """`tuner status`."""
    console = Console()
    if reference is None:
        opened = open_existing(database_url(storage, None))
        found = [_status(StudyStore.load(opened, name)) for name in StudyStore.names(opened)]
    else:
        found = [_status(open_study(reference, storage))]
    if as_json:
        print(json.dumps(found if reference is None else found[0], indent=2, allow_nan=False))
    elif reference is None:
        console.print(_studies_table(found))
    else:
        _print_status(found[0], console)


def export_front(reference: str, storage: str | None, export_format: str, out: str | None) -> None:
    """`tuner export`."""
    check_name("--format", export_format, get_args(Format))
    (check_out_folder if export_format == "schedules" else check_out_file)(out)
    chosen = cast("Format", export_format)
    results = confirmed_front(open_study(reference, storage))
    if not results.completed:
        raise RunError(f"study '{results.study}' has no completed trial yet, so it has no front")
    path = out or DEFAULT_PATHS.get(chosen)
    if path is not None:
        for written in write_export(results, chosen, path):
            print(written)
    elif chosen == "table":
        Console().print(front_table(results))
    else:
        sys.stdout.write(str(render(results, chosen)))


def stop_study(reference: str, storage: str | None) -> None:
    """`tuner stop`."""
    store = open_study(reference, storage)
    running = store.trials().running
    store.set_attr(STOP_REQUEST, time.time())
    if running:
        print(f"asked the launch of '{store.name}' to end; its {len(running)} running trials go on at the next launch")
    else:
        print(f"nothing of study '{store.name}' is running")


def delete_study(reference: str, storage: str | None, yes: bool) -> None:
    """`tuner delete`."""
    store = open_study(reference, storage)
    trials = store.trials()
    if trials.running:
        raise InputError(f"study '{store.name}' has {len(trials.running)} running trials, so it can't be deleted: give tuner stop first")
    if not yes:
        raise InputError(f"study '{store.name}' has {trials.finished} finished trials, which nothing brings back: give --yes to delete it")
    StudyStore.delete(store.storage, store.name)
    print(f"deleted study '{store.name}' with {trials.finished} finished trials")


def _status(store: StudyStore) -> dict[str, Any]:
    trials = store.trials()
    results = confirmed_front(store)
    return {
        "study": store.name,
        "wanted": stored_spec(store).budget.trials,
        "completed": len(trials.completed),
        "pruned": len(trials.pruned),
        "running": [
            {"number": trial.number, "attempt": trial.attempt, "epochs": len(trial.curve), "owner": trial.owner} for trial in trials.running
        ],
        "interrupted": [{"number": trial.number, "reason": trial.reason} for trial in trials.interrupted],
        "failed": [{"number": trial.number, "kind": trial.kind, "reason": trial.reason} for trial in trials.failures],
        "front": [trial.number for trial in results.front],
        "hypervolume": hypervolume(results.completed, results.objectives),
        "confirmed": confirmation_words(results),
        "confirmation": results.confirmation and results.confirmation.to_dict(),
        "timing_doubt": timing_doubt(store),
    }


def _print_status(found: dict[str, Any], console: Console) -> None:
    counts = (
        f"{found['completed']} completed, {found['pruned']} stopped early, {len(found['running'])} running, "
        f"{len(found['failed'])} failed attempts{_go_on(len(found['interrupted']))}; the study file asks for {found['wanted']}"
    )
    console.print(Text(printable(f"study '{found['study']}': {counts}")))
    volume = found["hypervolume"]
    if found["front"]:
        numbers = ", ".join(map(str, found["front"]))
        console.print(f"{len(found['front'])} trials on the front: {numbers}" + ("" if volume is None else f"; hypervolume {volume:.4f}"))
        console.print(Text(found["confirmed"]), soft_wrap=True)
    if found["timing_doubt"] is not None:
        console.print(Text(found["timing_doubt"]), soft_wrap=True)
    for trial in found["running"]:
        owner, epochs = trial["owner"], trial["epochs"]
        # A launch claims trials before a worker is free for them, and the database doesn't know when one has begun.
        told = f"has told {epochs} epoch{'s' if epochs > 1 else ''}" if epochs else "is handed out and has told no epoch yet"
        console.print(Text(printable(f"trial {trial['number']} {told}: process {owner.get('pid')} on {owner.get('host')}")))
    for trial in found["interrupted"]:
        console.print(Text(printable(f"trial {trial['number']} was interrupted: {trial['reason']}")))
    for trial in found["failed"]:
        console.print(Text(printable(f"trial {trial['number']} failed ({trial['kind']}): {trial['reason']}")))


def _go_on(interrupted: int) -> str:
    return f", {interrupted} interrupted, which the next launch goes on with" if interrupted else ""


def _studies_table(found: Sequence[dict[str, Any]]) -> Table:
    table = Table()
    for heading in ("study", "completed", "stopped early", "running", "interrupted", "failed attempts", "on the front"):
        table.add_column(heading, justify="left" if heading == "study" else "right")
    for one in found:
        counts = (one["completed"], one["pruned"], *(len(one[what]) for what in ("running", "interrupted", "failed", "front")))
        table.add_row(Text(printable(one["study"])), *map(str, counts))
    return table
