"""Images to train on and to validate on, by configuration. The test split opens in `load_test` alone, to confirm and never to select.

Every dataset gives three channels (greyscale repeated), because every classifier of torchvision takes three.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from trainers import digits
from trainers.config import DEFAULT_VAL_FRAC, DataConfig
from trainers.downloads import load_torchvision
from trainers.draws import check_count, draw_stratified
from trainers.errors import InputError
from trainers.folders import ImageFiles, ImageTensors, Indices, Preprocessing, channel_statistics, find_images
from trainers.splits import LoaderSplit, Split, TensorSplit, steps_per_epoch

__all__ = ["LoaderSplit", "Split", "TensorSplit", "TrainingData", "load_data", "load_test", "steps_per_epoch"]

# The largest split, decoded as uint8, that is kept on the device.
MAX_TENSOR_BYTES: Final = 2**30


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Disjoint splits for training and validation, both from the dataset's training part."""

    train: Split
    val: Split
    class_names: tuple[str, ...]
    preprocessing: Preprocessing

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


# Workers live on from trial to trial, and most trials of a study use the same images.
@functools.lru_cache(maxsize=2)
def load_data(config: DataConfig, device: torch.device) -> TrainingData:
    """Training and validation images, drawn stratified by class from config.split_seed: bit-equal in every process.

    The validation images do not depend on how many are drawn for training. cifar10, cifar100 and fashion_mnist are read from image folders
    `<root>/<name>/train/<class>/*` where there are any, else from torchvision's files under root, downloaded if need be.
    A split of image files becomes a TensorSplit if all its images at full side take at most MAX_TENSOR_BYTES as uint8, else a LoaderSplit.
    A training set in memory is normalised by its own mean and deviation, a larger one as ImageNet.
    InputError: images missing or unreadable, more asked for than there are, or fewer than one a class.
    """
    if config.name == "digits":
        train, val = digits.training_canvases(config)
        return _training_data(train, val, config, device)
    part = _part(config, "train")
    train_indices, val_indices = _draw(part, config)
    return _training_data(part.take(train_indices), part.take(val_indices), config, device)


@functools.lru_cache(maxsize=2)
def load_test(config: DataConfig, device: torch.device) -> Split:
    """The test split, every image of it, preprocessed as the validation split. An image folder has it as `test` or `val`."""
    data = load_data(config, device)
    if config.name == "digits":
        return _split(digits.test_canvases(), data.preprocessing, device)
    part = _part(config, "test")
    if part.class_names != data.class_names:
        different = sorted(set(part.class_names) ^ set(data.class_names))
        raise InputError(f"the test and training images of dataset '{config.name}' differ in their classes: {', '.join(different)}")
    return _split(part, data.preprocessing, device)


def _part(config: DataConfig, name: str) -> ImageFiles | ImageTensors:
    """The dataset's `train` or `test` part."""
    root = Path(config.root)
    if config.name != "folder":
        folder = root / config.name / name
        return find_images(folder) if folder.is_dir() else load_torchvision(config.name, root, train=name == "train")
    if name == "test" and not (root / "test").is_dir() and (root / "val").is_dir():
        return find_images(root / "val")
    return find_images(root / name)


def _draw(part: ImageFiles | ImageTensors, config: DataConfig) -> tuple[Indices, Indices]:
    """Positions of the training and of the validation images, disjoint."""
    labels, num_classes = part.labels, len(part.class_names)
    default = max(num_classes, round(DEFAULT_VAL_FRAC * len(labels)))
    val_images = default if config.val_images is None else config.val_images
    has = f"dataset '{config.name}' has only {{}} training images"
    check_count("val_images", val_images, len(labels), num_classes, has)
    val = draw_stratified(np.arange(len(labels)), labels, val_images, config.split_seed)
    rest = np.setdiff1d(np.arange(len(labels)), val)
    train_images = len(rest) if config.train_images is None else config.train_images
    check_count("train_images", train_images, len(rest), num_classes, f"{has} beside the {val_images} for validation")
    train = draw_stratified(rest, labels[rest], train_images, config.split_seed)
    missing = np.setdiff1d(np.arange(num_classes), labels[train])
    if len(missing):
        raise InputError(f"class '{part.class_names[missing[0]]}' has too few images: none of the {train_images} for training is of it")
    return train, val


def _training_data(
    train: ImageFiles | ImageTensors, val: ImageFiles | ImageTensors, config: DataConfig, device: torch.device
) -> TrainingData:
    side_px = config.full_px
    if isinstance(train, ImageFiles):
        if train.decoded_bytes(side_px) > MAX_TENSOR_BYTES:
            imagenet = Preprocessing.imagenet(side_px)
            return TrainingData(_split(train, imagenet, device), _split(val, imagenet, device), train.class_names, imagenet)
        train = train.decode(side_px, side_px)
    preprocessing = Preprocessing(side_px, side_px, *channel_statistics(train.images))
    return TrainingData(_split(train, preprocessing, device), _split(val, preprocessing, device), train.class_names, preprocessing)


def _split(part: ImageFiles | ImageTensors, preprocessing: Preprocessing, device: torch.device) -> Split:
    if isinstance(part, ImageFiles):
        if part.decoded_bytes(preprocessing.side_px) > MAX_TENSOR_BYTES:
            return LoaderSplit(part, preprocessing, device)
        part = part.decode(preprocessing.side_px, preprocessing.resize_px)
    return TensorSplit(part.images.to(device), torch.from_numpy(part.labels).to(device), preprocessing)
