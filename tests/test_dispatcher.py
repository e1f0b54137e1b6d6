"""The dispatcher with a real database, its workers answered by the test: what is asked, kept, retried and given back."""

from __future__ import annotations

import dataclasses
import math
import time
from contextlib import contextmanager

import pytest
from filled import pricing, record, tiny_spec
from optuna.samplers import RandomSampler

from trainers.errors import RunError
from tuner.dispatcher import STOP_REQUEST, Dispatcher, TrialMaker
from tuner.jobs import EpochDone, TrialDone, TrialFailed
from tuner.pricing import FirstBaseline
from tuner.proposals import ListProposer, Proposal, SearchProposer
from tuner.sampling import CanonicalSampler, distributions
from tuner.storage import open_storage
from tuner.store import StudyStore

PATIENCE_S = 30


@pytest.fixture
def store(storage_url):
    return StudyStore.create_or_continue(open_storage(storage_url), tiny_spec())


def make(store, tmp_path, trials, slots=2, proposer=None, deadline_s=None):
    spec = store.spec
    maker = TrialMaker(
        spec=spec,
        proposer=proposer or SearchProposer(spec),
        sampler=CanonicalSampler(RandomSampler(seed=store.trial_count()), spec.search),
        distributions=distributions(spec.search),
        checkpoints=tmp_path / "checkpoints",
        data_root=str(tmp_path),
        device="cpu",
    )
    priced = dataclasses.replace(pricing(spec), baseline=FirstBaseline(lambda: store.trials().completed))
    return Dispatcher(store, maker, priced, trials=trials, slots=slots, deadline_s=deadline_s)


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
    assert lines[1].endswith("its wall time relative to the baseline was 100.0 %, 75.0 % was predicted: loading takes 4.8 % of it")


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
    assert retry.config == jobs[0].config  # the same checkpoint file included
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
    with pytest.raises(RunError, match="5 trials in a row failed, the last one because ValueError: no such layer"):
        drive(store, make(store, tmp_path, trials=6), lambda n, job: TrialFailed("ValueError: no such layer"))
    assert store.trials().completed == store.trials().running == []


def test_what_runs_at_a_stop_is_given_back_and_trained_by_the_next_launch(store, tmp_path):
    dispatcher = make(store, tmp_path, trials=6)
    with started(dispatcher):
        first, second = taken(dispatcher, "a"), taken(dispatcher, "b")
        dispatcher.trial_done("a", good(store, first))
        dispatcher.epoch_done("b", EpochDone(1, 0.3, 2.0))
        dispatcher.request_stop("the test asks for it")
        assert taken(dispatcher, "c") is None
    trials = store.trials()
    assert [trial.number for trial in trials.completed] == [first.number]
    assert trials.running == []
    assert {trial.kind for trial in trials.failed} == {"interrupted"}
    jobs = drive(store, make(store, tmp_path, trials=6), lambda n, job: good(store, job))
    assert second.config in [job.config for job in jobs]
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
