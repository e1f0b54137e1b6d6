"""Where studies are kept: which database, how it is opened, and what happens while it doesn't answer. No password ever leaves it."""

from __future__ import annotations

import os
import random
import re
import time
import warnings
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import URL, create_engine, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool

from studies.spec import url_has_password
from trainers.errors import InputError, RunError, nearest_name

DEFAULT_URL: Final = "sqlite:///tuner.db"
URL_VARIABLE: Final = "TUNER_STORAGE"
HEARTBEAT_S: Final = 10
GRACE_S: Final = 60
RETRY_TOTAL_S: Final = 30.0

_DRIVERS: Final = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
_PASSWORD_QUERY: Final = re.compile(r"(?i)([?&]\s*(?:ssl)?(?:password|passwd|pwd)\s*=)[^&]*")
# Any fixed number that no other program uses for its own advisory locks.
_SCHEMA_LOCK: Final = 0x646F776E
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_SQLITE_BUSY_S: Final = 60
_SQLITE_ATTEMPTS: Final = 20

T = TypeVar("T")


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
    """`url` as messages may show it: *** for the password, before the host or as a query."""
    hidden = _PASSWORD_QUERY.sub(r"\1***", url)
    # Greedy: a password may itself hold ':', '/' and '@'.
    return re.sub(r"(://[^:/@?]*):.*@", r"\1:***@", hidden)


def forget_secrets() -> None:
    """Removes the database's URL and password from the environment, which workers started later would inherit."""
    for name in (URL_VARIABLE, "PGPASSWORD"):
        os.environ.pop(name, None)


def open_storage(url: str) -> RDBStorage:
    """Connects, and creates the tables where they are missing. RunError in one sentence when that can't be done."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    full = _with_password(make_url(url))

    def connect() -> RDBStorage:
        with _schema_lock(full):
            return _connected(full)

    storage = _in_one_sentence(url, connect)
    # Optuna keeps the URL in what it pickles and prints, and needs it no more.
    storage.url = masked(url)
    # Pooled connections would stay open until the garbage collector complains about each of them.
    weakref.finalize(storage, storage.engine.dispose)
    return storage


def open_existing(url: str) -> RDBStorage:
    """Connects for a command that only looks at or goes on with what is there: InputError instead of a new, empty database."""
    if not holds_studies(url):
        raise InputError(
            f"there is no database of studies at {masked(url)}: name another one with --storage or {URL_VARIABLE}, "
            "or make it with tuner launch"
        )
    return open_storage(url)


def holds_studies(url: str) -> bool:
    """Whether there is a database at `url` with the tables of studies in it. Creates nothing. RunError where it doesn't answer."""
    full = _with_password(make_url(url))
    # A mere connection would make the file.
    if full.drivername == "sqlite" and "uri" not in full.query and not Path(str(full.database)).exists():
        return False

    def look() -> bool:
        options = {"connect_args": _engine_options(full)["connect_args"], "poolclass": NullPool}
        return inspect(create_engine(full, **options)).has_table("studies")

    return _in_one_sentence(url, look)


def with_retries(call: Callable[[], T], what: str = "the database") -> T:
    """The result of `call`, tried again with growing, jittered pauses while the database has passing trouble; RunError after 30 s.

    `call` must be safe to repeat: the answer of a transaction that went through may be what was lost.
    """
    deadline_s = time.monotonic() + RETRY_TOTAL_S
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return call()
        except (SQLAlchemyError, StorageInternalError) as error:
            if not is_transient(error):
                raise
            reason = _first_line(error)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        jittered_s = random.uniform(0.5, 1.0) * pause_s
        if time.monotonic() + jittered_s > deadline_s:
            raise RunError(f"{what} has not answered for {RETRY_TOTAL_S:g} s: {reason}")
        time.sleep(jittered_s)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may work a little later: lost connections, locks, restarts; not data that the database refuses."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, OperationalError | PoolTimeoutError) or (isinstance(cause, DBAPIError) and cause.connection_invalidated)


def _in_one_sentence(url: str, call: Callable[[], T]) -> T:
    """What `call` gives; RunError in one sentence where the database refuses."""
    try:
        return call()
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = f"the database {masked(url)} can't be opened: {_first_line(error)}"
    except RuntimeError as error:
        reason = f"the tables of the database {masked(url)} don't fit this version: {_first_line(error)}"
    # Raised out here, so that the error of the driver isn't its context.
    raise RunError(reason)


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


def _with_password(url: URL) -> URL:
    """The password where SQLAlchemy hides it; PGPASSWORD's too, because later connections are made after the environment forgot it."""
    if not url.drivername.startswith("postgresql"):
        return url
    password = url.password or url.query.get("password") or os.environ.get("PGPASSWORD")
    bare = url.difference_update_query(["password"])
    return bare.set(password=str(password)) if password else bare


def _connected(url: URL) -> RDBStorage:
    if url.drivername == "sqlite":
        return _first_come(partial(_storage, url))
    return _storage(url)


def _first_come(make: Callable[[], RDBStorage]) -> RDBStorage:
    """SQLite has no lock to create the tables under, so another first driver may be half-way through."""
    for _ in range(_SQLITE_ATTEMPTS - 1):
        try:
            return make()
        except (OperationalError, IntegrityError, StorageInternalError) as error:
            if "unable to open" in str(error):
                raise
        time.sleep(random.uniform(0.02, 0.2))
    return make()


def _storage(url: URL) -> RDBStorage:
    if url.drivername == "sqlite":
        _prefer_wal(url)
    # Optuna fills in {SCHEMA_VERSION}: SQLAlchemy writes every other brace as %7B.
    template = url.render_as_string(hide_password=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(template, _engine_options(url), heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)


def _engine_options(url: URL) -> dict[str, Any]:
    if url.drivername == "sqlite":
        return {"connect_args": {"timeout": _SQLITE_BUSY_S}}
    return {
        "pool_pre_ping": True,
        "pool_size": 2,
        "max_overflow": 3,
        "pool_recycle": 1800,
        "connect_args": _connect_arguments(url),
    }


def _connect_arguments(url: URL) -> dict[str, Any]:
    """For libpq, the URL's own left out. Without keepalives a connection that a firewall has dropped blocks for hours."""
    arguments = {
        "connect_timeout": 10,
        "application_name": "downsample-tuner",
        "keepalives": 1,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        # Heartbeats are kept without a time zone: with the server's own they would jump by an hour twice a year.
        "options": "-c timezone=UTC",
    }
    return {name: value for name, value in arguments.items() if name not in url.query}


def _schema_lock(url: URL) -> AbstractContextManager[object]:
    """Held while the tables are created: several first drivers at once would create them twice and fail."""
    return nullcontext() if url.drivername == "sqlite" else _AdvisoryLock(url)


class _AdvisoryLock:
    """PostgreSQL's lock on a number, given back with its connection even if this process is killed."""

    def __init__(self, url: URL) -> None:
        self._engine = create_engine(url, poolclass=NullPool, connect_args=_connect_arguments(url))

    def __enter__(self) -> None:
        self._connection = self._engine.connect()
        self._connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})

    def __exit__(self, *error: object) -> None:
        self._connection.close()


def _prefer_wal(url: URL) -> None:
    """Lets readers and one writer of a SQLite file work at once. It stays in the file, and where it can't be set nothing is lost."""
    with create_engine(url, poolclass=NullPool, **_engine_options(url)).connect() as connection:
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def _first_line(error: BaseException) -> str:
    """What the driver said, without SQLAlchemy's copy of the statement."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    original = getattr(cause, "orig", None) or cause
    lines = str(original).strip().splitlines()
    return masked(lines[0].strip()) if lines else type(original).__name__
