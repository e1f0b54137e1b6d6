"""Plans are checked against plans worked by hand and against brute force in decimals, never against the formula in schedule.py."""

import dataclasses
import math
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
from trainers.schedule import Plan, Schedule, Step, pooled_size, read_schedule_file, round_side

FULL = Step(32, "full")
HALF = Step(16, "full")


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
    batch_norm=st.sampled_from(get_args(schedule_module.BatchNorm)),
    window_start=st.floats(0, 1),
    window_length=st.floats(0, 1),
    growth=st.sampled_from(get_args(schedule_module.Growth)),
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
        plan = schedule.plan(steps, full_px)
        counts = plan.counts()
        assert len(plan) == sum(counts.values()) == steps
        for step, count in counts.items():
            assert count == sum(1 for other in plan if other == step)
            assert step == Step(full_px, "full") or (step.side_px < full_px and step.kernel == schedule.kernel)
            assert step.side_px == full_px or step.side_px % schedule.side_multiple == 0


class TestCanonical:
    @settings(deadline=None)
    @given(schedule=schedules, steps=st.integers(0, 60), full_px=st.integers(1, 300))
    def test_it_plans_the_same_and_is_its_own_canonical(self, schedule: Schedule, steps: int, full_px: int) -> None:
        canonical = schedule.canonical()
        assert canonical.plan(steps, full_px) == schedule.plan(steps, full_px)
        assert canonical.canonical() == canonical

    @pytest.mark.parametrize("fields", [{"frequency": 0}, {"window_length": 0}, {"window_start": 1}, {"scale": 1}])
    def test_schedules_that_reduce_nothing_are_equal(self, fields: dict[str, float]) -> None:
        busy = {"policy": "stochastic", "frequency": 0.5, "kernel": "pooled", "batch_norm": "separate", "growth": "linear", "seed": 9}
        assert Schedule(**(busy | fields)).canonical() == Schedule()

    def test_the_seed_counts_only_where_something_is_drawn(self) -> None:
        assert Schedule(frequency=0.5, seed=3).canonical() == Schedule(frequency=0.5)
        assert Schedule(policy="stochastic", frequency=1, seed=3).canonical() == Schedule(frequency=1)
        drawn = Schedule(policy="stochastic", frequency=0.5, seed=3)
        assert drawn.canonical() == drawn


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
