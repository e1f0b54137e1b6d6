"""The stoppers by hand and against brute force, with shuffled, tied, NaN, late and repeated reports, and in searches in simulated time."""

from __future__ import annotations

import itertools
import math
import random
from functools import partial

import numpy as np
import pytest
from filled import tiny_spec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler
from replayed import made_up_table
from sklearn.linear_model import Ridge

from studies.spec import StudySpec
from trainers.errors import InputError
from tuner.replay.answers import Replay
from tuner.replay.simulation import Limits, simulate
from tuner.replay.surrogate import Surrogate
from tuner.results.stored import study_front
from tuner.samplers.canonical import CanonicalSampler
from tuner.stoppers import Stop
from tuner.stoppers.build import build_stopper
from tuner.stoppers.dominance import EXEMPT_FRAC, Dominance, is_exempt
from tuner.stoppers.pareto_asha import MOST_TRIALS, ParetoAsha, count_better, crowding
from tuner.storage.opening import open_storage
from tuner.storage.records import expected_accuracy
from tuner.storage.store import StudyStore
from tuner.storage.trials import UnmeasuredTrial

STOPPERS = {"dominance": partial(Dominance, 0.8), "pareto_asha": ParetoAsha}
# Root trials that may be stopped, and one that may not.
ROOTS = [root for root in range(2000) if not is_exempt(root, 0)]
EXEMPT = next(root for root in range(2000) if is_exempt(root, 0))


def trial(root, rival=None):
    return UnmeasuredTrial(number=root, root=root, attempt=1, params={}, rival=rival, seed=None)


def even(total, epochs=10):
    """Relative times of equally dear epochs."""
    return [total * (epoch + 1) / epochs for epoch in range(epochs)]


def rising(last, epochs=10):
    return [last * (epoch + 1) / epochs for epoch in range(epochs)]


def finished(stopper, root, last, total, rival=None, epochs=10):
    assert stopper.decide(trial(root, rival), epochs, rising(last, epochs), even(total, epochs)) is None


# -- dominance, by hand


@pytest.fixture
def dominance():
    """Straight lines to 0.6, 0.61 ... 0.79 in 0.5 of the baseline's time: each ends at ten times the accuracy of its first epoch."""
    stopper = Dominance(0.8)
    for place, root in enumerate(ROOTS[:20]):
        finished(stopper, root, 0.6 + place / 100, 0.5)
    return stopper


def test_a_hopeless_trial_is_stopped_and_a_good_one_is_not(dominance):
    stop = dominance.decide(trial(ROOTS[30]), 3, rising(0.1)[:3], even(0.5))
    assert stop.expected == pytest.approx(0.1, abs=0.1)
    assert stop.reason.startswith("with 80.0 % confidence it reaches at most ")
    assert stop.reason.endswith(" accuracy in 50.0 % of the baseline's time, and finished trials are better in both")
    assert dominance.decide(trial(ROOTS[31]), 3, rising(0.9)[:3], even(0.5)) is None


def test_what_is_cheaper_than_every_finished_trial_goes_on(dominance):
    assert dominance.decide(trial(ROOTS[30]), 3, rising(0.1)[:3], even(0.49)) is None
    assert dominance.decide(trial(ROOTS[30]), 3, rising(0.1)[:3], even(0.51)) is not None


def test_one_lucky_trial_stops_nothing():
    """One is far above all others, as is what they predict; only a second one like it may end anything."""
    stopper = Dominance(0.8)
    for place, root in enumerate(ROOTS[:20]):
        finished(stopper, root, 0.6 + place / 100, 0.9)
    finished(stopper, ROOTS[20], 0.79, 0.3)
    asked = (trial(ROOTS[30]), 5, rising(0.5)[:5], even(0.4))
    assert stopper.decide(*asked) is None
    finished(stopper, ROOTS[21], 0.79, 0.3)
    assert stopper.decide(*asked) is not None


@pytest.mark.parametrize(("confidence", "needed"), [(0.7, 3), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_nothing_is_stopped_before_enough_trials_have_completed(confidence, needed):
    """ceil((n + 1) confidence) <= n: as many as the interval needs, and two for the front."""
    stopper = Dominance(confidence)
    for count, root in enumerate(ROOTS[: needed + 1]):
        stopped = stopper.decide(trial(ROOTS[500 + count]), 5, rising(0.05)[:5], even(0.6))
        assert (stopped is not None) == (count >= needed)
        finished(stopper, root, 0.1 if count % 2 else 0.9, 0.5)


def test_a_trial_with_few_epochs_says_nothing_about_earlier_shares():
    """After a tenth of a training nothing is known of those with four epochs."""
    stopper = Dominance(0.8)
    for place, root in enumerate(ROOTS[:10]):
        finished(stopper, root, 0.8 + place / 100, 0.5, epochs=4)
    asked = trial(ROOTS[30])
    assert stopper.decide(asked, 1, rising(0.05)[:1], even(0.6)) is None
    assert stopper.decide(asked, 2, rising(0.05)[:2], even(0.6)) is None
    assert stopper.decide(asked, 3, rising(0.05)[:3], even(0.6)) is not None


def test_start_points_are_never_stopped_and_rivals_by_rivals_only(dominance):
    hopeless = (3, rising(0.1)[:3], even(0.6))
    for rival in ("baseline", "shorter", "full"):
        assert dominance.decide(trial(ROOTS[30], rival), *hopeless) is None
    for root in ROOTS[40:42]:
        finished(dominance, root, 0.7, 0.55, rival="shorter")
    assert dominance.decide(trial(ROOTS[30], "full"), *hopeless) is not None
    for rival in ("baseline", "shorter"):
        assert dominance.decide(trial(ROOTS[30], rival), *hopeless) is None


def test_rivals_end_schedules():
    stopper = Dominance(0.8)
    for place, root in enumerate(ROOTS[:10]):
        finished(stopper, root, 0.6 + place / 100, 0.5, rival="full")
    assert stopper.decide(trial(ROOTS[30]), 3, rising(0.1)[:3], even(0.5)) is not None


def test_an_exempt_share_always_runs_to_its_end(dominance):
    assert dominance.decide(trial(EXEMPT), 3, rising(0.1)[:3], even(0.6)) is None
    drawn = [is_exempt(root, 0) for root in range(10_000)]
    assert sum(drawn) / 10_000 == pytest.approx(EXEMPT_FRAC, abs=0.01)
    assert drawn != [is_exempt(root, 1) for root in range(10_000)]
    # For ever: an other draw in a later version would break a running study's estimate.
    assert [root for root in range(60) if drawn[root]] == [14, 34, 50]


def test_censored_trials_teach_nothing(dominance):
    asked = (trial(ROOTS[40]), 3, rising(0.4)[:3], even(0.5))
    before = dominance.decide(*asked)
    for root in ROOTS[50:90]:
        dominance.decide(trial(root), 3, rising(0.99)[:3], even(0.1))
    assert dominance.decide(*asked) == before


def certain(stopper):
    """Two perfect trials that cost nothing: whatever can be bounded is stopped, and says its bound."""
    for _ in range(2):
        stopper._all.add(0.001, 1.0)


def test_the_outcome_is_that_of_refits_without_each_trial():
    """Against scikit-learn's ridge, fitted again for each trial that is left out."""
    rng = np.random.default_rng(3)
    stopper, rows, lasts = Dominance(0.8), [], []
    times = np.cumsum(rng.uniform(0.01, 0.05, (25, 8)), axis=1)
    for root, of_trial in zip(ROOTS, times, strict=False):
        now, last = rng.uniform(0.2, 0.5), rng.uniform(0.5, 0.6)
        curve = [0.1, 0.15, now, 0.5, 0.5, 0.5, 0.5, last]
        assert stopper.decide(trial(root), 8, curve, of_trial) is None
        rows.append(known_after_three(curve, of_trial))
        lasts.append(math.log(last / (1 - last)))
    certain(stopper)
    asked = (0.1, 0.15, 0.12)
    stop = stopper.decide(trial(ROOTS[100]), 3, asked, list(2 * times[0]))
    rows, lasts = np.array(rows), np.array(lasts)
    row = (known_after_three(asked, 2 * times[0]) - rows.mean(axis=0)) / rows.std(axis=0)
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    bounds = []
    for left_out in range(25):
        others = np.arange(25) != left_out
        model = Ridge(alpha=1.0).fit(rows[others], lasts[others])
        bounds.append(model.predict(row[None])[0] + lasts[left_out] - model.predict(rows[left_out][None])[0])
    expected = Ridge(alpha=1.0).fit(rows, lasts).predict(row[None])[0]
    assert stop.expected == pytest.approx(1 / (1 + math.exp(-expected)))
    # ceil(26 x 0.8) = 21.
    assert f"at most {100 / (1 + math.exp(-sorted(bounds)[20])):.1f} % accuracy" in stop.reason


def known_after_three(curve, times):
    """Log odds of the accuracy, log of the time, and of the share of it that is spent, after three of eight epochs."""
    return np.array([math.log(curve[2] / (1 - curve[2])), math.log(times[7]), math.log(times[2] / times[7])])


def test_shares_between_two_epochs_are_interpolated():
    """Half of five epochs lies between the second and the third; half of four after the second."""
    lasts = {root: 0.5 + 0.01 * place for place, root in enumerate(ROOTS[:12])}

    def told(epochs, curve):
        stopper = Dominance(0.8)
        for root, last in lasts.items():
            stopper.decide(trial(root), epochs, curve(last), even(0.5, epochs))
        certain(stopper)
        return stopper.decide(trial(ROOTS[50]), 2, [0.0, 0.1], even(0.6, 4)).expected

    five = told(5, lambda last: [0.9, last - 0.1, last + 0.1, 0.9, last])
    assert told(4, lambda last: [0.9, last, 0.9, last]) == pytest.approx(five)


def test_the_interval_holds_what_it_promises():
    """Of 400 trainings that are drawn like the completed ones, about a fifth end above their bound at confidence 0.8."""
    rng = np.random.default_rng(0)
    above = []
    for _ in range(400):
        stopper = Dominance(0.8)
        middles = rng.uniform(0.2, 0.6, 21)
        lasts = 0.2 + middles + rng.normal(0, 0.03, 21)
        for root, middle, last in zip(ROOTS, middles[:20], lasts[:20], strict=False):
            stopper.decide(trial(root), 4, [0.1, middle, middle, last], even(0.5, 4))
        certain(stopper)
        stop = stopper.decide(trial(ROOTS[50]), 2, [0.1, middles[20]], even(0.5, 4))
        above.append(100 * lasts[20] > float(stop.reason.split("at most ")[1].split(" %")[0]))
    assert 0.14 < np.mean(above) < 0.26


# -- pareto_asha, by hand and by brute force


def ranks_by_brute_force(rows):
    """Non-dominated rank of each row by peeling, NaN rows last."""
    ranks = [None if math.isfinite(sum(row)) else len(rows) for row in rows]
    for rank in range(len(rows)):
        left = [place for place, known in enumerate(ranks) if known is None]
        front = [place for place in left if not any(dominates(rows[other], rows[place]) for other in left)]
        for place in front:
            ranks[place] = rank
    return ranks


def dominates(one, other):
    return one[0] <= other[0] and one[1] >= other[1] and tuple(one) != tuple(other)


def distances_by_brute_force(rows, ranks):
    """Deb's crowding distance, duplicates once."""
    distances = [0.0] * len(rows)
    for rank in set(ranks) - {len(rows)}:
        front = sorted({tuple(row) for row, other in zip(rows, ranks, strict=True) if other == rank})
        for place, point in enumerate(front):
            if place in (0, len(front) - 1):
                distance = math.inf
            else:
                spans = [abs(front[0][column] - front[-1][column]) for column in (0, 1)]
                distance = sum(abs(front[place + 1][column] - front[place - 1][column]) / spans[column] for column in (0, 1))
            for index, row in enumerate(rows):
                if tuple(row) == point:
                    distances[index] = distance
    return distances


VALUES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, math.nan]) | st.floats(0, 1, width=16)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12), st.randoms(use_true_random=False))
@example([(math.nan, 0.5), (0.5, 0.5), (0.5, 0.5), (math.nan, math.nan)], random.Random(0))
def test_better_trials_are_counted_as_by_brute_force(rows, shuffled):
    ranks = ranks_by_brute_force(rows)
    distances = distances_by_brute_force(rows, ranks)
    worst = len(rows)
    expected = [
        sum(
            ranks[other] < ranks[mine]
            or (ranks[mine] < worst and ranks[other] == ranks[mine] and distances[other] > distances[mine] + 1e-12)
            for other in range(len(rows))
        )
        for mine in range(len(rows))
    ]
    order = list(range(len(rows)))
    shuffled.shuffle(order)
    values = np.array([rows[place] for place in order])
    assert [count_better(values, order.index(mine)) for mine in range(len(rows))] == expected


def test_crowding_by_hand():
    front = np.array([(0.2, 0.5), (1.0, 1.0), (0.0, 0.0), (0.2, 0.5), (0.6, 0.75)])
    # (0.6 - 0) / 1 + (0.75 - 0) / 1, and (1 - 0.2) / 1 + (1 - 0.5) / 1.
    assert crowding(front).tolist() == pytest.approx([1.35, math.inf, math.inf, 1.35, 1.3])
    assert crowding(front[:2]).tolist() == [math.inf, math.inf]


def asha_decisions(stopper, arrivals):
    """Whether each trial, (final time, accuracy), is stopped at its first rung."""
    return [stopper.decide(trial(root), 1, [accuracy], [0.1, total]) is not None for root, (total, accuracy) in enumerate(arrivals)]


def test_one_in_three_goes_on_at_a_rung():
    arrivals = [(0.5, 0.5), (0.5, 0.4), (0.5, 0.6), (0.4, 0.3), (0.3, 0.2), (0.5, 0.55), (0.2, 0.1)]
    # The second is the worse of two. (0.4, 0.3) and (0.3, 0.2) are ends of the front when they come, as good as its other end. Of six two
    # go on, and three are better than (0.5, 0.55). The last one is an end of the front again.
    assert asha_decisions(ParetoAsha(first_rung=0.1), arrivals) == [False, True, False, False, False, True, False]
    # After (0.35, 0.25) the point (0.4, 0.3) is no end when it comes, and of five one goes on.
    assert asha_decisions(ParetoAsha(first_rung=0.1), [(0.35, 0.25), *arrivals])[-4:] == [True, False, True, False]


def test_a_trial_is_asked_once_at_each_rung():
    stopper = ParetoAsha(first_rung=0.1)
    assert asha_decisions(stopper, [(0.5, 0.5)]) == [False]
    for root in range(1, 9):
        stopper.decide(trial(root), 1, [0.9], [0.1, 0.5])
    assert stopper.decide(trial(0), 1, [0.5], [0.1, 0.5]) is None
    late = trial(20)
    stop = stopper.decide(late, 1, [0.4], [0.1, 0.5])
    assert stop == Stop("at 10.0 % of the baseline's time 9 of 10 trials were better, and 1 in 3 goes on", None)
    # Told again, as after a lost answer; later it would be no worse.
    assert stopper.decide(late, 1, [0.4], [0.1, 0.5]) == stop


def test_several_rungs_at_once_are_each_looked_at():
    """A launch reports every two seconds: what was not looked at between is in the curve."""
    stopper = ParetoAsha(first_rung=0.1)
    for root in range(6):
        assert stopper.decide(trial(root, "shorter"), 5, [0.1, 0.2, 0.3, 0.4, 0.5], even(0.5, 5)) is None
    # At 10 % it is the best of seven, at 30 % the worst.
    times = even(0.5, 5)
    assert stopper.decide(trial(6), 1, [0.15], times) is None
    stop = stopper.decide(trial(6), 4, [0.15, 0.16, 0.2, 0.2], times)
    assert stop.reason.startswith("at 30.0 % of the baseline's time 6 of 7 trials")
    one_report = stopper.decide(trial(7), 4, [0.15, 0.16, 0.2, 0.2], times)
    assert one_report is not None


def test_accuracy_at_a_rung_is_interpolated():
    stopper = ParetoAsha(first_rung=0.1)
    # After 0.1 it has 0.4; the other one has 0.39 after an epoch of exactly that price.
    assert stopper.decide(trial(0), 2, [0.3, 0.5], [0.05, 0.15, 0.5]) is None
    assert stopper.decide(trial(1), 1, [0.39], [0.1, 0.5]) is not None
    assert stopper.decide(trial(2), 1, [0.41], [0.1, 0.5]) is None


def test_rivals_are_compared_with_rivals():
    stopper = ParetoAsha(first_rung=0.1)
    for root in range(9):
        stopper.decide(trial(root), 1, [0.9], [0.1, 0.2])
    assert stopper.decide(trial(20, "baseline"), 1, [0.1], [0.1, 0.5]) is None
    assert stopper.decide(trial(21, "shorter"), 1, [0.3], [0.1, 0.5]) is None
    assert stopper.decide(trial(22, "full"), 1, [0.4], [0.1, 0.5]) is None
    assert "2 of 4 full-resolution trials" in stopper.decide(trial(23, "full"), 1, [0.2], [0.1, 0.5]).reason
    assert stopper.decide(trial(24), 1, [0.4], [0.1, 0.5]) is not None


def test_a_rung_remembers_its_newest_trials_only():
    stopper = ParetoAsha(first_rung=0.1)
    for root in range(MOST_TRIALS):
        stopper.decide(trial(root), 1, [0.9], [0.1, 0.5])
    for root in range(1000, 1000 + MOST_TRIALS):
        stopper.decide(trial(root, "baseline"), 1, [0.1], [0.1, 0.5])
    assert stopper.decide(trial(5000), 1, [0.2], [0.1, 0.5]) is None


# -- what holds for both


REPORT = st.tuples(
    st.integers(0, 8),
    st.sampled_from([None, None, "baseline", "shorter", "full"]),
    st.integers(-1, 9),
    st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.5, 0.9, 1.0, math.nan, math.inf, -math.inf]), max_size=9),
    st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.1, math.nan, math.inf, 1e308]), min_size=1, max_size=7),
)


@pytest.mark.parametrize("name", STOPPERS)
@settings(max_examples=150, deadline=None)
@given(reports=st.lists(REPORT, max_size=40))
def test_no_report_makes_it_raise(name, reports):
    stopper = STOPPERS[name]()
    for root, rival, epoch, curve, costs in reports:
        stop = stopper.decide(trial(root, rival), epoch, curve, list(itertools.accumulate(costs)))
        assert stop is None or rival not in ("baseline", "shorter")
        assert stop is None or stop.expected is None or 0 <= stop.expected <= 1


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(12)), st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7]), min_size=12, max_size=12))
def test_the_order_of_results_does_not_matter_to_dominance(order, lasts):
    def told(roots):
        stopper = Dominance(0.8)
        for place in roots:
            finished(stopper, ROOTS[place], lasts[place], 0.3 + place / 100)
            finished(stopper, ROOTS[place], lasts[place], 0.3 + place / 100)
        return stopper.decide(trial(ROOTS[50]), 4, rising(0.2)[:4], even(0.45))

    one, other = told(range(12)), told(order)
    assert (one is None) == (other is None)
    if one is not None:
        assert one.reason == other.reason
        assert one.expected == pytest.approx(other.expected)


@pytest.mark.parametrize("name", STOPPERS)
def test_reports_that_come_late_change_nothing(name):
    def told(reports):
        stopper = STOPPERS[name]()
        for root, last in enumerate(np.linspace(0.3, 0.8, 20)):
            finished(stopper, ROOTS[root], float(last), 0.5)
        for epoch in reports:
            stopper.decide(trial(ROOTS[40]), epoch, rising(0.55)[:epoch], even(0.6))
        return [stopper.decide(trial(ROOTS[41]), epoch, rising(0.5)[:epoch], even(0.6)) for epoch in (2, 5, 9)]

    assert told([9]) == told([9, 2, 9, 5, 5])


# -- searches


@pytest.fixture(scope="module")
def trainings():
    """Some hundred trainings of a made-up network: accuracies and relative times after each epoch, and whether it is a rival."""
    table = made_up_table(240)
    answers = [(one, Replay(table, None).answer(one.params, one.seed)) for one in table.trainings]
    return [(one.curve, np.array(answer.elapsed_s) / table.baseline_s, one.params["frequency"] == 0) for one, answer in answers]


def searched(stopper, trainings, every=1):
    """Epochs that each training gets, in turn, asked after `every` epochs and after the last one."""
    epochs = []
    for root, (curve, times, is_full) in enumerate(trainings):
        for epoch in [*range(every, len(times), every), len(times)]:
            stop = stopper.decide(trial(root, "full" if is_full else None), epoch, curve[:epoch], times.tolist())
            if stop is not None:
                break
        epochs.append(epoch)
    return epochs


def spent(trainings, epochs):
    return sum(times[epoch - 1] for epoch, (_, times, _) in zip(epochs, trainings, strict=True))


def front_of(trainings):
    return {
        place
        for place, (curve, times, _) in enumerate(trainings)
        if not any(dominates((other_times[-1], other[-1]), (times[-1], curve[-1])) for other, other_times, _ in trainings)
    }


def test_dominance_saves_time_and_keeps_the_front(trainings):
    epochs = searched(Dominance(0.95), trainings)
    stopped = {place for place, (_, times, _) in enumerate(trainings) if epochs[place] < len(times)}
    assert len(stopped) > 80
    assert not any(is_exempt(place, 0) for place in stopped)
    whole = spent(trainings, [len(times) for _, times, _ in trainings])
    assert spent(trainings, epochs) < 0.8 * whole
    assert len(front_of(trainings) & stopped) <= 0.05 * len(stopped)


def test_a_bolder_confidence_stops_more(trainings):
    cost = [spent(trainings, searched(Dominance(confidence), trainings)) for confidence in (0.99, 0.9, 0.7)]
    assert cost[0] > cost[1] > cost[2]


def test_pareto_asha_saves_more_and_loses_more(trainings):
    epochs = searched(ParetoAsha(), trainings)
    assert spent(trainings, epochs) < 0.7 * spent(trainings, searched(Dominance(0.95), trainings))


@pytest.mark.parametrize("name", STOPPERS)
def test_a_launch_that_reports_rarely_stops_as_well(trainings, name):
    often, rarely = (searched(STOPPERS[name](), trainings, every) for every in (1, 2))
    stopped = [sum(epoch < len(times) for epoch, (_, times, _) in zip(epochs, trainings, strict=True)) for epochs in (often, rarely)]
    assert stopped[1] > 0.6 * stopped[0] > 0


def test_a_replayed_search_is_stopped_by_the_same_code(tmp_path):
    url = f"sqlite:///{tmp_path / 'replay.db'}"
    table = made_up_table(40)
    replay = Replay(table, Surrogate.fitted(table))
    outcome = simulate(
        replay, CanonicalSampler(RandomSampler(seed=4), table.spec.search), Limits(trials=40), workers=3, stopper=Dominance(0.7), url=url
    )
    store = StudyStore.load(open_storage(url), "made-up")
    stopped = {trial.number for trial in outcome.trials if trial.pruned}
    assert stopped == {trial.number for trial in store.trials().pruned} != set()
    assert stopped.isdisjoint(trial.number for trial in study_front(store).front)
    for frozen in store.study.get_trials():
        if frozen.number in stopped:
            assert 0 < expected_accuracy(frozen) < 1
        else:
            assert expected_accuracy(frozen) is None


# -- the study file's


def test_a_study_names_its_stopper():
    assert build_stopper(tiny_spec()) is None
    assert isinstance(build_stopper(tiny_spec(stopper="pareto_asha")), ParetoAsha)
    chosen = build_stopper(tiny_spec(stopper={"name": "dominance", "confidence": 0.8}, seed=3))
    assert isinstance(chosen, Dominance)
    assert (chosen._confidence, chosen._seed) == (0.8, 3)
    for stopper in ("none", "pareto_asha", "dominance", {"name": "dominance", "confidence": 0.8}):
        spec = tiny_spec(stopper=stopper)
        assert StudySpec.from_json_dict(spec.to_json_dict()) == spec
    assert tiny_spec(stopper="dominance").stopper.confidence == 0.95
    # Of a version that knew no stoppers.
    assert StudySpec.from_json_dict({key: value for key, value in tiny_spec().to_json_dict().items() if key != "stopper"}) == tiny_spec()


@pytest.mark.parametrize("name", STOPPERS)
def test_a_stopper_needs_both_objectives(name):
    tiny_spec(stopper=name, objectives=["val_accuracy", "relative_time"])
    with pytest.raises(InputError, match=f"^stopper is '{name}', it needs the objectives relative_time and val_accuracy, not val_loss, "):
        tiny_spec(stopper=name, objectives=["val_loss"])
