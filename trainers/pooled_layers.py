"""Which layers are worth pooling: a function of the network's architecture and of the sides alone, never of its weights or of a seed.

Costs of steps are calibrated on another copy of the network than the one that is trained, so both must pool the same layers. Our own
choice. Layers that share a pair of paddings (even_pads.py) are chosen together.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from trainers.convolution import PooledConvolution
from trainers.even_pads import EvenChoice
from trainers.schedule import Step
from trainers.tracing import FORWARD_ERRORS, Trace, copy_without_numbers

# Layers are chosen until they save this share of what pooling all of them would.
SAVED_FRAC: Final = 0.5
# A forward and a backward pass convolve three times; a padded copy reads and writes its images in each of both.
_CONVOLUTIONS: Final = 3
_MOVES: Final = 4
# How many multiply-adds take as long as reading or writing one number: measured on a processor (docs/LOG.md), more on a GPU.
_MACS_PER_MOVE: Final = 30
_NOISE_IMAGES: Final = 8

Unit = tuple[str, ...]


def choose_layers(
    model: nn.Module, step: Step, plain: Trace, chosen: EvenChoice, convolutions: Mapping[str, PooledConvolution]
) -> frozenset[str]:
    """Names of the layers that the step pools, of all that it could: `convolutions`, in order of execution; plain: the unpooled trace.

    "pooled": all. "pooled_largest_maps": all layers of the largest output maps, then all of the next smaller maps, until half of the
    saving is reached. "pooled_most_saved": those that save most for each unit of relatively changed output, until half is reached.
    """
    if step.kernel == "pooled":
        return frozenset(convolutions)
    saved = _saved_by_unit(plain, chosen, convolutions)
    if step.kernel == "pooled_largest_maps":
        return _until_enough(_stages(plain, saved), saved)
    changes = relative_changes(model, step, convolutions)
    rates = {unit: macs / max(sum(changes[name] for name in unit), 1e-6) for unit, macs in saved.items() if macs > 0}
    # Three digits, so that a processor's rounding does not change the order.
    ranked = sorted(rates, key=lambda unit: float(f"{rates[unit]:.3g}"), reverse=True)
    return _until_enough([[unit] for unit in ranked], saved)


def _until_enough(groups: Iterable[Iterable[Unit]], saved: Mapping[Unit, float]) -> frozenset[str]:
    wanted = SAVED_FRAC * sum(max(0.0, macs) for macs in saved.values())
    names: set[str] = set()
    so_far = 0.0
    for group in groups:
        if so_far >= wanted:
            break
        for unit in group:
            names.update(unit)
            so_far += saved[unit]
    return frozenset(names)


def _stages(plain: Trace, units: Iterable[Unit]) -> list[list[Unit]]:
    """The units by the size of their output maps, the largest first."""
    maps = {call.name: math.prod(call.output_px) for call in plain.calls}
    stages: defaultdict[int, list[Unit]] = defaultdict(list)
    for unit in units:
        stages[max(maps.get(name, 0) for name in unit)].append(unit)
    return [stages[px] for px in sorted(stages, reverse=True)]


def _saved_by_unit(plain: Trace, chosen: EvenChoice, convolutions: Mapping[str, PooledConvolution]) -> dict[Unit, float]:
    """Time that pooling saves an image, in multiply-adds: those of the convolutions less the price of padded copies."""
    saved: Counter[str] = Counter()
    for before, after in zip(plain.calls, chosen.trace.calls, strict=True):
        if before.name in convolutions:
            saved[before.name] += _saved_at(convolutions[before.name], before.output_px, after.input_px, after.output_px)
    partner = {name: pair for pair in chosen.pairs for name in pair}
    units = dict.fromkeys(partner.get(name, (name,)) for name in convolutions)
    return {unit: float(sum(saved[name] for name in unit)) for unit in units}


def _saved_at(convolution: PooledConvolution, plain_px: tuple[int, int], input_px: tuple[int, int], output_px: tuple[int, int]) -> int:
    layer = convolution.layer
    filters = layer.in_channels // layer.groups * layer.out_channels
    macs = filters * (math.prod(plain_px) * math.prod(layer.kernel_size) - math.prod(output_px) * math.prod(convolution.size))
    moved = layer.in_channels * math.prod(input_px) if convolution.copies_at(input_px) else 0
    return _CONVOLUTIONS * macs - _MOVES * _MACS_PER_MOVE * moved


def relative_changes(model: nn.Module, step: Step, convolutions: Mapping[str, PooledConvolution]) -> dict[str, float]:
    """By layer: how far its output with the pooled kernel lies from its own on the same input, norm of the difference over norm.

    Measured on a freshly initialised copy with made-up images. 1 for each layer where the copy can't run, and for layers that don't.
    """
    found = dict.fromkeys(convolutions, 1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            network = _initialised_copy(model)
            layers = dict(network.named_modules())
            probes = {name: _Probe(layers[name], convolution) for name, convolution in convolutions.items()}
            first = next(layer for layer in layers.values() if isinstance(layer, nn.Conv2d))
            with torch.no_grad():
                network(natural_noise(_NOISE_IMAGES, first.in_channels, step.side_px))
        except FORWARD_ERRORS:
            return found
    return found | {name: probe.change() for name, probe in probes.items() if probe.ran}


class _Probe:
    """Computes a layer's own output and notes what the pooled kernel would give."""

    def __init__(self, layer: nn.Module, convolution: PooledConvolution) -> None:
        if not isinstance(layer, nn.Conv2d):
            raise TypeError(f"layer '{convolution.name}' is no Conv2d in the network's copy")
        self._own = layer._conv_forward
        self._pooled = convolution.of_layer(layer)
        self._difference = self._norm = 0.0
        self.ran = False
        vars(layer)["_conv_forward"] = self

    def __call__(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        own: Tensor = self._own(images, weight, None)
        self._difference += float((self._pooled(images, weight, None) - own).square().sum())
        self._norm += float(own.square().sum())
        self.ran = True
        return own if bias is None else own + bias.reshape(-1, 1, 1)

    def change(self) -> float:
        return math.sqrt(self._difference / self._norm) if self._norm > 0 else 1.0


def _initialised_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU in training mode, single precision, with fresh parameters; layers that can't draw theirs get small ones."""
    network = copy_without_numbers(model, torch.device("cpu")).float().train()
    for buffer, original in zip(network.buffers(), model.buffers(), strict=True):
        buffer.copy_(original)
    with torch.no_grad():
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            else:
                for parameter in module.parameters(recurse=False):
                    parameter.normal_(std=0.02)
    return network


def natural_noise(count: int, channels: int, side_px: int) -> Tensor:
    """Images [count, channels, side_px, side_px] of unit deviation whose amplitudes fall with frequency as 1/f, as those of photographs do
    (Field 1987), from torch's global generator."""
    rows, columns = torch.fft.fftfreq(side_px), torch.fft.rfftfreq(side_px)
    frequency = (rows[:, None].square() + columns.square()).sqrt().clamp(min=1 / side_px)
    spectrum = torch.fft.rfft2(torch.randn(count, channels, side_px, side_px)) / frequency
    images: Tensor = torch.fft.irfft2(spectrum, s=(side_px, side_px))
    return (images - images.mean((2, 3), keepdim=True)) / images.std((2, 3), keepdim=True).clamp(min=1e-6)
