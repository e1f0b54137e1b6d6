"""Trainings by name, several seeds each: resumable, several processes at once, a line each, priced apart. Shared by claim and methods."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.environment import ensure_environment
from benchmarks.prices import measure_prices, read_prices
from benchmarks.record_files import Line, PartialTable, duration, read_lines
from studies.spec import StudySpec
from trainers.config import TrainConfig
from trainers.cost import CostTable, step_name
from trainers.environment import training_environment
from trainers.errors import DownsampleTunerError, InputError, NonFiniteLossError, RunError
from trainers.methods.settings import MethodSettings
from trainers.schedule import PROVENANCE_KEY, Schedule, Step, read_schedule_file

RESULTS: Final = Path(__file__).parent / "results"
_ARE_TRAINED_WITH: Final = ("lr", "weight_decay")


class Recipe(NamedTuple):
    """A schedule, the epochs it is given, and what else of the study's training it replaces."""

    schedule: Schedule
    epochs: int
    training: Mapping[str, float | MethodSettings] = {}


@dataclass(frozen=True)
class Suite:
    """Trainings to be compared. spec: of the study whose baseline they vary. recipes: by name, the first one is the full training."""

    name: str
    spec: StudySpec
    recipes: dict[str, Recipe]
    folder: Path
    seeds: int = 5

    @property
    def lines_path(self) -> Path:
        return self.folder / f"{self.name}.jsonl"

    @property
    def cost_path(self) -> Path:
        return self.folder / f"{self.name}.cost.json"

    @property
    def full(self) -> str:
        """Name of the full training."""
        return next(iter(self.recipes))


class Wanted(NamedTuple):
    """One training. number: its own, whatever other trainings the suite has."""

    number: int
    name: str
    seed: int


@dataclass(frozen=True)
class Where:
    """On what a suite trains. limit_s: after which no training is begun."""

    device: str = "auto"
    threads: int = 1
    root: str = "data"
    limit_s: float = field(default=math.inf)


def shorter_recipes(spec: StudySpec, shares: Sequence[float]) -> dict[str, Recipe]:
    """Full resolution for all epochs and for shares of them, by name."""
    epochs = spec.training.epochs
    lengths = sorted({epochs, *(max(1, round(share * epochs)) for share in shares)}, reverse=True)
    return {f"full resolution, {length} epochs": Recipe(Schedule(), length) for length in lengths}


def found_recipe(path: Path, epochs: int) -> Recipe:
    """Of a schedule file, as `tuner best` and `tuner export` write it, with the training that it was found with."""
    found = read_schedule_file(path).get(PROVENANCE_KEY) or {}
    training = {name: found[name] for name in _ARE_TRAINED_WITH if name in found}
    return Recipe(Schedule.load(path), found.get("epochs", epochs), training)


def wanted_trainings(suite: Suite) -> list[Wanted]:
    """Seed by seed, so that whatever is done of it compares pairs."""
    return [Wanted(_number(name, seed), name, seed) for seed in range(suite.seeds) for name in suite.recipes]


def train_suite(suite: Suite, where: Where) -> None:
    """Trains what no line has yet and no other process is training."""
    wanted = wanted_trainings(suite)
    recorded_lines(suite)
    started = time.monotonic()
    with PartialTable(suite.lines_path, "number") as partial:
        for one in wanted:
            if time.monotonic() - started > where.limit_s:
                break
            with partial.claim(one.number) as free:
                if free:
                    line = trained(suite, one, where)
                    partial.append(line)
                    reached = f"{line['test_accuracy']:.2%} in {line['train_s']:.1f} s" if "test_accuracy" in line else line["error"]
                    print(f"[{len(partial.lines())}/{len(wanted)}] {one.name}, seed {one.seed}: {reached}", flush=True)
    print(f"{len(recorded_lines(suite))} of {len(wanted)} trainings are in {suite.lines_path}")


def trained(suite: Suite, one: Wanted, where: Where) -> Line:
    """A training's line; with `error` instead of accuracies where the loss became infinite."""
    from trainers.evaluation import evaluate_test  # torch takes seconds to load, and must not before the environment is right
    from trainers.loop import train

    recipe = suite.recipes[one.name]
    config = config_of(suite, recipe, one.seed, where)
    line: Line = {"number": one.number, "training": one.name, "seed": one.seed, "recipe": _recipe_dict(recipe)}
    try:
        result = train(config)
    except NonFiniteLossError as error:
        return {**line, "error": str(error)}
    return {
        **line,
        "test_accuracy": round(evaluate_test(config, result.model), 6),
        "curve": [round(accuracy, 6) for accuracy in result.curve],
        "counts": {step_name(step): count for step, count in sorted(result.counts.items())},
        "train_s": round(result.seconds["train"], 3),
        "device": result.device,
    }


def config_of(suite: Suite, recipe: Recipe, seed: int, where: Where) -> TrainConfig:
    """The study's baseline with the recipe's schedule, epochs and training."""
    spec = suite.spec
    base = spec.train_config(spec.baseline_params(), seed, device=where.device, threads=where.threads, root=where.root)
    schedule = dataclasses.replace(recipe.schedule, seed=seed)
    return dataclasses.replace(base, schedule=schedule, epochs=recipe.epochs, **recipe.training)


def recorded_lines(suite: Suite) -> list[Line]:
    """What has been trained of the suite; InputError if a training of one of its names was of another recipe."""
    lines = []
    for line in read_lines(suite.lines_path):
        recipe = suite.recipes.get(line["training"])
        if recipe is None:
            continue
        if line["recipe"] != _recipe_dict(recipe):
            raise InputError(f"training '{line['training']}' in {suite.lines_path} is of another plan: move that file away to begin anew")
        lines.append(line)
    return lines


def calibrate_suite(suite: Suite, where: Where) -> None:
    """Prices every kind of step of the suite; NoisyTimingError on a busy machine."""
    measure_prices(config_of(suite, suite.recipes[suite.full], 0, where), kinds_of(suite), suite.cost_path)


def kinds_of(suite: Suite) -> frozenset[Step]:
    """Kinds of step that the trainings take, however many batches an epoch has."""
    full_px, an_epoch = suite.spec.dataset.full_px, 100
    plans = [recipe.schedule.plan(recipe.epochs * an_epoch, full_px, an_epoch) for recipe in suite.recipes.values()]
    # Single batches are what an epoch has left over.
    return frozenset(kind for plan in plans for step in plan.counts() for kind in (step, step._replace(batches=1)))


def run_suite(
    module: str,
    arguments: argparse.Namespace,
    suite_of: Callable[[CostTable | None], Suite],
    report: Callable[[Suite, CostTable], str],
    *,
    priced_first: bool,
) -> None:
    """Trains, calibrates or reports as asked, in a process that has a training's environment.

    suite_of: the suite by the prices, None where there are none yet. report: writes its files and returns what is to be printed.
    priced_first: whether what is trained depends on the prices.
    """
    ensure_environment(module, training_environment(arguments.threads))
    where = Where(arguments.device, arguments.threads, arguments.root, arguments.limit_s)
    try:
        if arguments.calibrate:
            calibrate_suite(suite_of(None), where)
            return
        path = suite_of(None).cost_path
        costs = read_prices(path)
        if costs is None and (arguments.report or priced_first):
            raise InputError(f"prices {path} are missing, they must be measured first: give --calibrate")
        if arguments.report and costs is not None:
            print(report(suite_of(costs), costs))
        else:
            train_suite(suite_of(costs), where)
    except KeyboardInterrupt:
        sys.exit(130)
    except DownsampleTunerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


def suite_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every suite has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--schedule", type=Path, help="file of a schedule that a search found, trained beside the others")
    parser.add_argument("--for", dest="limit_s", type=duration, default=math.inf, help="a time such as 90m, after which none is begun")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--root", default="data", help="folder of the images, with cifar10/train/<class>/ and cifar10/test/<class>/ in it")
    step = parser.add_mutually_exclusive_group()
    step.add_argument("--calibrate", action="store_true", help="only measures the prices, on a machine that does nothing else")
    step.add_argument("--report", action="store_true", help="only writes what has been trained into docs")
    return parser


def paired(lines: Sequence[Line], full: str) -> Iterator[tuple[str, dict[int, Line]]]:
    """Name and whole lines by seed; RunError where the full training has none."""
    by_name: dict[str, dict[int, Line]] = {}
    for line in lines:
        if "test_accuracy" in line:
            by_name.setdefault(line["training"], {})[line["seed"]] = line
    if full not in by_name:
        raise RunError(f"'{full}' has not been trained yet, it must be first: all others are compared with it")
    yield from by_name.items()


def _number(name: str, seed: int) -> int:
    """48 bits of a hash: the same in every process, and a place in the lock file."""
    return int.from_bytes(hashlib.sha256(f"{name}/{seed}".encode()).digest()[:6], "big")


def _recipe_dict(recipe: Recipe) -> dict[str, Any]:
    training = {key: value if isinstance(value, int | float) else dataclasses.asdict(value) for key, value in recipe.training.items()}
    return {"epochs": recipe.epochs, "schedule": recipe.schedule.canonical().to_dict(), "training": training}
