"""Studies from Python, held against what the command line shows of the same database."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pandas as pd
import pytest
from filled import TINY, confirm_filled, filled_store
from yaml import safe_dump

import tuner
from studies import StudySpec
from trainers import Schedule
from trainers.errors import InputError
from tuner.cli import app
from tuner.storage.opening import open_storage
from tuner.storage.store import StudyStore


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("database") / "tuner.db"
    filled_store(open_storage(f"sqlite:///{path}"), 8).storage.engine.dispose()
    return path


@pytest.fixture
def url(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{shutil.copy(database, tmp_path / 'tuner.db')}"


def exported(capsys, *arguments):
    app(["export", "tiny", *arguments], standalone_mode=False)
    return capsys.readouterr().out


def test_the_import_loads_nothing_heavy():
    script = "import sys\nimport tuner\nprint([n for n in ('torch', 'ray', 'optuna', 'pandas', 'typer', 'pydantic') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_every_public_name_is_documented_and_typed():
    assert set(tuner.__all__) <= set(dir(tuner))
    members = [member for name, member in vars(tuner.Study).items() if not name.startswith("_")]
    for function in [tuner.load, tuner.launch, *filter(inspect.isfunction, members)]:
        assert function.__doc__
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(
            parameter.annotation is not inspect.Parameter.empty for name, parameter in signature.parameters.items() if name != "self"
        )
    with pytest.raises(AttributeError, match="module 'tuner' has no attribute 'lunch'"):
        tuner.lunch  # noqa: B018


def test_launch_is_the_function_even_once_what_launches_is_loaded():
    import tuner.launching.launch

    assert inspect.isfunction(tuner.launch)
    assert inspect.ismodule(tuner.launching.launch)


def test_the_front_is_the_exported_one_as_a_frame(url, capsys):
    frame = tuner.load("tiny", storage=url).front()
    front = json.loads(exported(capsys, "--format", "json"))["front"]
    assert isinstance(frame, pd.DataFrame)
    assert frame.index.name == "trial"
    assert list(frame.index) == [point["number"] for point in front]
    for column in (
        "schedule",
        "relative_time",
        "val_accuracy",
        "frequency",
        "kernel",
        "epochs",
        "lr",
        "seed",
        "time_saved_vs_full_resolution",
    ):
        assert list(frame[column]) == [point[column] for point in front]
    assert frame.relative_time.dtype == frame.val_accuracy.dtype == float
    assert frame.attrs == {"study": "tiny", "confirmed": "one seed a point on the validation split, not confirmed (tuner confirm tiny)"}


def test_all_trials_stand_in_their_order(url):
    study = tuner.load("tiny", url)
    assert list(study.trials().index) == list(range(8))
    assert list(study.trials().columns) == list(study.front().columns)


def test_a_study_is_read_anew_and_by_its_file(url, tmp_path):
    (tmp_path / "mine.yaml").write_text(safe_dump(TINY))
    study = tuner.load(tmp_path / "mine.yaml")
    assert (study.name, study.spec) == ("tiny", StudySpec.from_json_dict(TINY))
    assert len(study.trials()) == 8
    storage = open_storage(url)
    filled_store(storage, 1)
    storage.engine.dispose()
    assert len(study.trials()) == 9


def test_the_best_and_its_schedule_are_those_of_the_command_line(url, capsys):
    study = tuner.load("tiny")
    app(["best", "tiny", "--max-drop", "0.05", "--out", "best.yaml"], standalone_mode=False)
    answer = capsys.readouterr().out.splitlines()[0]
    assert study.answer(max_drop=0.05) == answer
    assert study.schedule(study.best(max_drop=0.05).number) == Schedule.load("best.yaml")
    with pytest.raises(InputError, match="study 'tiny' has no completed trial 99"):
        study.schedule(99)


def test_a_confirmed_front_has_means_and_intervals(url):
    storage = open_storage(url)
    confirm_filled(StudyStore.load(storage, "tiny"), 3)
    storage.engine.dispose()
    frame = tuner.load("tiny").front()
    assert list(frame.test_mean) == pytest.approx([0.501] * len(frame))
    assert list(frame.seeds) == [3] * len(frame)
    assert (frame.test_low < frame.test_mean).all()
    assert (frame.test_mean < frame.test_high).all()
    # All means are equal, so all but the fastest were there by luck.
    assert list(frame.by_luck) == [False] + [True] * (len(frame) - 1)
    assert frame.attrs["confirmed"].startswith("confirmed on 3 fresh seeds")


def test_a_study_without_a_trial_has_an_empty_front(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filled_store(open_storage("sqlite:///tuner.db"), 0).storage.engine.dispose()
    study = tuner.load("tiny")
    assert study.front().empty
    assert "0 completed trials" in repr(study)
    assert "0 completed trials" in study._repr_html_()


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_in_a_notebook_a_front_renders_itself_and_runs_and_fetches_nothing(tmp_path, monkeypatch):
    evil = "<img src=x onerror=alert(1)>:make"
    monkeypatch.chdir(tmp_path)
    filled_store(open_storage("sqlite:///tuner.db"), 4, model=evil).storage.engine.dispose()
    shown = tuner.load("tiny")._repr_html_()
    tags = Tags()
    tags.feed(shown)
    assert {tag for tag, _ in tags.found} == {"h3", "p", "img", "table", "tr", "th", "td"}
    (picture,) = [attributes for tag, attributes in tags.found if tag == "img"]
    assert picture["src"].startswith("data:image/png;base64,iVBOR")
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on")]
    assert "&lt;img src=x onerror=alert(1)&gt;:make" in shown
    assert "4 completed trials" in shown
    assert "not confirmed" in shown


def test_a_representation_is_one_line_without_the_database(url):
    shown = repr(tuner.load("tiny", storage=url))
    assert re.fullmatch(r"<Study 'tiny': 8 completed trials, \d+ on the front; one seed a point .*>", shown)
    assert "sqlite" not in shown


def test_a_launch_with_nothing_left_returns_the_study(url, capsys):
    spec = StudySpec.from_json_dict(TINY)
    study = tuner.launch(spec, storage=url, trials=8)
    assert isinstance(study, tuner.Study)
    assert len(study.trials()) == 8
    assert tuner.launch("tiny", storage=url, trials=3).name == "tiny"


@pytest.mark.parametrize("stop", ["INTERRUPTED", "TERMINATED"])
def test_a_launch_gets_its_options_and_an_interrupted_one_says_so(url, monkeypatch, stop):
    import tuner.launching.launch as launching

    seen = {}

    def run(store, spec, options, console):
        seen.update(store=store.name, options=options, lr=spec.training.lr)
        return launching.LaunchOutcome(3, getattr(launching, stop))

    monkeypatch.setattr(launching, "launch", run)
    with pytest.raises(KeyboardInterrupt if stop == "INTERRUPTED" else SystemExit):
        tuner.launch("digits", trials=30, timeout="1h30m", overrides=["training.lr=0.2"], checkpoints="here", accept_noisy_timing=True)
    wanted = launching.LaunchOptions(trials=30, timeout_s=5400, checkpoints="here", accept_noisy_timing=True)
    assert seen == {"store": "digits", "options": wanted, "lr": 0.2}


def test_bad_input_is_an_input_error(url):
    with pytest.raises(InputError, match=r"study 'tinny' is unknown .* nearest valid name is 'tiny'"):
        tuner.load("tinny")
    with pytest.raises(InputError, match="trials is 0, it must be a whole number of at least 1"):
        tuner.launch("tiny", trials=0)
    with pytest.raises(InputError, match="study file 'digit' is missing"):
        tuner.launch("digit")
    with pytest.raises(InputError, match="overrides change a study file"):
        tuner.launch(StudySpec.from_json_dict(TINY), overrides=["seed=1"])
