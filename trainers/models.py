"""Networks by name: the CIFAR ResNets, every classifier of torchvision, and the user's own `module:factory`. All take 3 channels."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any, Final

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.config import TrainConfig
from trainers.device import network_format
from trainers.errors import InputError, nearest_name
from trainers.methods.groupable import make_groupable

_CIFAR_DEPTHS: Final = {"cifar_resnet8": 8, "cifar_resnet20": 20, "cifar_resnet56": 56}
_CIFAR_RESNET18: Final = "cifar_resnet18"
# Both return a tuple in training mode unless their auxiliary classifiers are off, and warn unless told how to initialise.
_AUXILIARY: Final = ("googlenet", "inception_v3")


def model_names() -> list[str]:
    """Every name that `build_model` knows, `module:factory` aside."""
    return [*_CIFAR_DEPTHS, _CIFAR_RESNET18, *torchvision.models.list_models(module=torchvision.models)]


def build_model(name: str, num_classes: int, side_px: int) -> nn.Module:
    """A fresh network [B, 3, side_px, side_px] -> logits [B, num_classes]; its weights follow torch's global seed.

    name: one of `model_names`, or `module:factory`, called as factory(num_classes=...). side_px matters to the few networks built for one
    side (vit_*, maxvit_t). InputError for an unknown name, a factory that cannot be had, or a side that the network cannot be built for.
    """
    if ":" in name:
        return _build_own(name, num_classes)
    if name in _CIFAR_DEPTHS:
        return CifarResNet(_CIFAR_DEPTHS[name], num_classes)
    if name == _CIFAR_RESNET18:
        return _cifar_resnet18(num_classes)
    if name not in model_names():
        kinds = (
            f"it must be one of {', '.join([*_CIFAR_DEPTHS, _CIFAR_RESNET18])}, a torchvision classifier or the user's own module:factory"
        )
        raise InputError(f"model '{name}' is unknown, {kinds}{nearest_name(name, model_names())}")
    return _build_torchvision(name, num_classes, side_px)


def build_training_model(config: TrainConfig, num_classes: int, device: torch.device) -> nn.Module:
    """The configuration's network on its device, in the device's memory format, its layers groupable where they shall be."""
    model = build_model(config.model, num_classes, config.data.full_px).to(device)
    if config.grouping.name != "none":
        make_groupable(model, config.seed)
    # torch's stub takes memory_format only in an overload that returns Any.
    converted: nn.Module = model.to(memory_format=network_format(device))
    return converted


class CifarResNet(nn.Module):
    """ResNet of 6n+2 layers for small images: He et al. 2016 (arXiv 1512.03385), section 4.2; 16, 32 and 64 channels.

    Shortcuts are the paper's option A: where a block halves the side they take every second pixel and pad the new channels with zeros, so
    they hold no parameters. Convolutions are He-initialised (normal, fan out).
    """

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.stem = _conv_bn(3, 16, 1)
        self.stages = nn.Sequential(_stage(16, 16, 1, blocks), _stage(16, 32, 2, blocks), _stage(32, 64, 2, blocks))
        self.classifier = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, num_classes]."""
        features: Tensor = self.stages(F.relu(self.stem(images)))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; stride 2 halves the side."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_bn(channels_in, channels_out, stride)
        self.second = _conv_bn(channels_out, channels_out, 1)
        self.stride = stride
        self.new_channels = channels_out - channels_in

    def forward(self, features: Tensor) -> Tensor:
        residual: Tensor = self.second(F.relu(self.first(features)))
        if self.stride == 1 and self.new_channels == 0:
            return F.relu(residual + features)
        shortcut = features[:, :, :: self.stride, :: self.stride]
        # Counted here and not when the network was built, because filters may have been removed since (trainers.methods.filter_removal).
        return F.relu(residual + F.pad(shortcut, (0, 0, 0, 0, 0, residual.shape[1] - shortcut.shape[1])))


def _stage(channels_in: int, channels_out: int, stride: int, blocks: int) -> nn.Sequential:
    rest = (_BasicBlock(channels_out, channels_out, 1) for _ in range(blocks - 1))
    return nn.Sequential(_BasicBlock(channels_in, channels_out, stride), *rest)


def _conv_bn(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels_out))


def _cifar_resnet18(num_classes: int) -> nn.Module:
    """ResNet-18 of the same paper's ImageNet family with a 3x3 stem of stride 1 and no max pool, so that 32 px end as 4, not 1."""
    network: nn.Module = torchvision.models.resnet18(weights=None, num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


def _build_torchvision(name: str, num_classes: int, side_px: int) -> nn.Module:
    options: dict[str, Any] = {}
    if name in _AUXILIARY:
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": side_px}
    elif name == "maxvit_t":
        options = {"input_size": (side_px, side_px)}
    try:
        network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    except (AssertionError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".!")
        raise InputError(f"model '{name}' cannot be built for images of {side_px} px: {reason}") from error
    return network


def _build_own(name: str, num_classes: int) -> nn.Module:
    factory = _find_factory(name)
    try:
        inspect.signature(factory).bind(num_classes=num_classes)
    except (TypeError, ValueError) as error:
        raise InputError(f"model '{name}' must be callable as factory(num_classes={num_classes}): {error}") from error
    network = factory(num_classes=num_classes)
    if not isinstance(network, nn.Module):
        raise InputError(f"model '{name}' returned {type(network).__name__}, a factory must return a torch.nn.Module")
    return network


def _find_factory(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    # An installed command, unlike `python -m`, does not look for modules in the folder it is called from, where users keep theirs.
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # Importing runs the user's code, so any exception may come out; the chain keeps its traceback.
        raise InputError(f"model '{name}': module '{module_name}' cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        raise InputError(f"model '{name}': module '{module_name}' has no '{attribute}'{nearest_name(attribute, vars(module))}")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise InputError(f"model '{name}': '{attribute}' is a {type(factory).__name__}, it must be callable as factory(num_classes=...)")
    return factory
