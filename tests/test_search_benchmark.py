"""The comparison of searches: its scores by hand, its file of results, and a small one from end to end."""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from replayed import HEADER, LINES, made_up_table

import benchmarks.search
import benchmarks.search_peers
from benchmarks.search import compare, first_table
from benchmarks.search_learned_cost import LearnedCost
from benchmarks.search_methods import Task, methods
from benchmarks.search_peers import PEERS, NotInstalled, peer_sampler
from benchmarks.search_quick import _last_line, quick
from benchmarks.search_report import drawing, section
from benchmarks.search_runs import Results, Run, run_line
from benchmarks.search_score import GRID, Choice, band, budget_ratio, chosen, ratio_interval, regret
from benchmarks.search_select import current
from studies.space import canonical_params
from trainers.environment import training_environment
from trainers.errors import InputError, RunError
from tuner.replay.answers import Replay
from tuner.replay.simulation import SimulatedTrial
from tuner.replay.surrogate import Surrogate
from tuner.replay.table import parse_table
from tuner.samplers.candidates import Candidates
from tuner.storage.distributions import distributions

# Newer Pythons warn of forks in a process that has threads, as that of a parallel test run.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def replay():
    table = made_up_table(40)
    return Replay(table, Surrogate.fitted(table))


# -- scores


@pytest.mark.parametrize(
    ("ours", "goal", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], 0.25, 0.75),
        ([0.1, 0.2, 0.3, 0.4], 0.2, 0.5),
        ([0.1, 0.2, 0.3, 0.4], 0.1, 0.25),
        ([0.1, 0.2, 0.3, 0.4], 0.41, math.inf),
    ],
)
def test_budget_ratio_by_hand(ours, goal, expected):
    assert budget_ratio(ours, goal, (0.25, 0.5, 0.75, 1.0)) == expected


def test_a_mean_that_is_the_goal_to_the_last_digit_but_one_has_reached_it():
    third = np.mean([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]], axis=0)
    assert third[0] != 0.2
    assert budget_ratio(third, 0.2, (0.5, 1.0)) == 0.5


def test_the_bands_mean_and_interval():
    rng = np.random.default_rng(3)
    curves = rng.normal([1.0, 5.0], [0.1, 1.0], (400, 2))
    found = band(curves)
    assert found.mean == pytest.approx(curves.mean(axis=0))
    # Of a mean over many seeds: 1.96 standard errors on either side.
    half = 1.96 * curves.std(axis=0) / math.sqrt(400)
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    assert found.mean - found.low == pytest.approx(half, rel=0.1)


def test_the_bootstrap_is_deterministic():
    curves = np.random.default_rng(3).normal(size=(7, 5))
    assert all((one == other).all() for one, other in zip(band(curves), band(curves), strict=True))
    assert (band(curves).low != band(curves, seed=1).low).any()
    assert ratio_interval(curves, curves) == ratio_interval(curves, curves)


def test_the_ratios_interval_by_hand():
    grid = (0.25, 0.5, 0.75, 1.0)
    # Whichever seeds are drawn, the mean reaches 1 at the second budget.
    assert ratio_interval([[0, 1, 1, 1], [0, 2, 2, 2]], [[0, 0, 0, 1]] * 2, grid) == (0.5, 0.5)
    # Half of the seeds never reach it: neither does a mean of two that holds one of them.
    low, high = ratio_interval([[0, 1, 1, 1], [0, 0, 0, 0]], [[0, 0, 0, 1]] * 2, grid)
    assert (low, high) == (0.5, math.inf)


KNOWN = [Choice(0.3, 0.80), Choice(0.5, 0.88), Choice(0.6, 0.87), Choice(0.7, 0.90), Choice(0.9, 0.90), Choice(1.0, 0.90)]


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        (Choice(0.9, 0.90), (0.2, 0.0)),
        (Choice(0.7, 0.90), (0.0, 0.0)),
        # Not as accurate as was asked: no time is saved by that, only accuracy missed.
        (Choice(0.5, 0.88), (0.0, 0.015)),
        (Choice(0.6, 0.87), (0.1, 0.025)),
        (Choice(0.3, 0.80), (0.0, 0.095)),
    ],
)
def test_regret_by_hand(taken, expected):
    assert regret(taken, random.Random(0).sample(KNOWN, len(KNOWN)), 0.895) == pytest.approx(expected)


def simulated(number, time, accuracy, params):
    return SimulatedTrial(
        number=number,
        params=params,
        seed=number,
        pruned=False,
        relative_time=time,
        val_accuracy=accuracy,
        mean_accuracy=0.5,
        start_s=0.0,
        end_s=1.0,
    )


def test_the_choice_is_that_of_tuner_best():
    # A trial has the fields that the space fixes, too.
    baseline = {"frequency": 0.0}
    full, other = {"frequency": 0.0, "side_multiple": 4}, {"frequency": 1.0, "side_multiple": 4}
    # The second training of the baseline is no other baseline.
    trials = [simulated(1, 0.4, 0.896, other), simulated(2, 0.3, 0.894, other), simulated(3, 1, 0.9, full), simulated(5, 1, 0.7, full)]
    assert chosen(trials, baseline, 0.005) == 1
    assert chosen(trials, baseline, 0.01) == 2
    assert chosen(trials[:2], baseline, 0.005) is None


# -- runs and their file


def asked(*names, seeds=2, workers=(1,)):
    return argparse.Namespace(methods=list(names), seeds=seeds, workers=list(workers), jobs=1)


def kept_results(folder, replay):
    results = Results(folder / "made-up.jsonl")
    # Looking for it takes longer than everything else here.
    results.keep_front(replay.table.digest, [Choice(0.2, 0.6), Choice(0.5, 0.9)])
    return results


def test_nothing_is_simulated_twice(replay, tmp_path, capsys):
    results = kept_results(tmp_path, replay)
    compare(replay, asked("random", "qmc"), tmp_path, budget=1.5)
    assert "4 runs are missing" in capsys.readouterr().out
    before = results.path.read_bytes()
    compare(replay, asked("random", "qmc"), tmp_path, budget=1.5)
    assert "0 runs are missing" in capsys.readouterr().out
    assert results.path.read_bytes() == before
    assert {(line["method"], line["seed"]) for line in results.lines()} == {("random", 0), ("random", 1), ("qmc", 0), ("qmc", 1)}


def test_another_seed_worker_budget_or_table_is_another_run(replay, tmp_path, capsys):
    kept_results(tmp_path, replay)
    compare(replay, asked("random", seeds=1), tmp_path, budget=1.5)
    for arguments, budget in ((asked("random"), 1.5), (asked("random", seeds=1, workers=[1, 2]), 1.5), (asked("random", seeds=1), 2)):
        compare(replay, arguments, tmp_path, budget=budget)
    assert re.findall(r"(\d+) runs are missing", capsys.readouterr().out) == ["1", "1", "1", "1"]
    table = made_up_table(41)
    assert table.digest != replay.table.digest
    assert current(Results(tmp_path / "made-up.jsonl").lines(), table, 1.5) == []


def test_a_torn_last_line_is_dropped_and_made_again(replay, tmp_path, capsys):
    results = kept_results(tmp_path, replay)
    compare(replay, asked("random"), tmp_path, budget=1.5)
    whole = results.path.read_bytes()
    torn = whole.splitlines(keepends=True)
    results.path.write_bytes(b"".join(torn[:-1]) + torn[-1][:50])
    capsys.readouterr()
    compare(replay, asked("random"), tmp_path, budget=1.5)
    assert "1 runs are missing" in capsys.readouterr().out
    made, again = ([json.loads(line) for line in text.splitlines()] for text in (whole, results.path.read_bytes()))
    assert [line.get("hypervolume") for line in made] == [line.get("hypervolume") for line in again]


def test_a_line_says_what_the_search_found(replay):
    line = run_line(replay, methods()["random"], Run(method="random", workers=1, seed=3), front=[Choice(0.1, 0.99)], budget=4)
    assert len(line["hypervolume"]) == len(GRID) >= 50
    assert line["hypervolume"] == sorted(line["hypervolume"])
    # The baseline takes the first quarter of the budget.
    assert line["hypervolume"][23] == 0 < line["hypervolume"][24]
    assert line["budget_frac"] == 1
    assert line["trials"] >= 4
    # Nothing in the table is nearly as good as that front.
    assert line["regret"] > 0.1
    json.dumps(line)


def test_a_deadline_ends_a_search_and_says_how_far_it_came(replay):
    line = run_line(replay, methods()["random"], Run(method="random", workers=1, seed=0), deadline_s=0.0)
    assert (line["budget_frac"], line["trials"], line["hypervolume"][-1]) == (0, 0, 0)


@pytest.mark.parametrize("name", [name for name, method in methods().items() if method.peer is None and name != "gp"])
def test_every_method_searches(replay, name):
    line = run_line(replay, methods()[name], Run(method=name, workers=3, seed=0), budget=5)
    assert line["hypervolume"][-1] > 0


def test_a_package_that_does_not_install_is_not_measured_and_says_why(replay, tmp_path, monkeypatch, capsys):
    @contextmanager
    def refused(package):
        raise NotInstalled("no such wheel")
        yield

    monkeypatch.setattr(benchmarks.search, "environment", refused)
    kept_results(tmp_path, replay)
    compare(replay, asked("ax", "random", seeds=1), tmp_path, budget=2)
    reason = f"{PEERS['ax'].package} does not install: no such wheel"
    assert f"ax is not measured, {reason}" in capsys.readouterr().out
    results = Results(tmp_path / "made-up.jsonl")
    assert results.not_measured() == {"ax": reason}
    assert [line["method"] for line in results.lines()] == ["random"]


# -- from end to end


LAST_LINE = re.compile(r"table=made-up budget_ratio=(\d\.\d{3}|inf) best_rival=(random|tpe|nsga2)")


def test_a_quick_comparison_ends_with_its_line(replay, tmp_path, capsys):
    last = quick(replay, tmp_path, budget=4, seeds=2)
    assert capsys.readouterr().out.splitlines()[-1] == last
    assert LAST_LINE.fullmatch(last)
    assert list(tmp_path.iterdir()) == []


def fake_line(line, name, final, seed):
    """Nothing in the first half of the budget."""
    settings = {**methods()[name].declared(), **{key: line["settings"][key] for key in ("budget", "code")}}
    return {**line, "method": name, "seed": seed, "settings": settings, "hypervolume": [0.0] * 50 + [final] * 50}


def test_a_quick_comparison_takes_the_committed_rivals(replay, tmp_path, capsys):
    line = run_line(replay, methods()["random"], Run(method="random", workers=1, seed=0), budget=4)
    results = Results(tmp_path / "made-up.jsonl")
    for name, final in (("random", 1e-6), ("qmc", 9.0), ("tpe", 8.0)):
        results.append(fake_line(line, name, final, 0))
        if name != "tpe":
            results.append(fake_line(line, name, final, 1))
    results.append(fake_line(line, "tpe", 8.0, 1) | {"digest": "of another table"})
    last = quick(replay, tmp_path, budget=4, seeds=2)
    assert last == "table=made-up budget_ratio=inf best_rival=qmc"
    assert "rivals: the committed qmc, random; ours on 2 seeds" in capsys.readouterr().out


def test_searches_cut_short_are_compared_over_what_all_of_them_reached(capsys):
    # Ours, cut after half of the budget, reaches after a quarter of it what the rival has after half of it, but not what it has later.
    rival = {"method": "tpe", "budget_frac": 1.0, "hypervolume": [0.2] * 50 + [0.9] * 50}
    ours = {"method": "ours", "budget_frac": 0.5, "hypervolume": [0.1] * 24 + [0.3] * 76}
    assert _last_line("t", [rival, ours], 100) == "table=t budget_ratio=0.500 best_rival=tpe"
    assert "cut short after 50% of 100 baseline trainings" in capsys.readouterr().out
    assert _last_line("t", [rival, ours | {"budget_frac": 1.0}], 100) == "table=t budget_ratio=inf best_rival=tpe"


def run_main(monkeypatch, *arguments):
    for name, value in training_environment(1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["search.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        benchmarks.search.main()
    return caught.value.code


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--quick", "--table", "no.jsonl.gz"], "table 'no.jsonl.gz' can't be read"),
        (["--table", "no.jsonl.gz"], "table 'no.jsonl.gz' can't be read"),
    ],
)
def test_a_bad_table_is_one_sentence(monkeypatch, capsys, arguments, sentence):
    assert run_main(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence in said
    assert said.count("\n") == 1


def test_a_table_of_somebody_else_is_read():
    """Kinds of step by images of a batch instead of batches, no seconds, no learning rate of the baseline, fewer fields searched."""

    def renamed(steps):
        return {name.removesuffix("/1") + "/64": value for name, value in steps.items()}

    baseline = {name: HEADER["baseline"][name] for name in ("epochs", "steps")}
    header = {**HEADER, "cost": renamed(HEADER["cost"]), "baseline": baseline, "made by": "somebody else"}
    lines = [{**{name: value for name, value in line.items() if name != "train_s"}, "counts": renamed(line["counts"])} for line in LINES]
    lines = [{**line, "params": {**line["params"], "lr": 0.1, "weight_decay": 5e-4}} for line in lines]
    table, ours = parse_table([header, *lines]), parse_table([HEADER, *LINES])
    assert [replace(training, train_s=1.5) for training in table.trainings] == list(ours.trainings)
    assert (table.baseline_s, table.spec.baseline_params()) == (ours.baseline_s, ours.spec.baseline_params())


def test_an_unknown_method_is_one_sentence(replay, tmp_path):
    with pytest.raises(InputError, match=r"method is 'tpee', .*'tpe'"):
        compare(replay, asked("tpee"), tmp_path)


def test_without_a_committed_table_one_must_be_given(tmp_path):
    with pytest.raises(InputError, match="one must be given with --table"):
        first_table(tmp_path)
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl.gz").touch()
    assert first_table(tmp_path).name == "a.jsonl.gz"


def test_the_report_by_hand(replay):
    base = run_line(replay, methods()["random"], Run(method="random", workers=1, seed=0), budget=4)
    lines = [fake_line(base, name, final, seed) for name, final in (("random", 0.2), ("tpe", 0.3)) for seed in (0, 1)]
    ours = [fake_line(base, "ours", 0.4, seed) | {"hypervolume": [0.25] * 20 + [0.4] * 80} for seed in (0, 1)]
    said = section([*lines, *ours], 1)
    cells = [[cell.strip() for cell in row.split("|")[1:5]] for row in said[4:7]]
    assert cells == [
        ["**ours**", "2", "0.4000 (0.4000 to 0.4000)", "0.21"],
        ["tpe", "2", "0.3000 (0.3000 to 0.3000)", "0.21"],
        ["random", "2", "0.2000 (0.2000 to 0.2000)", "0.01"],
    ]
    assert said[-1] == "`budget_ratio` 0.21 (95 % interval 0.21 to 0.21) against the best rival, tpe."
    assert len(drawing("made-up", [*lines, *ours]).axes) == 1


# -- methods


def test_a_learned_cost_knows_what_it_saw_and_predicts_the_rest(replay):
    space, cost = replay.table.spec.search, replay.table.plan_cost
    points = [canonical_params(space, point) for point in Candidates(space, {}).filling(128, np.random.default_rng(0))]
    learned = LearnedCost(space, [(point, cost(point)) for point in points[:64]])
    assert [learned(point) for point in points[:64]] == [cost(point) for point in points[:64]]
    off = [abs(math.log(learned(point) / cost(point))) for point in points[64:]]
    guessed = [abs(math.log(cost(points[place]) / cost(point))) for place, point in enumerate(points[64:])]
    assert np.mean(off) < 0.3 * np.mean(guessed)
    assert max(off) > 0


PEER = """
import json, sys
print(json.dumps(json.loads(sys.stdin.readline())), file=open(sys.argv[1] + ".begin", "w"))
print("{}", flush=True)
for line in sys.stdin:
    print(line, file=open(sys.argv[1] + ".news", "a"), end="")
    if json.loads(line)["told"] == []:
        sys.exit("no news for me")
    point = {"frequency": 0.26, "policy": "stochastic", "scale": 0.5, "kernel": "full", "batch_norm": "shared", "growth": "constant"}
    print(json.dumps({**point, "window_start": 0.0, "window_length": 1.0, "epochs": 3, "lr": 0.1, "weight_decay": 1e-4}), flush=True)
"""


def test_a_peer_is_told_what_was_trained(replay, tmp_path, monkeypatch):
    script = tmp_path / "peer.py"
    script.write_text(PEER)
    monkeypatch.setattr(benchmarks.search_peers, "_PROCESS", script)
    space = replay.table.spec.search
    full, fields = replay.table.spec.baseline_params(), distributions(space)
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.add_trial(create_trial(state=TrialState.COMPLETE, params=full, distributions=fields, values=[1.0, 0.9]))
    study.add_trial(create_trial(state=TrialState.RUNNING, params=full | {"epochs": 2}, distributions=fields))
    with peer_sampler(str(tmp_path / "said"), Task(replay.table, 7, sys.executable)) as sampler:
        study.sampler = sampler
        proposed = study.ask(fields).params
        # Once told is told for ever.
        with pytest.raises(RunError, match="the peer's process died: no news for me"):
            study.ask(fields)
    # 0.26 is no member.
    assert proposed == canonical_params(space, proposed)
    assert (proposed["frequency"], proposed["policy"], proposed["epochs"]) == (0.25, "stochastic", 3)
    begin = json.loads((tmp_path / "said.begin").read_text())
    assert (begin["seed"], begin["reference"]) == (7, [1.1, 0.5])
    assert [field["name"] for field in begin["space"]] == list(space.searched)
    first, second = map(json.loads, (tmp_path / "said.news").read_text().splitlines())
    assert first == {"running": [[1, full | {"epochs": 2}]], "told": [[0, full, [1.0, 0.9]]]}
    assert second["told"] == []
    assert [number for number, _ in second["running"]] == [1, 2]
