"""What a network of groupable convolutions becomes after training: one of plain and grouped convolutions that computes the same.

Channels i of the input and j of the output are connected if the bits of their numbers agree wherever a gate is closed. Put in the order of
those bits, the channels of a group lie side by side, as a grouped convolution wants them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trainers.errors import InputError
from trainers.methods.groupable import GroupableConv2d, groupable_layers


class GroupedConv2d(nn.Conv2d):
    """A grouped Conv2d between two fixed permutations of channels; `to_grouped` makes it of a groupable one.

    input_order [in]: which channel comes at each place. output_rank [out]: at which place of the convolution's output each channel is.
    """

    input_order: Tensor
    output_rank: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H', W'], as Conv2d's."""
        grouped = self._conv_forward(_select_channels(input, self.input_order), self.weight, self.bias)
        return _select_channels(grouped, self.output_rank)


def to_grouped(model: nn.Module) -> nn.Module:
    """Turns each groupable convolution of `model` into the plain or grouped one that computes the same, and returns `model`.

    Outputs change by rounding only. Layers stay the objects that they are; their gates are gone and their weights are new parameters, so
    an optimizer must be made anew. `load_grouped` reads the network's state.
    """
    for layer in groupable_layers(model):
        _convert(layer)
    return model


def load_grouped(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Makes `model`, a plain network, what `to_grouped` made of another of its kind, whose `state_dict()` is `state`; returns `model`.

    InputError names a convolution that the state's weight can't belong to.
    """
    for name, layer in model.named_modules():
        weight = state.get(f"{name}.weight")
        if type(layer) is nn.Conv2d and weight is not None and weight.shape != layer.weight.shape:
            _set_grouped(layer, weight, _groups_of(weight, name, layer))
            if f"{name}.input_order" in state:
                _set_orders(layer, state[f"{name}.input_order"], state[f"{name}.output_rank"])
    model.load_state_dict(dict(state))
    return model


def group_order(open_gates: Sequence[bool]) -> Tensor:
    """The numbers 0 to 2^K - 1, group by group: those of a group agree in the bits of all closed gates, g_1's being the highest."""
    numbers = torch.arange(2 ** len(open_gates))
    group = torch.zeros_like(numbers)
    for bit, is_open in enumerate(reversed(open_gates)):
        if not is_open:
            group |= numbers & (1 << bit)
    return group.argsort(stable=True)


def _groups_of(weight: Tensor, name: str, layer: nn.Conv2d) -> int:
    """In how many groups `layer` has a weight of that shape."""
    shape, own = list(weight.shape), list(layer.weight.shape)
    groups = own[1] // shape[1] if len(shape) == 4 and shape[1] else 0
    if groups == 0 or own[0] % groups or own != [shape[0], shape[1] * groups, *shape[2:]]:
        raise InputError(f"the weight of layer '{name}' is {shape} in the state, it must be {own}, or that with the {own[1]} shared out")
    return groups


@torch.no_grad()
def _convert(layer: GroupableConv2d) -> None:
    order, groups = group_order(layer.open_gates).to(layer.weight.device), layer.groups_found
    inputs, outputs = _of_all_channels(order, layer.in_channels), _of_all_channels(order, layer.out_channels)
    own = layer.weight[outputs.reshape(groups, -1, 1), inputs.reshape(groups, 1, -1)]
    del layer.gates
    _set_grouped(layer, own.flatten(0, 1), groups)
    if not torch.equal(order, order.sort().values):
        if layer.bias is not None:
            layer.bias.copy_(layer.bias[outputs])
        _set_orders(layer, inputs, outputs.argsort())


def _of_all_channels(order: Tensor, channels: int) -> Tensor:
    """Each number of `order` stands for as many channels in a row as there are more channels than numbers."""
    each = channels // len(order)
    return (order[:, None] * each + torch.arange(each, device=order.device)).flatten()


def _set_grouped(layer: nn.Conv2d, weight: Tensor, groups: int) -> None:
    """weight: [out, in / groups, kh, kw], of which the layer gets a copy in its own weight's memory format, device and type."""
    layer.__class__ = nn.Conv2d
    layer.groups = groups
    in_format = torch.contiguous_format if layer.weight.is_contiguous() else torch.channels_last
    values = weight.detach().to(layer.weight.device, layer.weight.dtype, copy=True).contiguous(memory_format=in_format)
    layer.weight = nn.Parameter(values, layer.weight.requires_grad)


def _set_orders(layer: nn.Conv2d, input_order: Tensor, output_rank: Tensor) -> None:
    layer.__class__ = GroupedConv2d
    layer.register_buffer("input_order", input_order.to(layer.weight.device))
    layer.register_buffer("output_rank", output_rank.to(layer.weight.device))


def _select_channels(images: Tensor, order: Tensor) -> Tensor:
    """The channels of images [B, channels, H, W] (or [channels, H, W]) in another order, in the same memory format."""
    if images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last):
        # index_select gives another format, in which convolutions with many groups take many times as long on a CPU.
        count, channels, height, width = images.shape
        rows = images.permute(0, 2, 3, 1).reshape(-1, channels)
        return rows.index_select(1, order).reshape(count, height, width, channels).permute(0, 3, 1, 2)
    return images.index_select(-3, order)
