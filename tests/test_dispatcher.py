"""The dispatcher with a real database, its workers answered by the test: what is asked, kept, retried and given back."""

from __future__ import annotations

import dataclasses
import io
import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest
from filled import pricing, record, tiny_spec
from optuna.samplers import RandomSampler
from rich.console import Console

from trainers.errors import RunError
from trainers.places import RootPlace
from tuner.launching import dispatcher as dispatcher_module
from tuner.launching.dispatcher import STOP_REQUEST, Dispatcher
from tuner.launching.display import LaunchDisplay
from tuner.launching.jobs import EpochDone, TrialDone, TrialFailed
from tuner.launching.maker import TrialMaker
from tuner.launching.places import root_place
from tuner.launching.pricing import FirstBaseline
from tuner.launching.proposals import ListProposer, Proposal, SearchProposer
from tuner.launching.stop_rules import StopRules
from tuner.launching.trial_log import LOG_NAME
from tuner.results.stored import study_front
from tuner.samplers.canonical import CanonicalSampler
from tuner.storage.distributions import distributions
from tuner.storage.opening import DatabaseAway, open_storage
from tuner.storage.store import StudyStore

PATIENCE_S = 30


@pytest.fixture
def store(storage_url):
    return StudyStore.create_or_continue(open_storage(storage_url), tiny_spec())


def make(store, tmp_path, trials, slots=2, proposer=None, deadline_s=None, stopper=None, rules=None):
    spec = store.spec
    maker = TrialMaker(
        spec=spec,
        proposer=proposer or SearchProposer(spec),
        sampler=CanonicalSampler(RandomSampler(seed=store.launch_number()), spec.search),
        distributions=distributions(spec.search),
        place=str(tmp_path / "place"),
        data_root=str(tmp_path),
        device="cpu",
    )
    priced = dataclasses.replace(pricing(spec), baseline=FirstBaseline(lambda: store.trials().completed))
    return Dispatcher(store, maker, priced, trials=trials, slots=slots, deadline_s=deadline_s, stopper=stopper, rules=rules)


@contextmanager
def started(dispatcher):
    dispatcher.start()
    try:
        yield
    finally:
        dispatcher.close()


def taken(dispatcher, tune_id):
    """The next job, waited for as Ray's loop does; None when there will be none."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if (job := dispatcher.take(tune_id)) is not None:
            return job
        if dispatcher.exhausted:
            return None
        time.sleep(0.01)
    raise AssertionError("no job came")


def good(store, job, accuracy=0.8):
    config = job.config
    params = {name: getattr(config.schedule, name, None) for name in store.spec.search.searched}
    params |= {"epochs": config.epochs, "lr": config.lr}
    return TrialDone(record(store.spec, params, config.seed, accuracy))


def drive(store, dispatcher, answer):
    """Answers every job with `answer(number of jobs before, job)` until nothing is left."""
    jobs = []
    with started(dispatcher):
        while (job := taken(dispatcher, str(len(jobs)))) is not None:
            dispatcher.trial_done(str(len(jobs)), answer(len(jobs), job))
            jobs.append(job)
    return jobs


def test_exactly_the_asked_number_is_trained_and_kept(store, tmp_path):
    jobs = drive(store, make(store, tmp_path, trials=6), lambda n, job: good(store, job, 0.5 + n / 100))
    trials = store.trials()
    assert len(jobs) == 6
    assert [trial.number for trial in trials.completed] == [job.number for job in jobs] == list(range(6))
    assert [trial.values["val_accuracy"] for trial in trials.completed] == [0.5 + n / 100 for n in range(6)]
    assert [trial.rival for trial in trials.completed][:3] == ["baseline", "shorter", "shorter"]
    assert trials.failed == trials.running == []


def test_values_are_priced_from_the_counts(store, tmp_path):
    drive(store, make(store, tmp_path, trials=6), lambda n, job: good(store, job))
    costs = {"32/full": 1.0, "16/full": 0.25, "16/pooled": 0.2}
    for trial in store.trials().completed:
        # The baseline is 4 epochs of 5 full steps.
        assert trial.values["relative_time"] == pytest.approx(sum(costs[name] * n for name, n in trial.counts.items()) / 20)
        # 2 s were made up as really taken, a full step as 100 ms.
        assert trial.observed_over_calibrated == pytest.approx(2.0 / (trial.values["relative_time"] * 20 * 0.1))
    assert store.trials().completed[0].values["relative_time"] == 1.0


def test_a_trial_that_takes_longer_than_its_share_of_the_baseline_says_so(store, tmp_path):
    dispatcher = make(store, tmp_path, trials=2)
    lines = []
    dispatcher.on_event = lines.append
    drive(store, dispatcher, lambda n, job: good(store, job))
    # 2 s of training and 0.1 s of loading were made up for both, the baseline and three quarters of it.
    assert "wall time" not in lines[0]
    assert lines[1].endswith(
        "its wall time relative to the baseline was 100.0 %, 75.0 % was predicted: probably other processes slowed it down"
    )


def test_a_finished_study_hands_out_nothing(store, tmp_path):
    drive(store, make(store, tmp_path, trials=3), lambda n, job: good(store, job))
    assert drive(store, make(store, tmp_path, trials=3), lambda n, job: good(store, job)) == []
    assert store.trial_count() == 3


def test_more_trials_continue_without_asking_the_start_points_again(store, tmp_path):
    drive(store, make(store, tmp_path, trials=4), lambda n, job: good(store, job))
    drive(store, make(store, tmp_path, trials=7), lambda n, job: good(store, job))
    trials = store.trials().completed
    assert len(trials) == 7
    assert [trial.rival for trial in trials].count("baseline") == 1
    assert [trial.rival for trial in trials].count("shorter") == 2
    assert len({(tuple(trial.params.values()), trial.seed) for trial in trials}) == 7


def test_a_worker_that_dies_is_replaced_with_the_same_training(store, tmp_path):
    jobs = drive(store, make(store, tmp_path, trials=3), lambda n, job: None if n == 0 else good(store, job))
    trials = store.trials()
    assert len(trials.completed) == 3
    assert [(trial.number, trial.kind) for trial in trials.failed] == [(jobs[0].number, "lost")]
    retry = next(job for job in jobs[1:] if job.config.seed == jobs[0].config.seed)
    assert retry.config == dataclasses.replace(jobs[0].config, attempt=2)  # the same place for checkpoints included
    assert next(trial for trial in trials.completed if trial.number == retry.number).attempt == 2


def test_an_error_is_not_retried_but_the_search_goes_on(store, tmp_path):
    bad = {}

    def answer(n, job):
        if n == 4:
            bad["number"] = job.number
            return TrialFailed("NonFiniteLossError: the training loss became nan at step 3 of 20 (learning rate 0.1)")
        return good(store, job)

    drive(store, make(store, tmp_path, trials=6), answer)
    trials = store.trials()
    assert len(trials.completed) == 6
    assert [(trial.number, trial.kind) for trial in trials.failed] == [(bad["number"], "error")]
    assert "at step 3 of 20" in trials.failed[0].reason
    assert store.retries() == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_fails_its_trial(store, tmp_path, value):
    def answer(n, job):
        report = good(store, job)
        return TrialDone(report.record | {"val_accuracy": value}) if n == 3 else report

    drive(store, make(store, tmp_path, trials=5), answer)
    trials = store.trials()
    assert len(trials.completed) == 5
    assert [trial.reason for trial in trials.failed] == [f"its val_accuracy is {value}, it must be a finite number"]
    assert all(math.isfinite(trial.values["val_accuracy"]) for trial in trials.completed)


def test_a_study_whose_every_trial_fails_ends_with_the_reason(store, tmp_path):
    with pytest.raises(RunError, match="5 trials in a row failed, all of them because ValueError: no such layer"):
        drive(store, make(store, tmp_path, trials=6), lambda n, job: TrialFailed("ValueError: no such layer"))
    assert store.trials().completed == store.trials().running == []


def test_what_runs_at_a_stop_is_given_back_and_trained_by_the_next_launch(store, tmp_path):
    dispatcher = make(store, tmp_path, trials=6)
    with started(dispatcher):
        first, second = taken(dispatcher, "a"), taken(dispatcher, "b")
        dispatcher.trial_done("a", good(store, first))
        dispatcher.epoch_done("b", EpochDone((0.3,), 2.0, {}, "a made-up one"))
        dispatcher.request_stop("the test asks for it")
        assert taken(dispatcher, "c") is None
    trials = store.trials()
    assert [trial.number for trial in trials.completed] == [first.number]
    assert trials.running == []
    assert {trial.kind for trial in trials.failed} == {"interrupted"}
    jobs = drive(store, make(store, tmp_path, trials=6), lambda n, job: good(store, job))
    assert dataclasses.replace(second.config, attempt=2) in [job.config for job in jobs]
    completed = store.trials().completed
    assert len(completed) == 6
    assert len({trial.root for trial in completed}) == 6


def test_a_stop_request_in_the_database_is_noticed(store, tmp_path):
    dispatcher = make(store, tmp_path, trials=6)
    with started(dispatcher):
        taken(dispatcher, "a")
        store.set_attr(STOP_REQUEST, 1.0)
        deadline = time.monotonic() + PATIENCE_S
        while dispatcher.stop_reason is None and time.monotonic() < deadline:
            time.sleep(0.05)
    assert dispatcher.stop_reason == "tuner stop asked for it"
    assert store.trials().running == []


def test_a_deadline_ends_the_launch(store, tmp_path):
    dispatcher = make(store, tmp_path, trials=6, deadline_s=time.monotonic() - 1)
    with started(dispatcher):
        assert taken(dispatcher, "a") is None
    assert dispatcher.stop_reason == "its time is over"


def test_a_rule_of_the_budget_ends_the_launch(store, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatcher_module, "RULES_S", 0.1)
    rules = StopRules(tiny_spec(budget={"trials": 9, "accelerator_time": "1s"}))
    dispatcher = make(store, tmp_path, trials=9, rules=rules)
    with started(dispatcher):
        job = taken(dispatcher, "a")
        time.sleep(0.5)
        assert dispatcher.stop_reason is None
        # Its record says 2.31 s.
        dispatcher.trial_done("a", good(store, job))
        deadline = time.monotonic() + PATIENCE_S
        while dispatcher.stop_reason is None and time.monotonic() < deadline:
            time.sleep(0.05)
    assert dispatcher.stop_reason == "its 1s of accelerator time are used (2.31 s)"
    assert dispatcher.enough
    assert store.trials().running == []


def test_no_more_is_under_way_than_is_wanted(store, tmp_path):
    dispatcher = make(store, tmp_path, trials=3, slots=8)
    with started(dispatcher):
        jobs = [taken(dispatcher, str(n)) for n in range(3)]
        time.sleep(1.5)
        assert dispatcher.take("one too many") is None
        assert len(store.trials().running) == 3
        for n, job in enumerate(jobs):
            dispatcher.trial_done(str(n), good(store, job))
        assert taken(dispatcher, "after the end") is None
    assert store.finished_count() == 3


def test_trials_that_ran_side_by_side_are_not_called_alone(store, tmp_path):
    dispatcher = make(store, tmp_path, trials=4)
    with started(dispatcher):
        first, second = taken(dispatcher, "a"), taken(dispatcher, "b")
        dispatcher.trial_done("a", good(store, first))
        dispatcher.trial_done("b", good(store, second))
        third = taken(dispatcher, "c")
        dispatcher.trial_done("c", good(store, third))
        fourth = taken(dispatcher, "d")
        dispatcher.trial_done("d", good(store, fourth))
    alone = {trial.number: trial.user_attrs["record"]["alone"] for trial in store.study.get_trials()}
    assert alone == {first.number: False, second.number: False, third.number: True, fourth.number: True}


def test_a_list_of_trials_is_trained_once_each_with_its_seeds(store, tmp_path):
    params = store.spec.baseline_params()
    wanted = [Proposal(params | {"epochs": epochs}, "full", seed) for seed in (100, 101) for epochs in (2, 3)]
    drive(store, make(store, tmp_path, trials=4, proposer=ListProposer(wanted)), lambda n, job: good(store, job))
    trained = {(trial.params["epochs"], trial.seed) for trial in store.trials().completed}
    assert trained == {(2, 100), (3, 100), (2, 101), (3, 101)}
    assert store.trial_count() == 4


def test_only_one_proposal_is_ready_beyond_the_slots(store, tmp_path):
    dispatcher = make(store, tmp_path, trials=20, slots=2)
    with started(dispatcher):
        jobs = [taken(dispatcher, str(n)) for n in range(3)]
        time.sleep(1.5)
        assert dispatcher.take("a fourth") is None
        dispatcher.trial_done("0", good(store, jobs[0]))
        assert taken(dispatcher, "a fourth, now") is not None
        dispatcher.request_stop("the test is over")
    assert store.trial_count() == 4


def test_a_lost_terminal_ends_the_launch_instead_of_hanging_it(store, tmp_path):
    dispatcher = make(store, tmp_path, trials=6)

    def terminal_is_gone(line):
        raise SystemExit(1)

    dispatcher.on_event = terminal_is_gone
    with pytest.raises(SystemExit):
        drive(store, dispatcher, lambda n, job: good(store, job))
    trials = store.trials()
    assert trials.running == []
    assert len(trials.completed) >= 1


@pytest.fixture
def other(store, storage_url):
    """The same study as another driver sees it, with connections of its own."""
    return StudyStore.load(open_storage(storage_url), store.name)


def retried_elsewhere(other, number):
    """What another driver does with a trial of a driver that it takes for dead."""
    assert other.fail(number, "interrupted", "its driver has not been heard of")
    [retry] = other.retries()
    return other.claim_retry(retry, distributions(other.spec.search))


def test_a_late_result_goes_to_the_attempt_that_runs_now(store, other, tmp_path):
    # Nothing is made ready beside it: else another trial might be begun just between the first attempt's failure and the second one.
    dispatcher = make(store, tmp_path, trials=1, slots=0)
    with started(dispatcher):
        job = taken(dispatcher, "a")
        retry = retried_elsewhere(other, job.number)
        dispatcher.trial_done("a", good(store, job, 0.7))
        assert taken(dispatcher, "nothing more") is None
    [completed] = store.trials().completed
    assert (completed.number, completed.root, completed.values["val_accuracy"]) == (retry.number, job.number, 0.7)
    assert store.trials().running == []


def test_a_late_result_of_a_trial_that_nobody_has_retried_counts(store, other, tmp_path):
    dispatcher = make(store, tmp_path, trials=1, slots=0)
    with started(dispatcher):
        job = taken(dispatcher, "a")
        other.fail(job.number, "interrupted", "its driver has not been heard of")
        dispatcher.trial_done("a", good(store, job, 0.7))
        assert taken(dispatcher, "nothing more") is None
    [completed] = store.trials().completed
    assert (completed.root, completed.attempt, completed.values["val_accuracy"]) == (job.number, 2, 0.7)
    assert store.trial_count() == 2


def test_of_two_results_of_a_root_trial_the_first_counts(store, other, tmp_path):
    # Nothing is made ready beside it: else another trial might be begun just between the first attempt's failure and the second one.
    dispatcher = make(store, tmp_path, trials=2, slots=1)
    lines = []
    dispatcher.on_event = lines.append
    with started(dispatcher):
        job = taken(dispatcher, "a")
        retry = retried_elsewhere(other, job.number)
        values = {"relative_time": 1.0, "val_accuracy": 0.6}
        assert other.complete(retry.number, values, {})
        dispatcher.trial_done("a", good(store, job, 0.7))
        dispatcher.trial_done("b", good(store, taken(dispatcher, "b")))
        assert taken(dispatcher, "nothing more") is None
    assert store.finished_count() == 2
    first = next(trial for trial in store.trials().completed if trial.root == job.number)
    assert (first.number, first.values) == (retry.number, values)
    assert any("finished too late" in line for line in lines)


def test_a_worker_is_stopped_once_another_attempt_has_a_result(store, other, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatcher_module, "RECONCILE_S", 0.1)
    dispatcher = make(store, tmp_path, trials=2)
    with started(dispatcher):
        job, beside = taken(dispatcher, "a"), taken(dispatcher, "b")
        # The late result of an attempt that another driver had given up.
        assert other.complete(job.number, {"relative_time": 1.0, "val_accuracy": 0.6}, {})
        wait_until(lambda: dispatcher.is_unwanted("a"))
        assert not dispatcher.is_unwanted("b")
        dispatcher.dropped("a")
        dispatcher.dropped("b")
        assert list(dispatcher.running) == ["b"]
        dispatcher.trial_done("b", good(store, beside))
        assert taken(dispatcher, "nothing more") is None
    assert store.finished_count() == 2


def test_a_trial_that_was_taken_for_dead_is_taken_up_again(store, other, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatcher_module, "RECONCILE_S", 0.1)
    dispatcher = make(store, tmp_path, trials=1)
    with started(dispatcher):
        job = taken(dispatcher, "a")
        other.fail(job.number, "interrupted", "its driver has not been heard of")
        wait_until(lambda: dispatcher.running["a"].claimed.number != job.number)
        [running] = other.trials().running
        assert (running.root, running.attempt) == (job.number, 2)
        assert not dispatcher.is_unwanted("a")
        dispatcher.trial_done("a", good(store, job))
        assert taken(dispatcher, "nothing more") is None
    [completed] = store.trials().completed
    assert completed.number == running.number
    assert store.trial_count() == 2


def test_a_result_that_a_dead_driver_could_not_tell_is_told_and_not_trained_again(store, other, tmp_path):
    dispatcher = make(store, tmp_path, trials=3)
    with started(dispatcher):
        job = taken(dispatcher, "a")
        RootPlace(job.config.checkpoint).write_result(1, good(store, job, 0.65).record)
        dispatcher.request_stop("the driver was killed before it could tell")
    jobs = drive(store, make(store, tmp_path, trials=3), lambda n, job: good(store, job))
    assert job.config.seed not in [later.config.seed for later in jobs]
    assert len(jobs) == 2
    told = next(trial for trial in store.trials().completed if trial.root == job.number)
    assert (told.attempt, told.values["val_accuracy"]) == (2, 0.65)


def test_a_worker_that_dies_after_it_has_left_its_result_is_not_asked_again(store, tmp_path):
    def answer(n, job):
        if n:
            return good(store, job)
        RootPlace(job.config.checkpoint).write_result(1, good(store, job, 0.65).record)
        return None

    jobs = drive(store, make(store, tmp_path, trials=3), answer)
    trials = store.trials()
    assert len(jobs) == len(trials.completed) == 3
    assert trials.failed == []
    assert trials.completed[0].values["val_accuracy"] == 0.65


def test_a_place_that_fails_for_a_moment_ends_nothing(store, tmp_path, monkeypatch):
    def gone(self):
        raise OSError("bucket/root-00000 can't be read: timed out")

    monkeypatch.setattr(RootPlace, "remove_checkpoints", gone)
    drive(store, make(store, tmp_path, trials=4), lambda n, job: good(store, job, 0.9 - n / 10))
    assert store.finished_count() == 4


def test_a_long_outage_pauses_the_search_and_loses_nothing(store, tmp_path, monkeypatch):
    dispatcher = make(store, tmp_path, trials=4)
    lines = []
    dispatcher.on_event = lines.append
    away = []
    whole = type(store)._retried

    def reached(self, call):
        if away:
            # The answer is what is lost every other time.
            if len(away) % 2:
                whole(self, call)
            away.append(1)
            time.sleep(0.05)
            raise DatabaseAway("the database has not answered for 30 s: connection refused")
        return whole(self, call)

    with started(dispatcher):
        first, second = taken(dispatcher, "a"), taken(dispatcher, "b")
        monkeypatch.setattr(type(store), "_retried", reached)
        away.append(1)
        dispatcher.trial_done("a", good(store, first, 0.61))
        dispatcher.trial_done("b", good(store, second, 0.62))
        wait_until(lambda: len(away) > 8)
        assert dispatcher.stop_reason is None
        away.clear()
        while (job := taken(dispatcher, f"later {len(lines)}")) is not None:
            dispatcher.trial_done(f"later {len(lines)}", good(store, job))
            time.sleep(0.1)
    trials = store.trials()
    assert trials.running == []
    assert len({trial.root for trial in trials.completed}) == len(trials.completed) == 4
    assert [trial.values["val_accuracy"] for trial in trials.completed[:2]] == [0.61, 0.62]
    assert sum("paused: the database has not answered for 30 s: connection refused" in line for line in lines) == 1
    assert lines.count("the database answers again") == 1
    assert sum(line.startswith(f"trial {first.number} finished") for line in lines) == 1


def test_what_a_launch_shows_needs_no_database_while_it_is_away(store, tmp_path, monkeypatch):
    dispatcher = make(store, tmp_path, trials=3)
    printed = io.StringIO()
    display = LaunchDisplay(Console(file=printed, width=200), dispatcher, lambda: study_front(store))
    whole, calls = type(store)._retried, []

    def away(self, call):
        calls.append(call)
        raise DatabaseAway("the database has not answered for 30 s: connection refused")

    with display.showing(), started(dispatcher):
        job = taken(dispatcher, "a")
        monkeypatch.setattr(type(store), "_retried", away)
        wait_until(lambda: "paused: the database has not answered" in printed.getvalue())
        wait_until(lambda: len(calls) > 5)
        assert dispatcher.stop_reason is None
        monkeypatch.setattr(type(store), "_retried", whole)
        wait_until(lambda: "the database answers again" in printed.getvalue())
        dispatcher.trial_done("a", good(store, job))
        wait_until(lambda: "[1/3] trial 0 finished" in printed.getvalue())
        dispatcher.request_stop("the test is over")


def test_whoever_watches_sees_how_far_a_trial_is(store, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatcher_module, "HEARTBEAT_S", 0.04)
    told = []
    genuine = store.beat
    monkeypatch.setattr(store, "beat", lambda numbers, curves: (genuine(numbers, curves), told.append(dict(curves))))

    def curves():
        return [trial.curve for trial in store.trials().running]

    def waited(expected):
        deadline = time.monotonic() + PATIENCE_S
        while sorted(curves()) != expected:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    dispatcher = make(store, tmp_path, trials=4, slots=1)
    with started(dispatcher):
        job = taken(dispatcher, "a")
        for curve in ((0.1,), (0.1, 0.3)):
            dispatcher.epoch_done("a", EpochDone(curve, 1.0, {}, "a made-up one"))
            waited([[], list(curve)])
        dispatcher.request_stop("the test is over")
    # Each epoch is told once, however many beats there are, and what has none is not told at all.
    assert [curves for curves in told if curves] == [{job.number: (0.1,)}, {job.number: (0.1, 0.3)}]


def test_time_left_is_that_of_this_launch(store, tmp_path):
    drive(store, make(store, tmp_path, trials=3), lambda n, job: good(store, job))
    assert make(store, tmp_path, trials=6).finished == 3


def test_what_is_finished_while_the_database_is_away_is_told_by_the_next_launch(store, tmp_path, monkeypatch):
    dispatcher = make(store, tmp_path, trials=3)
    dispatcher.start()
    job = taken(dispatcher, "a")
    RootPlace(job.config.checkpoint).write_result(1, good(store, job, 0.65).record)

    def away(self, call):
        raise DatabaseAway("the database has not answered for 30 s: connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "_retried", away)
        dispatcher.trial_done("a", good(store, job, 0.65))
        with pytest.raises(RunError, match="what has finished is kept beside its checkpoints, and the next launch tells it"):
            dispatcher.close()
    monkeypatch.setattr("tuner.storage.store.this_owner", lambda: {"pid": 1, "host": "another process"})
    monkeypatch.setattr("tuner.storage.store.is_dead", lambda owner: True)
    jobs = drive(store, make(store, tmp_path, trials=3), lambda n, job: good(store, job))
    assert job.config.seed not in [later.config.seed for later in jobs]
    trials = store.trials()
    assert len({trial.root for trial in trials.completed}) == len(trials.completed) == 3
    assert trials.running == []


def test_two_drivers_share_one_budget(store, other, tmp_path):
    """Started at the same instant on a study without a trial."""
    first, second = make(store, tmp_path, trials=9), make(other, tmp_path, trials=9)
    with ThreadPoolExecutor(2) as pool:
        drivers = ((store, first), (other, second))
        answered = [pool.submit(drive, seen, driver, partial(lambda seen, n, job: good(seen, job), seen)) for seen, driver in drivers]
        jobs = [job for future in answered for job in future.result()]
    trials = store.trials()
    assert len(trials.completed) == 9
    assert trials.running == trials.failed == []
    assert sorted(job.number for job in jobs) == sorted(trial.number for trial in trials.completed)
    assert [trial.rival for trial in trials.completed].count("baseline") == 1
    asked = {(tuple(trial.params.values()), trial.rival == "full") for trial in trials.completed}
    assert len(asked) == 9


def test_a_failure_that_may_pass_is_retried_twice_and_then_given_up(store, tmp_path):
    jobs = drive(store, make(store, tmp_path, trials=6), lambda n, job: broken_baseline(store, job))
    assert [job.config.attempt for job in jobs if job.config.seed == jobs[0].config.seed] == [1, 2, 3]
    trials = store.trials()
    assert len(trials.completed) == 6
    assert [(trial.root, trial.reason) for trial in trials.failed] == [(0, "OutOfMemoryError: 3 GiB")] * 3
    assert store.retries() == []


def broken_baseline(store, job):
    return TrialFailed("OutOfMemoryError: 3 GiB", may_pass=True) if job.config.seed == store.spec.seed else good(store, job)


def test_a_launch_whose_first_trials_fail_stops_and_says_why(store, tmp_path):
    """Every fourth trial is good, so that there are never five failures in a row."""

    def answer(n, job):
        return good(store, job) if n % 4 == 3 else TrialFailed(f"ValueError: no class {n}")

    with pytest.raises(RunError, match="6 of the first 7 trials failed, all of them because ValueError: no class 6"):
        drive(store, make(store, tmp_path, trials=20), answer)


def test_checkpoints_of_the_front_stay(store, tmp_path):
    accuracies = [0.9, 0.5, 0.4, 0.3]
    place = tmp_path / "place"

    def answer(n, job):
        RootPlace(job.config.checkpoint).write(1, "epoch-00001.pt", b"weights")
        RootPlace(job.config.checkpoint).write(1, LOG_NAME, b"said")
        return good(store, job, accuracies[n])

    drive(store, make(store, tmp_path, trials=4), answer)
    front = {0, 1, 2} if store.trials().completed[3].values["relative_time"] >= 0.5 else {0, 1, 2, 3}
    assert {root for root in range(4) if root_place(str(place), root).checkpoints()} == front
    assert all(root_place(str(place), root).read(1, LOG_NAME) == b"said" for root in range(4))


@pytest.mark.parametrize(("keep", "left"), [("running", []), ("all", [0, 1, 2])])
def test_what_stays_is_the_study_files_to_say(storage_url, tmp_path, keep, left):
    store = StudyStore.create_or_continue(open_storage(storage_url), tiny_spec(checkpoints={"keep": keep}))

    def answer(n, job):
        RootPlace(job.config.checkpoint).write(1, "epoch-00001.pt", b"weights")
        return good(store, job, 0.5)

    drive(store, make(store, tmp_path, trials=3), answer)
    assert [root for root in range(3) if root_place(str(tmp_path / "place"), root).checkpoints()] == left


def test_a_worker_that_hung_is_told_from_one_that_died(store, tmp_path):
    stacks = (
        "10:00:01 epoch 1\nTimeout (0:01:00)!\nThread 0x00007f0000000001 (most recent call first):\n"
        '  File "/a/threads.py", line 5 in wait\n\nThread 0x00007f0000000002 (most recent call first):\n'
        '  File "/my/layers.py", line 12 in forward\n  File "/b/loop.py", line 90 in run_epoch\n'
    )

    def answer(n, job):
        if n == 0:
            RootPlace(job.config.checkpoint).write(job.config.attempt, LOG_NAME, stacks.encode())
        return None if n < 2 else good(store, job)

    drive(store, make(store, tmp_path, trials=4, slots=1), answer)
    reasons = [trial.reason for trial in store.trials().failed]
    assert reasons == ["it hung: no step for 0:01:00, in forward (layers.py, line 12)", "its worker died (out of memory, or killed)"]


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
