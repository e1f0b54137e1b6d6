"""Which share of the filters becomes inactive with which optimizer, and what removing them changes and saves.

    python -m benchmarks.filter_sparsity                       5 seeds on 5,000 CIFAR-10 images; on one core some hours
    python -m benchmarks.filter_sparsity --dataset digits      the same on all digit scans for training
    python -m benchmarks.filter_sparsity --quick               seconds; keeps nothing
    python -m benchmarks.filter_sparsity --table               what is kept, as a table

A plain network in the style of VGG with batch norm, trained with sgd, adamw (decoupled decay) and adam (L2 regularisation), each with a
weaker and a stronger decay on all parameters; adam with the stronger one also with filters removed after every epoch. Every training is a
line of results/filter_sparsity.jsonl, written when it has ended: give the command again to go on after an interruption.

inactive, by gamma, by activation: share of all filters after the last epoch. removed: share that can go without a change of the outputs.
difference: largest change of a logit by their removal, over training images / validation images. Speed: forward passes in evaluation
mode and training steps of the network before and after removal, interleaved; medians. Published tendency (Mehta et al., 1811.12495): adam
more than adamw more than sgd.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.evidence import RESULTS, provenance
from trainers.config import DataConfig, Optimizer, TrainConfig
from trainers.data import Split
from trainers.loop import Training
from trainers.methods.filter_activity import filter_activities
from trainers.methods.filter_removal import remove
from trainers.methods.filter_sparsity import find_removal
from trainers.methods.settings import FilterSparsity, FilterSparsityName

OUTPUT: Final = RESULTS / "filter_sparsity.jsonl"
BATCH: Final = 64
WIDTHS: Final = (16, 32, 64)
FIGURES: Final = ("inactive", "inactive_by_gamma", "inactive_by_activation", "selectivity")
# Where what a line means is kept, beside the arm and its seed.
SETTINGS: Final = ("dataset", "images", "epochs")


class Arm(NamedTuple):
    """One row of the table. lr: peak."""

    optimizer: Optimizer
    lr: float
    weight_decay: float
    name: FilterSparsityName = "report"


ARMS: Final = (
    Arm("sgd", 0.05, 5e-4),
    Arm("sgd", 0.05, 2e-3),
    Arm("adamw", 2e-3, 0.05),
    Arm("adamw", 2e-3, 0.5),
    Arm("adam", 2e-3, 5e-4),
    Arm("adam", 2e-3, 2e-3),
    Arm("adam", 2e-3, 2e-3, "remove_each_epoch"),
)


def plain_network(num_classes: int) -> nn.Module:
    """Three times two 3x3 convolutions with batch norm and ReLU, each pair before a max pool."""
    layers: list[nn.Module] = []
    channels = 3
    for width in WIDTHS:
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def main() -> None:
    """Trains what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("cifar10", "digits"), default="cifar10")
    parser.add_argument("--images", type=int, help="training images; default: 5000 of cifar10, all digits")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--root", default="data")
    parser.add_argument("--quick", action="store_true", help="a few digits, 2 epochs, one seed, 3 rounds")
    parser.add_argument("--table", action="store_true", help="print what is kept, train nothing")
    arguments = parser.parse_args()
    if arguments.dataset == "cifar10" and arguments.images is None:
        arguments.images = 5000
    if arguments.quick:
        vars(arguments).update(dataset="digits", images=256, epochs=2, seeds=1, rounds=3)
        print(table([measured(arm, 0, arguments) for arm in ARMS]))
        return
    if not arguments.table:
        for done, line in enumerate(_missing(arguments), start=1):
            OUTPUT.parent.mkdir(exist_ok=True)
            with OUTPUT.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            said = ", ".join(f"{figure} {line[figure]:.1%}" for figure in ("inactive", "removed", "val_accuracy"))
            print(f"[{done}] {line['arm']}, seed {line['seed']}: {said}", flush=True)
    alike = [line for line in _lines() if all(line[name] == getattr(arguments, name) for name in SETTINGS)]
    print(table(alike))


def _lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in OUTPUT.read_text(encoding="utf-8").splitlines()] if OUTPUT.exists() else []


def _missing(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    settings = [getattr(arguments, name) for name in SETTINGS]
    known = [(line["arm"], line["seed"]) for line in _lines() if [line[name] for name in SETTINGS] == settings]
    # Seed by seed, so that an interrupted run has something of every arm.
    for seed in range(arguments.seeds):
        for arm in ARMS:
            if (list(arm), seed) not in known:
                yield measured(arm, seed, arguments)


def measured(arm: Arm, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains, and removes what can be removed from a copy."""
    config = TrainConfig(
        model="benchmarks.filter_sparsity:plain_network",
        data=DataConfig(name=arguments.dataset, root=arguments.root, train_images=arguments.images),
        epochs=arguments.epochs,
        batch_size=BATCH,
        optimizer=arm.optimizer,
        lr=arm.lr,
        weight_decay=arm.weight_decay,
        filter_sparsity=FilterSparsity(name=arm.name, decay_all=True),
        seed=seed,
        device=arguments.device,
        threads=arguments.threads,
    )
    training = Training(config)
    while not training.done:
        figures = training.run_epoch().figures
    result, data = training.result(), training.data
    whole = 2 * sum(WIDTHS)
    small, differences = without_filters(result.model, data.train, data.val)
    left = sum(layer.out_channels for layer in small.modules() if isinstance(layer, nn.Conv2d))
    images, labels = next(data.train.batches(BATCH, training=False))
    # What is left of filters that are gone is not in the figures: they count as inactive.
    gone = whole - figures["filter_sparsity.filters"]
    shares = {name: (figures[f"filter_sparsity.{name}"] * (whole - gone) + gone) / whole for name in FIGURES[:3]}
    return {
        "arm": list(arm),
        "seed": seed,
        **{name: getattr(arguments, name) for name in SETTINGS},
        **shares,
        "selectivity": figures["filter_sparsity.selectivity"],
        "removed": 1 - left / whole,
        "val_accuracy": result.val_accuracy,
        "seconds": result.seconds,
        "differences": differences,
        "milliseconds": interleaved(plain_of(training, result.model), small, images, labels, arguments.rounds),
        **provenance(images.device),
    }


def plain_of(training: Training, trained: nn.Module) -> nn.Module:
    """The network before any removal: the trained one, or where filters are gone from that, one of its first size."""
    return trained if training.config.filter_sparsity.name == "report" else plain_network(training.data.num_classes).to(training.device)


@torch.no_grad()
def without_filters(network: nn.Module, train: Split, val: Split) -> tuple[nn.Module, list[float]]:
    """A copy without the filters that can go, and the largest change of a logit over training and over validation images."""
    network.eval()
    small = copy.deepcopy(network)
    seen, unseen = ([images for images, _ in split.batches(BATCH, training=False)] for split in (train, val))
    probe = seen[0][:1]
    remove(small, find_removal(small, filter_activities(small, seen, probe), probe))
    return small, [max(float((network(images) - small(images)).abs().max()) for images in batches) for batches in (seen, unseen)]


def interleaved(before: nn.Module, after: nn.Module, images: Tensor, labels: Tensor, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of forward passes and training steps, round by round in turn, after one round of warm-up."""
    networks = {"before": copy.deepcopy(before), "after": copy.deepcopy(after)}
    times: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in networks} for kind in ("forward", "step")}
    for number in range(rounds + 1):
        for name in sorted(networks, reverse=number % 2 == 0):
            for kind, run in (("forward", _forward), ("step", _step)):
                taken_ms = _milliseconds(lambda run=run, name=name: run(networks[name], images, labels))  # type: ignore[misc]
                if number:
                    times[kind][name].append(taken_ms)
    return times


@torch.no_grad()
def _forward(network: nn.Module, images: Tensor, _labels: Tensor) -> Tensor:
    logits: Tensor = network.eval()(images)
    return logits


def _step(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    loss = F.cross_entropy(network.train()(images), labels)
    network.zero_grad()
    loss.backward()
    return loss.detach()


def _milliseconds(run: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    # A read waits for the GPU.
    float(run().sum())
    return 1000 * (time.perf_counter() - started)


def table(lines: list[dict[str, Any]]) -> str:
    """One row an arm: means over seeds with 95 % intervals (Student's t)."""
    rows = [
        "| optimizer, decay | n | inactive | by gamma | by activation | selectivity | removed | accuracy | forward | step | difference |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        own = [line for line in lines if line["arm"] == list(arm)]
        if own:
            shares = [_share([line[name] for line in own]) for name in (*FIGURES, "removed", "val_accuracy")]
            speeds = [f"{median(_speed_up(line, kind) for line in own):.2f}x" for kind in ("forward", "step")]
            removes = ", removed each epoch" if arm.name == "remove_each_epoch" else ""
            label = f"{arm.optimizer}, {arm.weight_decay:g}{removes}"
            differences = " / ".join(f"{max(line['differences'][split] for line in own):.1e}" for split in (0, 1))
            cells = [label, str(len(own)), *shares, *speeds, differences]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, *_train_seconds(lines)])


def _train_seconds(lines: list[dict[str, Any]]) -> list[str]:
    """What removal after every epoch saves of the same training's seconds, seed by seed."""
    found = {(tuple(line["arm"]), line["seed"]): line["seconds"]["train"] for line in lines}
    each = next(arm for arm in ARMS if arm.name == "remove_each_epoch")
    plain = each._replace(name="report")
    pairs = [found[each, seed] / found[plain, seed] for arm, seed in found if arm == each and (plain, seed) in found]
    return ["", f"train seconds with removal after every epoch over those without: {median(pairs):.2f} (n={len(pairs)})"] if pairs else []


def _share(values: list[float]) -> str:
    from scipy import stats

    if len(set(values)) == 1:
        return f"{values[0]:.1%}"
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean(values), scale=stats.sem(values))
    return f"{mean(values):.1%} ({low:.1%} to {high:.1%})"


def _speed_up(line: dict[str, Any], kind: str) -> float:
    times = line["milliseconds"][kind]
    return median(times["before"]) / median(times["after"])


if __name__ == "__main__":
    main()
