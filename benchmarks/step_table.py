"""The results of benchmarks/steps.py for people and scripts: markdown tables and the last line. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

NAMES: Final = {"full": "full", "half": "half side", "pooled": "half side, pooled"}


def summary_line(result: Mapping[str, Any]) -> str:
    """What a script reads: each reduced kind over its floor and over a full step."""
    steps = result["steps"]
    figures = [f"{kind}_{key}={steps[kind][key]:.3f}" for key in ("over_floor", "over_full") for kind in ("half", "pooled")]
    return " ".join(figures)


def tables(paths: Iterable[Path]) -> str:
    """Markdown of every result file: conditions, kinds of step, time by class."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return "\n\n".join("\n\n".join((heading(one), step_table(one), class_table(one))) for one in results)


def heading(result: Mapping[str, Any]) -> str:
    """What the figures hold for, and what made them."""
    threads = f", {result['threads']} thread{'s' * (result['threads'] > 1)}" if result["threads"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"### {result['model']}, {result['full_px']} px, batch {result['batch_size']}, {result['precision']}\n\n"
        f"{result['device']}{threads}; {versions}; medians of n = {result['n']}; `{result['command']}`, commit {result['commit']}, "
        f"{result['date']}; load average {result['load_average'][0]:.1f} before, {result['load_average'][1]:.1f} after."
    )


def step_table(result: Mapping[str, Any]) -> str:
    """Milliseconds (quartiles), their ratio to a full step, the floor of that ratio, one over the other, and peak memory."""
    rows = []
    for kind, step in result["steps"].items():
        low, high = step["quartiles_ms"]
        memory = step["memory_mib"]
        rows.append(
            (
                NAMES[kind],
                f"{step['ms']:.1f} ({low:.1f}-{high:.1f})",
                f"{step['over_full']:.3f}",
                f"{step['floor_over_full']:.3f}",
                f"{step['over_floor']:.2f}",
                *(f"{step['work_per_image']['real'][what] / step['work_per_image']['ideal'][what]:.3f}" for what in ("macs", "elements")),
                f"{memory['peak']:.0f} (from {memory['before']:.0f})" if memory else "not measured",
            )
        )
    titles = ("step", "ms (quartiles)", "over full", "floor over full", "over floor", "MACs over ideal", "elements over ideal", "peak MiB")
    return _markdown(titles, rows)


def class_table(result: Mapping[str, Any]) -> str:
    """Milliseconds by class of operation, measured and floor: where they differ is the waste."""
    steps = result["steps"]
    rows = [(name, f"{steps['full']['ms_by_class'][name]:.2f}", *_measured_and_floor(steps, name)) for name in steps["full"]["ms_by_class"]]
    titles = ("class", "full, ms", *(f"{NAMES[kind]}, {what}" for kind in ("half", "pooled") for what in ("ms", "floor")))
    return _markdown(titles, rows)


def _measured_and_floor(steps: Mapping[str, Any], name: str) -> Iterable[str]:
    for kind in ("half", "pooled"):
        yield f"{steps[kind]['ms_by_class'][name]:.2f}"
        yield f"{steps[kind]['floor_ms_by_class'].get(name, 0.0):.2f}"


def _markdown(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (titles, *rows)]
    rule = "|" + "---|" * (lines[0].count("|") - 1)
    return "\n".join([lines[0], rule, *lines[1:]])
