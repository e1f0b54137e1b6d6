"""Groupable convolutions: ordinary ones whose weight is multiplied by a matrix of zeros and ones that a few gates span.

Source: Zhang et al. 2019 (arXiv 1908.05867, DGConv). Their symbols, for one convolution; grouping.md says what is our own choice:

    C       channels. Here out and in may differ: P is the largest power of two that divides both, out = P a and in = P b
    K       log2 P, the number of gates
    g~, g   gates as they are learned and as they are used: g_k = 1 where g~_k >= 0 (open), else 0 (closed)
    U       [out, in], U_1 kron ... kron U_K kron ONES(a x b), where U_k = g_k ONES(2 x 2) + (1 - g_k) I(2 x 2)
"""

from __future__ import annotations

import functools
import math
from typing import Final

import torch
from torch import Tensor, nn

from trainers.errors import InputError
from trainers.splits import mixed_seed

# Of public code: so small that the first gradient decides.
_FIRST_SIZE: Final = 1e-8
# Keeps the gates' random numbers apart from those of the weights, which follow the same seed.
_GATE_DRAWS: Final = 1


def power_of_two(out_channels: int, in_channels: int) -> int:
    """The largest power of two that divides both: P."""
    common = math.gcd(out_channels, in_channels)
    return common & -common


def hard_gates(gates: Tensor) -> Tensor:
    """g [K], zeros and ones, of g~ [K]. Straight-through: the gradient of g reaches g~ unchanged.

    The paper's (sign(g~) + 1) / 2 would be one half at g~ = 0, where the gate is open here.
    """
    # The difference is exactly 0: adding the gates' own value and taking it away again would not leave exactly 1.
    return (gates.detach() >= 0).to(gates.dtype) + (gates - gates.detach())


def relationship_matrix(gates: Tensor, out_channels: int, in_channels: int) -> Tensor:
    """U [out, in] of gates g [K]; U_1 is the left-most factor, which decides over the most significant bit of a channel's number."""
    power = 2 ** len(gates)
    eye = torch.eye(2, dtype=gates.dtype, device=gates.device)
    factors = eye + gates.reshape(-1, 1, 1) * (1 - eye)
    ungated = gates.new_ones(out_channels // power, in_channels // power)
    return functools.reduce(torch.kron, [*factors.unbind(), ungated])


class GroupableConv2d(nn.Conv2d):
    """A Conv2d that computes with U * weight. `make_groupable` makes it of an existing layer.

    gates: g~ [K], a parameter. `weight` stays the layer's own [out, in, kh, kw].
    """

    gates: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H', W'], as Conv2d's."""
        output: Tensor = self._conv_forward(input, self.masked_weight(), self.bias)
        return output

    def masked_weight(self) -> Tensor:
        """U * weight [out, in, kh, kw]."""
        matrix = relationship_matrix(hard_gates(self.gates), self.out_channels, self.in_channels)
        return self.weight * matrix[:, :, None, None]

    def reset_parameters(self) -> None:
        """As Conv2d's, with all gates open: which layers a step pools is judged on such a copy, so that it follows from no seed."""
        super().reset_parameters()
        nn.init.ones_(self.gates)

    @property
    def open_gates(self) -> tuple[bool, ...]:
        """Which gates are open, g_1 first."""
        return tuple((self.gates.detach() >= 0).tolist())

    @property
    def groups_found(self) -> int:
        """Groups of the convolution that the gates describe now: 2 to the number of closed ones."""
        return int(2 ** self.open_gates.count(False))


def make_groupable(model: nn.Module, seed: int) -> None:
    """Makes every convolution of `model` groupable that can be; the others stay as they are (`left_alone`).

    The layers stay the objects that they are, with their weights. Gates start at +-1e-8, the signs drawn by a generator of their own
    from `seed`. InputError if no layer can be grouped.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    chosen = [layer for layer in layers.values() if _reason(layer) is None]
    if not chosen:
        because = "; ".join(f"'{name}': {reason}" for name, reason in list(left_alone(model).items())[:1]) or "it has no Conv2d"
        raise InputError(f"grouping is 'groupable', but no convolution of network {type(model).__name__} can be grouped ({because})")
    draws = torch.Generator().manual_seed(mixed_seed(seed, _GATE_DRAWS))
    for layer in chosen:
        count = power_of_two(layer.out_channels, layer.in_channels).bit_length() - 1
        signs = torch.randint(2, (count,), generator=draws) * 2 - 1
        # As torch's own parametrizations do: whoever holds the layer holds the groupable one.
        layer.__class__ = GroupableConv2d
        layer.register_parameter("gates", nn.Parameter((signs * _FIRST_SIZE).to(layer.weight)))


def left_alone(model: nn.Module) -> dict[str, str]:
    """Why a convolution can't be grouped, by its name in the network, for each that can't be."""
    reasons = {name: _reason(layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def groupable_layers(model: nn.Module) -> list[GroupableConv2d]:
    """In the order in which they are registered."""
    return [layer for layer in model.modules() if isinstance(layer, GroupableConv2d)]


def _reason(layer: nn.Conv2d) -> str | None:
    """Why the layer can't be made groupable; None if it can be, or is."""
    if isinstance(layer, GroupableConv2d):
        return None
    if type(layer) is not nn.Conv2d:
        return f"its class {type(layer).__name__} is not Conv2d itself"
    if layer.groups > 1:
        return f"it has {layer.groups} groups already"
    if layer._parameters.get("weight") is None:
        return "its weight is not a parameter of its own"
    if power_of_two(layer.out_channels, layer.in_channels) == 1:
        return f"its {layer.in_channels} input and {layer.out_channels} output channels are not both even"
    return None
