"""`tuner train`: one training with a found schedule, the test split opened, the weights kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from studies.files import load_study, names_file
from studies.space import METHOD_FIELDS, TRAINING_FIELDS
from studies.spec import StudySpec
from trainers.config import TrainConfig
from trainers.errors import InputError, RunError
from trainers.schedule import PROVENANCE_KEY, Schedule, read_schedule_file
from tuner.launching.timing import trial_device
from tuner.results.describe import printable
from tuner.storage.lookup import open_study, stored_spec

if TYPE_CHECKING:
    from trainers.result import EpochReport, TrainResult


def train_once(study: str | None, trial: int | None, schedule: str | None, storage: str | None, seed: int | None, out: str) -> None:
    """Trains as a trial of a study did, or with a schedule file on a study's network and data."""
    if (trial is None) == (schedule is None):
        raise InputError("tuner train needs exactly one of --trial and --schedule")
    config = _config_of_trial(study, trial, storage, seed) if trial is not None else _config_of_file(study, str(schedule), storage, seed)
    if not Path(out).absolute().parent.is_dir():
        raise InputError(f"--out is '{out}', but the folder {Path(out).absolute().parent} does not exist")
    _report(config, *_train(config), out)


def _config_of_trial(study: str | None, number: int, storage: str | None, seed: int | None) -> TrainConfig:
    if study is None:
        raise InputError("tuner train --trial needs --study too: trials are numbered within a study")
    store = open_study(study, storage)
    found = next((trial for trial in store.trials().completed if trial.number == number), None)
    if found is None:
        raise InputError(f"study '{store.name}' has no completed trial {number}; tuner export {study} shows the front's")
    spec = stored_spec(store)
    return spec.train_config(found.params, found.seed if seed is None else seed, device=trial_device(spec))


def _config_of_file(study: str | None, path: str, storage: str | None, seed: int | None) -> TrainConfig:
    import dataclasses

    schedule = Schedule.load(path)
    found_with: dict[str, Any] = read_schedule_file(path).get(PROVENANCE_KEY) or {}
    reference = study or found_with.get("study")
    if reference is None:
        raise InputError(f"{path} does not say which study it was found in: give --study, which names network, data and training")
    spec = _spec(str(reference), storage)
    baseline = spec.train_config(spec.baseline_params(), schedule.seed if seed is None else seed, device=trial_device(spec))
    trained_with = {name: found_with[name] for name in (*TRAINING_FIELDS, *METHOD_FIELDS) if name in found_with}
    training = spec.training.with_searched(spec.training.searchable | trained_with)
    return dataclasses.replace(baseline, schedule=dataclasses.replace(schedule, seed=baseline.seed), **training)


def _spec(reference: str, storage: str | None) -> StudySpec:
    """A study file says what it means by itself; otherwise the stored study does."""
    return load_study(reference) if names_file(reference) else stored_spec(open_study(reference, storage))


def _train(config: TrainConfig) -> tuple[TrainResult, float]:
    from trainers import train
    from trainers.evaluation import evaluate_test

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("epochs", total=config.epochs)

        def on_epoch(report: EpochReport) -> None:
            progress.update(task, completed=report.epoch, description=f"validation accuracy {report.val_accuracy:.2%}")
            if report.figures:
                # Those of single layers, whose names have one more part, would fill the screen.
                figures = ", ".join(f"{name} {value:.4g}" for name, value in report.figures.items() if name.count(".") == 1)
                progress.console.print(Text(printable(f"epoch {report.epoch}: {figures}")), soft_wrap=True)

        result = train(config, on_epoch)
    return result, evaluate_test(config, result.model)


def _report(config: TrainConfig, result: TrainResult, test_accuracy: float, out: str) -> None:
    from trainers.checkpoint import save_weights

    try:
        save_weights(out, result.model.state_dict())
    except OSError as error:
        raise RunError(f"the weights can't be written to '{out}': {error.strerror}") from None
    console = Console()
    accuracies = f"validation accuracy {result.val_accuracy:.2%}, test accuracy {test_accuracy:.2%}"
    console.print(Text(printable(f"{accuracies}, {config.model}, seed {config.seed}")), soft_wrap=True)
    console.print(Text(printable(f"training {result.seconds['train']:.1f} s; weights in {out}")), soft_wrap=True)
