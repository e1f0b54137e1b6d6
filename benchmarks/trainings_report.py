"""What a suite of trainings shows: time and accuracy with intervals, each against the full training and against training for less long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from benchmarks.pages import DOCS, picture_name, publish_section
from benchmarks.trainings import Suite, paired, recorded_lines
from trainers.cost import CostTable, parse_step
from trainers.schedule import Schedule

_BOOTSTRAPS: Final = 10_000
_LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one name. Shares of the full training's time, and of test images.

    time: by the calibrated prices, over seeds; its interval is that of the prices. seeds: with a whole training.
    against_full: accuracy above the full training's with the same seed. against_shorter: above full resolution trained for as much time,
    interpolated between the lengths that were trained; None outside of them, and for full resolution itself.
    """

    name: str
    time: Estimate
    accuracy: Estimate
    against_full: Estimate
    against_shorter: Estimate | None
    seeds: int
    train_s: float


def rows_of(suite: Suite, costs: CostTable) -> list[Row]:
    """A row a name that has been trained, in the suite's order; RunError without the full training."""
    found = dict(paired(recorded_lines(suite), suite.full))
    baseline_steps = sum(next(iter(found[suite.full].values()))["counts"].values())
    times = {name: _time(lines.values(), costs, baseline_steps) for name, lines in found.items()}
    accuracies = {name: {seed: line["test_accuracy"] for seed, line in lines.items()} for name, lines in found.items()}
    lengths = [name for name in found if suite.recipes[name].schedule == Schedule()]
    rows = []
    for name in (name for name in suite.recipes if name in found):
        own = accuracies[name]
        rivals = None if name in lengths else _as_long(times[name].mean, {rival: times[rival].mean for rival in lengths}, accuracies)
        rows.append(
            Row(
                name=name,
                time=times[name],
                accuracy=bootstrapped(list(own.values())),
                against_full=_difference(own, accuracies[suite.full]),
                against_shorter=None if not rivals else _difference(own, rivals),
                seeds=len(own),
                train_s=float(np.mean([line["train_s"] for line in found[name].values()])),
            )
        )
    return rows


def bootstrapped(values: Sequence[float]) -> Estimate:
    """Mean with its percentile bootstrap interval; the same values give the same interval."""
    array = np.array(values, dtype=np.float64)
    means = np.random.default_rng(0).choice(array, (_BOOTSTRAPS, len(array))).mean(axis=1)
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Estimate(float(array.mean()), float(low), float(high))


def markdown(suite: Suite, costs: CostTable, rows: Sequence[Row], words: Sequence[str], picture: str) -> str:
    """A section: what was trained, a table, and what it says. words: paragraphs below the table. picture: its file in images/."""
    spec, conditions = suite.spec, costs.conditions
    images = spec.dataset.train_images or "all"
    head = (
        f"{spec.model} on {images} training images of {spec.dataset.name}, trained by {conditions['device']}; a full step takes "
        f"{costs.full_ms:.1f} ms. Time: the calibrated price of the training's steps, in percent of the full training's. Accuracy: of the "
        "test split, opened for this only, in percent; differences in points, paired by seed. Intervals are 95 %: of prices that of their "
        f"calibration, else a bootstrap over seeds. Seconds are those of training, beside whatever else the machine did."
    )
    table = [
        "| training | time, % | accuracy, % | against full | against as long at full resolution | seeds | seconds |",
        "|---|---|---|---|---|---|---|",
        *(_table_row(row) for row in rows),
    ]
    shown = f"![test accuracy over training time](images/{picture})"
    return "\n".join([f"## {suite.name}", "", head, "", *table, "", *(line for word in words for line in (word, "")), shown, ""])


def drawing(suite: Suite, rows: Sequence[Row]) -> Figure:
    """Accuracy over time, full resolution as a line."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    lengths = sorted((row for row in rows if suite.recipes[row.name].schedule == Schedule()), key=lambda row: row.time.mean)
    axes.errorbar(**_points(lengths), color="black", marker="D", markersize=5, linewidth=1.5, capsize=3, label="full resolution")
    others = [row for row in rows if row not in lengths]
    for number, row in enumerate(others):
        axes.errorbar(**_points([row]), color=f"C{number % 10}", marker="os^vP*"[number % 6], markersize=8, capsize=3, label=row.name)
    axes.set_xlabel("training time, % of the full training's")
    axes.set_ylabel("test accuracy, %")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def publish(page: str, suite: Suite, costs: CostTable, words: Sequence[str]) -> str:
    """Writes the suite's section of docs/<page>.md with its picture; returns the section. RunError without the full training."""
    rows = rows_of(suite, costs)
    text = markdown(suite, costs, rows, words, picture_name(page, suite.name))
    publish_section(DOCS, page, suite.name, text, drawing(suite, rows))
    return text


def points(value: Estimate) -> str:
    """A difference in points with its interval."""
    return f"{100 * value.mean:+.2f} [{100 * value.low:+.2f}, {100 * value.high:+.2f}]"


def _table_row(row: Row) -> str:
    shorter = "" if row.against_shorter is None else points(row.against_shorter)
    cells = [_percent(row.time, 1), _percent(row.accuracy, 2), points(row.against_full), shorter, str(row.seeds), f"{row.train_s:.0f}"]
    return f"| {row.name} | {' | '.join(cells)} |"


def _percent(value: Estimate, digits: int) -> str:
    mean, low, high = (f"{100 * share:.{digits}f}" for share in (value.mean, value.low, value.high))
    return f"{mean} [{low}, {high}]"


def _time(lines: Any, costs: CostTable, baseline_steps: int) -> Estimate:
    plans = [{parse_step(name): count for name, count in line["counts"].items()} for line in lines]

    def relative(end: str) -> float:
        prices = [sum(count * getattr(costs.costs[step], end) for step, count in plan.items()) for plan in plans]
        return float(np.mean(prices)) / baseline_steps

    return Estimate(relative("relative"), relative("low"), relative("high"))


def _difference(own: Mapping[int, float], other: Mapping[int, float]) -> Estimate:
    """Of the seeds that both have."""
    return bootstrapped([accuracy - other[seed] for seed, accuracy in own.items() if seed in other])


def _as_long(time: float, times: Mapping[str, float], accuracies: Mapping[str, Mapping[int, float]]) -> dict[int, float] | None:
    """Accuracy of full resolution trained for this time, by seed; None where no shorter or no longer training was made."""
    names = sorted(times, key=lambda name: times[name])
    if not times[names[0]] <= time <= times[names[-1]]:
        return None
    seeds = set.intersection(*(set(accuracies[name]) for name in names))
    known = [times[name] for name in names]
    return {seed: float(np.interp(time, known, [accuracies[name][seed] for name in names])) for seed in seeds}


def _points(rows: Sequence[Row]) -> dict[str, Any]:
    """Percent of time and accuracy with the accuracy's interval, as `errorbar` takes them."""
    ends = [[100 * (row.accuracy.mean - row.accuracy.low), 100 * (row.accuracy.high - row.accuracy.mean)] for row in rows]
    return {
        "x": [100 * row.time.mean for row in rows],
        "y": [100 * row.accuracy.mean for row in rows],
        "yerr": np.array(ends).T.clip(0),
    }
