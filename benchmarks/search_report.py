"""`benchmarks.search --report`: what has been simulated, as markdown and as pictures for docs/search.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.search_methods import Method, methods
from benchmarks.search_runs import MAX_DROP, Line, Results
from benchmarks.search_score import GRID, band, budget_ratio, ratio_interval
from benchmarks.search_select import current, curves
from trainers.errors import InputError
from tuner.replay.table import read_table

_COLOURS: Final = {"ours": "#D55E00", "ablation": "#CC79A7", "rival": "#0072B2"}
# Of rivals, told apart by colour; ablations by dashes too.
_RIVALS: Final = ("#0072B2", "#56B4E9", "#009E73", "#000000", "#999999", "#7F3C8D", "#80BA5A", "#A5AA99", "#1B6CA8", "#4B4B4B", "#66A61E")
_DASHES: Final = ("--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
_HEAD: Final = (
    "| method | seeds | hypervolume (95 % interval) | share of the budget in which ours reaches it | trials | stopped "
    "| proposal, median / 95 % | regret of the choice | misses by |",
    "|---|---|---|---|---|---|---|---|---|",
)


def report(results: Path, tables: Path, pictures: Path | None = None) -> None:
    """Prints a section for each committed table and number of workers, and draws a picture of each table beside the results."""
    said = False
    for path in sorted(tables.glob("*.jsonl.gz")):
        table = read_table(path)
        kept = Results(results / f"{table.spec.name}.jsonl")
        lines = current(kept.lines(), table)
        if not lines:
            continue
        said = True
        print(f"## {table.spec.name}\n")
        for workers in _workers(lines):
            print("\n".join(section([line for line in lines if line["workers"] == workers], workers)) + "\n")
        picture = (pictures or results) / f"{table.spec.name}.png"
        drawing(table.spec.name, lines).savefig(picture, dpi=110)
        print(f"![mean hypervolume over the share of the budget]({picture.name})\n")
        print(_footnote(lines, kept.not_measured()) + "\n")
    if not said:
        raise InputError(f"no table in {tables} has results in {results} that today's code would give, they must be simulated first")


def section(lines: Sequence[Line], workers: int) -> list[str]:
    """Markdown of one table and number of workers, the best method first."""
    groups = _grouped(lines)
    finals = {name: band(curves(group)) for name, group in groups.items()}
    order = sorted(groups, key=lambda name: -finals[name].mean[-1])
    said = [f"### {workers} worker{'s' if workers > 1 else ''}", "", *_HEAD, *(_row(name, groups, finals) for name in order), ""]
    rivals = [name for name in order if methods()[name].kind == "rival"]
    if "ours" in groups and rivals:
        said.append(_verdict(groups, rivals[0], finals))
    return said


def _row(name: str, groups: Mapping[str, list[Line]], finals: Mapping[str, Any]) -> str:
    group, final = groups[name], finals[name]
    reached = budget_ratio(finals["ours"].mean, final.mean[-1]) if "ours" in groups else math.nan
    asks = [f"{1000 * float(np.mean([line['ask_s'][place] for line in group])):.0f}" for place in (0, 1)]
    cells = [
        f"**{name}**" if methods()[name].kind == "ours" else name,
        str(len(group)),
        f"{final.mean[-1]:.4f} ({final.low[-1]:.4f} to {final.high[-1]:.4f})",
        "" if math.isnan(reached) else _ratio(reached),
        f"{np.mean([line['trials'] for line in group]):.0f}",
        f"{np.mean([line['pruned'] for line in group]):.0f}",
        f"{asks[0]} / {asks[1]} ms",
        _mean(group, "regret"),
        _mean(group, "missed"),
    ]
    return f"| {' | '.join(cells)} |"


def _verdict(groups: Mapping[str, list[Line]], best: str, finals: Mapping[str, Any]) -> str:
    ratio = budget_ratio(finals["ours"].mean, finals[best].mean[-1])
    low, high = ratio_interval(curves(groups["ours"]), curves(groups[best]))
    interval = f"95 % interval {_ratio(low)} to {_ratio(high)}"
    parts = [name for name in groups if methods()[name].kind == "ablation"]
    without = "".join(f" {name}: {_ratio(budget_ratio(finals[name].mean, finals[best].mean[-1]))}." for name in parts)
    return f"`budget_ratio` {_ratio(ratio)} ({interval}) against the best rival, {best}.{without}"


def _mean(group: Sequence[Line], name: str) -> str:
    values = [line[name] for line in group if line[name] is not None]
    return f"{100 * np.mean(values):.2f} %" if values else ""


def _ratio(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.2f}"


def _footnote(lines: Sequence[Line], reasons: Mapping[str, str]) -> str:
    """What the regret is of, and the methods that were not measured."""
    measured = {line["method"] for line in lines}
    absent = [name for name in methods() if name not in measured]
    text = f"Regret is that of `tuner best --max-drop {MAX_DROP}`, as a share of the baseline's time."
    return " ".join([text, *(f"{name}: not measured{f', {reasons[name]}' if name in reasons else ''}." for name in absent)])


def drawing(table: str, lines: Sequence[Line]) -> Figure:
    """Mean hypervolume with its 95 % band over the share of the budget, one panel for each number of workers."""
    workers = _workers(lines)
    figure = Figure(figsize=(6.4 * len(workers) + 0.6, 6.4), layout="constrained")
    panels = figure.subplots(1, len(workers), sharey=True, squeeze=False)[0]
    styles = _styles({line["method"] for line in lines})
    for axes, count in zip(panels, workers, strict=True):
        _draw(axes, _grouped([line for line in lines if line["workers"] == count]), styles)
        axes.set_title(f"{table}, {count} worker{'s' if count > 1 else ''}", loc="left")
    panels[0].set_ylabel("hypervolume of noise-free points, mean over seeds")
    # A method may be in some panels only.
    handles = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend([handles[name] for name in styles], list(styles), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _draw(axes: Axes, groups: Mapping[str, list[Line]], styles: Mapping[str, Mapping[str, Any]]) -> None:
    lowest = []
    for name, style in styles.items():
        if name not in groups:
            continue
        found = band(curves(groups[name]))
        share = 100 * np.array(GRID)
        axes.plot(share, found.mean, label=name, zorder=3 if name == "ours" else 2, **style)
        axes.fill_between(share, found.low, found.high, color=style["color"], alpha=0.12, linewidth=0)
        lowest.append(float(found.mean[len(GRID) // 20]))
    rivals = [curves(group).mean(axis=0)[-1] for name, group in groups.items() if methods()[name].kind == "rival"]
    if rivals:
        # What ours has to reach.
        axes.axhline(max(rivals), color="0.4", linewidth=0.8, linestyle=(0, (2, 4)))
    highest = max(float(line["hypervolume"][-1]) for group in groups.values() for line in group)
    # The first trainings, start points all of them, say nothing about a method and would flatten the rest.
    axes.set_ylim(min(lowest), highest + 0.03 * (highest - min(lowest)))
    axes.set_xlim(0, 100)
    axes.set_xlabel("accelerator time, % of 100 baseline trainings")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def _styles(names: set[str]) -> dict[str, dict[str, Any]]:
    """Ours thick, its ablations dashed, in the order of `methods`."""
    ordered = [method for method in methods().values() if method.name in names]
    kinds = {kind: [method.name for method in ordered if method.kind == kind] for kind in ("ours", "ablation", "rival")}
    return {method.name: _style(method, kinds[method.kind].index(method.name)) for method in ordered}


def _style(method: Method, place: int) -> dict[str, Any]:
    if method.kind == "rival":
        return {"color": _RIVALS[place % len(_RIVALS)], "linewidth": 1.3}
    if method.kind == "ablation":
        return {"color": _COLOURS["ablation"], "linewidth": 1.5, "linestyle": _DASHES[place % len(_DASHES)]}
    return {"color": _COLOURS["ours"], "linewidth": 2.6}


def _grouped(lines: Sequence[Line]) -> dict[str, list[Line]]:
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line["method"], []).append(line)
    return groups


def _workers(lines: Sequence[Line]) -> list[int]:
    return sorted({line["workers"] for line in lines})
