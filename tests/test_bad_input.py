"""Bad input from anywhere ends as one sentence on stderr with exit code 2, with nothing on stdout and nothing written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import bad_inputs
import pytest
import yaml
from bad_inputs import ALONE, STORED, VALID, Bad
from filled import TINY, filled_store
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler

import tuner.commands.cost
import tuner.commands.train
import tuner.launching.launch
from studies.files import load_study
from trainers.errors import InputError
from tuner import cli_first_time
from tuner.cli import app, main
from tuner.storage.distributions import distributions
from tuner.storage.opening import open_storage

TUNER = Path(sys.executable).parent / "tuner"
LONGEST_SENTENCE = 1000


def names(rows):
    return [re.sub(r"[^ -~]", "?", " ".join(row.given) + " " + row.said[-1])[:80] for row in rows]


@pytest.fixture(autouse=True)
def _accepted_is_a_failure(monkeypatch):
    """Without this a mistake that nobody notices would train for minutes, or replace the process of the tests."""
    for module, name in ((tuner.launching.launch, "launch"), (tuner.commands.cost, "_enter"), (tuner.commands.train, "_train")):
        monkeypatch.setattr(module, name, lambda *args, **options: pytest.fail("the mistake was accepted"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a database that holds a study of twelve completed trials and a running one, and its study file."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    store = filled_store(open_storage(f"sqlite:///{folder / 'tuner.db'}"), 12)
    running = store.create_trial(fixed={}, distributions=distributions(store.spec.search), sampler=RandomSampler(seed=0), rival=None)
    assert running.number == 12
    store.storage.engine.dispose()
    return folder


def listing(folder):
    """Every file with its content; what SQLite keeps beside an open database comes and goes."""
    paths = [path for path in sorted(folder.rglob("*")) if not path.name.endswith(("-wal", "-shm"))]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def answer(row, folder, monkeypatch, capsys):
    """The sentence that a row is answered with."""
    monkeypatch.chdir(folder)
    for name, content in row.files.items():
        (folder / name).write_bytes(content)
    before = listing(folder)
    monkeypatch.setattr(sys, "argv", ["tuner", *row.given])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr()
    assert left.value.code == 2, said.err
    assert listing(folder) == before
    assert said.out == ""
    return said.err


def check_sentence(text):
    assert text.startswith("tuner: ")
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert len(text) < LONGEST_SENTENCE
    for no_words_of_ours in ("Traceback", "pydantic", "Value error", "Error:", "hush"):
        assert no_words_of_ours not in text


@pytest.mark.parametrize("row", ALONE, ids=names(ALONE))
def test_a_mistake_is_one_sentence_and_leaves_nothing(row, tmp_path, monkeypatch, capsys):
    text = answer(row, tmp_path, monkeypatch, capsys)
    check_sentence(text)
    for part in row.said:
        assert part in text


@pytest.mark.parametrize("row", STORED, ids=names(STORED))
def test_a_mistake_about_what_is_stored_is_one_sentence_and_changes_nothing(row, place, monkeypatch, capsys):
    text = answer(row, place, monkeypatch, capsys)
    check_sentence(text)
    for part in row.said:
        assert part in text


def test_the_table_is_long_and_every_row_differs():
    rows = [(*row.given, *row.files.values()) for row in ALONE + STORED]
    assert len(set(rows)) == len(rows) >= 150


def test_the_lines_of_the_table_are_right_until_one_is_changed(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("\n".join(VALID.values()))
    assert load_study(str(path)).name == "small"


# Every key that holds a number or a name, given what can be neither.

KEYS = [
    *(
        f"training.{name}"
        for name in ("epochs", "batch_size", "optimizer", "lr", "weight_decay", "momentum", "lr_curve", "label_smoothing")
    ),
    *("training.precision", "training.accumulate", "dataset.name", "dataset.split_seed", "sampler", "budget.trials", "seed"),
    *("resources.cpus", "resources.gpus", "search.frequency", "search.scale", "search.kernel", "search.epochs", "search.lr"),
]
NEITHER = [
    "",
    "~",
    ".nan",
    "-.inf",
    "yes",
    "-1",
    "1e999",
    "{}",
    "[]",
    "[[]]",
    "2024-01-31",
    "'0'",
    f"0x{'f' * 300}",
    "{low: 1}",
    "!!binary aGk=",
]


@pytest.mark.parametrize("key", KEYS)
def test_what_is_neither_a_number_nor_a_name_is_refused_by_every_key(key, tmp_path, monkeypatch, capsys):
    study = {"study.yaml": "\n".join(VALID.values()).encode()}
    for wrong in NEITHER:
        text = answer(Bad(["launch", "study.yaml", "--set", f"{key}={wrong}"], (), study), tmp_path, monkeypatch, capsys)
        check_sentence(text)
        assert key in text or "more than 300 digits" in text


# Whatever stands on a command line, it is either help, or refused.

# doctor reports what is wrong instead of refusing it, studies needs nothing.
REGISTERED = [*app.registered_commands, *cli_first_time.app.registered_commands]
COMMANDS = [command.callback.__name__ for command in REGISTERED if command.callback.__name__ not in ("doctor", "studies")]
OPTIONS = [
    "--trials",
    "--timeout",
    "--set",
    "--storage",
    "--format",
    "--max-drop",
    "--seeds",
    "--port",
    "--trial",
    "--json",
    "--yes",
    "--out",
]
LETTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
WORDS = st.one_of(st.sampled_from(OPTIONS + COMMANDS + ["digits", "-1", "0", "nan", "--", "-"]), st.text(LETTERS, max_size=12))


@settings(
    max_examples=int(os.environ.get("FUZZ_COMMAND_LINES", "100")), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(command=st.sampled_from(COMMANDS), rest=st.lists(WORDS, max_size=4))
@example(command="launch", rest=["--trials=\x1b[2J"])
@example(command="status", rest=["--storage", "postgresql://me:hush@h/d", "postgresql://me:hush@h/d"])
def test_any_words_end_as_one_sentence_or_as_help(command, rest, tmp_path, monkeypatch, capsys):
    # A folder instead of a database: nothing can be found or made.
    (tmp_path / "tuner.db").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tuner", command, *rest])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr()
    if left.value.code == 2:
        check_sentence(said.err)
        assert said.out == ""
    else:
        assert "--help" in rest
    assert [path.name for path in tmp_path.iterdir()] == ["tuner.db"]


# What only a real process, another user or another folder can show

REAL = [
    next(row for row in ALONE if row.given[0] == "lunch"),
    next(row for row in ALONE if row.given[-2:] == ["--trials", "abc"]),
    next(row for row in ALONE if row.files.get("study.yaml") == bad_inputs.BOMB.encode()),
    next(row for row in ALONE if "notes.db" in row.files),
    Bad(["launch", b"\xff\xfe"], ("study file '\\udcff\\udcfe' is missing",), {}),
]


@pytest.mark.parametrize("row", REAL, ids=[str(row.given[1:])[:40] for row in REAL])
def test_a_real_process_says_the_same(row, tmp_path):
    for name, content in row.files.items():
        (tmp_path / name).write_bytes(content)
    refused = subprocess.run([TUNER, *row.given], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 2, refused.stderr
    assert refused.stdout == ""
    check_sentence(refused.stderr)
    for part in row.said:
        assert part in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(row.files)


def test_without_a_command_there_is_help(tmp_path):
    shown = subprocess.run([TUNER], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    asked = subprocess.run([TUNER, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (shown.returncode, asked.returncode) == (2, 0)
    assert shown.stdout.strip() == asked.stdout.strip()
    assert "Usage: tuner [OPTIONS] COMMAND" in asked.stdout


@pytest.mark.parametrize("make", ["loop", "nowhere"])
def test_a_link_that_leads_to_no_file_is_missing(make, tmp_path, monkeypatch, capsys):
    (tmp_path / "study.yaml").symlink_to("study.yaml" if make == "loop" else "nowhere.yaml")
    text = answer(Bad(["launch", "study.yaml"], (), {}), tmp_path, monkeypatch, capsys)
    check_sentence(text)
    assert "study file 'study.yaml' is missing" in text


@pytest.fixture
def forbidden(tmp_path):
    """A folder that this process may not look into: as root, by being another user for a moment."""
    folder = tmp_path / "forbidden"
    folder.mkdir()
    (folder / "study.yaml").write_text("\n".join(VALID.values()))
    folder.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    if user == 0:
        os.seteuid(0)
    folder.chmod(0o700)


def test_a_file_that_may_not_be_read_is_said_to_be_so(forbidden):
    with pytest.raises(InputError, match=r"^study file '.*study\.yaml' cannot be read: Permission denied$"):
        load_study(str(forbidden / "study.yaml"))
