"""Importance of fields: shares of variance that can be worked by hand, and what a forest makes of told trials."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.filled import filled_store, tiny_spec
from tuner.report.document import study_document
from tuner.report.importance import FEWEST, Share, field_importance, sensitivity
from tuner.storage.opening import open_storage

SPACE = tiny_spec().search


def shares_of(predicted):
    return sensitivity(SPACE, lambda points: np.array([predicted(point) for point in points], dtype=np.float64))


def test_a_sum_of_two_fields():
    # Frequency is one of 0, 1/4 ... 1, whose variance is 1/8; the policy's part is 0 or 1, with variance 1/4: 4/8 and 1/4 of 3/4.
    found = shares_of(lambda point: 2 * point["frequency"] + (point["policy"] == "stochastic"))
    assert list(found)[:2] == ["frequency", "policy"]
    assert found["frequency"] == pytest.approx((2 / 3, 2 / 3), abs=0.04)
    assert found["policy"] == pytest.approx((1 / 3, 1 / 3), abs=0.04)
    assert found["lr"] == pytest.approx((0, 0), abs=0.01)


def test_fields_that_only_act_together():
    # 1 in a quarter of the space, variance 3/16. Each field alone moves the mean between 0 and 1/2, variance 1/16; the rest is of both.
    found = shares_of(lambda point: point["policy"] == "stochastic" and point["kernel"] == "pooled")
    for field in ("policy", "kernel"):
        assert found[field] == pytest.approx((1 / 3, 2 / 3), abs=0.05)


def test_a_logarithmic_field_is_even_over_its_logarithm():
    # 0.01 to 0.1: half of the space is below 0.0316, so the indicator is one in half of it and explains all.
    found = shares_of(lambda point: point["lr"] < 10**-1.5)
    assert found["lr"] == pytest.approx((1, 1), abs=0.02)
    means = itertools.accumulate(share.in_all for share in found.values())
    assert next(means) == pytest.approx(1, abs=0.02)


def test_what_nothing_changes_has_no_important_field():
    assert set(shares_of(lambda point: 0.5).values()) == {Share(0.0, 0.0)}


@pytest.fixture
def store(tmp_path):
    """Sixty told trials: accuracy is 0.1 an epoch, less 0.05 times the frequency, and falls a little with the trial's number."""
    return filled_store(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), 60)


@pytest.fixture
def completed(store):
    return store.trials().completed


def test_trials_show_what_decided_them(completed):
    found = field_importance(tiny_spec(), completed)
    accuracy = found["val_accuracy"]
    assert next(iter(accuracy.shares)) == "epochs"
    # Epochs 2 to 4 vary 0.1 an epoch, 0.0067; frequencies from 1/4 to 1 vary 0.05 times as much, 0.0002.
    assert accuracy.shares["epochs"].alone > 0.85
    assert accuracy.explained > 0.8
    assert next(iter(found["relative_time"].shares)) in ("epochs", "frequency")


def test_full_resolution_says_nothing_about_schedules(completed):
    reduced = [trial for trial in completed if trial.rival is None]
    assert FEWEST < len(reduced) < len(completed)
    assert field_importance(tiny_spec(), completed) == field_importance(tiny_spec(), reduced)


def test_too_few_trials_say_nothing(completed):
    reduced = [trial for trial in completed if trial.rival is None]
    assert field_importance(tiny_spec(), reduced[: FEWEST - 1]) == {}
    assert field_importance(tiny_spec(), reduced[:FEWEST]) != {}


def test_the_page_has_it_by_objective_without_what_decides_nothing(store):
    shown = {one["objective"]: one for one in study_document(store)["importance"]}
    assert list(shown) == ["training time", "validation accuracy"]
    accuracy = shown["validation accuracy"]
    assert accuracy["fields"][0][0] == "epochs"
    assert 0.8 < accuracy["explained"] <= 1
    assert all(0.005 <= in_all <= 1 for _, _, in_all in accuracy["fields"])
    assert "batch_norm" not in [field for field, _, _ in accuracy["fields"]]
