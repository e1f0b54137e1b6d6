"""The command line as a user types it: exit codes, one sentence for bad input, and what each command prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from filled import TINY, filled_store
from typer.main import get_command
from yaml import safe_dump

from trainers import Schedule
from trainers.errors import InputError
from tuner.cli import app
from tuner.storage.opening import open_storage

TUNER = Path(sys.executable).parent / "tuner"
PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
COMMANDS = [
    "launch",
    "status",
    "export",
    "best",
    "stop",
    "dashboard",
    "train",
    "cost",
    "confirm",
    "delete",
    "logs",
    "doctor",
    "check",
    "record",
    "studies",
    "init",
    "compare",
    "track",
    "report",
]


def tuner(*arguments, cwd, **environment):
    return subprocess.run(
        [TUNER, *map(str, arguments)], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a study of twelve trials in its default database, and its study file."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "tiny.yaml").write_text(safe_dump(TINY))
    filled_store(open_storage(f"sqlite:///{folder / 'tuner.db'}"), 12).storage.engine.dispose()
    return folder


def loaded_modules(statement):
    script = f"import sys\n{statement}\nprint(sorted(name for name in ('torch', 'ray', 'optuna', 'plotly') if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return found.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("statement", ["import studies", "import tuner.cli", "import trainers.schedule", "from trainers import Schedule"])
def test_light_imports_load_nothing_heavy(statement):
    assert loaded_modules(statement) == "[]"


def test_help_loads_nothing_heavy():
    statement = "import tuner.cli\nsys.argv = ['tuner', '--help']\ntry:\n    tuner.cli.main()\nexcept SystemExit:\n    pass"
    assert loaded_modules(statement) == "[]"


def test_help_names_every_command(tmp_path):
    shown = tuner("--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert all(command in shown.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, tmp_path):
    assert tuner(command, "--help", cwd=tmp_path).returncode == 0


def test_every_argument_and_option_is_explained():
    group = get_command(app)
    assert [
        (name, parameter.name)
        for name, command in group.commands.items()
        for parameter in command.params
        if not parameter.help or parameter.help.startswith("Likewise")
    ] == []


def test_the_version_is_that_of_the_package(tmp_path):
    shown = tuner("--version", cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (0, f"tuner {tomllib.loads(PYPROJECT.read_text())['project']['version']}\n")


BAD = [
    (["launch", "digit"], "study file 'digit' is missing, built-in studies are", "nearest valid name is 'digits'"),
    (["launch", "digits", "--set", "training.epoch=3"], "training.epoch", "'epochs'"),
    (["launch", "digits", "--timeout", "soon"], "duration is 'soon', it must be a time above 0", "1h30m"),
    (["launch", "digits", "--storage", "postgresql://me:secret@127.0.0.1/x"], "must not hold a password", "TUNER_STORAGE"),
    (["launch", "digits", "--storage", "mysql://127.0.0.1/x"], "its scheme must be one of", "sqlite"),
    (["launch", "tiny.yaml", "--set", "training.lr=0.06"], "can't be continued", "training.lr: 0.05 -> 0.06"),
    (["status", "tinny"], "study 'tinny' is unknown", "nearest valid name is 'tiny'"),
    (["export", "tiny", "--format", "xlsx"], "--format is 'xlsx', it must be one of table, csv, json", "schedules"),
    (["best", "tiny"], "needs exactly one of --max-drop, --max-time and --knee", "tuner best"),
    (["best", "tiny", "--max-drop", "7"], "max-drop is 7.0, it must be a finite number", "at most 1"),
    (["train", "--trial", "3"], "needs --study too", "numbered within a study"),
    (["train"], "needs exactly one of --trial and --schedule", "tuner train"),
    (["train", "--study", "tiny", "--trial", "99"], "study 'tiny' has no completed trial 99", "export"),
    (["train", "--schedule", "nowhere.yaml"], "schedule file 'nowhere.yaml' cannot be read", "No such file"),
    (["delete", "tiny"], "12 finished trials, which nothing brings back", "--yes"),
    (["stop", "nothing"], "study 'nothing' is unknown", "tiny"),
]


@pytest.mark.parametrize(("arguments", "rule", "way_out"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_is_one_sentence_and_exit_code_2(place, arguments, rule, way_out):
    refused = tuner(*arguments, cwd=place)
    assert refused.returncode == 2, refused.stderr
    assert refused.stdout == ""
    assert len(refused.stderr.strip().splitlines()) == 1
    assert rule in refused.stderr
    assert way_out in refused.stderr
    assert "secret" not in refused.stderr


def test_an_unknown_option_is_exit_code_2(tmp_path):
    assert tuner("launch", "digits", "--trails", "3", cwd=tmp_path).returncode == 2


def test_a_database_that_does_not_answer_is_exit_code_1(tmp_path):
    refused = tuner("status", "--storage", "postgresql://nobody@127.0.0.1:1/none", cwd=tmp_path)
    assert refused.returncode == 1
    assert "can't be opened" in refused.stderr
    assert "Traceback" not in refused.stderr


READING = [
    ["status"],
    ["status", "--json"],
    ["status", "tiny"],
    ["export", "tiny"],
    ["report", "tiny"],
    ["best", "tiny", "--knee"],
    ["stop", "tiny"],
    ["dashboard", "tiny"],
    ["train", "--study", "tiny", "--trial", "0"],
    ["confirm", "tiny"],
    ["delete", "tiny", "--yes"],
]


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_reading_where_there_is_no_database_makes_none(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^there is no database of studies at sqlite:///tunner\.db"):
        app([*arguments, "--storage", "sqlite:///tunner.db"], standalone_mode=False)
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_storage_is_one_sentence_and_exit_code_2(tmp_path):
    refused = tuner("status", "tiny", "--storage", "sqlite:///tunner.db", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stdout == ""
    (sentence,) = refused.stderr.strip().splitlines()
    assert "there is no database of studies at sqlite:///tunner.db" in sentence
    assert list(tmp_path.iterdir()) == []


def test_launching_what_is_not_there_makes_no_database(tmp_path):
    assert tuner("launch", "digit", cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_enough_trials_already_is_done_with_a_sentence(place):
    done = tuner("launch", "tiny.yaml", "--trials", "12", cwd=place)
    assert done.returncode == 0
    assert done.stdout.strip() == "study 'tiny' has 12 finished trials and 12 are asked for: nothing to do"


def test_a_stored_study_goes_on_by_its_name(place):
    done = tuner("launch", "tiny", "--trials", "10", cwd=place)
    assert done.stdout.strip() == "study 'tiny' has 12 finished trials and 10 are asked for: nothing to do"
    refused = tuner("launch", "tiny", "--set", "seed=3", cwd=place)
    assert refused.returncode == 2
    assert "--set changes a study file" in refused.stderr


def test_status_as_text_and_as_json(place):
    text = tuner("status", "tiny", cwd=place)
    assert "12 completed, 0 stopped early, 0 running" in " ".join(text.stdout.split())
    found = json.loads(tuner("status", "tiny", "--json", cwd=place).stdout)
    assert (found["completed"], found["running"], found["failed"]) == (12, [], [])
    assert found["front"]
    assert 0 < found["hypervolume"] < 1


def test_status_of_all_studies(place):
    assert "tiny" in tuner("status", cwd=place).stdout
    assert [one["study"] for one in json.loads(tuner("status", "--json", cwd=place).stdout)] == ["tiny"]


def test_a_study_file_means_the_study_of_its_name(place):
    by_name, by_file = (tuner("export", study, "--format", "json", cwd=place) for study in ("tiny", "tiny.yaml"))
    assert by_name.returncode == 0
    assert by_name.stdout == by_file.stdout
    assert json.loads(by_name.stdout)["study"] == "tiny"


def test_every_format_is_exported(place):
    for export_format in ("table", "csv", "json", "html", "png", "svg", "schedules"):
        out = place / "out" / export_format
        done = tuner("export", "tiny", "--format", export_format, "--out", out, cwd=place)
        assert done.returncode == 0, done.stderr
        assert out.exists()
    numbers = [point["number"] for point in json.loads((place / "out" / "json").read_text())["front"]]
    assert sorted(path.name for path in (place / "out" / "schedules").iterdir()) == sorted(f"trial-{n:04d}.yaml" for n in numbers)


def test_best_says_its_choice_in_a_sentence_and_writes_its_schedule(place):
    done = tuner("best", "tiny", "--max-drop", "0.1", "--out", "best.yaml", cwd=place)
    assert done.returncode == 0
    answer, needs, details, path = done.stdout.strip().splitlines()
    assert answer.endswith("accuracy, one seed, not confirmed")
    assert " less time than the baseline (" in answer
    assert needs.startswith("its figures need epochs=")
    assert details.startswith("trial ")
    assert "of the baseline's time" in details
    assert path == "best.yaml"
    assert isinstance(Schedule.load(place / path), Schedule)


def test_stop_says_when_nothing_runs(place):
    assert tuner("stop", "tiny", cwd=place).stdout.strip() == "nothing of study 'tiny' is running"


def test_delete_takes_the_whole_study(tmp_path):
    filled_store(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), 3).storage.engine.dispose()
    assert tuner("delete", "tiny", "--yes", cwd=tmp_path).stdout.strip() == "deleted study 'tiny' with 3 finished trials"
    assert tuner("status", "tiny", cwd=tmp_path).returncode == 2


def test_train_with_a_trial_and_with_its_schedule_file_is_the_same(place):
    number = json.loads(tuner("status", "tiny", "--json", cwd=place).stdout)["front"][0]
    by_trial = tuner("train", "--study", "tiny", "--trial", number, "--out", "a.pt", cwd=place)
    assert by_trial.returncode == 0, by_trial.stderr
    assert "test accuracy" in by_trial.stdout
    tuner("export", "tiny", "--format", "schedules", "--out", "schedules", cwd=place)
    by_file = tuner("train", "--study", "tiny", "--schedule", f"schedules/trial-{number:04d}.yaml", "--out", "b.pt", cwd=place)
    assert by_file.returncode == 0, by_file.stderr
    import torch

    from trainers.models import build_model

    first, second = (torch.load(place / name, weights_only=True) for name in ("a.pt", "b.pt"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    plain = build_model("cifar_resnet8", 10, 32)
    plain.load_state_dict(first)


def test_a_launch_without_progress(place):
    asked = ("launch", "tiny.yaml", "--trials", "3")
    assert "12 finished trials and 3 are asked for: nothing to do" in tuner(*asked, cwd=place).stdout
    quiet = tuner(*asked, "--quiet", cwd=place)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    document = json.loads(tuner(*asked, "--json", cwd=place).stdout)
    assert (document["study"], document["completed"], document["asked"], document["stop_reason"]) == ("tiny", 12, 3, None)


@pytest.mark.parametrize(
    ("begun", "completed"),
    [("dig", ["digits"]), ("cifar", ["cifar10", "cifar10-resnet18"]), ("ti", ["tiny.yaml"]), ("sub/", ["sub/own.yaml"]), ("zz", [])],
)
def test_a_shell_completes_studies(place, begun, completed):
    (place / "sub").mkdir(exist_ok=True)
    (place / "sub" / "own.yaml").touch()
    environment = {"_TUNER_COMPLETE": "complete_bash", "COMP_WORDS": f"tuner launch {begun}", "COMP_CWORD": "2"}
    found = subprocess.run([TUNER], cwd=place, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    assert found.stdout.split() == completed
