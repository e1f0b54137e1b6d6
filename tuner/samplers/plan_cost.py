"""What a point of the space costs, without walking its steps: a sampler prices thousands of points for every one it proposes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple

from studies.domains import exact
from studies.space import Fixed, SearchSpace
from trainers.presets import DRAWN, WRITTEN_OUT, PresetName
from trainers.schedule import Schedule, Step, constant_work_batches, round_side, step_kernel

# Of an epoch whose steps are walked one by one, at most; a longer one has as many shares of each kind, to within a step of these.
_MOST_WALKED: Final = 250
# Plans of a preset that draws its steps, whose mean is its price.
_DRAWS: Final = 16


class _Block(NamedTuple):
    """Steps [start, end) of a window, all of one side if they are reduced."""

    start: int
    end: int
    side_px: int


@dataclass(frozen=True)
class PlanCost:
    """Prices points of a space: relative_time, the cost of their plan over that of `baseline_steps` full steps.

    Exact for the deterministic policy. For the stochastic one it is the price of the deterministic plan of the same frequency: the
    expectation over seeds, to within one step of each kind. (Where batches grow, left-over batches make it a few steps.) Presets are exact
    too, but for one that draws its steps, whose price is the mean of _DRAWS plans, and for epochs of more than _MOST_WALKED steps.
    costs: of each kind of step, over a full step. steps_per_epoch: batches of an epoch.
    """

    space: SearchSpace
    costs: Mapping[Step, float]
    steps_per_epoch: int
    baseline_steps: int

    def __call__(self, params: Mapping[str, Any]) -> float:
        """relative_time of a point, which may leave out the space's fixed fields."""
        counts = plan_counts({**self._fixed, **params}, self.space.full_px, self.steps_per_epoch)
        return sum(count * self.costs[step] for step, count in counts.items()) / self.baseline_steps

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        return {field: domain.value for field, domain in self.space.items() if isinstance(domain, Fixed)}


def plan_counts(fields: Mapping[str, Any], full_px: int, steps_per_epoch: int) -> Mapping[Step, float]:
    """What `Schedule.plan(...).counts()` gives for the deterministic policy, whatever the policy is. Of a preset: see PlanCost.

    fields: of the schedule and the training, as members of their domains. Time grows with the sides of a plan, and where batches grow with
    its epochs, but not with its steps.
    """
    preset = fields["preset"] if fields["frequency"] > 0 else "none"
    if preset in WRITTEN_OUT:
        fields = {**fields, **Schedule(side_multiple=fields["side_multiple"]).to_dict(), **WRITTEN_OUT[preset]}
    elif preset != "none":
        return _preset_counts(preset, fields["epochs"], steps_per_epoch, full_px, fields["side_multiple"])
    return _written_counts(fields, full_px, steps_per_epoch)


@lru_cache(maxsize=4096)
def _preset_counts(name: PresetName, epochs: int, steps_per_epoch: int, full_px: int, multiple: int) -> Mapping[Step, float]:
    walked = min(steps_per_epoch, _MOST_WALKED)
    seeds = range(_DRAWS if name in DRAWN else 1)
    total: Counter[Step] = Counter()
    for seed in seeds:
        total.update(Schedule(preset=name, side_multiple=multiple, seed=seed).plan(epochs * walked, full_px, walked).counts())
    return {step: count / len(seeds) * steps_per_epoch / walked for step, count in total.items()}


def _written_counts(fields: Mapping[str, Any], full_px: int, steps_per_epoch: int) -> dict[Step, int]:
    batches = fields["epochs"] * steps_per_epoch
    first, end = _window(fields["window_start"], fields["window_length"], batches)
    frequency, of = _exact(fields["frequency"]).as_integer_ratio()
    grows = fields["batch_growth"] != "none"
    kernel = step_kernel(fields["kernel"], fields["pooled_layers"])
    reduced: Counter[tuple[int, int]] = Counter()
    for block in _blocks(fields["scale"], fields["growth"], fields["side_multiple"], end - first, full_px):
        # Batches gather within an epoch only; where they don't, the whole training is one.
        for epoch, start, stop in _by_epoch(first + block.start, first + block.end, steps_per_epoch if grows else batches):
            # After n steps of the window floor(n * frequency) are reduced.
            reduced[epoch, block.side_px] += (stop - first) * frequency // of - (start - first) * frequency // of
    counts: Counter[Step] = Counter({Step(full_px, "full"): batches - reduced.total()})
    for (_, side_px), number in reduced.items():
        together = constant_work_batches(side_px, full_px) if grows else 1
        counts[Step(side_px, kernel)] += number % together if together > 1 else number
        if together > 1:
            counts[Step(side_px, kernel, together)] += number // together
    return {step: count for step, count in counts.items() if count}


# Exact fractions take time, and most of the points that a sampler looks at share their windows and sides.
@lru_cache(maxsize=4096)
def _window(start: float, length: float, batches: int) -> tuple[int, int]:
    ends = (_exact(start), min(_exact(start) + _exact(length), Fraction(1)))
    first, end = (-(-share.numerator * batches // share.denominator) for share in ends)
    return first, end


@lru_cache(maxsize=4096)
def _blocks(scale: float, growth: str, multiple: int, steps: int, full_px: int) -> tuple[_Block, ...]:
    """The window's blocks of one side below the full one, in order."""
    exactly = _exact(scale)
    lowest = round_side(exactly, full_px, multiple)
    if growth == "constant" or exactly == 1:
        return (_Block(0, steps, lowest),) if lowest < full_px else ()
    blocks, start, range_ = [], 0, exactly.denominator - exactly.numerator
    for side_px in range(lowest, full_px, multiple):
        # The first step whose side, halves rounded up, is the next one: scale + (1 - scale) step / steps >= (side + multiple / 2) / full.
        above = (2 * side_px + multiple) * exactly.denominator - 2 * full_px * exactly.numerator
        end = min(steps, max(start, -(-above * steps // (2 * full_px * range_))))
        blocks.append(_Block(start, end, side_px))
        start = end
    return tuple(blocks)


def _by_epoch(start: int, end: int, length: int) -> Iterator[tuple[int, int, int]]:
    """[start, end) cut at multiples of `length`: (epoch, its start, its end)."""
    while start < end:
        epoch = start // length
        stop = min(end, (epoch + 1) * length)
        yield epoch, start, stop
        start = stop


@lru_cache(maxsize=4096)
def _exact(value: float) -> Fraction:
    return exact(value)
