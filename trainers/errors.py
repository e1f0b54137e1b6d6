"""The project's one tree of exceptions. Bad input is told apart from a failed run, because the user acts differently on each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DownsampleTunerError(Exception):
    """Root of everything this project raises on purpose. Its text is one sentence for the user."""


class InputError(DownsampleTunerError):
    """The user's input breaks a rule: the text shows the value, the rule and the nearest valid name. Exit code 2."""


class RunError(DownsampleTunerError):
    """The input was fine, but the work could not be done. Exit code 1."""


class NonFiniteLossError(RunError):
    """The training loss became NaN or infinite; the text names the step."""


class OutOfMemoryError(RunError):
    """A step needs more memory than there is; the text names the kind of step and the batch that would fit."""


class NoisyTimingError(RunError):
    """Step times could not be measured well enough, for the reason in the text."""


def nearest_name(value: object, names: Iterable[str]) -> str:
    """`; the nearest valid name is 'x'` when some name resembles `value`, else nothing."""
    # Without regard to case: 'SGD' is the nearest thing to 'sgd'.
    lower = {str(name).lower(): str(name) for name in names}
    close = difflib.get_close_matches(str(value).lower(), lower, n=1, cutoff=0.5)
    return f"; the nearest valid name is '{lower[close[0]]}'" if close else ""


def check_known(what: str, name: object, names: Iterable[str]) -> None:
    """InputError unless `name` is one of `names`; `what` says what is named, as in "schedule field"."""
    known = list(names)
    if name not in known:
        raise InputError(f"{what} '{name}' is unknown, valid names are {', '.join(known)}{nearest_name(name, known)}")
