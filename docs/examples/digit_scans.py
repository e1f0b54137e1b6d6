"""Real images for the examples: the digit scans that ship inside scikit-learn, as 32-pixel images with three channels."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

SIDE_PX = 32
CLASSES = 10


def arguments(description: str | None) -> argparse.Namespace:
    """--schedule, --epochs and --images, which the examples have in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--schedule", required=True, help="a schedule file, such as `tuner best` writes")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=1280, help="how many to train with, at most 1541")
    return parser.parse_args()


def loaders(images: int, batch_size: int = 64) -> tuple[DataLoader, DataLoader]:
    """Training images, shuffled, and 256 others to evaluate with."""
    scans, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(scans).float().reshape(-1, 1, 8, 8) / 16
    sharp = F.interpolate(pixels, size=SIDE_PX, mode="bilinear", antialias=True).expand(-1, 3, -1, -1) - 0.5
    order = torch.randperm(len(sharp), generator=torch.Generator().manual_seed(0))
    train, held_out = order[256:][:images], order[:256]
    targets = torch.from_numpy(labels)
    return (
        DataLoader(TensorDataset(sharp[train], targets[train]), batch_size, shuffle=True),
        DataLoader(TensorDataset(sharp[held_out], targets[held_out]), 256),
    )


@torch.no_grad()
def accuracy(model: torch.nn.Module, loader: DataLoader) -> float:
    """Share of images that the network, in full, gets right."""
    model.eval()
    right = [(model(images).argmax(dim=1) == labels).sum() for images, labels in loader]
    return float(sum(right)) / len(loader.dataset)
