"""The rival of our `train`: what a good engineer writes by hand for one network on images that fit into memory, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from trainers.config import TrainConfig

SHIFT_PX: Final = 4


class PlainLoop:
    """Crop and flip, SGD with Nesterov momentum and a one-cycle learning rate, on images [N, 3, H, W] uint8 and labels on the device."""

    def __init__(self, config: TrainConfig, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        self.config, self.model, self.labels = config, model, labels
        self.side_px = images.shape[-1]
        self.bf16 = config.precision == "bf16" and images.is_cuda
        scaled = images.float() / 255
        mean, std = scaled.mean((0, 2, 3), keepdim=True), scaled.std((0, 2, 3), keepdim=True)
        padded = F.pad(scaled, [SHIFT_PX] * 4)
        # Channels last, so that one index an image row and column fetches all channels.
        self.images = ((padded - mean) / std).permute(0, 2, 3, 1).contiguous()
        self.steps = len(labels) // config.batch_size
        self.optimizer = build_optimizer(config, model)
        self.curve = OneCycleLR(self.optimizer, config.lr, total_steps=config.epochs * self.steps, cycle_momentum=False)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch."""
        order = torch.randperm(len(self.labels), device=self.labels.device)
        for chosen in order.split(self.config.batch_size)[: self.steps]:
            yield self._augmented(chosen), self.labels[chosen]

    def epoch(self) -> float:
        """Trains one epoch and returns its mean loss."""
        self.model.train()
        total = torch.zeros((), device=self.labels.device)
        for images, labels in self.batches():
            with torch.autocast("cuda", torch.bfloat16) if self.bf16 else nullcontext():
                loss = F.cross_entropy(self.model(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.curve.step()
            total += loss.detach()
        return float(total) / self.steps

    def _augmented(self, chosen: Tensor) -> Tensor:
        device = chosen.device
        top, left = torch.randint(2 * SHIFT_PX + 1, (2, len(chosen), 1), device=device)
        pixel = torch.arange(self.side_px, device=device)
        columns = torch.where(torch.rand(len(chosen), 1, device=device) < 0.5, pixel, self.side_px - 1 - pixel) + left
        return self.images[chosen[:, None, None], (top + pixel)[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.SGD:
    """Weight decay on matrices and filters only, as ours."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=True, fused=True)
