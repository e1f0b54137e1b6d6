"""`tuner track`: hands a study's finished trials to an experiment tracker, those of before and, if asked, those to come."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from trainers.checks import check_name
from trainers.errors import InputError
from tuner.launching.launch import ASKED
from tuner.storage.lookup import open_study
from tuner.storage.store import StudyStore
from tuner.trackers.runs import Runs, Tracker

TRACKERS: Final = ("tensorboard", "mlflow", "wandb")
_POLL_S: Final = 5.0


def track_study(study: str, storage: str | None, tracker: str, to: str | None, follow: bool) -> None:
    """Adds what is missing, and with `follow` what finishes until as many trials have as the study's launch asked for.

    to: folder for tensorboard and wandb, tracking URI for mlflow. InputError for an unknown tracker, or one that isn't installed.
    """
    check_name("the tracker", tracker, TRACKERS)
    store = open_study(study, storage)
    opened, where = _OPENERS[tracker](store.name, to)
    runs, known, added = Runs(store), opened.numbers(), 0
    print(f"study '{store.name}' is written to {where}", flush=True)
    while True:
        # Looked at first, so that what finishes meanwhile is seen once more.
        is_over = not follow or _is_over(store)
        for run in runs.finished():
            if run.number not in known:
                opened.add(run)
                known.add(run.number)
                added += 1
        if is_over:
            break
        time.sleep(_POLL_S)
    print(f"{added} trials added, {len(known)} are there")


def _is_over(store: StudyStore) -> bool:
    return store.running_count() == 0 and store.finished_count() >= (store.get_attr(ASKED) or store.spec.budget.trials)


def _tensorboard(study: str, to: str | None) -> tuple[Tracker, str]:
    folder = Path(to or "tensorboard") / study
    return _loaded("tensorboard", "tensorboardX").TensorBoard(folder), f"{folder}; look with: tensorboard --logdir {folder}"


def _mlflow(study: str, to: str | None) -> tuple[Tracker, str]:
    # It would tell its makers that it is used.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = to or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    # A URI may hold a password.
    return _loaded("mlflow", "mlflow-skinny").MLflow(uri, study), "MLflow" if "@" in uri else uri


def _wandb(study: str, to: str | None) -> tuple[Tracker, str]:
    folder = Path(to or "wandb")
    mode = os.environ.get("WANDB_MODE", "online")
    return _loaded("wandb", "wandb").WeightsAndBiases(folder, study), f"Weights & Biases ({mode}), by way of {folder}"


_OPENERS: Final[dict[str, Callable[[str, str | None], tuple[Tracker, str]]]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}


def _loaded(tracker: str, package: str) -> Any:
    try:
        return importlib.import_module(f"tuner.trackers.{tracker}")
    except ModuleNotFoundError as error:
        raise InputError(f"the tracker {tracker} needs the package {package}, which is not installed: pip install {package}") from error
