"""scikit-learn's 1,797 real 8x8 scans of handwritten digits (Alpaydin and Kaynak 1998, UCI), each drawn at a random size and place on a
32x32 canvas, so that resolution matters: a digit of 10 px is hard to read at half the side. Needs no download. Our own choice.

The scans are split before any canvas is drawn, so no scan is in two splits: 20 % test (the same whatever the split seed), then 20 %
validation and 60 % training. A training scan may be drawn up to MAX_PLACEMENTS times, each time elsewhere.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

from trainers.config import DATASET_SIDE_PX, DataConfig
from trainers.draws import check_count, draw_stratified
from trainers.folders import ImageTensors, Indices
from trainers.splits import mixed_seed

MAX_PLACEMENTS: Final = 4
MIN_SCAN_PX: Final = 10
MAX_SCAN_PX: Final = 28
CLASS_NAMES: Final = tuple("0123456789")
_TEST_FRAC: Final = 0.2
# Of what the test scans leave: 20 % of all.
_VAL_FRAC: Final = 0.25
_TRAIN, _VAL, _TEST = range(3)


def training_canvases(config: DataConfig) -> tuple[ImageTensors, ImageTensors]:
    """Canvases for training (default: one a training scan) and validation (default and most: one a validation scan)."""
    _, labels = _scans()
    rest, _ = _test_scans()
    train, val = train_test_split(rest, test_size=_VAL_FRAC, stratify=labels[rest], random_state=mixed_seed(config.split_seed))
    train_images = len(train) if config.train_images is None else config.train_images
    val_images = len(val) if config.val_images is None else config.val_images
    most = f"dataset 'digits' has only {{}} training images ({len(train)} scans, each drawn {MAX_PLACEMENTS} times)"
    check_count("train_images", train_images, MAX_PLACEMENTS * len(train), len(CLASS_NAMES), most)
    check_count("val_images", val_images, len(val), len(CLASS_NAMES), "dataset 'digits' has only {} validation images")
    return (
        _canvases(_draw(train, train_images, config.split_seed), (config.split_seed, _TRAIN)),
        _canvases(_draw(val, val_images, config.split_seed), (config.split_seed, _VAL)),
    )


def test_canvases() -> ImageTensors:
    """One canvas a test scan."""
    _, test = _test_scans()
    return _canvases(test, (0, _TEST))


@functools.cache
def _scans() -> tuple[npt.NDArray[np.float32], Indices]:
    """All scans [1797, 8, 8] with ink in [0, 1], and their digits."""
    ink, labels = load_digits(return_X_y=True)
    return (ink / 16).reshape(-1, 8, 8).astype(np.float32), labels.astype(np.int64)


def _test_scans() -> tuple[Indices, Indices]:
    """Positions of the other scans, and of the test scans."""
    _, labels = _scans()
    rest, test = train_test_split(np.arange(len(labels)), test_size=_TEST_FRAC, stratify=labels, random_state=0)
    return rest, test


def _draw(scans: Indices, count: int, seed: int) -> Indices:
    """count of the scans: all of them as often as count allows, then a stratified draw for the rest."""
    _, labels = _scans()
    times, rest = divmod(count, len(scans))
    return np.concatenate([np.tile(scans, times), draw_stratified(scans, labels[scans], rest, seed)])


def _canvases(chosen: Indices, seeds: tuple[int, int]) -> ImageTensors:
    scans, labels = _scans()
    size_frac, *centre = _placements(len(chosen), seeds)
    # Maps canvas to scan coordinates, both from -1 to 1 across: canvas pixels outside the scan are read as 0, no ink.
    zeros = torch.zeros_like(size_frac)
    rows = [torch.stack([1 / size_frac, zeros, -centre[0] / size_frac]), torch.stack([zeros, 1 / size_frac, -centre[1] / size_frac])]
    transforms = torch.stack(rows).permute(2, 0, 1)
    side_px = DATASET_SIDE_PX["digits"]
    grid = F.affine_grid(transforms, [len(chosen), 1, side_px, side_px], align_corners=False)
    ink = F.grid_sample(torch.from_numpy(scans[chosen])[:, None], grid, padding_mode="zeros", align_corners=False)
    # Three equal channels: every network of torchvision takes three.
    images = (ink * 255).round().to(torch.uint8).repeat(1, 3, 1, 1)
    return ImageTensors(images, labels[chosen], CLASS_NAMES)


def _placements(count: int, seeds: tuple[int, int]) -> list[Tensor]:
    """Scan side over canvas side, and the scan's centre (x, y) on a canvas from -1 to 1, such that it lies wholly inside; [count] each."""
    # Row by row, so that the first canvases stay the same when more are asked for.
    draws = torch.from_numpy(np.random.default_rng(seeds).random((count, 3), dtype=np.float32)).unbind(1)
    side_px = DATASET_SIDE_PX["digits"]
    size_frac = (MIN_SCAN_PX + (MAX_SCAN_PX - MIN_SCAN_PX) * draws[0]) / side_px
    return [size_frac, *((2 * draw - 1) * (1 - size_frac) for draw in draws[1:])]
