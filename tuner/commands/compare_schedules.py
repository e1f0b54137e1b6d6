"""`tuner compare` on schedule files: which steps each reduces, and what they cost by kind, by pixels or as a study has timed them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainers.cost import parse_step, step_name
from trainers.errors import InputError
from trainers.schedule import Schedule, Step
from trainers.wording import one_line
from tuner.results.describe import describe_schedule, describe_share, printable

# Where no study says how long: shares of steps are right to a thousandth.
_EPOCHS: Final = 10
_STEPS_PER_EPOCH: Final = 100
# The side of CIFAR's images and of the digits.
_SIDE_PX: Final = 32
_STRIP_STEPS: Final = 60
_BARS: Final = "▁▂▃▄▅▆▇█"
# For terminals that have no bars: eighths of the full side.
_PLAIN_BARS: Final = "12345678"


@dataclass(frozen=True, slots=True)
class Prices:
    """What schedules are priced for: a training of so many epochs and steps. costs: over a full step; None: by pixels. source: in words."""

    full_px: int
    epochs: int
    steps_per_epoch: int
    costs: Mapping[Step, float] | None
    source: str

    def cost(self, step: Step, file: str) -> float:
        """Cost of a kind of step over a full step; InputError where it was never timed."""
        if self.costs is None:
            return float(step.batches * (step.side_px / self.full_px) ** 2)
        if step not in self.costs:
            way_out = "leave out --study to count pixels"
            raise InputError(one_line(f"schedule file '{file}' takes steps of {step_name(step)}, not {self.source}: {way_out}"))
        return self.costs[step]


def show_schedules(files: Sequence[str], storage: str | None, priced_by: str | None, as_json: bool) -> None:
    """The schedules as strips and a table of their costs, or as JSON."""
    schedules = [Schedule.load(file) for file in files]
    prices = _by_pixels() if priced_by is None else _of_study(priced_by, storage)
    found = [priced(file, schedule, prices) for file, schedule in zip(files, schedules, strict=True)]
    if as_json:
        print(json.dumps({"prices": prices.source, "full_px": prices.full_px, "schedules": found}, indent=2, allow_nan=False))
    else:
        _print(found, schedules, prices, Console())


def priced(file: str, schedule: Schedule, prices: Prices) -> dict[str, Any]:
    """What a schedule costs over full resolution with as many epochs, in all and by kind of step; JSON-ready.

    share: of the training's batches that these steps are; cost: theirs over that of the full training.
    """
    batches = prices.epochs * prices.steps_per_epoch
    counts = schedule.plan(batches, prices.full_px, prices.steps_per_epoch).counts()
    steps = [
        {
            "step": step_name(step),
            "count": count,
            "share": count * step.batches / batches,
            "relative": prices.cost(step, file),
            "cost": count * prices.cost(step, file) / batches,
        }
        for step, count in sorted(counts.items(), reverse=True)
    ]
    words = describe_schedule(schedule.to_dict())
    return {
        "file": file,
        "words": words,
        "schedule": schedule.to_dict(),
        "relative_cost": sum(step["cost"] for step in steps),
        "steps": steps,
    }


def strip(schedule: Schedule, full_px: int, bars: str = _BARS) -> tuple[str, str]:
    """The schedule's steps over a training of _STRIP_STEPS steps: the side of each in eighths, and a mark below those that pool kernels."""
    # Batch by batch: the strip is the progress of the training.
    plan = schedule.batch_by_batch(_STRIP_STEPS, full_px)
    sides = "".join(bars[max(0, round(8 * step.side_px / full_px) - 1)] for step in plan)
    return sides, "".join(" " if step.kernel == "full" else "." for step in plan).rstrip()


def _by_pixels() -> Prices:
    source = f"by pixels at a full side of {_SIDE_PX} px, pooled kernels not counted"
    return Prices(_SIDE_PX, _EPOCHS, _STEPS_PER_EPOCH, None, source)


def _of_study(reference: str, storage: str | None) -> Prices:
    from tuner.launching.timing import kept_timing
    from tuner.storage.lookup import open_study

    store = open_study(reference, storage)
    timing = kept_timing(store)
    if timing is None:
        raise InputError(one_line(f"study '{store.name}' has timed no steps yet: leave out --study to count pixels"))
    table, steps_per_epoch = timing
    costs = {step: cost.relative for step, cost in table.costs.items()}
    source = f"timed on {table.conditions['device']} by study '{store.name}'"
    return Prices(store.spec.dataset.full_px, store.spec.training.epochs, steps_per_epoch, costs, source)


def _print(found: Sequence[Mapping[str, Any]], schedules: Sequence[Schedule], prices: Prices, console: Console) -> None:
    bars = _BARS if console.encoding.startswith("utf") else _PLAIN_BARS
    for one, schedule in zip(found, schedules, strict=True):
        sides, pooled = strip(schedule, prices.full_px, bars)
        lines = [f"{one['file']}: {describe_share(one['relative_cost'])} of the cost of full resolution; {one['words']}", sides]
        for line in [*lines, pooled] if pooled else lines:
            console.print(Text(printable(line)), soft_wrap=True)
    console.print(_table(found))
    console.print(Text(printable(f"costs: {prices.source}; strips: side of each step's images, '.' below where kernels are pooled")))


def _table(found: Sequence[Mapping[str, Any]]) -> Table:
    """One row a kind of step, one column a schedule."""
    table = Table()
    table.add_column("step")
    for one in found:
        table.add_column(Text(printable(one["file"])), justify="right", overflow="fold")
    cells = [{step["step"]: step for step in one["steps"]} for one in found]
    for name in map(step_name, sorted({parse_step(name) for by_name in cells for name in by_name}, reverse=True)):
        table.add_row(name, *(_cell(by_name.get(name)) for by_name in cells))
    table.add_section()
    table.add_row("in all", *(describe_share(one["relative_cost"]) for one in found))
    return table


def _cell(step: Mapping[str, Any] | None) -> str:
    if step is None:
        return "-"
    return f"{describe_share(step['cost'])} ({step['count']} x {step['relative']:.3g})"
