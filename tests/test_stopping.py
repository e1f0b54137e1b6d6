"""Trials that are stopped early in a launch: what is asked, learned, kept and told, with a real database; the test answers for workers."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
from filled import TINY, pricing, record, tiny_spec
from optuna.trial import TrialState, create_trial
from test_dispatcher import drive, good, make, retried_elsewhere, started, taken, wait_until

from trainers.places import RootPlace
from tuner.launching import dispatcher as dispatcher_module
from tuner.launching import stopping as stopping_module
from tuner.launching.jobs import EpochDone
from tuner.launching.stopping import Stopping
from tuner.results.stored import study_front
from tuner.samplers.build import build_sampler
from tuner.samplers.plan_cost import PlanCost
from tuner.stoppers import Stop
from tuner.storage.distributions import distributions
from tuner.storage.opening import DatabaseAway, open_storage
from tuner.storage.records import expected_accuracy
from tuner.storage.store import StudyStore

with warnings.catch_warnings():
    # Ray's own, at its import.
    warnings.simplefilter("ignore")
    from tuner.launching.searcher import StopWhenAsked

SECONDS = {"train": 1.0, "data": 0.1, "evaluation": 0.1, "checkpoint": 0.0}


class Scripted:
    """Stops some trials, by the roots it is given, at every report; writes down what it is asked."""

    def __init__(self, *roots):
        self.roots = set(roots)
        self.asked = []

    def decide(self, trial, epoch, curve, times):
        self.asked.append((trial.root, trial.rival, epoch, tuple(curve), tuple(times)))
        return Stop("it is hopeless", 0.4) if trial.root in self.roots and epoch < len(times) else None


@pytest.fixture
def store(storage_url):
    return StudyStore.create_or_continue(open_storage(storage_url), tiny_spec())


@pytest.fixture
def other(store, storage_url):
    return StudyStore.load(open_storage(storage_url), store.name)


def progress(*curve):
    return EpochDone(tuple(curve), 1.0, SECONDS, "a made-up one")


def answered(dispatcher, tune_id, store, job, curve=(0.1,)):
    """What Tune does with a report and, where the dispatcher says so, with the trial; then with its result."""
    dispatcher.epoch_done(tune_id, progress(*curve))
    if dispatcher.is_unwanted(tune_id):
        dispatcher.dropped(tune_id)
    else:
        dispatcher.trial_done(tune_id, good(store, job))


def drive_reporting(store, dispatcher, on_job=lambda job: None):
    """As drive, with a report of each trial before its result."""
    jobs = []
    with started(dispatcher):
        while (job := taken(dispatcher, str(len(jobs)))) is not None:
            on_job(job)
            answered(dispatcher, str(len(jobs)), store, job)
            jobs.append(job)
    return jobs


def test_a_stopped_trial_is_pruned_with_its_record(store, tmp_path):
    dispatcher = make(store, tmp_path, trials=6, stopper=Scripted(3, 4))
    lines = []
    dispatcher.on_event = lines.append
    jobs = drive_reporting(store, dispatcher)
    trials = store.trials()
    assert len(jobs) == trials.finished == store.finished_count() == 6
    assert [trial.number for trial in trials.completed] == [0, 1, 2, 5]
    assert [(trial.number, trial.root, trial.curve) for trial in trials.pruned] == [(3, 3, [0.1]), (4, 4, [0.1])]
    assert trials.failed == trials.running == store.retries() == []
    frozen = store.study.get_trials()[3]
    assert (frozen.state, frozen.values, frozen.user_attrs["curve"]) == (TrialState.PRUNED, None, [0.1])
    config = jobs[3].config
    steps = config.schedule.plan(5 * config.epochs, 32, 5).epochs[0]
    assert frozen.user_attrs["record"] == {
        "counts": {f"{step.side_px}/{step.kernel}": count for step, count in Counter(steps).items()},
        "seconds": SECONDS,
        "seed": config.seed,
        "device": "a made-up one",
        "commit": "0123456789ab",
        "stopped": {"epoch": 1, "reason": "it is hopeless", "expected": 0.4},
    }
    assert expected_accuracy(frozen) == 0.4
    assert f"trial 3 stopped after 1 of {config.epochs} epochs: it is hopeless" in lines
    assert {3, 4}.isdisjoint(trial.number for trial in study_front(store).front)


@pytest.mark.parametrize(("keep", "left"), [("running", []), ("all", [0, 1, 2, 3])])
def test_checkpoints_of_a_stopped_trial_go(storage_url, tmp_path, keep, left):
    store = StudyStore.create_or_continue(open_storage(storage_url), tiny_spec(checkpoints={"keep": keep}))
    places = {}

    def on_job(job):
        places[job.number] = RootPlace(job.config.checkpoint)
        places[job.number].write(1, "epoch-00001.pt", b"weights")

    drive_reporting(store, make(store, tmp_path, trials=4, stopper=Scripted(3)), on_job)
    assert store.trials().pruned != []
    assert [number for number, place in places.items() if place.checkpoints()] == left


def test_a_trial_that_completes_before_it_is_stopped_is_complete(store, tmp_path):
    dispatcher = make(store, tmp_path, trials=1, stopper=Scripted(0))
    with started(dispatcher):
        job = taken(dispatcher, "a")
        dispatcher.epoch_done("a", progress(0.1))
        assert dispatcher.is_unwanted("a")
        dispatcher.trial_done("a", good(store, job))
        # Tune tells of the end of what it has stopped, too.
        dispatcher.dropped("a")
        assert taken(dispatcher, "nothing more") is None
    trials = store.trials()
    assert (len(trials.completed), trials.pruned, trials.failed, store.trial_count()) == (1, [], [], 1)


def test_tune_is_told_to_stop_a_trial_at_the_report_that_it_is_judged_by(store, tmp_path):
    dispatcher = make(store, tmp_path, trials=2, stopper=Scripted(0))
    asked = StopWhenAsked(dispatcher)
    with started(dispatcher):
        jobs = [taken(dispatcher, tune_id) for tune_id in "ab"]
        assert asked("a", {"report": progress(0.1)})
        assert not asked("b", {"report": progress(0.1)})
        assert not asked("b", {"report": good(store, jobs[1])})
        assert not asked.stop_all()
        dispatcher.request_stop("the test is over")
        assert asked.stop_all()
    assert [(running.epoch, running.val_accuracy) for running in dispatcher.running.values()] == [(1, 0.1), (1, 0.1)]


def test_what_is_to_be_stopped_at_the_end_of_a_launch_has_one_end(store, tmp_path):
    """One that Tune has dropped is told; one that it has not is given back, and stopped in the next launch."""
    dispatcher = make(store, tmp_path, trials=6, stopper=Scripted(0, 1))
    with started(dispatcher):
        for tune_id in "ab":
            taken(dispatcher, tune_id)
            dispatcher.epoch_done(tune_id, progress(0.1))
        dispatcher.request_stop("the test asks for it")
        dispatcher.dropped("a")
    assert [trial.number for trial in store.trials().pruned] == [0]
    assert {trial.number: trial.kind for trial in store.trials().failed}[1] == "interrupted"
    drive_reporting(store, make(store, tmp_path, trials=3, stopper=Scripted(0, 1)))
    trials = store.trials()
    assert [trial.root for trial in trials.pruned] == [0, 1]
    assert (trials.finished, len(trials.completed), trials.running) == (3, 1, [])


def test_an_outage_loses_no_stop(store, tmp_path, monkeypatch):
    """Away before the stop is written; then only the answer is lost; then it is back."""
    dispatcher = make(store, tmp_path, trials=3, stopper=Scripted(0))
    lines, calls, whole = [], [], StudyStore.prune
    dispatcher.on_event = lines.append

    def away(self, number, stored):
        calls.append(number)
        told = None if len(calls) == 1 else whole(self, number, stored)
        if len(calls) <= 2:
            raise DatabaseAway("the database has not answered for 30 s: connection refused")
        return told

    monkeypatch.setattr(StudyStore, "prune", away)
    drive_reporting(store, dispatcher)
    trials = store.trials()
    assert calls == [0, 0, 0]
    assert [trial.root for trial in trials.pruned] == [0]
    assert (len(trials.completed), trials.running, trials.failed) == (2, [], [])
    assert sum(line.startswith("trial 0 stopped after 1 of 4 epochs") for line in lines) == 1


def test_a_stop_goes_to_the_attempt_that_runs_now(store, other, tmp_path):
    # Nothing is made ready beside it: else another trial might be begun just between the first attempt's failure and the second one.
    dispatcher = make(store, tmp_path, trials=1, slots=0, stopper=Scripted(0))
    with started(dispatcher):
        job = taken(dispatcher, "a")
        retry = retried_elsewhere(other, job.number)
        answered(dispatcher, "a", store, job)
        assert taken(dispatcher, "nothing more") is None
    [pruned] = store.trials().pruned
    assert (pruned.number, pruned.root) == (retry.number, job.number)
    assert store.trials().running == []


def test_a_stop_that_comes_after_a_result_changes_nothing(store, other, tmp_path):
    # Nothing is made ready beside it: else another trial might be begun just between the first attempt's failure and the second one.
    dispatcher = make(store, tmp_path, trials=2, slots=1, stopper=Scripted(0))
    lines = []
    dispatcher.on_event = lines.append
    with started(dispatcher):
        job = taken(dispatcher, "a")
        retry = retried_elsewhere(other, job.number)
        assert other.complete(retry.number, {"relative_time": 1.0, "val_accuracy": 0.6}, {})
        answered(dispatcher, "a", store, job)
        answered(dispatcher, "b", store, taken(dispatcher, "b"))
        assert taken(dispatcher, "nothing more") is None
    assert (store.trials().pruned, store.finished_count()) == ([], 2)
    assert any("finished too late" in line for line in lines)


def test_stopped_trials_are_no_failures(store, tmp_path):
    """Every trial but the start points ends early, and the launch goes on to its number."""
    drive_reporting(store, make(store, tmp_path, trials=12, stopper=Scripted(*range(3, 12))))
    trials = store.trials()
    assert (len(trials.completed), len(trials.pruned), trials.failed) == (3, 9, [])


def test_stopped_trials_count_among_the_rivals_share(tmp_path):
    """They are of the study like the others, also for a driver that has only read of them."""
    # From a range without steps nobody draws full resolution by chance.
    spec = tiny_spec(search=TINY["search"] | {"frequency": {"low": 0.0, "high": 1.0}})
    store = StudyStore.create_or_continue(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), spec)
    for trials in (12, 21):
        drive_reporting(store, make(store, tmp_path, trials=trials, stopper=Scripted(*range(3, 21))))
    trials = sorted([*store.trials().completed, *store.trials().pruned], key=lambda trial: trial.number)
    # Three start points, which are a fifth of fifteen; then every fifth trial.
    assert [trial.number for trial in trials if trial.rival == "full"] == [15, 20]


# -- what a stopper is asked and learns


def test_relative_times_are_those_of_the_plan(store, tmp_path):
    stopper = Scripted()
    drive_reporting(store, make(store, tmp_path, trials=8, stopper=stopper))
    costs = {"32/full": 1.0, "16/full": 0.25, "16/pooled": 0.2}
    completed = {trial.root: trial for trial in store.trials().completed}
    reports = [asked for asked in stopper.asked if asked[2] == 1 and asked[3] == (0.1,)]
    assert len(reports) == 8
    for root, rival, _, _, times in reports:
        trial = completed[root]
        plan = store.spec.train_config(trial.params, trial.seed).schedule.plan(5 * trial.params["epochs"], 32, 5)
        prices = [sum(costs[f"{step.side_px}/{step.kernel}"] for step in epoch) / 20 for epoch in plan.epochs]
        assert times == pytest.approx([sum(prices[: epoch + 1]) for epoch in range(len(prices))])
        assert times[-1] == pytest.approx(trial.values["relative_time"])
        assert rival == trial.rival


def test_a_stopper_learns_of_each_result_once(store, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatcher_module, "RECONCILE_S", 0.0)
    stopper = Scripted(4)
    drive_reporting(store, make(store, tmp_path, trials=6, stopper=stopper))
    ends = [asked for asked in stopper.asked if asked[3] != (0.1,)]
    assert sorted(root for root, *_ in ends) == [0, 1, 2, 3, 5]
    assert all(epoch == len(times) for _, _, epoch, _, times in ends)
    # The next launch begins with what the database holds, in order; the stopped trial too, as far as it went.
    again = Scripted()
    drive_reporting(store, make(store, tmp_path, trials=7, stopper=again))
    assert [(root, epoch) for root, _, epoch, _, _ in again.asked[:6]] == [
        (root, 1 if root == 4 else epochs) for root, epochs in enumerate(epochs_of(store, 6))
    ]
    for earlier, later in zip(sorted(ends), [asked for asked in again.asked[:6] if asked[0] != 4], strict=True):
        assert later[:4] == earlier[:4]
        assert later[4] == pytest.approx(earlier[4])


def epochs_of(store, count):
    return [store.study.get_trials()[number].params["epochs"] for number in range(count)]


def test_a_stopper_learns_what_another_driver_finds(store, other, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatcher_module, "RECONCILE_S", 0.1)
    stopper = Scripted()
    dispatcher = make(store, tmp_path, trials=6, stopper=stopper)
    with started(dispatcher):
        job = taken(dispatcher, "a")
        claimed = other.create_trial(
            fixed=store.spec.baseline_params() | {"epochs": 3}, distributions=distributions(store.spec.search), sampler=None, rival="full"
        )
        values, stored = pricing(store.spec).values(record(store.spec, claimed.params, claimed.number, 0.6), alone=False)
        assert other.complete(claimed.number, values, stored)
        wait_until(lambda: any(asked[0] == claimed.root for asked in stopper.asked))
        dispatcher.trial_done("a", good(store, job))
        dispatcher.request_stop("the test is over")
    [told] = [asked for asked in stopper.asked if asked[0] == claimed.root]
    assert told[1:3] == ("full", 3)
    assert told[4] == pytest.approx((0.25, 0.5, 0.75))


def test_of_a_long_study_the_newest_trials_and_the_front_are_learned(store, tmp_path, monkeypatch):
    monkeypatch.setattr(stopping_module, "NEWEST", 3)
    drive(store, make(store, tmp_path, trials=12), lambda n, job: good(store, job, 0.9 if n < 3 else 0.5 - n / 100))
    stopper = Scripted()
    stopping = Stopping(stopper, store.spec, pricing(store.spec))
    stopping.learn(store.trials())
    roots = [asked[0] for asked in stopper.asked]
    front = {trial.root for trial in study_front(store).front} | {trial.root for trial in study_front(store).rival_front}
    assert roots == sorted(front | {9, 10, 11})
    assert len(roots) < 12
    stopping.learn(store.trials())
    assert len(stopper.asked) == len(roots)


def test_a_finished_trial_is_planned_coarsely_but_alike(tmp_path, monkeypatch):
    """With 5 of 5 steps an epoch it would be exact; with 4 the shares of the epochs are nearly those, and the last one is."""
    spec = tiny_spec()
    params = spec.baseline_params() | {"frequency": 0.5, "window_length": 0.5, "kernel": "pooled", "policy": "deterministic"}

    def told(steps):
        store = StudyStore.create_or_continue(open_storage(f"sqlite:///{tmp_path / str(steps)}.db"), spec)
        claimed = store.create_trial(fixed=params, distributions=distributions(spec.search), sampler=None, rival=None)
        values, stored = pricing(spec).values(record(spec, claimed.params, 0, 0.6), alone=False)
        store.complete(claimed.number, values, stored)
        monkeypatch.setattr(stopping_module, "_COARSE_STEPS", steps)
        stopper = Scripted()
        Stopping(stopper, spec, pricing(spec)).learn(store.trials())
        return stopper.asked[0][4]

    exact, coarse = told(5), told(4)
    assert coarse[-1] == exact[-1]
    assert coarse == pytest.approx(exact, abs=0.06)
    # Steps 2, 4, 6, 8 and 10 of 20 are pooled: 4.2, 3.4 + 0, 5, 5 full steps' worth.
    assert exact == pytest.approx((0.17, 0.3, 0.55, 0.8))


def test_another_programs_trials_teach_nothing(store):
    store.study.add_trial(create_trial(state=TrialState.PRUNED))
    stopper = Scripted()
    Stopping(stopper, store.spec, pricing(store.spec)).learn(store.trials())
    assert stopper.asked == []


# -- samplers


@pytest.mark.parametrize("name", ["tpe", "nsga2", "gp", "qmc", "random", "known_cost"])
def test_every_sampler_goes_on_beside_stopped_trials(tmp_path, name):
    spec = tiny_spec(sampler=name)
    store = StudyStore.create_or_continue(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), spec)
    drive_reporting(store, make(store, tmp_path, trials=16, stopper=Scripted(4, 7, 8)))
    relative = {step: cost.relative for step, cost in pricing(spec).reference.costs.items()}
    sampler = build_sampler(spec, PlanCost(spec.search, relative, 5, 20), 0)
    for _ in range(2):
        claimed = store.create_trial(fixed={}, distributions=distributions(spec.search), sampler=sampler, rival=None)
        assert claimed.params.keys() >= set(spec.search.searched)
    if name == "known_cost":
        guessed = {known.accuracy for known in sampler._history.read(store.study.get_trials()) if known.state == TrialState.PRUNED}
        assert guessed == {0.4}
