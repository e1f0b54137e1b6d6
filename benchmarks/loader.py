"""Images a second that an image folder gives, at full and at half side, ours against torchvision's ImageFolder and DataLoader.

    python -m benchmarks.loader            the run that is kept: about five minutes on 2 cores
    python -m benchmarks.loader --quick    under a minute
    python -m benchmarks.loader --table    the kept run as a table, for docs/loader.md

The files are made anew: JPEGs of 224 to 400 px a side, cut out of the two photographs that ship inside scikit-learn. Every way gives
random resized crops, flips and normalised batches, with the same workers. torchvision comes in both of its ways, transforms of Pillow's
images and of tensors; the last line compares with the faster one. A pass is an epoch; passes are interleaved, in another order each round.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.evidence import RESULTS, provenance, write_result
from trainers.cores import available_cores
from trainers.data import LoaderSplit, steps_per_epoch
from trainers.environment import training_environment
from trainers.folders import Preprocessing, find_images
from trainers.schedule import Step

FULL_PX: Final = 224
SIDES: Final = {"full": FULL_PX, "half": FULL_PX // 2}
CLASSES: Final = 10
SMALLEST_PX, LARGEST_PX, QUALITY = 224, 400, 90
WAYS: Final = {"ours": "ours", "torchvision_pillow": "torchvision, Pillow's images", "torchvision_tensors": "torchvision, tensors"}
Pass = Callable[[int], Iterator[tuple[Tensor, Tensor]]]


def main() -> None:
    """Runs the measurement in a process with a trial's environment and writes it, or prints the table of the kept run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--workers", type=int, default=len(available_cores()))
    parser.add_argument("--quick", action="store_true", help="256 images, 5 rounds")
    parser.add_argument("--table", action="store_true", help="print the kept run as a table")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads((RESULTS / "loader.json").read_text(encoding="utf-8"))))
        return
    if arguments.quick:
        arguments.images, arguments.rounds = 256, 5
    if arguments.child:
        print(json.dumps(measure(arguments.images, arguments.batch, arguments.rounds, arguments.workers)))
        return
    environment = {**os.environ, **training_environment(arguments.workers)}
    command = [sys.executable, "-m", "benchmarks.loader", "--child", *sys.argv[1:]]
    found = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)
    write_result("loader-quick" if arguments.quick else "loader", {**provenance(torch.device("cpu")), **found})
    print(table(found))
    print(" ".join(f"{name}={ratio:.3f}" for name, ratio in last_line(found).items()))


def measure(images: int, batch: int, rounds: int, workers: int) -> dict[str, Any]:
    """Images a second of every way and side, round by round, after one round of warm-up."""
    torch.set_num_threads(workers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file_bytes_a_pixel = make_folder(folder, images)
        passes = {**ours(folder, batch), **torchvisions(folder, batch, workers)}
        rates: dict[str, list[float]] = {kind: [] for kind in passes}
        order = list(passes)
        for number in range(rounds + 1):
            random.Random(number).shuffle(order)
            for kind in order:
                rate = images_a_second(passes[kind], number)
                if number:
                    rates[kind].append(rate)
            say(f"round {number} of {rounds}" + ("" if number else " (warm-up)"))
        # Ends the workers before their files go.
        passes.clear()
    settings = {"images": images, "batch": batch, "workers": workers, "n": rounds, "full_px": FULL_PX}
    files = {"smallest_px": SMALLEST_PX, "largest_px": LARGEST_PX, "jpeg_quality": QUALITY, "file_bytes_a_pixel": file_bytes_a_pixel}
    return {**settings, "files": files, "images_a_second": rates}


def make_folder(folder: Path, images: int) -> float:
    """Writes <folder>/<class>/<n>.jpg and returns the bytes of a file over its pixels."""
    # Not at the top: every worker imports this module anew.
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(np.ascontiguousarray(pixels)) for pixels in load_sample_images().images]
    generator = np.random.default_rng(0)
    file_bytes = pixels = 0
    for number in range(images):
        photograph = photographs[number % len(photographs)]
        width, height = (int(length) for length in generator.integers(SMALLEST_PX, LARGEST_PX + 1, 2))
        left = int(generator.integers(photograph.width - width + 1))
        top = int(generator.integers(photograph.height - height + 1))
        file = folder / str(number % CLASSES) / f"{number:05}.jpg"
        file.parent.mkdir(exist_ok=True)
        photograph.crop((left, top, left + width, top + height)).save(file, quality=QUALITY)
        file_bytes, pixels = file_bytes + file.stat().st_size, pixels + width * height
        if (number + 1) % max(1, images // 4) == 0:
            say(f"{number + 1} of {images} files made")
    return round(file_bytes / pixels, 3)


def ours(folder: Path, batch: int) -> dict[str, Pass]:
    split = LoaderSplit(find_images(folder), Preprocessing.imagenet(FULL_PX), torch.device("cpu"))

    def pass_at(side_px: int) -> Pass:
        steps = [Step(side_px, "full")] * steps_per_epoch(len(split), batch)
        return lambda epoch: split.batches(batch, epoch=epoch, augment=("crop", "flip"), training=True, steps=steps)

    return {f"ours {name}": pass_at(side_px) for name, side_px in SIDES.items()}


def torchvisions(folder: Path, batch: int, workers: int) -> dict[str, Pass]:
    passes = {}
    for name, side_px in SIDES.items():
        crop_and_flip = [v2.RandomResizedCrop(side_px, antialias=True), v2.RandomHorizontalFlip()]
        transforms = {"torchvision_pillow": [*crop_and_flip, v2.PILToTensor()], "torchvision_tensors": [v2.PILToTensor(), *crop_and_flip]}
        for way, parts in transforms.items():
            passes[f"{way} {name}"] = torchvision_pass(ImageFolder(str(folder), v2.Compose(parts)), batch, workers)
    return passes


def torchvision_pass(dataset: ImageFolder, batch: int, workers: int) -> Pass:
    # As ours: no worker beside a single thread.
    workers = workers if workers > 1 else 0
    loader = DataLoader(dataset, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)
    preprocessing = Preprocessing.imagenet(FULL_PX)
    mean, std = (255 * torch.tensor(figures).view(1, 3, 1, 1) for figures in (preprocessing.mean, preprocessing.std))

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        torch.manual_seed(epoch)
        for images, labels in loader:
            yield images.float().sub_(mean).div_(std), labels

    return batches


def images_a_second(one_pass: Pass, epoch: int) -> float:
    started = time.perf_counter()
    images = sum(len(labels) for _, labels in one_pass(epoch))
    return images / (time.perf_counter() - started)


def last_line(found: dict[str, Any]) -> dict[str, float]:
    """Medians over the rounds of the ratios within a round."""
    rates = found["images_a_second"]
    ratios = {f"{side}_over_torchvision": ratio(rates[f"ours {side}"], rates[f"{fastest_rival(rates, side)} {side}"]) for side in SIDES}
    return {**ratios, "half_over_full": ratio(rates["ours half"], rates["ours full"])}


def fastest_rival(rates: dict[str, list[float]], side: str) -> str:
    return max((way for way in WAYS if way != "ours"), key=lambda way: median(rates[f"{way} {side}"]))


def ratio(ours: list[float], others: list[float]) -> float:
    return median(one / other for one, other in zip(ours, others, strict=True))


def table(found: dict[str, Any]) -> str:
    """Median images a second, lowest and highest round, as markdown."""
    lines = [
        f"{found['images']} files, batch {found['batch']}, {found['workers']} workers, n = {found['n']} interleaved passes; "
        "images a second, median (lowest to highest)",
        "",
        "| way | full, 224 px | half, 112 px | half over full |",
        "|---|---|---|---|",
    ]
    for way, words in WAYS.items():
        full, half = (found["images_a_second"][f"{way} {side}"] for side in SIDES)
        cells = [f"{median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})" for rates in (full, half)]
        lines.append(f"| {words} | {cells[0]} | {cells[1]} | {ratio(half, full):.2f} |")
    if "device" in found:
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        lines += ["", f"{found['device']}; {versions}; commit {found['commit']}, {found['date']}: `{found['command']}`"]
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
