"""What `tuner launch --dry-run` says, and that it leaves nothing behind."""

from __future__ import annotations

import io
import socket

import pytest
from filled import COSTS, STEPS_PER_EPOCH, TINY, tiny_spec
from rich.console import Console
from typer.testing import CliRunner
from yaml import safe_dump

from trainers.cost import CostTable
from trainers.errors import InputError, RunError
from tuner.cli import app
from tuner.commands.dry_run import check_before_launch, expected_costs, show_dry_run
from tuner.launching import node_checks
from tuner.storage.opening import open_storage
from tuner.storage.store import StudyStore

TABLE = CostTable({"device": "abacus"}, 100.0, COSTS, 25, 0.0)
# Two trainings: the baseline of four epochs, and one whose every step is reduced to a quarter of the cost.
TWO = {"frequency": [0.0, 1.0], "scale": 0.5, "epochs": 4}


def output(spec, url, trials=6, timeout_s=None):
    console = Console(file=io.StringIO(), width=200)
    show_dry_run(spec, url, trials, timeout_s, console)
    return " ".join(console.file.getvalue().split())


@pytest.fixture
def timed_url(tmp_path):
    url = f"sqlite:///{tmp_path / 'tuner.db'}"
    store = StudyStore.create_or_continue(open_storage(url), tiny_spec(search=TWO | {"epochs": {"low": 2, "high": 4}}))
    store.set_attr("cost_tables", [TABLE.to_dict()])
    store.set_attr("dataset_facts", {"steps_per_epoch": STEPS_PER_EPOCH})
    return url


def test_costs_by_hand():
    spec = tiny_spec(search={"frequency": [0.0, 1.0], "scale": 0.5, "epochs": {"low": 2, "high": 4}})
    costs = expected_costs(spec, (TABLE, STEPS_PER_EPOCH))
    # 2 of 4 epochs, every step at a quarter; and the baseline.
    assert (costs.lowest, costs.highest) == (pytest.approx(0.125), pytest.approx(1.0))
    # 20 steps of 100 ms.
    assert costs.baseline_s == pytest.approx(2.0)
    # Half of the points at full resolution, three of four epochs on average: 0.75 and 0.1875; a fifth more at full resolution.
    assert costs.mean == pytest.approx(0.8 * (0.75 + 0.1875) / 2 + 0.2 * 0.75, abs=0.01)
    assert costs.source == "timed on abacus"


def test_without_a_table_prices_are_those_of_the_pixels():
    costs = expected_costs(tiny_spec(search={"frequency": [0.0, 1.0], "scale": 0.75, "epochs": {"low": 2, "high": 4}}), None)
    assert costs.lowest == pytest.approx(0.5 * 0.75**2)
    assert costs.baseline_s is None
    assert "by pixels" in costs.source


def test_the_budget_in_trials_and_time(timed_url):
    spec = tiny_spec(search=TWO | {"epochs": {"low": 2, "high": 4}}, budget={"trials": 6, "accelerator_time": "10m", "patience": 7})
    shown = output(spec, timed_url, trials=100, timeout_s=60)
    # 0.525 of the baseline's 2 s each.
    assert "100 trials are expected to take 52." in shown or "100 trials are expected to take 53." in shown
    assert "the baseline trains for 2 s" in shown
    assert "the timeout of 60 s pays for about 57 trials for each that runs at once" in shown
    assert "the accelerator time of 10 min pays for about 57" in shown
    assert "once 7 trials have not raised the hypervolume beyond its noise" in shown


def test_every_field_is_shown_with_its_values(timed_url):
    shown = output(tiny_spec(), timed_url)
    assert "frequency │ 0 to 1 in steps of 0.25" in shown
    assert "lr │ 0.01 to 0.1, evenly over the logarithm" in shown
    assert "kernel │ full, pooled" in shown
    # 5 frequencies, 2 policies, 2 kernels, 2 batch norms, 3 lengths, 3 numbers of epochs.
    assert "7 fields are searched: 360 combinations, times 1 continuous range" in shown


def test_what_a_launch_would_refuse_is_refused_after_the_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(node_checks, "_LOAD_S", 0.01)
    folder = {**TINY, "dataset": {"name": "folder", "root": "nowhere", "side_px": 32}}
    (tmp_path / "away.yaml").write_text(safe_dump(folder))
    found = CliRunner().invoke(app, ["launch", "away.yaml", "--dry-run"])
    assert "6 trials are expected to take" in found.output
    # tuner.cli ends with 1 after a RunError, as a launch would.
    assert isinstance(found.exception, RunError)
    assert "nowhere/train' can't be read (No such file or directory)" in str(found.exception)
    # Of a cluster the nodes hold the images.
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        found = CliRunner().invoke(app, ["launch", "away.yaml", "--dry-run", "--address", address])
    assert found.exit_code == 0, found.output
    assert "images and network are looked at on the nodes" in found.output
    assert "--checkpoints is" not in found.output
    found = CliRunner().invoke(app, ["launch", "away.yaml", "--dry-run", "--checkpoints", "s4://bucket"])
    assert isinstance(found.exception, InputError)


def test_it_says_that_images_and_network_fit_and_how_to_get_minutes(tmp_path, monkeypatch, timed_url):
    monkeypatch.setattr(node_checks, "_LOAD_S", 0.01)
    monkeypatch.chdir(tmp_path)

    def said(url):
        console = Console(file=io.StringIO(), width=200)
        show_dry_run(tiny_spec(), url, 6, None, console)
        check_before_launch(tiny_spec(), url, None, None, console)
        return console.file.getvalue()

    untimed = said(f"sqlite:///{tmp_path / 'new.db'}")
    assert "dataset: digits comes with scikit-learn\n" in untimed
    assert "network: 'cifar_resnet8' with 10 classes takes 2 sides from 16 to 32 px" in untimed
    assert "with --trials 1 in place of --dry-run" in untimed
    # What is known needs no way to it.
    assert "--trials 1" not in said(timed_url)


def test_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(node_checks, "_LOAD_S", 0.01)
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["launch", "digits", "--dry-run", "--trials", "30"])
    assert found.exit_code == 0, found.output
    assert "30 trials are expected to take" in found.output
    assert list(tmp_path.iterdir()) == []
