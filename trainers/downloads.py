"""The datasets that torchvision knows and can download."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from trainers.errors import InputError
from trainers.folders import ImageTensors

# torchvision's class of each dataset, and the folder that it makes under the root.
_SOURCES: Final[dict[str, tuple[Any, str]]] = {
    "cifar10": (datasets.CIFAR10, datasets.CIFAR10.base_folder),
    "cifar100": (datasets.CIFAR100, datasets.CIFAR100.base_folder),
    "fashion_mnist": (datasets.FashionMNIST, "FashionMNIST"),
}


def load_torchvision(name: str, root: Path, *, train: bool) -> ImageTensors:
    """The training or test part of a dataset from torchvision's files under root, downloaded if they are not there."""
    source, folder = _SOURCES[name]
    try:
        dataset = _open(source, root, folder, train)
    except (OSError, RuntimeError) as error:
        looked = f"neither in image folders {root / name}/train/<class>/ and /test/<class>/ nor in torchvision's {root / folder}"
        way = f"run torchvision.datasets.{source.__name__}({str(root)!r}, download=True) where there is a network and copy what it made"
        raise InputError(f"dataset '{name}' is {looked}, and cannot be downloaded ({_first_line(error)}): {way}") from error
    # [N, H, W, 3] as numpy in CIFAR, [N, H, W] as a tensor in Fashion-MNIST, which gets three equal channels.
    pixels: Tensor = torch.as_tensor(dataset.data)
    images = pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None].expand(-1, 3, -1, -1)
    return ImageTensors(images, np.asarray(dataset.targets, dtype=np.int64), tuple(dataset.classes))


def _open(source: Any, root: Path, folder: str, train: bool) -> Any:
    try:
        return source(root, train=train)
    except RuntimeError:
        # torchvision's way to say that its files are missing or damaged.
        _download(source, root, folder)
    return source(root, train=train)


def _download(source: Any, root: Path, folder: str) -> None:
    """Beside its place and then moved there, because several workers may need the same dataset at once."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary:
        source(temporary, download=True)
        try:
            (Path(temporary) / folder).rename(root / folder)
        except OSError:
            # Another worker was first; if what lies there is damaged, opening it says so.
            if not (root / folder).is_dir():
                raise


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(":") if str(error).strip() else type(error).__name__
