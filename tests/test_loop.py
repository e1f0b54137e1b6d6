"""Real trainings on a few digit scans: resuming, seeds across processes, failures, and what a result says."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import torch
from full_disk import full_disk

from trainers import Schedule, TrainConfig, train
from trainers.config import DataConfig
from trainers.data import TensorSplit
from trainers.errors import InputError, NonFiniteLossError
from trainers.evaluation import evaluate_test
from trainers.loop import Training
from trainers.models import build_model
from trainers.schedule import Step
from trainers.steps import training_step

SCHEDULE = Schedule(policy="stochastic", frequency=0.5, kernel="pooled", batch_norm="separate", window_length=0.8, seed=3)
CONFIG = TrainConfig(
    model="cifar_resnet8",
    data=DataConfig(name="digits", train_images=160, val_images=80),
    schedule=SCHEDULE,
    epochs=3,
    batch_size=32,
    lr=0.05,
    augment=("crop", "cutout"),
    seed=7,
    device="cpu",
    threads=1,
)


def weights_digest(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def undisturbed():
    return train(CONFIG)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("lr_curve", ["one_cycle", "cosine"])
def test_a_resumed_training_ends_bit_same(tmp_path, optimizer, lr_curve):
    config = dataclasses.replace(CONFIG, optimizer=optimizer, lr_curve=lr_curve, lr=0.01)
    whole = train(config)
    broken = dataclasses.replace(config, checkpoint=str(tmp_path))
    for epochs in (1, 1, 1):
        sitting = Training(broken)
        for _ in range(epochs):
            sitting.run_epoch()
    assert sitting.done
    result = sitting.result()
    assert weights_digest(result.model) == weights_digest(whole.model)
    assert result.curve == whole.curve
    assert result.val_loss == whole.val_loss


def test_resuming_a_finished_training_trains_nothing_more(tmp_path):
    config = dataclasses.replace(CONFIG, checkpoint=str(tmp_path))
    first = train(config)
    reports = []
    second = train(config, reports.append)
    assert reports == []
    assert second.curve == first.curve
    # The last checkpoint can't hold the seconds of its own writing.
    assert {**second.seconds, "checkpoint": 0} == {**first.seconds, "checkpoint": 0}


def test_another_process_trains_the_same(undisturbed):
    script = "from test_loop import CONFIG, weights_digest; from trainers import train; print(weights_digest(train(CONFIG).model))"
    found = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == weights_digest(undisturbed.model)


def test_another_seed_trains_otherwise(undisturbed):
    other = train(dataclasses.replace(CONFIG, seed=8))
    assert weights_digest(other.model) != weights_digest(undisturbed.model)


def test_the_counts_are_those_of_the_plan(undisturbed):
    # 160 images in batches of 32: five steps an epoch, three epochs.
    assert undisturbed.counts == SCHEDULE.plan(15, 32).counts()
    assert sum(undisturbed.counts.values()) == 15


GROWN = dataclasses.replace(
    CONFIG,
    data=DataConfig(name="digits", train_images=288, val_images=80),
    schedule=Schedule(frequency=1.0, window_length=0.5, batch_growth="constant_work"),
)


@pytest.fixture
def seen(monkeypatch):
    """Images and labels of every training batch, and learning rate of every step."""
    batches, rates = [], []
    batches_of = TensorSplit.batches

    def recorded_batches(split, *args, training, **options):
        for batch in batches_of(split, *args, training=training, **options):
            batches.extend([batch] if training else [])
            yield batch

    def recorded_step(model, optimizer, *args):
        rates.extend({group["lr"] for group in optimizer.param_groups})
        return training_step(model, optimizer, *args)

    monkeypatch.setattr(TensorSplit, "batches", recorded_batches)
    monkeypatch.setattr("trainers.loop.training_step", recorded_step)
    return batches, rates


def test_grown_batches_hold_the_same_images(seen):
    batches, _ = seen
    Training(GROWN).run_epoch()
    grown = list(batches)
    batches.clear()
    Training(dataclasses.replace(GROWN, schedule=Schedule())).run_epoch()
    # Nine batches of 32 images at half side: two steps of four, and one that was left.
    assert [len(images) for images, _ in grown] == [128, 128, 32]
    assert [len(images) for images, _ in batches] == [32] * 9
    for part in (0, 1):
        assert torch.equal(torch.cat([batch[part] for batch in grown]), torch.cat([batch[part] for batch in batches]))


def test_the_rate_of_each_step_is_that_of_its_progress_times_its_batches(seen):
    _, rates = seen
    train(dataclasses.replace(GROWN, lr_curve="cosine", lr=0.02))
    # 27 batches in 3 epochs, half side in the first 14. Every pair: batches before the step, batches in it.
    steps = [(0, 4), (4, 4), (8, 1), (9, 4), (13, 1), *((done, 1) for done in range(14, 27))]
    assert rates == pytest.approx([batches * 0.01 * (1 + math.cos(math.pi * done / 27)) for done, batches in steps])


def test_a_resumed_training_with_grown_batches_ends_bit_same(tmp_path):
    whole = train(GROWN)
    for _ in range(3):
        sitting = Training(dataclasses.replace(GROWN, checkpoint=str(tmp_path)))
        report = sitting.run_epoch()
    assert sitting.done
    assert report.epoch == 3
    assert weights_digest(sitting.model) == weights_digest(whole.model)
    assert sitting.result().counts == whole.counts == {Step(16, "full", 4): 3, Step(16, "full"): 2, Step(32, "full"): 13}


def test_accumulated_steps_resume_bit_same_too(tmp_path):
    config = dataclasses.replace(CONFIG, accumulate=3, epochs=2)
    whole = train(config)
    for _ in range(2):
        sitting = Training(dataclasses.replace(config, checkpoint=str(tmp_path)))
        sitting.run_epoch()
    assert weights_digest(sitting.model) == weights_digest(whole.model)


def test_the_weights_load_into_the_untouched_network(undisturbed):
    plain = build_model("cifar_resnet8", 10, 32)
    assert plain.load_state_dict(undisturbed.model.state_dict()) == torch.nn.modules.module._IncompatibleKeys([], [])


def test_a_result_reports_every_epoch_and_all_its_seconds(undisturbed):
    assert len(undisturbed.curve) == 3
    assert undisturbed.curve[-1] == undisturbed.val_accuracy
    assert all(0 <= accuracy <= 1 for accuracy in undisturbed.curve)
    assert set(undisturbed.seconds) == {"train", "data", "compile", "evaluation", "checkpoint"}
    assert undisturbed.seconds["train"] > undisturbed.seconds["checkpoint"]
    assert 0 <= evaluate_test(CONFIG, undisturbed.model) <= 1


def test_training_learns():
    config = dataclasses.replace(CONFIG, data=DataConfig(name="digits"), epochs=5, schedule=Schedule(), augment=(), batch_size=64, lr=0.1)
    assert train(config).val_accuracy > 0.4


def test_a_loss_that_is_not_finite_ends_the_training_and_names_the_step(tmp_path):
    config = dataclasses.replace(CONFIG, lr=1e30, lr_curve="cosine", checkpoint=str(tmp_path))
    with pytest.raises(NonFiniteLossError, match=r"became (nan|inf) at step [2-5] of 15 \(learning rate 1e\+30\)"):
        train(config)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    config = dataclasses.replace(CONFIG, checkpoint=str(tmp_path), epochs=1)
    train(config)
    with pytest.raises(InputError, match="belongs to a training with another configuration"):
        train(dataclasses.replace(config, lr=0.06))


def files_in(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*.*"))


def test_every_attempt_goes_on_from_the_newest_of_all_and_writes_under_its_own_number(tmp_path, undisturbed):
    for attempt in (1, 2, 3):
        sitting = Training(dataclasses.replace(CONFIG, checkpoint=str(tmp_path), attempt=attempt))
        assert sitting.epochs_done == attempt - 1
        sitting.run_epoch()
    assert files_in(tmp_path) == ["attempt-1/epoch-00001.pt", "attempt-2/epoch-00002.pt", "attempt-3/epoch-00003.pt"]
    assert weights_digest(sitting.model) == weights_digest(undisturbed.model)
    assert sitting.result().curve == undisturbed.curve


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_truncated_checkpoint_falls_back_to_the_one_before_and_ends_bit_same(tmp_path, undisturbed, attempt):
    first = Training(dataclasses.replace(CONFIG, checkpoint=str(tmp_path)))
    for _ in range(2):
        first.run_epoch()
    newest = tmp_path / "attempt-1" / "epoch-00002.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"epoch-00002\.pt can't be read, so the training goes on from \S+/attempt-1/epoch-00001\.pt: "):
        second = Training(dataclasses.replace(CONFIG, checkpoint=str(tmp_path), attempt=attempt))
    assert second.epochs_done == 1
    while not second.done:
        second.run_epoch()
    assert weights_digest(second.model) == weights_digest(undisturbed.model)
    assert second.result().curve == undisturbed.curve


def test_a_full_disk_costs_a_checkpoint_but_no_training(tmp_path, undisturbed):
    config = dataclasses.replace(CONFIG, checkpoint=str(tmp_path))
    first = Training(config)
    with full_disk(), pytest.warns(UserWarning, match=r"the training goes on, but \S+/epoch-00001\.pt can't be written"):
        first.run_epoch()
    assert files_in(tmp_path) == []
    first.run_epoch()
    assert files_in(tmp_path) == ["attempt-1/epoch-00002.pt"]
    second = Training(config)
    second.run_epoch()
    assert weights_digest(second.model) == weights_digest(undisturbed.model)


def test_checkpoints_of_another_file_system_resume_bit_same(undisturbed):
    config = dataclasses.replace(CONFIG, checkpoint=f"memory://{uuid.uuid4().hex}/root-00003")
    for _ in range(3):
        sitting = Training(config)
        sitting.run_epoch()
    assert weights_digest(sitting.model) == weights_digest(undisturbed.model)


def test_a_finished_training_leaves_its_newest_two_checkpoints_and_nothing_half_written(tmp_path):
    train(dataclasses.replace(CONFIG, checkpoint=str(tmp_path), attempt=4))
    assert files_in(tmp_path) == ["attempt-4/epoch-00002.pt", "attempt-4/epoch-00003.pt"]


def test_an_unknown_device_is_one_sentence():
    with pytest.raises(InputError, match="device is 'gpu', it must be auto, cpu, cuda"):
        train(dataclasses.replace(CONFIG, device="gpu"))


@pytest.mark.gpu
def test_a_bf16_training_on_the_gpu_learns():
    config = dataclasses.replace(CONFIG, data=DataConfig(name="digits"), device="cuda", precision="bf16", epochs=8, lr=0.1)
    result = train(config)
    assert result.val_accuracy > 0.3
    assert next(result.model.parameters()).is_cuda
