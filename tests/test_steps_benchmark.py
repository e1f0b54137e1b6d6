"""The floor of a reduced step against hand-worked figures, the classes of a profile, and the benchmark's last line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.floor import Work, floor_parts, ideal_work, real_work
from benchmarks.step_table import class_table, step_table, summary_line, tables
from benchmarks.step_times import class_of, config_of
from benchmarks.steps import NETWORKS
from trainers.schedule import Step

FULL, HALF, POOLED = Step(8, "full"), Step(4, "full"), Step(4, "pooled")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """3x3 convolution 3 -> 4, batch norm, relu, mean over the map, linear 4 -> 10."""
    features = (nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(4, 10))


# 4 * 10 forward, as many for each of its two gradients.
LINEAR_MACS = 3 * 40


@pytest.mark.parametrize(
    ("step", "convolution_macs"),
    [
        # pixels * output channels * input channels * taps, forward and the filter's gradient; images need no gradient.
        (FULL, 2 * (64 * 4 * 3 * 9)),
        (HALF, 2 * (16 * 4 * 3 * 9)),
        (POOLED, 2 * (16 * 4 * 3 * 4)),
    ],
)
def test_macs_by_hand(network: nn.Module, step: Step, convolution_macs: int) -> None:
    assert ideal_work(network, step, 8).macs == convolution_macs + LINEAR_MACS


def test_elements_follow_the_maps_and_not_the_kernels(network: nn.Module) -> None:
    works = {step: ideal_work(network, step, 8) for step in (FULL, HALF, POOLED)}
    # Batch norm, relu and the mean, forward and backward, pass over one map of 4 channels each; whatever does not shrink cancels out.
    assert works[FULL].elements - works[HALF].elements == 6 * 4 * (64 - 16)
    assert works[POOLED].elements == works[HALF].elements


def test_strided_layers_keep_the_unpooled_size() -> None:
    """At 7 px and stride 2 the 3x3 kernel gives 4x4 and so must the pooled 2x2."""
    network = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 10))
    assert ideal_work(network, Step(7, "pooled"), 14).macs == 2 * (16 * 5 * 3 * 4) + 3 * 50


@pytest.mark.parametrize("step", [FULL, HALF])
def test_unpooled_steps_are_ideal(network: nn.Module, step: Step) -> None:
    assert real_work(network, step, 8) == ideal_work(network, step, 8)


def test_real_work_sees_pooled_kernels(network: nn.Module) -> None:
    """A single pooled layer has no partner, so its input of 3 channels is padded from 4 to 5 px in a copy; nothing else differs."""
    ideal, real = ideal_work(network, POOLED, 8), real_work(network, POOLED, 8)
    assert real.macs == ideal.macs
    assert real.elements - ideal.elements == 3 * 25


def test_the_floor_takes_the_lesser_work() -> None:
    assert Work(3, 50).least(Work(2, 70)) == Work(2, 50)


def test_counting_leaves_the_network_alone(network: nn.Module) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ideal_work(network, POOLED, 8)
    real_work(network, POOLED, 8)
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any("_conv_forward" in vars(module) for module in network.modules())


def test_floor_by_hand() -> None:
    """Of 100 ms, 60 fall to a ninth, 30 to a quarter and 10 stay; pooling adds 2."""
    profile = {"convolutions": 60.0, "batch norm": 15.0, "elementwise": 10.0, "copies": 5.0, "parameters": 10.0, "filter pooling": 0.0}
    parts = floor_parts(profile, Work(1, 50), Work(9, 200), filter_pooling_ms=2.0)
    assert parts == pytest.approx(
        {
            "convolutions": 60 / 900,
            "batch norm": 0.0375,
            "elementwise": 0.025,
            "copies": 0.0125,
            "parameters": 0.1,
            "filter pooling": 0.02,
        }
    )
    assert sum(floor_parts(profile, Work(9, 200), Work(9, 200)).values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["aten::mkldnn_convolution", "aten::_convolution", "aten::conv2d"], "convolutions"),
        (["aten::empty", "aten::convolution_backward", "ConvolutionBackward0"], "convolutions"),
        (["aten::_to_copy", "aten::to", "aten::conv2d"], "copies"),
        (["aten::fill_", "aten::constant_pad_nd", "aten::pad"], "copies"),
        (["aten::addmm", "aten::linear"], "convolutions"),
        (["AddmmBackward0"], "convolutions"),
        (["aten::native_batch_norm_backward", "NativeBatchNormBackward0"], "batch norm"),
        (["aten::cudnn_batch_norm", "aten::batch_norm"], "batch norm"),
        (["aten::threshold_backward", "ReluBackward0"], "elementwise"),
        (["aten::add_", "Optimizer.step#SGD.step"], "parameters"),
        (["aten::copy_", "Optimizer.step#SGD.step"], "parameters"),
        (["aten::detach", "torch::autograd::AccumulateGrad"], "parameters"),
        (["aten::clone", "_PoolFilters"], "filter pooling"),
        (["aten::_upsample_bilinear2d_aa", "aten::upsample"], "resize"),
    ],
)
def test_class_is_that_of_the_innermost_known_operation(names: list[str], expected: str) -> None:
    assert class_of(_event(names, []), {(9, 4), (4, 9)}) == expected


def test_products_with_the_pooling_matrix_are_filter_pooling() -> None:
    assert class_of(_event(["aten::mm", "aten::matmul"], [[48, 9], [9, 4]]), {(9, 4), (4, 9)}) == "filter pooling"
    assert class_of(_event(["aten::bmm"], [[16, 4, 9], [16, 9, 3]]), {(9, 4), (4, 9)}) == "filter pooling"
    assert class_of(_event(["aten::mm", "aten::matmul"], [[48, 9], [9, 5]]), {(9, 4), (4, 9)}) == "convolutions"


def _event(names: list[str], shapes: list[list[int]]) -> SimpleNamespace:
    """A profiled operation and those around it, innermost first."""
    event = None
    for name in reversed(names):
        event = SimpleNamespace(name=name, cpu_parent=event, input_shapes=shapes)
    return event


def test_defaults_are_the_networks_of_the_aim() -> None:
    assert NETWORKS["cpu"] == (("cifar_resnet20", 32, 128),)
    assert [network[:2] for network in NETWORKS["cuda"]] == [("resnet50", 224), ("cifar_resnet18", 32)]
    assert config_of("resnet50", 224, 256, "cuda", 1).precision == "bf16"


def test_quick_run_ends_with_the_line_that_scripts_read(tmp_path: Path) -> None:
    command = ["--quick", "--model", "cifar_resnet8", "--side", "16", "--batch", "2", "--profile"]
    results = Path(__file__).parents[1] / "benchmarks" / "results"
    before = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.steps", *command], cwd=results.parents[1], capture_output=True, text=True, check=True
    )
    *_, document, last = found.stdout.splitlines()
    number = r"\d+\.\d{3}"
    assert re.fullmatch(rf"half_over_floor={number} pooled_over_floor={number} half_over_full={number} pooled_over_full={number}", last)
    result = json.loads(document)
    assert last == summary_line(result)
    assert (result["model"], result["batch_size"], result["quick"]) == ("cifar_resnet8", 2, True)
    assert all(len(step["each_ms"]) == result["n"] >= 5 for step in result["steps"].values())
    steps = result["steps"]
    assert steps["pooled"]["over_floor"] == pytest.approx(steps["pooled"]["ms"] / sum(steps["pooled"]["floor_ms_by_class"].values()))
    # 8 px instead of 16: a quarter of the pixels, and 4 of 9 taps, but for the linear layer.
    macs = {kind: step["work_per_image"]["ideal"]["macs"] for kind, step in steps.items()}
    assert macs["half"] / macs["full"] == pytest.approx(1 / 4, rel=0.01)
    assert macs["pooled"] / macs["full"] == pytest.approx(1 / 9, rel=0.01)
    assert class_table(result) in found.stdout
    assert {path: path.stat().st_mtime_ns for path in results.iterdir()} == before
    _check_tables(result, tmp_path)


def _check_tables(result: dict[str, object], folder: Path) -> None:
    path = folder / "steps-x.json"
    path.write_text(json.dumps(result), encoding="utf-8")
    shown = tables([path])
    assert step_table(result) in shown
    assert f"n = {result['n']}" in shown
    assert "not measured" in shown  # peak memory, which a quick run on a CPU leaves out
    widths = [line.count("|") for line in shown.splitlines() if line.startswith("|")]
    assert widths == [9] * 5 + [7] * 10
