"""Plans are checked against plans worked by hand and against brute force in decimals, never against the formula in schedule.py."""

import copy
import dataclasses
import math
import pickle
import subprocess
import sys
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers import schedule as schedule_module
from trainers.errors import InputError
from trainers.schedule import Plan, Schedule, Step, lr_factor, pooled_size, read_schedule_file, round_side

FULL = Step(32, "full")
HALF = Step(16, "full")
HALF_OF_FOUR = Step(16, "full", 4)


def sides(plan: Plan) -> list[int]:
    return [step.side_px for step in plan]


def reduced(plan: Plan, full_px: int = 32) -> list[bool]:
    return [step != Step(full_px, "full") for step in plan]


# Fields and the shares that a user may write. Four decimals, as a file holds them.
shares = st.integers(0, 10_000).map(lambda n: n / 10_000)
schedules = st.builds(
    Schedule,
    policy=st.sampled_from(get_args(schedule_module.Policy)),
    frequency=st.floats(0, 1),
    scale=st.floats(0, 1, exclude_min=True),
    kernel=st.sampled_from(get_args(schedule_module.Kernel)),
    pooled_layers=st.sampled_from(get_args(schedule_module.PooledLayers)),
    batch_norm=st.sampled_from(get_args(schedule_module.BatchNorm)),
    window_start=st.floats(0, 1),
    window_length=st.floats(0, 1),
    growth=st.sampled_from(get_args(schedule_module.Growth)),
    batch_growth=st.sampled_from(get_args(schedule_module.BatchGrowth)),
    side_multiple=st.integers(1, 64),
    seed=st.integers(0, 2**40),
)


class TestHandWorkedPlans:
    def test_the_default_reduces_nothing(self) -> None:
        assert Schedule().plan(5, 32) == (FULL,) * 5

    def test_one_third(self) -> None:
        # floor(n * 0.3) for n = 0..10 is 0 0 0 0 1 1 1 2 2 2 3: it grows at the 4th, the 7th and the 10th step.
        plan = Schedule(frequency=0.3).plan(10, 32)
        assert plan == (FULL, FULL, FULL, HALF, FULL, FULL, HALF, FULL, FULL, HALF)
        assert plan.counts() == {FULL: 7, HALF: 3}

    def test_window_in_the_middle_with_pooled_kernels(self) -> None:
        # 12 steps, window [0.25, 0.75): steps 3..8, the second of each pair reduced.
        pooled = Step(16, "pooled")
        plan = Schedule(frequency=0.5, kernel="pooled", window_start=0.25, window_length=0.5).plan(12, 32)
        assert plan == (FULL, FULL, FULL, FULL, pooled, FULL, pooled, FULL, pooled, FULL, FULL, FULL)

    @pytest.mark.parametrize(
        ("pooled_layers", "kernel"),
        [("all", "pooled"), ("largest_maps", "pooled_largest_maps"), ("most_saved", "pooled_most_saved")],
    )
    def test_which_layers_are_pooled_is_part_of_the_kind_of_step(self, pooled_layers: str, kernel: str) -> None:
        assert Schedule(frequency=1, kernel="pooled", pooled_layers=pooled_layers).plan(2, 32) == (Step(16, kernel),) * 2
        assert Schedule(frequency=1, pooled_layers=pooled_layers).plan(2, 32) == (HALF,) * 2

    def test_linear_growth(self) -> None:
        # 8 steps in the window: scale 0.5 + 0.5 * i / 8, times 64 is 32, 36, 40, ..., 60; then full.
        plan = Schedule(frequency=1, scale=0.5, growth="linear", window_length=0.8).plan(10, 64)
        assert sides(plan) == [32, 36, 40, 44, 48, 52, 56, 60, 64, 64]

    def test_linear_growth_in_a_later_window(self) -> None:
        # Steps 4..7 of 10: scale 0.5 + 0.5 * i / 4 of 64 px, counted from the window's start to its end.
        plan = Schedule(frequency=1, scale=0.5, growth="linear", window_start=0.4, window_length=0.4).plan(10, 64)
        assert sides(plan) == [64, 64, 64, 64, 32, 40, 48, 56, 64, 64]

    def test_a_grown_side_that_rounds_to_the_full_side_is_a_full_step_kernel_included(self) -> None:
        # 0.9 + 0.1 i/4 of 32: 28.8, 29.6, 30.4, 31.2; multiples of 4, halves up: 28, 28, 32, 32.
        plan = Schedule(frequency=1, scale=0.9, growth="linear", kernel="pooled").plan(4, 32)
        assert plan == (Step(28, "pooled"), Step(28, "pooled"), FULL, FULL)

    def test_a_constant_side_that_rounds_to_the_full_side_is_a_full_step(self) -> None:
        assert Schedule(frequency=1, scale=0.95, kernel="pooled").plan(3, 32) == (FULL,) * 3

    def test_no_step_and_one_step(self) -> None:
        assert Schedule(frequency=1).plan(0, 32) == ()
        assert Schedule(frequency=1).plan(1, 32) == (HALF,)
        assert Schedule(frequency=0.5).plan(1, 32) == (FULL,)


class TestEpochs:
    def test_epochs_cut_the_plan_and_the_last_may_be_shorter(self) -> None:
        plan = Schedule(frequency=0.5).plan(5, 32, steps_per_epoch=2)
        assert plan == Schedule(frequency=0.5).plan(5, 32) == (FULL, HALF, FULL, HALF, FULL)
        assert plan.epochs == ((FULL, HALF), (FULL, HALF), (FULL,))

    def test_without_their_length_the_training_is_one_epoch(self) -> None:
        assert Schedule(frequency=0.5).plan(3, 32).epochs == ((FULL, HALF, FULL),)
        assert Schedule(frequency=0.5).plan(0, 32).epochs == ()

    def test_a_plan_survives_pickle_and_copy(self) -> None:
        plan = Schedule(frequency=0.5).plan(5, 32, steps_per_epoch=2)
        for twin in (pickle.loads(pickle.dumps(plan)), copy.copy(plan), copy.deepcopy(plan)):
            assert (twin, twin.epochs, type(twin)) == (plan, plan.epochs, Plan)


def grown(total_steps: int, steps_per_epoch: int, full_px: int = 32, **fields: object) -> Plan:
    return Schedule(batch_growth="constant_work", **fields).plan(total_steps, full_px, steps_per_epoch)


class TestBatchGrowth:
    def test_interleaved_steps_are_gathered_where_the_last_of_them_stood(self) -> None:
        # F R F R F R F R: at half the side four batches have the pixels of one.
        plan = grown(8, 8, frequency=0.5)
        assert plan == (FULL, FULL, FULL, FULL, HALF_OF_FOUR)
        assert plan.counts() == {FULL: 4, HALF_OF_FOUR: 1}

    def test_full_steps_go_on_between_gathered_ones(self) -> None:
        # floor(n * 0.8) is 0 0 1 2 3 4 4 5 6 7 8: F R R R R F R R R R.
        assert grown(10, 10, frequency=0.8) == (FULL, HALF_OF_FOUR, FULL, HALF_OF_FOUR)

    def test_what_is_left_at_an_epochs_end_stays_single_where_it_is(self) -> None:
        # Epochs of F R F R F R, three reduced batches each: too few for one step of four.
        assert grown(12, 6, frequency=0.5) == (FULL, HALF) * 6
        # F R F R F R F R F R | F R: the fifth is left over, and so is the next epoch's first.
        plan = grown(12, 10, frequency=0.5)
        assert plan.epochs == ((FULL, FULL, FULL, FULL, HALF_OF_FOUR, FULL, HALF), (FULL, HALF))

    def test_what_is_left_at_the_windows_end_stays_single_before_it(self) -> None:
        # Six reduced batches, then four full ones.
        assert grown(10, 10, frequency=1, window_length=0.6) == (HALF_OF_FOUR, HALF, HALF, FULL, FULL, FULL, FULL)

    def test_growing_sides_are_gathered_each_by_itself(self) -> None:
        # Sides of 8 batches from 16 of 32 px: 16 18 20 22 24 26 28 30, in multiples of 4, halves up: 16 20 20 24 24 28 28 32.
        # 1024 / 400 = 2.56: two batches of 20 px; 1024 / 576 = 1.8: one of 24. A single 16 px batch is left before the side changes.
        plan = grown(8, 8, frequency=1, growth="linear")
        assert plan == (HALF, Step(20, "full", 2), *[Step(24, "full")] * 2, *[Step(28, "full")] * 2, FULL)

    @pytest.mark.parametrize(
        ("scale", "full_px", "side_px", "batches"), [(0.5, 224, 112, 4), (0.57, 224, 128, 3), (0.25, 32, 8, 16), (0.5, 30, 16, 3)]
    )
    def test_no_more_pixels_than_a_full_batch(self, scale: float, full_px: int, side_px: int, batches: int) -> None:
        # 224^2 / 128^2 = 3.06, 30^2 / 16^2 = 3.5.
        assert grown(batches, batches, full_px, frequency=1, scale=scale) == (Step(side_px, "full", batches),)
        assert batches * side_px**2 <= full_px**2 < (batches + 1) * side_px**2

    def test_pooled_kernels_are_gathered_too(self) -> None:
        plan = grown(5, 5, frequency=1, kernel="pooled", pooled_layers="largest_maps")
        assert plan == (Step(16, "pooled_largest_maps", 4), Step(16, "pooled_largest_maps"))

    @settings(deadline=None)
    @given(schedule=schedules, steps=st.integers(0, 120), steps_per_epoch=st.integers(1, 50), full_px=st.integers(1, 64))
    def test_the_batches_of_a_plan_and_of_every_epoch_stay_the_same(
        self, schedule: Schedule, steps: int, steps_per_epoch: int, full_px: int
    ) -> None:
        plan = dataclasses.replace(schedule, batch_growth="constant_work").plan(steps, full_px, steps_per_epoch)
        single = dataclasses.replace(schedule, batch_growth="none").plan(steps, full_px, steps_per_epoch)
        assert sum(step.batches for step in plan) == steps
        for epoch, single_epoch in zip(plan.epochs, single.epochs, strict=True):
            assert sum(step.batches for step in epoch) == len(single_epoch)
            for kind in set(single_epoch):
                most = max(count for count in range(1, full_px**2 + 1) if count * kind.side_px**2 <= full_px**2)
                batches = [step.batches for step in epoch if (step.side_px, step.kernel) == (kind.side_px, kind.kernel)]
                assert sum(batches) == single_epoch.count(kind)
                assert set(batches) <= {1, most}
                assert most == 1 or batches.count(1) < most

    def test_it_needs_the_length_of_an_epoch(self) -> None:
        with pytest.raises(InputError, match=r"^steps_per_epoch is None, it must be .* where batch_growth is 'constant_work'$"):
            Schedule(batch_growth="constant_work").plan(8, 32)

    def test_learning_rates_follow_the_batches(self) -> None:
        assert [lr_factor(batches, "sgd") for batches in (1, 2, 9)] == [1, 2, 9]
        assert [lr_factor(batches, "adamw") for batches in (1, 4, 9)] == [1, 2, 3]


class TestDeterministicPolicy:
    def test_one_half_alternates_strictly(self) -> None:
        assert reduced(Schedule(frequency=0.5).plan(2001, 32)) == [bool(n % 2) for n in range(2001)]

    @pytest.mark.parametrize("frequency", ["0.1", "0.2", "0.3", "0.7", "0.9", "0.05", "0.333", "0.3333333333333333", "0.6666666666666666"])
    def test_after_n_steps_floor_of_n_times_frequency_are_reduced(self, frequency: str) -> None:
        plan = reduced(Schedule(frequency=float(frequency)).plan(3000, 32))
        for n in range(3001):
            expected = (n * Decimal(frequency)).to_integral_value(ROUND_FLOOR)
            assert sum(plan[:n]) == expected, n

    def test_ten_steps_of_a_tenth_are_exactly_one(self) -> None:
        # In floats 0.1 * 3 > 0.3, and 1 - 0.9 < 0.1: every tenth step must be reduced all the same.
        plan = reduced(Schedule(frequency=0.1).plan(1000, 32))
        assert [n for n in range(1000) if plan[n]] == list(range(9, 1000, 10))

    @given(frequency=shares, steps=st.integers(0, 300))
    def test_reduced_steps_are_spread_evenly(self, frequency: float, steps: int) -> None:
        plan = reduced(Schedule(frequency=frequency).plan(steps, 32))
        for length in (7, 50):
            counts = [sum(plan[i : i + length]) for i in range(max(0, steps - length + 1))]
            assert not counts or max(counts) - min(counts) <= 1

    def test_the_seed_means_nothing(self) -> None:
        assert Schedule(frequency=0.37, seed=1).plan(100, 32) == Schedule(frequency=0.37, seed=2).plan(100, 32)


class TestWindow:
    @given(start=shares, length=shares, steps=st.integers(0, 400))
    def test_a_step_is_inside_when_its_progress_is(self, start: float, length: float, steps: int) -> None:
        plan = reduced(Schedule(frequency=1, window_start=start, window_length=length).plan(steps, 32))
        low, high = Decimal(str(start)), min(Decimal(1), Decimal(str(start)) + Decimal(str(length)))
        assert plan == [low * steps <= n < high * steps for n in range(steps)]

    def test_edges_are_exact_decimals(self) -> None:
        # In floats 0.1 * 30 = 3.0000000000000004 and (0.1 + 0.2) * 10 = 3.0000000000000004.
        assert sum(reduced(Schedule(frequency=1, window_length=0.1).plan(30, 32))) == 3
        plan = reduced(Schedule(frequency=1, window_start=0.1, window_length=0.2).plan(10, 32))
        assert plan == [False, True, True] + [False] * 7

    def test_a_window_that_would_end_after_the_training_ends_with_it(self) -> None:
        assert reduced(Schedule(frequency=1, window_start=0.75, window_length=0.9).plan(4, 32)) == [False, False, False, True]

    def test_frequency_counts_from_the_start_of_the_window(self) -> None:
        assert reduced(Schedule(frequency=0.5, window_start=0.3).plan(10, 32)) == [False] * 3 + [False, True] * 3 + [False]

    @pytest.mark.parametrize("fields", [{"window_length": 0.0}, {"window_start": 1.0}])
    def test_an_empty_window_reduces_nothing(self, fields: dict[str, float]) -> None:
        assert Schedule(frequency=1, **fields).plan(10, 32) == (FULL,) * 10


class TestGrowthAndRounding:
    @given(scale=st.integers(1, 100).map(lambda n: n / 100), full_px=st.integers(8, 300), steps=st.integers(1, 60))
    def test_growth_never_shrinks_and_starts_at_scale(self, scale: float, full_px: int, steps: int) -> None:
        grown = sides(Schedule(frequency=1, scale=scale, growth="linear").plan(steps, full_px))
        assert grown == sorted(grown)
        assert grown[0] == sides(Schedule(frequency=1, scale=scale).plan(1, full_px))[0]

    @given(st.integers(1, 1000), st.integers(1, 500), st.integers(1, 40))
    def test_sides_round_half_up_to_a_multiple(self, thousandths: int, full_px: int, multiple: int) -> None:
        scale = Decimal(thousandths) / 1000
        multiples = (scale * full_px / multiple).quantize(Decimal(1), ROUND_HALF_UP)
        expected = full_px if scale == 1 else min(full_px, max(multiple, int(multiples) * multiple))
        assert round_side(float(scale), full_px, multiple) == expected

    @pytest.mark.parametrize(
        ("scale", "full_px", "multiple", "side_px"),
        [(0.5, 28, 4, 16), (0.5, 20, 4, 12), (0.5, 30, 1, 15), (0.01, 32, 4, 4), (0.5, 3, 4, 3), (1.0, 30, 4, 30), (0.99, 30, 4, 28)],
    )
    def test_hand_worked_sides(self, scale: float, full_px: int, multiple: int, side_px: int) -> None:
        assert round_side(scale, full_px, multiple) == side_px

    def test_scale_1_is_a_full_step_even_where_the_full_side_is_no_multiple(self) -> None:
        # 29 px would round down to 28.
        schedule = Schedule(frequency=1, scale=1, kernel="pooled")
        assert schedule.plan(3, 29) == (Step(29, "full"),) * 3 == schedule.canonical().plan(3, 29)

    @pytest.mark.parametrize(
        ("size", "side_px", "full_px", "pooled"),
        [(3, 16, 32, 2), (5, 16, 32, 3), (7, 16, 32, 4), (1, 4, 32, 1), (3, 28, 32, 3), (3, 8, 32, 1), (3, 64, 192, 1), (3, 68, 192, 2)],
    )
    def test_pooled_sizes(self, size: int, side_px: int, full_px: int, pooled: int) -> None:
        assert pooled_size(size, side_px, full_px) == pooled

    @given(st.integers(1, 11), st.integers(1, 300), st.integers(0, 300))
    def test_pooled_size_is_the_exact_ceiling(self, size: int, side_px: int, more: int) -> None:
        full_px = side_px + more
        assert pooled_size(size, side_px, full_px) == next(k for k in range(size + 1) if k * full_px >= size * side_px)

    def test_a_third_of_a_3x3_kernel_is_1_at_every_side(self) -> None:
        assert all(pooled_size(3, side_px, 3 * side_px) == 1 for side_px in range(1, 400))


class TestStochasticPolicy:
    def test_the_same_seed_gives_the_same_plan_and_leaves_the_global_generator_alone(self) -> None:
        schedule = Schedule(policy="stochastic", frequency=0.4, seed=7)
        code = (
            "import random; random.seed(1); from trainers.schedule import Schedule; "
            "p = Schedule(policy='stochastic', frequency=0.4, seed=7).plan(50, 32); "
            "after = random.random(); random.seed(1); assert after == random.random(); print([s.side_px for s in p])"
        )
        elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert str(sides(schedule.plan(50, 32))) == elsewhere.strip()

    def test_seeds_are_independent(self) -> None:
        # Two independent fair sequences of 400 agree in 200 +- 10 places; 6 deviations are 60.
        plans = [reduced(Schedule(policy="stochastic", frequency=0.5, seed=seed).plan(400, 32)) for seed in range(12)]
        for i, a in enumerate(plans):
            for b in plans[:i]:
                assert 140 < sum(x == y for x, y in zip(a, b, strict=True)) < 260

    @pytest.mark.parametrize("frequency", [0.1, 0.3, 0.5, 0.9])
    def test_the_rate_is_right_over_many_seeds(self, frequency: float) -> None:
        draws = [sum(reduced(Schedule(policy="stochastic", frequency=frequency, seed=seed).plan(50, 32))) for seed in range(400)]
        deviation = math.sqrt(20_000 * frequency * (1 - frequency))
        assert abs(sum(draws) - 20_000 * frequency) < 5 * deviation
        assert len(set(draws)) > 5

    def test_never_and_always(self) -> None:
        assert sum(reduced(Schedule(policy="stochastic", frequency=0).plan(500, 32))) == 0
        assert sum(reduced(Schedule(policy="stochastic", frequency=1).plan(500, 32))) == 500

    def test_only_steps_in_the_window_are_drawn(self) -> None:
        plan = reduced(Schedule(policy="stochastic", frequency=0.5, window_start=0.5, window_length=0.25, seed=3).plan(400, 32))
        assert not any(plan[:200])
        assert any(plan[200:300])
        assert not any(plan[300:])


class TestCounts:
    @settings(deadline=None)
    @given(schedule=schedules, steps=st.integers(0, 200), full_px=st.integers(1, 300))
    def test_counts_add_up_and_every_step_is_valid(self, schedule: Schedule, steps: int, full_px: int) -> None:
        plan = schedule.plan(steps, full_px, 20)
        counts = plan.counts()
        assert len(plan) == sum(counts.values())
        assert sum(step.batches * count for step, count in counts.items()) == steps
        for step, count in counts.items():
            assert count == sum(1 for other in plan if other == step)
            assert step == Step(full_px, "full") or (step.side_px < full_px and step.kernel.startswith(schedule.kernel))
            assert step.side_px == full_px or step.side_px % schedule.side_multiple == 0


class TestCanonical:
    @settings(deadline=None)
    @given(schedule=schedules, steps=st.integers(0, 60), full_px=st.integers(1, 300))
    def test_it_plans_the_same_and_is_its_own_canonical(self, schedule: Schedule, steps: int, full_px: int) -> None:
        for canonical in (schedule.canonical(), schedule.canonical(full_px)):
            assert canonical.plan(steps, full_px, 20) == schedule.plan(steps, full_px, 20)
        assert schedule.canonical().canonical() == schedule.canonical()
        assert schedule.canonical(full_px).canonical(full_px) == schedule.canonical(full_px)

    @pytest.mark.parametrize("fields", [{"frequency": 0}, {"window_length": 0}, {"window_start": 1}, {"scale": 1}])
    def test_schedules_that_reduce_nothing_are_equal(self, fields: dict[str, float]) -> None:
        busy = {"policy": "stochastic", "frequency": 0.5, "kernel": "pooled", "batch_norm": "separate", "growth": "linear", "seed": 9}
        busy |= {"pooled_layers": "most_saved", "batch_growth": "constant_work"}
        assert Schedule(**(busy | fields)).canonical() == Schedule()

    def test_the_seed_counts_only_where_something_is_drawn(self) -> None:
        assert Schedule(frequency=0.5, seed=3).canonical() == Schedule(frequency=0.5)
        assert Schedule(policy="stochastic", frequency=1, seed=3).canonical() == Schedule(frequency=1)
        drawn = Schedule(policy="stochastic", frequency=0.5, seed=3)
        assert drawn.canonical() == drawn

    def test_layers_count_only_where_kernels_are_pooled(self) -> None:
        assert Schedule(frequency=0.5, pooled_layers="most_saved").canonical() == Schedule(frequency=0.5)
        pooled = Schedule(frequency=0.5, kernel="pooled", pooled_layers="most_saved")
        assert pooled.canonical() == pooled

    def test_batch_growth_counts_only_where_a_second_batch_fits(self) -> None:
        # 24 of 32 px: 1024 / 576 = 1.8 batches; 20 px: 2.56. Of 28 px, 0.75 is 21, rounded 20: 784 / 400 = 1.96.
        slight = Schedule(frequency=0.5, scale=0.75, batch_growth="constant_work")
        assert slight.canonical(32) == slight.canonical(28) == Schedule(frequency=0.5, scale=0.75)
        # Of 6 px, 0.75 is 4.5, rounded 4: 36 / 16 = 2.25. So nothing can be said where the full side is not known.
        assert slight.canonical() == slight.canonical(6) == slight
        strong = dataclasses.replace(slight, scale=0.625)
        assert strong.canonical(32) == strong


class TestFiles:
    @given(schedule=schedules)
    def test_what_is_saved_loads_equal(self, schedule: Schedule, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = tmp_path_factory.getbasetemp() / "schedule.yaml"
        schedule.save(path)
        assert Schedule.load(path) == schedule
        assert Schedule.from_dict(schedule.to_dict()) == schedule

    def test_provenance_is_kept_and_changes_nothing(self, tmp_path) -> None:
        path = tmp_path / "schedule.yaml"
        Schedule(frequency=0.5).save(path, found_with={"study": "digits", "trial": 3})
        assert Schedule.load(path) == Schedule(frequency=0.5)
        assert read_schedule_file(path)["found_with"] == {"study": "digits", "trial": 3}

    def test_a_hand_written_file_may_leave_fields_out(self, tmp_path) -> None:
        path = tmp_path / "schedule.yaml"
        path.write_text("frequency: 1\nscale: 0.25\n", encoding="utf-8")
        assert Schedule.load(str(path)) == Schedule(frequency=1, scale=0.25)

    def test_a_file_from_before_layers_and_batches_means_what_it_meant(self, tmp_path) -> None:
        path = tmp_path / "schedule.yaml"
        written = {
            "policy": "deterministic", "frequency": 0.5, "scale": 0.5, "kernel": "pooled", "batch_norm": "shared",
            "window_start": 0.0, "window_length": 1.0, "growth": "constant", "side_multiple": 4, "seed": 0,
        }  # fmt: skip
        path.write_text(yaml.safe_dump(written))
        assert Schedule.load(path) == Schedule(frequency=0.5, kernel="pooled", pooled_layers="all", batch_growth="none")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"frequency: [", "is not valid YAML"),
            (b"frequency: 2024-99-99", "is not valid YAML"),
            (b"- 1\n- 2\n", "must hold one mapping of field names to values"),
            (b"", "must hold one mapping"),
            (b"1: 2\n", "must hold one mapping"),
            (b"!!python/object/apply:os.getcwd []", "is not valid YAML"),
            (b"\xff\xfe\xfa", "cannot be read: it is not UTF-8 text"),
            (b"frequency: 2\n", "schedule field 'frequency' is 2"),
            (b"frequncy: 0.5\n", "the nearest valid name is 'frequency'"),
        ],
    )
    def test_a_bad_file_is_one_sentence_that_names_it(self, tmp_path, content: bytes, reason: str) -> None:
        path = tmp_path / "schedule.yaml"
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            Schedule.load(path)
        assert reason in str(error.value)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)

    def test_a_missing_file(self, tmp_path) -> None:
        with pytest.raises(InputError, match=r"schedule file '.*none\.yaml' cannot be read: No such file or directory"):
            Schedule.load(tmp_path / "none.yaml")

    def test_the_file_is_plain_yaml_with_every_field(self, tmp_path) -> None:
        path = tmp_path / "schedule.yaml"
        Schedule().save(path)
        assert list(yaml.safe_load(path.read_text())) == [field.name for field in dataclasses.fields(Schedule)]


class TestBadFields:
    @pytest.mark.parametrize(
        ("field", "value", "rule"),
        [
            ("policy", "stocastic", "one of deterministic, stochastic; the nearest valid name is 'stochastic'"),
            ("kernel", "pool", "one of full, pooled; the nearest valid name is 'pooled'"),
            ("kernel", None, "one of full, pooled"),
            ("batch_norm", "seperate", "one of shared, separate; the nearest valid name is 'separate'"),
            ("growth", 3, "one of constant, linear"),
            ("pooled_layers", "largest", "one of all, largest_maps, most_saved; the nearest valid name is 'largest_maps'"),
            ("batch_growth", "linear", "one of none, constant_work"),
            ("batch_growth", None, "one of none, constant_work; the nearest valid name is 'none'"),
            ("growth", ["linear"], "one of constant, linear; the nearest valid name is 'linear'"),
            ("frequency", 1.5, "a finite number of at least 0 and at most 1"),
            ("frequency", -0.1, "a finite number of at least 0 and at most 1"),
            ("frequency", math.nan, "a finite number of at least 0 and at most 1"),
            ("frequency", "0.5", "a finite number of at least 0 and at most 1"),
            ("frequency", True, "a finite number of at least 0 and at most 1"),
            ("window_start", 2, "a finite number of at least 0 and at most 1"),
            ("window_length", math.inf, "a finite number of at least 0 and at most 1"),
            ("scale", 0, "a finite number above 0 and at most 1"),
            ("scale", 1.01, "a finite number above 0 and at most 1"),
            ("side_multiple", 0, "a whole number of at least 1"),
            ("side_multiple", 4.0, "a whole number of at least 1"),
            ("seed", -1, "a whole number of at least 0"),
            ("seed", False, "a whole number of at least 0"),
        ],
    )
    def test_the_message_shows_value_rule_and_nearest_name(self, field: str, value: object, rule: str) -> None:
        with pytest.raises(InputError) as error:
            Schedule(**{field: value})
        assert str(error.value) == f"schedule field '{field}' is {value!r}, it must be {rule}"

    def test_an_unknown_field_names_the_nearest(self) -> None:
        with pytest.raises(InputError, match=r"schedule field 'window_lenght' is unknown, .*; the nearest valid name is 'window_length'$"):
            Schedule.from_dict({"window_lenght": 0.5})

    @pytest.mark.parametrize(("steps", "full_px", "name"), [(-1, 32, "total_steps"), (1.5, 32, "total_steps"), (3, 0, "full_px")])
    def test_a_plan_needs_whole_numbers(self, steps: int, full_px: int, name: str) -> None:
        with pytest.raises(InputError, match=f"^{name} is "):
            Schedule().plan(steps, full_px)

    def test_a_schedule_cannot_be_changed(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            Schedule().frequency = 1


def test_importing_schedules_loads_no_torch() -> None:
    code = "import sys; from trainers.schedule import Schedule; Schedule().plan(9, 32); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
