"""Canvases of real digit scans: whose scan is in which split, where it lies, and that resolution matters."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from images import CPU, evaluated, fingerprints
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from trainers import digits
from trainers.config import DataConfig
from trainers.data import load_data, load_test
from trainers.digits import MAX_PLACEMENTS
from trainers.errors import InputError

DIGITS = DataConfig(name="digits")


def recovered(canvases: Tensor) -> np.ndarray[Any, Any]:
    """Each canvas's scan cut out at its ink and drawn on 8 x 8 again, [N, 64]."""
    scans = []
    for canvas in canvases[:, 0].numpy():
        rows, columns = np.nonzero(canvas > 20)
        cut = Image.fromarray(canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
        scans.append(np.asarray(cut.resize((8, 8), Image.Resampling.BOX), dtype=np.float64).ravel())
    return np.array(scans)


def ink_sizes(canvases: Tensor) -> np.ndarray[Any, Any]:
    """Height of the ink in pixels, [N]."""
    return (canvases[:, 0] > 20).any(2).sum(1).numpy()


def test_digits_are_split_60_20_20_and_stratified() -> None:
    data, test = load_data(DIGITS, CPU), load_test(DIGITS, CPU)
    assert (len(data.train), len(data.val), len(test)) == (1077, 360, 360)
    assert data.class_names == tuple("0123456789")
    scans = Counter(load_digits().target.tolist())
    for split, share in ((data.train, 0.6), (data.val, 0.2), (test, 0.2)):
        counts = Counter(evaluated(split)[1].tolist())
        assert all(abs(counts[digit] - share * scans[digit]) < 2 for digit in range(10))


def test_digit_splits_share_no_scan_and_the_test_scans_are_the_same_for_every_split_seed() -> None:
    drawn: list[list[int]] = []
    placed: list[tuple[int, int]] = []
    for seed in (0, 1):
        config = DataConfig(name="digits", split_seed=seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(digits, "_canvases", lambda chosen, seeds: placed.append(seeds) or drawn.append(chosen.tolist()))
            digits.training_canvases(config)
            digits.test_canvases()
    train, val, test, train_1, val_1, test_1 = (set(scans) for scans in drawn)
    assert sorted(train | val | test) == list(range(1797))
    assert sorted(train_1 | val_1 | test_1) == list(range(1797))
    assert len(train) + len(val) + len(test) == 1797
    assert test == test_1
    # Placements are drawn apart for every split and split seed; those of the test scans stay.
    assert placed[2] == placed[5]
    assert len(set(placed)) == 5
    assert val != val_1


def test_every_canvas_holds_its_whole_scan_at_varying_size_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, draw = [], digits._canvases
    monkeypatch.setattr(digits, "_canvases", lambda scans, seeds: chosen.append(scans) or draw(scans, seeds))
    canvases = digits.training_canvases(DIGITS)[0].images
    assert torch.equal(canvases[:, 0], canvases[:, 1])
    assert torch.equal(canvases[:, 0], canvases[:, 2])
    # Ink grows with the area of the scan, none is lost: so it tells the side at which each scan was drawn.
    ink = canvases[:, 0].float().sum((1, 2)).numpy() / 255
    sides = 8 * np.sqrt(ink / (load_digits().images[chosen[0]].sum((1, 2)) / 16))
    assert 9.8 < sides.min() < 10.2
    assert 27.8 < sides.max() < 28.2
    assert sides.mean() == pytest.approx(19, abs=0.6)
    # The height of the ink says the same, give or take the blur of half a scan pixel at each end.
    assert (np.abs(ink_sizes(canvases) / sides - 1) < 0.3).mean() > 0.95
    covered = (canvases[:, 0] > 20).any(0)
    # A scan's own outermost columns are nearly empty.
    assert covered.any(0)[1:-1].all(), "digits must reach every column of the canvas"
    assert covered.any(1).all(), "digits must reach every row of the canvas"


def test_digits_are_readable_and_resolution_matters() -> None:
    data = load_data(DIGITS, CPU)
    truth = data.val.labels.numpy()
    reader = KNeighborsClassifier(3).fit(recovered(data.train.images), data.train.labels.numpy())

    def accuracy(side_px: int) -> float:
        reduced = torch.nn.functional.interpolate(data.val.images.float(), side_px, mode="bilinear", antialias=True)
        restored = torch.nn.functional.interpolate(reduced, 32, mode="bilinear")
        return float(reader.score(recovered(restored.round().to(torch.uint8)), truth))

    assert accuracy(32) > 0.85
    assert accuracy(32) - accuracy(8) > 0.2
    # The loss is at the small ones.
    small = ink_sizes(data.val.images) < 16
    assert 0.2 < small.mean() < 0.6


def test_more_digit_canvases_are_other_placements_of_the_same_scans() -> None:
    most = load_data(DataConfig(name="digits", train_images=MAX_PLACEMENTS * 1077, val_images=101), CPU)
    once = load_data(DIGITS, CPU)
    assert torch.equal(most.train.images[:1077], once.train.images)
    assert torch.equal(most.train.labels, once.train.labels.repeat(MAX_PLACEMENTS))
    assert len(set(fingerprints(most.train.images))) == MAX_PLACEMENTS * 1077
    assert len(most.val) == 101
    some = load_data(DataConfig(name="digits", train_images=1077 + 55), CPU)
    assert set(Counter(some.train.labels[1077:].tolist()).values()) <= {5, 6}


def test_another_split_seed_gives_other_canvases() -> None:
    assert not torch.equal(load_data(DIGITS, CPU).train.images, load_data(DataConfig(name="digits", split_seed=5), CPU).train.images)
    assert torch.equal(load_test(DIGITS, CPU).images, load_test(DataConfig(name="digits", split_seed=5), CPU).images)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"train_images": 4309},
            "train_images is 4309, but dataset 'digits' has only 4308 training images (1077 scans, each drawn 4 times)",
        ),
        ({"val_images": 361}, "val_images is 361, but dataset 'digits' has only 360 validation images"),
        ({"train_images": 9}, "train_images is 9, it must be at least 10, one image a class"),
    ],
)
def test_digit_draws_that_cannot_be_made(fields: dict[str, int], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        load_data(DataConfig(name="digits", **fields), CPU)
    assert str(caught.value) == sentence
