"""Which lines of results may be compared with each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_methods import methods
from benchmarks.search_runs import BUDGET, Line, Run, identity, key
from tuner.replay.table import Table


def current(lines: Sequence[Line], table: Table, budget: float = BUDGET) -> list[Line]:
    """The lines of this very table that today's code would give, each run once; those of methods that are no more are left out."""
    known = methods()
    found: dict[str, Line] = {}
    for line in lines:
        if line["method"] in known:
            run = Run(method=line["method"], workers=line["workers"], seed=line["seed"])
            if key(line) == key(identity(table, known[line["method"]], run, budget)):
                found.setdefault(key(line), line)
    return list(found.values())


def curves(lines: Sequence[Line]) -> NDArray[np.float64]:
    """Hypervolumes of lines [seeds, budgets]."""
    return np.array([line["hypervolume"] for line in lines], dtype=np.float64)
