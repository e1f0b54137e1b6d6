"""What a training may be told about each method that can join it, as frozen values. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from trainers.checks import check_flag, check_integer, check_name, check_number
from trainers.errors import InputError

WeightSamplingName = Literal["none", "pswa", "pwalks", "pswm"]
GroupingName = Literal["none", "groupable"]
FilterSparsityName = Literal["none", "report", "remove_at_end", "remove_each_epoch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSampling:
    """Evaluate averages of the weights that a training passes through; see methods/weight_sampling.md.

    every: optimizer steps from sample to sample. period: epochs after which the mean of pswa begins anew, and weights are written back.
    last: samples in the mean of pwalks. momentum: of pswm, the share that its average keeps at a sample.
    write_back: whether the training goes on from the average at the end of each period.
    """

    name: WeightSamplingName = "none"
    every: int = 10
    period: int = 1
    last: int = 10
    momentum: float = 0.9
    write_back: bool = False

    def __post_init__(self) -> None:
        check_name("weight_sampling", self.name, get_args(WeightSamplingName))
        for setting in ("every", "period", "last"):
            check_integer(f"weight_sampling.{setting}", getattr(self, setting), lowest=1)
        check_number("weight_sampling.momentum", self.momentum, high=1)
        check_flag("weight_sampling.write_back", self.write_back)

    @property
    def copies(self) -> int:
        """Of the weights, that are kept beside them."""
        return {"none": 0, "pwalks": self.last}.get(self.name, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """Learn which input channels each convolution needs; see methods/grouping.md.

    budget: share of the channels' connections, those of layers that can't be grouped aside, which the network should not exceed; 1/32 is
    that of the public code. strength: how much exceeding it is worth, against the loss; 0.02 is that of the public code.
    """

    name: GroupingName = "none"
    budget: float = 1 / 32
    strength: float = 0.02

    def __post_init__(self) -> None:
        check_name("grouping", self.name, get_args(GroupingName))
        check_number("grouping.budget", self.budget, above=0, high=1)
        check_number("grouping.strength", self.strength)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSparsity:
    """Report filters that have become inactive, or remove them; see methods/filter_sparsity.md.

    decay_all: whether weight decay acts on biases and batch norm as well as on weights, as where the effect was published.
    """

    name: FilterSparsityName = "none"
    decay_all: bool = False

    def __post_init__(self) -> None:
        check_name("filter_sparsity", self.name, get_args(FilterSparsityName))
        check_flag("filter_sparsity.decay_all", self.decay_all)


def check_together(grouping: Grouping, filter_sparsity: FilterSparsity) -> None:
    """InputError where filters would be removed from groupable convolutions, whose gates are made for the channels that there are."""
    if grouping.name != "none" and filter_sparsity.name not in ("none", "report"):
        rule = f"it must be none or report where grouping is '{grouping.name}'"
        raise InputError(f"filter_sparsity is '{filter_sparsity.name}', {rule}")


MethodSettings = WeightSampling | Grouping | FilterSparsity
# By the field of a TrainConfig, and the key of a study file, that holds them.
SETTINGS: Final[dict[str, type[MethodSettings]]] = {
    "weight_sampling": WeightSampling,
    "grouping": Grouping,
    "filter_sparsity": FilterSparsity,
}
