"""Removes filters whose output is constant, so that the network's outputs stay as they are.

The idea, without fine-tuning, is that of the public code for Mehta et al. (arXiv 1811.12495, 1905.04967); what becomes of constants that
are not zero is our own choice, see filter_sparsity.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainers.methods.filter_graph import ChannelGraph
from trainers.methods.kept import Indices, Kept, shrink_network


class Reading(NamedTuple):
    """A place where a channel is read: layer and input, the constant there (NaN where it varies), and whether it can go to a bias."""

    layer: str
    input: int
    constant: float
    foldable: bool


class Fold(NamedTuple):
    """What a layer gets for an input that is removed: `factor` times the sum of its weights for it in the bias, or in the batch norm that
    follows; where `instead` is not None, `factor` times its weights for it in those for the input `instead`."""

    layer: str
    input: int
    factor: float
    instead: int | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """What to do to a network: first the folds, then the kept parts.

    norms: the batch norm that alone reads a convolution's output, by names. filters: how many go, those of depthwise convolutions included.
    """

    folds: list[Fold] = field(default_factory=list)
    norms: dict[str, str] = field(default_factory=dict)
    kept: Kept = field(default_factory=dict)
    filters: int = 0


def plan_removal(model: nn.Module, graph: ChannelGraph) -> Removal:
    """Which filters of the network go, and what the layers that read them get for it. Every layer keeps one filter at least."""
    made = {one for numbers in graph.filters.values() for one in graph.sets(numbers)}
    fixed = graph.fixed_sets()
    readings = {
        one: places
        for one, places in _readings(model, graph).items()
        if one in made and one not in fixed and not any(isnan(place.constant) for place in places)
    }
    folds = {one: _to_biases(places) for one, places in readings.items() if all(place.foldable for place in places)}
    folds |= _merged({one: places for one, places in readings.items() if one not in folds})
    for numbers in (*graph.filters.values(), *graph.followers.values()):
        sets = graph.sets(numbers)
        if folds.keys() >= set(sets):
            del folds[sets[0]]
    kept, filters = _kept(model, graph, folds.keys())
    return Removal([fold for own in folds.values() for fold in own], graph.norms, kept, filters)


@torch.no_grad()
def remove(model: nn.Module, removal: Removal, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Makes the network smaller in place, and with it what the optimizer keeps of its parameters."""
    by_layer = defaultdict(list)
    for fold in removal.folds:
        by_layer[fold.layer].append(fold)
    for name, folds in by_layer.items():
        layer = model.get_submodule(name)
        _add_to_bias(model, removal.norms.get(name, ""), layer, [fold for fold in folds if fold.instead is None])
        _add_to_inputs(layer.get_parameter("weight"), [fold for fold in folds if fold.instead is not None])
    shrink_network(model, removal.kept, optimizer)


def _readings(model: nn.Module, graph: ChannelGraph) -> dict[int, list[Reading]]:
    """By set."""
    found = defaultdict(list)
    for reader in graph.readers:
        biased = model.get_submodule(reader.layer).bias is not None or reader.layer in graph.norms
        constants = reader.channels.constants.tolist()
        for index, one in enumerate(graph.sets(reader.channels.numbers)):
            foldable = constants[index] == 0 or (biased and not reader.padded)
            found[one].append(Reading(reader.layer, index, constants[index], foldable))
    return found


def _to_biases(places: Sequence[Reading]) -> list[Fold]:
    return [Fold(place.layer, place.input, place.constant) for place in places if place.constant != 0]


def _merged(readings: Mapping[int, Sequence[Reading]]) -> dict[int, list[Fold]]:
    """Of the sets that the same layers read, whose constants are not seen in the padding around them, one stays in the place of all.

    That is exact at the borders too: the one that stays is absent from the padding as the others were.
    """
    alike = defaultdict(list)
    for one, places in readings.items():
        alike[tuple(place.layer for place in places)].append(one)
    folds = {}
    for sets in alike.values():
        stays = max(sets, key=lambda one: min(abs(place.constant) for place in readings[one]))
        if all(place.constant != 0 for place in readings[stays]):
            for one in sets:
                pairs = zip(readings[one], readings[stays], strict=True)
                folds[one] = [Fold(own.layer, own.input, own.constant / other.constant, other.input) for own, other in pairs]
            del folds[stays]
    return folds


def _kept(model: nn.Module, graph: ChannelGraph, removed: Iterable[int]) -> tuple[Kept, int]:
    """What is left of each tensor, and how many filters are not."""
    gone, filters = set(removed), 0
    kept: defaultdict[str, Indices] = defaultdict(dict)
    outputs = [(layer, numbers, 0) for layers in (graph.filters, graph.followers) for layer, numbers in layers.items()]
    for name, numbers, dim in [*outputs, *((reader.layer, reader.channels.numbers, 1) for reader in graph.readers)]:
        sets = graph.sets(numbers)
        left = [index for index, one in enumerate(sets) if one not in gone]
        if len(left) == len(sets):
            continue
        layer = model.get_submodule(name)
        for tensor in ("weight",) if dim == 1 else ("weight", "bias", "running_mean", "running_var"):
            if isinstance(getattr(layer, tensor, None), Tensor):
                kept[f"{name}.{tensor}"][dim] = left
        filters += (len(sets) - len(left)) * (dim == 0 and isinstance(layer, nn.Conv2d))
    return dict(kept), filters


def _add_to_bias(model: nn.Module, norm_name: str, layer: nn.Module, folds: Sequence[Fold]) -> None:
    if not folds:
        return
    weight = layer.get_parameter("weight")
    factors = torch.tensor([fold.factor for fold in folds], dtype=torch.float64, device=weight.device)
    taps = weight[:, [fold.input for fold in folds]].double()
    added = taps.reshape(*taps.shape[:2], -1).sum(2) @ factors
    if isinstance(layer.bias, Tensor):
        layer.bias += added
    else:
        norm = model.get_submodule(norm_name)
        norm.get_buffer("running_mean").sub_(added)


def _add_to_inputs(weight: Tensor, folds: Sequence[Fold]) -> None:
    for fold in folds:
        weight[:, fold.instead] += fold.factor * weight[:, fold.input]
