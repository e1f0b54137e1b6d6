"""What a launch needs to know beside the spec: how many trials are rivals, and whether two specs mean the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Final

from trainers.methods.settings import SETTINGS

# At least this share of all trials is at full resolution. Our own choice: rivals too few to form a front of their own would flatter
# every gain that is stated against them.
RIVAL_FRAC: Final = 0.2

# Top-level keys that say what a trial's value means. Sampler, stopper, budget, resources, checkpoints, seed and storage only say how
# the search goes on.
MEANING_KEYS: Final = ("dataset", "model", "training", "search", "objectives")

# What specs that were stored before these keys existed meant.
_LATER_KEYS: Final[dict[str, dict[str, Any]]] = {
    "training": {"compile": False, "accumulate": 1} | {key: dataclasses.asdict(settings()) for key, settings in SETTINGS.items()},
    "search": {"pooled_layers": "all", "batch_growth": "none", "preset": "none"} | dict.fromkeys(SETTINGS, "none"),
}
_ABSENT: Final = object()


def next_is_rival(rivals: int, others: int) -> bool:
    """Whether the next trial must be at full resolution, so that rivals never are less than RIVAL_FRAC of the trials begun."""
    return rivals < Fraction(str(RIVAL_FRAC)) * (rivals + others + 1)


def meaning_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What makes the values of two studies incomparable, as lines "training.lr: 0.2 -> 0.1"; takes `StudySpec.to_json_dict` dicts, those
    of older versions too."""
    old, new = _with_later_keys(old), _with_later_keys(new)
    return [line for key in MEANING_KEYS for line in _differences(key, old.get(key, _ABSENT), new.get(key, _ABSENT))]


def _with_later_keys(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _LATER_KEYS[key] | content if key in _LATER_KEYS else content for key, content in spec.items()}


def _differences(key: str, old: object, new: object) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {**old, **new}:
            yield from _differences(f"{key}.{name}", old.get(name, _ABSENT), new.get(name, _ABSENT))
    elif old != new:
        yield f"{key}: {_written(old)} -> {_written(new)}"


def _written(value: object) -> str:
    return "nothing" if value is _ABSENT else json.dumps(value)
