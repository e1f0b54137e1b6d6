"""What a launch says before and while it runs, and what of it is still said later: the machine's load, doubts, interruptions, times."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from types import SimpleNamespace

import pytest
from filled import filled_store, pricing, tiny_spec
from optuna.samplers import RandomSampler
from rich.console import Console

from trainers import cores
from trainers.errors import RunError
from tuner.cli import app
from tuner.commands import confirm
from tuner.launching import cluster, display, launch, node_checks
from tuner.launching.node_checks import Finding, check_load
from tuner.launching.timing import COST_TABLES, DATASET_FACTS, timing_doubt
from tuner.results.confirmation import points_to_confirm
from tuner.results.stored import study_front
from tuner.storage.distributions import distributions
from tuner.storage.opening import open_storage

QUIET = pricing(tiny_spec()).reference
DOUBT = "relative times are worth less, because other processes used 51% of the machine's cores while steps were timed (at most 15% may be)"


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A study of 8 trials in the current folder's database, not priced by any table that it keeps."""
    monkeypatch.chdir(tmp_path)
    storage = open_storage("sqlite:///tuner.db")
    yield filled_store(storage, 8)
    storage.engine.dispose()


def price(store, others_frac=0.0):
    store.set_attr(COST_TABLES, [dataclasses.replace(QUIET, others_frac=others_frac).to_dict()])
    store.set_attr(DATASET_FACTS, {"steps_per_epoch": 5})


def said(capsys, *arguments):
    app(list(arguments), standalone_mode=False)
    return capsys.readouterr()


# The machine's load


STAT = """cpu  900 900 900 900 900 900 900 900 0 0
cpu0 100 20 30 4000 500 6 7 8 0 0
cpu1 1 1 1 1 1 1 1 1 0 0
cpu11 200 0 0 9000 0 0 0 29 0 0
intr 5 0
"""


def test_what_all_processes_have_had_of_the_usable_cores(tmp_path, monkeypatch):
    (tmp_path / "stat").write_text(STAT)
    monkeypatch.setattr(cores, "_PROC_STAT", tmp_path / "stat")
    monkeypatch.setattr(cores, "available_cores", lambda: {0, 11})
    monkeypatch.setattr(cores.os, "sysconf", {"SC_CLK_TCK": 100}.get)
    # User, nice, system, interrupts and what other virtual machines took; neither idle nor waiting.
    assert cores.busy_seconds() == (100 + 20 + 30 + 6 + 7 + 8 + 200 + 29) / 100
    monkeypatch.setattr(cores, "_PROC_STAT", tmp_path / "none")
    assert cores.busy_seconds() is None
    assert cores.others_frac(0.0) is None


def test_what_others_use_is_without_what_this_process_uses(monkeypatch):
    busy, own, clock = iter([10.0, 13.0]), iter([1.0, 1.5]), iter([100.0, 102.0])
    monkeypatch.setattr(cores, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(cores, "own_seconds", lambda: next(own))
    monkeypatch.setattr(cores, "available_cores", lambda: {0, 1})
    monkeypatch.setattr(cores, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None))
    # 3 s busy, half a second of them our own, of the 4 s that two cores have in 2 s.
    assert cores.others_frac(2.0) == 2.5 / 4


@pytest.mark.parametrize(("used", "ok"), [(0.15, True), (0.16, False), (None, None)])
def test_a_load_beyond_what_the_timing_accepts_is_a_warning(monkeypatch, used, ok):
    monkeypatch.setattr(node_checks, "others_frac", lambda seconds: used)
    finding = check_load()
    assert (finding.ok, finding.what) == (ok, "load")
    if used is not None:
        words = f"other processes use {used:.0%} of this machine's cores (at most 15% may be used while steps are timed)"
        assert finding.sentence.startswith(words)
    assert ("will probably be refused" in finding.sentence) is (ok is False)
    if ok is False:
        assert not finding.stops
        assert finding.sentence.endswith(": wait until they are done, or give --accept-noisy-timing")


@pytest.mark.parametrize("case", ["new", "accepted", "cluster", "priced"])
def test_a_launch_says_first_that_its_timing_will_probably_be_refused(store, tmp_path, monkeypatch, case):
    monkeypatch.setattr(node_checks, "others_frac", lambda seconds: 0.87)
    console = Console(file=io.StringIO(), width=300)

    def refuses(*arguments, **keys):
        seen.append(console.file.getvalue())
        return [Finding("disk", False, "the disk is full")]

    seen: list[str] = []
    monkeypatch.setattr(launch, "check_here", refuses)
    if case == "priced":
        price(store)
    address = "127.0.0.1:1" if case == "cluster" else None
    options = launch.LaunchOptions(trials=99, checkpoints=str(tmp_path), accept_noisy_timing=case == "accepted", address=address)
    with pytest.raises(RunError, match="the disk is full"):
        launch.launch(store, store.spec, options, console)
    # Before anything else is looked at, and where there is something to time on this machine only.
    assert [text.startswith("warning: other processes use 87% of this machine's cores") for text in seen] == [case == "new"]


def test_ray_that_does_not_start_in_time_may_be_asked_again(monkeypatch):
    def fails(words):
        def init(**keys):
            raise Exception(words)  # noqa: TRY002  as bare as Ray's

        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
        with pytest.raises(RunError) as caught:
            cluster._connect(None, {})
        return str(caught.value)

    ours = "Ray on this machine did not start in time, probably because the machine is busy: give the same command again"
    assert fails("The current node timed out during startup. This could happen because some of the raylet failed") == ours
    assert fails("no\nport") == "Ray on this machine can't be used: no port"


# How long it takes


def test_no_time_left_is_told_before_a_round_of_trials_has_ended(monkeypatch):
    now = 0.0
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: now))
    dispatcher = SimpleNamespace(finished=4, trials=14, slots=3)
    shown = display.LaunchDisplay(Console(file=io.StringIO()), dispatcher, lambda: None)
    now = 120.0
    for finished, words in ((4, ""), (5, ""), (6, ""), (7, "; about 5 min left"), (9, "; about 2 min left")):
        dispatcher.finished = finished
        assert shown._time_left() == words


def test_confirm_says_how_long_it_may_take(store, monkeypatch, capsys):
    price(store)
    points = len(points_to_confirm(study_front(store)))
    monkeypatch.setattr(confirm, "available_cores", lambda: {0, 1})
    monkeypatch.setattr(confirm, "launch", lambda *arguments: launch.LaunchOutcome(0, "its time is over"))
    with pytest.raises(SystemExit):
        said(capsys, "confirm", "tiny", "--seeds", "3")
    # 2.31 s were made up for each training.
    about = float(f"{3 * points * 2.31 / 2:.2g}")
    words = f"{3 * points} of {3 * points} trainings are left, about {about:g} s with 2 at a time if each takes as long as in the search"
    assert f"confirming {points} points of 'tiny' with 3 seeds: {words}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        said(capsys, "confirm", "tiny", "--seeds", "3", "--address", "127.0.0.1:1")
    assert f"about {float(f'{3 * points * 2.31:.2g}'):g} s one after the other" in capsys.readouterr().out


# What stays with the study


def test_the_doubt_of_a_table_stays_with_its_study(store, capsys):
    assert timing_doubt(store) is None
    price(store)
    assert timing_doubt(store) is None
    assert "worth less" not in said(capsys, "status", "tiny").out
    price(store, others_frac=0.51)
    assert timing_doubt(store) == DOUBT
    assert DOUBT in said(capsys, "status", "tiny").out.splitlines()
    assert json.loads(said(capsys, "status", "tiny", "--json").out)["timing_doubt"] == DOUBT
    best = said(capsys, "best", "tiny", "--max-drop", "0.01")
    assert best.err == f"warning: {DOUBT}\n"
    # Only the first table prices trials.
    store.set_attr(COST_TABLES, [QUIET.to_dict(), *store.get_attr(COST_TABLES)])
    assert timing_doubt(store) is None


@pytest.mark.parametrize("of_search", [True, False])
def test_a_launch_advises_what_its_command_has(store, monkeypatch, of_search):
    price(store, others_frac=0.51)
    monkeypatch.setattr(launch, "device_kinds", lambda spec: {})
    console = Console(file=io.StringIO(), width=300)
    launch._pricing(store, store.spec, launch.LaunchOptions(trials=9), console, of_search=of_search)
    (warning,) = (line for line in console.file.getvalue().splitlines() if line.startswith("warning: "))
    assert warning.startswith(f"warning: this study's {DOUBT}; ")
    assert ("--set name=tiny-quiet" in warning) is of_search
    assert ("--" in warning) is of_search


def test_what_was_interrupted_is_not_called_failed(store, capsys):
    for reason in ("Ctrl-C was pressed", "its driver is gone"):
        chosen = {"fixed": {}, "distributions": distributions(store.spec.search), "sampler": RandomSampler(seed=1), "rival": None}
        claimed = store.create_trial(**chosen)
        store.fail(claimed.number, "interrupted", reason)
    out = " ".join(said(capsys, "status", "tiny").out.split())
    assert "0 failed attempts, 2 interrupted, which the next launch goes on with; the study file asks for 6" in out
    assert "trial 8 was interrupted: Ctrl-C was pressed trial 9 was interrupted: its driver is gone" in out
    found = json.loads(said(capsys, "status", "tiny", "--json").out)
    assert (found["failed"], [one["number"] for one in found["interrupted"]]) == ([], [8, 9])
