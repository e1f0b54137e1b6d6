"""Which database is meant. A password comes from the environment only, and no message shows it."""

from __future__ import annotations

import os
import re
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from studies.spec import url_has_password
from trainers.errors import InputError, nearest_name

DEFAULT_URL: Final = "sqlite:///tuner.db"
URL_VARIABLE: Final = "TUNER_STORAGE"

_DRIVERS: Final = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
_PASSWORD_QUERY: Final = re.compile(r"(?i)([?&]\s*(?:ssl)?(?:password|passwd|pwd)\s*=)[^&]*")


def resolve_url(option: str | None, study_file: str | None) -> str:
    """The database URL with its driver: the option, else TUNER_STORAGE, else the study file's, else sqlite:///tuner.db.

    InputError for a password anywhere but in TUNER_STORAGE, because command lines and files are read by others, and for a URL that is none.
    """
    for where, url in (("--storage", option), (URL_VARIABLE, os.environ.get(URL_VARIABLE)), ("storage in the study file", study_file)):
        if url or (url is not None and where != URL_VARIABLE):
            if where != URL_VARIABLE and url_has_password(url):
                raise InputError(
                    f"{where} is {masked(url)}, it must not hold a password: give the URL in {URL_VARIABLE} or the password in ~/.pgpass"
                )
            return _with_driver(where, url)
    return DEFAULT_URL


def masked(url: str) -> str:
    """`url` as messages may show it: *** for the password, before the host or as a query; without the driver that `resolve_url` adds."""
    hidden = _PASSWORD_QUERY.sub(r"\1***", url.replace("+psycopg://", "://"))
    # Greedy: a password may itself hold ':', '/' and '@'.
    return re.sub(r"(://[^:/@?]*):.*@", r"\1:***@", hidden)


def forget_secrets() -> None:
    """Removes the database's URL and password, the dashboard's token and the webhook from the environment, which workers would inherit."""
    for name in (URL_VARIABLE, "PGPASSWORD", "TUNER_DASHBOARD_TOKEN", "TUNER_WEBHOOK"):
        os.environ.pop(name, None)


def with_password(url: URL) -> URL:
    """The password where SQLAlchemy hides it; PGPASSWORD's too, because later connections are made after the environment forgot it."""
    if not url.drivername.startswith("postgresql"):
        return url
    password = url.password or url.query.get("password") or os.environ.get("PGPASSWORD")
    bare = url.difference_update_query(["password"])
    return bare.set(password=str(password)) if password else bare


def _with_driver(where: str, url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        # Not shown: a connection string of another form may hold a password that nothing here would recognise.
        raise InputError(f"{where} is no database URL, it must be one such as {DEFAULT_URL} or postgresql://user@host/database")
    known = {**_DRIVERS, **{driver: driver for driver in _DRIVERS.values()}}
    if scheme not in known:
        raise InputError(f"{where} is {masked(url)}, its scheme must be one of {', '.join(known)}{nearest_name(scheme, known)}")
    full = f"{known[scheme]}://{rest}"
    parsed = _parsed(full)
    if parsed is None:
        raise InputError(f"{where} is {masked(url)}, it must have the form postgresql://user@host:port/database")
    if scheme == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InputError(f"{where} is {masked(url)}, it must name a file, as in {DEFAULT_URL}, because a study outlives its driver")
    return full


def _parsed(url: str) -> URL | None:
    # What SQLAlchemy says of a broken URL may hold a part of its password, so it must not become a context.
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        return None
