"""Paddings of pooled kernels, along one axis and along both.

Our own choice: of the source (Poulos, Nouri and Moshovos 2019, arXiv 1910.06548) only the abstract is public. Notation, along one axis
of one convolution:

    k, k'   kernel length and pooled kernel length in taps, k' = ceil(k * side / full side)
    d       dilation, pixels from tap to tap
    l, r    the layer's own padding on the left (top) and right (bottom) in pixels; l = r = p where it is one number p

The unpooled window spans d(k-1)+1 pixels and the pooled one d(k-k') fewer, so the padding shrinks by d(k-k') pixels and the output size
stays floor((n + l + r - d(k-1) - 1) / stride) + 1. Half of these pixels leave each side, which keeps the window's centre; where d(k-k')
is odd the centre moves by half a pixel, to the left (up) or to the right (down).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import nn

from trainers.schedule import pooled_size

Size = tuple[int, int]
# Symmetric paddings where d(k-k') is odd: in all one pixel less, or one more, than keeps the output size at stride 1.
EvenKind = Literal["narrow", "wide"]


class Pads(NamedTuple):
    """Padding along one axis in pixels; a negative number crops."""

    left: int
    right: int


def own_pads(layer: nn.Conv2d) -> tuple[Pads, Pads]:
    """Paddings (height, width) that the layer applies without pooling, numbers as well as 'same' and 'valid'."""
    if layer.padding == "valid":
        return Pads(0, 0), Pads(0, 0)
    if isinstance(layer.padding, str):
        height, width = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        return Pads(height // 2, height - height // 2), Pads(width // 2, width - width // 2)
    height, width = layer.padding
    return Pads(height, height), Pads(width, width)


class PooledShape(NamedTuple):
    """What pooling does to the sizes of one layer; every field (height, width).

    size: pooled kernel in taps. removed_px: d(k-k'). own: the layer's own padding. stride; span_px: d(k'-1)+1, of the pooled window.
    """

    size: Size
    removed_px: Size
    own: tuple[Pads, Pads]
    stride: Size
    span_px: Size
    zeros: bool

    @classmethod
    def of(cls, layer: nn.Conv2d, side_px: int, full_px: int) -> PooledShape:
        """Of a layer in steps whose side is `side_px` instead of `full_px`."""
        kh, kw = layer.kernel_size
        dh, dw = layer.dilation
        height, width = (pooled_size(k, side_px, full_px) for k in layer.kernel_size)
        return cls(
            (height, width),
            (dh * (kh - height), dw * (kw - width)),
            own_pads(layer),
            (layer.stride[0], layer.stride[1]),
            (dh * (height - 1) + 1, dw * (width - 1) + 1),
            layer.padding_mode == "zeros",
        )

    @property
    def odd(self) -> tuple[bool, bool]:
        """Along which axes the removed pixels can't be shared evenly."""
        return self.removed_px[0] % 2 == 1, self.removed_px[1] % 2 == 1

    def pads(self, odd_on_left: tuple[bool, bool]) -> tuple[Pads, Pads]:
        """Paddings that keep the output size: half of the removed pixels less on each side, the odd one on the left or on the right."""
        rows, columns = zip(self.own, self.removed_px, odd_on_left, strict=True)
        return _pooled_pads(*rows), _pooled_pads(*columns)

    def even_padding(self, kind: EvenKind) -> Size | None:
        """Symmetric paddings of that kind; None where there are none, or where the layer does not pad with zeros on both sides alike."""
        if not self.zeros or any(own.left != own.right for own in self.own):
            return None
        extra = 1 if kind == "narrow" else 0
        height, width = (own.left - (px + extra) // 2 for own, px in zip(self.own, self.removed_px, strict=True))
        return (height, width) if height >= 0 and width >= 0 else None

    def output_px(self, input_px: Size, padding: Size) -> Size:
        """Output size of the pooled kernel under symmetric paddings."""
        height, width = (
            (px + 2 * pad - span) // stride + 1 for px, pad, span, stride in zip(input_px, padding, self.span_px, self.stride, strict=True)
        )
        return height, width


def _pooled_pads(own: Pads, removed_px: int, odd_on_left: bool) -> Pads:
    from_left = (removed_px + odd_on_left) // 2
    return Pads(own.left - from_left, own.right - (removed_px - from_left))
