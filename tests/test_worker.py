"""A worker that trains one trial after another: what it reports, and that nothing of a trial is left in it."""

from __future__ import annotations

import dataclasses
import gc
import re
import warnings
import weakref

import pytest
from filled import tiny_spec

from trainers.methods.settings import FilterSparsity
from trainers.places import RootPlace
from tuner.launching.jobs import EpochDone, Job, TrialDone, TrialFailed

with warnings.catch_warnings():
    # Ray's own, at its import.
    warnings.simplefilter("ignore")
    from tuner.launching.worker import TrialWorker, _freeze_what_stays

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

def talking(num_classes):
    print("a network for", num_classes, "classes")
    return cyclic(num_classes)

def divergent(num_classes):
    network = build_model("cifar_resnet8", num_classes, 32)
    network.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    return network

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
        return Job(number, spec.train_config(params, number, device="cpu", threads=1, checkpoint=str(tmp_path / f"root-{number}")))

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
    assert finished(worker) == TrialFailed("ZeroDivisionError: division by zero", may_pass=True)
    worker.reset_config({"job": job(1)})
    report = finished(worker)
    assert isinstance(report, TrialDone)
    assert report.record["seed"] == 1
    # 160 images in batches of 32.
    assert report.record["counts"] == {"32/full": 5}


def test_a_result_lies_beside_its_checkpoints_before_it_is_reported(job, tmp_path):
    report = finished(started(job(3)))
    assert RootPlace(str(tmp_path / "root-3")).result() == (1, report.record)


def test_what_methods_say_after_each_epoch_is_in_the_result(job):
    made = job(4, "cifar_resnet8")
    assert finished(started(made)).record["figures"] == []
    config = dataclasses.replace(made.config, filter_sparsity=FilterSparsity(name="report"), checkpoint=made.config.checkpoint + "-sparse")
    figures = finished(started(dataclasses.replace(made, config=config))).record["figures"]
    # 16 in the stem, then two blocks' convolutions of 16, 32 and 64 filters.
    assert [epoch["filter_sparsity.filters"] for epoch in figures] == [16 + 2 * (16 + 32 + 64)]


def test_what_a_training_says_is_in_its_own_log_only(job, tmp_path):
    worker = started(job(0, model="worker_networks:talking"))
    finished(worker)
    worker.reset_config({"job": job(1)})
    finished(worker)
    worker.reset_config({"job": job(2, model="worker_networks:broken")})
    finished(worker)
    talked, silent, broken = ((tmp_path / f"root-{number}" / "attempt-1" / "log.txt").read_text() for number in range(3))
    assert "a network for 10 classes" in talked
    # Without a loss to tell, the broken one has no epoch.
    epoch = r"Z epoch 1 of 1: training loss \d\.\d+, validation accuracy \d+\.\d\d%, [\d.]+ s$"
    assert [len(re.findall(epoch, log, re.MULTILINE)) for log in (talked, silent, broken)] == [1, 1, 0]
    assert "classes" not in silent + broken
    assert "ZeroDivisionError: division by zero" in broken


def test_a_divergent_training_is_not_tried_again(job):
    report = finished(started(job(0, model="worker_networks:divergent")))
    assert report.reason.startswith("NonFiniteLossError: the training loss became nan at step 1 of")
    assert not report.may_pass
