"""Which trainings a recorded table consists of: points that fill a study's space, the same list on every machine and at every sitting."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from scipy.stats import qmc

from studies import StudySpec, load_study
from studies.domains import Choice, Domain, Range, Value
from studies.space import TRAINING_FIELDS, canonical_params

# Every fifth configuration is at full resolution: as large a share as the rivals of a launched study have.
FULL_RESOLUTION_EVERY: Final = 5
# The baseline is what all others are compared with, and the shorter runs are its rivals: their noise has to be known best.
START_POINT_SEEDS: Final = 4
_REDUCED_SEED, _FULL_SEED = 0, 1


class Planned(NamedTuple):
    """One training. seed: its number in the table's list too, so no two trainings share initial weights or an order of images."""

    seed: int
    params: dict[str, Value]


@dataclass(frozen=True)
class TablePlan:
    """A table before it is recorded.

    study, overrides: a study file and what is changed in it. configurations: how many; four fifths of them a power of two, which is where a
    Sobol sequence is balanced. second_seed_every: of so many configurations one is trained with two seeds.
    reference: relative time and error that bound the hypervolume of a search: a tenth more time than the baseline, and the error of the
    shortest full-resolution start point, rounded up to a tenth, because whoever accepts a larger one trains for less long. With the error
    of a guess (0.9) a search would be rewarded mostly for fast schedules that nobody wants.
    """

    name: str
    study: str
    overrides: tuple[str, ...]
    configurations: int
    second_seed_every: int
    reference: tuple[float, float]

    @cached_property
    def spec(self) -> StudySpec:
        """The study whose space is filled."""
        return load_study(self.study, self.overrides)


# Another network, another optimizer: for a table that no part of the search was tuned on.
_VGG: Final = (
    "model=benchmarks.networks:vgg6",
    "training.optimizer=adamw",
    "training.lr=0.004",
    "training.weight_decay=0.02",
    "search.lr={low: 0.0005, high: 0.02, log: true}",
    "search.weight_decay={low: 0.002, high: 0.2, log: true}",
)
TABLES: Final = {
    plan.name: plan
    for plan in (
        TablePlan("digits", "digits", (), 640, 3, (1.1, 0.4)),
        TablePlan("cifar10", "cifar10", ("search.epochs={low: 4, high: 15}",), 320, 10, (1.1, 0.6)),
        TablePlan("digits-vgg", "digits", _VGG, 320, 10, (1.1, 0.2)),
        TablePlan("cifar10-resnet18", "cifar10-resnet18", ("search.pooled_layers=all", "search.batch_growth=none"), 640, 10, (1.1, 0.1)),
    )
}


def planned_trainings(plan: TablePlan) -> list[Planned]:
    """All trainings of a table in the order in which they are made; whatever prefix of it is done fills the space as evenly as it can."""
    points = itertools.chain.from_iterable(
        itertools.repeat(params, _seeds_of(plan, number)) for number, params in enumerate(configurations(plan))
    )
    return [Planned(seed, params) for seed, params in enumerate(points)]


def configurations(plan: TablePlan) -> list[dict[str, Value]]:
    """The table's points, canonical and all different: every fifth at full resolution, the study's start points first among those."""
    space = plan.spec.search
    # Full resolution has a sequence of its own.
    frequency = Choice(tuple(member for member in space["frequency"].members or () if member > 0))
    reduced = _filling(space.searched | {"frequency": frequency}, plan.configurations, _REDUCED_SEED)
    trainings = _filling({field: space[field] for field in TRAINING_FIELDS}, plan.configurations, _FULL_SEED)
    starts = [params for params, _ in plan.spec.start_points()]
    full = itertools.chain(starts, (starts[0] | training for training in trainings))
    chosen = (next(full if number % FULL_RESOLUTION_EVERY == 0 else reduced) for number in range(plan.configurations))
    return [canonical_params(space, params) for params in chosen]


def _seeds_of(plan: TablePlan, number: int) -> int:
    if number % FULL_RESOLUTION_EVERY == 0 and number // FULL_RESOLUTION_EVERY < len(plan.spec.start_points()):
        return START_POINT_SEEDS
    return 2 if number % plan.second_seed_every == 1 else 1


def _filling(domains: dict[str, Domain], count: int, seed: int) -> Iterator[dict[str, Value]]:
    """Points of a scrambled Sobol sequence; the first ones don't depend on the count."""
    shares = qmc.Sobol(len(domains), scramble=True, rng=seed).random_base2(max(1, count - 1).bit_length())
    columns = [_members(domain, column) for domain, column in zip(domains.values(), shares.T.tolist(), strict=True)]
    return (dict(zip(domains, point, strict=True)) for point in zip(*columns, strict=True))


def _members(domain: Domain, shares: list[float]) -> list[Value]:
    """The members at each share, in [0, 1), of the domain, evenly over the logarithm where it says so; four digits of a continuum."""
    members, low, high = domain.members, domain.lowest, domain.highest
    if members is not None:
        return [members[int(share * len(members))] for share in shares]
    log = isinstance(domain, Range) and domain.log
    values = (low * (high / low) ** share if log else low + (high - low) * share for share in shares)
    return [domain.nearest(float(f"{value:.4g}")) for value in values]
