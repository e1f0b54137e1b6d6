"""Micro-batches: gradients against those of the whole batch, in float64 on a network without batch norm; statistics worked by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trainers import Schedule, TrainConfig
from trainers.config import DataConfig
from trainers.downsampling import Downsampler
from trainers.errors import InputError
from trainers.steps import add_gradients, training_step

CONFIG = TrainConfig(model="cifar_resnet8", data=DataConfig(name="digits"), device="cpu", label_smoothing=0.1)
IMAGES = torch.randn(10, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 4])


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(8, 5)).double()


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters()]


# 10 images in 3 micro-batches are 4, 4 and 2; in 4 they are 3, 3, 3 and 1; 16 is more than there are images.
@pytest.mark.parametrize("accumulate", [1, 2, 3, 4, 10, 16])
def test_micro_batches_add_up_to_the_whole_batch(accumulate):
    whole = network()
    loss = F.cross_entropy(whole(IMAGES), LABELS, label_smoothing=0.1)
    loss.backward()
    model = network()
    found = add_gradients(model, IMAGES, LABELS, dataclasses.replace(CONFIG, accumulate=accumulate))
    torch.testing.assert_close(found, loss.detach(), rtol=1e-9, atol=1e-12, check_dtype=False)
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_micro_batches_of_a_pooled_step_add_up_too(accumulate):
    schedule = Schedule(frequency=1.0, scale=0.5, kernel="pooled", side_multiple=2)
    models = []
    for parts in (1, accumulate):
        model = network()
        with Downsampler(model, schedule, total_steps=1, full_px=12).step(IMAGES) as images:
            assert images.shape[-1] == 6
            add_gradients(model, images, LABELS, dataclasses.replace(CONFIG, accumulate=parts))
        models.append(model)
    torch.testing.assert_close(gradients(models[1]), gradients(models[0]), rtol=1e-9, atol=1e-12)
    assert all(gradient.abs().max() > 0 for gradient in gradients(models[0]))


def test_a_step_leaves_no_gradients_to_the_next():
    config = dataclasses.replace(CONFIG, accumulate=3)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    training_step(model, optimizer, IMAGES, LABELS, config)
    assert gradients(model) == [None] * 6


def test_batch_norm_takes_the_statistics_of_each_micro_batch():
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)).double()
    add_gradients(model, IMAGES, LABELS, dataclasses.replace(CONFIG, accumulate=2))
    first, second = IMAGES[:5].mean((0, 2, 3)), IMAGES[5:].mean((0, 2, 3))
    torch.testing.assert_close(model[0].running_mean, 0.25 * first + 0.5 * second)
    assert model[0].num_batches_tracked == 2


@pytest.mark.parametrize("accumulate", [0, -1, 1.5, True])
def test_accumulate_is_a_whole_number_of_at_least_one(accumulate):
    with pytest.raises(InputError, match=r"accumulate is .*, it must be a whole number of at least 1"):
        dataclasses.replace(CONFIG, accumulate=accumulate)
