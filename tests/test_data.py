"""Splits of real images: what is drawn, and what comes out in batches."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cifar import cifar10_root
from images import CPU, evaluated, fingerprints, trained
from PIL import Image

from trainers.config import DataConfig
from trainers.data import TensorSplit, load_data, load_test, steps_per_epoch

DIGITS = DataConfig(name="digits")


@pytest.fixture
def cifar_root(tmp_path: Path) -> str:
    """A root whose folder `cifar10` is the real one, wherever it lies."""
    (tmp_path / "cifar10").symlink_to(cifar10_root(), target_is_directory=True)
    return str(tmp_path)


@pytest.mark.parametrize(("images", "batch_size", "steps"), [(100, 32, 3), (96, 32, 3), (31, 32, 1), (1, 1, 1), (5, 5, 1)])
def test_steps_per_epoch(images: int, batch_size: int, steps: int) -> None:
    assert steps_per_epoch(images, batch_size) == steps
    split = TensorSplit(torch.zeros(images, 3, 4, 4, dtype=torch.uint8), torch.arange(images), load_data(DIGITS, CPU).preprocessing)
    batches = list(split.batches(batch_size, training=True))
    assert [len(labels) for _, labels in batches] == [min(images, batch_size)] * steps


def test_training_batches_hold_each_image_at_most_once_in_an_order_of_seed_and_epoch() -> None:
    split = load_data(DIGITS, CPU).train
    images, labels = evaluated(split)
    label_of = dict(zip(fingerprints(images), labels.tolist(), strict=True))
    first, first_labels = trained(split, 64, seed=1, epoch=0)
    assert len(first) == len(split) // 64 * 64
    assert len(set(fingerprints(first))) == len(first)
    assert [label_of[key] for key in fingerprints(first)] == first_labels.tolist()
    assert torch.equal(first, trained(split, 64, seed=1, epoch=0)[0])
    others = [trained(split, 64, seed=seed, epoch=epoch)[0] for seed, epoch in ((1, 1), (2, 0), (0, 1))]
    assert all(not torch.equal(first, other) for other in others)
    assert not torch.equal(others[0], others[1])
    # The dropped images change from epoch to epoch.
    assert set(fingerprints(others[0])) != set(fingerprints(first))


def test_training_batches_leave_the_global_generator_alone() -> None:
    torch.manual_seed(4)
    state = torch.get_rng_state()
    trained(load_data(DIGITS, CPU).train, 100, augment=("crop", "flip", "cutout"))
    assert torch.equal(torch.get_rng_state(), state)


def test_augmentation_follows_seed_and_epoch_and_keeps_labels() -> None:
    split = load_data(DIGITS, CPU).train
    plain, labels = trained(split, 128, seed=3, epoch=2)
    flipped, flipped_labels = trained(split, 128, seed=3, epoch=2, augment=("flip",))
    assert torch.equal(labels, flipped_labels)
    mirrored = (flipped == plain.flip(-1)).flatten(1).all(1)
    unchanged = (flipped == plain).flatten(1).all(1)
    assert (mirrored | unchanged).all()
    assert 0.4 < float(mirrored.float().mean()) < 0.6
    assert torch.equal(flipped, trained(split, 128, seed=3, epoch=2, augment=("flip",))[0])


def test_evaluation_gives_every_image_in_order_untouched(cifar_root: str) -> None:
    data = load_data(DataConfig(name="cifar10", root=cifar_root, train_images=200, val_images=50), CPU)
    assert isinstance(data.train, TensorSplit)
    images, labels = evaluated(data.train, 33)
    assert (images.dtype, images.shape, labels.dtype) == (torch.float32, (200, 3, 32, 32), torch.int64)
    assert torch.equal(labels, data.train.labels)
    pixels = data.train.images.numpy().astype(np.float64) / 255
    by_hand = (pixels - pixels.mean((0, 2, 3), keepdims=True)) / pixels.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(images.numpy(), by_hand, atol=1e-5)
    # Validation images are normalised by the training images' figures, not by their own.
    val = data.val.images.numpy().astype(np.float64) / 255
    by_hand = (val - pixels.mean((0, 2, 3), keepdims=True)) / pixels.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(evaluated(data.val)[0].numpy(), by_hand, atol=1e-5)


def test_cifar10_is_balanced_disjoint_and_what_the_files_hold(cifar_root: str) -> None:
    data = load_data(DataConfig(name="cifar10", root=cifar_root, train_images=1000, val_images=500), CPU)
    assert (len(data.train), len(data.val), data.num_classes) == (1000, 500, 10)
    assert Counter(evaluated(data.train)[1].tolist()) == dict.fromkeys(range(10), 100)
    assert Counter(evaluated(data.val)[1].tolist()) == dict.fromkeys(range(10), 50)
    assert data.class_names == tuple(sorted(folder.name for folder in (cifar10_root() / "train").iterdir()))
    train, val = (fingerprints(split.images) for split in (data.train, data.val))
    assert not set(train) & set(val)
    # Every drawn frog is one of the frog files, pixel for pixel.
    files = (cifar10_root() / "train" / "frog").iterdir()
    frogs = {np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1).tobytes() for file in files}
    frog = data.class_names.index("frog")
    drawn = [key for key, label in zip(train, data.train.labels.tolist(), strict=True) if label == frog]
    assert set(drawn) <= frogs
    assert not {key for key, label in zip(train, data.train.labels.tolist(), strict=True) if label != frog} & frogs


def test_validation_images_do_not_depend_on_the_training_draw_but_on_the_split_seed(cifar_root: str) -> None:
    def val(**fields: Any) -> list[bytes]:
        return fingerprints(load_data(DataConfig(name="cifar10", root=cifar_root, val_images=103, **fields), CPU).val.images)

    assert val(train_images=107) == val(train_images=211)
    assert set(val(train_images=107)) != set(val(train_images=107, split_seed=1))


def test_uneven_draws_are_balanced_to_within_one_image(cifar_root: str) -> None:
    data = load_data(DataConfig(name="cifar10", root=cifar_root, train_images=107, val_images=23), CPU)
    assert set(Counter(evaluated(data.train)[1].tolist()).values()) == {10, 11}
    assert set(Counter(evaluated(data.val)[1].tolist()).values()) == {2, 3}


def test_test_split_is_whole_and_takes_the_training_normalisation(tmp_path: Path) -> None:
    (tmp_path / "own" / "cifar10").mkdir(parents=True)
    (tmp_path / "own" / "cifar10" / "train").symlink_to(cifar10_root() / "train", target_is_directory=True)
    for folder in (cifar10_root() / "test").iterdir():
        (tmp_path / "own" / "cifar10" / "test" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:7]:
            (tmp_path / "own" / "cifar10" / "test" / folder.name / file.name).symlink_to(file)
    config = DataConfig(name="cifar10", root=str(tmp_path / "own"), train_images=100, val_images=100)
    train, test = load_data(config, CPU).train.images.numpy() / 255, load_test(config, CPU)
    images, labels = evaluated(test)
    assert labels.tolist() == [label for label in range(10) for _ in range(7)]
    by_hand = (test.images.numpy() / 255 - train.mean((0, 2, 3), keepdims=True)) / train.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(images.numpy(), by_hand, atol=1e-5)


def test_training_needs_no_test_files(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "train").symlink_to(cifar10_root() / "train", target_is_directory=True)
    config = DataConfig(name="cifar10", root=str(tmp_path), train_images=10, val_images=10)
    assert len(load_data(config, CPU).train) == 10


HASH = """
import hashlib, sys, torch
from trainers.config import DataConfig
from trainers.data import load_data
cifar10 = DataConfig(name="cifar10", root=sys.argv[1], train_images=300, val_images=100)
for config in (cifar10, DataConfig(name="digits", train_images=1500)):
    data = load_data(config, torch.device("cpu"))
    digest = hashlib.sha256()
    for split in (data.train, data.val):
        digest.update(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
    for images, labels in data.train.batches(128, seed=3, epoch=1, augment=("crop", "flip", "cutout"), training=True):
        digest.update(images.numpy().tobytes() + labels.numpy().tobytes())
    print(digest.hexdigest())
"""


def test_another_process_gets_bit_equal_images_and_batches(cifar_root: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    repository = str(Path(__file__).resolve().parents[1])
    # Another hash seed: the order of a set or dict of strings would show.
    environment = os.environ | {"PYTHONPATH": repository, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", HASH, cifar_root]
    other = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    monkeypatch.setattr(sys, "argv", ["", cifar_root])
    exec(HASH, {})
    assert capsys.readouterr().out == other
    assert len(set(other.split())) == 2


def test_same_configuration_is_loaded_once() -> None:
    assert load_data(DIGITS, CPU) is load_data(DataConfig(name="digits"), torch.device("cpu"))
