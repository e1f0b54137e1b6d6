"""`tuner compare`: studies by their fronts, which saves more at equal accuracy; or schedule files by what their steps cost."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from studies.configs import meaning_differences
from studies.files import names_file
from studies.spec import SECTIONS
from trainers.bounded_yaml import read_yaml
from trainers.errors import InputError, RunError
from trainers.schedule import PROVENANCE_KEY, Schedule
from trainers.wording import one_line
from tuner.results.describe import describe_share, describe_value, printable
from tuner.results.front import ACCURACY, TIME, StudyFront, hypervolume, measured

# Points of accuracy below the baseline's at which studies are compared: what people give up for time.
DROPS: Final = (0.0, 0.005, 0.01, 0.02)
_SHOWN_DIFFERENCES: Final = 3
# Shares such as 0.912 - 0.005 are not exact in binary; a trial on the limit itself reaches it.
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class ComparedStudy:
    """A study to compare. spec: as the database has it. devices: whose step times price its trials."""

    results: StudyFront
    spec: dict[str, Any]
    devices: list[str]

    @property
    def name(self) -> str:
        return self.results.study


def show_comparison(references: Sequence[str], storage: str | None, priced_by: str | None, as_json: bool) -> None:
    """`tuner compare`. priced_by: the study whose step costs price schedules."""
    if len(references) < 2:
        raise InputError(f"tuner compare needs two or more studies or schedule files, given: {', '.join(references) or 'none'}")
    files = [reference for reference in references if holds_schedule(reference)]
    if files:
        others = [reference for reference in references if reference not in files]
        if others:
            raise InputError(
                one_line(f"tuner compare takes studies or schedule files, but '{files[0]}' is a schedule and '{others[0]}' not")
            )
        from tuner.commands.compare_schedules import show_schedules

        show_schedules(files, storage, priced_by, as_json)
        return
    if priced_by is not None:
        raise InputError(one_line(f"--study '{priced_by}' prices schedule files, but '{references[0]}' is none"))
    found = comparison([_stored(reference, storage) for reference in references])
    if as_json:
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        _print(found, Console())


def holds_schedule(reference: str) -> bool:
    """Whether `reference` is a schedule file. A file that is missing is taken for one unless a study is built in under that name."""
    if not reference.endswith((".yaml", ".yml")):
        return False
    if not names_file(reference):
        return True
    if not Path(reference).is_file():
        return False
    content = read_yaml("file", reference)
    own = {*Schedule().to_dict(), PROVENANCE_KEY}.difference(SECTIONS[""])
    return isinstance(content, Mapping) and not own.isdisjoint(content)


def comparison(studies: Sequence[ComparedStudy]) -> dict[str, Any]:
    """What each study covers, and the least relative time at which it reaches each accuracy; JSON-ready.

    InputError where the figures of two mean different things, RunError where one has no baseline yet. faster: who is, None for a draw or
    where nobody reaches that accuracy.
    """
    _refuse_incomparable(studies)
    reference = fmean(_baseline_accuracy(study.results) for study in studies)
    rows = [_row(studies, reference, drop) for drop in DROPS]
    devices = sorted({device for study in studies for device in study.devices})
    return {
        "studies": [_summary(study.results) for study in studies],
        "baseline_accuracy": reference,
        "at_equal_accuracy": rows,
        "devices": devices,
    }


def _stored(reference: str, storage: str | None) -> ComparedStudy:
    from tuner.launching.timing import COST_TABLES
    from tuner.results.confirmation import confirmed_front
    from tuner.storage.lookup import open_study

    store = open_study(reference, storage)
    tables = store.get_attr(COST_TABLES) or []
    return ComparedStudy(confirmed_front(store), store.spec_json(), [str(table["conditions"]["device"]) for table in tables[:1]])


def _refuse_incomparable(studies: Sequence[ComparedStudy]) -> None:
    for study in studies:
        if not {TIME, ACCURACY} <= set(study.results.objectives):
            names = ", ".join(study.results.objectives)
            raise InputError(
                f"study '{study.name}' can't be compared, because its objectives are {names}: {TIME} and {ACCURACY} are needed"
            )
    for one, other in itertools.pairwise(studies):
        if one.name == other.name:
            raise InputError(f"study '{one.name}' is given twice, compare it with another one")
        differences = [line for line in meaning_differences(one.spec, other.spec) if _changes_figures(line, one.spec)]
        if differences:
            more = f" and {len(differences) - _SHOWN_DIFFERENCES} more" if len(differences) > _SHOWN_DIFFERENCES else ""
            shown = "; ".join(differences[:_SHOWN_DIFFERENCES])
            raise InputError(
                one_line(f"'{one.name}' and '{other.name}' can't be compared, their figures mean different things: {shown}{more}")
            )


def _changes_figures(line: str, spec: Mapping[str, Any]) -> bool:
    """Whether a difference changes what time and accuracy mean: images, split, network and baseline do, what is searched does not."""
    key = line.partition(":")[0]
    elsewhere = key == "dataset.root" and spec["dataset"]["name"] != "folder"
    return not elsewhere and key.partition(".")[0] not in ("search", "objectives")


def _baseline_accuracy(results: StudyFront) -> float:
    reached = measured(results.baseline, ACCURACY) if results.baseline else None
    if reached is None:
        raise RunError(f"study '{results.study}' can't be compared yet, because its baseline has not completed")
    return reached


def _summary(results: StudyFront) -> dict[str, Any]:
    # The database takes a while to load, and schedule files need none.
    from tuner.results.confirmation import confirmation_words

    pair = {name: results.objectives[name] for name in (TIME, ACCURACY)}
    saved = [share for share in map(results.time_saved, results.front) if share is not None]
    return {
        "study": results.study,
        "completed": len(results.completed),
        "front": [trial.number for trial in results.front],
        "hypervolume": hypervolume(results.completed, pair),
        "full_resolution_hypervolume": hypervolume([trial for trial in results.completed if trial.rival], pair),
        "most_saved": max(saved, default=None),
        "confirmed": confirmation_words(results),
    }


def _row(studies: Sequence[ComparedStudy], reference: float, drop: float) -> dict[str, Any]:
    least = {study.name: _least_time(study.results, reference - drop) for study in studies}
    times = {name: found["relative_time"] for name, found in least.items() if found is not None}
    fastest = [name for name, time in times.items() if time == min(times.values())]
    return {"accuracy": reference - drop, "drop": drop, "least": least, "faster": fastest[0] if len(fastest) == 1 else None}


def _least_time(results: StudyFront, accuracy: float) -> dict[str, Any] | None:
    """The fastest trial of at least that accuracy."""
    good = [
        (time, trial.number)
        for trial in results.completed
        if (time := measured(trial, TIME)) is not None and (measured(trial, ACCURACY) or 0.0) >= accuracy - _ROUNDING
    ]
    return {"trial": min(good)[1], "relative_time": min(good)[0]} if good else None


def _print(found: Mapping[str, Any], console: Console) -> None:
    names = [one["study"] for one in found["studies"]]
    for line in sentences(found):
        console.print(Text(printable(line)), soft_wrap=True)
    table = Table()
    for heading in ("validation accuracy at least", *names, "faster"):
        table.add_column(Text(printable(heading)), justify="right")
    for row in found["at_equal_accuracy"]:
        level = describe_value(ACCURACY, row["accuracy"]) + ("" if row["drop"] == 0 else f" ({-100 * row['drop']:+.1f} points)")
        table.add_row(level, *map(_cell, row["least"].values()), Text(printable(row["faster"] or "-")))
    for label, key in (("hypervolume", "hypervolume"), ("of full resolution alone", "full_resolution_hypervolume")):
        table.add_row(label, *(f"{one[key]:.4f}" for one in found["studies"]), Text(printable(_largest(found["studies"], key) or "-")))
    table.add_row("completed trials", *(str(one["completed"]) for one in found["studies"]), "")
    console.print(table)
    console.print(Text("times: of the fastest such trial, over the baseline's; the baseline's accuracy: mean of the studies'"))


def _cell(least: Mapping[str, Any] | None) -> str:
    return "-" if least is None else f"{describe_share(least['relative_time'])} (trial {least['trial']})"


def _largest(studies: Sequence[Mapping[str, Any]], key: str) -> str | None:
    largest = [str(one["study"]) for one in studies if one[key] == max(each[key] for each in studies)]
    return largest[0] if len(largest) == 1 else None


def sentences(found: Mapping[str, Any]) -> list[str]:
    """The answer first, then what to know about it."""
    row = found["at_equal_accuracy"][0]
    reached = {name: describe_share(least["relative_time"]) for name, least in row["least"].items() if least is not None}
    words = [f"'{name}' needs {time} of the baseline's time" for name, time in reached.items()]
    words += [f"'{name}' does not reach it" for name in row["least"] if name not in reached]
    lines = [f"At the baseline's accuracy of {describe_value(ACCURACY, row['accuracy'])}: {', '.join(words)}."]
    faster = {one["faster"] for one in found["at_equal_accuracy"]}
    if len(faster) == 1 and None not in faster:
        lines[0] += f" '{faster.pop()}' is the faster at every accuracy looked at."
    lines += [f"'{one['study']}': {one['confirmed']}." for one in found["studies"]]
    if len(found["devices"]) > 1:
        lines.append(f"Their step times are from different devices ({', '.join(found['devices'])}): compare times with care.")
    return lines
