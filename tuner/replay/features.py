"""What the surrogate is told of a configuration after each epoch: its fields, and what its plan does with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from studies.domains import Value
from studies.space import METHOD_FIELDS, SearchSpace
from trainers.schedule import Step
from tuner.replay.table import Table

_POOLED_LAYERS: Final = ("most_saved", "largest_maps", "all")


class _Epoch(NamedTuple):
    """Of one epoch: shares of its batches at the full side, and of the full side's pixels; its relative time."""

    full_share: float
    pixel_share: float
    relative_time: float


def epoch_features(table: Table, params: Mapping[str, Value]) -> NDArray[np.float64]:
    """[epochs, features] of a configuration, one row an epoch.

    Each row: the schedule's fields, epochs, logarithms of learning rate and weight decay; of the whole training its relative time, share
    of full batches, epochs' worth of full batches and of pixels, and its share after the last reduced step; then how far the training is,
    and its full batches, pixels and time so far and in this epoch; then, for each preset and method that is searched, whether it is that
    one. A stochastic schedule is described by the deterministic one of its
    frequency, which has the expected number of each kind of step: what is predicted is a mean over seeds.
    """
    complete = table.spec.search.complete(params)
    plan = table.plan(complete | {"policy": "deterministic"}, 0)
    epochs = [_epoch(table, steps) for steps in plan.epochs]
    count = len(epochs)
    so_far = np.array(list(accumulate(epochs, lambda total, epoch: _Epoch(*np.add(total, epoch)))), dtype=np.float64)
    whole = so_far[-1]
    fixed = [*_fields(complete), whole[2], whole[0] / count, whole[0], whole[1], _full_at_the_end(plan, table.spec.dataset.full_px)]
    done = np.arange(1, count + 1, dtype=np.float64)
    moving = np.column_stack([done / count, done, so_far, np.array(epochs, dtype=np.float64)])
    names = _names(table.spec.search, complete)
    return np.column_stack([_each_epoch(fixed, count), moving, _each_epoch(names, count)])


def _each_epoch(values: Sequence[float], count: int) -> NDArray[np.float64]:
    return np.tile(np.array(values, dtype=np.float64), (count, 1))


def _names(space: SearchSpace, complete: Mapping[str, Value]) -> list[float]:
    fields = ("preset", *METHOD_FIELDS)
    searched = [(field, name) for field in fields if field in space.searched for name in space[field].members or ()]
    return [float(complete[field] == name) for field, name in searched if name != "none"]


def _fields(complete: Mapping[str, Value]) -> list[float]:
    reduced = complete["frequency"] > 0
    start = complete["window_start"]
    return [
        complete["frequency"],
        # At full resolution the canonical values of these say nothing, and would be read as those of a strongly reduced training.
        complete["scale"] if reduced else 1.0,
        start if reduced else 1.0,
        min(1.0, start + complete["window_length"]) - start if reduced else 0.0,
        reduced and complete["policy"] == "stochastic",
        (_POOLED_LAYERS.index(complete["pooled_layers"]) + 1.0) if reduced and complete["kernel"] == "pooled" else 0.0,
        reduced and complete["batch_norm"] == "separate",
        reduced and complete["growth"] == "linear",
        reduced and complete["batch_growth"] == "constant_work",
        complete["epochs"],
        math.log(complete["lr"]),
        math.log(max(complete["weight_decay"], 1e-8)),
    ]


def _epoch(table: Table, steps: tuple[Step, ...]) -> _Epoch:
    full_px = table.spec.dataset.full_px
    full = sum(step.side_px == full_px for step in steps) / table.steps_per_epoch
    pixels = sum(step.batches * (step.side_px / full_px) ** 2 for step in steps) / table.steps_per_epoch
    return _Epoch(full, pixels, sum(table.costs.costs[step].relative for step in steps) / table.baseline_steps)


def _full_at_the_end(plan: tuple[Step, ...], full_px: int) -> float:
    """Share of a training's steps after its last reduced one."""
    after = next((place for place, step in enumerate(reversed(plan)) if step.side_px != full_px), len(plan))
    return after / len(plan)
