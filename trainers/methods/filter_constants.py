"""What a channel holds that is the same at every pixel of every image: constants [channels], NaN where it varies, in double precision."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainers.methods.filter_activity import Activity

# An activation that stays within so much over all images is constant. Our own choice: a tenth of what outputs may change by.
CONSTANT_TO: Final = 1e-6


def measured(activity: Activity) -> Tensor:
    """Of a layer's activations over the images that were seen."""
    middle = (activity.low.double() + activity.high.double()) / 2
    constants = torch.where(activity.largest <= CONSTANT_TO, 0.0, middle)
    return torch.where(activity.high - activity.low <= CONSTANT_TO, constants, torch.nan)


def after_norm(norm: _BatchNorm, constants: Tensor) -> Tensor:
    """Of what batch norm makes of them in evaluation mode."""
    gamma, beta = (_double(tensor, default, constants) for tensor, default in ((norm.weight, 1.0), (norm.bias, 0.0)))
    if norm.running_mean is None or norm.running_var is None:
        normalised = torch.full_like(constants, torch.nan)
    else:
        normalised = (constants - norm.running_mean.double().cpu()) / (norm.running_var.double().cpu() + norm.eps).sqrt()
    return torch.where(gamma == 0, beta, gamma * normalised + beta)


def after_convolution(layer: nn.Conv2d, constants: Tensor, padded: bool) -> Tensor:
    """Of its outputs; padded: zeros are padded around the inputs, which only zeros don't differ from."""
    bias = _double(layer.bias, 0.0, torch.empty(layer.out_channels))
    taps = layer.weight.double().cpu()
    # [groups, out / groups, in / groups] and [groups, 1, in / groups]
    sums = taps.sum((2, 3)).reshape(layer.groups, -1, taps.shape[1])
    used = (taps != 0).any(-1).any(-1).reshape(sums.shape)
    inputs = constants.reshape(layer.groups, 1, -1)
    varying = inputs.isnan() | ((inputs != 0) & padded)
    outputs = (sums * inputs.nan_to_num()).sum(2)
    return torch.where((used & varying).any(2), torch.nan, outputs).flatten() + bias


def _double(tensor: Tensor | None, default: float, like: Tensor) -> Tensor:
    return torch.full(like.shape, default, dtype=torch.float64) if tensor is None else tensor.double().cpu()
