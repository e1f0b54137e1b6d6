"""A study's front as a table, CSV, JSON, a page, a picture, or one schedule file a point."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from studies.space import METHOD_FIELDS, TRAINING_FIELDS
from trainers.checks import check_name
from trainers.errors import InputError
from tuner.results.confirmation import CONFIRMED_HEAD, confirmation_words, confirmed_accuracy
from tuner.results.describe import SCHEDULE_FIELDS, describe_schedule, describe_share, describe_value, printable, quantity, schedule_of
from tuner.results.front import ACCURACY, TIME, StudyFront, hypervolume, measured
from tuner.results.split import trained_with
from tuner.storage.trials import CompletedTrial

Format = Literal["table", "csv", "json", "html", "png", "svg", "schedules"]

# Where an export goes when the user names no path; formats that are not here are text for the terminal.
DEFAULT_PATHS: Final = {"html": "front.html", "png": "front.png", "svg": "front.svg", "schedules": "schedules"}

SAVED: Final = "time_saved_vs_full_resolution"
_OWN: Final = ("number", "rival", "observed_over_calibrated", "test_accuracy", "seed", "device", "commit")
_SECONDS: Final = ("train", "data", "evaluation", "checkpoint")
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# Wide enough that a table in a file never wraps.
_TEXT_WIDTH: Final = 200


def write_export(results: StudyFront, export_format: Format, path: str | Path) -> list[Path]:
    """Writes the front to `path`, a file (a folder for `schedules`), and returns the files written.

    Each file appears whole or not at all. Missing folders are made; InputError where the path can't be written.
    """
    check_name("format", export_format, get_args(Format))
    if export_format == "schedules":
        return _write_schedules(results, Path(path))
    content = render(results, export_format)
    data = content.encode() if isinstance(content, str) else content
    return [write_whole(Path(path), lambda temporary: temporary.write_bytes(data))]


def render(results: StudyFront, export_format: Format) -> str | bytes:
    """The content of an export's one file: text, bytes for `png` and `svg`. `schedules` are several files: see write_export."""
    check_name("format", export_format, tuple(_RENDERERS))
    return _RENDERERS[export_format](results)


def front_json(results: StudyFront) -> str:
    """Strict JSON: the front and the full-resolution front with all that is known of each trial; what is not finite is null."""
    baseline = results.baseline
    content = {
        "study": results.study,
        "objectives": results.objectives,
        "hypervolume": hypervolume(results.completed, results.objectives),
        "confirmed": confirmation_words(results),
        "confirmation": results.confirmation and results.confirmation.to_dict(),
        "baseline": None if baseline is None else _record(baseline, results),
        "front": [_record(trial, results) for trial in results.front],
        "full_resolution_front": [_record(trial, results) for trial in results.rival_front],
    }
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def front_csv(results: StudyFront) -> str:
    """One row a front point with its parameters, values, seconds, seed, device and commit, under a header. Lines end as in RFC 4180."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _columns(results, _parameter_names(results)))
    writer.writerow({name: _cell(name) for name in writer.fieldnames})
    for row in trial_rows(results.front, results):
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return buffer.getvalue()


def trial_rows(trials: Sequence[CompletedTrial], results: StudyFront) -> list[dict[str, Any]]:
    """What is known of each trial as one flat mapping, all with the same keys: parameters, values, seconds, seed, device and commit."""
    parameters = _parameter_names(results)
    return [_row(trial, results, parameters) for trial in trials]


def front_table(results: StudyFront) -> Table:
    """The front for the terminal; shares in percent."""
    title = Text(f"{results.study}: {len(results.front)} of {len(results.completed)} completed trials on the front")
    table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    saved = "time saved: against the fastest full-resolution trial that is at least as accurate, '-' where none is"
    test = [CONFIRMED_HEAD] if results.confirmation else []
    seeds = [f"{CONFIRMED_HEAD}: mean of the fresh seeds, with its 95 % interval"] if test else []
    table.caption = Text("\n".join([confirmation_words(results), *seeds, saved]))
    for name in ("trial", *(quantity(name).label for name in results.objectives), *test, "time saved", "epochs"):
        table.add_column(Text(name.replace(" ", "\n")), justify="right", no_wrap=True)
    table.add_column("schedule")
    for trial in results.front:
        values = [describe_value(name, trial.values[name]) for name in results.objectives]
        words = describe_schedule(trial.params, results.full_px) + (" (baseline)" if trial.rival == "baseline" else "")
        epochs = printable(str(trial.params.get("epochs", "-")))
        values += [confirmed_accuracy(trial.number, results)] if results.confirmation else []
        cells = [str(trial.number), *values, describe_share(results.time_saved(trial)), epochs, words]
        # Texts, because rich reads markup in plain strings.
        table.add_row(*map(Text, cells))
    return table


def found_with(trial: CompletedTrial, results: StudyFront) -> dict[str, Any]:
    """Where a schedule was found and what it reached there, as plain values for the schedule's file."""
    reached = {name: measured(trial, name) for name in (TIME, ACCURACY)}
    return {"study": results.study, "trial": trial.number, "model": results.model, **trained_with(trial), **reached}


def save_schedule(trial: CompletedTrial, results: StudyFront, path: str | Path) -> Path:
    """Writes a trial's schedule, with where it was found, to `path`: the whole file or nothing."""
    return write_whole(Path(path), lambda temporary: schedule_of(trial).save(temporary, found_with=found_with(trial, results)))


def _write_schedules(results: StudyFront, folder: Path) -> list[Path]:
    return [save_schedule(trial, results, folder / f"trial-{trial.number:04d}.yaml") for trial in results.front]


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Runs `write` on a temporary neighbour and renames it to `path`, so that no reader sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def _table_text(results: StudyFront) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=_TEXT_WIDTH).print(front_table(results))
    return buffer.getvalue()


def _html(results: StudyFront) -> str:
    # Here and below: plotly and matplotlib take long to load and only pictures need them.
    from tuner.results.plots_html import front_html

    return front_html(results)


def _png(results: StudyFront) -> bytes:
    from tuner.results.plots_image import front_image

    return front_image(results, "png")


def _svg(results: StudyFront) -> bytes:
    from tuner.results.plots_image import front_image

    return front_image(results, "svg")


_RENDERERS: Final[dict[str, Callable[[StudyFront], str | bytes]]] = {
    "table": _table_text,
    "csv": front_csv,
    "json": front_json,
    "html": _html,
    "png": _png,
    "svg": _svg,
}


def _record(trial: CompletedTrial, results: StudyFront) -> dict[str, Any]:
    """All that is known of a trial, parameters and objective values side by side with the rest."""
    known = dataclasses.asdict(trial)
    first = {name: known.pop(name) for name in ("number", "root", "attempt", "rival")}
    params, values = known.pop("params"), known.pop("values")
    return {**first, "schedule": describe_schedule(params, results.full_px), **params, **values, SAVED: results.time_saved(trial), **known}


def _parameter_names(results: StudyFront) -> list[str]:
    """Every parameter of the study: the schedule's, the training's, then others by name."""
    names = {name for trial in results.completed for name in trial.params}.difference(_OWN)
    known = [name for name in (*SCHEDULE_FIELDS, *TRAINING_FIELDS, *METHOD_FIELDS) if name in names]
    return known + sorted(names.difference(known))


def _columns(results: StudyFront, parameters: list[str]) -> list[str]:
    seconds = [f"seconds_{part}" for part in _SECONDS]
    return [*_OWN[:2], *parameters, *results.objectives, SAVED, *seconds, *_OWN[2:]]


def _row(trial: CompletedTrial, results: StudyFront, parameters: list[str]) -> dict[str, Any]:
    seconds = {f"seconds_{part}": trial.seconds.get(part) for part in _SECONDS}
    own = {name: getattr(trial, name) for name in _OWN}
    values = {name: trial.values[name] for name in results.objectives}
    return {**{name: trial.params.get(name) for name in parameters}, **values, SAVED: results.time_saved(trial), **seconds, **own}


def _cell(value: object) -> object:
    """Text that a spreadsheet would run as a formula is quoted, and nothing in it steers a terminal; numbers stay as they are."""
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(_FORMULA_STARTS) else "") + printable(value, kept="\n\t\r")


def _finite(value: Any) -> Any:
    """The same value with every float that JSON can't hold replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
