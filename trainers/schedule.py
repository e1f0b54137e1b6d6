"""Which steps of a training are reduced, and how: pure arithmetic, decided before the training starts. Knows no torch.

Source: the idea (some mini-batches at reduced resolution, chosen deterministically or at random) is Poulos, Nouri and Moshovos 2019
(arXiv 1910.06548, abstract). Window, growth and rounding are our own choice; see downsampling.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import yaml

from trainers.checks import check_integer, check_name, check_number
from trainers.errors import InputError, check_known

Policy = Literal["deterministic", "stochastic"]
Kernel = Literal["full", "pooled"]
BatchNorm = Literal["shared", "separate"]
Growth = Literal["constant", "linear"]

# A schedule file may say where the schedule was found; it changes nothing about the schedule itself.
PROVENANCE_KEY: Final = "found_with"


class Step(NamedTuple):
    """One kind of step: side of the input in pixels, and whether convolution kernels are pooled."""

    side_px: int
    kernel: Kernel


class Plan(tuple[Step, ...]):
    """The kind of each optimizer step of a training, in order."""

    __slots__ = ()

    def counts(self) -> dict[Step, int]:
        """Exact number of steps of each kind."""
        return dict(Counter(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Which steps are reduced, and how. The default reduces nothing.

    policy: `deterministic` spreads the reduced steps evenly over the window, `stochastic` draws each one.
    frequency: share of the steps inside the window that are reduced, in [0, 1].
    scale: side of the reduced input over the full side, in (0, 1].
    kernel: `pooled` also pools the convolution kernels of reduced steps to ceil(k * side / full side).
    batch_norm: `separate` keeps the running statistics of reduced steps apart from those of full steps.
    window_start, window_length: share of the training at which reduced steps begin and for how long, both in [0, 1]; a window that
        would end after the training ends with it.
    growth: `linear` grows the side from scale up to 1 at the window's end, `constant` keeps it.
    side_multiple: reduced sides are rounded to this many pixels, halves up, at least one multiple.
    seed: of the stochastic policy.
    """

    policy: Policy = "deterministic"
    frequency: float = 0.0
    scale: float = 0.5
    kernel: Kernel = "full"
    batch_norm: BatchNorm = "shared"
    window_start: float = 0.0
    window_length: float = 1.0
    growth: Growth = "constant"
    side_multiple: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, names in (("policy", Policy), ("kernel", Kernel), ("batch_norm", BatchNorm), ("growth", Growth)):
            check_name(f"schedule field '{name}'", getattr(self, name), get_args(names))
        for name in ("frequency", "window_start", "window_length"):
            check_number(f"schedule field '{name}'", getattr(self, name), high=1)
        check_number("schedule field 'scale'", self.scale, above=0, high=1)
        check_integer("schedule field 'side_multiple'", self.side_multiple, lowest=1)
        check_integer("schedule field 'seed'", self.seed, lowest=0)

    def plan(self, total_steps: int, full_px: int) -> Plan:
        """The kind of each of `total_steps` steps on inputs whose full side is `full_px` pixels."""
        check_integer("total_steps", total_steps, lowest=0)
        check_integer("full_px", full_px, lowest=1)
        full = Step(full_px, "full")
        first, end = self._window(total_steps)
        reduced = self._reduced_steps(end - first)
        steps = [full] * total_steps
        for index in range(first, end):
            if reduced[index - first]:
                steps[index] = self._step(Fraction(index - first, end - first), full_px)
        return Plan(steps)

    def canonical(self) -> Schedule:
        """The same plan for every training with each meaningless field at its default, so that equal schedules compare equal."""
        if self.frequency == 0 or self.window_length == 0 or self.window_start == 1 or self.scale == 1:
            return Schedule(side_multiple=self.side_multiple)
        whole = dataclasses.replace(self, window_length=min(self.window_length, float(1 - _exact(self.window_start))))
        certain = self.policy == "deterministic" or self.frequency == 1
        return dataclasses.replace(whole, policy="deterministic", seed=0) if certain else whole

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
            raise InputError(f"{path}: {error}") from None

    def save(self, path: str | Path, found_with: dict[str, Any] | None = None) -> None:
        """Writes a small YAML file that `load` reads back equal; `found_with` is kept in it as provenance."""
        content: dict[str, Any] = self.to_dict() | ({PROVENANCE_KEY: found_with} if found_with else {})
        Path(path).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def _window(self, total_steps: int) -> tuple[int, int]:
        """[first, end) step of the window. Exact decimals: 0.1 * 30 is 3 here, not 3.0000000000000004."""
        start = _exact(self.window_start)
        end = min(Fraction(1), start + _exact(self.window_length))
        return math.ceil(start * total_steps), math.ceil(end * total_steps)

    def _reduced_steps(self, window_steps: int) -> list[bool]:
        if self.policy == "stochastic":
            generator = random.Random(self.seed)
            return [generator.random() < self.frequency for _ in range(window_steps)]
        # After n steps floor(n * frequency) are reduced. Fractions, because float error would break strict alternation at 0.5.
        frequency = _exact(self.frequency)
        done = [math.floor(n * frequency) for n in range(window_steps + 1)]
        return [after > before for before, after in itertools.pairwise(done)]

    def _step(self, window_progress: Fraction, full_px: int) -> Step:
        scale = _exact(self.scale)
        if self.growth == "linear":
            scale += (1 - scale) * window_progress
        side_px = round_side(scale, full_px, self.side_multiple)
        return Step(full_px, "full") if side_px == full_px else Step(side_px, self.kernel)


def round_side(scale: Fraction | float, full_px: int, multiple: int) -> int:
    """Reduced side in pixels: scale * full_px rounded to a multiple, halves up, at least one multiple and at most full_px.

    Scale 1 is the full side, whether that is a multiple or not.
    """
    exact = scale if isinstance(scale, Fraction) else _exact(scale)
    if exact == 1:
        return full_px
    rounded = math.floor(exact * full_px / multiple + Fraction(1, 2)) * multiple
    return min(full_px, max(multiple, rounded))


def pooled_size(size: int, side_px: int, full_px: int) -> int:
    """Length of a pooled kernel side: ceil(size * side_px / full_px), in integers so that no rounding error enters."""
    return -(-size * side_px // full_px)


def read_schedule_file(path: str | Path) -> dict[str, Any]:
    """The raw mapping in a schedule file, provenance included; InputError if there is none."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"schedule file '{path}' cannot be read: {reason}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: PyYAML's own on a date such as 2024-99-99
        raise InputError(f"schedule file '{path}' is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(f"schedule file '{path}' must hold one mapping of field names to values")
    return content


def _exact(value: float) -> Fraction:
    return Fraction(str(value))
