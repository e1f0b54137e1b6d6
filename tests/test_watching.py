"""What a live page asks of the database: whether anything has ended, what runs and how far it is, on both kinds of database."""

from __future__ import annotations

import json

import pytest
from filled import filled_store, pricing, record
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from tuner.storage.distributions import distributions
from tuner.storage.opening import open_storage
from tuner.storage.owner import this_owner
from tuner.storage.rows import OWNER
from tuner.storage.store import StudyStore
from tuner.storage.watching import last_durations_s, study_version, watched_trials


@pytest.fixture
def store(storage_url):
    return filled_store(open_storage(storage_url), 4)


def born(store):
    return store.create_trial(fixed={}, distributions=distributions(store.spec.search), sampler=RandomSampler(seed=1), rival=None)


def ended(store, claimed):
    values, stored = pricing(store.spec).values(record(store.spec, claimed.params, 1, 0.7), alone=False)
    assert store.complete(claimed.number, values, stored)
    return stored


def test_the_version_is_another_one_once_something_has_ended(store):
    versions = [study_version(store, "tiny.confirm")]

    def differs():
        versions.append(study_version(store, "tiny.confirm"))
        return versions[-1] != versions[-2]

    claimed, other, third = born(store), born(store), born(store)
    store.beat([claimed.number], {claimed.number: (0.1,)})
    assert not differs()
    ended(store, claimed)
    assert differs()
    assert store.prune(other.number, {"curve": [0.1]})
    assert differs()
    assert store.fail(third.number, "error", "it broke")
    assert differs()
    store.set_attr("asked", 40)
    assert differs()
    beside = filled_store(store.storage, 1, name="tiny.confirm")
    assert differs()
    filled_store(store.storage, 1, name="another")
    assert not differs()
    StudyStore.delete(store.storage, beside.name)
    assert differs()
    assert len(set(versions[:-1])) == 6
    StudyStore.delete(store.storage, "tiny")
    assert study_version(store, "tiny.confirm") is None


def test_a_running_trials_curve_is_told_with_its_beats_and_gives_way_to_its_record(store):
    first, second = born(store), born(store)
    store.beat([first.number, second.number], {first.number: (0.1, float("nan"), 0.3)})
    found = watched_trials(store)
    assert [(one.trial.number, one.abandoned) for one in found] == [(first.number, ""), (second.number, "")]
    assert json.dumps(found[0].trial.curve) == "[0.1, NaN, 0.3]"
    assert found[1].trial.curve == []
    assert found[0].trial.params == first.params
    stored = ended(store, first)
    # A beat that was under way while its trial ended.
    store.beat([first.number, second.number], {first.number: (0.9,), second.number: (0.2,)})
    assert store.trials().completed[-1].curve == stored["curve"]
    assert [(one.trial.number, one.trial.curve) for one in watched_trials(store)] == [(second.number, [0.2])]
    assert store.states([first.number])[first.number] == TrialState.COMPLETE


def test_who_watches_elsewhere_sees_the_same(storage_url, store):
    # Optuna keeps what it has read: of running trials nothing must be kept.
    watching = StudyStore.load(open_storage(storage_url), "tiny")
    claimed = born(store)
    assert [one.trial.curve for one in watched_trials(watching)] == [[]]
    for curve in ((0.1,), (0.1, 0.2)):
        store.beat([claimed.number], {claimed.number: curve})
        assert [one.trial.curve for one in watched_trials(watching)] == [list(curve)]
    ended(store, claimed)
    assert watched_trials(watching) == []


def test_what_nobody_answers_for_is_said_to_be_abandoned(store):
    dead, silent = born(store), born(store)
    trial_id = store.study.get_trials(deepcopy=False)[dead.number]._trial_id
    store.storage.set_trial_user_attr(trial_id, OWNER, this_owner() | {"started": 1})
    trial_id = store.study.get_trials(deepcopy=False)[silent.number]._trial_id
    store.storage.set_trial_user_attr(trial_id, OWNER, {"host": "elsewhere", "pid": 7})
    found = {one.trial.number: one.abandoned for one in watched_trials(store, grace_s=-1)}
    assert found[dead.number].endswith("is gone")
    assert "has not been heard of for" in found[silent.number]
    assert {one.trial.number: one.abandoned for one in watched_trials(store)}[silent.number] == ""


def test_a_curve_of_another_programs_is_none(store):
    claimed = born(store)
    trial_id = store.study.get_trials(deepcopy=False)[claimed.number]._trial_id
    for value in (7, "0.5", {"0": 0.5}):
        store.storage.set_trial_user_attr(trial_id, "curve", value)
        assert [one.trial.curve for one in watched_trials(store)] == [[]]


def test_durations_are_those_of_the_last_that_finished(store):
    found = last_durations_s(store, 3)
    trials = [trial for trial in store.study.get_trials() if trial.state == TrialState.COMPLETE]
    expected = [(trial.datetime_complete - trial.datetime_start).total_seconds() for trial in reversed(trials)]
    assert found == pytest.approx(expected[:3], abs=1e-5)
    assert len(last_durations_s(store, 20)) == 4
