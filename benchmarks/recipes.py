"""What reduced steps cost and what simple schedules give on CIFAR-10, against simply training for less long.

    python -m benchmarks.recipes --images 10000 --seeds 3 --threads 2

Every training is one line of results/recipes.jsonl, written when it has ended: give the command again to go on after an interruption.
Accuracy is that of the class-balanced validation split after the last epoch; the test split stays closed. Costs are calibrated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final, NamedTuple

import torch

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.evidence import RESULTS, provenance
from trainers import Schedule, TrainConfig, train
from trainers.calibration import calibrate
from trainers.config import DataConfig
from trainers.cost import CostTable, parse_step, step_name
from trainers.data import steps_per_epoch
from trainers.schedule import Step

EPOCHS: Final = 12
BATCH: Final = 128
OUTPUT: Final = RESULTS / "recipes.jsonl"


class Recipe(NamedTuple):
    """A schedule and the epochs it is given."""

    schedule: Schedule
    epochs: int = EPOCHS


FULL, HALF = Schedule(), Schedule(frequency=1.0, scale=0.5)
EVERY_SECOND = dataclasses.replace(HALF, frequency=0.5)
RECIPES: Final = {
    "full resolution, 12 epochs (baseline)": Recipe(FULL),
    "full resolution, 9 epochs": Recipe(FULL, 9),
    "full resolution, 7 epochs": Recipe(FULL, 7),
    "full resolution, 5 epochs": Recipe(FULL, 5),
    "interleaved: every 2nd step at half side, first 80 %": Recipe(dataclasses.replace(EVERY_SECOND, window_length=0.8)),
    "early window: half side, first 50 %": Recipe(dataclasses.replace(HALF, window_length=0.5)),
    "early window: half side, first 70 %": Recipe(dataclasses.replace(HALF, window_length=0.7)),
    "growing: from half to full side over the first 80 %": Recipe(dataclasses.replace(HALF, window_length=0.8, growth="linear")),
    "more epochs: 18, half side in the first 80 %": Recipe(dataclasses.replace(HALF, window_length=0.8), 18),
    "early window, pooled: first 70 %": Recipe(dataclasses.replace(HALF, window_length=0.7, kernel="pooled")),
    "interleaved, pooled, to the end, shared batch norm": Recipe(dataclasses.replace(EVERY_SECOND, kernel="pooled")),
    "interleaved, pooled, to the end, separate batch norm": Recipe(
        dataclasses.replace(EVERY_SECOND, kernel="pooled", batch_norm="separate")
    ),
}


def config_of(recipe: Recipe, arguments: argparse.Namespace, seed: int) -> TrainConfig:
    """The training of a recipe with a seed."""
    return TrainConfig(
        model="cifar_resnet8",
        data=DataConfig(name="cifar10", root=arguments.root, train_images=arguments.images, val_images=4000),
        schedule=dataclasses.replace(recipe.schedule, seed=seed),
        epochs=recipe.epochs,
        batch_size=BATCH,
        lr=0.2,
        augment=("crop", "flip"),
        seed=seed,
        device="cpu",
        threads=arguments.threads,
    )


def main() -> None:
    """Trains what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--root", default="data")
    arguments = parser.parse_args()
    trained = {(line["recipe"], line["seed"]) for line in _lines(OUTPUT) if "recipe" in line}
    wanted = [(name, seed) for seed in range(arguments.seeds) for name in RECIPES if (name, seed) not in trained]
    for done, (name, seed) in enumerate(wanted, start=1):
        result = train(config_of(RECIPES[name], arguments, seed))
        counts = {step_name(step): count for step, count in result.counts.items()}
        line = {"recipe": name, "seed": seed, "val_accuracy": result.val_accuracy, "counts": counts}
        _append({**line, "seconds": result.seconds, "curve": list(result.curve)})
        print(f"[{done}/{len(wanted)}] {name}, seed {seed}: {result.val_accuracy:.2%}", flush=True)
    # Last, because only this needs a machine that does nothing else.
    if not any("cost_table" in line for line in _lines(OUTPUT)):
        _append({"cost_table": _calibrated(arguments).to_dict(), "arguments": vars(arguments), **provenance(torch.device("cpu"))})
    print(_table(_lines(OUTPUT), EPOCHS * steps_per_epoch(arguments.images, BATCH)))


def _calibrated(arguments: argparse.Namespace) -> CostTable:
    steps: set[Step] = set()
    for recipe in RECIPES.values():
        steps |= set(recipe.schedule.plan(1000, 32))
    return calibrate(config_of(RECIPES["full resolution, 12 epochs (baseline)"], arguments, 0), steps)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _append(line: dict[str, Any]) -> None:
    OUTPUT.parent.mkdir(exist_ok=True)
    with OUTPUT.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _table(lines: list[dict[str, Any]], baseline_steps: int) -> str:
    costs = CostTable.from_dict(next(line["cost_table"] for line in lines if "cost_table" in line))
    accuracies, times = defaultdict(list), {}
    for line in lines:
        if "recipe" in line:
            accuracies[line["recipe"]].append(100 * line["val_accuracy"])
            counts = {parse_step(name): count for name, count in line["counts"].items()}
            times[line["recipe"]] = costs.relative_time(counts, baseline_steps)
    rows = [f"a full step takes {costs.full_ms:.1f} ms; over it, a step of side/kernel takes"]
    rows += [f"  {step_name(step)}: {cost.relative:.3f} ({cost.low:.3f}-{cost.high:.3f})" for step, cost in sorted(costs.costs.items())]
    rows += ["", "| training | relative time | validation accuracy (mean, deviation, n) |", "|---|---|---|"]
    for name in RECIPES:
        values = accuracies[name]
        spread = f", {stdev(values):.2f}" if len(values) > 1 else ""
        rows += [f"| {name} | {times[name]:.1%} | {mean(values):.2f} %{spread}, {len(values)} |"] if values else []
    return "\n".join(rows)


if __name__ == "__main__":
    main()
