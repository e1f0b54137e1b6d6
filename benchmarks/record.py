"""Records real trainings into tables, from which a search can be replayed without training anything.

    python -m benchmarks.record digits                 # trains what is missing; the same command again goes on, also beside itself
    python -m benchmarks.record cifar10 --for 2h       # begins no training after two hours
    python -m benchmarks.record digits --calibrate     # prices the kinds of step, on a machine that does nothing else
    python -m benchmarks.record digits --pack          # writes tables/digits.jsonl.gz

Tables: digits, cifar10 (5,000 images, ResNet-8), digits-vgg (a plain network with AdamW), cifar10-resnet18 (all images, for a GPU). Every
training is one line of tables/partial/<table>.jsonl, written when it has ended, and its seed is its place in the table's list: a space-
filling sequence over the study's space, a fifth at full resolution (record_plan.py). Accuracy is that of the class-balanced validation
split, epoch by epoch. Counts of steps and their price stay apart (tables/<table>.cost.json), so that a table can be priced anew; train_s
is what a training took beside whatever else the machine did, which is no price.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any, Final

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.environment import ensure_environment
from benchmarks.prices import measure_prices, read_prices
from benchmarks.record_files import Line, PartialTable, duration, read_lines
from benchmarks.record_plan import TABLES, Planned, TablePlan, planned_trainings
from studies.space import TRAINING_FIELDS, possible_steps
from trainers.environment import training_environment
from trainers.errors import DownsampleTunerError, InputError, NonFiniteLossError
from tuner.replay.table import kind_name, parse_table, write_table
from tuner.results.describe import describe_duration

FOLDER: Final = Path(__file__).parent / "tables"


def main() -> None:
    """Trains, calibrates or packs, in a process that has a training's environment."""
    arguments = _arguments()
    ensure_environment("benchmarks.record", training_environment(arguments.threads))
    plan = TABLES[arguments.table]
    try:
        if arguments.calibrate:
            calibrate_table(plan, FOLDER, arguments)
        elif arguments.pack:
            pack(plan, FOLDER)
        else:
            record(plan, FOLDER, arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except DownsampleTunerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


def record(plan: TablePlan, folder: Path, arguments: argparse.Namespace) -> None:
    """Trains what no line of the partial table has yet and no other process is training."""
    wanted, path = planned_trainings(plan), _partial_path(plan, folder)
    recorded = _checked_lines(path, wanted)
    done = {line["seed"] for line in recorded}
    progress = _Progress(len(wanted), len(recorded))
    with PartialTable(path) as partial:
        for planned in wanted:
            if time.monotonic() - progress.started > arguments.limit_s:
                break
            if planned.seed in done:
                continue
            with partial.claim(planned.seed) as free:
                if free:
                    line = trained(plan, planned, arguments)
                    partial.append(line)
                    print(progress.line(len(partial.lines()), planned, line), flush=True)
    print(f"{len(read_lines(path))} of {len(wanted)} trainings are recorded in {path}")


def trained(plan: TablePlan, planned: Planned, arguments: argparse.Namespace) -> Line:
    """One training's line; with `error` instead of a curve where the loss became infinite."""
    from trainers.loop import train  # torch takes seconds to load, and must not before the environment is right

    where = {"device": arguments.device, "threads": arguments.threads, "root": arguments.root}
    line: Line = {"params": planned.params, "seed": planned.seed}
    try:
        result = train(plan.spec.train_config(planned.params, planned.seed, **where))
    except NonFiniteLossError as error:
        return {**line, "error": str(error)}
    counts = {kind_name(step): count for step, count in sorted(result.counts.items())}
    curve = [round(accuracy, 6) for accuracy in result.curve]
    return {**line, "curve": curve, "counts": counts, "train_s": round(result.seconds["train"], 3)}


def calibrate_table(plan: TablePlan, folder: Path, arguments: argparse.Namespace) -> None:
    """Prices every kind of step that a point of the space can take; NoisyTimingError on a busy machine."""
    spec = plan.spec
    config = spec.train_config(spec.baseline_params(), 0, device=arguments.device, threads=arguments.threads, root=arguments.root)
    measure_prices(config, possible_steps(spec.search, spec.dataset.full_px), _cost_path(plan, folder))


def pack(plan: TablePlan, folder: Path) -> Path:
    """Writes <table>.jsonl.gz from what has been recorded; InputError without prices."""
    lines = sorted(_checked_lines(_partial_path(plan, folder), planned_trainings(plan)), key=lambda line: line["seed"])
    whole = [line for line in lines if "error" not in line]
    header = table_header(plan, folder)
    unpriced = {kind for line in whole for kind in line["counts"]} - set(header["cost"])
    if unpriced:
        raise InputError(f"{_cost_path(plan, folder)} has no price for {', '.join(sorted(unpriced))}, it must: calibrate again")
    path = folder / f"{plan.name}.jsonl.gz"
    # Nothing is packed that couldn't be read again.
    parse_table([header, *whole])
    write_table(path, header, whole)
    print(f"{len(whole)} trainings are in {path}, {len(lines) - len(whole)} whose loss became infinite are not")
    return path


def table_header(plan: TablePlan, folder: Path) -> dict[str, Any]:
    """First line of a table. cost: milliseconds of each kind of step. baseline: the full training, and its parameters."""
    costs = read_prices(path := _cost_path(plan, folder))
    if costs is None:
        raise InputError(f"prices {path} are missing, they must be measured first: python -m benchmarks.record {plan.name} --calibrate")
    training = plan.spec.training
    return {
        "table": plan.name,
        "model": plan.spec.model,
        "dataset": plan.spec.dataset.name,
        "device": costs.conditions["device"],
        "cost": {kind_name(step): round(cost.relative * costs.full_ms, 4) for step, cost in sorted(costs.costs.items())},
        "baseline": {field: getattr(training, field) for field in TRAINING_FIELDS} | {"steps": _baseline_steps(plan, folder)},
        "space": plan.spec.search.to_json_dict(),
        "reference": list(plan.reference),
    }


def _baseline_steps(plan: TablePlan, folder: Path) -> int:
    """Of the recorded baseline, because only a training knows how many images there are."""
    baseline = plan.spec.baseline_params()
    for line in read_lines(_partial_path(plan, folder)):
        if line["params"] == baseline and "counts" in line:
            return sum(line["counts"].values())
    raise InputError(f"table '{plan.name}' has no baseline yet, it must be recorded first: it is the first training of the list")


def _checked_lines(path: Path, wanted: list[Planned]) -> list[Line]:
    """What has been recorded; InputError if any of it is of another plan."""
    lines, params = read_lines(path), dict(wanted)
    for line in lines:
        if params.get(line["seed"]) != line["params"]:
            raise InputError(f"training {line['seed']} in {path} is of another plan: move that file away to begin anew")
    return lines


def _partial_path(plan: TablePlan, folder: Path) -> Path:
    return folder / "partial" / f"{plan.name}.jsonl"


def _cost_path(plan: TablePlan, folder: Path) -> Path:
    return folder / f"{plan.name}.cost.json"


class _Progress:
    """One line a training, with the time left at the pace of all processes that share the work."""

    def __init__(self, total: int, done: int) -> None:
        self.started = time.monotonic()
        self._total, self._done = total, done

    def line(self, done: int, planned: Planned, line: Line) -> str:
        left_s = (time.monotonic() - self.started) / max(1, done - self._done) * (self._total - done)
        params = planned.params
        reduced = f"{params['frequency']:.0%} at scale {params['scale']:g}" if params["frequency"] else "full resolution"
        outcome = f"{line['curve'][-1]:.2%} in {line['train_s']:.1f} s" if "curve" in line else line["error"]
        return f"[{done}/{self._total}] {planned.seed}: {params['epochs']} epochs, {reduced}: {outcome}; {describe_duration(left_s)} left"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--for", dest="limit_s", type=duration, default=math.inf, help="a time such as 90m, after which none is begun")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--root", default="data", help="folder of the images, with cifar10/train/<class>/ in it")
    step = parser.add_mutually_exclusive_group()
    step.add_argument("--calibrate", action="store_true", help="only measures the prices")
    step.add_argument("--pack", action="store_true", help="only writes the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
