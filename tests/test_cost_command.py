"""`tuner cost`: a schedule's price from fresh step times, on real networks, without a dataset, a database or Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainers import Schedule
from trainers.config import DataConfig
from trainers.cost import CostTable, StepCost
from trainers.data import load_data
from trainers.device import resolve_device
from trainers.environment import training_environment
from trainers.schedule import Step
from tuner.commands.cost import IMAGE_SETS, prediction

TUNER = Path(sys.executable).parent / "tuner"
# Notes what the process had when the module was loaded, and its folder, which an installed command does not look into by itself.
OWN_NETWORK = """
import os
from pathlib import Path
from torch import nn

Path("environment.txt").write_text("\\n".join(f"{name}={value}" for name, value in os.environ.items()))

def network(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""


def cost(*arguments, cwd):
    # Nothing of the environment that this test run may have from a launch.
    environment = {name: value for name, value in os.environ.items() if name not in training_environment(1)}
    return subprocess.run(
        [TUNER, "cost", *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_a_real_network(tmp_path):
    Schedule(frequency=0.5, window_start=0.25, window_length=0.5).save(tmp_path / "half.yaml")
    # 150 images in batches of 16 are 9 steps an epoch, 36 in all; 18 of them lie in the window, every 2nd of which is reduced.
    shape = ("--dataset", "digits", "--images", "150", "--batch-size", "16", "--epochs", "4", "--threads", "1")
    done = cost("half.yaml", "--model", "cifar_resnet8", *shape, "--accept-noisy-timing", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    full, half = found["steps"]
    assert (full["step"], full["count"], half["step"], half["count"]) == ("32/full", 27, "16/full", 9)
    assert full["relative"] == 1.0
    assert 0 < half["low"] <= half["relative"] <= half["high"]
    assert found["relative_time"] == pytest.approx((27 + 9 * half["relative"]) / 36)
    assert half["ms"] == pytest.approx(half["relative"] * full["ms"])
    assert full["share"] + half["share"] == pytest.approx(1)
    assert found["seconds"] == pytest.approx((27 * full["ms"] + 9 * half["ms"]) / 1000)
    assert found["epochs_in_the_same_time"] == pytest.approx(4 * found["relative_time"])
    assert found["calibration"]["conditions"]["threads"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["half.yaml"]


def test_a_network_of_the_users_own_and_growing_batches(tmp_path):
    (tmp_path / "own.py").write_text(OWN_NETWORK)
    Schedule(frequency=1.0, batch_growth="constant_work").save(tmp_path / "schedule.yaml")
    # 160 images in batches of 16 are 10 batches an epoch. A half-side step takes 4 at once: 4 + 4 + 1 + 1.
    shape = ("--side-px", "32", "--classes", "7", "--images", "160", "--batch-size", "16", "--epochs", "2")
    done = cost("schedule.yaml", "--model", "own:network", *shape, "--threads", "1", "--accept-noisy-timing", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    counts = [line.split("│")[1:3] for line in done.stdout.splitlines() if "/full" in line]
    assert {step.strip(): int(count) for step, count in counts} == {"16/full/4": 4, "16/full": 4}
    assert "7 classes" in done.stdout
    assert "instead of 2 epochs at full resolution take the same time" in done.stdout
    # The C library and OpenMP had what a training gets, before anything was timed.
    environment = dict(line.split("=", 1) for line in (tmp_path / "environment.txt").read_text().splitlines() if "=" in line)
    assert training_environment(1).items() <= environment.items()
    # No bar where nobody watches.
    assert "100%" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_prediction_by_hand():
    costs = {
        Step(32, "full"): StepCost(1.0, 1.0, 1.0),
        Step(16, "full"): StepCost(0.25, 0.2, 0.3),
        Step(16, "pooled", 4): StepCost(0.5, 0.4, 0.7),
    }
    table = CostTable({}, 200.0, costs, 48, 0.0, dict(zip(costs, (300.0, 100.0, 280.0), strict=True)))
    # 10 epochs of 10 batches: 60 single full ones, 20 single half-side ones, and 5 times 4 at once.
    found = prediction(table, {Step(16, "full"): 20, Step(32, "full"): 60, Step(16, "pooled", 4): 5}, epochs=10, steps_per_epoch=10)
    # 60 + 5 + 2.5 of 100 full steps, each of 0.2 s.
    assert found["relative_time"] == pytest.approx(0.675)
    assert (found["low"], found["high"]) == (pytest.approx(0.66), pytest.approx(0.695))
    assert (found["seconds"], found["full_resolution_seconds"]) == (pytest.approx(13.5), pytest.approx(20.0))
    assert found["epochs_in_the_same_time"] == pytest.approx(6.75)
    parts = {part["step"]: (part["count"], part["ms"], part["share"], part["peak_mib"]) for part in found["steps"]}
    assert list(parts) == ["32/full", "16/pooled/4", "16/full"]
    assert parts["32/full"] == (60, 200.0, pytest.approx(60 / 67.5), 300.0)
    assert parts["16/full"] == (20, 50.0, pytest.approx(5 / 67.5), 100.0)
    assert parts["16/pooled/4"] == (5, 100.0, pytest.approx(2.5 / 67.5), 280.0)


def test_full_resolution_costs_what_it_costs():
    table = CostTable({}, 100.0, {Step(32, "full"): StepCost(1.0, 1.0, 1.0)}, 48, 0.0)
    found = prediction(table, {Step(32, "full"): 30}, epochs=3, steps_per_epoch=10)
    assert (found["relative_time"], found["low"], found["high"], found["epochs_in_the_same_time"]) == (1.0, 1.0, 1.0, 3.0)


def test_the_digits_are_as_many_as_are_trained_on():
    data = load_data(DataConfig(name="digits"), resolve_device("cpu"))
    assert IMAGE_SETS["digits"] == (DataConfig(name="digits").full_px, data.num_classes, len(data.train))


BAD = [
    (["nowhere.yaml", "--model", "resnet18"], "schedule file 'nowhere.yaml' cannot be read"),
    (["broken.yaml", "--model", "resnet18"], "nearest valid name is 'frequency'"),
    (["good.yaml", "--model", "resnet18", "--dataset", "cifar"], "--dataset is 'cifar', it must be one of cifar10"),
    (["good.yaml", "--model", "resnet18", "--side-px", "0"], "--side-px is 0, it must be a whole number of at least 1"),
    (["good.yaml", "--model", "resnet18", "--images", "-5"], "--images is -5"),
    (["good.yaml", "--model", "resnet18", "--classes", "0"], "--classes is 0"),
    (["good.yaml", "--model", "resnet18", "--epochs", "0"], "epochs is 0, it must be"),
    (["good.yaml", "--model", "resnet18", "--batch-size", "0"], "batch_size is 0, it must be"),
    (["good.yaml", "--model", "resnet18", "--threads", "100000"], "it must be at most"),
    (["good.yaml", "--model", "resnet18", "--threads", "0"], "--threads is 0"),
    (["good.yaml", "--model", "resnet18", "--precision", "bf61"], "nearest valid name is 'bf16'"),
    (["good.yaml", "--model", "resnet81", "--threads", "1"], "model 'resnet81' is unknown"),
    (["good.yaml", "--model", "nowhere:network", "--threads", "1"], "module 'nowhere' cannot be imported"),
    (["good.yaml", "--model", "resnet18", "--device", "tpu", "--threads", "1"], "device is 'tpu', it must be"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, arguments, sentence):
    Schedule(frequency=0.5).save(tmp_path / "good.yaml")
    (tmp_path / "broken.yaml").write_text("frequence: 0.5\n")
    refused = cost(*arguments, "--accept-noisy-timing", cwd=tmp_path)
    assert refused.returncode == 2, refused.stderr
    assert refused.stdout == ""
    assert sentence in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.yaml", "good.yaml"]
