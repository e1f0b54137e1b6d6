"""A worker that trains one trial after another: what it reports, and that nothing of a trial is left in it."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
from filled import tiny_spec

from tuner.jobs import EpochDone, Job, TrialDone, TrialFailed

with warnings.catch_warnings():
    # Ray's own, at its import.
    warnings.simplefilter("ignore")
    from tuner.worker import TrialWorker, _freeze_what_stays

NETWORK = """
from trainers.models import build_model

def cyclic(num_classes):
    network = build_model("cifar_resnet8", num_classes, 32)
    network.owners = [network]
    return network

def remembered(num_classes):
    global latest
    latest = cyclic(num_classes)
    return latest

def broken(num_classes):
    network = build_model("cifar_resnet8", num_classes, 32)
    network.register_forward_hook(lambda module, inputs, output: 1 / 0)
    return network
"""


@pytest.fixture(autouse=True)
def _thawed():
    """The worker's process is its own, this one is not."""
    yield
    gc.unfreeze()
    _freeze_what_stays.cache_clear()


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Makes a job of one short epoch, by the number of its trial."""
    (tmp_path / "worker_networks.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def make(number, model="worker_networks:cyclic"):
        spec = tiny_spec(model=model, training={"epochs": 2, "batch_size": 32}, search={"frequency": 0.5})
        params = spec.baseline_params() | {"epochs": 1}
        return Job(number, spec.train_config(params, number, device="cpu", threads=1, checkpoint=str(tmp_path / f"{number}.pt")))

    return make


def started(job):
    """A worker as Ray makes one, without Ray's folders and log files."""
    worker = TrialWorker.__new__(TrialWorker)
    worker.setup({"job": job})
    return worker


def finished(worker):
    """The worker's last report."""
    while not (result := worker.step())["done"]:
        assert isinstance(result["report"], EpochDone)
    return result["report"]


def test_nothing_of_a_trial_is_left_when_the_next_one_begins(job):
    worker = started(job(0))
    for number in range(1, 4):
        report = finished(worker)
        assert isinstance(report, TrialDone)
        network = weakref.ref(worker._training.model)
        assert worker.reset_config({"job": job(number)})
        assert network() is None


def test_later_collections_look_at_trials_only(job):
    """Looking through half a million objects of loaded modules after every trial took longer than all else between two trials."""
    worker = started(job(0))
    finished(worker)
    worker.reset_config({"job": job(1)})
    assert gc.get_freeze_count() > 100_000
    assert len(gc.get_objects()) < 1_000


def test_what_outlives_its_trial_for_a_while_can_still_be_collected(job):
    worker = started(job(0))
    networks = []
    for number in range(1, 5):
        finished(worker)
        networks.append(weakref.ref(worker._training.model))
        worker.reset_config({"job": job(number, model="worker_networks:remembered")})
    # The first, of another factory, is forgotten at once; each later one when the next has taken its place.
    assert [network() is None for network in networks] == [True, True, True, False]


def test_a_network_that_fails_fails_its_trial_only(job):
    worker = started(job(0, model="worker_networks:broken"))
    assert finished(worker) == TrialFailed("ZeroDivisionError: division by zero")
    worker.reset_config({"job": job(1)})
    report = finished(worker)
    assert isinstance(report, TrialDone)
    assert report.record["seed"] == 1
    # 160 images in batches of 32.
    assert report.record["counts"] == {"32/full": 5}
