"""Prices of points without their plans: equal to those of the plans, step by step."""

from __future__ import annotations

import statistics
from typing import get_args

import pytest
from filled import COSTS, STEPS_PER_EPOCH, pricing, tiny_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.cost import CostTable, StepCost
from trainers.presets import DRAWN, PresetName
from trainers.schedule import Schedule, Step
from tuner.samplers.plan_cost import PlanCost, plan_counts

hundredths = st.integers(0, 100).map(lambda number: number / 100)
fractions = st.one_of(hundredths, st.floats(0, 1))
schedules = st.fixed_dictionaries(
    {
        "policy": st.just("deterministic"),
        "frequency": fractions,
        "scale": fractions.filter(lambda scale: scale > 0),
        "kernel": st.sampled_from(["full", "pooled"]),
        "pooled_layers": st.sampled_from(["all", "largest_maps"]),
        "window_start": fractions,
        "window_length": fractions,
        "growth": st.sampled_from(["constant", "linear"]),
        "batch_growth": st.sampled_from(["none", "constant_work"]),
        # Those that draw no step.
        "preset": st.sampled_from(["none", *sorted({*get_args(PresetName)} - {"none"} - DRAWN)]),
        "side_multiple": st.integers(1, 9),
    }
)


@settings(max_examples=400, deadline=None)
@given(schedules, st.integers(1, 7), st.integers(1, 40), st.integers(1, 70))
def test_counts_are_those_of_the_plan(fields, epochs, steps_per_epoch, full_px):
    # A preset at frequency 0 is a full-resolution trial of a study.
    written = fields if fields["frequency"] > 0 else fields | {"preset": "none"}
    plan = Schedule(**written).plan(epochs * steps_per_epoch, full_px, steps_per_epoch)
    assert plan_counts(fields | {"epochs": epochs}, full_px, steps_per_epoch) == plan.counts()


def test_counts_by_hand():
    fields = Schedule(frequency=0.5, scale=0.5, window_start=0.25, window_length=0.5).to_dict() | {"epochs": 2}
    # Window [2, 6) of 8 steps, every second one of it.
    assert plan_counts(fields, 32, 4) == {Step(32, "full"): 6, Step(16, "full"): 2}


def test_many_steps_take_no_longer_than_few():
    fields = Schedule(frequency=0.35, scale=0.5, window_start=0.1, window_length=0.7, growth="linear").to_dict() | {"epochs": 10**6}
    counts = plan_counts(fields, 224, 10**6)
    assert sum(counts.values()) == 10**12
    # Outside the window; inside it where nothing is reduced; and where the side is rounded up to the full one, from 222 pixels on.
    full_frac = 0.3 + 0.7 * 0.65 + 0.7 * 0.35 * (224 - 222) / (224 - 112)
    assert counts[Step(224, "full")] == pytest.approx(10**12 * full_frac, rel=1e-9)


def test_the_price_is_what_the_study_will_store():
    spec = tiny_spec()
    params = spec.baseline_params() | {"frequency": 0.5, "kernel": "pooled", "epochs": 3}
    cost = PlanCost(
        spec.search, {step: cost.relative for step, cost in COSTS.items()}, STEPS_PER_EPOCH, spec.training.epochs * STEPS_PER_EPOCH
    )
    plan = spec.search.schedule(params).plan(3 * STEPS_PER_EPOCH, 32)
    assert cost(params) == pytest.approx(pricing(spec).reference.relative_time(plan.counts(), pricing(spec).baseline_steps), rel=1e-12)


@pytest.mark.parametrize("batch_growth", ["none", "constant_work"])
def test_a_stochastic_point_costs_what_it_costs_on_average(batch_growth):
    spec = tiny_spec(
        search={"frequency": [0.0, 0.3], "scale": 0.5, "policy": "stochastic", "growth": "linear", "batch_growth": batch_growth}
    )
    costs = {Step(side, "full", batches): side**2 / 1024 * batches**0.9 for side in range(4, 33, 4) for batches in (1, 1024 // side**2)}
    table = CostTable({}, 1.0, {step: StepCost(cost, cost, cost) for step, cost in costs.items()}, 1, None)
    params = {"frequency": 0.3, "epochs": 4}
    plans = [spec.search.schedule(params, seed).plan(400, 32, 100) for seed in range(200)]
    mean = statistics.fmean(table.relative_time(plan.counts(), 400) for plan in plans)
    assert PlanCost(spec.search, costs, 100, 400)(params) == pytest.approx(mean, rel=0.01)


def test_a_preset_that_draws_costs_what_it_costs_on_average():
    fields = Schedule(preset="mixed_sizes", frequency=1.0).to_dict() | {"epochs": 5}
    plans = [Schedule(preset="mixed_sizes", seed=seed).plan(1000, 224, 200).counts() for seed in range(100, 200)]
    counts = plan_counts(fields, 224, 200)
    for step in plans[0]:
        # Of what an epoch has left over there are a few only.
        mean = statistics.fmean(plan.get(step, 0) for plan in plans)
        assert counts[step] == pytest.approx(mean, rel=0.1 if step.batches > 1 else 0.5)


@pytest.mark.parametrize("preset", ["progressive", "four_stage", "multigrid"])
def test_presets_of_long_epochs_are_priced_without_walking_each_step(preset):
    fields = Schedule(preset=preset, frequency=1.0).to_dict() | {"epochs": 3}
    exact = Schedule(preset=preset).plan(15_000, 32, 5000).counts()
    counts = plan_counts(fields, 32, 5000)
    assert sum(counts[step] * step.batches for step in counts) == pytest.approx(15_000)
    for step in exact:
        assert counts.get(step, 0) == pytest.approx(exact[step], abs=3 * 4 * 5000 / 250)
    assert sum(plan_counts(fields, 32, 10**9).values()) > 10**9
