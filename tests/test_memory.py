"""Steps that run out of memory: the allocation that fails is real, which one fails is forced."""

from __future__ import annotations

import dataclasses
import weakref

import pytest
import torch

import trainers.steps
from trainers import Schedule, TrainConfig, train
from trainers.calibration import calibrate
from trainers.config import DataConfig
from trainers.errors import OutOfMemoryError, RunError
from trainers.schedule import Step

CONFIG = TrainConfig(
    model="cifar_resnet8",
    data=DataConfig(name="digits", train_images=64, val_images=10),
    epochs=1,
    batch_size=32,
    device="cpu",
    threads=1,
)
loss_of = trainers.steps._loss


@pytest.fixture
def small_memory(monkeypatch):
    """At most 10 images of 32 px at a time, or as many pixels of smaller ones. Returns weak references to what each attempt computed."""
    computed = []

    def loss(model, images, labels, label_smoothing):
        assert all(tensor() is None for tensor in computed), "an earlier attempt is still in memory"
        logits = model(images)
        computed.append(weakref.ref(logits))
        if images.numel() > 10 * 3 * 32 * 32:
            torch.empty(2**50)  # More than any machine has addresses for.
        return loss_of(model, images, labels, label_smoothing)

    monkeypatch.setattr("trainers.steps._loss", loss)
    return computed


def test_a_step_that_does_not_fit_names_the_batch_that_would(small_memory):
    with pytest.raises(OutOfMemoryError) as raised:
        train(CONFIG)
    # 32 images, then 16 and 8 at a time.
    assert len(small_memory) == 3 + 3
    message = str(raised.value)
    assert message.startswith("a step on 32 images of 32 px (full kernels, accumulate 1) needs more memory than there is on ")
    assert message.endswith(": give accumulate 4, which fits with 8 images at a time, or batch_size 8")
    assert isinstance(raised.value, RunError)
    assert raised.value.__context__ is None


@pytest.mark.parametrize("fields", [{"accumulate": 4}, {"batch_size": 8}])
def test_the_advice_is_true(small_memory, fields):
    assert len(train(dataclasses.replace(CONFIG, **fields)).curve) == CONFIG.epochs


def test_micro_batches_that_are_still_too_large_are_made_smaller(small_memory):
    with pytest.raises(OutOfMemoryError, match=r"accumulate 2\).*give accumulate 4, .* 8 images at a time, or batch_size 16$"):
        train(dataclasses.replace(CONFIG, accumulate=2))


def test_a_grown_batch_is_named_by_its_images(small_memory):
    schedule = Schedule(frequency=1.0, scale=0.25, batch_growth="constant_work")
    config = dataclasses.replace(CONFIG, schedule=schedule, data=DataConfig(name="digits", train_images=1024, val_images=10))
    # 16 batches of 8 px have as many pixels as one of 32 px; in 4 micro-batches they fit, as 32 / 4 full images do.
    with pytest.raises(
        OutOfMemoryError, match=r"^a step on 512 images of 8 px .*give accumulate 4, .* 128 images at a time, or batch_size 8$"
    ):
        train(config)


def test_where_nothing_fits_it_says_so(monkeypatch):
    monkeypatch.setattr("trainers.steps._loss", lambda *_: torch.empty(2**50))
    with pytest.raises(OutOfMemoryError, match=r"where not even one image at a time fits$"):
        train(CONFIG)


def test_the_process_goes_on(small_memory):
    with pytest.raises(OutOfMemoryError):
        train(CONFIG)
    assert train(dataclasses.replace(CONFIG, accumulate=4)).counts == {Step(32, "full"): 2}


def test_a_calibration_that_does_not_fit_says_so_too(small_memory):
    with pytest.raises(OutOfMemoryError, match="give accumulate 4"):
        calibrate(CONFIG, {Step(16, "full")}, accept_noisy=True)


def test_other_errors_stay_what_they_are(monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("trainers.steps._loss", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(CONFIG)
