"""Which steps of a training are reduced, and how: pure arithmetic, decided before the training starts. Knows no torch.

Source: the idea (some mini-batches at reduced resolution, chosen deterministically or at random) is Poulos, Nouri and Moshovos 2019
(arXiv 1910.06548, abstract). Window, growth and rounding are our own choice, batches that grow as the side shrinks are Mix & Match's
(Hoffer et al. 2019, arXiv 1908.08986); see downsampling.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal, get_args

import yaml

from trainers.bounded_yaml import read_yaml
from trainers.checks import check_integer, check_name, check_number
from trainers.errors import InputError, check_known
from trainers.plans import Plan, Step, StepKernel, constant_work_batches, exactly, pooled_size, round_side
from trainers.presets import DRAWN, GROWING, WRITTEN_OUT, PresetName, augment_strength, preset_epochs
from trainers.wording import one_line, shown

__all__ = [
    "PROVENANCE_KEY",
    "Plan",
    "Schedule",
    "Step",
    "StepKernel",
    "constant_work_batches",
    "lr_factor",
    "pooled_size",
    "read_schedule_file",
    "round_side",
    "step_kernel",
]

Policy = Literal["deterministic", "stochastic"]
Kernel = Literal["full", "pooled"]
BatchNorm = Literal["shared", "separate"]
Growth = Literal["constant", "linear"]
PooledLayers = Literal["all", "largest_maps", "most_saved"]
BatchGrowth = Literal["none", "constant_work"]

_NAMES: Final = {
    "policy": Policy,
    "kernel": Kernel,
    "pooled_layers": PooledLayers,
    "batch_norm": BatchNorm,
    "growth": Growth,
    "batch_growth": BatchGrowth,
    "preset": PresetName,
}
_POOLED: Final[dict[PooledLayers, StepKernel]] = {
    "all": "pooled",
    "largest_maps": "pooled_largest_maps",
    "most_saved": "pooled_most_saved",
}

# A schedule file may say where the schedule was found; it changes nothing about the schedule itself.
PROVENANCE_KEY: Final = "found_with"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Which steps are reduced, and how. The default reduces nothing.

    policy: `deterministic` spreads the reduced steps evenly over the window, `stochastic` draws each one.
    frequency: share of the steps inside the window that are reduced, in [0, 1].
    scale: side of the reduced input over the full side, in (0, 1].
    kernel: `pooled` also pools the convolution kernels of reduced steps to ceil(k * side / full side).
    pooled_layers: which layers `pooled` means: all, those of the largest maps, or those that save most for each unit of changed output.
    batch_norm: `separate` keeps the running statistics of reduced steps apart from those of full steps.
    window_start, window_length: share of the training at which reduced steps begin and for how long, both in [0, 1]; a window that
        would end after the training ends with it.
    growth: `linear` grows the side from scale up to 1 at the window's end, `constant` keeps it.
    batch_growth: `constant_work` lets a reduced step take floor((full side / side)^2) of the training's batches at once.
    preset: a known schedule by name, which decides all of the above but batch_norm; see presets.md. The fields it decides mean nothing.
    side_multiple: reduced sides are rounded to this many pixels, halves up, at least one multiple.
    seed: of the stochastic policy, and of preset mixed_sizes.
    """

    policy: Policy = "deterministic"
    frequency: float = 0.0
    scale: float = 0.5
    kernel: Kernel = "full"
    pooled_layers: PooledLayers = "all"
    batch_norm: BatchNorm = "shared"
    window_start: float = 0.0
    window_length: float = 1.0
    growth: Growth = "constant"
    batch_growth: BatchGrowth = "none"
    preset: PresetName = "none"
    side_multiple: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, names in _NAMES.items():
            check_name(f"schedule field '{name}'", getattr(self, name), get_args(names))
        for name in ("frequency", "window_start", "window_length"):
            check_number(f"schedule field '{name}'", getattr(self, name), high=1)
        check_number("schedule field 'scale'", self.scale, above=0, high=1)
        check_integer("schedule field 'side_multiple'", self.side_multiple, lowest=1)
        check_integer("schedule field 'seed'", self.seed, lowest=0)

    def plan(self, total_steps: int, full_px: int, steps_per_epoch: int | None = None) -> Plan:
        """The steps of a training of `total_steps` batches, `steps_per_epoch` of them an epoch, whose full side is `full_px` pixels.

        One step a batch, unless batches grow: then a step may take several of an epoch's reduced batches of one kind, it stands where
        the last of them stood, and those that are too few for one more such step stay steps of one batch where they are. So every kind
        takes either one batch or as many as it can, and a table of step costs stays small. Our own choice.
        steps_per_epoch: None makes the whole training one epoch; InputError where batches grow, because they do within an epoch only.
        """
        check_integer("total_steps", total_steps, lowest=0)
        check_integer("full_px", full_px, lowest=1)
        if steps_per_epoch is not None:
            check_integer("steps_per_epoch", steps_per_epoch, lowest=1)
        elif cause := self._growing_by():
            raise InputError(f"steps_per_epoch is None, it must be the batches of an epoch where {cause}")
        length = steps_per_epoch or max(1, total_steps)
        plain = self._written_out()
        if plain.preset != "none":
            return Plan(preset_epochs(plain.preset, total_steps, full_px, length, self.side_multiple, self.seed))
        batches = plain._batches(total_steps, full_px)
        epochs = [batches[start : start + length] for start in range(0, total_steps, length)]
        return Plan(epochs if plain.batch_growth == "none" else (_gathered(epoch, full_px) for epoch in epochs))

    def batch_by_batch(self, total_steps: int, full_px: int) -> tuple[Step, ...]:
        """The kind of step that each of a training's batches is for, however many a step takes at once: what pictures show."""
        plan = dataclasses.replace(self, batch_growth="none").plan(total_steps, full_px, max(1, total_steps))
        return tuple(itertools.chain.from_iterable([step._replace(batches=1)] * step.batches for step in plan))

    def augment_strengths(self, steps: Sequence[Step], batches_done: int, total_steps: int) -> list[float]:
        """How strongly the images of each step are augmented, in [0, 1], if the first one begins after `batches_done` of `total_steps`."""
        starts = itertools.accumulate((step.batches for step in steps[:-1]), initial=batches_done)
        return [augment_strength(self.preset, Fraction(start, total_steps)) for start in starts]

    def canonical(self, full_px: int | None = None) -> Schedule:
        """The same plan for every training with each meaningless field at its default, so that equal schedules compare equal.

        full_px: the full side of those trainings; None: any.
        """
        if self.preset in WRITTEN_OUT:
            return self._written_out().canonical(full_px)
        default = Schedule(side_multiple=self.side_multiple)
        if self.preset != "none":
            fields = {name: getattr(default, name) for name in self.meaningless_fields()}
            return dataclasses.replace(self, **fields | {"frequency": 1.0})
        if self.frequency == 0 or self.window_length == 0 or self.window_start == 1 or self.scale == 1:
            return default
        window_length = min(self.window_length, float(1 - exactly(self.window_start)))
        meaningless = {name: getattr(default, name) for name in self.meaningless_fields(full_px)}
        return dataclasses.replace(self, window_length=window_length, **meaningless)

    def meaningless_fields(self, full_px: int | None = None) -> frozenset[str]:
        """Fields of a schedule with reduced steps that could have any value without a change of the plan. full_px: as in `canonical`."""
        if self.preset != "none":
            read = {"preset", "batch_norm", "side_multiple"} | ({"seed"} if self.preset in DRAWN else set())
            return frozenset(field.name for field in dataclasses.fields(self)) - read
        names: set[str] = {"policy", "seed"} if self.frequency == 1 else {"seed"} if self.policy == "deterministic" else set()
        if self.kernel == "full":
            names.add("pooled_layers")
        # A growing side starts at the smallest one, which takes the most batches.
        if full_px is not None and constant_work_batches(round_side(self.scale, full_px, self.side_multiple), full_px) == 1:
            names.add("batch_growth")
        return frozenset(names)

    def to_dict(self) -> dict[str, Any]:
        """Field names and values, as `from_dict` takes them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Schedule:
        """A schedule from field names and values; an unknown name is an InputError that names the nearest known one."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            check_known("schedule field", name, names)
        return cls(**fields)

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """Reads a schedule file; InputError if it is missing, not YAML, or breaks a rule."""
        fields = read_schedule_file(path)
        fields.pop(PROVENANCE_KEY, None)
        try:
            return cls.from_dict(fields)
        except InputError as error:
            raise InputError(one_line(f"schedule file '{path}': {error}")) from None

    def save(self, path: str | Path, found_with: dict[str, Any] | None = None) -> None:
        """Writes a small YAML file that `load` reads back equal; `found_with` is kept in it as provenance."""
        content: dict[str, Any] = self.to_dict() | ({PROVENANCE_KEY: found_with} if found_with else {})
        Path(path).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def _written_out(self) -> Schedule:
        """Itself, or what its preset is in the other fields where they can write it."""
        if self.preset not in WRITTEN_OUT:
            return self
        return Schedule(**WRITTEN_OUT[self.preset], batch_norm=self.batch_norm, side_multiple=self.side_multiple, seed=self.seed)

    def _growing_by(self) -> str:
        """The field by which steps take several batches at once, in words; empty where they don't."""
        if self.preset != "none":
            return f"preset is '{self.preset}'" if self.preset in GROWING else ""
        return "" if self.batch_growth == "none" else f"batch_growth is '{self.batch_growth}'"

    def _batches(self, total_steps: int, full_px: int) -> list[Step]:
        """The kind of step that each of the training's batches would be, one batch a step."""
        first, end = self._window(total_steps)
        reduced = self._reduced_steps(end - first)
        steps = [Step(full_px, "full")] * total_steps
        for index in range(first, end):
            if reduced[index - first]:
                steps[index] = self._step(Fraction(index - first, end - first), full_px)
        return steps

    def _window(self, total_steps: int) -> tuple[int, int]:
        """[first, end) step of the window. Exact decimals: 0.1 * 30 is 3 here, not 3.0000000000000004."""
        start = exactly(self.window_start)
        end = min(Fraction(1), start + exactly(self.window_length))
        return math.ceil(start * total_steps), math.ceil(end * total_steps)

    def _reduced_steps(self, window_steps: int) -> list[bool]:
        if self.policy == "stochastic":
            generator = random.Random(self.seed)
            return [generator.random() < self.frequency for _ in range(window_steps)]
        # After n steps floor(n * frequency) are reduced. Fractions, because float error would break strict alternation at 0.5.
        frequency = exactly(self.frequency)
        done = [math.floor(n * frequency) for n in range(window_steps + 1)]
        return [after > before for before, after in itertools.pairwise(done)]

    def _step(self, window_progress: Fraction, full_px: int) -> Step:
        scale = exactly(self.scale)
        if self.growth == "linear":
            scale += (1 - scale) * window_progress
        side_px = round_side(scale, full_px, self.side_multiple)
        return Step(full_px, "full") if side_px == full_px else Step(side_px, step_kernel(self.kernel, self.pooled_layers))


def step_kernel(kernel: Kernel, pooled_layers: PooledLayers) -> StepKernel:
    """What a reduced step does with kernels, from the two fields of its schedule."""
    return "full" if kernel == "full" else _POOLED[pooled_layers]


def _gathered(epoch: Sequence[Step], full_px: int) -> list[Step]:
    """An epoch of one-batch steps with as many as possible of each kind made by steps of constant work."""
    places: defaultdict[Step, list[int]] = defaultdict(list)
    for place, step in enumerate(epoch):
        places[step].append(place)
    made = dict(enumerate(epoch))
    for step, own in places.items():
        batches = constant_work_batches(step.side_px, full_px)
        for start in range(0, len(own) - batches + 1, batches):
            *earlier, last = own[start : start + batches]
            made[last] = step._replace(batches=batches)
            for place in earlier:
                del made[place]
    return list(made.values())


def lr_factor(batches: int, optimizer: Literal["sgd", "adamw", "adam"]) -> float:
    """What a step that takes `batches` of the training's batches at once multiplies its learning rate by.

    SGD: `batches` (linear scaling, Goyal et al. 2017, arXiv 1706.02677, section 2.1). torch's momentum buffer holds gradients without the
    rate, so their momentum correction (section 3) is not needed. Adam and AdamW: the square root (Malladi et al. 2022, arXiv 2205.10287),
    whose change of the betas we leave out. The learning-rate curve advances by `batches` of total_steps, because progress counts images.
    """
    return float(batches) if optimizer == "sgd" else math.sqrt(batches)


def read_schedule_file(path: str | Path) -> dict[str, Any]:
    """The raw mapping in a schedule file, provenance included; InputError if there is none."""
    content = read_yaml("schedule file", path)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(one_line(f"schedule file '{path}' is {shown(content)}, it must hold one mapping of field names to values"))
    if not isinstance(content.get(PROVENANCE_KEY, {}), dict | None):
        found_with = shown(content[PROVENANCE_KEY])
        raise InputError(one_line(f"schedule file '{path}': {PROVENANCE_KEY} is {found_with}, it must be a mapping of names to values"))
    return content
