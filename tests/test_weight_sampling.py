"""Averages of weights that a training passes through: their values, the statistics they are evaluated with, and what a training leaves."""

from __future__ import annotations

import copy
import dataclasses
import functools

import numpy as np
import pytest
import torch
from images import CPU, evaluated, fingerprints
from torch import nn
from torch.optim.swa_utils import update_bn

from trainers import Schedule, TrainConfig, train
from trainers.config import DataConfig
from trainers.data import load_data
from trainers.errors import InputError
from trainers.evaluation import evaluate
from trainers.full_step import training_state_bytes
from trainers.loop import Training
from trainers.methods import weight_sampling
from trainers.methods.settings import WeightSampling
from trainers.methods.weight_sampling import Samples, estimate_statistics, statistics_batches, weights_of

CONFIG = TrainConfig(
    model="test_weight_sampling:small_network",
    data=DataConfig(name="digits", train_images=64, val_images=40),
    schedule=Schedule(frequency=0.5, kernel="pooled", batch_norm="separate"),
    epochs=3,
    batch_size=8,
    lr=0.05,
    augment=("crop",),
    seed=7,
    device="cpu",
    threads=1,
)
# Eight steps an epoch: samples after steps 3, 6, 9 ... 24, and the second period begins with step 18.
EVERY_3 = {"every": 3, "period": 2, "last": 4, "momentum": 0.75}


def small_network(num_classes: int) -> nn.Module:
    first = (nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3))
    second = (nn.Conv2d(6, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(24, num_classes))


def plain_network(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, num_classes))


def with_sampling(config: TrainConfig = CONFIG, /, **settings: object) -> TrainConfig:
    return dataclasses.replace(config, weight_sampling=WeightSampling(**settings))


def flat(model: nn.Module) -> np.ndarray:
    return np.concatenate([parameter.detach().double().numpy().ravel() for parameter in model.parameters()])


def state_of(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


class RecordedTraining(Training):
    """Notes the weights after every step, and what is left of them after every epoch."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.after_steps: list[np.ndarray] = []
        self.after_epochs: list[np.ndarray] = []
        self.buffers: list[bytes] = []

    def _step(self, *args):
        loss = super()._step(*args)
        self.after_steps.append(flat(self.model))
        return loss

    def run_epoch(self):
        report = super().run_epoch()
        self.after_epochs.append(flat(self.model))
        self.buffers += [buffer.numpy().tobytes() for buffer in self.model.buffers()]
        return report


def recorded(config: TrainConfig) -> RecordedTraining:
    training = RecordedTraining(config)
    while not training.done:
        training.run_epoch()
    return training


# Averages


def samples_of(*values: float, **settings: object) -> list[float]:
    """The average after each sample; None begins a period."""
    samples, averages = Samples(WeightSampling(**settings)), []
    for value in values:
        if value is None:
            samples.begin_period()
        else:
            samples.add([torch.tensor([value], dtype=torch.float64)])
        averages.append(samples.average()[0].item())
    return averages


def test_averages_have_the_values_worked_out_by_hand():
    assert samples_of(1, 3, 8, None, 10, 20, name="pswa") == [1, 2, 4, 4, 10, 15]
    assert samples_of(1, 3, 8, None, 10, 20, name="pwalks", last=3) == [1, 2, 4, 4, 7, pytest.approx(38 / 3)]
    assert samples_of(1, 3, 8, None, 10, name="pwalks", last=1) == [1, 3, 8, 8, 10]
    assert samples_of(1, 3, 8, None, 10, name="pswm", momentum=0.5) == [1, 2, 5, 5, 7.5]
    assert Samples(WeightSampling(name="pswa")).average() is None


def test_a_sample_stays_the_callers():
    for name in ("pswa", "pwalks", "pswm"):
        samples, weights = Samples(WeightSampling(name=name)), [torch.ones(2)]
        for value in (1.0, 2.0):
            samples.add(weights)
            weights[0].fill_(9)
            assert samples.average()[0].max() < 9 or value == 2
        assert weights[0].tolist() == [9, 9]


@functools.cache
def undisturbed(name: str) -> RecordedTraining:
    return recorded(with_sampling(name=name, **EVERY_3))


# Numbers of the samples, which are three steps apart.
@pytest.mark.parametrize(("name", "averaged"), [("pswa", range(6, 9)), ("pwalks", range(5, 9))])
def test_the_result_is_the_mean_of_the_recorded_weights(name, averaged):
    training = undisturbed(name)
    expected = np.mean([training.after_steps[3 * number - 1] for number in averaged], axis=0)
    assert not np.allclose(expected, training.after_steps[-1], atol=1e-4)
    np.testing.assert_allclose(flat(training.result().model), expected, atol=1e-6)


def test_the_result_of_pswm_weighs_each_sample_by_its_age():
    training = undisturbed("pswm")
    samples = np.array(training.after_steps[2::3])
    assert len(samples) == 8
    ages = 0.75 ** np.arange(7, -1, -1) * [1, *[0.25] * 7]
    assert ages.sum() == pytest.approx(1)
    np.testing.assert_allclose(flat(training.result().model), ages @ samples, atol=1e-6)


@pytest.mark.parametrize("name", ["pswa", "pwalks", "pswm"])
def test_sampling_leaves_the_training_as_it_is_and_the_result_is_what_was_evaluated(name):
    training, plain = undisturbed(name), recorded(CONFIG)
    assert np.array_equal(training.after_steps, plain.after_steps)
    assert training.buffers == plain.buffers
    assert training.curve != plain.curve
    result = training.result()
    assert evaluate(result.model, training.data.val, CONFIG.batch_size) == (result.val_accuracy, result.val_loss)
    assert result.val_accuracy == result.curve[-1]


def test_before_the_first_sample_the_network_itself_is_evaluated():
    late, plain = train(with_sampling(name="pswa", every=25)), train(CONFIG)
    assert (late.curve, state_of(late.model)) == (plain.curve, state_of(plain.model))


@pytest.mark.parametrize(("name", "averaged"), [("pswa", (3, 6, 9, 12, 15)), ("pwalks", (6, 9, 12, 15))])
def test_a_write_back_goes_on_from_the_average_at_the_end_of_a_period(name, averaged):
    training = recorded(with_sampling(name=name, **EVERY_3, write_back=True))
    own, written = undisturbed(name), training.after_epochs[1]
    assert np.array_equal(training.after_steps[:16], own.after_steps[:16])
    assert np.array_equal(training.after_epochs[0], own.after_steps[7])
    np.testing.assert_allclose(written, np.mean([own.after_steps[step - 1] for step in averaged], axis=0), atol=1e-6)
    step_from_there, usual_step = np.abs(training.after_steps[16] - written).max(), np.abs(np.diff(own.after_steps[15:18], axis=0)).max()
    assert step_from_there < 3 * usual_step
    assert np.abs(training.after_steps[16] - own.after_steps[16]).max() > 1e-4


# Statistics


def test_statistics_are_means_over_the_batches_worked_out_with_numpy():
    layer = nn.BatchNorm2d(3, momentum=0.3)
    batches = [torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) + seed for seed in (1, 2, 5)]
    layer(batches[0])
    estimate_statistics(layer, batches)
    found = np.array([batch.double().numpy() for batch in batches])
    np.testing.assert_allclose(layer.running_mean, found.mean(axis=(1, 3, 4)).mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, found.var(axis=(1, 3, 4), ddof=1).mean(0), rtol=1e-5)
    assert layer.momentum == 0.3
    assert not layer.training


def test_statistics_are_those_of_a_network_without_dropout():
    torch.manual_seed(0)
    network = small_network(10)
    batches = list(torch.randn(3, 8, 3, 16, 16))
    whole = copy.deepcopy(network)
    whole[3] = nn.Identity()
    update_bn(batches, whole)
    estimate_statistics(network, batches)
    for layer in (1, 5):
        assert torch.equal(network[layer].running_mean, whole[layer].running_mean)
        assert torch.equal(network[layer].running_var, whole[layer].running_var)


def test_they_come_from_the_same_plain_training_images_every_time(monkeypatch):
    seen = []

    def noted(model, batches):
        batches = list(batches)
        seen.append(torch.cat(batches))
        estimate_statistics(model, batches)

    monkeypatch.setattr(weight_sampling, "estimate_statistics", noted)
    monkeypatch.setattr(weight_sampling, "FEWEST_IMAGES", 20)
    config = with_sampling(name="pswa")
    train(dataclasses.replace(config, epochs=2))
    assert [len(images) for images in seen] == [24]
    result = train(dataclasses.replace(config, epochs=3))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    whole = copy.deepcopy(result.model)
    whole[3] = nn.Identity()
    update_bn(seen[0].split(8), whole)
    assert all(map(torch.equal, whole.buffers(), result.model.buffers()))
    images = fingerprints(evaluated(load_data(CONFIG.data, CPU).train)[0])
    assert len(set(fingerprints(seen[0])) & set(images)) == 24


@pytest.mark.parametrize(("images", "batch_size", "batches"), [(1077, 64, 8), (10_000, 128, 4), (50_000, 128, 20), (1_281_167, 256, 32)])
def test_how_many_batches_statistics_come_from(images, batch_size, batches):
    assert statistics_batches(images, batch_size) == batches


def test_a_network_without_statistics_looks_at_no_image():
    def none():
        raise AssertionError
        yield

    estimate_statistics(plain_network(10), none())
    result = train(with_sampling(dataclasses.replace(CONFIG, model="test_weight_sampling:plain_network"), name="pwalks", every=2))
    assert len(result.curve) == 3


# Checkpoints


@pytest.mark.parametrize("write_back", [False, True])
@pytest.mark.parametrize("name", ["pswa", "pwalks", "pswm"])
def test_a_training_resumed_within_a_period_ends_bit_same(tmp_path, name, write_back):
    config = with_sampling(name=name, **EVERY_3 | {"last": 3 if write_back else 20}, write_back=write_back)
    whole = train(config)
    broken = dataclasses.replace(config, checkpoint=str(tmp_path))
    for _ in range(3):
        Training(broken).run_epoch()
    # From the checkpoint after the last epoch, too.
    for resumed in (Training(broken).result(), train(broken)):
        assert state_of(resumed.model) == state_of(whole.model)
        assert (resumed.curve, resumed.val_loss) == (whole.curve, whole.val_loss)


@pytest.mark.parametrize("name", ["none", "pswa", "pwalks", "pswm"])
def test_the_size_of_a_checkpoint_is_known(tmp_path, name):
    # The first epoch takes eight samples, and four are kept.
    config = dataclasses.replace(with_sampling(name=name, every=1, last=4), checkpoint=str(tmp_path), model="cifar_resnet8")
    Training(config).run_epoch()
    (file,) = tmp_path.rglob("*.pt")
    tensors = training_state_bytes(config, 10)
    assert tensors < file.stat().st_size < tensors + 100_000


def test_another_setting_is_another_training(tmp_path):
    Training(dataclasses.replace(with_sampling(name="pswa"), checkpoint=str(tmp_path))).run_epoch()
    with pytest.raises(InputError, match="another configuration"):
        Training(dataclasses.replace(with_sampling(name="pswa", every=9), checkpoint=str(tmp_path)))


# A network that changes


def test_averages_follow_a_network_that_loses_channels():
    training = Training(with_sampling(name="pwalks", every=3, last=2))
    training.run_epoch()
    sampler = training.methods.methods["weight_sampling"]
    before = [tensor.clone() for tensor in sampler._samples.average()]

    def change(network: nn.Module) -> None:
        network[0].weight = nn.Parameter(network[0].weight[:4].detach())
        network[4].weight = nn.Parameter(network[4].weight[:, :4].detach())

    live = [tensor.clone() for tensor in weights_of(training.model)]
    for follow in sampler.parts.followers:
        follow(change)
    after = sampler._samples.average()
    assert all(map(torch.equal, live, weights_of(training.model)))
    shapes = {index: (old.shape, new.shape) for index, (old, new) in enumerate(zip(before, after, strict=True)) if old.shape != new.shape}
    assert shapes == {0: ((6, 3, 3, 3), (4, 3, 3, 3)), 3: ((6, 6, 3, 3), (6, 4, 3, 3))}
    assert torch.equal(after[0], before[0][:4])
    assert torch.equal(after[3], before[3][:, :4])
    assert torch.equal(after[5], before[5])


# Settings


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"name": "pswaa"}, "weight_sampling is 'pswaa', it must be one of none, pswa.*nearest valid name is 'pswa'"),
        ({"every": 0}, "weight_sampling.every is 0, it must be a whole number of at least 1"),
        ({"period": 1.5}, "weight_sampling.period is 1.5, it must be a whole"),
        ({"last": True}, "weight_sampling.last is True, it must be a whole"),
        ({"momentum": 1.1}, "weight_sampling.momentum is 1.1, it must be a finite number of at least 0 and at most 1"),
        ({"write_back": 1}, "weight_sampling.write_back is 1, it must be true or false"),
    ],
)
def test_a_wrong_setting_is_one_sentence(setting, said):
    with pytest.raises(InputError, match=said):
        WeightSampling(**setting)
