"""Turns every complaint about a study file into one sentence that shows the dotted key, the value and the rule, and never a secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import BeforeValidator, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from trainers.errors import InputError, nearest_name
from trainers.wording import mask_secrets, one_line, shown, shown_key

__all__ = [
    "MAPPING_RULE",
    "Sections",
    "first_sentence",
    "mask_secrets",
    "one_line",
    "rule_error",
    "ruled",
    "sentence_error",
    "shown",
    "unknown_key",
    "with_key",
]

# Which names a mapping of the study file may hold; "" is the top level.
Sections = Mapping[str, Sequence[str]]

MAPPING_RULE: Final = "it must be a mapping of keys to values"


def with_key(key: str, error: InputError) -> str:
    """The rule's sentence about "lr is -1, it must ..." with the dotted key of the study file as its subject."""
    return f"{key} is {str(error).partition(' is ')[2]}"


def unknown_key(section: str, name: object, sections: Sections) -> str:
    """Sentence about an unknown key: the section that does have the name, else the nearest name beside it."""
    known = sections[section]
    key = shown_key(name)
    elsewhere = [f"{other}.{name}" for other, names in sections.items() if other and name in names]
    hint = f"; the nearest valid name is '{elsewhere[0]}'" if elsewhere else nearest_name(name if isinstance(name, str) else key, known)
    return f"{f'{section}.' if section else ''}{key} is unknown, valid keys are {', '.join(known)}{hint}"


def ruled(check: Callable[[str, object], object]) -> BeforeValidator:
    """A pydantic validator from a check that raises InputError sentences of the form "<field> is <value>, it must ..."."""

    def validate(value: Any, info: ValidationInfo) -> Any:
        try:
            check(str(info.field_name), value)
        except InputError as error:
            raise rule_error(error) from None
        return value

    return BeforeValidator(validate)


def rule_error(error: InputError) -> PydanticCustomError:
    """For pydantic to collect: a sentence whose subject is replaced by the dotted key."""
    return PydanticCustomError("rule", "{text}", {"text": str(error)})


def sentence_error(error: InputError) -> PydanticCustomError:
    """For pydantic to collect: a sentence that names its dotted key itself."""
    return PydanticCustomError("sentence", "{text}", {"text": str(error)})


def first_sentence(error: ValidationError, sections: Sections) -> str:
    """One sentence for all that is wrong: unknown keys first, because a mistyped key is what makes another one missing."""
    # A default that follows from another key is no mistake where that key, or any before it, is one.
    mistakes = [detail for detail in error.errors(include_url=False) if detail["type"] != "default_factory_not_called"]
    details = sorted(mistakes, key=lambda detail: detail["type"] not in ("extra_forbidden", "invalid_key"))
    others = len(details) - 1
    more = f" (and {others} more error{'s' if others > 1 else ''})" if others else ""
    return one_line(_sentence(details[0], sections) + more)


def _sentence(detail: ErrorDetails, sections: Sections) -> str:
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path) or "a study"
    match detail["type"]:
        case "sentence":
            return detail["msg"]
        case "rule":
            return with_key(key, InputError(detail["msg"]))
        case "extra_forbidden" | "invalid_key":
            return unknown_key(".".join(path[:-1]), path[-1], sections)
        case "missing":
            return f"{key} is missing, every study needs it"
        case "model_type":
            return f"{key} is {shown(detail['input'])}, {MAPPING_RULE}"
        case _:
            return f"{key} is {shown(detail['input'])}: {detail['msg']}"
