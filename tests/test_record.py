"""The plan of a recorded table, its partial file under faults and between processes, and the packed table."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gzip
import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import kstest

from benchmarks.record import calibrate_table, pack, record
from benchmarks.record_files import PartialTable, read_lines
from benchmarks.record_plan import TABLES, Planned, TablePlan, configurations, planned_trainings
from studies.space import canonical_params
from trainers.cost import CostTable, StepCost, parse_step
from trainers.errors import InputError, NoisyTimingError
from trainers.schedule import Step
from tuner.replay.table import kind_name, read_table

FIELDS = {
    *("policy", "frequency", "scale", "kernel", "batch_norm", "window_start", "window_length", "growth"),
    *("epochs", "lr", "weight_decay"),
}
TINY = TablePlan(
    "tiny",
    "digits",
    (
        *("dataset.train_images=40", "dataset.val_images=20", "training.batch_size=20", "training.epochs=2"),
        *("search.epochs={low: 1, high: 2}", "search.scale={low: 0.5, high: 0.75, step: 0.25}"),
    ),
    configurations=4,
    second_seed_every=3,
    reference=(1.1, 0.9),
)
PINNED = {
    **{"frequency": 1.0, "policy": "deterministic", "scale": 0.625, "kernel": "pooled", "batch_norm": "separate", "window_start": 0.0},
    **{"window_length": 0.85, "growth": "linear", "epochs": 11, "lr": 0.1802, "weight_decay": 0.000186},
}
# Start points at 0 (4 seeds), three others of which that at 1 has two seeds.
TINY_TRAININGS = 4 + 2 + 1 + 1
ARGUMENTS = argparse.Namespace(limit_s=math.inf, threads=1, device="cpu", root="data")

tables = pytest.mark.parametrize("plan", TABLES.values(), ids=lambda plan: plan.name)


@functools.cache
def points_of(plan: TablePlan) -> list[dict[str, Any]]:
    return configurations(plan)


def reduced_points(plan: TablePlan) -> list[dict[str, Any]]:
    return [params for params in points_of(plan) if params["frequency"] > 0]


@functools.cache
def trainings_of(plan: TablePlan) -> list[Planned]:
    return planned_trainings(plan)


def path_of(folder: Path, plan: TablePlan = TINY) -> Path:
    return folder / "partial" / f"{plan.name}.jsonl"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole tiny table. Copy what you change."""
    folder = tmp_path_factory.mktemp("recorded")
    record(TINY, folder, ARGUMENTS)
    return folder


def copied(recorded: Path, folder: Path, lines: int | None = None) -> Path:
    path = path_of(folder)
    path.parent.mkdir()
    path.write_text("".join(path_of(recorded).read_text().splitlines(keepends=True)[:lines]))
    return path


def write_prices(folder: Path, kinds: set[Step], plan: TablePlan = TINY) -> None:
    costs = {kind: StepCost(kind.side_px / 32, kind.side_px / 33, kind.side_px / 31) for kind in kinds}
    table = CostTable({"device": "abacus"}, full_ms=50.0, costs=costs, rounds=4, others_frac=0.0)
    (folder / f"{plan.name}.cost.json").write_text(json.dumps({**table.to_dict(), "provenance": {"commit": "none"}}))


# -- plan


@tables
def test_configurations_are_canonical_points_with_the_fields_of_a_table(plan: TablePlan) -> None:
    points = points_of(plan)
    assert len(points) == plan.configurations == len({json.dumps(params, sort_keys=True) for params in points})
    for params in points:
        assert set(params) == FIELDS
        assert canonical_params(plan.spec.search, params) == params


@tables
def test_every_prefix_has_a_fifth_at_full_resolution(plan: TablePlan) -> None:
    full = [params["frequency"] == 0 for params in points_of(plan)]
    assert [sum(full[:count]) for count in range(1, len(full) + 1)] == [math.ceil(count / 5) for count in range(1, len(full) + 1)]


@tables
def test_numbers_fill_their_range(plan: TablePlan) -> None:
    """Their distance from the uniform distribution is far below what that many random points would have."""
    for points, count in ((reduced_points(plan), len(reduced_points(plan))), (points_of(plan)[::5][4:], plan.configurations // 5)):
        for field in ("lr", "weight_decay"):
            domain = plan.spec.search[field]
            shares = [math.log(params[field] / domain.low) / math.log(domain.high / domain.low) for params in points]
            assert kstest(shares, "uniform").statistic < 0.4 / math.sqrt(count)


@tables
def test_members_of_a_list_come_equally_often_in_the_whole_table_and_early(plan: TablePlan) -> None:
    space = plan.spec.search
    for points in (reduced_points(plan), reduced_points(plan)[:64]):
        for field in FIELDS - {"lr", "weight_decay"}:
            # At frequency 1 the policy means nothing and is written in one way.
            counts = Counter(params[field] for params in points if field != "policy" or params["frequency"] < 1)
            members = [member for member in space[field].members if (field, member) != ("frequency", 0)]
            fair = counts.total() / len(members)
            assert set(counts) <= set(members)
            assert all(abs(counts[member] - fair) <= max(3, 0.25 * fair) for member in members), (field, counts)


@tables
def test_choices_meet_each_other(plan: TablePlan) -> None:
    """All combinations of the named fields: not one at a time, as in a design that varies a single field."""
    points = [params for params in reduced_points(plan) if params["frequency"] < 1]
    counts = Counter(tuple(params[field] for field in ("policy", "kernel", "batch_norm", "growth")) for params in points)
    assert len(counts) == 16
    assert min(counts.values()) > 0.6 * len(points) / 16


@tables
def test_start_points_have_four_seeds_early(plan: TablePlan) -> None:
    starts = [params for params, _ in plan.spec.start_points()]
    early = [planned.params for planned in trainings_of(plan)[:40]]
    assert [early.count(params) for params in starts] == [4] * len(starts)
    assert early[0] == plan.spec.baseline_params()


def test_a_third_of_digits_has_two_seeds_in_every_prefix() -> None:
    planned = trainings_of(TABLES["digits"])
    for count in (60, 200, len(planned)):
        seeds = Counter(json.dumps(one.params) for one in planned[:count])
        assert 1 / 3 <= sum(number >= 2 for number in seeds.values()) / len(seeds) < 1 / 3 + 4 / len(seeds) + 0.01


@tables
def test_a_longer_plan_begins_with_the_shorter_one(plan: TablePlan) -> None:
    shorter = planned_trainings(dataclasses.replace(plan, configurations=37))
    assert trainings_of(plan)[: len(shorter)] == shorter
    assert [planned.seed for planned in trainings_of(plan)] == list(range(len(trainings_of(plan))))


def test_the_sequence_stays_the_same_on_every_machine() -> None:
    assert trainings_of(TABLES["digits"])[100].params == PINNED


@tables
def test_committed_lines_are_of_this_plan(plan: TablePlan) -> None:
    path = Path(__file__).parents[1] / "benchmarks" / "tables" / "partial" / f"{plan.name}.jsonl"
    wanted = trainings_of(plan)
    for text in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        line = json.loads(text)
        assert line["params"] == wanted[line["seed"]].params


# -- partial tables


@pytest.mark.parametrize("tear", [lambda text: text[:-1], lambda text: text[:-7], lambda text: text[:-7] + b"\0" * 6 + b"\n"])
def test_a_torn_last_line_was_never_written(tmp_path: Path, tear: Any) -> None:
    with PartialTable(path_of(tmp_path)) as partial:
        for seed in range(3):
            partial.append({"seed": seed, "curve": [0.5]})
        partial.path.write_bytes(tear(partial.path.read_bytes()))
        assert [line["seed"] for line in partial.lines()] == [0, 1]
        with partial.claim(2) as free:
            assert free
            partial.append({"seed": 2, "curve": [0.25]})
        with partial.claim(2) as free:
            assert not free
        assert [json.loads(line)["seed"] for line in partial.path.read_text().splitlines()] == [0, 1, 2]


def test_a_torn_line_elsewhere_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    path.write_bytes(b'{"seed": 0}\n{"seed"\n{"seed": 2}\n')
    with pytest.raises(InputError, match=r"line 2 of .*tiny\.jsonl"):
        read_lines(path)


CLAIMS = """
import sys; from pathlib import Path; from benchmarks.record_files import PartialTable, read_lines
with PartialTable(Path(sys.argv[1])).claim(0) as free:
    print(free, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_process(tmp_path: Path) -> Any:
    """A process that trains seed 0 of the tiny table in tmp_path, for ever."""
    command = [sys.executable, "-c", CLAIMS, str(path_of(tmp_path))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_a_claim_ends_with_its_process(tmp_path: Path, other_process: Any) -> None:
    with PartialTable(path_of(tmp_path)) as partial:
        with partial.claim(0) as free, partial.claim(1) as next_free:
            assert (free, next_free) == (False, True)
        other_process.kill()
        other_process.wait()
        with partial.claim(0) as free:
            assert free


def test_two_processes_do_not_train_the_same(tmp_path: Path, other_process: Any) -> None:
    short = dataclasses.replace(TINY, configurations=1)
    record(short, tmp_path, ARGUMENTS)
    assert [line["seed"] for line in read_lines(path_of(tmp_path))] == [1, 2, 3]
    other_process.kill()
    other_process.wait()
    record(short, tmp_path, ARGUMENTS)
    assert [line["seed"] for line in read_lines(path_of(tmp_path))] == [1, 2, 3, 0]


# -- recording


def test_a_recorded_line_is_what_the_plan_says(recorded: Path) -> None:
    lines = read_lines(path_of(recorded))
    assert [(line["seed"], line["params"]) for line in lines] == planned_trainings(TINY)
    assert len(lines) == TINY_TRAININGS
    for line in lines:
        assert set(line) == {"params", "seed", "curve", "counts", "train_s"}
        assert len(line["curve"]) == line["params"]["epochs"]
        assert all(0 <= accuracy <= 1 and accuracy * 20 == round(accuracy * 20) for accuracy in line["curve"])
        schedule = TINY.spec.search.schedule(line["params"], line["seed"])
        expected = schedule.plan(2 * line["params"]["epochs"], 32, 2).counts()
        assert {parse_step(kind): count for kind, count in line["counts"].items()} == expected


def test_a_later_sitting_goes_on_exactly(tmp_path: Path, recorded: Path) -> None:
    path = copied(recorded, tmp_path, lines=5)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 9)
    record(TINY, tmp_path, ARGUMENTS)
    without_time = [[{**line, "train_s": 0} for line in read_lines(path_of(folder))] for folder in (tmp_path, recorded)]
    assert without_time[0] == without_time[1]


def test_nothing_is_trained_twice_or_after_the_time(tmp_path: Path, recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied(recorded, tmp_path)
    before = path.read_bytes()
    record(TINY, tmp_path, ARGUMENTS)
    record(dataclasses.replace(TINY, name="late"), tmp_path, argparse.Namespace(**{**vars(ARGUMENTS), "limit_s": 0}))
    assert path.read_bytes() == before
    assert capsys.readouterr().out.splitlines() == [
        f"8 of 8 trainings are recorded in {path}",
        f"0 of 8 trainings are recorded in {path.with_name('late.jsonl')}",
    ]


def test_lines_of_another_plan_are_refused(tmp_path: Path, recorded: Path) -> None:
    copied(recorded, tmp_path)
    with pytest.raises(InputError, match="of another plan"):
        record(dataclasses.replace(TINY, overrides=(*TINY.overrides, "search.kernel=pooled")), tmp_path, ARGUMENTS)


def test_a_training_that_diverges_is_recorded_as_such(tmp_path: Path) -> None:
    hot = ("training.lr=1e30", "search.lr={low: 1e29, high: 1e31, log: true}")
    plan = dataclasses.replace(TINY, overrides=(*TINY.overrides, *hot), configurations=1)
    record(plan, tmp_path, ARGUMENTS)
    lines = read_lines(path_of(tmp_path))
    assert [set(line) for line in lines] == [{"params", "seed", "error"}] * 4
    assert "loss became" in lines[0]["error"]


# -- prices and the packed table


def test_packing_twice_gives_the_same_bytes(tmp_path: Path, recorded: Path) -> None:
    path = copied(recorded, tmp_path)
    write_prices(tmp_path, {Step(side, kernel) for side in (16, 20, 24, 28, 32) for kernel in ("full", "pooled")})
    first = pack(TINY, tmp_path).read_bytes()
    # The order in which processes finished is no part of a table.
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert pack(TINY, tmp_path).read_bytes() == first
    # No flags (hence no file name), no time of writing.
    assert first[3:8] == bytes(5)
    header, *lines = [json.loads(line) for line in gzip.decompress(first).splitlines()]
    assert lines == read_lines(path_of(recorded))
    assert list(header) == ["table", "model", "dataset", "device", "cost", "baseline", "space", "reference"]
    assert header["cost"]["16/pooled/1"] == 25.0
    assert header["baseline"] == {"epochs": 2, "steps": 4, "lr": 0.1, "weight_decay": 5e-4}
    assert (header["table"], header["model"], header["dataset"], header["device"]) == ("tiny", "cifar_resnet8", "digits", "abacus")
    assert header["reference"] == [1.1, 0.9]
    assert header["space"]["scale"] == {"low": 0.5, "high": 0.75, "step": 0.25}


def test_a_packed_table_can_be_replayed(tmp_path: Path, recorded: Path) -> None:
    copied(recorded, tmp_path)
    write_prices(tmp_path, {Step(side, kernel) for side in (16, 20, 24, 28, 32) for kernel in ("full", "pooled")})
    table = read_table(pack(TINY, tmp_path))
    lines = read_lines(path_of(recorded))
    assert [(one.params, one.seed, list(one.curve), one.train_s) for one in table.trainings] == [
        (line["params"], line["seed"], line["curve"], line["train_s"]) for line in lines
    ]
    assert [one.counts for one in table.trainings] == [table.plan(one.params, one.seed).counts() for one in table.trainings]
    assert table.spec.search == TINY.spec.search
    assert table.spec.baseline_params() == TINY.spec.baseline_params()
    assert table.relative_time(table.trainings[0].counts) == 1.0


def test_a_training_that_diverged_is_not_packed(tmp_path: Path, recorded: Path) -> None:
    path = copied(recorded, tmp_path)
    lines = read_lines(path)
    lines[-1] = {"params": lines[-1]["params"], "seed": lines[-1]["seed"], "error": "the training loss became nan at step 3 of 4"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_prices(tmp_path, {Step(side, kernel) for side in (16, 20, 24, 28, 32) for kernel in ("full", "pooled")})
    packed = gzip.decompress(pack(TINY, tmp_path).read_bytes()).splitlines()[1:]
    assert [json.loads(line)["seed"] for line in packed] == list(range(TINY_TRAININGS - 1))


def test_packing_needs_all_prices(tmp_path: Path, recorded: Path) -> None:
    copied(recorded, tmp_path)
    with pytest.raises(InputError, match="--calibrate"):
        pack(TINY, tmp_path)
    write_prices(tmp_path, {Step(32, "full")})
    with pytest.raises(InputError, match=r"no price for .*calibrate again"):
        pack(TINY, tmp_path)


def test_all_kinds_of_step_of_a_table_are_priced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    priced: list[set[str]] = []

    def listen(_: object, steps: set[Step]) -> None:
        priced.append({kind_name(step) for step in steps})
        raise NoisyTimingError("this is only a test")

    monkeypatch.setattr("trainers.calibration.calibrate", listen)
    with pytest.raises(NoisyTimingError):
        calibrate_table(TABLES["digits"], tmp_path, ARGUMENTS)
    plans = (TABLES["digits"].spec.search.schedule(one.params, one.seed).plan(60, 32) for one in trainings_of(TABLES["digits"]))
    assert priced == [{kind_name(step) for step in itertools.chain.from_iterable(plans)}]


def test_calibration_refuses_noise_and_else_writes_prices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"BUILDS": 2, "ROUNDS": 1, "MIN_SECONDS": 0.0, "ATTEMPTS": 1}.items():
        monkeypatch.setattr(f"trainers.calibration.{name}", value)
    monkeypatch.setattr("trainers.cost.MAX_ERROR_FRAC", -1.0)
    with pytest.raises(NoisyTimingError):
        calibrate_table(TINY, tmp_path, ARGUMENTS)
    assert not list(tmp_path.iterdir())
    for module in ("cost", "calibration"):
        monkeypatch.setattr(f"trainers.{module}.MAX_OTHERS_FRAC", math.inf)
    monkeypatch.setattr("trainers.cost.MAX_ERROR_FRAC", math.inf)
    calibrate_table(TINY, tmp_path, ARGUMENTS)
    content = json.loads((tmp_path / "tiny.cost.json").read_text())
    assert {"costs", "full_ms", "conditions", "provenance"} <= set(content)
    assert content["costs"]["32/full"]["relative"] == 1.0
