"""A schedule in a training as torchvision's reference script for classification makes it: mixed precision, clipping, averaged weights.

    python docs/examples/torchvision_training.py --schedule schedule.yaml

In references/classification/train.py the lines marked with (*) go into `main` and around the forward and backward pass of
`train_one_epoch`.
"""

from __future__ import annotations

import torch
from digit_scans import CLASSES, SIDE_PX, accuracy, arguments, loaders
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models import get_model

from trainers import Downsampler, Schedule

CLIP_NORM = 1.0


def main() -> None:
    """Trains, and evaluates the averaged weights."""
    args = arguments(__doc__)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, held_out = loaders(args.images)
    model = get_model("resnet18", num_classes=CLASSES).to(device)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    downsampler = Downsampler(model, Schedule.load(args.schedule), args.epochs * len(train), full_px=SIDE_PX)  # (*)

    for _ in range(args.epochs):
        model.train()
        for images, labels in train:
            with downsampler.step(images.to(device)) as step_images:  # (*)
                with torch.amp.autocast(device.type, enabled=device.type == "cuda"):
                    loss = criterion(model(step_images), labels.to(device))
                scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            averaged.update_parameters(model)
        rates.step()
    print(f"{downsampler.steps_done} steps, accuracy of the averaged weights {accuracy(averaged.cpu(), held_out):.3f}")


if __name__ == "__main__":
    main()
