"""Searches replayed from tables: the file, prices and clock by hand, what the surrogate knows, and a study recorded and replayed."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import pkgutil
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
from filled import filled_store, pricing
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from replayed import FULL, HEADER, LINES, MIXED, SEED_SD, SHORT, SMALL, line, made_up_lines, made_up_table, true_curve

import tuner.replay
from studies.space import canonical_params
from trainers.errors import InputError, RunError
from trainers.schedule import Step
from tuner.launching.proposals import ListProposer, Proposal
from tuner.launching.timing import COST_TABLES, DATASET_FACTS
from tuner.replay.answers import Replay
from tuner.replay.cache import cached_surrogate
from tuner.replay.features import epoch_features
from tuner.replay.noise import SeedNoise
from tuner.replay.prices import completed_prices
from tuner.replay.record import _largest_error, record_study
from tuner.replay.score import Point, Score, hypervolumes
from tuner.replay.simulation import Limits, simulate
from tuner.replay.surrogate import Surrogate
from tuner.replay.table import parse_table, read_table, write_table
from tuner.results.front import hypervolume_2d
from tuner.results.stored import study_front
from tuner.samplers.build import build_sampler
from tuner.samplers.canonical import CanonicalSampler
from tuner.stoppers import Stop
from tuner.storage.opening import open_storage
from tuner.storage.store import StudyStore


@pytest.fixture(scope="module")
def hand():
    return parse_table([HEADER, *LINES])


@pytest.fixture(scope="module")
def surrogate():
    return Surrogate.fitted(made_up_table(60))


@pytest.fixture(scope="module")
def made_up(surrogate):
    return Replay(made_up_table(60), surrogate)


def sampler(table, seed=0):
    return CanonicalSampler(RandomSampler(seed=seed), table.spec.search)


def listed(*proposals):
    return ListProposer([Proposal(params, seed=seed) for params, seed in proposals])


ALL_FOUR = [(FULL, 0), (SHORT, 2), (SMALL, 3), (MIXED, 4)]


# -- the file


def test_a_table_survives_its_file(tmp_path, hand):
    path = tmp_path / "hand.jsonl.gz"
    write_table(path, HEADER, LINES)
    first = path.read_bytes()
    table = read_table(path)
    assert table.trainings == hand.trainings
    assert table.digest == hand.digest
    assert table.spec == hand.spec
    write_table(path, HEADER, LINES)
    assert path.read_bytes() == first
    assert [json.loads(text) for text in gzip.decompress(first).splitlines()] == [HEADER, *LINES]


def test_a_table_says_what_was_recorded(hand):
    assert hand.spec.name == "hand"
    assert hand.spec.dataset.full_px == 32
    assert (hand.steps_per_epoch, hand.baseline_steps, hand.baseline_s) == (2, 8, 0.8)
    assert hand.reference == (1.1, 0.5)
    assert hand.spec.baseline_params() == FULL
    last = hand.trainings[-1]
    assert (last.params, last.seed, last.curve, last.train_s) == (MIXED, 4, (0.5, 0.6, 0.7, 0.85), 1.5)
    assert last.counts == {Step(32, "full"): 4, Step(16, "pooled"): 4}


def changed(number, **keys):
    """Lines of the table with some keys of one line replaced; None removes one."""
    lines = [HEADER, *LINES]
    lines[number] = {key: value for key, value in (lines[number] | keys).items() if value is not None}
    return lines


WRONG = {
    "line 1: cost is missing, the header needs table, model": changed(0, cost=None),
    "line 1: model is 8, it must be a text": changed(0, model=8),
    "line 1: cost of '16/full/1' is 0": changed(0, cost={"32/full/1": 1, "16/full/1": 0}),
    "line 1: step kind is '32full'": changed(0, cost={"32full": 1}),
    "line 1: cost has no step with full kernels at its largest side": changed(0, cost={"32/pooled/1": 1, "16/full/1": 1}),
    "line 1: baseline.steps is 9, it must be a multiple of baseline.epochs = 4": changed(0, baseline={"epochs": 4, "steps": 9}),
    "line 1: baseline.epochs is 0": changed(0, baseline={"epochs": 0, "steps": 9}),
    r"line 1: search.frequency.low is 0.5": changed(0, space={"frequency": {"low": 0.5, "high": 1.0}}),
    r"line 1: reference is \[1\], it must be a list": changed(0, reference=[1]),
    r"line 1: reference error is 2, it must be a finite number above 0 and at most 1": changed(0, reference=[1, 2]),
    "line 2: curve is missing, a training needs params, seed": changed(1, curve=None),
    r"line 2: curve is \[0.5\], it must be a list of one validation accuracy for each of 4 epochs": changed(1, curve=[0.5]),
    "line 3: validation accuracy is nan": changed(2, curve=[0.1, 0.2, 0.3, math.nan]),
    "line 3: validation accuracy is 1.5": changed(2, curve=[0.1, 0.2, 0.3, 1.5]),
    "line 2: seed is -1": changed(1, seed=-1),
    "line 4: search field 'epochs' is 9, it must be a member": changed(3, params=SHORT | {"epochs": 9}),
    "line 4: search field 'ecophs' is unknown.*the nearest valid name is 'epochs'": changed(3, params={"ecophs": 9}),
    "line 4: step kind '8/full/1' has no price": changed(3, counts={"8/full/1": 4}),
    "line 4: counts take 3 batches, they must take 4, those of 2 epochs of 2": changed(3, counts={"32/full/1": 3}),
    "line 4: counts is {}, it must be a mapping that is not empty": changed(3, counts={}),
    "line 4: count of '32/full/1' is 0": changed(3, counts={"32/full/1": 0}),
    "line 4: train_s is -1": changed(3, train_s=-1),
    "line 3: params and seed 1 are those of an earlier line": changed(2, seed=1),
    "it has 1 lines, it must have a header": [HEADER],
}


def test_a_table_may_be_called_anything():
    named = {name: parse_table(changed(0, table=name)).spec.name for name in ("hand", "CIFAR-10 (all images)", "..", "\u00e9t\u00e9")}
    assert named == {"hand": "hand", "CIFAR-10 (all images)": "CIFAR-10-all-images", "..": "table", "\u00e9t\u00e9": "t"}


def test_several_ways_to_write_full_resolution_are_repeats_of_it():
    """Their fields mean nothing, so they are one configuration; a seed that both were trained with is no mistake."""
    also = line(FULL | {"kernel": "pooled"}, 1, [0.4, 0.6, 0.7, 0.85], full32=8)
    table = parse_table([HEADER, *LINES, also])
    assert len(table.trainings) == len(LINES) + 1
    assert Replay(table, None).answer(FULL, 5).mean_accuracy == pytest.approx((0.8 + 0.9 + 0.85) / 3)


class TestMissingPrices:
    """Prices of one kernel at 32, 16 and 8 px by hand: between them on a line over the pixels."""

    PRICES: ClassVar = {Step(32, "full"): 100.0, Step(16, "full"): 28.0, Step(8, "full"): 8.0}

    @pytest.mark.parametrize(
        ("step", "ms"),
        [
            # (24 * 24 - 16 * 16) / (32 * 32 - 16 * 16) = 5 / 12 of the way from 28 to 100.
            (Step(24, "full"), 58.0),
            # Half of the way to 8 px in its side, a quarter in its pixels.
            (Step(4, "full"), 2.0),
            (Step(16, "pooled"), 28.0),
            (Step(16, "full", 4), 112.0),
        ],
    )
    def test_by_hand(self, step, ms):
        completed = completed_prices(self.PRICES, [step])
        assert completed == self.PRICES | {step: pytest.approx(ms)}

    def test_a_kernel_with_a_price_has_its_own_line(self):
        completed = completed_prices(self.PRICES | {Step(16, "pooled"): 20.0}, [Step(8, "pooled"), Step(24, "pooled")])
        assert completed[Step(8, "pooled")] == pytest.approx(5.0)
        assert completed[Step(24, "pooled")] == pytest.approx(20 + 80 * 5 / 12)

    def test_a_search_may_draw_what_has_no_price(self):
        header, *lines = made_up_lines(60)
        kept = {name: ms for name, ms in header["cost"].items() if name.startswith(("32", "16", "24"))}
        lines = [line for line in lines if line["counts"].keys() <= kept.keys()]
        table = parse_table([header | {"cost": kept}, *lines])
        outcome = simulate(Replay(table, Surrogate.fitted(table)), sampler(table), Limits(trials=12))
        assert len(outcome.trials) == 12

    def test_what_was_trained_needs_its_price(self):
        with pytest.raises(InputError, match="line 5: step kind '16/full/1' has no price"):
            parse_table(changed(0, cost={"32/full/1": 100.0, "16/pooled/1": 20.0}))


@pytest.mark.parametrize("sentence", WRONG)
def test_a_wrong_table_is_refused_in_one_sentence(tmp_path, sentence):
    path = tmp_path / "hand.jsonl.gz"
    write_table(path, WRONG[sentence][0], WRONG[sentence][1:])
    with pytest.raises(InputError, match=rf"^table '.*hand.jsonl.gz': {sentence}") as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "No such file"),
        (b"", "it has 0 lines"),
        (b"{}\n{}\n", "it must be JSON lines compressed with gzip"),
        (gzip.compress(b"{}\n{}\n" * 99)[:-12], "it must be JSON lines compressed with gzip"),
        (gzip.compress(b"\xff\n"), "it must be JSON lines compressed with gzip"),
        (gzip.compress(b"{}\n[1]\n"), r"line 2 is '\[1\]', it must be a JSON mapping"),
        (gzip.compress(b'{"table": \n'), r"line 1 is .*, it must be a JSON mapping"),
    ],
    # gzip writes the time, which differs between the processes that run the tests.
    ids=["missing", "empty", "not packed", "cut off", "no text", "a list", "half a line"],
)
def test_what_is_no_table_is_refused(tmp_path, content, sentence):
    path = tmp_path / "hand.jsonl.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read_table(path)


def test_the_last_number_of_a_kind_may_be_images(hand):
    """Some tables may write the images of a batch where ours write the batches of a step."""

    def in_images(kinds):
        return {name.removesuffix("/1") + "/64": value for name, value in kinds.items()}

    lines = [HEADER | {"cost": in_images(HEADER["cost"])}, *(one | {"counts": in_images(one["counts"])} for one in LINES)]
    assert parse_table(lines).trainings == hand.trainings
    assert parse_table(lines).costs == hand.costs
    lines[1]["counts"] = {"32/full/96": 8}
    with pytest.raises(InputError, match="line 2: step kind is '32/full/96', its last number must be a multiple of the full step's, 64"):
        parse_table(lines)


def test_a_header_may_leave_the_baselines_rate_to_its_trainings(hand):
    header = HEADER | {"baseline": {"epochs": 4, "steps": 8}}
    with pytest.raises(InputError, match="line 1: baseline has no lr and weight_decay"):
        parse_table([header, *LINES])
    rates = {"lr": 0.1, "weight_decay": 5e-4}
    assert parse_table([header, *({**one, "params": one["params"] | rates} for one in LINES)]).spec == hand.spec


# -- counts and prices


def test_counts_and_prices_by_hand(hand):
    replay = Replay(hand, None)
    expected = {
        # Milliseconds of each epoch of two steps; at frequency 0.5 every second step is reduced.
        (0, 4, "full"): ([200, 400, 600, 800], 1.0),
        (0, 2, "full"): ([200, 400], 0.5),
        (1, 4, "full"): ([50, 100, 150, 200], 0.25),
        (0.5, 4, "pooled"): ([120, 240, 360, 480], 0.6),
    }
    for params, seed in ALL_FOUR:
        elapsed_ms, relative_time = expected[params["frequency"], params["epochs"], params["kernel"]]
        answer = replay.answer(params, seed)
        assert [1000 * second for second in answer.elapsed_s] == pytest.approx(elapsed_ms)
        assert hand.relative_time(answer.counts) == pytest.approx(relative_time)


def test_a_recorded_training_is_answered_as_it_was(hand):
    replay = Replay(hand, None)
    assert replay.answer(FULL, 0).curve == (0.5, 0.6, 0.7, 0.9)
    assert replay.answer(FULL, 1).curve == (0.4, 0.6, 0.7, 0.8)
    # A seed that was not recorded gets one that was, always the same one.
    assert replay.answer(FULL, 6) == replay.answer(FULL, 1)
    assert replay.answer(FULL, 0).mean_accuracy == replay.answer(FULL, 1).mean_accuracy == pytest.approx(0.85)
    # The kernel means nothing at full resolution.
    assert replay.answer(FULL | {"kernel": "pooled"}, 0) == replay.answer(FULL, 0)


def test_without_a_surrogate_nothing_is_made_up(hand):
    with pytest.raises(InputError, match="is not recorded in table 'hand'"):
        Replay(hand, None).answer(MIXED | {"epochs": 3}, 0)


def test_a_table_keeps_the_price_of_its_own_counts():
    """As one that was recorded with another version's plans."""
    other = line(MIXED, 4, [0.5, 0.6, 0.7, 0.85], full32=2, pooled16=6)
    answer = Replay(parse_table([HEADER, *LINES[:-1], other]), None).answer(MIXED, 4)
    assert answer.elapsed_s == pytest.approx([0.08, 0.16, 0.24, 0.32])


def test_counts_of_any_configuration_are_those_of_the_plan(made_up):
    table = made_up.table
    point = canonical_params(
        table.spec.search,
        {
            **{"frequency": 0.5, "policy": "stochastic", "scale": 0.5, "kernel": "pooled", "batch_norm": "separate"},
            **{"window_start": 0.25, "window_length": 0.5, "growth": "linear", "epochs": 5, "lr": 0.123, "weight_decay": 2e-4},
        },
    )
    for seed in (1, 2):
        plan = table.spec.train_config(point, seed).schedule.plan(5 * 8, 32, 8)
        answer = made_up.answer(point, seed)
        assert answer.counts == plan.counts() == dict(Counter(plan))
        assert answer.elapsed_s[-1] == pytest.approx(sum(0.1 * (step.side_px / 32) ** 2 for step in plan))
        assert len(answer.curve) == 5
    assert made_up.answer(point, 1).counts != made_up.answer(point, 2).counts


# -- the simulated clock


def ends(outcome):
    return [(trial.number, round(trial.start_s, 9), round(trial.end_s, 9)) for trial in outcome.trials]


def test_one_worker_by_hand(hand):
    outcome = simulate(Replay(hand, None), sampler(hand), Limits(trials=9), proposer=listed(*ALL_FOUR))
    assert ends(outcome) == [(0, 0, 0.8), (1, 0.8, 1.2), (2, 1.2, 1.4), (3, 1.4, 1.88)]
    assert [point.spent_s for point in outcome.trajectory] == pytest.approx([0.8, 1.2, 1.4, 1.88])
    # (1, 0.15), then (0.5, 0.3), (0.25, 0.4) and (0.6, 0.15), inside (1.1, 0.5).
    assert [point.hypervolume for point in outcome.trajectory] == pytest.approx([0.035, 0.135, 0.16, 0.22])
    assert [trial.relative_time for trial in outcome.trials] == pytest.approx([1.0, 0.5, 0.25, 0.6])
    assert [trial.val_accuracy for trial in outcome.trials] == [0.9, 0.7, 0.6, 0.85]
    assert [trial.mean_accuracy for trial in outcome.trials] == pytest.approx([0.85, 0.7, 0.6, 0.85])
    assert len(outcome.ask_s) == 4


def test_three_workers_by_hand(hand):
    """The third one's first trial ends first, and the fourth trial begins there."""
    outcome = simulate(Replay(hand, None), sampler(hand), Limits(trials=9), workers=3, proposer=listed(*ALL_FOUR))
    assert ends(outcome) == [(2, 0, 0.2), (1, 0, 0.4), (3, 0.2, 0.68), (0, 0, 0.8)]
    # 3 x 0.2; then 2 x 0.4 + 0.2 + 0.2; then 0.68 + 0.4 + 0.2 + 0.48.
    assert [point.spent_s for point in outcome.trajectory] == pytest.approx([0.6, 1.2, 1.76, 1.88])
    assert outcome.trajectory[-1].hypervolume == pytest.approx(0.22)


@pytest.mark.parametrize(("budget_s", "finished"), [(0.79, 0), (0.8, 1), (1.19, 1), (1.2, 2), (1.4, 3), (1.88, 4), (99, 4)])
def test_a_budget_counts_what_workers_have_used(hand, budget_s, finished):
    outcome = simulate(Replay(hand, None), sampler(hand), Limits(budget_s=budget_s), proposer=listed(*ALL_FOUR))
    assert len(outcome.trials) == finished


def test_a_budget_counts_what_is_under_way(hand):
    """After 0.2 s three workers have used 0.6 s, after 0.4 s they have used 1.2 s."""
    for budget_s, finished in ((0.59, 0), (0.61, 1), (1.19, 1), (1.21, 2)):
        limits = Limits(budget_s=budget_s)
        assert len(simulate(Replay(hand, None), sampler(hand), limits, workers=3, proposer=listed(*ALL_FOUR)).trials) == finished


def test_the_asked_number_of_trials_is_finished(hand):
    assert len(simulate(Replay(hand, None), sampler(hand), Limits(trials=3), workers=2, proposer=listed(*ALL_FOUR)).trials) == 3


def test_a_simulation_needs_an_end():
    for limits in ({}, {"budget_s": 0.0}, {"budget_s": math.nan}, {"trials": 0}):
        with pytest.raises(InputError):
            Limits(**limits)


def test_at_the_same_time_the_earlier_trial_comes_first(hand):
    outcome = simulate(Replay(hand, None), sampler(hand), Limits(trials=9), workers=2, proposer=listed((FULL, 1), (FULL, 0), (SHORT, 2)))
    assert ends(outcome) == [(0, 0, 0.8), (1, 0, 0.8), (2, 0.8, 1.2)]


class Watching:
    """Writes down what it is asked, and stops a trial after an epoch where it was told to."""

    def __init__(self, stops=()):
        self.stops = set(stops)
        self.asked = []

    def decide(self, trial, epoch, curve, times):
        self.asked.append((trial.number, epoch, tuple(curve), tuple(round(time, 9) for time in times)))
        return Stop("it was told to", 0.7) if (trial.number, epoch) in self.stops else None


def test_a_stopper_is_asked_at_the_end_of_every_epoch(hand):
    watching = Watching()
    outcome = simulate(Replay(hand, None), sampler(hand), Limits(trials=9), workers=2, stopper=watching, proposer=listed(*ALL_FOUR))
    full, short = (0.25, 0.5, 0.75, 1.0), (0.25, 0.5)
    # Epochs of 0.2, 0.2, 0.05 and 0.12 s; trial 2 begins when trial 1 ends, after 0.4 s.
    order = [(0, 1), (1, 1), (0, 2), (1, 2), (2, 1), (2, 2), (2, 3), (0, 3), (2, 4), (3, 1), (0, 4), (3, 2), (3, 3), (3, 4)]
    assert [asked[:2] for asked in watching.asked] == order
    assert watching.asked[:3] == [(0, 1, (0.5,), full), (1, 1, (0.4,), short), (0, 2, (0.5, 0.6), full)]
    assert ends(outcome) == [(1, 0, 0.4), (2, 0.4, 0.6), (0, 0, 0.8), (3, 0.6, 1.08)]


def test_a_stopper_that_stops_nothing_changes_nothing(made_up):
    results = [simulate(made_up, sampler(made_up.table), Limits(trials=20), workers=3, stopper=stopper) for stopper in (None, Watching())]
    assert results[0].trials == results[1].trials
    assert results[0].trajectory == results[1].trajectory


def test_a_stopped_trial_costs_what_it_used_and_is_no_point(hand, tmp_path):
    url = f"sqlite:///{tmp_path / 'replay.db'}"
    # What a stopper says of a last epoch changes nothing.
    stopper = Watching({(0, 2), (1, 2), (3, 1)})
    outcome = simulate(Replay(hand, None), sampler(hand), Limits(trials=9), stopper=stopper, proposer=listed(*ALL_FOUR), url=url)
    assert ends(outcome) == [(0, 0, 0.4), (1, 0.4, 0.8), (2, 0.8, 1.0), (3, 1.0, 1.12)]
    assert [trial.pruned for trial in outcome.trials] == [True, False, False, True]
    assert [trial.relative_time for trial in outcome.trials] == pytest.approx([0.5, 0.5, 0.25, 0.15])
    assert [trial.val_accuracy for trial in outcome.trials] == [0.6, 0.7, 0.6, 0.5]
    assert [point.spent_s for point in outcome.trajectory] == pytest.approx([0.8, 1.0])
    # (0.5, 0.3) and (0.25, 0.4) alone.
    assert [point.hypervolume for point in outcome.trajectory] == pytest.approx([0.12, 0.145])
    store = StudyStore.load(open_storage(url), "hand")
    pruned = [trial for trial in store.study.trials if trial.state == TrialState.PRUNED]
    assert [(trial.number, trial.user_attrs["curve"], trial.values) for trial in pruned] == [(0, [0.5, 0.6], None), (3, [0.5], None)]
    assert [trial.number for trial in study_front(store).front] == [2, 1]
    assert [trial.curve for trial in store.trials().pruned] == [[0.5, 0.6], [0.5]]
    assert pruned[0].user_attrs["record"]["stopped"] == {"epoch": 2, "reason": "it was told to", "expected": 0.7}


def test_trials_stopped_at_random_are_never_on_the_front(made_up, tmp_path):
    url = f"sqlite:///{tmp_path / 'replay.db'}"
    generator = np.random.default_rng(0)
    stopper = Watching({(number, int(generator.integers(1, 4))) for number in range(0, 40, 2)})
    outcome = simulate(made_up, sampler(made_up.table), Limits(trials=40), workers=4, stopper=stopper, url=url)
    pruned = {trial.number for trial in outcome.trials if trial.pruned}
    complete = [trial for trial in outcome.trials if not trial.pruned]
    assert len(pruned) > 10
    front = study_front(StudyStore.load(open_storage(url), "made-up")).front
    assert {trial.number for trial in front}.isdisjoint(pruned)
    assert len(outcome.trajectory) == len(complete)
    points = [(trial.relative_time, 1 - trial.mean_accuracy) for trial in complete]
    assert outcome.trajectory[-1].hypervolume == pytest.approx(hypervolume_2d(points, (1.1, 0.5), ("minimize", "minimize")))


def test_what_a_budget_interrupts_is_given_back(hand, tmp_path):
    url = f"sqlite:///{tmp_path / 'replay.db'}"
    simulate(Replay(hand, None), sampler(hand), Limits(budget_s=0.9), proposer=listed(*ALL_FOUR), url=url)
    states = [trial.state.name for trial in StudyStore.load(open_storage(url), "hand").study.trials]
    assert states == ["COMPLETE", "FAIL", "FAIL"]
    with pytest.raises(InputError, match=r"study 'hand' in sqlite:.* has trials"):
        simulate(Replay(hand, None), sampler(hand), Limits(budget_s=0.9), url=url)


def test_the_same_seed_gives_the_same_trajectory(made_up):
    """Of a sampler that looks at earlier trials: after ten of them TPE begins to."""
    table = made_up.table

    def searched(seed):
        sampler = build_sampler(table.spec.model_copy(update={"sampler": "tpe", "seed": seed}), table.plan_cost, 0)
        return simulate(made_up, sampler, Limits(trials=16), workers=3, seed=seed)

    first, again, other = searched(1), searched(1), searched(2)
    assert first.trials == again.trials
    assert first.trajectory == again.trajectory
    assert first.trajectory != other.trajectory


def test_another_seed_trains_with_other_seeds(made_up):
    outcomes = [simulate(made_up, sampler(made_up.table), Limits(trials=6), seed=seed) for seed in (0, 1)]
    seeds = [{trial.seed for trial in outcome.trials} for outcome in outcomes]
    assert seeds[0] == set(range(6))
    assert seeds[0].isdisjoint(seeds[1])
    assert [trial.params for trial in outcomes[0].trials] == [trial.params for trial in outcomes[1].trials]
    assert outcomes[0].trials[5].val_accuracy != outcomes[1].trials[5].val_accuracy


def test_a_simulation_asks_what_a_launch_asks(made_up):
    outcome = simulate(made_up, sampler(made_up.table), Limits(trials=30))
    assert outcome.trials[0].params | {"side_multiple": 4} == made_up.table.spec.search.complete(made_up.table.spec.baseline_params())
    assert sum(trial.params["frequency"] == 0 for trial in outcome.trials) >= 6
    assert [trial.number for trial in outcome.trials] == list(range(30))
    assert all(earlier.end_s == later.start_s for earlier, later in pairwise(outcome.trials))


# -- scores


def test_a_lucky_trial_hides_a_better_one_from_its_user():
    score = Score((1.0, 0.5))
    # Reference (1, 0.5): 0.4 x 0.3.
    assert score.add(1.0, 0.6, 0.75, 0.8) == Point(1.0, pytest.approx(0.12), pytest.approx(0.12))
    # Lucky: it looks better in both and is on average less accurate, 0.5 x 0.2; the other adds 0.4 x 0.1.
    lucky = score.add(2.0, 0.5, 0.9, 0.7)
    assert lucky.hypervolume == pytest.approx(0.14)
    assert lucky.shown == pytest.approx(0.1)


def test_hypervolume_between_trials_is_that_of_the_last_one():
    trajectory = [Point(1.0, 0.2, 0.1), Point(2.0, 0.3, 0.3), Point(2.0, 0.4, 0.3)]
    assert hypervolumes(trajectory, [0.0, 0.99, 1.0, 1.5, 2.0, 9.0]).tolist() == [0.0, 0.0, 0.2, 0.2, 0.4, 0.4]
    assert hypervolumes([], [1.0]).tolist() == [0.0]


# -- the surrogate


def grouped(table):
    groups = {}
    for training in table.trainings:
        groups.setdefault(json.dumps(training.params), []).append(training)
    return list(groups.values())


def fresh_points(table, count):
    other = made_up_table(count, seed=77)
    return [training.params for training in other.trainings[1:]]


def test_features_by_hand(hand):
    """Of a training whose every second step is reduced to a quarter of the pixels and a fifth of the time."""
    rows = epoch_features(hand, MIXED)
    # Relative time, share of full batches, epochs' worth of full batches and of pixels, share of full steps at the end.
    assert rows[:, 12:17] == pytest.approx(np.tile([0.6, 0.5, 2.0, 2.5, 0.0], (4, 1)))
    done = np.arange(1, 5)
    # Share of the training, epochs; full batches, pixels and time so far; the same in the epoch.
    expected = np.column_stack([done / 4, done, 0.5 * done, 0.625 * done, 0.15 * done, np.tile([0.5, 0.625, 0.15], (4, 1))])
    assert rows[:, 17:] == pytest.approx(expected)
    full = epoch_features(hand, FULL)[-1]
    # Frequency, scale, window start, window length.
    assert full[:4].tolist() == [0.0, 1.0, 1.0, 0.0]
    assert full[12:17] == pytest.approx([1.0, 1.0, 4.0, 4.0, 1.0])


def test_presets_and_methods_that_are_searched_are_features():
    space = HEADER["space"] | {"preset": ["none", "two_stage", "multigrid"], "weight_sampling": ["none", "pswa"]}
    plain = {"preset": "none", "weight_sampling": "none"}
    table = parse_table([HEADER | {"space": space}, *(one | {"params": one["params"] | plain} for one in LINES)])
    named = [{}, {"preset": "multigrid", "weight_sampling": "pswa"}, {"preset": "two_stage"}]
    rows = [epoch_features(table, MIXED | plain | names) for names in named]
    assert [row.shape for row in rows] == [(4, 25 + 3)] * 3
    assert [row[:, 25:].tolist() for row in rows] == [[[0, 0, 0]] * 4, [[0, 1, 1]] * 4, [[1, 0, 0]] * 4]
    # Seven of eight steps at 28 px, whose price lies between those of 16 and 32 px by pixels: 25 + 75 (784 - 256) / (1024 - 256).
    assert rows[2][-1, 12] == pytest.approx((7 * 0.765625 + 1) / 8)
    assert table.plan_cost(MIXED | plain | named[2]) == pytest.approx((7 * 0.765625 + 1) / 8)


def test_the_surrogate_predicts_what_it_has_not_seen(made_up, surrogate):
    points = fresh_points(made_up.table, 60)
    truth = np.array([true_curve(made_up.table, params)[-1] for params in points])
    predicted = np.array([surrogate.mean_curve(params)[-1] for params in points])
    wrong = float(np.sqrt(np.mean((predicted - truth) ** 2)))
    assert wrong < 0.5 * np.std(truth)
    # Its own estimate, from held-out configurations, says the same.
    assert surrogate.state.error.last_rmse == pytest.approx(wrong, rel=0.5)
    assert surrogate.state.error.spread == pytest.approx(np.std(truth), rel=0.4)


def test_held_out_configurations_are_held_out_with_all_their_seeds(made_up):
    """Where a configuration says nothing about any other, one of its seeds among the seen ones would give the other one away."""
    generator = np.random.default_rng(0)
    level = {training.seed: 0.0 for training in made_up.table.trainings}
    for group in grouped(made_up.table):
        level |= dict.fromkeys((training.seed for training in group), generator.uniform(0.2, 0.8))
    curves = {seed: (0.1, value) for seed, value in level.items()}
    trainings = [dataclasses.replace(one, curve=one.curve[:-2] + curves[one.seed]) for one in made_up.table.trainings]
    error = Surrogate.fitted(dataclasses.replace(made_up.table, trainings=tuple(trainings))).state.error
    assert error.last_rmse > 0.9 * error.spread
    assert error.seed_sd == 0


def test_the_scatter_is_that_of_recorded_seeds(surrogate):
    assert surrogate.state.error.seed_sd == pytest.approx(SEED_SD, rel=0.35)
    mean = np.array([0.4, 0.6, 0.7, 0.8])
    drawn = np.array([surrogate.state.noise.draw(mean, seed) for seed in range(400)])
    assert drawn.shape == (400, 4)
    assert np.std(drawn[:, -1]) == pytest.approx(SEED_SD, rel=0.5)
    assert abs(np.mean(drawn[:, -1])) < SEED_SD / 4
    # A made-up training's difference is the same after each of its epochs.
    assert np.ptp(drawn, axis=1).max() < 1e-9
    assert (surrogate.state.noise.draw(mean, 3) == drawn[3]).all()


def test_without_repeated_seeds_there_is_no_scatter():
    table = parse_table([HEADER, *LINES[1:]])
    noise = SeedNoise([[training] for training in table.trainings])
    assert noise.last_sd == 0
    assert (noise.draw(np.array([0.5, 0.6]), 1) == 0).all()


def test_the_same_table_gives_the_same_surrogate(made_up, surrogate, tmp_path):
    points = fresh_points(made_up.table, 10)
    fitted = cached_surrogate(made_up.table, tmp_path)
    (kept,) = tmp_path.iterdir()
    before = kept.stat().st_mtime_ns
    loaded = cached_surrogate(made_up.table, tmp_path)
    assert kept.stat().st_mtime_ns == before
    for params in points:
        expected = surrogate.mean_curve(params)
        assert (fitted.mean_curve(params) == expected).all()
        assert (loaded.mean_curve(params) == expected).all()
    assert loaded.state.error == surrogate.state.error
    cached_surrogate(made_up_table(20), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_recorded_mean_and_the_surrogate_are_weighed_by_their_variance(made_up, surrogate):
    error, table = surrogate.state.error, made_up.table
    twice = next(group for group in grouped(table) if len(group) == 2)
    predicted = surrogate.mean_curve(twice[0].params)[-1]
    measured = (twice[0].curve[-1] + twice[1].curve[-1]) / 2
    variances = np.array([error.seed_sd**2 / 2, error.model_variance])
    expected = (measured / variances[0] + predicted / variances[1]) / (1 / variances).sum()
    assert made_up.answer(twice[0].params, 5).mean_accuracy == pytest.approx(expected)


# -- a study recorded and replayed


@pytest.fixture
def recorded(tmp_path):
    """A stored study of twelve trials with what a launch keeps of its timing, and the URL of its database."""
    url = f"sqlite:///{tmp_path / 'tuner.db'}"
    store = filled_store(open_storage(url), 12)
    store.set_attr(COST_TABLES, [pricing(store.spec).reference.to_dict()])
    store.set_attr(DATASET_FACTS, {"steps_per_epoch": 5})
    return store, url


def test_a_recorded_study_gives_its_own_values_again(recorded, tmp_path, capsys):
    store, url = recorded
    record_study("tiny", url, str(tmp_path / "tiny.jsonl.gz"))
    assert capsys.readouterr().out == f"12 trainings of study 'tiny' are in {tmp_path / 'tiny.jsonl.gz'}\n"
    table = read_table(tmp_path / "tiny.jsonl.gz")
    assert table.spec.search == store.spec.search
    assert table.baseline_steps == 20
    completed = store.trials().completed
    proposer = listed(*((canonical_params(store.spec.search, trial.params), trial.seed) for trial in completed))
    outcome = simulate(Replay(table, None), sampler(table), Limits(trials=12), proposer=proposer)
    # The curves, not the values, are what a table holds; those of these trials were computed apart.
    assert [trial.val_accuracy for trial in outcome.trials] == [trial.curve[-1] for trial in completed]
    assert [trial.val_accuracy for trial in outcome.trials] == pytest.approx([trial.values["val_accuracy"] for trial in completed])
    assert [trial.relative_time for trial in outcome.trials] == pytest.approx([trial.values["relative_time"] for trial in completed])
    assert [trial.params for trial in outcome.trials] == [trial.params for trial in completed]


def test_a_study_is_recorded_in_the_tables_words(recorded, tmp_path, monkeypatch, capsys):
    _, url = recorded
    monkeypatch.chdir(tmp_path)
    record_study("tiny", url, None)
    header, *lines = [json.loads(text) for text in gzip.decompress((tmp_path / "tiny.jsonl.gz").read_bytes()).splitlines()]
    assert list(header) == ["table", "model", "dataset", "device", "cost", "baseline", "space", "reference"]
    assert header["cost"] == {"16/full/1": 25.0, "16/pooled/1": 20.0, "32/full/1": 100.0}
    # The shortest start point has 2 epochs, and trial 2 reached 0.5 + 0.2 - 0.002.
    assert header["reference"] == [1.1, 0.4]
    assert lines[0]["counts"] == {"32/full/1": 20}
    fields = {"policy", "frequency", "scale", "kernel", "batch_norm", "window_start", "window_length", "growth"}
    assert set(lines[0]["params"]) == fields | {"epochs", "lr", "weight_decay"}
    assert all(set(one) == {"params", "seed", "curve", "counts", "train_s"} for one in lines)


@pytest.mark.parametrize(("accuracy", "error"), [(0.7, 0.3), (0.69, 0.4), (0.999, 0.1), (1.0, 0.1), (0.0, 1.0)])
def test_the_reference_error_is_rounded_up_to_a_tenth(recorded, accuracy, error):
    starts = [
        dataclasses.replace(trial, values={"val_accuracy": accuracy if trial.params["epochs"] == 2 else 0.05})
        for trial in recorded[0].trials().completed
    ]
    assert _largest_error(starts) == error


def test_a_study_without_a_baseline_is_no_table(tmp_path):
    url = f"sqlite:///{tmp_path / 'tuner.db'}"
    filled_store(open_storage(url), 3)
    with pytest.raises(RunError, match="study 'tiny' has no completed baseline yet"):
        record_study("tiny", url, str(tmp_path / "tiny.jsonl.gz"))
    assert not (tmp_path / "tiny.jsonl.gz").exists()


# -- what it may load


def test_replaying_loads_neither_torch_nor_ray():
    modules = [f"tuner.replay.{module.name}" for module in pkgutil.iter_modules(tuner.replay.__path__)]
    assert len(modules) >= 8
    script = f"import sys, {', '.join(modules)}\nprint(sorted({{'torch', 'ray', 'torchvision'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
