"""One simulated search as a line of results, and the file of such lines."""

from __future__ import annotations

import ast
import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

import tuner
from benchmarks.record_files import PartialTable, read_lines
from benchmarks.search_methods import Method, Task
from benchmarks.search_score import GRID, Choice, chosen, regret
from tuner.launching.proposals import Ledger, Proposal, SearchProposer
from tuner.replay.answers import Replay
from tuner.replay.score import hypervolumes
from tuner.replay.simulation import Limits, Outcome, simulate
from tuner.replay.table import Table

Line = dict[str, Any]
# Of a search, in trainings of the baseline.
BUDGET: Final = 100
# What is asked of `tuner best`.
MAX_DROP: Final = 0.005
_TUNER: Final = Path(tuner.__path__[0])
# What decides how a search is answered and scored; the clock around it has tests of its own.
_SCORED_BY: Final = ("answers.py", "features.py", "noise.py", "surrogate.py", "score.py")
# Sums of seconds are not exact in binary.
_ROUNDING: Final = 1 + 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A simulation to be made. python: interpreter of a peer's environment."""

    method: str
    workers: int
    seed: int
    python: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """Proposes as a launch does until a moment of time.monotonic(), and nothing more after it."""

    proposer: SearchProposer
    at_s: float

    def propose(self, ledger: Ledger) -> Proposal | None:
        return self.proposer.propose(ledger) if time.monotonic() < self.at_s else None


def run_line(
    replay: Replay, method: Method, run: Run, *, front: list[Choice] | None = None, deadline_s: float | None = None, budget: float = BUDGET
) -> Line:
    """Simulates a search. front: the table's noise-free front, which its choice is compared with. deadline_s: of time.monotonic()."""
    table = replay.table
    proposer = None if deadline_s is None else Deadline(proposer=SearchProposer(table.spec), at_s=deadline_s)
    limits = Limits(budget_s=budget * table.baseline_s)
    begin_s = time.perf_counter()
    with method.search(Task(table, run.seed, run.python)) as (sampler, stopper):
        outcome = simulate(replay, sampler, limits, workers=run.workers, seed=run.seed, stopper=stopper, proposer=proposer)
    wall_s = time.perf_counter() - begin_s
    late = deadline_s is not None and time.monotonic() >= deadline_s
    return {
        **identity(table, method, run, budget),
        "hypervolume": [round(value, 6) for value in hypervolumes(outcome.trajectory, _grid_s(limits.budget_s)).tolist()],
        # How far it came: 1, unless a deadline was in the way.
        "budget_frac": round(max((point.spent_s for point in outcome.trajectory), default=0.0) / limits.budget_s, 4) if late else 1.0,
        "trials": len(outcome.trials),
        "pruned": sum(trial.pruned for trial in outcome.trials),
        "wall_s": round(wall_s, 1),
        "ask_s": [round(float(value), 4) for value in np.quantile(outcome.ask_s or [0.0], [0.5, 0.95])],
        **_regret(replay, outcome, front),
    }


def identity(table: Table, method: Method, run: Run, budget: float = BUDGET) -> Line:
    """What makes a line that run's: the table, the method with what was declared of it, and the code that its result depends on."""
    settings = {"budget": budget, **method.declared(), "code": _code(method.sources)}
    return {
        "method": method.name,
        "table": table.spec.name,
        "digest": table.digest,
        "workers": run.workers,
        "seed": run.seed,
        "settings": settings,
    }


class Results:
    """Lines of runs on disk; a last line that a power failure tore is as if it had never been written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[Line]:
        """The lines of runs."""
        return [line for line in read_lines(self.path) if "method" in line]

    def append(self, line: Mapping[str, Any]) -> None:
        """Adds a line; it is on the disk when this returns."""
        with PartialTable(self.path) as file:
            file.append(dict(line))

    def note_not_measured(self, method: str, reason: str) -> None:
        """Keeps why a method was not run; a run of it later says otherwise."""
        self.append({"not_measured": method, "reason": reason})

    def not_measured(self) -> dict[str, str]:
        """The last such reason of each method."""
        return {line["not_measured"]: line["reason"] for line in read_lines(self.path) if "not_measured" in line}

    def front(self, digest: str) -> list[Choice] | None:
        """The kept noise-free front of the table with this digest."""
        kept = next(
            (line for line in read_lines(self.path) if "front" in line and line["digest"] == digest and line["code"] == _code()), None
        )
        return None if kept is None else [Choice(*point) for point in kept["front"]]

    def keep_front(self, digest: str, front: Iterable[Choice]) -> None:
        """Keeps a front, because looking for it takes a while."""
        self.append({"front": [[round(point.time, 6), round(point.accuracy, 6)] for point in front], "digest": digest, "code": _code()})


def key(line: Line) -> str:
    """Equal for lines of the same run."""
    return repr(sorted((name, line[name]) for name in ("method", "digest", "workers", "seed")) + sorted(line["settings"].items()))


def _grid_s(budget_s: float) -> list[float]:
    return [share * budget_s * _ROUNDING for share in GRID]


def _regret(replay: Replay, outcome: Outcome, front: list[Choice] | None) -> Line:
    if front is None:
        return {"regret": None, "missed": None}
    table = replay.table
    complete = [trial for trial in outcome.trials if not trial.pruned]
    found = {trial.number: Choice(table.plan_cost(trial.params), trial.mean_accuracy) for trial in complete}
    taken = chosen(complete, table.spec.baseline_params(), MAX_DROP)
    limit = replay.answer(table.spec.baseline_params(), 0).mean_accuracy - MAX_DROP
    if taken is None:
        return {"regret": None, "missed": None}
    more, missed = regret(found[taken], [*front, *found.values()], limit)
    return {"regret": round(more, 6), "missed": round(missed, 6)}


@lru_cache
def _code(folders: tuple[str, ...] = ()) -> str:
    """A name for the code that answers and scores, and for that in these folders of `tuner`; comments and docstrings don't count."""
    files = [_TUNER / "replay" / name for name in _SCORED_BY]
    files += [path for folder in folders for path in sorted((_TUNER / folder).glob("*.py"))]
    return hashlib.sha256("".join(_bare(path) for path in files).encode()).hexdigest()[:12]


def _bare(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]  # type: ignore[attr-defined]
    return ast.dump(tree)
