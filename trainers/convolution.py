"""One layer's convolution with a pooled kernel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainers.even_pads import EvenPads
from trainers.filters import KeptFilter, Matrices, pool_by, pool_kernel
from trainers.pads import Pads, PooledShape, Size
from trainers.tracing import pixels


class PooledConvolution:
    """Takes the place of one layer's `_conv_forward`, which torch hands the final weight, parametrizations applied.

    pads: paddings (height, width) that keep the output size of the unpooled filter, whatever the input. even: symmetric ones instead,
    for inputs of certain sizes.
    """

    def __init__(self, name: str, layer: nn.Conv2d, shape: PooledShape, pads: tuple[Pads, Pads], even: EvenPads | None) -> None:
        self.name = name
        self.layer = layer
        self.shape = shape
        self.size = shape.size
        self.pads = pads
        self.even = even
        # Symmetric zeros are left to the convolution: a padded copy of the images would cost what pooling saves.
        self._copies = not shape.zeros or any(not 0 <= side.left == side.right for side in pads)
        self.kept: KeptFilter | None = None
        self.matrices: Matrices | None = None

    def __call__(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer = self.layer
        padding = (0, 0)
        if self.even is not None and pixels(images) in self.even.at:
            padding = self.even.padding
        elif self._copies:
            images = _pad(images, self.pads, layer.padding_mode)
        else:
            padding = (self.pads[0].left, self.pads[1].left)
        return F.conv2d(images, self._pooled(weight), bias, layer.stride, padding, layer.dilation, layer.groups)

    def copies_at(self, input_px: Size) -> bool:
        """Whether inputs of that size are copied to be padded."""
        return self._copies and (self.even is None or input_px not in self.even.at)

    def _pooled(self, weight: Tensor) -> Tensor:
        if self.kept is not None and self.kept.serves(weight):
            return self.kept.pooled
        if self.matrices is not None and (self.matrices[0].dtype, self.matrices[0].device) == (weight.dtype, weight.device):
            return pool_by(weight, self.matrices, self.size)
        return pool_kernel(weight, self.size)

    def of_layer(self, layer: nn.Conv2d) -> PooledConvolution:
        """The same for another copy of the layer, with an output of the size of the unpooled one's."""
        return PooledConvolution(self.name, layer, self.shape, self.pads, None)


def _pad(images: Tensor, pads: tuple[Pads, Pads], mode: str) -> Tensor:
    (top, bottom), (left, right) = pads
    sides = [left, right, top, bottom]
    if mode == "zeros":
        return F.pad(images, sides)
    if any(side > 0 for side in sides):
        images = F.pad(images, [max(side, 0) for side in sides], mode=mode)
    return F.pad(images, [min(side, 0) for side in sides])
