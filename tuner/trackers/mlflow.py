"""Runs for MLflow, through its tracking client: an experiment a study, a run a trial."""

from __future__ import annotations

import os
import time
from typing import Final

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType

from tuner.trackers.runs import TrackedRun

_TRIAL: Final = "trial"
_WHOLE: Final = "whole"
# What a page of a search holds at most.
_PAGE: Final = 1000


class MLflow:
    """uri: of a tracking server or a database, as MLFLOW_TRACKING_URI."""

    def __init__(self, uri: str, study: str) -> None:
        # Else a tracking server's client prints two lines a run, over the progress.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(study)
        self._experiment: str = found.experiment_id if found else self._client.create_experiment(study)

    def numbers(self) -> set[int]:
        """Trials of the study that are there already. What was being written when someone pulled the plug is removed."""
        numbers, token = set(), None
        while True:
            page = self._client.search_runs([self._experiment], "", ViewType.ACTIVE_ONLY, _PAGE, page_token=token)
            for run in page:
                tags = run.data.tags
                if tags.get(_WHOLE) == "yes":
                    numbers.add(int(tags[_TRIAL]))
                elif _TRIAL in tags:
                    self._client.delete_run(run.info.run_id)
            if not (token := page.token):
                return numbers

    def add(self, run: TrackedRun) -> None:
        """Writes a run; its tag `whole` comes last."""
        tags = {_TRIAL: str(run.number), "schedule": run.schedule, "stopped_early": "yes" if run.stopped_early else "no"}
        made = self._client.create_run(self._experiment, run_name=f"trial {run.number}", tags=tags)
        now_ms = int(1000 * time.time())
        metrics = [Metric("val_accuracy_by_epoch", row.val_accuracy, now_ms, row.epoch) for row in run.epochs]
        metrics += [
            Metric("relative_time_by_epoch", row.relative_time, now_ms, row.epoch) for row in run.epochs if row.relative_time is not None
        ]
        metrics += [Metric(name, value, now_ms, 0) for name, value in run.values.items()]
        params = [Param(name, str(value)) for name, value in run.params.items()]
        for first in range(0, len(metrics), _PAGE):
            self._client.log_batch(made.info.run_id, metrics=metrics[first : first + _PAGE])
        self._client.log_batch(made.info.run_id, params=params)
        self._client.set_terminated(made.info.run_id)
        self._client.log_batch(made.info.run_id, tags=[RunTag(_WHOLE, "yes")])
