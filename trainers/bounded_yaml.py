"""Reads YAML files of settings: safely, strictly, and within bounds, so that no file keeps its reader busy or fills its memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from trainers.errors import InputError
from trainers.wording import one_line, shown

# Our own choice: twenty times what the longest study file of this project needs, and read within about a second.
MAX_BYTES: Final = 100_000
# Of all values with their aliases written out. Files without aliases are below it by their size alone.
_MAX_EXPANDED: Final = 1_000_000
_MAX_DEPTH: Final = 20
# Those of the largest float.
_MAX_BITS: Final = 1024
_LONGEST_REASON: Final = 300


def read_yaml(what: str, path: str | Path) -> Any:
    """The content of a YAML file; whatever is wrong is an InputError in one sentence that starts with `what` and the path."""
    named = f"{what} '{path}'"
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        # ValueError: a path with a NUL byte.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(one_line(f"{named} cannot be read: {reason}")) from None
    if len(data) > MAX_BYTES:
        raise InputError(one_line(f"{named} is larger than {MAX_BYTES} bytes, it must be smaller: it holds settings, no data"))
    try:
        return parse_yaml(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise InputError(one_line(f"{named} cannot be read: it is not UTF-8 text, as YAML must be")) from None
    except InputError as error:
        raise InputError(one_line(f"{named} is {error}")) from None


def parse_yaml(text: str) -> Any:
    """Plain Python values from YAML text; InputError with a reason such as "not valid YAML: ..." to be put behind a subject and "is"."""
    try:
        content = yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        # Not str(error): it quotes the line, and a line may hold a password.
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise _invalid(f"{_cut(str(error.problem or error.context))}{place}") from None
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise _invalid(_cut(str(error))) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError):
        # What PyYAML's constructors raise on a value that isn't what its tag or its form says, as in `!!bool maybe`.
        raise _invalid("one of its values does not fit its tag") from None
    _check_bounds(content, 0, {})
    return content


class _StrictLoader(yaml.SafeLoader):
    """Safe loading that refuses a key given twice and merged mappings, and reads 5e-4 as a number (YAML 1.1 takes it for text)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            # A few merges of merges multiply to billions of keys.
            raise yaml.constructor.ConstructorError(problem="'<<' merges mappings, write their keys out", problem_mark=key.start_mark)
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise yaml.constructor.ConstructorError(problem=f"key {shown(key.value)} is given twice", problem_mark=key.start_mark)
        seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))


def _check_bounds(value: Any, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Size in characters and depth of `value` with every alias written out; InputError where one of them is beyond its bound."""
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise InputError("not usable: a number in it has more than 300 digits")
    # First, because a value that holds itself has no end.
    if depth > _MAX_DEPTH:
        raise _invalid("it is nested too deeply")
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, Mapping) else value if isinstance(value, list | tuple | set) else ()
        found = [_check_bounds(part, depth + 1, known) for part in parts]
        own = len(value) if isinstance(value, str | bytes) else 0
        known[id(value)] = 1 + own + sum(size for size, _ in found), max((1 + below for _, below in found), default=0)
    size, below = known[id(value)]
    if depth + below > _MAX_DEPTH:
        raise _invalid("it is nested too deeply")
    if size > _MAX_EXPANDED:
        raise InputError(f"too large: with its aliases written out it has over {_MAX_EXPANDED} characters")
    return size, below


def _invalid(reason: str) -> InputError:
    return InputError(f"not valid YAML: {reason}")


def _cut(reason: str) -> str:
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
