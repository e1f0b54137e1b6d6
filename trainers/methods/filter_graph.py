"""Which channels of a network go together, who reads them, and which are constant: one walk over its torch.fx graph.

Notation: every channel of every tensor has a number; channels that are added to or multiplied with each other, or that one depthwise
layer makes of the other, have numbers of the same set. A set can only be removed as a whole. A constant is what a channel holds at every
pixel of every image, NaN where it varies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from trainers.errors import InputError
from trainers.tracing import FORWARD_ERRORS


class Channels(NamedTuple):
    """Of a tensor [B, channels, ...]: their numbers [channels] and constants [channels], in double precision on the CPU."""

    numbers: Tensor
    constants: Tensor


class Reader(NamedTuple):
    """A dense convolution or a linear layer, the channels that it reads, and whether zeros are padded around them."""

    layer: str
    channels: Channels
    padded: bool


@dataclass(slots=True)
class ChannelGraph:
    """Of one network, by names of its layers.

    filters: numbers of the channels that each dense convolution makes. followers: of those that pass a batch norm or a depthwise
    convolution. norms: the batch norm that alone reads a convolution's output.
    """

    filters: dict[str, Tensor] = field(default_factory=dict)
    followers: dict[str, Tensor] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)
    norms: dict[str, str] = field(default_factory=dict)
    _parents: list[int] = field(default_factory=list)
    _fixed: set[int] = field(default_factory=set)

    def fresh(self, count: int) -> Tensor:
        """Numbers of new channels, each a set of its own."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def join(self, ours: Tensor, theirs: Tensor) -> None:
        """Makes one set of the sets of each pair."""
        for one, other in zip(ours.tolist(), theirs.tolist(), strict=True):
            self._parents[self._root(one)] = self._root(other)

    def fix(self, numbers: Tensor) -> None:
        """Their sets can't be removed."""
        self._fixed.update(numbers.tolist())

    def sets(self, numbers: Tensor) -> list[int]:
        """The set of each channel, named by one of its numbers."""
        return [self._root(number) for number in numbers.tolist()]

    def fixed_sets(self) -> set[int]:
        return {self._root(number) for number in self._fixed}

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number


def trace_network(model: nn.Module, why: str) -> fx.Graph:
    """The network's graph; InputError, which begins with `why`, where there is none, or where another one trains than is evaluated."""
    flags = [(module, module.training) for module in model.modules()]
    graphs = []
    try:
        for training in (True, False):
            model.train(training)
            graphs.append(fx.Tracer().trace(model))
    except (*FORWARD_ERRORS, fx.proxy.TraceError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"{why}, but torch.fx can't trace network {type(model).__name__} ({reason}): use report") from error
    finally:
        for module, flag in flags:
            module.training = flag
    trains, evaluates = ([(node.op, str(node.target)) for node in graph.nodes] for graph in graphs)
    if trains != evaluates:
        raise InputError(f"{why}, but network {type(model).__name__} computes with other layers when it is evaluated: use report")
    return graphs[1]
