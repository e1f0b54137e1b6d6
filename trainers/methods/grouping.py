"""Groupable convolution (DGConv): which input channels each convolution uses is learned together with the weights, within a budget.

Source: Zhang et al. 2019, arXiv 1908.05867; grouping.md beside this file says what of it is published and what is our own choice. The
layers are in groupable.py, what becomes of them after training is in grouped_conversion.py. Their symbols, beside those in groupable.py:

    zeta    connections in use: the ones in the matrices U of all groupable layers; sum of C prod(1 + g_k) where out = in = C
    o       budget: what zeta should not exceed, a share of zeta with all gates open
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Final

import torch
from torch import Tensor, nn

from trainers.methods.groupable import GroupableConv2d, groupable_layers, hard_gates, power_of_two
from trainers.methods.grouped_conversion import to_grouped
from trainers.methods.method import Method, TrainingParts
from trainers.methods.settings import Grouping

# Far above the rounding of a logarithm in double precision: at zeta = o exactly the budget is kept.
_ROUNDING: Final = 1e-9


class Budget:
    """What the budget asks of the gates of `layers`; see `penalty`."""

    def __init__(self, layers: Sequence[GroupableConv2d], settings: Grouping) -> None:
        self._layers, self._settings = layers, settings
        self._gates: list[Tensor] = [layer.gates for layer in layers]
        dense = [layer.out_channels * layer.in_channels for layer in layers]
        powers = [power_of_two(layer.out_channels, layer.in_channels) for layer in layers]
        self._dense = sum(dense)
        device = self._gates[0].device
        least = [connections / power for connections, power in zip(dense, powers, strict=True)]
        self._log_least = torch.tensor(least, dtype=torch.float64, device=device).log()
        # [layers, gates]: 1 where the gate is the layer's. A product, because index_add_ on CUDA adds in another order each time.
        self._own = torch.block_diag(*[torch.ones(1, len(gates)) for gates in self._gates]).to(device, torch.float64)
        self._log_budget = math.log(settings.budget * self._dense)

    def penalty(self) -> Tensor:
        """strength * log(zeta / o) while zeta is above o, else 0; its gradient reaches the gates straight through.

        The paper minimises L (o / zeta)^a with a < 0, which grows as log L + |a| log(zeta / o): this is the second term, |a| = strength.
        """
        gates = hard_gates(torch.cat(self._gates).double())
        log_zeta = torch.logsumexp(self._log_least + self._own @ gates.log1p(), 0)
        excess = log_zeta - self._log_budget
        return self._settings.strength * torch.where(excess > _ROUNDING, excess, 0.0)

    def add_gradients(self) -> None:
        """Adds the penalty's gradient to the gates', the same in every rank of a training."""
        for gates, gradient in zip(self._gates, torch.autograd.grad(self.penalty(), self._gates), strict=True):
            gates.grad = gradient if gates.grad is None else gates.grad.add_(gradient)

    def figures(self) -> dict[str, float]:
        """connections_frac: zeta over that of open gates. over_budget: zeta / o. mean_groups: over the groupable layers."""
        groups = [layer.groups_found for layer in self._layers]
        zeta = sum(layer.out_channels * layer.in_channels // found for layer, found in zip(self._layers, groups, strict=True))
        connections_frac = zeta / self._dense
        return {
            "connections_frac": connections_frac,
            "over_budget": connections_frac / self._settings.budget,
            "mean_groups": fmean(groups),
        }


def before_update(model: nn.Module, settings: Grouping) -> Callable[[], None]:
    """What a training step with this network does when its gradients are complete; nothing where there is no grouping."""
    if settings.name == "none":
        return lambda: None
    return Budget(groupable_layers(model), settings).add_gradients


class ChannelGrouper(Method):
    """Holds the gates to their budget; after training the network has plain and grouped convolutions instead of groupable ones.

    `build_training_model` has made the network's convolutions groupable already.
    """

    def __init__(self, parts: TrainingParts) -> None:
        super().__init__(parts)
        self._budget = Budget(groupable_layers(parts.model), parts.config.grouping)

    def before_update(self) -> None:
        self._budget.add_gradients()

    def after_training(self) -> None:
        to_grouped(self.parts.model)

    def figures(self) -> dict[str, float]:
        return self._budget.figures()
