"""Prices are arithmetic worked by hand; calibration is real, but only what holds on any machine is asserted of its figures."""

from __future__ import annotations

import dataclasses
import random

import pytest

from trainers import Schedule, TrainConfig
from trainers.calibration import Progress, calibrate, calibration, cost_conditions
from trainers.config import DataConfig
from trainers.cost import CostTable, StepCost, parse_step, step_name
from trainers.errors import InputError, NoisyTimingError
from trainers.schedule import Step

FULL, HALF, POOLED = Step(32, "full"), Step(16, "full"), Step(16, "pooled")
TABLE = CostTable(
    conditions={"device": "a made-up one"},
    full_ms=50.0,
    costs={FULL: StepCost(1.0, 1.0, 1.0), HALF: StepCost(0.25, 0.249, 0.252), POOLED: StepCost(0.125, 0.124, 0.126)},
    rounds=25,
    others_frac=0.01,
)
CONFIG = TrainConfig(model="cifar_resnet8", data=DataConfig(name="digits"), batch_size=8, device="cpu", threads=1)


def test_a_price_is_counts_times_costs():
    counts = {FULL: 10, HALF: 40, POOLED: 16}
    assert TABLE.price(counts) == 10 + 40 / 4 + 16 / 8
    assert TABLE.seconds(counts) == 22 * 0.05
    assert TABLE.relative_time(counts, baseline_steps=44) == 0.5


def test_the_baseline_costs_exactly_one():
    assert TABLE.relative_time(Schedule().plan(120, 32).counts(), baseline_steps=120) == 1.0


def test_equal_plans_cost_the_same():
    every = Schedule(frequency=1.0, window_length=0.5)
    capped = Schedule(policy="stochastic", frequency=1.0, window_length=0.5, seed=9)
    assert every.plan(60, 32) == capped.plan(60, 32)
    assert TABLE.relative_time(every.plan(60, 32).counts(), 60) == TABLE.relative_time(capped.plan(60, 32).counts(), 60) == 0.625


def test_a_table_survives_json():
    import json

    assert CostTable.from_dict(json.loads(json.dumps(TABLE.to_dict()))) == TABLE


@pytest.mark.parametrize("step", [FULL, HALF, POOLED])
def test_step_names_read_back(step):
    assert parse_step(step_name(step)) == step


def test_a_wrong_step_name_is_one_sentence():
    with pytest.raises(InputError, match="step kind is '16/half', it must be <side in pixels>/full or"):
        parse_step("16/half")


def test_a_cost_is_the_ratio_of_the_fastest_quarters():
    # Fastest quarters over both builds: 1.0 and 1.2 of eight, 4.0 and 4.4 of eight; their means are 1.1 and 4.2.
    times = [[1.0, 9.0, 3.0, 1.2], [2.0, 5.0, 7.0, 2.5]]
    full_times = [[6.0, 4.0, 9.0, 8.0], [5.0, 4.4, 20.0, 7.0]]
    assert StepCost.of(times, full_times).relative == pytest.approx(1.1 / 4.2)


def test_the_full_step_costs_exactly_one():
    assert StepCost.of([[5.0, 7.0], [6.0, 9.0]], [[5.0, 7.0], [6.0, 9.0]]) == StepCost(1.0, 1.0, 1.0)


def test_a_cost_differs_from_build_to_build_less_than_its_interval_says():
    draw = random.Random(1)
    hits = 0
    for _ in range(100):
        # True costs 25 and 100; each build has its own 2 %, and now and then a neighbour adds up to half as much again.
        disturbed = [
            [
                [luck * cost * (1 + 0.5 * max(0.0, draw.random() - 0.7)) for _ in range(6)]
                for luck in (draw.gauss(1, 0.02) for _ in range(16))
            ]
            for cost in (25, 100)
        ]
        cost = StepCost.of(*disturbed)
        hits += cost.low <= 0.25 <= cost.high
    assert hits >= 85


def test_doubt_names_its_reason():
    assert TABLE.reason_to_doubt() is None
    busy = dataclasses.replace(TABLE, others_frac=0.5)
    assert busy.reason_to_doubt() == "other processes used 50% of this machine's cores (at most 15% may be)"
    wide = dataclasses.replace(TABLE, costs=TABLE.costs | {HALF: StepCost(0.25, 0.24, 0.26)})
    assert wide.reason_to_doubt() == "the cost of a 16 px full-kernel step is known only to 4.0% (at most 3% is asked for) after 25 rounds"


def test_calibration_times_every_kind_and_reports_progress():
    seen = list(calibration(CONFIG, {HALF, POOLED}, accept_noisy=True))
    table = seen[-1]
    assert isinstance(table, CostTable)
    assert all(isinstance(progress, Progress) for progress in seen[:-1])
    # Eight builds of the network, in whole percent.
    assert [(progress.done, progress.expected) for progress in seen[:-1]] == [(n, 100) for n in (12, 25, 37, 50, 62, 75, 87, 100)]
    assert table.rounds == 48
    assert set(table.costs) == {FULL, HALF, POOLED}
    assert table.costs[FULL] == StepCost(1.0, 1.0, 1.0)
    # A quarter of the pixels: far below a full step on any machine, whatever the neighbours do.
    assert table.costs[HALF].relative < 0.8
    assert table.full_ms > 0
    assert table.conditions == cost_conditions(CONFIG)


def test_a_busy_machine_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr("trainers.calibration._LoadMeter.others_frac", lambda meter: 0.9)
    monkeypatch.setattr("trainers.calibration.time.sleep", lambda seconds: None)
    with pytest.raises(NoisyTimingError, match="other processes used 90% of this machine's cores"):
        calibrate(CONFIG, {HALF})


def test_conditions_tell_threads_and_batches_apart():
    assert cost_conditions(CONFIG) != cost_conditions(dataclasses.replace(CONFIG, batch_size=16))
    assert cost_conditions(CONFIG) != cost_conditions(dataclasses.replace(CONFIG, threads=2))
    assert cost_conditions(CONFIG) == cost_conditions(dataclasses.replace(CONFIG, seed=5, lr=0.01))
