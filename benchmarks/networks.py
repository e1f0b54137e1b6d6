"""A network for a table that nobody has tuned a search on: neither residual nor trained with SGD, unlike those of the other tables."""

from __future__ import annotations

from torch import nn


def vgg6(num_classes: int) -> nn.Module:
    """Six 3x3 convolutions with batch norm, in pairs of 16, 32 and 64 channels with a maximum pooling after each but the last (after
    Simonyan and Zisserman 2014, arXiv 1409.1556), then the mean over pixels and a linear layer. For images of 32 pixels."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (16, 32, 64):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
