"""Epochs of our `train` and of the hand-written loop in turn, on the same network, images and optimizer, with the same learning rates."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from benchmarks.plain import PlainLoop
from trainers.config import DataConfig, TrainConfig
from trainers.data import TensorSplit, load_data
from trainers.device import resolve_device
from trainers.loop import Training
from trainers.models import build_training_model

CLASSES: Final = 10
# Dropped: the first epochs fetch memory and, on a GPU, load kernels.
WARM_UP: Final = 2


@contextmanager
def noise_config(arguments: argparse.Namespace) -> Iterator[TrainConfig]:
    """A training at full resolution on made-up images, which lie in a folder until they are loaded."""
    with tempfile.TemporaryDirectory() as folder:
        _write_noise(Path(folder), arguments.steps * arguments.batch, arguments.side)
        yield TrainConfig(
            model=arguments.model,
            data=DataConfig(
                name="folder", root=folder, side_px=arguments.side, train_images=arguments.steps * arguments.batch, val_images=CLASSES
            ),
            epochs=arguments.pairs + WARM_UP,
            batch_size=arguments.batch,
            lr=0.01,
            augment=("crop", "flip"),
            precision=arguments.precision,
            device=arguments.device,
            threads=arguments.threads,
        )


def plain_loop(config: TrainConfig) -> PlainLoop:
    """The hand-written loop on the images that `train` would load."""
    device = resolve_device(config.device)
    data = load_data(config.data, device)
    if not isinstance(data.train, TensorSplit):
        raise TypeError("these images don't fit into memory: take fewer steps or smaller sides")
    torch.manual_seed(config.seed)
    return PlainLoop(config, build_training_model(config, data.num_classes, device), data.train.images, data.train.labels)


def measure(config: TrainConfig, say: Callable[[str], None], limit_s: float) -> dict[str, Any]:
    """Seconds of each pair of epochs, who is first in turn; stops after limit_s."""
    training = Training(config)
    plain = plain_loop(config)
    sides = {"ours": lambda: _epoch_of(training), "plain": lambda: seconds_of(plain.epoch)}
    for _ in range(WARM_UP):
        for run in sides.values():
            run()
    taken: dict[str, list[float]] = {"ours": [], "plain": []}
    started = time.monotonic()
    while not training.done and time.monotonic() - started < limit_s:
        for name in sorted(sides, reverse=len(taken["ours"]) % 2 == 0):
            taken[name].append(sides[name]())
        say(f"pair {len(taken['ours'])}: ours {taken['ours'][-1]:.3f} s, by hand {taken['plain'][-1]:.3f} s")
    return summary(taken["ours"], taken["plain"], plain.steps)


def summary(ours_s: list[float], plain_s: list[float], steps: int) -> dict[str, Any]:
    """Step rates over those of the hand-written loop: median of the pairs, its quartiles, and the ratio of the fastest quarters."""
    ratios = [plain / ours for ours, plain in zip(ours_s, plain_s, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    fastest = [fmean(sorted(seconds)[: max(1, len(seconds) // 4)]) for seconds in (plain_s, ours_s)]
    return {
        "step_rate_ratio": median(ratios),
        "quartiles": [low, high],
        "fastest_quarters_ratio": fastest[0] / fastest[1],
        "pairs": len(ratios),
        "steps_an_epoch": steps,
        "plain_ms_a_step": 1000 * median(plain_s) / steps,
        "seconds": ours_s,
        "plain_seconds": plain_s,
    }


def seconds_of(run: Callable[[], Any]) -> float:
    """Wall seconds of an epoch, which ends with a read of its loss and so waits for the GPU."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _epoch_of(training: Training) -> float:
    """Without the evaluation, which the other side leaves out."""
    before_s = training.seconds()["evaluation"]
    seconds = seconds_of(training.run_epoch)
    return seconds - (training.seconds()["evaluation"] - before_s)


def _write_noise(root: Path, train_images: int, side_px: int) -> None:
    draw = np.random.default_rng(0)
    for label in range(CLASSES):
        folder = root / "train" / str(label)
        folder.mkdir(parents=True)
        for index in range(-(-train_images // CLASSES) + 1):
            pixels = draw.integers(256, size=(side_px, side_px, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png", compress_level=0)
