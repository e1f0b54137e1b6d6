"""The contract of a study in its database, on SQLite and on PostgreSQL: who makes a trial, who ends it, what is read back."""

import dataclasses
import json
import math
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from studies import StudySpec
from trainers.errors import InputError
from tuner.samplers.build import build_sampler
from tuner.storage import owner as owner_module
from tuner.storage import rows
from tuner.storage import store as store_module
from tuner.storage.distributions import distributions
from tuner.storage.opening import GRACE_S, DatabaseAway, open_storage, resolve_url
from tuner.storage.owner import is_dead, this_owner
from tuner.storage.store import MAX_LOST, StudyStore
from tuner.storage.trials import CompletedTrial, StudyTrials

SEARCH = {"frequency": [0.0, 0.5, 1.0], "scale": 0.25, "lr": {"low": 0.01, "high": 1.0, "log": True}, "window_length": [0.5, 0.8]}
SPEC = StudySpec.from_json_dict(
    {"name": "small", "dataset": {"name": "digits"}, "model": "cifar_resnet8", "training": {"epochs": 10, "lr": 0.1}, "search": SEARCH}
)
DISTRIBUTIONS = distributions(SPEC.search)
POINT = {"frequency": 0.5, "window_length": 0.8, "epochs": 7, "lr": 0.2}
WHOLE_POINT = SPEC.search.complete(POINT)
BASELINE, SHORTER = SPEC.start_points()[0], SPEC.start_points()[1]
VALUES = {"relative_time": 0.5, "val_accuracy": 0.75}
RECORD = {
    "curve": [0.5, 0.75],
    "counts": {"8/full": 30, "32/full": 70},
    "seconds": {"train": 9.5, "data": 0.5, "evaluation": 1.0, "checkpoint": 0.1},
    "observed_over_calibrated": 1.02,
    "test_accuracy": None,
    "seed": 3,
    "device": "cpu, 1 thread",
    "versions": {"torch": "2.15.0"},
    "commit": "abc123",
    "metrics": {"val_loss": 0.9},
    "figures": [{"filter_sparsity.filters": 240.0}, {"filter_sparsity.filters": 236.0}],
    "note": "**half** of the steps",
}
ELSEWHERE = {"host": "elsewhere", "machine": "m", "boot_id": "b", "pid_namespace": "n", "pid": 1, "started": 1}
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tuner.storage.store"])


@pytest.fixture
def storage(storage_url):
    storage = open_storage(resolve_url(storage_url, None))
    yield storage
    storage.engine.dispose()


@pytest.fixture
def store(storage):
    return StudyStore.create_or_continue(storage, SPEC)


def create(store, params=POINT, **keys):
    """A trial without asking a sampler."""
    return store.create_trial(fixed=params, distributions=DISTRIBUTIONS, sampler=NoSampler(), **({"rival": None} | keys))


def abandoned(store, monkeypatch, owner=ELSEWHERE, **keys):
    """A RUNNING trial of another process."""
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "this_owner", lambda: owner)
        return create(store, **keys)


def execute(store, statement, **values):
    with store.storage.engine.begin() as connection:
        connection.execute(text(statement), values)


def silence(store, trial_id, seconds):
    """Puts a trial's last beat into the past."""
    with rows.transaction(store.storage) as session:
        now = rows._database_time(session)
    execute(
        store,
        "UPDATE trial_heartbeats SET heartbeat = :then WHERE trial_id = :trial_id",
        then=now - timedelta(seconds=seconds),
        trial_id=trial_id,
    )


def frozen(store, number):
    return next(trial for trial in optuna.load_study(study_name=store.name, storage=store.storage).trials if trial.number == number)


def get_note(study_or_trial):
    # Not at the top: it takes seconds to import, and every driver process would pay for it.
    import optuna_dashboard

    return optuna_dashboard.get_note(study_or_trial)


class NoSampler(RandomSampler):
    """Fails the test when it is asked for anything."""

    def sample_relative(self, *arguments):
        raise AssertionError("the sampler was asked")

    sample_independent = infer_relative_search_space = sample_relative


class TestStudies:
    def test_a_new_study_is_described_for_everyone(self, store, storage):
        study = optuna.load_study(study_name="small", storage=storage)
        assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE"]
        assert study.metric_names == ["relative_time", "val_accuracy"]
        assert study.user_attrs["spec"] == SPEC.to_json_dict()
        assert study.user_attrs["description"] == get_note(study)
        assert "cifar_resnet8 on digits" in get_note(study)
        assert StudySpec.from_json_dict(store.spec_json()) == SPEC

    def test_what_does_not_change_a_values_meaning_may_change(self, store, storage):
        create(store)
        changed = SPEC.model_copy(update={"sampler": "random", "seed": 5})
        again = StudyStore.create_or_continue(storage, changed)
        assert again.trial_count() == 1
        assert StudyStore.load(storage, "small").spec == changed

    def test_what_changes_it_is_refused_with_the_difference(self, store, storage):
        other = StudySpec.from_json_dict(
            SPEC.to_json_dict() | {"model": "resnet18", "training": {"epochs": 10, "lr": 0.1, "batch_size": 99}}
        )
        with pytest.raises(InputError, match=r"study 'small' can't be continued.*cifar_resnet8.*resnet18.*training.batch_size: 128 -> 99"):
            StudyStore.create_or_continue(storage, other)
        assert StudyStore.load(storage, "small").spec == SPEC

    def test_another_order_of_objectives_is_refused(self, store, storage):
        with pytest.raises(InputError, match="objectives"):
            StudyStore.create_or_continue(storage, SPEC.model_copy(update={"objectives": ("val_accuracy", "relative_time")}))

    def test_another_programs_study_is_left_alone(self, storage):
        study = optuna.create_study(study_name="small", storage=storage, directions=["minimize", "maximize"])
        study.add_trial(optuna.create_trial(values=[1.0, 2.0]))
        with pytest.raises(InputError, match=r"study 'small' .* was made by another program"):
            StudyStore.create_or_continue(storage, SPEC)
        assert StudyStore.names(storage) == []
        with pytest.raises(InputError, match="is unknown"):
            StudyStore.delete(storage, "small")

    def test_a_driver_killed_while_it_made_the_study(self, storage):
        storage.create_new_study([optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE], "small")
        StudyStore.create_or_continue(storage, SPEC)
        assert StudyStore.load(storage, "small").spec == SPEC

    def test_names_load_and_delete(self, store, storage):
        StudyStore.create_or_continue(storage, SPEC.model_copy(update={"name": "second"}))
        create(store)
        assert StudyStore.names(storage) == ["small", "second"]
        with pytest.raises(InputError, match=r"study 'smal' is unknown in .*; the nearest valid name is 'small'"):
            StudyStore.load(storage, "smal")
        StudyStore.delete(storage, "small")
        assert StudyStore.names(storage) == ["second"]
        with pytest.raises(InputError, match="'small' is unknown"):
            StudyStore.delete(storage, "small")

    def test_an_empty_database_says_so(self, storage):
        with pytest.raises(InputError, match=r"study 'x' is unknown in .*it holds no study yet"):
            StudyStore.load(storage, "x")

    def test_attributes(self, store, storage):
        assert store.get_attr("costs") is None
        store.set_attr("costs", {"32/full": [0.5, 0.25], "none": None})
        assert StudyStore.load(storage, "small").get_attr("costs") == {"32/full": [0.5, 0.25], "none": None}
        store.set_attr("costs", None)
        assert store.get_attr("costs") is None

    def test_it_stays_in_the_driver(self, store):
        with pytest.raises(TypeError, match="can't be pickled"):
            pickle.dumps(store)
        assert repr(store) == "StudyStore('small')"


class TestCreate:
    def test_a_fixed_trial_asks_no_sampler(self, store):
        claimed = create(store, rival=None, seed=11)
        assert (claimed.number, claimed.root, claimed.attempt, claimed.seed) == (0, 0, 1, 11)
        assert claimed.params == WHOLE_POINT
        assert claimed.params["scale"] == 0.25
        assert frozen(store, 0).params == POINT
        assert frozen(store, 0).distributions == DISTRIBUTIONS
        assert frozen(store, 0).state == TrialState.RUNNING
        assert [trial.number for trial in store.trials().running] == [0]

    def test_the_sampler_chooses_what_is_left_open(self, store):
        asked = []

        class Recorded(RandomSampler):
            def sample_independent(self, study, trial, name, distribution):
                asked.append(name)
                return super().sample_independent(study, trial, name, distribution)

        claimed = store.create_trial(fixed={"frequency": 0.5, "lr": 0.2}, distributions=DISTRIBUTIONS, sampler=Recorded(seed=0), rival=None)
        assert asked == ["window_length", "epochs"]
        assert claimed.params["frequency"] == 0.5
        assert claimed.params["lr"] == 0.2
        assert claimed.params == SPEC.search.complete({name: frozen(store, 0).params[name] for name in DISTRIBUTIONS})

    @pytest.mark.parametrize("name", ["tpe", "nsga2", "gp", "random", "qmc", "known_cost"])
    def test_every_sampler(self, store, name):
        sampler = build_sampler(SPEC.model_copy(update={"sampler": name, "seed": 1}), lambda params: 0.5 + params["frequency"], 0)
        for _ in range(3):
            claimed = store.create_trial(fixed={}, distributions=DISTRIBUTIONS, sampler=sampler, rival=None)
            SPEC.search.complete(claimed.params)
            assert store.complete(claimed.number, VALUES, RECORD)

    def test_the_sampler_sees_trials_that_others_made_meanwhile(self, store, storage):
        seen = []

        class Looking(RandomSampler):
            def sample_independent(self, study, trial, name, distribution):
                seen.append([other.number for other in study._get_trials(deepcopy=False, use_cache=True)])
                return super().sample_independent(study, trial, name, distribution)

        other = StudyStore.load(storage, "small")
        for _ in range(2):
            store.create_trial(fixed={}, distributions={"frequency": DISTRIBUTIONS["frequency"]}, sampler=Looking(seed=0), rival=None)
            create(other)
        assert seen == [[0], [0, 1, 2]]

    def test_a_sampler_that_fails_leaves_no_running_trial(self, store):
        with pytest.raises(AssertionError, match="the sampler was asked"):
            store.create_trial(fixed={}, distributions=DISTRIBUTIONS, sampler=NoSampler(), rival=None)
        [failed] = store.trials().failed
        assert (failed.kind, failed.reason) == ("error", "no parameters could be chosen for it: AssertionError: the sampler was asked")

    def test_rivals_are_marked(self, store):
        for params, mark in (BASELINE, SHORTER):
            create(store, params, rival=mark)
        sampled_full = create(store, BASELINE[0] | {"lr": 0.5})
        assert sampled_full.rival == "full"
        reduced = create(store)
        for number in range(4):
            store.complete(number, VALUES, {})
        assert [trial.rival for trial in store.trials().completed] == ["baseline", "shorter", "full", None]
        assert reduced.rival is None

    def test_it_has_an_owner_and_beats_at_once(self, store):
        """In one transaction: whoever sees the trial sees both."""
        create(store)
        [beat] = rows.running_trials(store.storage, store.study_id)
        assert beat.owner == this_owner()
        assert beat.silent_s < 30
        with store.storage.engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM trial_heartbeats")).scalar() == 1

    def test_an_answer_that_is_lost_makes_no_second_trial(self, store, monkeypatch):
        monkeypatch.setattr(rows, "insert_trial", with_lost_answer(rows.insert_trial))
        claimed = create(store)
        assert claimed.number == 0
        assert store.trial_count() == 1

    def test_a_trial_born_while_the_database_went_away_is_given_back(self, store, monkeypatch):
        whole = rows.insert_trial

        def away(*arguments, **keys):
            whole(*arguments, **keys)
            monkeypatch.setattr(rows, "insert_trial", whole)
            raise DatabaseAway("no answer")

        monkeypatch.setattr(rows, "insert_trial", away)
        with pytest.raises(DatabaseAway):
            create(store)
        assert create(store).number == 1
        trials = store.trials()
        assert [(trial.number, trial.kind) for trial in trials.failed] == [(0, "interrupted")]
        assert [trial.number for trial in trials.running] == [1]
        assert [retry.root for retry in store.retries()] == [0]

    def test_a_retry_is_made_once(self, store):
        create(store)
        store.fail(0, "interrupted", "the test ended it")
        [retry] = store.retries()
        assert store.claim_retry(retry, DISTRIBUTIONS).number == 1
        assert store.claim_retry(retry, DISTRIBUTIONS) is None

    def test_no_attempt_begins_beside_one_that_runs_or_has_a_result(self, store):
        """As for a driver that has read the trials before another one made its attempt."""
        create(store)
        store.fail(0, "interrupted", "the test ended it")
        [retry] = store.retries()
        store.claim_retry(retry, DISTRIBUTIONS)
        later = dataclasses.replace(retry, attempt=3)
        assert store.claim_retry(later, DISTRIBUTIONS) is None
        store.complete(1, VALUES, {})
        assert store.claim_retry(later, DISTRIBUTIONS) is None
        create(store)
        assert store.claim_retry(dataclasses.replace(retry, root=2), DISTRIBUTIONS) is None

    def test_roots_whose_numbers_begin_alike_are_told_apart(self, store):
        for _ in range(12):
            create(store)
        store.fail(1, "interrupted", "the test ended it")
        store.fail(11, "interrupted", "the test ended it")
        first, eleventh = store.retries()
        assert store.claim_retry(eleventh, DISTRIBUTIONS).number == 12
        assert store.family(1) == {1: TrialState.FAIL}
        assert store.claim_retry(first, DISTRIBUTIONS).number == 13
        assert store.family(1) == {1: TrialState.FAIL, 13: TrialState.RUNNING}
        assert store.family(11) == {11: TrialState.FAIL, 12: TrialState.RUNNING}


class TestBudget:
    def test_what_runs_and_what_is_finished_count(self, store):
        for _ in range(3):
            create(store)
        assert create(store, wanted=3) is None
        store.complete(0, VALUES, {})
        store.prune(1, {})
        assert create(store, wanted=3) is None
        store.fail(2, "interrupted", "the test ended it")
        [retry] = store.retries()
        assert store.claim_retry(retry, DISTRIBUTIONS, 2) is None
        assert store.claim_retry(retry, DISTRIBUTIONS, 3).number == 3
        assert store.trial_count() == 4

    def test_drivers_that_ask_at_once_draw_one_budget(self, storage_url, store):
        """Each driver has connections of its own, as on machines of their own."""
        drivers = [StudyStore.load(open_storage(storage_url), store.name) for _ in range(4)]
        with ThreadPoolExecutor(len(drivers)) as pool:
            made = [trial for drawn in pool.map(lambda driver: [create(driver, wanted=10) for _ in range(5)], drivers) for trial in drawn]
        assert sorted(trial.number for trial in made if trial is not None) == list(range(10))
        assert store.running_count() == 10

    def test_what_is_to_be_tried_once_is_tried_once(self, storage_url, store):
        other = StudyStore.load(open_storage(storage_url), store.name)
        assert create(store, once=True).number == 0
        assert create(other, once=True) is None
        assert create(other, once=True, seed=5).number == 1
        assert create(other).number == 2
        store.complete(0, VALUES, {})
        assert create(other, once=True) is None
        store.fail(1, "error", "it can't work")
        assert create(other, once=True, seed=5).number == 3

    def test_every_launch_has_a_number_of_its_own(self, storage_url, store):
        other = StudyStore.load(open_storage(storage_url), store.name)
        assert [store.launch_number(), other.launch_number(), store.launch_number()] == [0, 1, 2]

    def test_the_first_value_stays(self, storage_url, store):
        other = StudyStore.load(open_storage(storage_url), store.name)
        assert store.keep_first("id", "one") == "one"
        assert other.keep_first("id", "two") == "one"
        assert other.get_attr("id") == "one"


def with_lost_answer(function):
    """Does its work, but the first time the connection breaks before the answer."""
    calls = []

    def called(*arguments, **keys):
        result = function(*arguments, **keys)
        calls.append(result)
        if len(calls) == 1:
            raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))
        return result

    return called


class TestEnds:
    def test_complete_is_read_back_whole(self, store, storage):
        create(store, seed=3)
        assert store.complete(0, VALUES, RECORD) is True
        rest = {name: value for name, value in RECORD.items() if name != "note"}
        expected = CompletedTrial(number=0, root=0, attempt=1, params=WHOLE_POINT, values=VALUES, rival=None, **rest)
        assert StudyStore.load(storage, "small").trials() == StudyTrials([expected], [], [], [])
        assert frozen(store, 0).values == [0.5, 0.75]
        assert frozen(store, 0).user_attrs["curve"] == [0.5, 0.75]
        assert frozen(store, 0).intermediate_values == {}
        assert frozen(store, 0).datetime_complete is not None

    def test_the_note_is_the_dashboards(self, store):
        claimed = create(store)
        store.complete(0, VALUES, RECORD)
        assert get_note(optuna.Trial(store.study, claimed.trial_id)) == "**half** of the steps"
        longer = create(store)
        store.complete(1, VALUES, RECORD | {"note": "x" * 9999})
        assert set(get_note(optuna.Trial(store.study, longer.trial_id))) == {"x"}

    def test_a_users_own_note_stays(self, store):
        from optuna_dashboard import save_note

        claimed = create(store)
        trial = optuna.Trial(store.study, claimed.trial_id)
        save_note(trial, "mine")
        assert store.complete(0, VALUES, RECORD)
        assert get_note(trial) == "mine"

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            ({"relative_time": 0.5}, "its val_accuracy is missing"),
            ({"relative_time": math.nan, "val_accuracy": 0.5}, "its relative_time is nan, it must be a finite number"),
            ({"relative_time": 0.5, "val_accuracy": math.inf}, "its val_accuracy is inf, it must be a finite number"),
            ({"relative_time": -math.inf, "val_accuracy": 0.5}, "its relative_time is -inf, it must be a finite number"),
            ({"relative_time": None, "val_accuracy": 0.5}, "its relative_time is None, it must be a finite number"),
            ({"relative_time": "0.5", "val_accuracy": 0.5}, "its relative_time is 0.5, it must be a finite number"),
        ],
    )
    def test_values_are_checked_at_the_border(self, store, values, reason):
        create(store)
        assert store.complete(0, values, RECORD) is False
        trials = store.trials()
        assert (trials.completed, trials.running, trials.finished) == ([], [], 0)
        [failed] = trials.failed
        assert (failed.kind, failed.reason, failed.params) == ("error", reason, WHOLE_POINT)
        assert frozen(store, 0).user_attrs["record"]["seconds"] == RECORD["seconds"]

    def test_telling_again_changes_nothing(self, store):
        create(store)
        assert store.complete(0, VALUES, RECORD)
        before = frozen(store, 0)
        assert store.complete(0, {"relative_time": 0.1, "val_accuracy": 0.99}, {"note": "again"}) is False
        assert store.complete(0, {}, {}) is False
        assert store.fail(0, "error", "late") is False
        assert store.prune(0, RECORD) is False
        assert frozen(store, 0) == before
        assert get_note(optuna.Trial(store.study, before._trial_id)) == RECORD["note"]

    def test_a_late_result_of_a_failed_trial_changes_nothing(self, store):
        create(store)
        assert store.fail(0, "lost", "its worker died") is True
        assert store.complete(0, VALUES, RECORD) is False
        [failed] = store.trials().failed
        assert (failed.kind, failed.reason) == ("lost", "its worker died")
        assert store.finished_count() == 0

    def test_an_end_whose_answer_is_lost_has_happened(self, store, monkeypatch):
        create(store)
        monkeypatch.setattr(rows, "end_trial", with_lost_answer(rows.end_trial))
        assert store.complete(0, VALUES, RECORD) is True
        assert len(store.trials().completed) == 1

    def test_pruned_trials_are_finished_but_no_points(self, store):
        create(store)
        assert store.prune(0, RECORD) is True
        trials = store.trials()
        assert (trials.completed, [trial.curve for trial in trials.pruned], trials.finished) == ([], [[0.5, 0.75]], 1)
        assert store.finished_count() == 1
        assert frozen(store, 0).state == TrialState.PRUNED
        assert frozen(store, 0).values is None
        assert frozen(store, 0).user_attrs["curve"] == [0.5, 0.75]

    def test_what_databases_refuse_is_taken_out(self, store):
        create(store)
        dirty = {
            "curve": (0.5, math.nan),
            "metrics": {"val\0_loss": math.inf},
            "device": "a\0b" + "c" * 1_000_000,
            "note": "x\0y",
            "commit": "\ud800",
        }
        assert store.complete(0, VALUES, dirty)
        [completed] = store.trials().completed
        assert completed.device[:3] == "abc"
        assert len(completed.device) == 4000
        assert completed.metrics == {"val_loss": None}
        assert completed.curve[0] == 0.5
        assert math.isnan(completed.curve[1])
        create(store)
        assert store.fail(1, "error", "x\0y" * 100_000)
        assert store.trials().failed[0].reason[:4] == "xyxy"
        with store.storage.engine.connect() as connection:
            for (value_json,) in connection.execute(text("SELECT value_json FROM trial_user_attributes")):
                assert "\\u0000" not in value_json
                json.loads(value_json, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    def test_an_unknown_number_is_an_error(self, store):
        with pytest.raises(KeyError):
            store.complete(99, VALUES, {})

    def test_a_count_without_reading(self, store, monkeypatch):
        for _ in range(4):
            create(store)
        store.complete(0, VALUES, {})
        store.prune(1, {})
        store.fail(2, "error", "x")
        monkeypatch.setattr(RDBStorage, "_get_trials", lambda *arguments: pytest.fail("all trials were read"))
        assert (store.finished_count(), store.trial_count()) == (2, 4)


class TestOtherPrograms:
    def test_their_trials_are_read_as_far_as_they_go(self, store, storage):
        study = optuna.load_study(study_name="small", storage=storage)
        study.add_trial(
            optuna.create_trial(values=[0.5, 0.25], params={"x": "a"}, distributions={"x": CategoricalDistribution(["a", "b"])})
        )
        study.add_trial(optuna.create_trial(values=[0.5, math.inf]))
        study.add_trial(optuna.create_trial(state=TrialState.FAIL))
        study.add_trial(optuna.create_trial(state=TrialState.WAITING))
        study.add_trial(optuna.create_trial(state=TrialState.RUNNING, user_attrs={"owner": "bob", "lineage": 3}))
        study.add_trial(optuna.create_trial(state=TrialState.PRUNED))
        trials = store.trials()
        [completed] = trials.completed
        assert (completed.values, completed.params, completed.root, completed.attempt) == (
            {"relative_time": 0.5, "val_accuracy": 0.25},
            {"x": "a"},
            0,
            1,
        )
        assert (completed.curve, completed.counts, completed.device, completed.rival) == ([], {}, "", None)
        assert [(failed.number, failed.kind) for failed in trials.failed] == [(1, "error"), (2, "error")]
        assert [running.owner for running in trials.running] == [{}]
        assert [(pruned.number, pruned.curve) for pruned in trials.pruned] == [(5, [])]
        assert store.retries() == []

    def test_a_running_trial_without_an_owner_has_the_grace(self, store, storage):
        optuna.load_study(study_name="small", storage=storage).add_trial(optuna.create_trial(state=TrialState.RUNNING))
        assert store.reconcile() == []
        execute(store, "UPDATE trials SET datetime_start = '2020-01-01 00:00:00'")
        assert store.reconcile() == [0]
        assert store.retries() == []

    def test_a_trial_that_optuna_itself_failed_is_retried(self, store, monkeypatch):
        claimed = abandoned(store, monkeypatch)
        store.storage.set_trial_state_values(claimed.trial_id, TrialState.FAIL)
        assert store.trials().failed[0].kind == "interrupted"
        assert [retry.root for retry in store.retries()] == [0]


class TestReconcile:
    def test_a_killed_driver_is_noticed_at_once_and_its_trial_repeated_once(self, store, storage, storage_url):
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, storage_url], stdout=subprocess.PIPE, text=True, env=child_environment())
        assert driver.stdout.readline() == "claimed 0\n"
        assert store.reconcile() == []
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver.stdout.close()
        assert store.reconcile() == [0]
        assert store.reconcile() == []
        [failed] = store.trials().failed
        assert (failed.kind, failed.reason) == ("interrupted", f"its driver, process {driver.pid} on {socket.gethostname()}, is gone")
        [retry] = store.retries()
        assert store.retries() == [retry]
        assert (retry.root, retry.attempt, retry.params, retry.rival, retry.seed) == (0, 2, POINT, None, 5)
        claimed = store.claim_retry(retry, DISTRIBUTIONS)
        assert (claimed.number, claimed.root, claimed.attempt, claimed.params, claimed.seed) == (1, 0, 2, WHOLE_POINT, 5)
        assert store.retries() == []
        assert store.claim_retry(retry, DISTRIBUTIONS) is None
        store.complete(1, VALUES, {})
        assert store.retries() == []
        assert [(trial.number, trial.root, trial.attempt) for trial in store.trials().completed] == [(1, 0, 2)]

    def test_a_zombie_is_dead(self, store, monkeypatch):
        child = subprocess.Popen([sys.executable, "-c", ""])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        abandoned(store, monkeypatch, owner=this_owner() | {"pid": child.pid, "started": owner_module._start_ticks(child.pid)})
        assert store.reconcile() == [0]
        child.wait()

    def test_silence_is_death_after_the_grace(self, store, monkeypatch):
        claimed = abandoned(store, monkeypatch)
        silence(store, claimed.trial_id, GRACE_S - 20)
        assert store.reconcile() == []
        silence(store, claimed.trial_id, GRACE_S + 20)
        store.beat([claimed.number])
        assert store.reconcile() == []
        silence(store, claimed.trial_id, GRACE_S + 20)
        assert store.reconcile() == [0]
        [failed] = store.trials().failed
        assert failed.kind == "interrupted"
        assert failed.reason.startswith("its driver has not been heard of for ")

    def test_the_grace_can_be_chosen(self, store, monkeypatch):
        claimed = abandoned(store, monkeypatch)
        silence(store, claimed.trial_id, 20)
        assert store.reconcile(grace_s=40) == []
        assert store.reconcile(grace_s=10) == [0]

    def test_no_beat_at_all(self, store, monkeypatch):
        claimed = abandoned(store, monkeypatch)
        execute(store, "DELETE FROM trial_heartbeats")
        assert store.reconcile() == []
        execute(store, "UPDATE trials SET datetime_start = '2020-01-01 00:00:00' WHERE trial_id = :trial_id", trial_id=claimed.trial_id)
        assert store.reconcile() == [0]

    def test_a_hung_driver_on_this_host_is_silent_too(self, store, monkeypatch):
        parent = this_owner() | {"pid": os.getppid(), "started": owner_module._start_ticks(os.getppid())}
        claimed = abandoned(store, monkeypatch, owner=parent)
        assert store.reconcile() == []
        silence(store, claimed.trial_id, GRACE_S + 20)
        assert store.reconcile() == [0]

    def test_never_a_trial_of_its_own(self, store):
        claimed = create(store)
        silence(store, claimed.trial_id, 10 * GRACE_S)
        assert store.reconcile() == []

    def test_nothing_of_another_study(self, store, storage, monkeypatch):
        other = StudyStore.create_or_continue(storage, SPEC.model_copy(update={"name": "other"}))
        claimed = abandoned(other, monkeypatch)
        silence(other, claimed.trial_id, GRACE_S + 20)
        assert store.reconcile() == []
        assert store.retries() == []
        assert other.reconcile() == [0]

    def test_beating_for_nobody(self, store):
        store.beat([])
        assert store.trials().running == []


class TestOwner:
    def test_this_process_lives(self):
        assert is_dead(this_owner()) is False
        assert is_dead(json.loads(json.dumps(this_owner()))) is False
        assert {"host", "boot_id", "pid", "started"} <= this_owner().keys()

    @pytest.mark.parametrize(
        ("change", "dead"),
        [
            ({"started": 1}, True),  # the pid was given out again
            ({"pid": 2**22 + 1}, True),
            ({"boot_id": "earlier"}, True),
            ({"host": "elsewhere"}, None),
            ({"machine": "elsewhere"}, None),  # two machines of one name
            ({"pid_namespace": "another container"}, None),
            ({"pid": "no number"}, None),
            ({"started": 0}, False),
        ],
    )
    def test_what_is_known_of_others(self, change, dead):
        assert is_dead(this_owner() | change) is dead

    def test_an_owner_that_says_nothing(self):
        assert is_dead({}) is None

    def test_a_program_name_with_spaces_and_brackets(self, tmp_path):
        program = tmp_path / "a ) b (c"
        program.symlink_to("/bin/sleep")
        child = subprocess.Popen([program, "60"])
        started = owner_module._start_ticks(child.pid)
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
        assert abs(started / os.sysconf("SC_CLK_TCK") - uptime_s) < 20
        assert is_dead(this_owner() | {"pid": child.pid, "started": started}) is False
        child.kill()
        child.wait()
        assert is_dead(this_owner() | {"pid": child.pid, "started": started}) is True


class TestRetries:
    def attempt(self, store, kind):
        [retry] = store.retries()
        claimed = store.claim_retry(retry, DISTRIBUTIONS)
        store.fail(claimed.number, kind, "again")

    def test_what_a_stop_has_interrupted_is_no_failure_and_waits_until_it_goes_on(self, store):
        for _ in range(3):
            create(store)
        store.fail(0, "interrupted", "Ctrl-C")
        store.fail(1, "error", "no such layer")
        store.fail(2, "lost", "its worker died")
        trials = store.trials()
        assert [trial.number for trial in trials.failures] == [1, 2]
        assert [trial.number for trial in trials.interrupted] == [0]
        retried = next(retry for retry in store.retries() if retry.root == 0)
        again = store.claim_retry(retried, DISTRIBUTIONS)
        assert store.trials().interrupted == []
        # Stopped once more, it is still one training that waits.
        store.fail(again.number, "interrupted", "Ctrl-C")
        assert [trial.number for trial in store.trials().interrupted] == [again.number]
        # What went on and failed for good is a failure, not something that waits.
        [retried] = [retry for retry in store.retries() if retry.root == 0]
        last = store.claim_retry(retried, DISTRIBUTIONS)
        store.fail(last.number, "error", "no such layer")
        trials = store.trials()
        assert (trials.interrupted, [trial.number for trial in trials.failures]) == ([], [1, 2, last.number])

    def test_interrupted_is_repeated_for_ever(self, store):
        create(store, seed=4)
        store.fail(0, "interrupted", "Ctrl-C")
        for _ in range(MAX_LOST + 3):
            self.attempt(store, "interrupted")
        [retry] = store.retries()
        assert (retry.root, retry.attempt, retry.seed) == (0, MAX_LOST + 5, 4)

    def test_lost_is_given_up_after_three(self, store):
        create(store)
        store.fail(0, "lost", "out of memory")
        self.attempt(store, "interrupted")
        self.attempt(store, "lost")
        assert [retry.attempt for retry in store.retries()] == [4]
        self.attempt(store, "lost")
        assert store.retries() == []

    def test_an_error_is_not_repeated(self, store):
        create(store)
        store.fail(0, "error", "the loss became NaN")
        assert store.retries() == []

    def test_what_was_killed_before_its_parameters_were_chosen_is_not_repeated(self, store, monkeypatch):
        monkeypatch.setattr(StudyStore, "_sample", lambda *arguments: None)
        store.create_trial(fixed={"frequency": 0.5}, distributions=DISTRIBUTIONS, sampler=NoSampler(), rival=None)
        store.fail(0, "interrupted", "its driver is gone")
        assert store.retries() == []
        [failed] = store.trials().failed
        assert (failed.kind, failed.reason) == ("error", "its driver is gone")

    def test_each_root_on_its_own_in_order(self, store):
        marks = [(BASELINE[0], "baseline"), (SHORTER[0], "shorter"), (POINT, None), (POINT, None)]
        for params, mark in marks:
            create(store, params, rival=mark)
        store.complete(2, VALUES, {})
        for number in (3, 1, 0):
            store.fail(number, "interrupted", "stopped")
        assert [(retry.root, retry.rival, retry.params["epochs"]) for retry in store.retries()] == [
            (0, "baseline", 10),
            (1, "shorter", SHORTER[0]["epochs"]),
            (3, None, 7),
        ]
        for retry in reversed(store.retries()):
            store.claim_retry(retry, DISTRIBUTIONS)
        assert store.retries() == []
        assert [(trial.number, trial.root, trial.attempt) for trial in store.trials().running] == [(4, 3, 2), (5, 1, 2), (6, 0, 2)]
        assert [trial.number for trial in store.trials().failed] == [0, 1, 3]

    def test_roots_whose_numbers_begin_alike(self, store):
        """Root 1 must not be taken for root 11."""
        for _ in range(12):
            create(store)
        store.fail(1, "interrupted", "stopped")
        store.fail(11, "interrupted", "stopped")
        assert [store.claim_retry(retry, DISTRIBUTIONS).root for retry in store.retries()] == [1, 11]


class TestSeveralDrivers:
    """Real processes, at once, on one database."""

    def test_numbers_are_unique_and_each_retry_is_claimed_once(self, store, storage_url):
        for number in range(6):
            create(store)
            store.fail(number, "interrupted", "stopped")
        retries = store.retries()
        claims = in_parallel(_claim_all, storage_url, retries)
        assert sorted(root for driver in claims for root, _ in driver) == [0, 1, 2, 3, 4, 5]
        assert sorted(number for driver in claims for _, number in driver) == [6, 7, 8, 9, 10, 11]

    def test_trials_made_at_once(self, store, storage_url):
        numbers = in_parallel(_create_five, storage_url, None)
        assert sorted(numbers[0] + numbers[1]) == list(range(10))
        assert store.trial_count() == 10

    def test_only_one_of_two_ends_counts(self, store, storage_url):
        for _ in range(10):
            create(store)
        told = in_parallel(_end_all, storage_url, None)
        assert sorted(told[0] + told[1]) == list(range(10))
        trials = store.trials()
        assert len(trials.completed) + len(trials.failed) == 10
        assert all(trial.values == VALUES and trial.device == "cpu" for trial in trials.completed)

    def test_a_study_made_at_once(self, storage_url):
        assert in_parallel(_make_study, storage_url, None) == ["small", "small"]

    def test_a_beating_thread_beside_the_database_thread(self, store):
        done, errors = threading.Event(), []

        def beat():
            while not done.is_set():
                try:
                    store.beat([trial.number for trial in store.trials().running])
                except Exception as error:  # noqa: BLE001  a thread's exceptions fail no test by themselves
                    errors.append("".join(traceback.format_exception(error)))
                    return

        beating = threading.Thread(target=beat)
        beating.start()
        for number in range(10):
            create(store)
            assert store.complete(number, VALUES, RECORD)
        done.set()
        beating.join()
        assert errors == []
        assert store.finished_count() == 10


def in_parallel(task, url, argument):
    """Results of two processes that start on the same signal."""
    barrier, results = PROCESSES.Barrier(2), PROCESSES.Queue()
    drivers = [PROCESSES.Process(target=_driver, args=(task, url, argument, barrier, results)) for _ in range(2)]
    for driver in drivers:
        driver.start()
    found = [results.get(timeout=90) for _ in drivers]
    for driver in drivers:
        driver.join()
    return found


def _driver(task, url, argument, barrier, results):
    try:
        storage = open_storage(resolve_url(url, None))
        barrier.wait()
        results.put(task(storage, argument))
    except BaseException as error:
        results.put(f"{type(error).__name__}: {error}")
        raise


def _claim_all(storage, retries):
    store = StudyStore.load(storage, "small")
    claims = [store.claim_retry(retry, DISTRIBUTIONS) for retry in retries]
    return [(claimed.root, claimed.number) for claimed in claims if claimed is not None]


def _create_five(storage, _):
    store, sampler = StudyStore.load(storage, "small"), RandomSampler()
    return [store.create_trial(fixed={}, distributions=DISTRIBUTIONS, sampler=sampler, rival=None).number for _ in range(5)]


def _end_all(storage, _):
    store = StudyStore.load(storage, "small")
    ends = (lambda number: store.complete(number, VALUES, {"device": "cpu"}), lambda number: store.fail(number, "error", "x"))
    return [number for number in range(10) if ends[(number + os.getpid()) % 2](number)]


def _make_study(storage, _):
    return StudyStore.create_or_continue(storage, SPEC).name


DRIVER = """
import sys, time
import test_store
store = test_store.StudyStore.load(test_store.open_storage(test_store.resolve_url(sys.argv[1], None)), "small")
print("claimed", test_store.create(store, seed=5).number, flush=True)
time.sleep(600)
"""


def child_environment():
    return os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
