"""The sampler that knows the cost: its mathematics against brute force, what it proposes, and that it finds more than chance does."""

from __future__ import annotations

import itertools
import logging
import math
import statistics

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from scipy import integrate, stats
from synthetic import REFERENCE, SPEC, SimulatedSearch, hypervolume, plan_cost, search, true_accuracy

from studies.space import TRAINING_FIELDS, canonical_params
from studies.spec import StudySpec
from trainers.errors import InputError
from tuner.samplers.accuracy_model import AccuracyModel, Kernels
from tuner.samplers.candidates import Candidates, from_shares, to_shares
from tuner.samplers.canonical import CanonicalSampler
from tuner.samplers.history import Known, Trials, informative
from tuner.samplers.improvement import FrontSteps
from tuner.samplers.known_cost import KnownCostSampler
from tuner.samplers.plan_cost import PlanCost
from tuner.storage.distributions import distributions

SPACE = SPEC.search


def gain_by_brute_force(times, accuracies, time, accuracy):
    """Hypervolume with the point less without it."""
    points = list(zip(times, accuracies, strict=True))
    return hypervolume([*points, (time, accuracy)]) - hypervolume(points)


def random_fronts():
    rng = np.random.default_rng(1)
    for count in (0, 1, 2, 5, 20):
        # Rounded, so that times and accuracies are tied here and there; some lie beyond the reference.
        yield rng.uniform(0.1, 1.3, count).round(1), rng.uniform(0.3, 0.9, count).round(1)


@pytest.mark.parametrize(("times", "accuracies"), list(random_fronts()))
def test_expected_gain_is_the_integral_of_the_gain(times, accuracies):
    front = FrontSteps.of(times, accuracies, REFERENCE)
    for time, mean, deviation in itertools.product((0.05, 0.4, 0.75, 1.2), (0.2, 0.6, 0.95), (0.02, 0.3)):
        wanted, _ = integrate.quad(
            lambda accuracy, time=time, mean=mean, deviation=deviation: (
                gain_by_brute_force(times, accuracies, time, accuracy) * stats.norm.pdf(accuracy, mean, deviation)
            ),
            mean - 8 * deviation,
            mean + 8 * deviation,
            points=sorted({mean, *np.clip(front.levels, mean - 8 * deviation, mean + 8 * deviation)}),
            limit=200,
        )
        found = front.expected_gain(np.array([time]), np.array([mean]), np.array([deviation]))
        assert found[0] == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize(("times", "accuracies"), list(random_fronts()))
def test_expected_gain_is_the_mean_of_drawn_gains(times, accuracies):
    rng = np.random.default_rng(2)
    front = FrontSteps.of(times, accuracies, REFERENCE)
    time, mean, deviation = np.array([0.3, 0.7]), np.array([0.7, 0.5]), np.array([0.1, 0.2])
    for place in range(2):
        drawn = rng.normal(mean[place], deviation[place], 2000)
        gains = [gain_by_brute_force(times, accuracies, time[place], accuracy) for accuracy in drawn]
        error = statistics.stdev(gains) / math.sqrt(len(gains))
        assert front.expected_gain(time, mean, deviation)[place] == pytest.approx(statistics.fmean(gains), abs=4 * error + 1e-12)


@pytest.mark.parametrize(("times", "accuracies"), list(random_fronts()))
def test_front_steps_have_the_hypervolume_of_their_points(times, accuracies):
    front = FrontSteps.of(times, accuracies, REFERENCE)
    assert front.hypervolume() == pytest.approx(hypervolume(list(zip(times, accuracies, strict=True))), abs=1e-12)
    assert (np.diff(front.starts) > 0).all()
    assert (np.diff(front.levels) > 0).all()
    assert [(times[place], accuracies[place]) for place in front.places] == list(zip(front.starts[1:], front.levels[1:], strict=True))


def test_gain_far_below_the_front_is_never_negative():
    front = FrontSteps.of(np.array([0.2]), np.array([0.9]), REFERENCE)
    gains = front.expected_gain(np.full(5000, 0.5), np.linspace(0.0, 0.9, 5000), np.full(5000, 0.01))
    assert (gains >= 0).all()
    assert (np.diff(gains) > -1e-30).all()


def filled_study(count, *, accuracy=true_accuracy, seed=0, states=(TrialState.COMPLETE,), noise=0.01):
    """A study of `count` random canonical trials, with a state each in turn."""
    rng, cost = np.random.default_rng(seed), plan_cost()
    study = optuna.create_study(directions=["minimize", "maximize"])
    points = Candidates(SPACE, {}).filling(2 ** max(1, (max(count, 2) - 1).bit_length()), rng)[:count]
    trials = []
    for point, state in zip(points, itertools.cycle(states), strict=False):
        params = canonical_params(SPACE, point)
        values = [cost(params), accuracy(params) + noise * rng.standard_normal()] if state == TrialState.COMPLETE else None
        trials.append(create_trial(state=state, params=params, distributions=distributions(SPACE), values=values))
    study.add_trials(trials)
    return study


def proposal(study, sampler, fixed=None):
    study.sampler = sampler
    if fixed:
        study.enqueue_trial(fixed)
    return study.ask(distributions(SPACE)).params


def ours(seed=0, cost=None, **options):
    return KnownCostSampler(SPACE, cost or plan_cost(), seed, **options)


@pytest.mark.parametrize("count", [0, 1, 11, 12, 60])
def test_proposals_are_canonical_members_of_the_space(count):
    study, sampler = filled_study(count), ours()
    for _ in range(3):
        params = proposal(study, sampler)
        assert params == canonical_params(SPACE, params)
        assert params.keys() == SPACE.searched.keys()


@pytest.mark.parametrize("count", [0, 30])
def test_full_resolution_proposals_choose_the_training_only(count):
    study, sampler = filled_study(count), ours()
    fixed = {field: value for field, value in SPEC.baseline_params().items() if field not in TRAINING_FIELDS}
    chosen = [proposal(study, sampler, fixed) for _ in range(4)]
    assert all(fixed.items() <= params.items() for params in chosen)
    assert len({tuple(params.values()) for params in chosen}) == 4


@pytest.mark.parametrize("fixed", [{"scale": 0.75}, {"kernel": "pooled", "frequency": 0.5}, {"lr": 0.1, "epochs": 7}])
def test_any_fixed_fields_stay(fixed):
    params = proposal(filled_study(20), ours(), fixed)
    assert fixed.items() <= params.items()
    assert params == canonical_params(SPACE, params)


def test_a_better_point_whose_canonical_form_gives_up_a_fixed_field_is_passed_over():
    base = SPEC.baseline_params() | {"scale": 0.75}
    points = [base, base | {"frequency": 0.5}]
    chosen = ours()._best_new(points, np.array([2.0, 1.0]), np.empty((0, 1)), {"scale": 0.75})
    assert (chosen["frequency"], chosen["scale"]) == (0.5, 0.75)


def test_the_same_seed_proposes_the_same():
    def proposals(seed):
        study, sampler = filled_study(14), ours(seed)
        return [proposal(study, sampler) for _ in range(2)]

    assert proposals(3) == proposals(3)
    assert proposals(3) != proposals(4)


def test_candidates_are_worth_what_they_gain_at_their_exact_time():
    sampler, cost = ours(reference=REFERENCE), plan_cost()
    acquisition, _ = sampler._judge(sampler._history.read(filled_study(40).trials), {})
    points = Candidates(SPACE, {}).filling(128, np.random.default_rng(1))
    values, times = acquisition(points), np.array([cost(point) for point in points])
    assert (values[times >= REFERENCE[0]] == 0).all()
    assert (values[times < REFERENCE[0]] > 0).all()
    means, deviations = acquisition.model.predict(sampler._pricing.features.rows(points, times), times)
    steps = acquisition.front
    front = list(zip(steps.starts[1:], steps.levels[1:], strict=True))
    draws = np.random.default_rng(2).standard_normal(400)
    for place in np.argsort(values)[-10:]:
        drawn = [hypervolume([*front, (times[place], accuracy)]) for accuracy in means[place] + deviations[place] * draws]
        gains = np.array(drawn) - hypervolume(front)
        assert values[place] * times[place] == pytest.approx(gains.mean(), abs=4 * gains.std() / 20 + 1e-12)


def test_a_field_that_costs_more_is_not_proposed_however_much_it_gains():
    def dear(params):
        return 10.0 if params["kernel"] == "pooled" and params["frequency"] > 0 else plan_cost()(params)

    def better_pooled(params):
        return true_accuracy(params | {"kernel": "full"}) + 0.05 * (params["kernel"] == "pooled" and params["frequency"] > 0)

    for cost, wanted in ((plan_cost(), {"pooled"}), (dear, {"full"})):
        study = filled_study(60, accuracy=better_pooled)
        assert {proposal(study, ours(seed, cost))["kernel"] for seed in range(2)} == wanted


def test_a_pending_trial_changes_the_proposal():
    studies = [filled_study(40), filled_study(40)]
    proposal(studies[0], ours())  # stays RUNNING
    studies[1].tell(studies[1].ask(), state=TrialState.FAIL)
    first, second = (proposal(study, ours()) for study in studies)
    assert first != second


def test_pending_trials_leave_less_to_learn_beside_them():
    study, sampler = filled_study(40), ours()
    known = sampler._history.read(study.trials)
    acquisition, _ = sampler._judge(known, {})
    point = proposal(study, sampler)
    pending = Known(point, plan_cost()(point), None, TrialState.RUNNING)
    with_pending, _ = sampler._judge([*known, pending], {})
    assert with_pending([point])[0] < 0.5 * acquisition([point])[0]


def test_failed_stopped_and_nan_trials_teach_nothing():
    clean, mixed = filled_study(15), filled_study(15)
    extra = filled_study(9, seed=8, states=(TrialState.FAIL,)).trials
    mixed.add_trials(extra)
    known = [ours()._history.read(study.trials) for study in (clean, mixed)]
    assert known[0] == known[1]
    params = canonical_params(SPACE, Candidates(SPACE, {}).filling(2, np.random.default_rng(5))[0])
    for state, values in ((TrialState.COMPLETE, [0.5, math.inf]), (TrialState.PRUNED, None)):
        mixed.add_trial(create_trial(state=state, params=params, distributions=distributions(SPACE), values=values))
    assert [trial.accuracy for trial in ours()._history.read(mixed.trials)[15:]] == [None]


def test_a_stopped_trial_teaches_what_is_guessed_and_is_on_no_front():
    study = filled_study(20)
    params = canonical_params(SPACE, Candidates(SPACE, {}).filling(2, np.random.default_rng(5))[0])
    study.add_trial(create_trial(state=TrialState.PRUNED, params=params, distributions=distributions(SPACE)))
    sampler = ours(guess=lambda trial: 0.99)
    known = sampler._history.read(study.trials)
    assert known[-1].accuracy == 0.99
    acquisition, good = sampler._judge(known, {})
    assert params not in good
    assert acquisition.model.predict(*sampler._pricing([params]))[0][0] > 0.7


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_equal_accuracies_and_repeats_do_no_harm(noise):
    study = filled_study(16, accuracy=lambda params: 0.5, noise=noise)
    study.add_trials(study.trials)
    assert proposal(study, ours()) not in [trial.params for trial in study.trials[:-1]]


def test_repeats_show_the_noise():
    rows = np.repeat(np.linspace(0, 1, 8), 6)[:, None]
    rng = np.random.default_rng(0)
    means = 0.5 + 0.2 * np.sin(3 * rows[:, 0])
    model = AccuracyModel(rows, np.ones(48), means + 0.03 * rng.standard_normal(48), Kernels())
    # Of log odds, whose derivative by p is 1 / (p (1 - p)).
    scatter = math.sqrt(np.mean((0.03 / (means * (1 - means))) ** 2))
    assert math.sqrt(model._gp.noise_var) * model._deviation == pytest.approx(scatter, rel=0.25)
    found, deviations = model.predict(rows, np.ones(48))
    # Six trainings a point leave 0.012 of it, neighbours a little less.
    assert math.sqrt(np.mean((found - means) ** 2)) < 0.015
    assert (deviations < 0.015).all()


def test_accuracy_is_expected_to_rise_with_the_time_where_nothing_is_known():
    times = np.linspace(0.2, 0.6, 20)
    rows = np.random.default_rng(0).random((20, 3))
    model = AccuracyModel(rows, times, 0.6 + 0.1 * np.log(times), Kernels())
    far = np.full((2, 3), 50.0)
    means, _ = model.predict(far, np.array([0.1, 1.0]))
    assert means == pytest.approx([0.6 + 0.1 * math.log(0.1), 0.6], abs=0.01)


def test_a_failed_training_does_not_hide_the_others():
    rng = np.random.default_rng(0)
    rows, new = rng.random((30, 2)), rng.random((200, 2))
    accuracies = 0.8 + 0.05 * rows[:, 0]
    accuracies[3] = 0.1
    model = AccuracyModel(rows, np.ones(30), accuracies, Kernels())
    assert model.predict(new, np.ones(200))[0] == pytest.approx(0.8 + 0.05 * new[:, 0], abs=0.05)


def test_fifteen_hundred_trials_are_more_than_the_model_sees(caplog):
    study, sampler = filled_study(1500), ours()
    with caplog.at_level(logging.INFO, "tuner"):
        params = proposal(study, sampler)
        proposal(study, sampler)
    assert params == canonical_params(SPACE, params)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("tuner")] == [
        "of 1500 trials the model of known_cost sees 500: the 250 nearest to the front, the others evenly over their times"
    ]


def test_the_trials_that_are_seen_hold_the_front_and_reach_over_all_times():
    rng = np.random.default_rng(0)
    times, accuracies = rng.random(300), rng.random(300)
    trials = Trials.of(Known({}, time, accuracy, TrialState.COMPLETE) for time, accuracy in zip(times, accuracies, strict=True))
    chosen = informative(trials, 40)
    assert len(chosen) == len(set(chosen)) == 40
    assert list(chosen) == sorted(chosen)
    front = [i for i in range(300) if not any(times[j] < times[i] and accuracies[j] > accuracies[i] for j in range(300))]
    assert set(front) <= set(chosen)
    assert np.histogram(times[chosen], bins=5, range=(0, 1))[0].min() >= 3
    assert list(informative(trials, 300)) == list(range(300))


def test_startup_fills_the_times_evenly():
    study, sampler, cost = filled_study(0), ours(), plan_cost()
    times = [cost(proposal(study, sampler)) for _ in range(16)]
    spread = np.sort([cost(point) for point in Candidates(SPACE, {}).filling(1024, np.random.default_rng(0))])
    useful = spread[spread < 1.1]
    quarters = np.histogram(times, bins=np.quantile(useful, [0, 0.25, 0.5, 0.75, 1]))[0]
    assert quarters.min() >= 3


def test_shares_and_members_are_inverse():
    shares = np.linspace(0.01, 0.99, 30)
    for field, domain in SPACE.searched.items():
        members = from_shares(domain, shares)
        assert all(domain.contains(member) for member in members), field
        assert from_shares(domain, to_shares(domain, members)) == pytest.approx(members) if field not in NAMED else True
        assert len(set(members)) > 1


NAMED = ("policy", "kernel", "batch_norm", "growth")


def test_objectives_in_the_other_order():
    study = filled_study(30)
    turned = optuna.create_study(directions=["maximize", "minimize"])
    turned.add_trials(
        create_trial(params=trial.params, distributions=trial.distributions, values=trial.values[::-1]) for trial in study.trials
    )
    assert proposal(turned, ours(objectives=("val_accuracy", "relative_time"))) == proposal(study, ours())


@pytest.mark.parametrize("objectives", [("relative_time", "val_loss"), ("val_accuracy",), ("relative_time", "val_accuracy", "peak_memory")])
def test_other_objectives_are_refused_in_one_sentence(objectives):
    with pytest.raises(InputError, match=r"^sampler is 'known_cost', it needs the objectives .* not .*, for which 'tpe' is there$"):
        ours(objectives=objectives)


def test_a_space_with_few_points_is_not_exhausted():
    spec = StudySpec.from_json_dict(
        SPEC.to_json_dict()
        | {"search": {"frequency": [0.0, 0.5], "epochs": {"low": 6, "high": 12, "step": 6}, "lr": 0.2, "weight_decay": 5e-4}}
    )
    cost = PlanCost(spec.search, plan_cost().costs, 40, 480)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=KnownCostSampler(spec.search, cost, 0))
    asked = []
    for _ in range(16):
        trial = study.ask(distributions(spec.search))
        asked.append(tuple(trial.params.values()))
        study.tell(trial, [cost(trial.params), 0.5])
    assert len(set(asked[:4])) == 4


def test_finds_more_than_chance_in_the_same_time():
    def found(sampler, seed):
        return search(sampler, seed, budget=22)[-1].hypervolume

    gains = [found(ours(seed), seed) - found(CanonicalSampler(optuna.samplers.RandomSampler(seed=seed), SPACE), seed) for seed in (1, 2)]
    assert min(gains) > 0.01


def test_several_workers_propose_different_points():
    search_ = SimulatedSearch(ours(), true_accuracy, 0, 0.01)
    search_.run(14, workers=6)
    params = [tuple(trial.params.values()) for trial in search_.study.trials]
    assert len(set(params)) == len(params)
