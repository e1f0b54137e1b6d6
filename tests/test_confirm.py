"""What confirmation says of a front, worked by hand."""

from __future__ import annotations

import dataclasses
import json

import pytest
from scipy import stats

from trainers.errors import InputError, RunError
from tuner.confirm import confirmed_points, points_to_confirm
from tuner.front import StudyFront
from tuner.trials import CompletedTrial

OBJECTIVES = {"relative_time": "minimize", "val_accuracy": "maximize"}


def trial(number, time, accuracy, rival=None, test_accuracy=None):
    return CompletedTrial(
        number=number, root=number, attempt=1, params={"frequency": 0.0 if rival else 0.5, "epochs": 4},
        values={"relative_time": time, "val_accuracy": accuracy}, rival=rival, seed=number, curve=[accuracy], counts={"32/full": 1},
        seconds={"train": 1.0}, observed_over_calibrated=None, test_accuracy=test_accuracy, device="", versions={}, commit="",
    )  # fmt: skip


def repeats(point, *tests):
    return [dataclasses.replace(point, test_accuracy=test) for test in tests]


def front(*trials, objectives=OBJECTIVES):
    return StudyFront(study="small", model="cifar_resnet8", full_px=32, objectives=objectives, completed=list(trials))


def test_a_point_that_was_there_by_luck_leaves():
    # In the search 0.6 looked better than 0.5; fresh seeds say otherwise, so the slower one is dominated.
    fast, lucky, slow = trial(0, 0.5, 0.80), trial(1, 0.6, 0.85), trial(2, 1.0, 0.90, "baseline")
    points = confirmed_points([fast, lucky, slow], [repeats(fast, 0.79, 0.81), repeats(lucky, 0.77, 0.79), repeats(slow, 0.90, 0.92)])
    assert [point.stays for point in points] == [True, False, True]
    assert [point.to_dict()["test_mean"] for point in points] == pytest.approx([0.80, 0.78, 0.91])
    assert points[0].to_dict()["test_deviation"] == pytest.approx(0.02 / 2**0.5)


def test_the_interval_is_students():
    point = trial(0, 0.5, 0.8)
    tests = [0.78, 0.80, 0.81, 0.79, 0.83]
    (confirmed,) = confirmed_points([point], [repeats(point, *tests)])
    # Two-sided 95 % of Student's t with 4 degrees of freedom is 2.776; the standard error of these five is 0.0086.
    assert confirmed.interval == pytest.approx((0.802 - 2.776 * 0.008602, 0.802 + 2.776 * 0.008602), abs=1e-5)
    assert stats.ttest_1samp(tests, confirmed.interval[0]).pvalue == pytest.approx(0.05)


def test_equal_repeats_have_an_interval_of_no_width():
    point = trial(0, 0.5, 0.8)
    assert confirmed_points([point], [repeats(point, 0.7, 0.7)])[0].interval == (0.7, 0.7)


def test_a_confirmation_is_strict_json():
    point = trial(0, 0.5, 0.8)
    written = json.dumps(confirmed_points([point], [repeats(point, 0.7, 0.8)])[0].to_dict(), allow_nan=False)
    assert json.loads(written)["test_accuracy"] == [0.7, 0.8]


def test_the_front_its_rivals_and_the_baseline_are_confirmed_once_each():
    best, beaten = trial(0, 0.4, 0.9), trial(1, 0.8, 0.85)
    baseline, shorter, useless = trial(2, 1.0, 0.88, "baseline"), trial(3, 0.5, 0.86, "shorter"), trial(4, 0.9, 0.5, "full")
    chosen = points_to_confirm(front(beaten, best, useless, baseline, shorter))
    assert [point.number for point in chosen] == [0, 3, 2]


def test_nothing_to_confirm_is_said():
    with pytest.raises(RunError, match="no completed trial yet"):
        points_to_confirm(front())
    with pytest.raises(InputError, match="confirm needs relative_time and val_accuracy"):
        points_to_confirm(front(trial(0, 0.5, 0.8), objectives={"val_loss": "minimize"}))
