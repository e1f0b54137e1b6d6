"""The sampler that knows the cost, where presets and the methods that join a training are searched."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from synthetic import STEPS_PER_EPOCH

from studies.space import canonical_params, possible_steps
from studies.spec import StudySpec
from trainers.schedule import Step
from tuner.samplers.features import Features
from tuner.samplers.known_cost import KnownCostSampler
from tuner.samplers.plan_cost import PlanCost
from tuner.storage.distributions import distributions


def spec_of(**search):
    return StudySpec.from_json_dict(
        {
            "name": "named",
            "dataset": {"name": "digits"},
            "model": "cifar_resnet8",
            "training": {"epochs": 12, "lr": 0.2, "weight_decay": 5e-4},
            "sampler": "known_cost",
            "search": {
                "frequency": {"low": 0.0, "high": 1.0, "step": 0.1},
                "scale": {"low": 0.375, "high": 0.875, "step": 0.125},
                "growth": ["constant", "linear"],
                "epochs": {"low": 4, "high": 12},
                **search,
            },
        }
    )


def cost_of(spec):
    """By pixels."""
    costs = {step: step.batches * (step.side_px / 32) ** 2 for step in possible_steps(spec.search, 32)}
    return PlanCost(spec.search, costs | {Step(32, "full"): 1.0}, STEPS_PER_EPOCH, spec.training.epochs * STEPS_PER_EPOCH)


PRESETS = spec_of(
    preset=["none", "interleaved", "progressive", "two_stage", "multigrid"],
    kernel=["full", "pooled"],
    window_length={"low": 0.4, "high": 1.0, "step": 0.1},
)
POINT = {"frequency": 0.0, "scale": 0.5, "kernel": "full", "window_length": 1.0, "growth": "constant", "preset": "none", "epochs": 12}


def rows(*points):
    """Features of points, with relative times that say nothing."""
    pool = [POINT, *({**POINT, "frequency": share, "preset": name} for share in (0.3, 1.0) for name in PRESETS.search["preset"].members)]
    pool += [{**POINT, "frequency": 1.0, "scale": 0.375, "kernel": "pooled", "growth": "linear", "window_length": 0.4, "epochs": 4}]
    features = Features(PRESETS.search, pool, np.linspace(0.5, 1.0, len(pool)))
    return features.rows([{**POINT, **point} for point in points], np.ones(len(points)))


def test_a_preset_that_the_fields_can_write_is_the_same_to_the_model():
    interleaved, written, other = rows(
        {"frequency": 1.0, "preset": "interleaved"},
        {"frequency": 0.5, "scale": 0.5, "kernel": "pooled"},
        {"frequency": 0.5, "scale": 0.5, "kernel": "full"},
    )
    assert interleaved == pytest.approx(written, abs=1e-12)
    assert interleaved != pytest.approx(other, abs=0.1)


def test_a_preset_lies_beside_the_schedule_that_comes_nearest():
    # Composer's grows from half the side to all of it within four fifths of the training.
    progressive, near, far = rows(
        {"frequency": 1.0, "preset": "progressive"},
        {"frequency": 1.0, "scale": 0.5, "window_length": 0.8, "growth": "linear"},
        {"frequency": 0.3, "scale": 0.875, "window_length": 0.4},
    )
    distances = [np.abs(progressive - other).sum() for other in (near, far)]
    # Apart by the preset's own column, and hardly more.
    assert 0.5 < distances[0] < 1.3
    assert distances[1] > 2 * distances[0]


def test_a_preset_at_frequency_zero_is_full_resolution():
    plain, named = rows({}, {"preset": "progressive"})
    assert named == pytest.approx(plain, abs=1e-12)


def searched(spec, accuracy, trials=40):
    """The points that a search proposes, given a made-up accuracy."""
    cost = cost_of(spec)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=KnownCostSampler(spec.search, cost, 0))
    rng = np.random.default_rng(0)
    for _ in range(trials):
        trial = study.ask(distributions(spec.search))
        assert trial.params == canonical_params(spec.search, trial.params)
        study.tell(trial, [cost(trial.params), accuracy(trial.params) + 0.01 * rng.standard_normal()])
    return [trial.params for trial in study.trials]


def by_time(spec, params):
    return 0.5 + 0.3 * min(1.0, cost_of(spec)(params))


@pytest.mark.parametrize("best", ["progressive", "multigrid"])
def test_finds_the_preset_that_is_better_than_its_time_says(best):
    points = searched(PRESETS, lambda params: by_time(PRESETS, params) + 0.12 * (params["preset"] == best), trials=22)
    # That is all of its points: a preset leaves only the epochs open.
    assert {params["epochs"] for params in points if params["preset"] == best} == {*range(4, 13)}


def test_finds_the_method_that_gains_accuracy():
    spec = spec_of(weight_sampling=["none", "pswa", "pwalks"])
    points = searched(spec, lambda params: by_time(spec, params) + 0.1 * (params["weight_sampling"] == "pwalks"))
    named = [params["weight_sampling"] for params in points[16:]]
    assert named.count("pwalks") > len(named) * 0.7
