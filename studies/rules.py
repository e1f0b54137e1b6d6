"""Rules that single keys of a study file must obey beside those of trainers; each breach is one InputError sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal
from urllib.parse import parse_qsl, urlsplit

from studies.sentences import shown
from trainers.checks import check_integer, check_name, check_number
from trainers.errors import InputError

Direction = Literal["minimize", "maximize"]

# What a trial can be judged by: seconds are calibrated in relative_time, observed in train_seconds; peak_memory is in bytes.
OBJECTIVES: Final[dict[str, Direction]] = {
    "relative_time": "minimize",
    "val_accuracy": "maximize",
    "train_seconds": "minimize",
    "val_loss": "minimize",
    "peak_memory": "minimize",
}
# The default: what a training takes, known before it, against what it reaches.
BOTH_KNOWN: Final = ("relative_time", "val_accuracy")
# Our own choice, far above any machine.
_MOST_GPUS: Final = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
# Neither databases nor file systems take all of these: control characters and halves of surrogate pairs.
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DURATION = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,9})s)?")
# As SQLAlchemy splits it, which takes more for a password than urllib does: all up to the '@', slashes included.
_USER_AND_PASSWORD = re.compile(r"://[^:/@]*:[^@]+@")
_PASSWORD_QUERIES = frozenset({"password", "passwd", "pwd", "sslpassword"})


def parse_duration(text: object) -> int:
    """Seconds in a duration such as '2h', '90m', '45s' or '1h30m'; InputError for anything else and for nothing at all."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total_s = hours * 3600 + minutes * 60 + seconds
    if not total_s:
        raise InputError(f"duration is {shown(text)}, it must be a time above 0 such as '2h', '90m', '45s' or '1h30m'")
    return total_s


def url_has_password(url: str) -> bool:
    """Whether a database URL carries a password, before the host or as a query; a URL that can't be split counts if it might."""
    try:
        password = urlsplit(url).password
    except ValueError:
        return "@" in url
    queries = {name.strip().lower() for name, _ in parse_qsl(url.partition("?")[2])}
    return bool(password) or _USER_AND_PASSWORD.search(url) is not None or not queries.isdisjoint(_PASSWORD_QUERIES)


def check_study_name(what: str, value: object) -> None:
    """A name that is safe as a file name, a database key and a command-line word."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        rule = "it must be 1 to 80 letters (a to z, A to Z), digits, '-', '_' or '.', of which the first is a letter or a digit"
        raise InputError(f"{what} is {shown(value)}, {rule}")


def check_model(what: str, value: object) -> None:
    """A network by name; which names exist only trainers.models knows."""
    if not isinstance(value, str) or not value.strip() or _INVISIBLE.search(value):
        raise InputError(f"{what} is {shown(value)}, it must be the name of a network or 'module:factory'")


def check_folder(what: str, value: object) -> None:
    """The path of a folder, whether it exists here or not."""
    if not isinstance(value, str) or not value.strip() or _INVISIBLE.search(value):
        raise InputError(f"{what} is {shown(value)}, it must be the path of a folder")


def check_objectives(what: str, value: object) -> None:
    """At least one of OBJECTIVES, each once."""
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{what} is {shown(value)}, it must be a list of at least one of {', '.join(OBJECTIVES)}")
    for name in value:
        check_name(what, name, tuple(OBJECTIVES))
        if value.count(name) > 1:
            raise InputError(f"{what} is {shown(value)}, it must list {name!r} only once")


def check_patience(what: str, value: object) -> None:
    """A number of trials, or None for no such rule."""
    if value is not None:
        check_integer(what, value, lowest=1)


def check_both_known(what: str, value: object, objectives: Sequence[str], instead: str = "") -> None:
    """For what takes relative_time and val_accuracy, in any order, and no other objectives. instead: what else there is for others."""
    if sorted(objectives) != sorted(BOTH_KNOWN):
        asked = ", ".join(objectives)
        other = f", for which {instead!r} is there" if instead else ""
        raise InputError(f"{what} is {shown(value)}, it needs the objectives relative_time and val_accuracy, not {asked}{other}")


def check_timeout(what: str, value: object) -> None:
    """A duration, or None for no limit."""
    if value is not None:
        parse_duration(value)


def check_gpus(what: str, value: object) -> None:
    """A whole number of devices, or a share of one."""
    check_number(what, value, high=_MOST_GPUS)
    if isinstance(value, float) and value > 1 and not value.is_integer():
        raise InputError(f"{what} is {value!r}, it must be a whole number where it is above 1, because Ray gives only single GPUs in parts")


def check_storage(what: str, value: object) -> None:
    """A database URL without a password, or None."""
    if value is None:
        return
    if not isinstance(value, str) or "://" not in value or _INVISIBLE.search(value):
        # Not shown: a connection string of another form may hold a password that nothing here would recognise.
        raise InputError(f"{what} is no database URL, it must be one such as sqlite:///tuner.db or postgresql+psycopg://host/database")
    if url_has_password(value):
        raise InputError(f"{what} is a URL with a password, it must be without: give the URL in TUNER_STORAGE or the password in ~/.pgpass")
