"""Accuracy of a network: on the validation split after every epoch, and on the test split to confirm."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from trainers.config import TrainConfig
from trainers.data import Split, load_test
from trainers.ranks import ALONE, Ranks
from trainers.watchdog import UNWATCHED, Watch


def evaluate_test(config: TrainConfig, model: nn.Module) -> float:
    """Accuracy on the test split, the only place where it is opened: call it to confirm, never to select."""
    device = next(model.parameters()).device
    return evaluate(model, load_test(config.data, device), config.batch_size)[0]


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, batch_size: int, ranks: Ranks = ALONE, watchdog: Watch = UNWATCHED) -> tuple[float, float]:
    """Accuracy (share) and mean cross-entropy of the full network over a split, which the ranks share out."""
    # The first batch may have to wait for the processes of a loader.
    watchdog.pause()
    model.eval()
    device = next(model.parameters()).device
    # Summed on the device and read once: a read a batch would make the GPU wait.
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), device=device)
    for images, labels in split.batches(batch_size, seed=0, epoch=0, augment=(), training=False, ranks=ranks):
        logits = model(images)
        correct += (logits.argmax(1) == labels).sum()
        loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        watchdog.alive(share=None)
    return ranks.total(float(correct)) / len(split), ranks.total(float(loss)) / len(split)
