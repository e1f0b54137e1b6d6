"""A schedule in a plain PyTorch loop: the three lines of the README, with checkpoints.

python docs/examples/plain_loop.py --schedule schedule.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from digit_scans import CLASSES, SIDE_PX, accuracy, arguments, loaders
from torch import nn
from torchvision.models import resnet18

from trainers import Downsampler, Schedule
from trainers.errors import InputError

CHECKPOINT = Path("plain_loop.pt")


def main() -> None:
    """Trains, and goes on from the last epoch where it was interrupted."""
    args = arguments(__doc__)
    train, held_out = loaders(args.images)
    torch.manual_seed(0)
    model = resnet18(num_classes=CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss()
    downsampler = Downsampler(model, Schedule.load(args.schedule), total_steps=args.epochs * len(train), full_px=SIDE_PX)
    first_epoch = 0
    if CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT, weights_only=True)
        try:
            downsampler.load_state_dict(saved["downsampler"])
        except InputError as error:
            sys.exit(f"{CHECKPOINT} is of another training, delete it to begin anew: {error}")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first_epoch = saved["epochs"]
        print(f"going on from {CHECKPOINT}, which has {first_epoch} of {args.epochs} epochs")

    for epoch in range(first_epoch, args.epochs):
        model.train()
        for images, labels in train:
            # The backward pass belongs inside.
            with downsampler.step(images) as step_images:
                loss = criterion(model(step_images), labels)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: {downsampler.steps_done} steps, accuracy {accuracy(model, held_out):.3f}")
        saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "downsampler": downsampler.state_dict()}
        torch.save(saved | {"epochs": epoch + 1}, CHECKPOINT)


if __name__ == "__main__":
    main()
