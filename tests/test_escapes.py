"""Texts that strangers could have written into the database are shown as texts: in terminals, files, pictures and pages."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
import yaml
from filled import filled_store
from optuna.samplers import RandomSampler
from rich.console import Console

from tuner.cli import main
from tuner.launching.display import LaunchDisplay, calibration_progress
from tuner.results.describe import printable
from tuner.results.export import render, write_export
from tuner.results.stored import study_front
from tuner.storage.catalog import SPEC
from tuner.storage.distributions import distributions
from tuner.storage.opening import open_storage

MARKUP = "<img src=x onerror=alert(1)></script><script>alert(1)</script> [red]x[/blue] '; DROP TABLE trials; -- $(touch x) `touch x`"
STEERING = "\x1b[2J\x1b]52;c;cm0gLXJm\x07\x9b31m\r\x08\u202e\u2028"
EVIL = MARKUP + STEERING


@pytest.fixture
def store(tmp_path):
    return filled_store(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), 6)


@pytest.fixture
def results(store):
    """The study's front with an evil text wherever a trial or study holds one that no rule restricts."""
    return spoilt(study_front(store), EVIL)


def spoilt(results, evil):
    changes = {"device": evil, "commit": f"={evil}", "versions": {"torch": evil}}
    params = {"epochs": evil, "@evil": f"+{evil}"}
    trials = [dataclasses.replace(trial, **changes, params=trial.params | params) for trial in results.completed]
    return dataclasses.replace(results, model=evil, completed=trials)


def is_plain(text, kept="\n\t"):
    return all(char.isprintable() or char in kept for char in text)


def test_what_steers_a_terminal_is_written_as_escapes():
    assert printable(STEERING) == r"\x1b[2J\x1b]52;c;cm0gLXJm\x07\x9b31m\r\x08\u202e\u2028"
    assert printable(f"Prüfung\n\t→ {MARKUP}") == f"Prüfung\n\t→ {MARKUP}"
    assert printable("half a pair: \ud83d") == r"half a pair: \ud83d"


def test_status_shows_hosts_reasons_and_names_as_texts(store, tmp_path, monkeypatch, capfd):
    def tuner(*arguments):
        monkeypatch.setattr("sys.argv", ["tuner", *arguments])
        with contextlib.suppress(SystemExit):
            main()
        shown = capfd.readouterr()
        assert is_plain(shown.out + shown.err)
        return shown.out, shown.err

    monkeypatch.setattr("tuner.storage.store.this_owner", lambda: {"host": EVIL, "pid": 1, "machine": EVIL})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    space = distributions(store.spec.search)
    claimed = [store.create_trial(fixed={}, distributions=space, sampler=RandomSampler(), rival=None) for _ in range(2)]
    store.fail(claimed[0].number, "error", EVIL)
    # Optuna's dashboard renames studies to anything.
    renamed = store.storage.create_new_study(store.study.directions, EVIL)
    store.storage.set_study_user_attr(renamed, SPEC, store.spec_json())
    assert MARKUP in tuner("status")[0]
    assert MARKUP in tuner("stop", "x")[1]
    assert "[red]" in tuner("status", EVIL)[1]
    assert tuner("status", "tiny")[0].count(MARKUP) == 2
    found = json.loads(tuner("status", "tiny", "--json")[0])
    assert (found["running"][0]["owner"]["host"], found["failed"][0]["reason"]) == (EVIL, EVIL)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_running_launch_shows_reasons_and_devices_as_texts(store, is_terminal):
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=500, color_system=None)
    dispatcher = SimpleNamespace(finished=1, trials=2, slots=1, store=store, running={}, is_paused=False)
    with LaunchDisplay(console, dispatcher, lambda: study_front(store)).showing():
        dispatcher.on_event(f"trial 7 failed: {EVIL}")
    with calibration_progress(console) as on_progress:
        on_progress(EVIL, 1, 2)
    # In a terminal rich itself moves the cursor.
    shown = re.sub(r"\x1b\[\??[0-9;]*[A-Za-z]|\r", "", console.file.getvalue()) if is_terminal else console.file.getvalue()
    assert is_plain(shown)
    assert shown.count(f"trial 7 failed: {MARKUP}\\x1b[2J") >= 1
    assert f"timing every kind of step on {MARKUP}\\x1b[2J" in shown


def test_csv_cells_are_neither_formulas_nor_steer_a_terminal(results):
    text = render(results, "csv")
    assert is_plain(text, "\n\t\r")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert rows[0]["device"].startswith(MARKUP)
    assert rows[0]["commit"].startswith(f"'={MARKUP}")
    assert rows[0]["'@evil"].startswith(f"'+{MARKUP}")
    assert not [cell for row in rows for cell in (*row, *row.values()) if cell.startswith(("=", "+", "@"))]


def test_json_holds_texts_exactly_and_only_plain_characters(results):
    text = render(results, "json")
    assert text.isascii()
    assert is_plain(text)
    assert {point["device"] for point in json.loads(text)["front"]} == {EVIL}


def test_the_table_shows_markup_as_text(results):
    text = render(results, "table")
    assert is_plain(text)
    assert "[red]" in text
    assert "[/blue]" in text


@pytest.mark.parametrize("evil", ["--><script>alert(1)</script>", "<a href='javascript:alert(1)'>", "$\\frac$", STEERING])
def test_the_picture_is_well_formed_and_runs_nothing(store, evil):
    # matplotlib draws letters as shapes, and writes what they say into comments.
    results = spoilt(study_front(store), evil)
    tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(render(results, "svg")).iter()}
    assert not tags & {"script", "foreignObject", "a"}
    assert render(results, "png").startswith(b"\x89PNG")


def test_schedule_files_are_named_by_number_and_hold_texts(results, tmp_path):
    paths = write_export(results, "schedules", tmp_path / "schedules")
    assert {path.name for path in paths} == {f"trial-{trial.number:04d}.yaml" for trial in results.front}
    content = paths[0].read_text()
    assert is_plain(content)
    assert yaml.safe_load(content)["found_with"]["model"] == EVIL
