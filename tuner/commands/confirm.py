"""`tuner confirm`: the front and its rivals again with fresh seeds and the test split opened, because a search selects luck too.

The trainings are a study of their own beside the searched one ("<name>.confirm"), so that they too survive a kill and count once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from studies.spec import StudySpec
from trainers.cores import available_cores
from tuner.launching.launch import INTERRUPTED, LaunchOptions, launch
from tuner.launching.proposals import ListProposer, Proposal
from tuner.launching.timing import COST_TABLES, DATASET_FACTS
from tuner.results.confirmation import FIRST_FRESH_SEED, ConfirmedPoint, confirmation_name, confirmed_points, points_to_confirm
from tuner.results.describe import describe_duration, describe_schedule, describe_training, printable
from tuner.results.stored import study_front
from tuner.storage.lookup import open_study, stored_spec
from tuner.storage.store import StudyStore
from tuner.storage.trials import CompletedTrial

__all__ = ["FIRST_FRESH_SEED", "ConfirmedPoint", "confirm_front", "confirmed_points", "points_to_confirm"]


def confirm_front(reference: str, storage: str | None, seeds: int, address: str | None, accept_noisy_timing: bool, as_json: bool) -> None:
    """Trains what is missing, then shows what each point is worth."""
    console = Console(stderr=as_json)
    store = open_study(reference, storage)
    chosen = points_to_confirm(study_front(store))
    confirmation = _confirmation_study(store)
    spec = stored_spec(confirmation)
    fresh = range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + seeds)
    proposals = [Proposal(_searched(trial, spec), trial.rival, seed) for seed in fresh for trial in chosen]
    trained = _trained(confirmation, spec)
    left = [trial for seed in fresh for trial in chosen if _key(_searched(trial, spec), seed) not in trained]
    how_far = f"{len(left)} of {len(proposals)} trainings are left{_expected_time(left, spec, address)}"
    console.print(f"confirming {len(chosen)} points of '{store.name}' with {seeds} seeds: {how_far}", soft_wrap=True)
    if left:
        wanted = confirmation.finished_count() + len(left)
        options = LaunchOptions(trials=wanted, address=address, accept_noisy_timing=accept_noisy_timing)
        outcome = launch(confirmation, spec, options, console, ListProposer(proposals))
        if outcome.stop_reason is not None:
            console.print(Text(printable(f"stopped: {outcome.stop_reason}; give the same command again to go on")), soft_wrap=True)
            sys.exit(130 if outcome.stop_reason == INTERRUPTED else 1)
        trained = _trained(confirmation, spec)
    points = confirmed_points(chosen, [[trained[_key(_searched(trial, spec), seed)] for seed in fresh] for trial in chosen])
    if as_json:
        print(json.dumps({"study": store.name, "seeds": seeds, "points": [point.to_dict() for point in points]}, indent=2, allow_nan=False))
    else:
        _show(points, store.name, console)


def _expected_time(left: Sequence[CompletedTrial], spec: StudySpec, address: str | None) -> str:
    """How long what is left takes if each training takes as long as in the search; "" where nothing is left."""
    seconds = sum(sum(trial.seconds.values()) for trial in left)
    if not seconds:
        return ""
    if address is None and not spec.resources.gpus:
        at_once = min(len(left), max(1, len(available_cores()) // spec.resources.cpus))
        return f", about {_about(seconds / at_once)} with {at_once} at a time if each takes as long as in the search"
    return f", about {_about(seconds)} one after the other if each takes as long as in the search"


def _about(seconds: float) -> str:
    return describe_duration(float(f"{seconds:.2g}"))


def _confirmation_study(store: StudyStore) -> StudyStore:
    """The study that holds the confirming trainings, priced by the searched study's own cost tables."""
    spec = stored_spec(store)
    confirmation = StudyStore.create_or_continue(store.storage, spec.model_copy(update={"name": confirmation_name(spec.name)}))
    for key in (COST_TABLES, DATASET_FACTS):
        confirmation.set_attr(key, store.get_attr(key))
    return confirmation


def _searched(trial: CompletedTrial, spec: StudySpec) -> dict[str, Any]:
    return {name: trial.params[name] for name in spec.search.searched}


def _key(params: dict[str, Any], seed: int | None) -> tuple[Any, ...]:
    return (*sorted(params.items()), seed)


def _trained(confirmation: StudyStore, spec: StudySpec) -> dict[tuple[Any, ...], CompletedTrial]:
    return {_key(_searched(trial, spec), trial.seed): trial for trial in confirmation.trials().completed}


def _show(points: Sequence[ConfirmedPoint], study: str, console: Console) -> None:
    table = Table(title=Text(f"{study}: confirmed on the test split with {len(points[0].test)} fresh seeds"), title_justify="left")
    for heading in ("trial", "time", "searched (val.)", "test mean", "deviation", "95 % interval", "front"):
        table.add_column(heading, justify="right")
    for heading in ("schedule", "training"):
        table.add_column(heading, overflow="fold")
    for point in points:
        low, high = point.interval
        figures = (f"{point.relative_time:.1%}", f"{point.searched:.2%}", f"{mean(point.test):.2%}", f"{100 * stdev(point.test):.2f}")
        words = (describe_schedule(point.trial.params), describe_training(point.trial.params))
        stays = "stays" if point.stays else "leaves"
        table.add_row(str(point.trial.number), *figures, f"{100 * low:.2f}-{100 * high:.2f}", stays, *map(Text, words))
    console.print(table)
    lucky = [str(point.trial.number) for point in points if not point.stays]
    if lucky:
        console.print(f"on the searched front by luck, or only full-resolution rivals: trials {', '.join(lucky)}")
