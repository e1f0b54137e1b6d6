"""`benchmarks.search --quick`: ours against the rivals in less than four minutes, on any table."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.search_methods import methods
from benchmarks.search_runs import BUDGET, Line, Results, Run, run_line
from benchmarks.search_score import GRID, budget_ratio
from benchmarks.search_select import current, curves
from tuner.replay.answers import Replay

QUICK_RIVALS: Final = ("random", "tpe", "nsga2")
SEEDS: Final = 3
# From the start of the process; what is under way then takes a few seconds more, on a busy machine half a minute.
LIMIT_S: Final = 205.0


def quick(replay: Replay, folder: Path, *, limit_s: float = LIMIT_S, budget: float = BUDGET, seeds: int = SEEDS) -> str:
    """Prints the comparison; its last line is `table=<name> budget_ratio=<x.xxx|inf> best_rival=<name>`, which is also returned.

    The rivals are the committed lines of this very table, of one worker; where there are none the quick ones are run beside ours. Where
    `limit_s` cuts searches short, what all of them reached is the budget of the comparison; a sentence before the last line says so.
    """
    deadline_s = time.monotonic() + limit_s
    lines = current(Results(folder / f"{replay.table.spec.name}.jsonl").lines(), replay.table, budget)
    kept = [line for line in lines if methods()[line["method"]].kind == "rival" and line["workers"] == 1]
    rivals = sorted(name for name, count in Counter(line["method"] for line in kept).items() if count >= seeds)
    kept = [line for line in kept if line["method"] in rivals]
    print(f"rivals: {'the committed ' if rivals else ''}{', '.join(rivals or QUICK_RIVALS)}; ours on {seeds} seeds", flush=True)
    made = _simulated(replay, ["ours", *([] if rivals else QUICK_RIVALS)], seeds, budget, deadline_s)
    last = _last_line(replay.table.spec.name, [*kept, *made], budget)
    print(last, flush=True)
    return last


def _simulated(replay: Replay, names: Sequence[str], seeds: int, budget: float, deadline_s: float) -> list[Line]:
    """All at once, whatever the number of cores, so that those of a kind come about as far and the short ones make room for the others."""
    runs = [Run(method=name, workers=1, seed=seed) for name in names for seed in range(seeds)]
    with ProcessPoolExecutor(len(runs), multiprocessing.get_context("fork")) as pool:
        futures = [pool.submit(_line, replay, run, budget, deadline_s) for run in runs]
        return [future.result() for future in futures]


def _line(replay: Replay, run: Run, budget: float, deadline_s: float) -> Line:
    return run_line(replay, methods()[run.method], run, deadline_s=deadline_s, budget=budget)


def _last_line(table: str, lines: Sequence[Line], budget: float) -> str:
    by_method = {name: [line for line in lines if line["method"] == name] for name in {line["method"] for line in lines}}
    rivals = {name: found for name, found in by_method.items() if name != "ours"}
    share = min(line["budget_frac"] for line in lines)
    # What is known of every search at one time.
    last = max(1, math.floor(share * len(GRID) + 1e-9))
    if share < 1:
        print(f"searches were cut short after {share:.0%} of {budget:g} baseline trainings, which is the budget of this comparison")
    finals = {name: float(curves(found)[:, last - 1].mean()) for name, found in rivals.items()}
    best = max(sorted(finals), key=lambda name: finals[name])
    ours = curves(by_method["ours"]).mean(axis=0)
    for name in sorted(finals, key=lambda name: -finals[name]):
        print(f"{name}: hypervolume {finals[name]:.4f}, mean of {len(rivals[name])} seeds")
    print(f"ours: hypervolume {ours[last - 1]:.4f}, mean of {len(by_method['ours'])} seeds")
    ratio = budget_ratio(np.asarray(ours)[:last], finals[best]) / GRID[last - 1]
    return f"table={table} budget_ratio={'inf' if math.isinf(ratio) else f'{ratio:.3f}'} best_rival={best}"
