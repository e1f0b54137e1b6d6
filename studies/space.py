"""The search space of a study: which fields of a schedule and a training are searched, with the honest rivals always inside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from studies.domains import Choice, Domain, Fixed, Range, Value, exact, parse_domain
from studies.sentences import MAPPING_RULE, shown, unknown_key, with_key
from trainers.config import DataConfig, TrainConfig
from trainers.errors import InputError, check_known
from trainers.methods.settings import SETTINGS
from trainers.presets import preset_steps
from trainers.schedule import Schedule, Step, constant_work_batches, round_side, step_kernel

__all__ = [
    "FIELDS",
    "Choice",
    "Domain",
    "Fixed",
    "Range",
    "SearchSpace",
    "canonical_params",
    "parse_space",
    "possible_steps",
]

SCHEDULE_FIELDS: Final = (
    "frequency",
    "policy",
    "scale",
    "kernel",
    "pooled_layers",
    "batch_norm",
    "window_start",
    "window_length",
    "growth",
    "batch_growth",
    "preset",
    "side_multiple",
)
TRAINING_FIELDS: Final = ("epochs", "lr", "weight_decay")
# Of each the name is searched; its settings are those of `training`.
METHOD_FIELDS: Final = tuple(SETTINGS)
# Frequency first: it decides whether the other schedule fields mean anything.
FIELDS: Final = SCHEDULE_FIELDS + TRAINING_FIELDS + METHOD_FIELDS

# Our own choice: the shorter full-resolution runs must reach down to this share of the baseline's epochs, and do to the second by default.
SHORTER_FRAC: Final = 0.6
DEFAULT_SHORTEST_FRAC: Final = 0.3

_NAMED = ("policy", "kernel", "pooled_layers", "batch_norm", "growth", "batch_growth", "preset", *METHOD_FIELDS)
_WHOLE = ("epochs", "side_multiple")


class SearchSpace(Mapping[str, Domain]):
    """Every field with its domain, frequency first. Built by `parse_space`; equal when all domains are.

    full_px: full side of the study's images, which decides whether a field can mean anything.
    """

    def __init__(self, domains: Mapping[str, Domain], full_px: int) -> None:
        self._domains = {field: domains[field] for field in FIELDS}
        self.full_px = full_px

    def __getitem__(self, field: str) -> Domain:
        return self._domains[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self._domains)

    def __len__(self) -> int:
        return len(self._domains)

    def __repr__(self) -> str:
        return f"SearchSpace({self._domains!r})"

    @property
    def searched(self) -> dict[str, Choice | Range]:
        """The fields that are parameters of a trial: all but the fixed ones."""
        return {field: domain for field, domain in self.items() if not isinstance(domain, Fixed)}

    def complete(self, params: Mapping[str, Value]) -> dict[str, Value]:
        """Every field with its value, the fixed ones too; InputError for an unknown or missing field or a value outside its domain.

        A float that a sampler's arithmetic left beside its step (0.30000000000000004) becomes the decimal number itself.
        """
        for field in params:
            check_known("search field", field, FIELDS)
        return {field: _member(field, domain, params) for field, domain in self.items()}

    def schedule(self, params: Mapping[str, Value], seed: int = 0) -> Schedule:
        """The schedule of a point of the space, which at frequency 0 has no preset; `seed` is that of what is drawn."""
        complete = self.complete(params)
        if complete["frequency"] == 0:
            complete["preset"] = "none"
        return Schedule(**{field: complete[field] for field in SCHEDULE_FIELDS}, seed=seed)

    def is_full_resolution(self, params: Mapping[str, Value]) -> bool:
        """Whether no training with these parameters ever takes a reduced step, whatever its length and its images' side."""
        return self.schedule(params).canonical().frequency == 0

    def to_json_dict(self) -> dict[str, Any]:
        """As the key `search` of a study file, every field written out."""
        return {field: domain.to_json() for field, domain in self.items()}


def parse_space(search: object, training: Mapping[str, Value], full_px: int) -> SearchSpace:
    """The space of the mapping `search`, whose missing fields are fixed at the default of Schedule or at the training's value.

    Three fields have rules of their own, so that the honest rivals are points of every space: frequency always holds 0 and preset none
    (added to a fixed value or list without it), and epochs reaches from the training's epochs down to SHORTER_FRAC of them. A method that
    is None is as if it were missing, so that a file can name every field.
    training: the values of the baseline for TRAINING_FIELDS and METHOD_FIELDS. full_px: full side of the study's images.
    """
    if not isinstance(search, Mapping):
        raise InputError(f"search is {shown(search)}, {MAPPING_RULE}")
    for field in search:
        if field not in FIELDS:
            raise InputError(unknown_key("search", field, {"search": FIELDS}))
    if "frequency" not in search:
        raise InputError("search.frequency is missing, it must be given: a list or a range from 0 to at most 1")
    given = [field for field in search if field not in METHOD_FIELDS or search[field] is not None]
    domains = {field: _parse_field(field, search[field]) for field in given}
    defaults = Schedule().to_dict() | dict(training)
    domains = {field: domains.get(field, Fixed(defaults[field])) for field in FIELDS}
    domains["frequency"] = _with_zero(domains["frequency"])
    domains["preset"] = _with_none(domains["preset"], domains["frequency"])
    if "epochs" not in search:
        domains["epochs"] = _default_epochs(training["epochs"])
    _check_rivals(domains, training)
    return SearchSpace(domains, full_px)


def canonical_params(space: SearchSpace, params: Mapping[str, Value]) -> dict[str, Value]:
    """The parameters of a trial (fixed fields left out) with one way to write full resolution: frequency 0, and the rest of the schedule
    at its domain's canonical value. So are single fields that mean nothing in a schedule: which layers are pooled where none is, batch
    growth where the side is too large for a second batch, the policy where every step is reduced, all but a few beside a preset.

    A field left out instead would fall out of the samplers' joint space for good."""
    complete = space.complete(params)
    if space.is_full_resolution(params):
        complete |= {field: space[field].canonical for field in SCHEDULE_FIELDS} | {"frequency": 0.0, "preset": "none"}
    else:
        meaningless = space.schedule(complete).meaningless_fields(space.full_px)
        complete |= {field: space[field].canonical for field in SCHEDULE_FIELDS if field in meaningless}
        if "frequency" in meaningless:
            # Any but 0, which would be full resolution.
            complete["frequency"] = space["frequency"].highest
    return {field: complete[field] for field in space.searched}


def possible_steps(space: SearchSpace, full_px: int) -> frozenset[Step]:
    """Every kind of step that a trial of the space can take on inputs of side `full_px` pixels, the full step included.

    Where batches can grow a side has two kinds: as many batches as it can take, and one, for batches left over.
    """
    full = Step(full_px, "full")
    if space["frequency"].highest == 0:
        return frozenset({full})
    presets = [name for name in space["preset"].members or () if name != "none"]
    steps = {full}.union(*(preset_steps(name, full_px, space["side_multiple"].canonical) for name in presets))
    return frozenset(steps if space["window_length"].highest == 0 else steps | _written_steps(space, full_px))


def _written_steps(space: SearchSpace, full_px: int) -> set[Step]:
    """Those that the fields of a schedule without a preset give, but for the full one."""
    kernels = {step_kernel(kernel, layers) for kernel in space["kernel"].members or () for layers in space["pooled_layers"].members or ()}
    grown = space["batch_growth"].contains("constant_work")
    steps = set()
    for side_px in _possible_sides(space, full_px) - {full_px}:
        batches = {1, constant_work_batches(side_px, full_px)} if grown else {1}
        steps |= {Step(side_px, kernel, count) for kernel in kernels for count in batches}
    return steps


def _possible_sides(space: SearchSpace, full_px: int) -> set[int]:
    multiple = space["side_multiple"].canonical
    scale = space["scale"]
    lowest_px, highest_px = (round_side(end, full_px, multiple) for end in (scale.lowest, scale.highest))
    if space["growth"].contains("linear"):
        return {*range(lowest_px, full_px, multiple), full_px}
    if scale.members is None:
        return {*range(lowest_px, highest_px, multiple), highest_px}
    return {round_side(member, full_px, multiple) for member in scale.members}


def _parse_field(field: str, raw: object) -> Domain:
    key = f"search.{field}"
    if field == "side_multiple" and isinstance(raw, Mapping | list | tuple):
        raise InputError(f"{key} is {shown(raw)}, it must be one fixed whole number")
    return parse_domain(key, raw, lambda key, value: _checked_value(field, key, value))


def _checked_value(field: str, key: str, value: Any) -> Value:
    try:
        if field in TRAINING_FIELDS:
            TrainConfig(model="any", data=DataConfig(name="digits"), **{field: value})
        elif field in METHOD_FIELDS:
            SETTINGS[field](name=value)
        else:
            Schedule(**{field: value})
    except InputError as error:
        raise InputError(with_key(key, error)) from None
    return value if field in _NAMED + _WHOLE else float(value)


def _with_zero(frequency: Domain) -> Domain:
    if frequency.contains(0.0):
        return frequency
    if isinstance(frequency, Range):
        raise InputError(f"search.frequency.low is {frequency.low!r}, it must be 0: the full-resolution rivals are trials of every study")
    return Choice((0.0, *frequency.members))


def _with_none(preset: Domain, frequency: Domain) -> Domain:
    named = [member for member in preset.members or () if member != "none"]
    if named and frequency.highest == 0:
        raise InputError(f"search.preset is {named[0]!r}, it must be none where search.frequency is 0: that is full resolution")
    return preset if preset.contains("none") else Choice(("none", *named))


def _default_epochs(epochs: int) -> Domain:
    lowest = max(1, math.ceil(exact(DEFAULT_SHORTEST_FRAC) * epochs))
    return Range(lowest, epochs) if lowest < epochs else Fixed(epochs)


def _check_rivals(domains: Mapping[str, Domain], training: Mapping[str, Value]) -> None:
    for field in TRAINING_FIELDS + METHOD_FIELDS:
        if not domains[field].contains(training[field]):
            written = shown(domains[field].to_json())
            raise InputError(f"search.{field} is {written}, it must contain training.{field} = {training[field]!r}, the baseline's value")
    if training["epochs"] < 2:
        raise InputError(f"training.epochs is {training['epochs']}, it must be at least 2, so that a shorter full-resolution run exists")
    longest = exact(SHORTER_FRAC) * training["epochs"]
    if domains["epochs"].lowest > longest:
        raise InputError(
            f"search.epochs is {shown(domains['epochs'].to_json())}, it must reach down to at most {SHORTER_FRAC} x training.epochs "
            f"= {float(longest):g}: a front without the shorter full-resolution runs proves nothing"
        )


def _member(field: str, domain: Domain, params: Mapping[str, Value]) -> Value:
    value = params.get(field, domain.canonical if isinstance(domain, Fixed) else None)
    if value is None:
        raise InputError(f"search field '{field}' is missing from the parameters, it must be given: {domain.to_json()}")
    if isinstance(domain, Range) and isinstance(value, int | float) and math.isfinite(value):
        member = domain.nearest(value)
        if abs(member - value) <= 1e-9 * max(1.0, abs(member)):
            return member
    elif domain.contains(value):
        return value
    raise InputError(f"search field '{field}' is {shown(value)}, it must be a member of {domain.to_json()}")
