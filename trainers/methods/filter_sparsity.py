"""Filters that become inactive by themselves as a network trains: reported after every epoch, and removed where that is asked for.

Mehta, Kim and Theobalt 2019 (arXiv 1811.12495, 1905.04967); filter_sparsity.md beside this file says what of it is our own choice. What
is seen of filters is in filter_activity.py, which of them go together in filter_graph.py, what removing them means in filter_removal.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainers.methods.filter_activity import Activity, filter_activities
from trainers.methods.filter_graph import trace_network
from trainers.methods.filter_removal import Removal, plan_removal, remove
from trainers.methods.filter_walk import channel_graph
from trainers.methods.kept import Kept, chained, shrink_network
from trainers.methods.method import Method, TrainingParts
from trainers.ranks import ALONE, Ranks

# A filter is inactive if |gamma| or the largest |activation| is below these (1811.12495).
INACTIVE_GAMMA: Final = 1e-3
INACTIVE_ACTIVATION: Final = 1e-12


def find_removal(model: nn.Module, activities: Mapping[str, Activity], probe: Tensor) -> Removal:
    """What can be removed of a network without a change of its outputs, where the activities are those of its whole training set.

    probe: any image [1, channels, H, W] on the network's device. InputError if torch.fx can't trace the network.
    """
    graph = trace_network(model, "filters are to be removed")
    return plan_removal(model, channel_graph(model, graph, probe, activities))


def sparsity_figures(activities: Mapping[str, Activity]) -> dict[str, float]:
    """Shares of inactive filters by gamma, by activation and by either, and mean selectivity: of all filters, and `<figure>.<layer>`."""
    layers = {name: _layer_figures(activity) for name, activity in activities.items()}
    figures = {"filters": float(sum(len(activity.low) for activity in activities.values()))}
    for figure in ("inactive", "inactive_by_gamma", "inactive_by_activation", "selectivity"):
        of_all = torch.cat([values[figure] for values in layers.values()]).double()
        figures[figure] = float(of_all.mean())
        figures |= {f"{figure}.{name}": float(values[figure].double().mean()) for name, values in layers.items()}
    return figures


def _layer_figures(activity: Activity) -> dict[str, Tensor]:
    """[out]; without a batch norm that follows at once, no filter is inactive by gamma."""
    by_activation = activity.largest < INACTIVE_ACTIVATION
    by_gamma = torch.zeros_like(by_activation) if activity.gamma is None else activity.gamma < INACTIVE_GAMMA
    return {
        "inactive": by_gamma | by_activation,
        "inactive_by_gamma": by_gamma,
        "inactive_by_activation": by_activation,
        "selectivity": activity.selectivity,
    }


class SparseFilters(Method):
    """Looks at every filter's activations over the training images after each epoch, and removes filters after each, at the end, or never.

    InputError where filters are to be removed from a network that torch.fx can't trace.
    """

    def __init__(self, parts: TrainingParts) -> None:
        super().__init__(parts)
        self._name = parts.config.filter_sparsity.name
        self._figures: dict[str, float] = {}
        # Of the fresh network's tensors.
        self._kept: Kept = {}
        self._removed = 0
        if self._name != "report":
            trace_network(parts.model, f"filter_sparsity is {self._name}")

    def after_epoch(self, epochs_done: int) -> bool:
        # Each rank has its own statistics of batch norm until they are evaluated.
        self.parts.ranks.share_buffers(self.parts.model)
        activities = self._activities(self.parts.ranks)
        removal = self._remove(activities) if self._name == "remove_each_epoch" else Removal()
        self._figures = sparsity_figures(activities) | {"removed": float(self._removed)}
        return bool(removal.kept)

    def after_training(self) -> None:
        if self._name == "remove_at_end":
            # Anew, because another method may have left other weights.
            self._remove(self._activities(ALONE))

    def figures(self) -> dict[str, float]:
        """removed: filters removed so far. The others are of the network as it was before the epoch's removal; see `sparsity_figures`."""
        return self._figures

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self._kept, "removed": self._removed}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        self._kept, self._removed = state["kept"], state["removed"]
        shrink_network(self.parts.model, self._kept, self.parts.optimizer)
        return bool(self._kept)

    def _activities(self, ranks: Ranks) -> dict[str, Activity]:
        config = self.parts.config
        batches = self.parts.data.train.batches(config.batch_size, training=False, ranks=ranks)
        return filter_activities(self.parts.model, (images for images, _ in batches), self._probe(), ranks)

    def _remove(self, activities: Mapping[str, Activity]) -> Removal:
        removal = find_removal(self.parts.model, activities, self._probe())
        if removal.kept:
            for follow in self.parts.followers:
                follow(partial(remove, removal=removal))
            remove(self.parts.model, removal, self.parts.optimizer)
            self._kept = chained(self._kept, removal.kept)
            self._removed += removal.filters
        return removal

    def _probe(self) -> Tensor:
        side_px = self.parts.config.data.full_px
        return torch.zeros(1, 3, side_px, side_px, device=self.parts.device)
