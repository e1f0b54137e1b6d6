"""Turns every complaint about a study file into one sentence that shows the dotted key, the value and the rule, and never a secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import BeforeValidator, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from trainers.errors import InputError, nearest_name

# Which names a mapping of the study file may hold; "" is the top level.
Sections = Mapping[str, Sequence[str]]

MAPPING_RULE: Final = "it must be a mapping of keys to values"
_LONGEST_VALUE = 100
# Greedy on purpose: a password may itself hold '/', '@' or spaces, so all up to the last '@' is hidden.
_URL_USER = re.compile(r"://.*@")
_PASSWORD_KEY = re.compile(r"(?i)(\b\w*passw(?:or)?d|\bpwd)(\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^&\s,;]*)")


def mask_secrets(text: str) -> str:
    """`text` with the user part of every URL and every `password=...` replaced by asterisks."""
    return _PASSWORD_KEY.sub(r"\1\2***", _URL_USER.sub("://***@", text))


def one_line(text: str) -> str:
    """`text` without line breaks and without secrets, as every message of this package is."""
    return mask_secrets(" ".join(text.split()))


def shown(value: object) -> str:
    """`value` as messages show it: masked before it is cut, because half a URL no longer looks like one."""
    text = mask_secrets(repr(value))
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def with_key(key: str, error: InputError) -> str:
    """The rule's sentence about "lr is -1, it must ..." with the dotted key of the study file as its subject."""
    return f"{key} is {str(error).partition(' is ')[2]}"


def unknown_key(section: str, name: object, sections: Sections) -> str:
    """Sentence about an unknown key: the nearest name beside it, else the section that does have the name."""
    known = sections[section]
    hint = nearest_name(name, known)
    if not hint:
        hint = "".join(f"; the nearest valid name is '{other}.{name}'" for other, names in sections.items() if name in names and other)
    return f"{f'{section}.' if section else ''}{name} is unknown, valid keys are {', '.join(known)}{hint}"


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
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] not in ("extra_forbidden", "invalid_key"))
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
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
