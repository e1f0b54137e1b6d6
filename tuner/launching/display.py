"""What a person sees of a launch: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tuner.launching.dispatcher import Dispatcher
from tuner.results.describe import describe_schedule, describe_training, printable
from tuner.results.front import StudyFront, hypervolume
from tuner.storage.opening import DatabaseAway

_LAST_LINES: Final = 6
_REFRESHES_A_SECOND: Final = 2


class LaunchDisplay:
    """Shows a launch while it runs. `results` reads the study's front; it is called when a trial has finished, not at every refresh."""

    def __init__(self, console: Console, dispatcher: Dispatcher, results: Callable[[], StudyFront]) -> None:
        self._console = console
        self._dispatcher = dispatcher
        self._results = results
        self._lines: list[str] = []
        self._summary = ""
        self._started_s = time.monotonic()
        self._first_finished = dispatcher.finished

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Live while inside; leaves the last state on screen."""
        self._dispatcher.on_event = self._note
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self._table, console=self._console, refresh_per_second=_REFRESHES_A_SECOND):
            yield

    def _note(self, line: str) -> None:
        line = printable(line)
        # Whoever says that the database is away must not wait for it, nor end because of it.
        if not self._dispatcher.is_paused:
            with suppress(DatabaseAway):
                self._summarise()
        self._lines = [*self._lines, line][-_LAST_LINES:]
        if not self._console.is_terminal:
            self._console.print(Text(f"[{self._dispatcher.finished}/{self._dispatcher.trials}] {line}{self._time_left()}"), soft_wrap=True)

    def _summarise(self) -> None:
        results = self._results()
        volume = hypervolume(results.completed, results.objectives)
        shown = "" if volume is None else f", hypervolume {volume:.4f}"
        self._summary = f"{self._dispatcher.finished} of {self._dispatcher.trials} trials, {len(results.front)} on the front{shown}"

    def _time_left(self) -> str:
        done = self._dispatcher.finished - self._first_finished
        # The time until a first round of trials has ended is mostly that of one trial, however many run at once.
        if done < max(1, self._dispatcher.slots):
            return ""
        each_s = (time.monotonic() - self._started_s) / done
        left_s = each_s * max(0, self._dispatcher.trials - self._dispatcher.finished)
        return f"; about {left_s / 60:.0f} min left" if left_s >= 90 else f"; about {left_s:.0f} s left"

    def _table(self) -> Group:
        table = Table(title=Text(f"{self._dispatcher.store.name}: {self._summary or 'waiting for the first trial'}{self._time_left()}"))
        for heading in ("trial", "epoch", "validation accuracy", "seconds", "training", "schedule"):
            table.add_column(heading, justify="right" if heading in ("trial", "epoch", "seconds") else "left")
        for running in list(self._dispatcher.running.values()):
            config = running.job.config
            accuracy = "-" if running.val_accuracy is None else f"{running.val_accuracy:.2%}"
            seconds = f"{time.monotonic() - running.started_s:.0f}"
            words = (describe_training(running.claimed.params), describe_schedule(running.claimed.params))
            table.add_row(str(running.job.number), f"{running.epoch}/{config.epochs}", accuracy, seconds, *map(Text, words))
        return Group(table, *(Text(line, style="dim") for line in self._lines))


def warn(console: Console, sentence: str) -> None:
    """Shows a warning, on stderr where progress is not asked for."""
    shown = Console(stderr=True) if console.quiet else console
    shown.print(Text(printable(f"warning: {sentence}")), soft_wrap=True)


@contextmanager
def waiting(console: Console, what: str) -> Iterator[None]:
    """Says what is being waited for: a spinner in a terminal, a line elsewhere."""
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        console.print(Text(what), soft_wrap=True)
        yield


@contextmanager
def calibration_progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Progress of the timing of step kinds, a bar in a terminal and a few lines elsewhere; yields the function that moves it."""
    if not console.is_terminal:
        yield _CalibrationLines(console)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks = {}

        def on_progress(device: str, done: int, expected: int) -> None:
            if device not in tasks:
                tasks[device] = progress.add_task(_calibration_title(device))
            progress.update(tasks[device], completed=done, total=expected)

        yield on_progress


class _CalibrationLines:
    """Says when the timing on a device begins, and again at each quarter."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._quarters: dict[str, int] = {}

    def __call__(self, device: str, done: int, expected: int) -> None:
        quarter = min(4, 4 * done // expected)
        if self._quarters.get(device) != quarter:
            self._quarters[device] = quarter
            self._console.print(Text(f"{_calibration_title(device)}: {done / expected:.0%}"), soft_wrap=True)


def _calibration_title(device: str) -> str:
    return f"timing every kind of step on {printable(device)}"
