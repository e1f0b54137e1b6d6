"""What benchmarks.learned found, as a section of docs/schedules.md and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_MOST_FIELDS: Final = 8
_COLUMNS: Final = 2


def markdown(found: Mapping[str, Any], drops: Sequence[float], looks: Sequence[float], error: str) -> str:
    """The section of one table."""
    head = [f"at most {100 * drop:g} points less" if drop else "no accuracy less" for drop in drops]
    lines = [
        f"## {found['table']}",
        "",
        f"The baseline's mean accuracy is {100 * found['baseline_accuracy']:.2f} %. Surrogate: {error}.",
        "",
        "Least relative time of all schedules that hold a choice, in percent of the baseline's, by the accuracy that may be lost:",
        "",
        f"| schedules | {' | '.join(head)} |",
        f"|---|{'---|' * len(head)}",
        *(f"| {name} | {' | '.join(map(_percent, times))} |" for name, times in found["times"].items()),
        "",
        *_tuned_lines(found),
        "",
        *_importance_lines(found["importance"]),
        "",
        *_early_lines(found["early"], looks),
        *_short_lines(found["short"]),
        f"![fronts by choice, and which fields matter](images/schedules-{found['table']}.png)",
        "",
    ]
    return "\n".join(lines)


def drawing(found: Mapping[str, Any]) -> Figure:
    """A panel a field with the front of each value and that of full resolution, and bars of what decides time and accuracy."""
    fields, shares = found["fronts"], found["importance"]
    rows = -(-len(fields) // _COLUMNS)
    figure = Figure(figsize=(13, 3.6 * rows + 4.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[3.6 * rows, 4.2], squeeze=False)[:, 0]
    panels = above.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (field, fronts) in zip(panels, fields.items(), strict=False):
        _draw_fronts(axes, field, fronts, found["full_resolution"])
    for axes in panels[len(fields) :]:
        axes.remove()
    for axes, (name, of) in zip(below.subplots(1, len(shares)), shares.items(), strict=True):
        _draw_shares(axes, name, of)
    return figure


def _draw_fronts(axes: Axes, field: str, fronts: Mapping[str, Sequence[Sequence[float]]], full: Sequence[Sequence[float]]) -> None:
    for colour, (value, front) in zip(_COLOURS, fronts.items(), strict=False):
        axes.step(*_line(front), where="post", color=colour, linewidth=2, label=value)
    axes.step(*_line(full), where="post", color="black", linewidth=1.5, linestyle="--", label="full resolution")
    axes.set_title(field, loc="left")
    axes.set_xlabel("relative time, % of the baseline's")
    axes.set_ylabel("mean accuracy, %")
    axes.set_xlim(0, 110)
    # The fastest trainings learn next to nothing, and would flatten what one chooses from.
    axes.set_ylim(float(np.quantile(_line(full)[1], 0.25)), _highest([full, *fronts.values()]))
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    # Nothing is both fast and accurate.
    axes.legend(frameon=False, loc="upper left", fontsize=9)


def _highest(fronts: Sequence[Sequence[Sequence[float]]]) -> float:
    """A little above the best accuracy of what is to be seen, in percent."""
    return max(accuracy for front in fronts for accuracy in _line(front)[1]) + 0.2


def _draw_shares(axes: Axes, name: str, shares: Mapping[str, Sequence[float]]) -> None:
    shown = list(shares.items())[:_MOST_FIELDS][::-1]
    labels = [field for field, _ in shown]
    axes.barh(labels, [100 * in_all for _, (_, in_all) in shown], color="0.75", label="with other fields")
    axes.barh(labels, [100 * alone for _, (alone, _) in shown], color=_COLOURS[0], label="alone")
    axes.set_title(f"what decides {name}".replace(", ", ",\n"), loc="left", fontsize=10)
    axes.set_xlabel("share of the variance, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=9)


def _tuned_lines(found: Mapping[str, Any]) -> list[str]:
    """What reduced steps save beside full resolution whose learning rate and weight decay are searched for, too."""
    best = max(accuracy for time, accuracy in found["full_resolution"] if time <= 1)
    points = [point for fronts in found["fronts"].values() for front in fronts.values() for point in front]
    reached = [time for time, accuracy in points if accuracy >= best]
    reference = f"Full resolution, searched for as well, reaches {100 * best:.2f} % within the baseline's time."
    return [f"{reference} Of all schedules the fastest that is as accurate takes {_percent(min(reached, default=None))}."]


def _early_lines(ranks: Sequence[float], looks: Sequence[float]) -> list[str]:
    if not ranks:
        return []
    said = ", ".join(f"{rank:.2f} after {100 * look:.0f} %" for look, rank in zip(looks, ranks, strict=True))
    return [f"Rank correlation of the accuracy in the middle of a recorded training with that at its end, at the same length: {said}.", ""]


def _short_lines(ranks: Sequence[tuple[int, float]]) -> list[str]:
    if not ranks:
        return []
    said = ", ".join(f"{rank:.2f} of {epochs} epochs" for epochs, rank in ranks)
    long = "one as long as the baseline's"
    return [f"Rank correlation of the accuracy after a whole but shorter training with that after {long}, by the surrogate: {said}.", ""]


def _importance_lines(importance: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Shares by field, the order that of the first column."""
    fields = list(dict.fromkeys(field for shares in importance.values() for field in shares))
    cells = {
        field: [f"{100 * shares[field][0]:.0f} / {100 * shares[field][1]:.0f}" if field in shares else "" for shares in importance.values()]
        for field in fields
    }
    return [
        "Share of the variance over the space that a field explains alone / together with others, in percent:",
        "",
        f"| field | {' | '.join(importance)} |",
        f"|---|{'---|' * len(importance)}",
        *(f"| {field} | {' | '.join(row)} |" for field, row in cells.items()),
    ]


def _line(front: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Percent of relative time and of accuracy, the fastest first, and on to the panel's right edge."""
    points = sorted((100 * time, 100 * accuracy) for time, accuracy in front)
    if not points:
        return [], []
    return [time for time, _ in points] + [200.0], [accuracy for _, accuracy in points] + [points[-1][1]]


def _percent(time: float | None) -> str:
    return "never" if time is None else f"{100 * time:.0f} %"
