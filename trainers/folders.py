"""Image folders: which files there are, and all of them decoded into memory."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from trainers.decoding import read_image
from trainers.errors import InputError

Indices = npt.NDArray[np.int64]
# Evaluation of large images shows the centre 224 of 256 px, scaled to the side in use: torchvision's and FFCV's way on ImageNet.
IMAGENET_RESIZE: Final = 256 / 224
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From file to network: the shorter side resized to resize_px, the centre side_px cut out, channels in [0, 1] normalised."""

    side_px: int
    resize_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def imagenet(cls, side_px: int) -> Preprocessing:
        return cls(side_px, round(side_px * IMAGENET_RESIZE), IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Labelled image files in a fixed order. names: paths below `folder` as bytes [N]; labels: int64 [N], positions in class_names."""

    folder: Path
    # A list of a million strings would be copied into every worker, object by object; an array is one block.
    names: npt.NDArray[np.bytes_]
    labels: Indices
    class_names: tuple[str, ...]

    def path(self, index: int) -> Path:
        return self.folder / os.fsdecode(self.names[index])

    def take(self, indices: Indices) -> ImageFiles:
        return ImageFiles(self.folder, self.names[indices], self.labels[indices], self.class_names)

    def decoded_bytes(self, side_px: int) -> int:
        """Size of all images as uint8 [N, 3, side_px, side_px]."""
        return len(self.labels) * 3 * side_px**2

    def decode(self, side_px: int, resize_px: int) -> ImageTensors:
        """Every image, resized and centre-cropped as for evaluation."""
        images = torch.empty((len(self.labels), 3, side_px, side_px), dtype=torch.uint8)

        def decode_one(index: int) -> None:
            images[index] = read_image(self.path(index), side_px, resize_px).permute(2, 0, 1)

        # Pillow decodes without holding the interpreter, so threads help, as many as the training was given.
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            for _ in threads.map(decode_one, range(len(images))):
                pass
        return ImageTensors(images, self.labels, self.class_names)


@dataclass(frozen=True, slots=True)
class ImageTensors:
    """Labelled images in memory: uint8 [N, 3, H, W] on the CPU; labels: int64 [N], positions in class_names."""

    images: Tensor
    labels: Indices
    class_names: tuple[str, ...]

    def take(self, indices: Indices) -> ImageTensors:
        return ImageTensors(self.images[torch.from_numpy(indices)], self.labels[indices], self.class_names)


def find_images(folder: Path) -> ImageFiles:
    """The files `<folder>/<class>/**/*`, classes and files sorted by name. InputError if there are none, or a class has none."""
    try:
        class_names, positions = find_classes(str(folder))
        found = make_dataset(str(folder), positions, extensions=IMG_EXTENSIONS)
    except OSError as error:
        # torchvision says which class is empty; the system says why a folder cannot be read.
        raise InputError(f"image folder '{folder}' must hold one folder of images a class: {error.strerror or error}") from error
    names = np.array([os.fsencode(os.path.relpath(path, folder)) for path, _ in found])
    return ImageFiles(folder, names, np.array([label for _, label in found]), tuple(class_names))


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images [N, C, H, W], as shares of 255.

    Counted by pixel value: whole numbers give the same figures on every machine, and no float copy of all images is needed.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]).double()
    shares = counts / counts.sum(1, keepdim=True)
    mean = (shares * values).sum(1)
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    # A channel of one value everywhere has deviation 0; one grey level keeps the division finite.
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp(min=1 / 255).tolist())
