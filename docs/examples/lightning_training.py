"""A schedule in a Lightning training: one callback.

pip install lightning
python docs/examples/lightning_training.py --schedule schedule.yaml
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from digit_scans import CLASSES, SIDE_PX, arguments, loaders
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torchvision.models import resnet18

from trainers.lightning import DownsamplingCallback


class DigitClassifier(LightningModule):
    """Nothing here knows of schedules."""

    def __init__(self) -> None:
        super().__init__()
        self.network = resnet18(num_classes=CLASSES)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The loss of a batch."""
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        """Accuracy of the network in full."""
        images, labels = batch
        self.log("accuracy", (self.network(images).argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As in the plain loop."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def main() -> None:
    """Trains; the trainer's checkpoints hold the schedule's place too."""
    args = arguments(__doc__)
    seed_everything(0, verbose=False)
    train, held_out = loaders(args.images)
    schedule = DownsamplingCallback(args.schedule, full_px=SIDE_PX, network="network")
    trainer = Trainer(max_epochs=args.epochs, callbacks=[schedule], accelerator="auto", logger=False, enable_progress_bar=False)
    trainer.fit(DigitClassifier(), train, held_out)
    print(f"{schedule.downsampler.steps_done} steps, accuracy {trainer.callback_metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
