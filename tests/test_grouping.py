"""Groupable convolutions against matrices by hand, bits, connected components and the masked dense network; trainings that use them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

import trainers.steps
from trainers import Downsampler, Schedule, TrainConfig
from trainers.calibration import cost_conditions
from trainers.config import DataConfig
from trainers.errors import InputError
from trainers.evaluation import evaluate
from trainers.filters import pool_kernel
from trainers.loop import Training
from trainers.methods.groupable import GroupableConv2d, groupable_layers, hard_gates, left_alone, make_groupable, relationship_matrix
from trainers.methods.grouped_conversion import GroupedConv2d, group_order, load_grouped, to_grouped
from trainers.methods.grouping import Budget
from trainers.methods.settings import FilterSparsity, Grouping
from trainers.models import build_training_model
from trainers.optim import build_optimizer
from trainers.pooled_layers import relative_changes
from trainers.rehearsal import Rehearsal
from trainers.schedule import Step

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    model="test_grouping:tiny",
    data=DataConfig(name="digits", train_images=96, val_images=40),
    schedule=Schedule(frequency=0.5, kernel="pooled", batch_norm="separate"),
    epochs=2,
    batch_size=32,
    lr=0.05,
    device="cpu",
    threads=1,
    grouping=Grouping(name="groupable", budget=0.3, strength=0.5),
)
REDUCED = Step(16, "pooled")


def tiny(num_classes: int) -> nn.Module:
    layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
    return nn.Sequential(*layers, nn.Conv2d(12, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))


def conv(in_channels: int, out_channels: int, gates: Sequence[float], kernel: int = 1, **options: Any) -> GroupableConv2d:
    """A layer with these gates."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, **options)
    make_groupable(layer, seed=0)
    assert isinstance(layer, GroupableConv2d)
    with torch.no_grad():
        layer.gates.copy_(torch.tensor(gates))
    return layer


def rows(gates: Sequence[int], out_channels: int, in_channels: int) -> list[str]:
    found = relationship_matrix(torch.tensor(gates, dtype=torch.float32), out_channels, in_channels)
    return ["".join(str(int(number)) for number in row) for row in found]


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """With gates of both signs, statistics and biases of a trained network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("gates", "bias", "running_mean")):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            elif name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model


def same(layer: nn.Module, images: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(layer(images), expected, rtol=0, atol=1e-5)


def test_relationship_matrices_by_hand() -> None:
    assert rows([1], 2, 2) == ["11", "11"]
    assert rows([0], 2, 2) == ["10", "01"]
    # The first gate is the left-most factor: blocks where it is closed, every second channel where the last one is.
    assert rows([0, 1], 4, 4) == ["1100", "1100", "0011", "0011"]
    assert rows([1, 0], 4, 4) == ["1010", "0101", "1010", "0101"]
    upper, lower = ["10100000", "01010000"], ["00001010", "00000101"]
    assert rows([0, 1, 0], 8, 8) == [*upper, *upper, *lower, *lower]
    # Twice as many outputs as inputs: outputs 0 and 1 stand where output 0 did.
    assert rows([0], 4, 2) == ["10", "10", "01", "01"]
    assert rows([0], 2, 6) == ["111000", "000111"]


@pytest.mark.parametrize(("out_each", "in_each"), [(1, 1), (3, 1), (1, 2), (5, 3)])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_channels_are_connected_where_bits_of_closed_gates_agree(count: int, out_each: int, in_each: int) -> None:
    size = 2**count
    for gates in itertools.product((0, 1), repeat=count):
        closed = [place for place, gate in enumerate(gates) if not gate]
        found = rows(gates, size * out_each, size * in_each)
        for o, i in itertools.product(range(size * out_each), range(size * in_each)):
            ours, theirs = f"{o // out_each:0{count}b}", f"{i // in_each:0{count}b}"
            assert (found[o][i] == "1") == all(ours[place] == theirs[place] for place in closed)


@pytest.mark.parametrize(("out_channels", "in_channels"), [(8, 8), (24, 8), (8, 40)])
def test_groups_are_two_to_the_closed_gates(out_channels: int, in_channels: int) -> None:
    for gates in itertools.product((-1.0, 1.0), repeat=3):
        layer = conv(in_channels, out_channels, gates)
        connected = layer.masked_weight()[:, :, 0, 0].detach() != 0
        links = torch.zeros(out_channels + in_channels, out_channels + in_channels)
        links[:out_channels, out_channels:] = connected
        assert layer.groups_found == connected_components(links.numpy(), directed=False)[0] == 2 ** gates.count(-1.0)


def test_a_gate_at_zero_is_open_and_gradients_pass_straight_through() -> None:
    gates = torch.tensor([0.0, -0.0, 1e-8, -1e-8, 0.3, -0.3, 7.0], requires_grad=True)
    hard = hard_gates(gates)
    assert hard.tolist() == [1, 1, 1, 0, 1, 0, 1]
    weights = torch.arange(1.0, 8.0)
    (hard * weights).sum().backward()
    assert torch.equal(gates.grad, weights)


@pytest.mark.parametrize("gate", [0.2, -0.2])
def test_the_gradient_of_a_gate_by_hand(gate: float) -> None:
    layer = conv(2, 2, [gate], bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 3.0], [5.0, 7.0]])[:, :, None, None])
    images = torch.tensor([11.0, 13.0]).reshape(1, 2, 1, 1)
    # Loss y0 + 10 y1, y0 = 2 * 11 + g * 3 * 13, y1 = g * 5 * 11 + 7 * 13: by g it is 39 + 550.
    (layer(images) * torch.tensor([1.0, 10.0]).reshape(1, 2, 1, 1)).sum().backward()
    assert layer.gates.grad.tolist() == [589]
    is_open = gate > 0
    assert layer.weight.grad.flatten().tolist() == [11, 13 * is_open, 110 * is_open, 130]


def test_the_gradient_of_the_matrix_against_finite_differences() -> None:
    gates = torch.tensor([0.3, 0.9, 0.6], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: relationship_matrix(g, 8, 24), gates)


@pytest.mark.parametrize("channels", [(8, 8), (8, 24), (24, 8), (6, 10), (40, 24)])
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (1, {}),
        (3, {"padding": 1, "bias": False}),
        (3, {"stride": 2, "dilation": (2, 1), "padding": "valid"} | {"stride": (2, 1)}),
        ((3, 1), {"padding": "same", "padding_mode": "reflect"}),
    ],
)
def test_a_converted_layer_computes_the_same(channels: tuple[int, int], kernel: Any, options: dict[str, Any]) -> None:
    in_channels, out_channels = channels
    torch.manual_seed(0)
    images = torch.randn(2, in_channels, 9, 8)
    for gates in itertools.product((-1.0, 1.0), repeat=1 if in_channels == 6 else 3):
        layer = conv(in_channels, out_channels, gates, kernel, **options)
        assert len(layer.gates) == len(gates)
        with torch.no_grad():
            expected, alone = layer(images), layer(images[0])
            converted = to_grouped(layer)
            assert converted is layer
            assert (layer.groups, layer.weight.shape[1]) == (2 ** gates.count(-1.0), in_channels // 2 ** gates.count(-1.0))
            same(converted, images, expected)
            same(converted, images[0], alone)
            in_format = converted(images.to(memory_format=torch.channels_last))
        torch.testing.assert_close(in_format, expected, rtol=0, atol=1e-5)
        assert in_format.is_contiguous(memory_format=torch.channels_last)


def test_channels_are_moved_only_where_they_must_be() -> None:
    for gates in ([1.0, 1.0, 1.0], [-1.0, 1.0, 1.0], [-1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]):
        assert type(to_grouped(conv(8, 8, gates))) is nn.Conv2d
    assert type(to_grouped(conv(8, 8, [1.0, -1.0, 1.0]))) is GroupedConv2d
    # By the middle bit: 0, 1, 4, 5 and 2, 3, 6, 7.
    assert group_order([True, False, True]).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


@pytest.mark.parametrize("name", ["cifar_resnet8", "densenet121", "mobilenet_v2"])
def test_a_converted_network_computes_the_same_and_is_read_back(name: str) -> None:
    config = dataclasses.replace(CONFIG, model=name)
    network = randomised(build_training_model(config, 10, CPU), seed=1).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images)
        scale = expected.abs().max()
        found = {type(layer) for layer in to_grouped(network).modules() if isinstance(layer, nn.Conv2d)}
        assert found == {nn.Conv2d, GroupedConv2d}
        same(lambda x: network(x) / scale, images, expected / scale)
        plain = build_training_model(dataclasses.replace(config, grouping=Grouping(), seed=9), 10, CPU).eval()
        assert torch.equal(load_grouped(plain, network.state_dict())(images), network(images))


def test_weights_of_another_layer_are_refused() -> None:
    state = nn.Sequential(nn.Conv2d(6, 8, 3)).state_dict()
    with pytest.raises(InputError, match=r"weight of layer '0' is \[8, 6, 3, 3\] in the state, it must be \[8, 4, 3, 3\], or that with"):
        load_grouped(nn.Sequential(nn.Conv2d(4, 8, 3)), state)


def two_layers(budget: float, strength: float = 1.0) -> tuple[Budget, Tensor, Tensor]:
    """Of 4 to 4 channels with gates 1, 0 and of 4 to 8 with gates 0, 0: 8 of 16 and 8 of 32 connections."""
    layers = [conv(4, 4, [0.5, -0.5]), conv(4, 8, [-0.5, -0.5])]
    return Budget(layers, Grouping(name="groupable", budget=budget, strength=strength)), layers[0].gates, layers[1].gates


def test_the_penalty_by_hand() -> None:
    # zeta = 16 of 48, o = 8.
    budget, first, second = two_layers(budget=1 / 6, strength=0.25)
    assert budget.penalty().item() == pytest.approx(0.25 * math.log(2))
    budget.add_gradients()
    # zeta is 4 (1 + g_1) (1 + g_2) + 8 (1 + g_3) (1 + g_4): by each gate 4, 8, 8, 8, of zeta = 16; the log's gradient is that over 16.
    assert first.grad.tolist() == pytest.approx([0.25 * 4 / 16, 0.25 * 8 / 16])
    assert second.grad.tolist() == pytest.approx([0.25 * 8 / 16] * 2)
    budget.add_gradients()
    assert second.grad.tolist() == pytest.approx([0.25] * 2)
    assert budget.figures() == pytest.approx({"connections_frac": 1 / 3, "over_budget": 2, "mean_groups": 3})


@pytest.mark.parametrize("share", [1 / 3, 0.5, 1.0])
def test_within_the_budget_there_is_no_penalty(share: float) -> None:
    budget, first, second = two_layers(share)
    assert budget.penalty().item() == 0
    budget.add_gradients()
    assert first.grad.tolist() == second.grad.tolist() == [0, 0]


def test_what_cannot_be_grouped_is_left_alone_and_named() -> None:
    class Own(nn.Conv2d):
        pass

    def network() -> nn.Module:
        torch.manual_seed(0)
        odd = (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), Own(8, 8, 3), nn.Conv2d(8, 9, 3))
        normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3))
        return nn.Sequential(*odd, normed, nn.Conv2d(8, 6, 3), nn.Conv1d(8, 8, 3))

    grouped, plain = network(), network()
    make_groupable(grouped, seed=0)
    assert left_alone(grouped) == {
        "0": "its 3 input and 8 output channels are not both even",
        "1": "it has 8 groups already",
        "2": "its class Own is not Conv2d itself",
        "3": "its 8 input and 9 output channels are not both even",
        "4": "its class ParametrizedConv2d is not Conv2d itself",
    }
    assert groupable_layers(grouped) == [grouped[5]]
    assert set(grouped.state_dict()) - set(plain.state_dict()) == {"5.gates"}
    with pytest.raises(InputError, match=r"no convolution of network Sequential can be grouped \('0': its 3 input and 8 output channels"):
        make_groupable(nn.Sequential(nn.Conv2d(3, 8, 3)), seed=0)
    with pytest.raises(InputError, match=r"no convolution of network Linear can be grouped \(it has no Conv2d\)"):
        make_groupable(nn.Linear(3, 8), seed=0)


def test_weights_are_those_of_a_training_without_grouping() -> None:
    def built(seed: int, grouping: Grouping = CONFIG.grouping) -> tuple[dict[str, Tensor], list[float]]:
        torch.manual_seed(seed)
        model = build_training_model(dataclasses.replace(CONFIG, model="cifar_resnet8", grouping=grouping, seed=seed), 10, CPU)
        gates = [gate for name, tensor in model.named_parameters() if name.endswith("gates") for gate in tensor.tolist()]
        return {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("gates")}, [*gates, float(torch.rand(()))]

    weights, gates = built(0)
    plain, drawn_next = built(0, Grouping())
    assert all(torch.equal(weights[name], plain[name]) for name in plain)
    assert gates.pop() == drawn_next[0]
    # 16 channels have 4 gates: of 16-16 (twice) and 16-32; 32 have 5: 32-32 and 32-64; 64 have 6.
    assert len(gates) == 3 * 4 + 2 * 5 + 6
    assert [abs(gate) for gate in gates] == pytest.approx([1e-8] * len(gates))
    assert 5 < sum(gate > 0 for gate in gates) < len(gates) - 5
    assert built(0)[1][:-1] == gates != built(1)[1][:-1]


def test_gates_are_not_decayed() -> None:
    model = build_training_model(CONFIG, 10, CPU)
    decayed, others = (set(group["params"]) for group in build_optimizer(model, CONFIG).param_groups)
    gates = {layer.gates for layer in groupable_layers(model)}
    assert len(gates) == 2
    assert gates <= others
    assert not gates & decayed


def test_a_pooled_step_reaches_weights_and_gates() -> None:
    torch.manual_seed(0)
    layer = conv(8, 24, [1.0, -1.0, 1.0], kernel=3, padding=1)
    images, towards = torch.randn(2, 8, 16, 16), torch.randn(2, 24, 16, 16)
    with Downsampler(layer, Schedule(), 0, 32).run_as(REDUCED):
        found = layer(images)
        gradients = torch.autograd.grad((found * towards).sum(), [layer.weight, layer.gates, layer.bias])
    matrix = torch.tensor([[float(number) for number in row] for row in rows([1, 0, 1], 24, 8)], requires_grad=True)
    weight, bias = layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_()
    # One pixel less of the padding that a 3x3 filter had; which side it leaves is not this test's question.
    candidates = [
        F.conv2d(F.pad(images, pads), pool_kernel(weight * matrix[:, :, None, None], (2, 2)), bias)
        for pads in itertools.product(((1, 0), (0, 1)), repeat=2)
        for pads in [[*pads[0], *pads[1]]]
    ]
    (expected,) = (candidate for candidate in candidates if torch.allclose(candidate, found, atol=1e-5))
    by_weight, by_matrix, by_bias = torch.autograd.grad((expected * towards).sum(), [weight, matrix, bias])
    torch.testing.assert_close(gradients[0], by_weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients[2], by_bias, rtol=1e-4, atol=1e-4)
    # U is g_k to the number of bits in which channels differ: by g_2 (closed) it is where bit 1 alone differs, or with it open ones.
    for place, gate in enumerate([4, 2, 1]):
        differing = torch.tensor([[(o // 3 ^ i) & gate > 0 and ((o // 3 ^ i) & ~gate & 2) == 0 for i in range(8)] for o in range(24)])
        assert gradients[1][place].item() == pytest.approx(by_matrix[differing].sum().item(), rel=1e-3)


def test_which_layers_are_pooled_follows_from_no_gate() -> None:
    changes = []
    for seed in (0, 1):
        model = build_training_model(dataclasses.replace(CONFIG, seed=seed), 10, CPU)
        downsampler = Downsampler(model, Schedule(), 0, 32)
        with downsampler.run_as(REDUCED):
            pass
        changes.append(relative_changes(model, REDUCED, {c.name: c for c in downsampler._geometry.convolutions(REDUCED)}))
    assert changes[0] == changes[1]
    assert set(changes[0]) == {"0", "3"}
    # The copies above have memory in their gates that nobody has written to.
    layer = conv(8, 8, [-1.0, 1.0, -1.0])
    layer.reset_parameters()
    assert layer.open_gates == (True, True, True)


def test_a_training_learns_gates_ends_converted_and_resumes_bit_same(tmp_path: Path) -> None:
    whole = Training(CONFIG)
    before = [layer.gates.detach().clone() for layer in groupable_layers(whole.model)]
    reports = [whole.run_epoch() for _ in range(2)]
    resumed = dataclasses.replace(CONFIG, checkpoint=str(tmp_path))
    Training(resumed).run_epoch()
    second = Training(resumed)
    assert second.epochs_done == 1
    assert second.run_epoch() == reports[1]
    for name, tensor in second.model.state_dict().items():
        assert torch.equal(tensor, whole.model.state_dict()[name]), name
    after = [layer.gates for layer in groupable_layers(whole.model)]
    assert all(not torch.equal(first, last) for first, last in zip(before, after, strict=True))
    assert set(reports[1].figures) == {"grouping.connections_frac", "grouping.over_budget", "grouping.mean_groups"}
    result = whole.result()
    assert whole.result().model is result.model
    assert not groupable_layers(result.model)
    accuracy, loss = evaluate(result.model, whole.data.val, 32)
    assert accuracy == result.val_accuracy
    assert loss == pytest.approx(result.val_loss, abs=1e-5)


def gates_of(model: nn.Module) -> list[float]:
    return [gate for layer in groupable_layers(model) for gate in layer.gates.tolist()]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_penalty_closes_the_gates_of_a_training_and_of_its_calibration(accumulate: int) -> None:
    def gates_after(strength: float) -> tuple[list[float], list[float]]:
        grouping = Grouping(name="groupable", budget=0.01, strength=strength)
        config = dataclasses.replace(CONFIG, grouping=grouping, epochs=1, accumulate=accumulate)
        training, rehearsal = Training(config), Rehearsal(config, 10)
        training.run_epoch()
        rehearsal.make_one(REDUCED)
        return gates_of(training.model), gates_of(rehearsal.model)

    for free, held in zip(gates_after(0.0), gates_after(1e3), strict=True):
        assert all(below < above for below, above in zip(held, free, strict=True))


def test_a_cost_table_names_grouping_where_it_is_on() -> None:
    plain = dataclasses.replace(CONFIG, grouping=Grouping())
    assert cost_conditions(CONFIG) == {**cost_conditions(plain), "grouping": "groupable"}
    assert "grouping" not in cost_conditions(plain)
    # What the gates are held to changes no step's time.
    assert cost_conditions(CONFIG) == cost_conditions(dataclasses.replace(CONFIG, grouping=Grouping(name="groupable", budget=0.5)))


def test_a_compiled_training_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr("trainers.steps.BACKEND", graphs)
    try:
        compiled, plain = (Training(dataclasses.replace(CONFIG, epochs=1, compile=flag)) for flag in (True, False))
        with torch._dynamo.config.patch(error_on_recompile=True):
            compiled.run_epoch()
    finally:
        torch._dynamo.reset()
        trainers.steps._compiled_loss.cache_clear()
    # One a kind of step.
    assert graphs.frame_count == 2
    plain.run_epoch()
    for name, tensor in plain.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_settings_are_refused_with_the_rule() -> None:
    with pytest.raises(InputError, match=r"grouping is 'groupble', it must be one of none, groupable; the nearest valid name is 'group"):
        Grouping(name="groupble")
    for budget in (0, 1.5, float("nan"), "half"):
        with pytest.raises(InputError, match=r"grouping\.budget is .*, it must be a finite number above 0 and at most 1"):
            Grouping(budget=budget)
    with pytest.raises(InputError, match=r"grouping\.strength is -1, it must be a finite number of at least 0"):
        Grouping(strength=-1)
    for name in ("remove_at_end", "remove_each_epoch"):
        with pytest.raises(InputError, match=rf"filter_sparsity is '{name}', it must be none or report where grouping is 'groupable'"):
            dataclasses.replace(CONFIG, filter_sparsity=FilterSparsity(name=name))
    dataclasses.replace(CONFIG, filter_sparsity=FilterSparsity(name="report"))
