"""Compiled trainings: the graphs are counted behind a backend that captures but does not generate code; once the real compiler runs."""

from __future__ import annotations

import dataclasses
import os
import shutil

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import trainers.steps
from trainers import Schedule, TrainConfig, train
from trainers.calibration import calibrate
from trainers.config import DataConfig
from trainers.errors import InputError
from trainers.loop import Training
from trainers.places import RootPlace
from trainers.schedule import Step

# 16, 20, 24 and 28 px grow to 32 in the first 80 % of 20 steps.
GROWING = Schedule(frequency=1.0, scale=0.5, window_length=0.8, growth="linear", kernel="pooled", batch_norm="separate")
CONFIG = TrainConfig(
    model="test_compile:tiny",
    data=DataConfig(name="digits", train_images=160, val_images=10),
    schedule=GROWING,
    epochs=4,
    batch_size=32,
    lr=0.05,
    augment=("crop", "flip"),
    device="cpu",
    threads=1,
    compile=True,
)


def tiny(num_classes: int) -> nn.Module:
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


@pytest.fixture
def graphs(monkeypatch):
    """Counts the graphs that are captured."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr("trainers.steps.BACKEND", counter)
    yield counter
    torch._dynamo.reset()
    trainers.steps._compiled_loss.cache_clear()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_one_graph_a_kind_of_step_and_none_after_warm_up(graphs, accumulate):
    training = Training(dataclasses.replace(CONFIG, accumulate=accumulate))
    assert sorted(step.side_px for step in training.downsampler.plan.counts()) == [16, 20, 24, 28, 32]
    assert graphs.frame_count == 5
    with torch._dynamo.config.patch(error_on_recompile=True):
        while not training.done:
            training.run_epoch()
    assert graphs.frame_count == 5
    assert training.result().seconds["compile"] > 0


def test_more_kinds_than_torch_allows_graphs_by_itself(graphs):
    schedule = dataclasses.replace(GROWING, scale=0.25, side_multiple=2)
    training = Training(dataclasses.replace(CONFIG, schedule=schedule))
    kinds = set(training.downsampler.plan)
    assert len(kinds) == 13 > torch._dynamo.config.recompile_limit
    while not training.done:
        training.run_epoch()
    assert graphs.frame_count == 13


def test_grown_batches_are_kinds_of_their_own(graphs):
    schedule = Schedule(frequency=1.0, window_length=0.5, batch_growth="constant_work")
    training = Training(dataclasses.replace(CONFIG, schedule=schedule))
    assert set(training.downsampler.plan) == {Step(16, "full", 4), Step(16, "full"), Step(32, "full")}
    while not training.done:
        training.run_epoch()
    assert graphs.frame_count == 3


def test_the_next_training_of_the_process_compiles_nothing(graphs):
    train(CONFIG)
    train(dataclasses.replace(CONFIG, seed=1, lr=0.1))
    assert graphs.frame_count == 5


def test_only_what_is_left_is_compiled(graphs, tmp_path):
    config = dataclasses.replace(CONFIG, checkpoint=str(tmp_path))
    sitting = Training(dataclasses.replace(config, compile=False))
    sitting.run_epoch()
    assert graphs.frame_count == 0
    # Whether steps are compiled belongs to the training: figures differ in their last digits.
    with pytest.raises(InputError, match="another configuration"):
        Training(config)
    RootPlace(str(tmp_path)).remove_checkpoints()
    for _ in range(3):
        Training(config).run_epoch()
    torch._dynamo.reset()
    before = graphs.frame_count
    Training(config)
    # The last epoch is at full side.
    assert graphs.frame_count == before + 1


def test_a_compiled_training_learns_the_same(graphs):
    compiled = train(CONFIG)
    plain = train(dataclasses.replace(CONFIG, compile=False))
    assert plain.seconds["compile"] == 0
    for name, tensor in plain.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_calibration_times_compiled_steps(graphs):
    table = calibrate(CONFIG, {Step(16, "pooled")}, accept_noisy=True)
    # Compiled once, although the network is built many times.
    assert graphs.frame_count == 2
    assert table.conditions["compile"] is True
    assert set(table.costs) == {Step(32, "full"), Step(16, "pooled")}


def test_a_network_that_can_not_be_compiled_is_one_sentence(monkeypatch):
    def refuses(*_):
        raise ValueError("no compiler here")

    torch._dynamo.reset()
    monkeypatch.setattr("trainers.steps.BACKEND", refuses)
    with pytest.raises(InputError, match=r"^compile is true, but torch can't compile network 'test_compile:tiny' here: .*no compiler here"):
        Training(CONFIG)


def test_the_real_compiler_trains_the_same():
    if shutil.which("g++") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("torch.compile needs g++ on a CPU")
    config = dataclasses.replace(CONFIG, schedule=Schedule(frequency=1.0, kernel="pooled"), epochs=1)
    compiled = train(config)
    plain = train(dataclasses.replace(config, compile=False))
    assert compiled.seconds["compile"] > compiled.seconds["train"]
    for name, tensor in plain.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
