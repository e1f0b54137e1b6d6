"""Studies from Python: `tuner.launch` runs one, `tuner.load` opens one, and a Study gives its front as a pandas frame."""

from __future__ import annotations

import html
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from rich.console import Console

from studies.spec import StudySpec
from trainers.checks import check_integer
from trainers.errors import InputError
from trainers.schedule import Schedule
from trainers.wording import one_line
from tuner.commands.study import study_to_launch
from tuner.results.answer import best_answer, best_trial
from tuner.results.best import best_for_drop
from tuner.results.confirmation import confirmation_words, confirmed_front
from tuner.results.describe import describe_schedule, printable, schedule_of
from tuner.results.export import trial_rows
from tuner.results.front import StudyFront
from tuner.storage.lookup import open_study, spec_to_launch, stored_spec
from tuner.storage.store import StudyStore
from tuner.storage.trials import CompletedTrial

if TYPE_CHECKING:
    import pandas as pd


class Study:
    """A stored study. Every call reads the database anew, so a study that is running shows what it has by then.

    In a notebook it renders itself: the picture of its front, and the front as a table.
    """

    def __init__(self, store: StudyStore) -> None:
        self._store = store

    @property
    def name(self) -> str:
        return self._store.name

    @property
    def spec(self) -> StudySpec:
        """What the study was last launched with."""
        return stored_spec(self._store)

    def results(self) -> StudyFront:
        """Its completed trials, the fronts among them, and what of the front is confirmed."""
        return confirmed_front(self._store)

    def front(self) -> pd.DataFrame:
        """The non-dominated trials, best first objective first: one row a trial, the index its number.

        Columns: schedule (in words), the parameters, the objectives, time_saved_vs_full_resolution (a share, NaN where no full-resolution
        trial is as accurate), seconds by part, seed, device, commit. Accuracies are shares in [0, 1], relative_time is over the baseline's.
        Where `tuner confirm` has been run also test_mean, test_low and test_high (the ends of the 95 % interval of the mean), seeds, and
        by_luck: whether it leaves the front by those means. `frame.attrs["confirmed"]` says in words whether the front is confirmed.
        """
        results = self.results()
        return _frame(results.front, results)

    def trials(self) -> pd.DataFrame:
        """All completed trials by number, with the columns of `front`."""
        results = self.results()
        return _frame(sorted(results.completed, key=lambda trial: trial.number), results)

    def best(self, max_drop: float) -> CompletedTrial:
        """The fastest trial that loses at most `max_drop` (a share in [0, 1]) of accuracy against the baseline, as `tuner best` takes it.

        RunError while the baseline has not completed.
        """
        return best_trial(self.results(), lambda trials: best_for_drop(trials, max_drop))

    def answer(self, max_drop: float) -> str:
        """What that trial saves, in a sentence."""
        results = self.results()
        return best_answer(best_trial(results, lambda trials: best_for_drop(trials, max_drop)), results)

    def schedule(self, trial: int) -> Schedule:
        """The schedule that a completed trial trained with; InputError where there is none of that number."""
        completed = {one.number: one for one in self.results().completed}
        if trial not in completed:
            raise InputError(one_line(f"study '{self.name}' has no completed trial {trial!r}: see its front()"))
        return schedule_of(completed[trial])

    def __repr__(self) -> str:
        results = self.results()
        counts = f"{len(results.completed)} completed trials, {len(results.front)} on the front"
        return f"<Study {printable(self.name)!r}: {counts}; {confirmation_words(results)}>"

    def _repr_html_(self) -> str:
        return front_as_html(self.results())


def load(study: str | Path, storage: str | None = None) -> Study:
    """A stored study by its name, or by the study file whose name is meant.

    storage: URL of the database; else TUNER_STORAGE, else the study file's, else sqlite:///tuner.db.
    InputError, with the nearest name, where there is no such study.
    """
    return Study(open_study(str(study), storage))


def launch(
    study: StudySpec | str | Path,
    *,
    storage: str | None = None,
    trials: int | None = None,
    timeout: str | None = None,
    address: str | None = None,
    overrides: Sequence[str] = (),
    checkpoints: str | None = None,
    accept_noisy_timing: bool = False,
) -> Study:
    """Runs a study, or continues it where it was left, and returns it once it ends; progress goes to the terminal or notebook.

    study: a spec, a study file, the name of a built-in one, or that of a stored study. trials: finished ones in all; timeout: of this
    launch, such as "2h"; both are else the study's budget. address: of a Ray cluster, else one is started here. overrides: "key=value" on
    top of a study file. checkpoints: folder or fsspec URL, else runs. accept_noisy_timing: goes on where steps could not be timed well.
    Call it from the main thread: it handles Ctrl-C, which stops cleanly and then raises KeyboardInterrupt, and SIGTERM likewise.
    InputError for bad input, RunError where the work could not be done.
    """
    from tuner.launching.launch import INTERRUPTED, TERMINATED
    from tuner.launching.launch import launch as run

    if trials is not None:
        check_integer("trials", trials, lowest=1)
    if isinstance(study, StudySpec) and overrides:
        raise InputError("overrides change a study file, but a spec is given: build it with them")
    spec = study if isinstance(study, StudySpec) else spec_to_launch(str(study), storage, overrides)
    store, options = study_to_launch(spec, storage, trials, timeout, address, checkpoints, accept_noisy_timing)
    stop_reason = run(store, spec, options, Console()).stop_reason
    if stop_reason == INTERRUPTED:
        raise KeyboardInterrupt
    if stop_reason == TERMINATED:
        sys.exit(143)
    return Study(store)


def front_as_html(results: StudyFront) -> str:
    """A front for a notebook: a picture and a table that run nothing and fetch nothing, every text escaped."""
    # They take long to load, and only who looks needs them.
    from base64 import b64encode

    from tuner.results.plots_html import summary_line, table_html
    from tuner.results.plots_image import front_image

    heading = f"<h3>{html.escape(results.study)}</h3>\n<p>{html.escape(summary_line(results))}</p>"
    if not results.completed:
        return heading
    picture = b64encode(front_image(results, "png")).decode()
    return f'{heading}\n<img alt="the front" style="max-width: 100%" src="data:image/png;base64,{picture}">\n{table_html(results)}'


def _frame(trials: Sequence[CompletedTrial], results: StudyFront) -> pd.DataFrame:
    import pandas as pd

    rows = [row | _confirmed(row["number"], results) for row in trial_rows(trials, results)]
    words = [describe_schedule(trial.params, results.full_px) for trial in trials]
    frame = pd.DataFrame(rows).rename(columns={"number": "trial"})
    if rows:
        frame = frame.set_index("trial")
        frame.insert(0, "schedule", words)
    frame.attrs |= {"study": results.study, "confirmed": confirmation_words(results)}
    return frame


def _confirmed(number: int, results: StudyFront) -> dict[str, Any]:
    """The columns of a confirmed front; None where this trial is not."""
    if results.confirmation is None:
        return {}
    names = ("test_mean", "test_low", "test_high", "seeds", "by_luck")
    point = results.confirmation.by_number.get(number)
    values = (mean(point.test), *point.interval, len(point.test), number in results.confirmation.lucky) if point else (None,) * len(names)
    return dict(zip(names, values, strict=True))
