"""How messages show what a user gave: on one line, cut, and without secrets."""

from __future__ import annotations

import re
from typing import Final

_LONGEST_VALUE: Final = 100
_LONGEST_MASKED: Final = 2_000
_PASSWORD_KEY: Final = re.compile(r"(?i)(\b\w*passw(?:or)?d|\bpwd)(\s*[=:]\s*)('[^']*'|\"[^\"]*\"|[^&\s,;]*)")


def mask_secrets(text: str) -> str:
    """`text` with the user part of every URL and every `password=...` replaced by asterisks."""
    # Up to the last '@', because a password may itself hold '/', '@' or spaces.
    start, end = text.find("://"), text.rfind("@")
    if 0 <= start < end:
        text = f"{text[:start]}://***@{text[end + 1 :]}"
    return _PASSWORD_KEY.sub(r"\1\2***", text)


def unbroken(text: str) -> str:
    """`text` on one line, with what is invisible written out: what a file holds must not steer the reader's terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in " ".join(text.split()))


def one_line(text: str) -> str:
    """`text` without line breaks and without secrets, as every message about a file is."""
    return mask_secrets(unbroken(text))


def shown(value: object) -> str:
    """`value` as messages show it: masked before it is cut, because half a URL no longer looks like one."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # Python writes out no whole number of more than 4,300 digits.
        return f"an overlong {type(value).__name__}"
    if len(text) > _LONGEST_MASKED:
        # With an '@', in case that of a URL is cut off here.
        text = f"{text[:_LONGEST_MASKED]}@"
    text = mask_secrets(text)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def shown_key(key: object) -> str:
    """A mapping's key as messages show it: a name as it is, its other alphabets written out, because they can look like ours."""
    is_name = isinstance(key, str) and key == key.strip() != "" and len(key) <= _LONGEST_VALUE
    text = shown(key)[1:-1] if is_name else shown(key)
    return text if text.isascii() else f"{text} ({ascii(text)[1:-1]})"
