"""A schedule in a training built of timm's parts as its train.py builds it: model, optimizer, schedule of rates, mixup, averaged weights.

    pip install timm
    python docs/examples/timm_training.py --schedule schedule.yaml

In timm's own train.py the lines marked with (*) go into `main` and `train_one_epoch`; mixup and augmentation see full images.
"""

from __future__ import annotations

import timm
import torch
from digit_scans import CLASSES, SIDE_PX, accuracy, arguments, loaders
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3

from trainers import Downsampler, Schedule


def main() -> None:
    """Trains, and evaluates the averaged weights."""
    args = arguments(__doc__)
    torch.manual_seed(0)
    train, held_out = loaders(args.images)
    model = timm.create_model("resnet18", num_classes=CLASSES)
    optimizer = create_optimizer_v2(model, opt="momentum", lr=0.05, weight_decay=5e-4)
    rates, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=args.epochs, step_on_epochs=False, updates_per_epoch=len(train))
    mixup = Mixup(mixup_alpha=0.2, label_smoothing=0.1, num_classes=CLASSES)
    averaged = ModelEmaV3(model, decay=0.99)
    criterion = SoftTargetCrossEntropy()
    downsampler = Downsampler(model, Schedule.load(args.schedule), args.epochs * len(train), full_px=SIDE_PX)  # (*)

    updates = 0
    for _ in range(args.epochs):
        model.train()
        for images, labels in train:
            mixed, targets = mixup(images, labels)
            with downsampler.step(mixed) as step_images:  # (*)
                loss = criterion(model(step_images), targets)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            averaged.update(model)
            updates += 1
            rates.step_update(updates)
    print(f"{downsampler.steps_done} steps, accuracy of the averaged weights {accuracy(averaged, held_out):.3f}")


if __name__ == "__main__":
    main()
