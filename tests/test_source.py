"""What a driver trains next, on a real database: a fixed list of trials, some of which fail."""

from __future__ import annotations

import pytest
from filled import tiny_spec
from optuna.samplers import RandomSampler

from tuner.launching.maker import TrialMaker
from tuner.launching.proposals import ListProposer, Proposal
from tuner.launching.source import TrialSource
from tuner.storage.distributions import distributions
from tuner.storage.opening import open_storage
from tuner.storage.store import StudyStore

NAN = "the training loss became nan"


@pytest.fixture
def store(storage_url):
    return StudyStore.create_or_continue(open_storage(storage_url), tiny_spec())


def launched(store, tmp_path):
    """The source of a launch that begins now, for the baseline and nothing else."""
    spec = store.spec
    maker = TrialMaker(
        spec=spec,
        proposer=ListProposer([Proposal(spec.baseline_params(), "baseline", 7)]),
        sampler=RandomSampler(seed=0),
        distributions=distributions(spec.search),
        place=str(tmp_path / "place"),
        data_root=str(tmp_path),
        device="cpu",
    )
    source = TrialSource(store, maker, wanted=1)
    source.reconcile()
    return source


def test_what_could_not_work_is_tried_again_by_the_next_launch_only(store, tmp_path):
    first = launched(store, tmp_path)
    assert first.next().trial.root == 0
    store.fail(0, "error", NAN)
    first.reconcile()
    assert first.next() is None
    assert launched(store, tmp_path).next().trial.root == 1


def test_so_is_what_could_not_work_after_it_had_been_interrupted(store, tmp_path):
    assert launched(store, tmp_path).next().trial.number == 0
    store.fail(0, "interrupted", "its driver is gone")
    second = launched(store, tmp_path)
    retried = second.next().trial
    assert (retried.number, retried.root, retried.attempt) == (1, 0, 2)
    store.fail(1, "error", NAN)
    second.reconcile()
    assert second.next() is None
    third = launched(store, tmp_path).next()
    assert third is not None, "what was interrupted first hides that it failed for good later"
    assert (third.trial.root, third.trial.attempt, third.trial.seed) == (2, 1, 7)


def test_what_is_lost_three_times_is_given_up_for_good(store, tmp_path):
    for attempt in range(1, 4):
        source = launched(store, tmp_path)
        assert source.next().trial.attempt == attempt
        store.fail(attempt - 1, "lost", "its worker died")
    for source in (launched(store, tmp_path), launched(store, tmp_path)):
        assert source.next() is None
