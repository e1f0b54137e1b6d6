"""Fronts against the definition, hypervolume against an independent library, and the choice of one trial by hand-made cases."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from trainers.errors import InputError, RunError
from tuner.results.best import best_for_drop, best_for_time, knee
from tuner.results.front import baseline, front, hypervolume, hypervolume_2d, measured, non_dominated, rival_front, time_saved
from tuner.storage.trials import CompletedTrial

TWO = {"relative_time": "minimize", "val_accuracy": "maximize"}
NAN, INF = math.nan, math.inf


def trial(number, time, accuracy, rival=None, metrics=None, **values):
    own = {name: value for name, value in (("relative_time", time), ("val_accuracy", accuracy)) if value is not None}
    return CompletedTrial(
        number=number,
        root=number,
        attempt=0,
        params={"frequency": 0.0 if rival else 0.5},
        values=own | values,
        rival=rival,
        seed=0,
        curve=[],
        counts={},
        seconds={},
        observed_over_calibrated=None,
        test_accuracy=None,
        device="cpu",
        versions={},
        commit="",
        metrics=metrics or {},
    )


def numbers(trials):
    return [trial.number for trial in trials]


def by_definition(rows, directions):
    """The front by its definition, row against row in plain Python."""

    def better(a, b, direction):
        return a < b if direction == "minimize" else a > b

    def dominates(row, other):
        pairs = list(zip(row, other, directions, strict=True))
        return not any(better(b, a, way) for a, b, way in pairs) and any(better(a, b, way) for a, b, way in pairs)

    usable = [all(math.isfinite(value) for value in row) for row in rows]
    return [usable[i] and not any(usable[j] and dominates(other, row) for j, other in enumerate(rows)) for i, row in enumerate(rows)]


@st.composite
def tables(draw):
    columns = draw(st.integers(1, 4))
    cell = st.one_of(st.integers(-2, 2).map(float), st.floats(-1, 1), st.sampled_from([NAN, INF, -INF, 0.0, -0.0]))
    rows = draw(st.lists(st.lists(cell, min_size=columns, max_size=columns), max_size=25))
    rows += draw(st.lists(st.sampled_from(rows), max_size=5)) if rows else []
    directions = draw(st.lists(st.sampled_from(["minimize", "maximize"]), min_size=columns, max_size=columns))
    return draw(st.permutations(rows)), directions


@given(tables())
@settings(max_examples=400, deadline=None, derandomize=True)
def test_front_is_the_definitions(table):
    rows, directions = table
    values = np.array(rows, dtype=float).reshape(len(rows), len(directions))
    assert non_dominated(values, directions).tolist() == by_definition(rows, directions)


@pytest.mark.parametrize("columns", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("broken", [[], [0], [-1], [0, 1, 2, -1], list(range(0, 600, 3))])
def test_front_of_more_rows_than_one_chunk(columns, seed, broken):
    # 600 rows of few distinct values: many ties and duplicates, and more rows than are compared at a time.
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 12, size=(600, columns)).astype(float)
    values[broken] = NAN
    if broken:
        values[broken[0], 0] = -INF
    directions = ["minimize" if bit else "maximize" for bit in generator.integers(0, 2, columns)]
    assert non_dominated(values, directions).tolist() == by_definition(values.tolist(), directions)


@pytest.mark.parametrize("columns", [2, 3])
def test_front_larger_than_one_chunk(columns):
    # Rows on a simplex never dominate each other; each row lowered by a step in one column is dominated by its original.
    generator = np.random.default_rng(columns)
    simplex = generator.dirichlet(np.ones(columns), size=400)
    lowered = simplex.copy()
    lowered[:, 0] -= 1e-3
    values = np.concatenate([simplex, lowered])
    order = generator.permutation(len(values))
    mask = non_dominated(values[order], ["maximize"] * columns)
    assert mask.tolist() == by_definition(values[order].tolist(), ["maximize"] * columns)
    assert mask[order < 400].sum() > 300


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_no_rows_and_no_usable_rows(columns):
    directions = ["minimize"] * columns
    assert non_dominated(np.zeros((0, columns)), directions).tolist() == []
    assert non_dominated(np.full((1001, columns), NAN), directions).tolist() == [False] * 1001


def test_all_nan_first_row_hides_nobody_in_a_large_table():
    values = np.column_stack([np.arange(1500.0), -np.arange(1500.0)])
    values[0] = NAN
    assert non_dominated(values, ["minimize", "minimize"]).tolist() == [False] + [True] * 1499


def test_infinite_accuracy_does_not_take_the_front_over():
    assert non_dominated([[0.5, INF], [0.5, 0.9], [1.0, 0.95]], ["minimize", "maximize"]).tolist() == [False, True, True]


def test_wrong_shapes_and_directions_are_refused():
    with pytest.raises(InputError, match="2 directions"):
        non_dominated([[1.0, 2.0, 3.0]], ["minimize", "maximize"])
    with pytest.raises(InputError, match=r"'minimise'.*'minimize'"):
        non_dominated([[1.0]], ["minimise"])


def test_front_of_trials_is_sorted_by_first_objective_then_number():
    trials = [trial(5, 0.5, 0.8), trial(4, 1.0, 0.9), trial(2, 0.5, 0.8), trial(3, 0.6, 0.7), trial(1, 0.3, 0.2), trial(0, None, 0.99)]
    assert numbers(front(trials, TWO)) == [1, 2, 5, 4]
    assert numbers(front(trials[:5], {"val_accuracy": "maximize", "relative_time": "minimize"})) == [4, 2, 5, 1]
    assert front([], TWO) == []


def test_rival_front_has_full_resolution_trials_only():
    trials = [trial(0, 1.0, 0.9, "baseline"), trial(1, 0.2, 0.95), trial(2, 0.5, 0.8, "shorter"), trial(3, 0.6, 0.7, "full")]
    assert numbers(rival_front(trials, TWO)) == [2, 0]
    assert numbers(front(trials, TWO)) == [1]


def test_time_saved_is_against_the_fastest_full_resolution_trial_as_accurate():
    rivals = [trial(0, 1.0, 0.90, "baseline"), trial(1, 0.8, 0.88, "shorter"), trial(2, 0.5, 0.80, "full")]
    others = [trial(3, 0.1, 0.99)]
    point = trial(4, 0.4, 0.85)
    assert time_saved(point, rivals + others) == pytest.approx(0.5)
    assert time_saved(trial(5, 0.4, 0.88), rivals) == pytest.approx(0.5)
    assert time_saved(trial(6, 0.25, 0.79), rivals) == pytest.approx(0.5)
    assert time_saved(trial(7, 1.2, 0.89), rivals) == pytest.approx(-0.2)
    assert time_saved(rivals[1], rivals) == 0
    assert time_saved(trial(8, 0.4, 0.91), rivals) is None
    assert time_saved(point, others) is None
    assert time_saved(trial(9, 0.4, None), rivals) is None


def test_measures_come_from_values_then_metrics_and_are_finite():
    assert measured(trial(0, 0.5, None, metrics={"val_accuracy": 0.7, "relative_time": 9.0}), "relative_time") == 0.5
    assert measured(trial(0, 0.5, None, metrics={"val_accuracy": 0.7}), "val_accuracy") == 0.7
    assert measured(trial(0, 0.5, INF), "val_accuracy") is None
    assert measured(trial(0, 0.5, None), "val_accuracy") is None


def test_baseline_is_the_earliest_one():
    trials = [trial(7, 1.0, 0.9, "baseline"), trial(3, 1.0, 0.8, "baseline"), trial(1, 0.1, 0.1)]
    assert baseline(trials).number == 3
    assert baseline(trials[2:]) is None


def test_hypervolume_by_hand():
    # Reference time 1, accuracy 0: 0.5 x 0.8 for the fast point, and 0.3 x 0.1 more for the accurate one.
    trials = [trial(0, 0.5, 0.8), trial(1, 0.7, 0.9), trial(2, 0.9, 0.85), trial(3, 1.5, 0.99), trial(4, 0.1, NAN), trial(5, 0.5, 0.8)]
    random.Random(1).shuffle(trials)
    assert hypervolume(trials, TWO) == pytest.approx(0.43)
    assert hypervolume(trials, {"val_accuracy": "maximize", "relative_time": "minimize"}) == pytest.approx(0.43)
    assert hypervolume([], TWO) == 0
    assert hypervolume([trial(0, 1.0, 0.9, "baseline")], TWO) == 0


def test_hypervolume_needs_two_objectives_with_a_reference():
    assert hypervolume([trial(0, 0.5, 0.8)], {"val_accuracy": "maximize"}) is None
    assert hypervolume([trial(0, 0.5, 0.8, val_loss=1.0)], {"relative_time": "minimize", "val_loss": "minimize"}) is None
    assert hypervolume_2d([[1.0, 2.0, 3.0]], [4.0, 4.0, 4.0], ["minimize"] * 3) is None


@pytest.mark.parametrize("seed", range(20))
def test_hypervolume_agrees_with_optuna(seed):
    generator = np.random.default_rng(seed)
    points = np.round(generator.uniform(-0.2, 1.3, size=(seed * 5, 2)), 2)
    costs = points * [1.0, -1.0]
    inside = costs[(costs < [1.0, 0.0]).all(axis=1)]
    expected = compute_hypervolume(inside, np.array([1.0, 0.0])) if len(inside) else 0.0
    assert hypervolume_2d(points, [1.0, 0.0], ["minimize", "maximize"]) == pytest.approx(expected, abs=1e-12)


STUDY = [
    trial(0, 1.0, 0.700, "baseline"),
    trial(1, 0.6, 0.695),
    trial(2, 0.5, 0.694),
    trial(3, 0.3, 0.500),
    trial(4, 0.9, 0.710),
    trial(5, 0.75, 0.650, "shorter"),
    trial(6, 0.6, 0.698),
]


@pytest.mark.parametrize(("max_drop", "expected"), [(0, 0), (0.005, 6), (0.006, 2), (0.3, 3), (1, 3)])
def test_best_for_drop(max_drop, expected):
    study = [trial for trial in STUDY if trial.number != 4]
    assert best_for_drop(study, max_drop).number == expected
    assert best_for_drop(study[::-1], max_drop).number == expected


def test_best_for_drop_counts_the_limit_itself_although_shares_are_not_exact_in_binary():
    assert 0.8 - 0.1 > 0.7
    assert best_for_drop([trial(0, 1.0, 0.8, "baseline"), trial(1, 0.5, 0.7)], 0.1).number == 1


def test_best_for_drop_takes_an_accurate_enough_faster_one_over_the_baseline():
    assert best_for_drop(STUDY, 0).number == 4


@pytest.mark.parametrize(("max_time", "expected"), [(0.3, 3), (0.55, 2), (0.6, 6), (0.75, 6), (0.9, 4), (2, 4)])
def test_best_for_time(max_time, expected):
    assert best_for_time(STUDY, max_time).number == expected


def test_best_refuses_what_it_cannot_answer():
    with pytest.raises(RunError, match="baseline has not completed"):
        best_for_drop(STUDY[1:], 0.1)
    with pytest.raises(RunError, match=r"at most 0\.1 .*trial 3, takes 0\.3"):
        best_for_time(STUDY, 0.1)
    for choose in (lambda: knee([]), lambda: best_for_time([], 1), lambda: knee([trial(0, 0.5, None)])):
        with pytest.raises(RunError, match="no completed trial"):
            choose()


@pytest.mark.parametrize("max_drop", [-0.1, 1.5, NAN, "x", True])
def test_bad_drop_is_bad_input(max_drop):
    with pytest.raises(InputError, match="max-drop"):
        best_for_drop(STUDY, max_drop)


@pytest.mark.parametrize("max_time", [0, -1, INF, NAN])
def test_bad_time_is_bad_input(max_time):
    with pytest.raises(InputError, match="max-time"):
        best_for_time(STUDY, max_time)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.2, 0.1), (0.4, 0.8), (0.8, 0.85), (1.0, 0.9)], 1),
        ([(1.0, 0.9), (0.8, 0.85), (0.4, 0.8), (0.2, 0.1)], 2),
        ([(0.0, 0.0), (0.2, 0.6), (0.4, 0.8), (1.0, 1.0)], 1),  # both 0.4 above the chord: the smaller time
        ([(0.2, 0.1), (0.9, 0.2), (1.0, 0.9)], 2),  # all below the chord: the most accurate
        ([(0.2, 0.1), (1.0, 0.9)], 1),
        ([(0.2, 0.1)], 0),
        ([(0.2, 0.1), (0.2, 0.1)], 0),
        ([(0.2, 0.1), (0.4, 0.8), (0.4, 0.8), (1.0, 0.9)], 1),
        ([(0.2, 0.1), (0.3, 0.05), (0.4, 0.8), (0.5, 0.7), (1.0, 0.9)], 2),  # dominated ones play no part
    ],
)
def test_knee(points, expected):
    assert knee([trial(number, *point) for number, point in enumerate(points)]).number == expected
