"""How filters should be pooled, and which: operators and choices of layers on CIFAR-10, in one schedule.

    python -m benchmarks.poolings --images 10000 --seeds 3 --threads 2

Half side in the first 70 % of the training, with each form of pooled kernels and without any. Every training is one line of
results/poolings.jsonl, written when it has ended: give the command again to go on after an interruption. Accuracy is that of the
class-balanced validation split after the last epoch. Costs are calibrated with our own operator, which the others are charged too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.evidence import RESULTS, provenance
from trainers import Schedule, TrainConfig
from trainers.calibration import calibrate
from trainers.config import DataConfig
from trainers.cost import CostTable, step_name
from trainers.data import steps_per_epoch
from trainers.filters import pool_kernel
from trainers.loop import Training

BATCH: Final = 128
OUTPUT: Final = RESULTS / "poolings.jsonl"
HALF: Final = Schedule(frequency=1.0, scale=0.5, window_length=0.7)
POOLED: Final = dataclasses.replace(HALF, kernel="pooled")

# Filters [out, in, kh, kw] and the size (kh', kw') that they are pooled to.
Operator = Callable[[Tensor, tuple[int, int]], Tensor]


class Variant(NamedTuple):
    """A schedule, and what computes otherwise than the trainers do: `patches`, given the network."""

    schedule: Schedule
    patches: Callable[[Training], AbstractContextManager[None]] | None = None


def strided(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Keeps taps instead of averaging them, the outer ones and those evenly between (of three every second); the gain is our own."""
    rows, columns = (torch.linspace(0, k - 1, pooled).round().long() for k, pooled in zip(weight.shape[2:], size, strict=True))
    gain = weight.shape[2] * weight.shape[3] / (size[0] * size[1])
    return weight[:, :, rows][:, :, :, columns] * gain


def norm_gain(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Averages, then gives each output channel's filter the norm that it had: white noise keeps its response, not a constant image."""
    pooled = pool_kernel(weight, size)
    norm = weight.flatten(1).norm(dim=1) / pooled.flatten(1).norm(dim=1).clamp(min=1e-12)
    return pooled * norm.reshape(-1, 1, 1, 1)


class Blend:
    """A share a layer of averaged against strided taps, learned with the rate and momentum of the network; no part of its state."""

    def __init__(self, training: Training) -> None:
        weights = [layer.weight for layer in training.model.modules() if isinstance(layer, nn.Conv2d)]
        self._shares = {weight: nn.Parameter(torch.zeros((), device=weight.device)) for weight in weights}
        optimizer = torch.optim.SGD(self._shares.values(), lr=training.config.lr, momentum=0.9)

        def step(network_optimizer: torch.optim.Optimizer, *_: object) -> None:
            optimizer.param_groups[0]["lr"] = network_optimizer.param_groups[0]["lr"]
            optimizer.step()
            optimizer.zero_grad()

        training.optimizer.register_step_post_hook(step)

    def __call__(self, weight: Tensor, size: tuple[int, int]) -> Tensor:
        share = self._shares[weight].sigmoid()
        return share * pool_kernel(weight, size) + (1 - share) * strided(weight, size)


@contextmanager
def pooled_by(operator: Operator) -> Iterator[None]:
    """Every pooled convolution inside uses this operator, at each use."""
    with patch("trainers.convolution.pool_kernel", operator), patch("trainers.geometry._keep_filters", lambda _: None):
        yield


VARIANTS: Final = {
    "no pooling": Variant(HALF),
    "average (ours)": Variant(POOLED),
    "strided taps": Variant(POOLED, lambda _: pooled_by(strided)),
    "learned blend of average and strided": Variant(POOLED, lambda training: pooled_by(Blend(training))),
    "average, gain from the norm": Variant(POOLED, lambda _: pooled_by(norm_gain)),
    "average, layers of the largest maps": Variant(dataclasses.replace(POOLED, pooled_layers="largest_maps")),
    "average, layers that save most": Variant(dataclasses.replace(POOLED, pooled_layers="most_saved")),
}


def config_of(schedule: Schedule, arguments: argparse.Namespace, seed: int) -> TrainConfig:
    """The training of a variant with a seed."""
    return TrainConfig(
        model=arguments.model,
        data=DataConfig(name="cifar10", root=arguments.root, train_images=arguments.images, val_images=4000),
        schedule=dataclasses.replace(schedule, seed=seed),
        epochs=arguments.epochs,
        batch_size=BATCH,
        lr=0.2,
        augment=("crop", "flip"),
        seed=seed,
        device=arguments.device,
        threads=arguments.threads,
    )


def trained(name: str, config: TrainConfig) -> dict[str, Any]:
    """One line of results: accuracy, counts of steps, seconds, curve."""
    training = Training(config)
    make = VARIANTS[name].patches
    keys = list(training.model.state_dict())
    with make(training) if make is not None else nullcontext():
        while not training.done:
            training.run_epoch()
    if list(training.model.state_dict()) != keys:
        raise RuntimeError(f"variant '{name}' changed what the network's state holds")
    result = training.result()
    counts = {step_name(step): count for step, count in result.counts.items()}
    return {"val_accuracy": result.val_accuracy, "counts": counts, "seconds": result.seconds, "curve": list(result.curve)}


def main() -> None:
    """Trains what is missing, then prints the table."""
    arguments = _arguments()
    output = Path(arguments.output)
    settings = {name: getattr(arguments, name) for name in ("model", "images", "epochs", "device", "threads")}
    lines = _lines(output)
    begun_with = next((line["settings"] for line in lines if "settings" in line), settings)
    if begun_with != settings:
        raise SystemExit(f"{output} was begun with {begun_with}: give the same, or another --output")
    if not lines:
        _append(output, {"settings": settings})
    done = {(line["variant"], line["seed"]) for line in lines if "variant" in line}
    wanted = [(name, seed) for seed in range(arguments.seeds) for name in VARIANTS if (name, seed) not in done]
    for number, (name, seed) in enumerate(wanted, start=1):
        line = trained(name, config_of(VARIANTS[name].schedule, arguments, seed))
        _append(output, {"variant": name, "seed": seed, **line})
        print(f"[{number}/{len(wanted)}] {name}, seed {seed}: {line['val_accuracy']:.2%}", flush=True)
    # Last, because only this needs a machine that does nothing else.
    if not any("cost_table" in line for line in lines):
        steps = {step for variant in VARIANTS.values() for step in variant.schedule.plan(1000, 32)}
        table = calibrate(config_of(HALF, arguments, 0), steps, accept_noisy=arguments.accept_noisy_timing)
        _append(output, {"cost_table": table.to_dict(), **provenance(torch.device(arguments.device))})
    print(_table(_lines(output), arguments))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar_resnet8")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--root", default="data")
    parser.add_argument("--accept-noisy-timing", action="store_true", help="one short calibration, however steady it is")
    parser.add_argument("--output", default=str(OUTPUT))
    return parser.parse_args()


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _append(path: Path, line: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _table(lines: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    costs = CostTable.from_dict(next(line["cost_table"] for line in lines if "cost_table" in line))
    accuracies = defaultdict(list)
    for line in lines:
        if "variant" in line:
            accuracies[line["variant"]].append(100 * line["val_accuracy"])
    rows = [f"  {step_name(step)}: {cost.relative:.3f} ({cost.low:.3f}-{cost.high:.3f})" for step, cost in sorted(costs.costs.items())]
    rows += ["", "| form | relative time | validation accuracy (mean, deviation, n) |", "|---|---|---|"]
    total = arguments.epochs * steps_per_epoch(arguments.images, BATCH)
    for name, values in accuracies.items():
        relative = costs.relative_time(VARIANTS[name].schedule.plan(total, 32).counts(), total)
        spread = f", {stdev(values):.2f}" if len(values) > 1 else ""
        rows.append(f"| {name} | {relative:.1%} | {mean(values):.2f} %{spread}, {len(values)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
