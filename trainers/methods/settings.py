"""What a training may be told about each method that can join it, as frozen values. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from trainers.checks import check_name

WeightSamplingName = Literal["none", "pswa", "pwalks", "pswm"]
GroupingName = Literal["none", "groupable"]
FilterSparsityName = Literal["none", "report", "remove_at_end", "remove_each_epoch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSampling:
    """Evaluate averages of the weights that a training passes through; see methods/weight_sampling.md."""

    name: WeightSamplingName = "none"

    def __post_init__(self) -> None:
        check_name("weight_sampling", self.name, get_args(WeightSamplingName))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """Learn which input channels each convolution needs; see methods/grouping.md."""

    name: GroupingName = "none"

    def __post_init__(self) -> None:
        check_name("grouping", self.name, get_args(GroupingName))


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSparsity:
    """Report filters that have become inactive, or remove them; see methods/filter_sparsity.md."""

    name: FilterSparsityName = "none"

    def __post_init__(self) -> None:
        check_name("filter_sparsity", self.name, get_args(FilterSparsityName))


MethodSettings = WeightSampling | Grouping | FilterSparsity
# By the field of a TrainConfig, and the key of a study file, that holds them.
SETTINGS: Final[dict[str, type[MethodSettings]]] = {
    "weight_sampling": WeightSampling,
    "grouping": Grouping,
    "filter_sparsity": FilterSparsity,
}
