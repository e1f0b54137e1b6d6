"""Networks by name: sizes and depths of the paper, every torchvision classifier, and the user's own factories with all their faults."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from trainers.errors import InputError
from trainers.models import build_model, model_names

CIFAR_NAMES = ["cifar_resnet8", "cifar_resnet20", "cifar_resnet56", "cifar_resnet18"]


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def layers(model: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())


@pytest.mark.parametrize(("name", "depth", "millions"), [("cifar_resnet20", 20, 0.27), ("cifar_resnet56", 56, 0.85)])
def test_size_and_depth_are_those_of_he_et_al_table_6(name: str, depth: int, millions: float) -> None:
    model = build_model(name, 10, 32)
    assert round(parameters(model) / 1e6, 2) == millions
    assert layers(model) == depth


def test_cifar_resnet8_has_8_layers_of_16_32_and_64_channels() -> None:
    model = build_model("cifar_resnet8", 10, 32)
    convolutions = [(module.in_channels, module.out_channels) for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert convolutions == [(3, 16), (16, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)]
    assert layers(model) == 8
    # Convolutions, a scale and a shift a channel, the classifier.
    weights = 9 * sum(channels_in * channels_out for channels_in, channels_out in convolutions)
    assert parameters(model) == weights + 2 * sum(out for _, out in convolutions) + 64 * 10 + 10


def test_cifar_resnet18_is_torchvisions_but_for_the_stem() -> None:
    model = build_model("cifar_resnet18", 10, 32)
    plain = build_model("resnet18", 10, 32)
    assert parameters(plain) - parameters(model) == 64 * 3 * (7 * 7 - 3 * 3)
    sides = []
    model.layer4.register_forward_hook(lambda _module, _inputs, output: sides.append(tuple(output.shape[-2:])))
    model(torch.zeros(2, 3, 32, 32))
    assert sides == [(4, 4)]


def test_option_a_shortcut_takes_every_second_pixel_and_pads_channels() -> None:
    block = build_model("cifar_resnet8", 10, 32).stages[1][0].eval()
    nn.init.zeros_(block.second[1].weight)
    features = torch.rand(2, 16, 7, 7)
    output = block(features)
    assert output.shape == (2, 32, 4, 4)
    for row in range(4):
        for column in range(4):
            assert torch.equal(output[:, :16, row, column], features[:, :, 2 * row, 2 * column])
    assert not output[:, 16:].any()


@pytest.mark.parametrize("name", CIFAR_NAMES)
def test_cifar_networks_learn_and_take_reduced_and_odd_sides(name: str) -> None:
    model = build_model(name, 7, 32)
    for side_px in (32, 20, 13):
        assert model(torch.rand(2, 3, side_px, side_px)).shape == (2, 7)
    model(torch.rand(2, 3, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", CIFAR_NAMES)
def test_convolutions_are_he_initialised_by_fan_out(name: str) -> None:
    for module in build_model(name, 10, 32).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            expected = (2 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1])) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_resnet18", "shufflenet_v2_x0_5"])
def test_weights_follow_the_global_seed(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([parameter.flatten() for parameter in build_model(name, 10, 32).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_names_are_unique_and_hold_our_own_and_torchvisions() -> None:
    names = model_names()
    assert len(names) == len(set(names))
    assert {*CIFAR_NAMES, "resnet50", "efficientnet_v2_s", "inception_v3", "vit_b_16"} <= set(names)
    assert not {"fasterrcnn_resnet50_fpn", "quantized_resnet18", "raft_small"} & set(names)


def one_of_each_architecture() -> list[str]:
    """The first name of each file of torchvision: names of one file differ in widths and depths alone."""
    first: dict[str, str] = {}
    for name in model_names():
        if not name.startswith("cifar_"):
            first.setdefault(torchvision.models.get_model_builder(name).__module__, name)
    return list(first.values())


@pytest.mark.parametrize("name", one_of_each_architecture())
def test_every_architecture_of_torchvision_gives_plain_logits_in_training(name: str) -> None:
    # On the meta device nothing is computed; RegNets cannot be built there. 448 px suits every network's own arithmetic.
    on_meta = not name.startswith("regnet")
    name, side_px, device = (name, 448, "meta") if on_meta else ("regnet_x_400mf", 64, "cpu")
    with torch.device(device):
        logits = build_model(name, 11, side_px).train()(torch.rand(2, 3, side_px, side_px))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 11)


def test_architectures_tested_are_many() -> None:
    assert len(one_of_each_architecture()) >= 16
    assert {"googlenet", "inception_v3"} <= set(one_of_each_architecture())


@pytest.mark.parametrize("name", ["vit_b_16", "maxvit_t"])
def test_side_that_a_network_cannot_be_built_for_is_one_sentence(name: str) -> None:
    with pytest.raises(InputError, match=rf"^model '{name}' cannot be built for images of 30 px: [^\n]+$"):
        build_model(name, 10, 30)


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^model 'cifar_resnet21' is unknown.*; the nearest valid name is 'cifar_resnet20'$"):
        build_model("cifar_resnet21", 10, 32)
    with pytest.raises(InputError, match="the nearest valid name is 'resnet50'"):
        build_model("resnet_50", 10, 32)


OWN_MODULE = """
from torch import nn

def network(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

def no_module(num_classes):
    return "weights"

def other_keyword(classes):
    return nn.Identity()

def faulty(num_classes):
    return len(num_classes)

number = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_networks_xyz.py").write_text(OWN_MODULE)
    (tmp_path / "my_broken_xyz.py").write_text("import torch\nraise RuntimeError('no licence')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for name in ("my_networks_xyz", "my_broken_xyz"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "my_networks_xyz"


def test_own_factory_in_the_current_folder_is_found_and_gets_num_classes(own_module: str) -> None:
    assert build_model(f"{own_module}:network", 5, 32)(torch.rand(2, 3, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("my_absent_xyz:network", "module 'my_absent_xyz' cannot be imported: ModuleNotFoundError: No module named 'my_absent_xyz'"),
        ("my_broken_xyz:network", "module 'my_broken_xyz' cannot be imported: RuntimeError: no licence"),
        (":network", "module '' cannot be imported: ValueError: Empty module name"),
        ("my_networks_xyz:netwrok", "module 'my_networks_xyz' has no 'netwrok'; the nearest valid name is 'network'"),
        ("my_networks_xyz:", "module 'my_networks_xyz' has no ''"),
        ("my_networks_xyz:number", "'number' is a int, it must be callable as factory(num_classes=...)"),
        ("my_networks_xyz:no_module", "returned str, a factory must return a torch.nn.Module"),
        ("my_networks_xyz:other_keyword", "must be callable as factory(num_classes=5): missing a required argument: 'classes'"),
    ],
)
@pytest.mark.usefixtures("own_module")
def test_faults_of_own_factories_are_one_sentence_each(name: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        build_model(name, 5, 32)
    assert str(caught.value).removeprefix(f"model '{name}'").lstrip(": ") == sentence


def test_own_type_error_inside_a_factory_is_not_mistaken_for_a_wrong_keyword(own_module: str) -> None:
    with pytest.raises(TypeError, match="has no len"):
        build_model(f"{own_module}:faulty", 5, 32)
