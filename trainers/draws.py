"""Which images are drawn from a dataset: stratified, seeded and checked."""

from __future__ import annotations

import numpy as np
from sklearn.utils import resample

from trainers.errors import InputError
from trainers.folders import Indices
from trainers.splits import mixed_seed


def draw_stratified(indices: Indices, labels: Indices, count: int, seed: int) -> Indices:
    """count of `indices` without repetition, sorted, each class with its share of them to within one image; labels: of `indices`.

    The same draw as in scikit-learn's train_test_split, which cannot leave fewer images than there are classes.
    """
    if count == 0:
        return indices[:0]
    drawn = resample(indices, n_samples=count, replace=False, stratify=labels, random_state=mixed_seed(seed))
    return np.sort(drawn)


def check_count(field: str, count: int, available: int, num_classes: int, has: str) -> None:
    """InputError unless num_classes <= count <= available; has: a sentence that takes the number available."""
    if count > available:
        raise InputError(f"{field} is {count}, but {has.format(available)}")
    if count < num_classes:
        raise InputError(f"{field} is {count}, it must be at least {num_classes}, one image a class")
