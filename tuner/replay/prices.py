"""The prices of a table's kinds of step: those that its header gives, and those that a search may need beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from trainers.checks import check_number
from trainers.cost import CostTable, StepCost, parse_step
from trainers.errors import InputError
from trainers.schedule import Step
from trainers.wording import shown


def read_prices(cost: object) -> dict[Step, float]:
    """Milliseconds of each kind of step that a header's `cost` names; InputError where one is none, or the full step has none."""
    unit = batch_unit(cost)
    return {step_kind(name, unit): ms for name, ms in check_mapping("cost", cost).items()}


def batch_unit(cost: object) -> int:
    """What a table writes for one batch: 1, or the images of a batch; the step at the full side takes one."""
    for name, ms in check_mapping("cost", cost).items():
        check_number(f"cost of '{name}'", ms, above=0)
    steps = [parse_step(name) for name in check_mapping("cost", cost)]
    full = [step for step in steps if step.side_px == max(steps).side_px and step.kernel == "full"]
    if not full:
        raise InputError("cost has no step with full kernels at its largest side, it must price the full step")
    return min(step.batches for step in full)


def step_kind(name: str, unit: int) -> Step:
    """The kind of step that a table names, its batches counted in units of the full step's."""
    step = parse_step(name)
    if step.batches % unit:
        raise InputError(f"step kind is '{name}', its last number must be a multiple of the full step's, {unit}")
    return step._replace(batches=step.batches // unit)


def cost_table(prices: Mapping[Step, float], device: str) -> CostTable:
    """Milliseconds by kind of step as a study's cost table."""
    full_ms = prices[Step(max(prices).side_px, "full")]
    relative = {step: ms / full_ms for step, ms in prices.items()}
    return CostTable({"device": device}, full_ms, {step: StepCost(cost, cost, cost) for step, cost in relative.items()}, 0, None)


def check_mapping(what: str, raw: object) -> Mapping[str, Any]:
    """The same mapping; InputError where it is none or empty."""
    if not isinstance(raw, Mapping) or not raw:
        raise InputError(f"{what} is {shown(raw)}, it must be a mapping that is not empty")
    return raw


def completed_prices(ms: Mapping[Step, float], needed: Iterable[Step]) -> dict[Step, float]:
    """The given prices, and one for every other step that is needed. ms: of a step, the full one's among them.

    Linear in pixels between the sides that have a price with the same kernel; with nothing at 0 pixels, and the full step at the full side,
    which a reduced step turns into. Without any price for that kernel it is that of full kernels. Our own choice.
    """
    return dict(ms) | {step: _interpolated(ms, step) for step in sorted(needed) if step not in ms}


def _interpolated(ms: Mapping[Step, float], step: Step) -> float:
    full = Step(max(ms).side_px, "full")
    kernel = step.kernel if any(other.kernel == step.kernel for other in ms) else "full"
    # One batch last: its price is the one that counts where there are others.
    alike = sorted((other for other in ms if other.kernel == kernel and other.side_px < full.side_px), key=lambda other: -other.batches)
    known = {0: 0.0, full.side_px: ms[full]} | {other.side_px: ms[other] / other.batches for other in alike}
    sides = sorted(known)
    per_batch = np.interp(step.side_px**2, [side_px**2 for side_px in sides], [known[side_px] for side_px in sides])
    return float(step.batches * per_batch)
