"""Trials in experiment trackers, read back by the trackers' own readers. Nothing here reaches a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.filled import filled_store
from trainers.errors import InputError
from tuner.storage.opening import open_storage
from tuner.trackers.command import TRACKERS, track_study
from tuner.trackers.runs import Runs

# What the trackers' own imports warn of is no news about ours.
pytestmark = pytest.mark.filterwarnings("ignore")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for package in ("tensorboard", "mlflow", "wandb"):
        pytest.importorskip(package, reason=f"{package} is not installed: make test installs it")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The URL of a database with a study of seven told trials, one of them stopped early. Trackers find nobody to talk to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    url = f"sqlite:///{tmp_path / 'tuner.db'}"
    store = filled_store(open_storage(url), 6)
    claimed = store.create_trial(fixed=store.spec.baseline_params(), distributions=distributions(store), sampler=None, rival=None)
    assert store.prune(claimed.number, {"curve": [0.4, 0.45], "counts": {}, "seconds": {}})
    return url


def distributions(store):
    from tuner.storage.distributions import distributions

    return distributions(store.spec.search)


def added(capsys):
    return re.search(r"(\d+) trials added, (\d+) are there", capsys.readouterr().out).groups()


@pytest.mark.parametrize(("tracker", "to"), [("tensorboard", "boards"), ("mlflow", "sqlite:///{}/ml.db"), ("wandb", "bees")])
def test_given_again_only_what_is_missing_is_added(tracker, to, study, tmp_path, capsys):
    to = to.format(tmp_path)
    track_study("tiny", study, tracker, to, follow=False)
    assert added(capsys) == ("7", "7")
    filled_store(open_storage(study), 2)
    track_study("tiny", study, tracker, to, follow=False)
    assert added(capsys) == ("2", "9")


def test_tensorboard_shows_curves_results_and_fields(study, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track_study("tiny", study, "tensorboard", "boards", follow=False)
    run = Runs(store_of(study)).finished()[3]
    events = EventAccumulator(str(tmp_path / "boards" / "tiny" / "trial-00003")).Reload()
    curve = [(event.step, round(event.value, 5)) for event in events.Scalars("val_accuracy/by_epoch")]
    assert curve == [(row.epoch, round(row.val_accuracy, 5)) for row in run.epochs]
    assert events.Scalars("result/relative_time")[0].value == pytest.approx(run.values["relative_time"])
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert not list((tmp_path / "boards" / "tiny").glob(".begun-*"))


def test_a_folder_that_was_being_written_is_written_again(study, tmp_path, capsys):
    track_study("tiny", study, "tensorboard", "boards", follow=False)
    (tmp_path / "boards" / "tiny" / "trial-00002").rename(tmp_path / "boards" / "tiny" / ".begun-trial-00002")
    capsys.readouterr()
    track_study("tiny", study, "tensorboard", "boards", follow=False)
    assert added(capsys) == ("1", "7")


def test_mlflow_has_a_run_a_trial(study, tmp_path, capsys):
    from mlflow import MlflowClient

    # MLflow keeps the databases of a process open by their URIs.
    uri = f"sqlite:///{tmp_path / 'ml.db'}"
    track_study("tiny", study, "mlflow", uri, follow=False)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny").experiment_id
    runs = {int(run.data.tags["trial"]): run for run in client.search_runs([experiment])}
    assert sorted(runs) == list(range(7))
    expected = Runs(store_of(study)).finished()[3]
    assert runs[3].data.params["frequency"] == str(expected.params["frequency"])
    assert runs[3].data.metrics["val_accuracy"] == expected.values["val_accuracy"]
    assert runs[3].info.status == "FINISHED"
    # A stopped trial has a curve and no result.
    assert runs[6].data.tags["stopped_early"] == "yes"
    assert "val_accuracy" not in runs[6].data.metrics
    assert runs[6].data.metrics["val_accuracy_by_epoch"] == 0.45
    # One without the last mark was being written when someone pulled the plug.
    client.delete_tag(runs[3].info.run_id, "whole")
    capsys.readouterr()
    track_study("tiny", study, "mlflow", uri, follow=False)
    assert added(capsys) == ("1", "7")
    assert len(client.search_runs([experiment])) == 7


def test_wandb_keeps_runs_offline(study, tmp_path):
    track_study("tiny", study, "wandb", "bees", follow=False)
    files = sorted(path.name for path in tmp_path.glob("bees/wandb/offline-run-*/*.wandb"))
    assert files == [f"run-tiny-{number}.wandb" for number in range(7)]


def test_following_ends_when_the_study_has_what_was_asked_for(study, capsys, monkeypatch):
    monkeypatch.setattr("tuner.trackers.command._POLL_S", 0.01)
    store = store_of(study)
    store.set_attr("asked", 9)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        assert len(waits) < 3, "it should have ended"
        filled_store(open_storage(study), 2)

    monkeypatch.setattr("time.sleep", wait)
    track_study("tiny", study, "tensorboard", "boards", follow=True)
    assert added(capsys) == ("9", "9")
    assert len(waits) == 1


def test_an_unknown_tracker_is_one_sentence(study):
    with pytest.raises(
        InputError,
        match=r"the tracker is 'tensorbord', it must be one of tensorboard, mlflow, wandb; the nearest valid name is .tensorboard.",
    ):
        track_study("tiny", study, "tensorbord", None, follow=False)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_that_is_not_installed_is_one_sentence(tracker, study, tmp_path):
    (tmp_path / "hidden.py").write_text(
        "import sys\nfor name in ('tensorboardX', 'mlflow', 'wandb'):\n    sys.modules[name] = None\n"
        "from tuner.cli import main\nsys.argv = ['tuner', 'track', 'tiny', *sys.argv[1:]]\nmain()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "hidden.py", tracker, "--storage", study]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.fullmatch(rf"tuner: the tracker {tracker} needs the package \S+, which is not installed: pip install \S+\n", done.stderr)


def store_of(url):
    from tuner.storage.store import StudyStore

    return StudyStore.load(open_storage(url), "tiny")
