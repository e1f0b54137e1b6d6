"""How active every filter of a network is over a set of images, seen in one pass.

Mehta, Kim and Theobalt 2019 (arXiv 1811.12495): what an inactive filter is, and selectivity. filter_sparsity.md says what is our choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from trainers.ranks import ALONE, Ranks

# Names of torch's functions, without a trailing underscore.
ACTIVATIONS: Final = frozenset(
    [
        "relu",
        "relu6",
        "hardtanh",
        "silu",
        "hardswish",
        "gelu",
        "leaky_relu",
        "elu",
        "celu",
        "selu",
        "mish",
        "sigmoid",
        "hardsigmoid",
        "tanh",
        "softplus",
        "prelu",
    ]
)
SELECTIVE: Final = 1e-3
# Floats above zero are in the order of their bits: without the last 20 of them, eight bins for each power of two.
_DROPPED_BITS: Final = 20
_BINS: Final = 2 ** (31 - _DROPPED_BITS)


@dataclass(frozen=True, slots=True)
class Activity:
    """Of a layer's filters [out], on the CPU. The activation of a filter is what the activation function makes of its (normalised)
    output, where one follows at once; else that output.

    stage: 0 where it is the convolution's output, 1 that of the batch norm or activation function after it, 2 of both in a row.
    gamma: absolute weights of the batch norm that follows at once; None without one. low, high: least and largest activation.
    selectivity: share of the images whose spatial maximum of |activation| is at most SELECTIVE of its maximum over all images; up to an
    eighth above that threshold counts as below.
    """

    stage: int
    gamma: Tensor | None
    low: Tensor
    high: Tensor
    selectivity: Tensor

    @property
    def largest(self) -> Tensor:
        """Maximum of |activation|."""
        return torch.maximum(self.high, -self.low)


@torch.no_grad()
def filter_activities(model: nn.Module, batches: Iterable[Tensor], probe: Tensor, ranks: Ranks = ALONE) -> dict[str, Activity]:
    """By name of every Conv2d that is used. batches: images [B, channels, H, W] on the network's device; of several ranks each gives its
    part. probe: any image [1, channels, H, W], to see what follows each convolution.

    Network and torch's random numbers stay as they are; the network runs in evaluation mode.
    """
    watch = _Watch(model)
    devices = sorted({parameter.device.index for parameter in model.parameters() if parameter.is_cuda})
    with evaluating(model), torch.random.fork_rng(devices=devices), _hooked(watch):
        with watch:
            model(probe)
        watch.measure()
        for images in batches:
            with watch:
                model(images)
    return {name: tally.activity(watch.gammas.get(name), ranks) for name, tally in watch.tallies.items()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the network is in evaluation mode, outside as before."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in training:
            module.training = flag


@contextmanager
def _hooked(watch: _Watch) -> Iterator[None]:
    handles = [layer.register_forward_hook(watch.convolved) for layer in watch.layers]
    handles += [norm.register_forward_hook(watch.normalised) for norm in watch.norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Tally:
    """What has been seen of one layer's filters."""

    def __init__(self, filters: int, stage: int, device: torch.device) -> None:
        self.stage = stage
        self._low = torch.full((filters,), torch.inf, device=device)
        self._high = torch.full((filters,), -torch.inf, device=device)
        self._histogram = torch.zeros(filters, _BINS, dtype=torch.int32, device=device)

    def add(self, activation: Tensor) -> None:
        """activation: [B, out, H, W]."""
        low, high = activation.amin((2, 3)).float(), activation.amax((2, 3)).float()
        self._low = torch.minimum(self._low, low.amin(0))
        self._high = torch.maximum(self._high, high.amax(0))
        bins = _bins(torch.maximum(high, -low)).t()
        self._histogram.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.int32))

    def activity(self, gamma: Tensor | None, ranks: Ranks) -> Activity:
        low, high = -ranks.largest(-self._low.cpu()), ranks.largest(self._high.cpu())
        # Means over ranks serve a share as well as sums do.
        histogram = ranks.mean(self._histogram.cpu().double())
        threshold = _bins(SELECTIVE * torch.maximum(high, -low))
        below = histogram.cumsum(1).gather(1, threshold[:, None]).squeeze(1)
        return Activity(self.stage, gamma, low, high, below / histogram.sum(1))


def _bins(values: Tensor) -> Tensor:
    """Of values of at least 0, in float32."""
    return (values.abs().contiguous().view(torch.int32) >> _DROPPED_BITS).long()


class _Watch(TorchFunctionMode):
    """Sees which tensors are outputs of which filters: by hooks on layers, and by being told of every call of torch's functions."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.layers = {module: name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
        self.norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.gammas: dict[str, Tensor] = {}
        self.tallies: dict[str, _Tally] = {}
        # Of outputs of filters, while they live and nothing has read them: name, stage, and version, because they may be overwritten.
        self._outputs: Any = WeakTensorKeyDictionary()
        self._stages: dict[str, int] = {}

    def measure(self) -> None:
        """Until now it was only seen what follows what; from now on activations count."""
        for layer, name in self.layers.items():
            if name in self._stages:
                self.tallies[name] = _Tally(layer.out_channels, self._stages[name], layer.weight.device)

    def convolved(self, layer: nn.Conv2d, _inputs: Any, output: Tensor) -> None:
        self._see(self.layers[layer], 0, output)

    def normalised(self, norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        source = self._taken(inputs[0])
        if source is not None:
            name, stage = source
            if stage == 0 and isinstance(norm.weight, Tensor):
                self.gammas[name] = norm.weight.abs().cpu()
            self._see(name, stage + 1, output)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        activates = bool(args) and getattr(func, "__name__", "").rstrip("_") in ACTIVATIONS
        source = self._taken(args[0]) if activates else None
        result = func(*args, **(kwargs or {}))
        if source is not None:
            self._measure(source[0], source[1] + 1, result)
        return result

    def _see(self, name: str, stage: int, output: Tensor) -> None:
        self._outputs[output] = name, stage, output._version
        self._measure(name, stage, output)

    def _taken(self, tensor: object) -> tuple[str, int] | None:
        """Of which convolution this is the output that no layer has read yet, and at which stage."""
        if not isinstance(tensor, Tensor):
            return None
        name, stage, version = self._outputs.pop(tensor, (None, 0, 0))
        return None if name is None or version != tensor._version else (name, stage)

    def _measure(self, name: str, stage: int, output: Tensor) -> None:
        if not self.tallies:
            self._stages[name] = max(stage, self._stages.get(name, 0))
        elif self.tallies[name].stage == stage:
            self.tallies[name].add(output)
