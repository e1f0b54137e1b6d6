"""Prices are arithmetic worked by hand; calibration is real, but only what holds on any machine is asserted of its figures."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
from filled import pricing, record, tiny_spec

from trainers import Schedule, TrainConfig
from trainers.calibration import Progress, calibrate, calibration, cost_conditions
from trainers.config import DataConfig
from trainers.cost import CostTable, StepCost, parse_step, step_name
from trainers.errors import InputError, NoisyTimingError
from trainers.schedule import Step
from tuner.launching.pricing import FirstBaseline
from tuner.storage.trials import CompletedTrial

FULL, HALF, POOLED = Step(32, "full"), Step(16, "full"), Step(16, "pooled")
HALF_OF_FOUR = Step(16, "full", 4)
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


def test_a_step_on_several_batches_is_priced_as_one_step():
    grown = dataclasses.replace(TABLE, costs=TABLE.costs | {HALF_OF_FOUR: StepCost(0.75, 0.75, 0.75)})
    schedule = Schedule(frequency=0.5, batch_growth="constant_work")
    # Two epochs of ten batches: in each, five full steps, one on four half-side batches and one on the half-side batch left over.
    counts = schedule.plan(20, 32, 10).counts()
    assert counts == {FULL: 10, HALF_OF_FOUR: 2, HALF: 2}
    # The denominator stays the 20 full steps of the baseline's batch.
    assert grown.relative_time(counts, baseline_steps=20) == (10 + 2 * 0.75 + 2 * 0.25) / 20
    assert CostTable.from_dict(json.loads(json.dumps(grown.to_dict()))) == grown


def test_a_table_survives_json():
    assert CostTable.from_dict(json.loads(json.dumps(TABLE.to_dict()))) == TABLE


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (FULL, "32/full"),
        (POOLED, "16/pooled"),
        (HALF_OF_FOUR, "16/full/4"),
        (Step(112, "pooled_largest_maps"), "112/pooled_largest_maps"),
        (Step(8, "pooled_most_saved", 16), "8/pooled_most_saved/16"),
    ],
)
def test_step_names_read_back(step, name):
    assert step_name(step) == name
    assert parse_step(name) == step


@pytest.mark.parametrize(
    "name", ["16/half", "16", "half/full", "16/full/", "16/full/0", "16/full/x", "16/full/4/4", "0/full", "-16/full", "16/pooled_", ""]
)
def test_a_wrong_step_name_is_one_sentence(name):
    with pytest.raises(InputError) as caught:
        parse_step(name)
    assert str(caught.value) == (
        f"step kind is '{name}', it must be <side in pixels>/<kernel> or <side in pixels>/<kernel>/<batches>, "
        "with a kernel of full, pooled, pooled_largest_maps, pooled_most_saved"
    )


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
    assert busy.reason_to_doubt() == "other processes used 50% of the machine's cores while steps were timed (at most 15% may be)"
    wide = dataclasses.replace(TABLE, costs=TABLE.costs | {HALF: StepCost(0.25, 0.24, 0.26)})
    assert wide.reason_to_doubt() == "the cost of a 16/full step is known only to 4.0% (at most 3% is asked for) after 25 rounds"


def test_calibration_times_every_kind_and_reports_progress():
    seen = list(calibration(CONFIG, {HALF, POOLED}, accept_noisy=True))
    table = seen[-1]
    assert isinstance(table, CostTable)
    assert all(isinstance(progress, Progress) for progress in seen[:-1])
    # Twelve builds of the network, in whole percent.
    percent = (8, 16, 25, 33, 41, 50, 58, 66, 75, 83, 91, 100)
    assert [(progress.done, progress.expected) for progress in seen[:-1]] == [(n, 100) for n in percent]
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
    with pytest.raises(NoisyTimingError, match="other processes used 90% of the machine's cores"):
        calibrate(CONFIG, {HALF})


def test_conditions_tell_threads_and_batches_apart():
    assert cost_conditions(CONFIG) != cost_conditions(dataclasses.replace(CONFIG, batch_size=16))
    assert cost_conditions(CONFIG) != cost_conditions(dataclasses.replace(CONFIG, threads=2))
    assert cost_conditions(CONFIG) == cost_conditions(dataclasses.replace(CONFIG, seed=5, lr=0.01))


# Wall time against the price


def completed(train_s, data_s, *, number=0, rival="baseline", alone=True, device="a made-up one"):
    return CompletedTrial(
        number=number, root=number, attempt=1, params={}, values={}, rival=rival, seed=0, curve=[], counts={"32/full": 20},
        seconds={"train": train_s, "data": data_s, "evaluation": 9.0, "checkpoint": 9.0}, observed_over_calibrated=1.0,
        test_accuracy=None, device=device, versions={}, commit="", alone=alone,
    )  # fmt: skip


def told(baseline, train_s, data_s, *, alone=True, **params):
    """Note and line of a trial that is priced at 0.625: half of 20 steps full, half at a quarter of the cost."""
    spec = tiny_spec()
    priced = dataclasses.replace(pricing(spec), baseline=lambda: baseline)
    params = {"frequency": 0.5, "kernel": "full", "window_length": 1.0, "epochs": 4, "lr": 0.05} | params
    params = {"policy": "deterministic", "batch_norm": "shared"} | params
    seconds = {"train": train_s, "data": data_s, "evaluation": 5.0, "checkpoint": 5.0}
    values, stored = priced.values(record(spec, params, 0, 0.9) | {"seconds": seconds}, alone=alone)
    assert values["relative_time"] == 0.625
    return stored, priced.line(7, spec.train_config(params, 0), values, stored)


def test_a_trial_that_loading_held_up_says_so():
    # 12 s of training and loading where the baseline took 16 are 75 %; evaluation and checkpoints don't count.
    stored, line = told(completed(12.0, 4.0), 8.0, 4.0)
    words = "its wall time relative to the baseline was 75.0 %, 62.5 % was predicted: loading takes 33.3 % of it"
    assert stored["relative_wall_time"] == 0.75
    assert f"- {words}" in stored["note"].splitlines()
    assert line.startswith("trial 7 finished: relative_time 62.5 %, ")
    assert line.endswith(f"; {words}")


def test_loading_is_named_only_where_it_explains_half_of_the_gap():
    # 28 s where the baseline took 16: 112.5 points more than the 62.5 % that were predicted, of which loading's 4 s are 25.
    stored, line = told(completed(12.0, 4.0), 24.0, 4.0)
    words = "its wall time relative to the baseline was 175.0 %, 62.5 % was predicted: probably other processes slowed it down"
    assert f"- {words}" in stored["note"].splitlines()
    assert line.endswith(f"; {words}")
    # 15 s: 31.25 points more, of which loading's 2.5 s are exactly half.
    assert told(completed(12.0, 4.0), 12.5, 2.5)[1].endswith(": loading takes 16.7 % of it")
    assert told(completed(12.0, 4.0), 12.6, 2.4)[1].endswith(": probably other processes slowed it down")
    # A trial that took less has nothing to explain: its note says whose figure is the odd one.
    stored, line = told(completed(12.0, 4.0), 4.0, 4.0)
    assert stored["note"].endswith("50.0 %, 62.5 % was predicted: probably other processes slowed the baseline down")
    assert "wall time" not in line


def test_trials_that_were_held_up_are_explained_three_times_and_then_counted():
    spec = tiny_spec()
    priced = dataclasses.replace(pricing(spec), baseline=lambda: completed(12.0, 4.0))

    def line(train_s, data_s):
        told = record(spec, spec.baseline_params() | {"epochs": 2}, 0, 0.9) | {"seconds": {"train": train_s, "data": data_s}}
        return priced.line(7, CONFIG, *priced.values(told, alone=True))

    # Priced at half of the baseline's 16 s.
    assert "wall time" not in line(7.9, 0.1)
    first, second, third = line(20.0, 0.0), line(20.0, 0.0), line(6.0, 6.0)
    assert first == second
    assert first.endswith("probably other processes slowed it down")
    assert third.endswith("loading takes 50.0 % of it; further ones are only counted")
    assert priced.held_up.summary() is None
    assert "wall time" not in line(20.0, 0.0)
    assert priced.held_up.summary() == (
        "4 trials took over 10% longer than was predicted, probably because of other processes in 3 and loading in 1; "
        "their relative times are priced step by step and do not depend on it"
    )


@pytest.mark.parametrize(("train_s", "noted", "said"), [(5.5, True, False), (5.7, False, False), (6.8, False, False), (6.9, True, True)])
def test_a_tenth_of_the_price_is_the_limit(train_s, noted, said):
    # 10 s of the baseline: 6.25 s are predicted, 5.625 to 6.875 are within a tenth.
    stored, line = told(completed(9.0, 1.0), train_s, 0.0)
    assert stored["relative_wall_time"] == pytest.approx(train_s / 10)
    assert ("wall time" in stored["note"], "wall time" in line) == (noted, said)


@pytest.mark.parametrize("baseline", [None, completed(1.0, 0.0, alone=False), completed(1.0, 0.0, device="another")])
def test_only_like_is_compared_with_like(baseline):
    stored, line = told(baseline, 8.0, 4.0)
    assert stored["relative_wall_time"] is None
    assert "wall time" not in line + stored["note"]


def test_trials_that_both_had_neighbours_are_compared():
    stored, _ = told(completed(12.0, 4.0, alone=False), 8.0, 4.0, alone=False)
    assert stored["relative_wall_time"] == 0.75


def test_the_first_baseline_is_looked_for_until_it_is_there_and_then_kept():
    rounds = iter([[], [completed(1.0, 0.0, rival="shorter")], [completed(1.0, 0.0, rival=None), completed(2.0, 0.0, number=1)]])
    baseline = FirstBaseline(lambda: next(rounds))
    assert baseline() is None
    assert baseline() is None
    assert baseline().number == 1
    assert baseline().number == 1  # without another look, or the rounds would be at their end


def test_the_line_names_pooled_layers_and_growing_batches():
    spec = tiny_spec()
    schedule = Schedule(frequency=0.5, kernel="pooled", pooled_layers="largest_maps", batch_growth="constant_work")
    stored = {"relative_wall_time": None, "metrics": {"relative_time": 0.5}}
    line = pricing(spec).line(3, dataclasses.replace(CONFIG, schedule=schedule), {"relative_time": 0.5}, stored)
    words = "every 2nd step at 0.5 side, pooled kernels in the largest maps, batches grow"
    assert line == f"trial 3 finished: relative_time 50.0 %; 10 epochs, {words}"


def test_what_methods_said_is_stored_and_an_older_record_has_nothing_of_it():
    spec = tiny_spec()
    told = record(spec, spec.baseline_params(), 0, 0.9)
    assert pricing(spec).values(told, alone=True)[1]["figures"] == []
    assert pricing(spec).values(told | {"figures": []}, alone=True)[1]["figures"] == []
    # Single layers after the last epoch only.
    figures = [{"filter_sparsity.inactive": share, "filter_sparsity.inactive.stem": share} for share in (0.25, 0.5)]
    stored = pricing(spec).values(told | {"figures": figures}, alone=True)[1]["figures"]
    assert stored == [{"filter_sparsity.inactive": 0.25}, figures[1]]
