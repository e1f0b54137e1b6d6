"""Whether converted groupable networks compute the same, and how much faster they are than before the conversion.

    python -m benchmarks.grouping            the run that is kept, alone on the machine: some minutes on one core
    python -m benchmarks.grouping --quick    under half a minute
    python -m benchmarks.grouping --table    the kept run as a table

Exactness: the largest difference between the logits of the masked dense network and those of its conversion, over random patterns of gates.
Speed: forward passes in evaluation mode, interleaved in another order each round, of the plain network, of the masked dense one and of its
conversion, with the gates as they start (half of them closed) and with as many closed, drawn at random, as the published budget asks for.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.evidence import RESULTS, provenance, write_result
from trainers.config import DataConfig, TrainConfig
from trainers.device import IMAGE_FORMAT, resolve_device, set_threads
from trainers.environment import training_environment
from trainers.methods.groupable import groupable_layers, left_alone
from trainers.methods.grouped_conversion import to_grouped
from trainers.methods.grouping import Budget
from trainers.methods.settings import Grouping
from trainers.models import build_training_model
from trainers.pooled_layers import natural_noise

NETWORKS: Final = ("cifar_resnet20", "cifar_resnet18")
SIDE_PX: Final = 32
PATTERNS: Final = ("start", "budget")
WAYS: Final = ("plain", "masked", "converted")
SETTINGS: Final = Grouping(name="groupable")


def main() -> None:
    """Measures in a process with a trial's environment and writes the result, or prints the table of the kept run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128, help="images a forward pass")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--gates", type=int, default=50, help="random patterns of gates whose conversion is compared")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="8 images, 3 rounds, 3 patterns")
    parser.add_argument("--table", action="store_true", help="print the kept run as a table")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads((RESULTS / "grouping.json").read_text(encoding="utf-8"))))
        return
    if arguments.quick:
        arguments.images, arguments.rounds, arguments.gates = 8, 3, 3
    if arguments.child:
        print(json.dumps(measure(arguments)))
        return
    environment = {**os.environ, **training_environment(arguments.threads)}
    command = [sys.executable, "-m", "benchmarks.grouping", "--child", *sys.argv[1:]]
    found = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)
    device = resolve_device(arguments.device)
    write_result("grouping-quick" if arguments.quick else "grouping", {**provenance(device), **found})
    print(table(found))
    print(last_line(found))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is written, but for where it was measured."""
    set_threads(arguments.threads)
    device = resolve_device(arguments.device)
    networks = {name: measured(name, arguments, device) for name in NETWORKS}
    settings = {"images": arguments.images, "threads": arguments.threads, "n": arguments.rounds, "side_px": SIDE_PX}
    return {**settings, "networks": networks}


def measured(name: str, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Of one network: what of it can be grouped, exactness over patterns of gates, speed with two of them."""
    say(f"{name}: exactness")
    torch.manual_seed(0)
    images = natural_noise(arguments.images, 3, SIDE_PX).to(device).contiguous(memory_format=IMAGE_FORMAT)
    network = built(name, 0, images)
    differences = [difference(built(name, seed, images[:16]), images[:16]) for seed in range(arguments.gates)]
    return {
        "groupable": len(groupable_layers(network)),
        "left_alone": left_alone(network),
        "patterns": arguments.gates,
        "largest_difference": max(absolute for absolute, _ in differences),
        "largest_logit": max(logit for _, logit in differences),
        "speed": {pattern: speed(name, pattern, images, arguments.rounds) for pattern in PATTERNS},
    }


def built(name: str, seed: int, images: Tensor, grouping: Grouping = SETTINGS) -> nn.Module:
    """In evaluation mode with the batch-norm statistics of these images, as a trained network has those of its own; gates by the seed."""
    config = TrainConfig(model=name, data=DataConfig(name="cifar10"), grouping=grouping, seed=seed)
    torch.manual_seed(seed)
    network = build_training_model(config, 10, images.device).train()
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network(images)
    return network.eval()


@torch.no_grad()
def difference(network: nn.Module, images: Tensor) -> tuple[float, float]:
    """Largest difference between the logits before and after conversion, and the largest logit, for images in both memory formats."""
    batches = (images, images.contiguous())
    before = torch.stack([network(batch) for batch in batches])
    converted = to_grouped(network)
    after = torch.stack([converted(batch) for batch in batches])
    return (after - before).abs().max().item(), before.abs().max().item()


def speed(name: str, pattern: str, images: Tensor, rounds: int) -> dict[str, Any]:
    """Milliseconds of a forward pass of each way, round by round, after one round of warm-up; what the gates leave."""
    masked = built(name, 0, images)
    if pattern == "budget":
        close_gates(masked)
    figures = Budget(groupable_layers(masked), SETTINGS).figures()
    ways = {"plain": built(name, 0, images, Grouping()), "masked": masked, "converted": to_grouped(copy.deepcopy(masked))}
    times: dict[str, list[float]] = {way: [] for way in ways}
    order = list(ways)
    for number in range(rounds + 1):
        random.Random(number).shuffle(order)
        for way in order:
            taken_ms = milliseconds(ways[way], images)
            if number:
                times[way].append(taken_ms)
    say(f"{name}, {pattern}: " + ", ".join(f"{way} {median(times[way]):.1f} ms" for way in WAYS))
    return {**figures, "milliseconds": times}


@torch.no_grad()
def close_gates(network: nn.Module) -> None:
    """Closes gates at random until the budget is kept."""
    layers = groupable_layers(network)
    budget = Budget(layers, SETTINGS)
    places = [(layer, place) for layer in layers for place, is_open in enumerate(layer.open_gates) if is_open]
    random.Random(0).shuffle(places)
    for layer, place in places:
        if budget.figures()["over_budget"] <= 1:
            break
        layer.gates[place] = -1.0


@torch.no_grad()
def milliseconds(network: nn.Module, images: Tensor) -> float:
    synchronize(images.device)
    started = time.perf_counter()
    network(images)
    synchronize(images.device)
    return (time.perf_counter() - started) * 1000


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(found: dict[str, Any]) -> str:
    """Markdown: a line for each network and pattern, and below it where that was measured if it is known."""
    lines = [
        f"{found['images']} images of {found['side_px']} px, {found['threads']} thread(s), n = {found['n']} interleaved rounds; "
        "milliseconds of a forward pass, median (lowest to highest)",
        "",
        "| network | gates | connections kept | mean groups | plain | masked | converted | masked over converted |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, network in found["networks"].items():
        for pattern, run in network["speed"].items():
            times = run["milliseconds"]
            cells = [f"{median(times[way]):.1f} ({min(times[way]):.1f} to {max(times[way]):.1f})" for way in WAYS]
            kept = f"{run['connections_frac']:.1%} | {run['mean_groups']:.1f}"
            lines.append(f"| {name} | {pattern} | {kept} | {' | '.join(cells)} | {speed_up(run, 'masked'):.2f} |")
    lines.append("")
    for name, network in found["networks"].items():
        alone = "; ".join(f"{layer}: {reason}" for layer, reason in network["left_alone"].items())
        lines.append(
            f"{name}: logits differ by at most {network['largest_difference']:.1e} (largest logit {network['largest_logit']:.1f}) "
            f"over {network['patterns']} random patterns of gates; {network['groupable']} layers groupable; left alone: {alone}"
        )
    if "device" in found:
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        lines += ["", f"{found['device']}; {versions}; commit {found['commit']}, {found['date']}: `{found['command']}`"]
    return "\n".join(lines)


def speed_up(run: dict[str, Any], way: str) -> float:
    """How many times as fast as that way the converted network is."""
    return median(run["milliseconds"][way]) / median(run["milliseconds"]["converted"])


def last_line(found: dict[str, Any]) -> str:
    networks = found["networks"]
    largest = max(network["largest_difference"] for network in networks.values())
    speeds = [
        f"{name}_{pattern}_{way}_over_converted={speed_up(network['speed'][pattern], way):.2f}"
        for name, network in networks.items()
        for pattern in PATTERNS
        for way in ("masked", "plain")
    ]
    return f"grouping: largest_difference={largest:.1e} " + " ".join(speeds)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
