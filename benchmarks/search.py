"""Searches replayed on a recorded table: hypervolume against accelerator time, of our sampler and stopper and of everybody else's.

    python -m benchmarks.search --table benchmarks/tables/digits.jsonl.gz          # simulates what is missing, two processes
    python -m benchmarks.search --table ... --methods tpe ours --seeds 5 --workers 1
    python -m benchmarks.search --report                                           # tables and pictures of all that has been simulated
    python -m benchmarks.search --quick [--table FILE]                             # within four minutes: ours against the rivals

A run is a search of 100 baseline trainings' accelerator time by so many simulated workers, and one line of results/search/<table>.jsonl:
the hypervolume of its noise-free points after each hundredth of that budget, its trials, seconds, and the regret of `tuner best`. Give the
same command again to go on after an interruption. What decides a result (table, method, its code) is part of its line: a run is made again
where that has changed. docs/search.md explains the figures.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import Final

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import search_quick, search_report
from benchmarks.environment import ensure_environment
from benchmarks.search_front import noise_free_front
from benchmarks.search_methods import Method, methods
from benchmarks.search_peers import NotInstalled, environment
from benchmarks.search_runs import BUDGET, Line, Results, Run, identity, key, run_line
from benchmarks.search_score import Choice
from trainers.checks import check_name
from trainers.environment import training_environment
from trainers.errors import DownsampleTunerError, InputError
from tuner.replay.answers import Replay
from tuner.replay.cache import cached_surrogate
from tuner.replay.table import read_table
from tuner.results.describe import describe_duration

TABLES: Final = Path(__file__).parent / "tables"
_BEGUN_S: Final = time.monotonic()
RESULTS: Final = Path(__file__).parent / "results" / "search"


def main() -> None:
    """Simulates, reports, or compares in short, on one thread a process."""
    arguments = _arguments()
    ensure_environment("benchmarks.search", training_environment(1))
    try:
        if arguments.report:
            search_report.report(RESULTS, TABLES)
        elif arguments.quick:
            replay = opened(arguments.table or first_table(TABLES))
            search_quick.quick(replay, RESULTS, limit_s=search_quick.LIMIT_S - (time.monotonic() - _BEGUN_S))
        else:
            compare(opened(arguments.table or first_table(TABLES)), arguments, RESULTS)
    except KeyboardInterrupt:
        sys.exit(130)
    except DownsampleTunerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


def first_table(folder: Path) -> Path:
    """The first committed table by name; InputError where there is none."""
    if not (tables := sorted(folder.glob("*.jsonl.gz"))):
        raise InputError(f"there is no table in {folder}, one must be given with --table")
    return tables[0]


def opened(path: str | Path) -> Replay:
    """A table with its surrogate, which is fitted where it is not in the user's cache."""
    table = read_table(path)
    return Replay(table, cached_surrogate(table))


def compare(replay: Replay, arguments: argparse.Namespace, folder: Path, budget: float = BUDGET) -> None:
    """Makes the runs that are asked for and have no line yet."""
    results = Results(folder / f"{replay.table.spec.name}.jsonl")
    with ExitStack() as environments:
        chosen = _installed(_chosen(arguments.methods), environments, results)
        runs = missing_runs(replay, chosen, results.lines(), seeds=arguments.seeds, workers=arguments.workers, budget=budget)
        print(f"{len(runs)} runs are missing in {results.path}", flush=True)
        if runs:
            simulate_all(replay, runs, results, jobs=arguments.jobs, budget=budget)


def missing_runs(
    replay: Replay, chosen: Mapping[str, str | None], lines: Sequence[Line], *, seeds: int, workers: Sequence[int], budget: float = BUDGET
) -> list[Run]:
    """The runs without a line, seed by seed, so that an interruption leaves all methods about as far. chosen: interpreters by method."""
    done, known = {key(line) for line in lines}, methods()
    runs = [
        Run(method=name, workers=count, seed=seed, python=python)
        for seed in range(seeds)
        for count in workers
        for name, python in chosen.items()
        if seed < (known[name].seeds or math.inf)
    ]
    return [run for run in runs if key(identity(replay.table, known[run.method], run, budget)) not in done]


def simulate_all(replay: Replay, runs: Sequence[Run], results: Results, *, jobs: int, budget: float = BUDGET) -> None:
    """Makes runs in so many processes, and keeps each as a line as soon as it has ended."""
    front = _front(replay, results)
    begin_s = time.monotonic()
    # Forked: the table and its surrogate are there at once.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
        futures = {pool.submit(_simulated, replay, run, front, budget): run for run in runs}
        try:
            for number, (run, line) in enumerate(_ended(futures), start=1):
                results.append(line)
                left_s = (time.monotonic() - begin_s) / number * (len(runs) - number)
                print(f"[{number}/{len(runs)}] {_words(run, line)}; {describe_duration(left_s)} left", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _simulated(replay: Replay, run: Run, front: list[Choice], budget: float) -> Line:
    return run_line(replay, methods()[run.method], run, front=front, budget=budget)


def _ended(futures: Mapping[Future[Line], Run]) -> Iterator[tuple[Run, Line]]:
    for future in as_completed(futures):
        yield futures[future], future.result()


def _front(replay: Replay, results: Results) -> list[Choice]:
    front = results.front(replay.table.digest)
    if front is None:
        print("looking for the table's noise-free front", flush=True)
        front = noise_free_front(replay)
        results.keep_front(replay.table.digest, front)
    return front


def _chosen(names: Sequence[str] | None) -> list[Method]:
    known = methods()
    for name in names or ():
        check_name("method", name, tuple(known))
    return [known[name] for name in names or known]


def _installed(chosen: Sequence[Method], environments: ExitStack, results: Results) -> dict[str, str | None]:
    """Interpreters by method, None for ours; a method whose package doesn't install is left out with a sentence."""
    pythons: dict[str | None, str | None] = {None: None}
    usable: dict[str, str | None] = {}
    for method in chosen:
        try:
            if method.peer not in pythons:
                print(f"installing {method.peer}", flush=True)
                pythons[method.peer] = environments.enter_context(environment(str(method.peer)))
        except NotInstalled as error:
            reason = f"{method.peer} does not install: {error}"
            print(f"{method.name} is not measured, {reason}", flush=True)
            results.note_not_measured(method.name, reason)
            continue
        usable[method.name] = pythons[method.peer]
    return usable


def _words(run: Run, line: Line) -> str:
    trials = f"{line['trials']} trials" + (f", {line['pruned']} of them stopped," if line["pruned"] else "")
    workers = "1 worker" if run.workers == 1 else f"{run.workers} workers"
    return f"{run.method}, {workers}, seed {run.seed}: hypervolume {line['hypervolume'][-1]:.4f}, {trials} in {line['wall_s']:.0f} s"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", help="a recorded table; the first one in benchmarks/tables")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help=f"all of {', '.join(methods())}")
    parser.add_argument("--seeds", type=_positive, default=30)
    parser.add_argument("--workers", type=_positive, nargs="+", default=[1, 8])
    parser.add_argument("--jobs", type=_positive, default=2, help="processes")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--quick", action="store_true")
    instead.add_argument("--report", action="store_true")
    return parser.parse_args()


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"it is {text!r}, it must be a whole number above 0")
    return int(text)


if __name__ == "__main__":
    main()
