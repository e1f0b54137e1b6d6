"""Learning rates against torch's own schedulers, step by step; the optimizer against torch's unfused one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from trainers import TrainConfig
from trainers.config import DataConfig
from trainers.methods.settings import FilterSparsity
from trainers.optim import build_optimizer, learning_rate, set_learning_rate


def config_of(**fields):
    return TrainConfig(model="cifar_resnet8", data=DataConfig(name="digits"), lr=0.3, device="cpu", **fields)


@pytest.mark.parametrize("total", [1, 2, 3, 4, 7, 10, 100])
@pytest.mark.parametrize("lr_curve", ["one_cycle", "cosine"])
def test_the_curve_is_torchs(lr_curve, total):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    curve = (
        OneCycleLR(optimizer, 0.3, total_steps=total, cycle_momentum=False)
        if lr_curve == "one_cycle"
        else CosineAnnealingLR(optimizer, total)
    )
    for done in range(total):
        assert learning_rate(config_of(lr_curve=lr_curve), done, total) == pytest.approx(curve.get_last_lr()[0], rel=1e-9, abs=1e-12)
        optimizer.step()
        if done < total - 1:
            curve.step()


def test_a_step_of_several_batches_has_a_larger_rate():
    # Half way down a cosine the multiplier is one half.
    assert learning_rate(config_of(lr_curve="cosine"), 50, 100, batches=4) == pytest.approx(4 * 0.15)
    assert learning_rate(config_of(lr_curve="cosine", optimizer="adamw"), 50, 100, batches=4) == pytest.approx(2 * 0.15)
    assert learning_rate(config_of(lr_curve="cosine", optimizer="adam"), 50, 100, batches=4) == pytest.approx(2 * 0.15)


@pytest.mark.parametrize(("decay_all", "decay"), [(False, 0.0), (True, 0.05)])
def test_vectors_are_decayed_where_that_is_asked_for(decay_all, decay):
    sparsity = FilterSparsity(name="report", decay_all=decay_all)
    groups = build_optimizer(network(), config_of(weight_decay=0.05, filter_sparsity=sparsity)).param_groups
    assert [(group["weight_decay"], {one.ndim for one in group["params"]}) for group in groups] == [(0.05, {2, 4}), (decay, {1})]


def test_the_rate_reaches_all_weights():
    optimizer = build_optimizer(network(), config_of())
    set_learning_rate(optimizer, 0.123)
    assert [group["lr"] for group in optimizer.param_groups] == [0.123, 0.123]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


@pytest.mark.parametrize("fields", [{}, {"momentum": 0.0}, {"optimizer": "adamw"}, {"optimizer": "adam"}])
def test_weights_move_as_with_torchs_plain_optimizer(fields):
    config = config_of(weight_decay=0.05, **fields)
    ours, plain = network(), network()
    optimizer = build_optimizer(ours, config)
    groups = [
        {"params": [p for p in plain.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in plain.parameters() if p.ndim == 1]},
    ]
    if config.optimizer != "sgd":
        adam = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
        reference = adam(groups, lr=0.3, weight_decay=0.0, foreach=False)
    else:
        reference = torch.optim.SGD(groups, lr=0.3, momentum=config.momentum, nesterov=config.momentum > 0, foreach=False)
    images = torch.randn(6, 3, 8, 8)
    for _ in range(3):
        for model, one in ((ours, optimizer), (plain, reference)):
            one.zero_grad()
            model(images).square().mean().backward()
            one.step()
    torch.testing.assert_close(list(ours.parameters()), list(plain.parameters()), rtol=1e-5, atol=1e-6)


def test_a_layer_may_get_its_first_gradient_late():
    model = network()
    optimizer = build_optimizer(model, config_of())
    for used in (model[:1], model):
        optimizer.zero_grad()
        used(torch.randn(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
