"""Where studies are kept: how the database is opened, and what happens while it doesn't answer. No password ever leaves it."""

from __future__ import annotations

import logging
import random
import sqlite3
import time
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import URL, inspect, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from trainers.errors import InputError, RunError
from tuner.storage.connections import engine_options, schema_lock, unpooled_engine, with_deadlines
from tuner.storage.urls import DEFAULT_URL, URL_VARIABLE, forget_secrets, masked, resolve_url, with_password

__all__ = [
    "DEFAULT_URL",
    "GRACE_S",
    "HEARTBEAT_S",
    "RETRY_TOTAL_S",
    "URL_VARIABLE",
    "DatabaseAway",
    "forget_secrets",
    "holds_studies",
    "is_transient",
    "masked",
    "open_existing",
    "open_storage",
    "resolve_url",
    "with_retries",
]

HEARTBEAT_S: Final = 10
GRACE_S: Final = 60
RETRY_TOTAL_S: Final = 30.0

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_SQLITE_ATTEMPTS: Final = 20
# SQLite has one class of errors for what passes (a lock, a full disk) and for what doesn't (a read-only file, a missing table).
_PASSING_IN_SQLITE: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
}
# PostgreSQL's read_only_sql_transaction (a standby) and insufficient_privilege.
_REFUSALS: Final = ("25006", "42501")

T = TypeVar("T")


class DatabaseAway(RunError):  # noqa: N818  a state that ends, not a mistake
    """The database has not answered for RETRY_TOTAL_S. It may do so later: what was to be written is to be kept until then."""


def open_storage(url: str) -> RDBStorage:
    """Connects, and creates the tables where they are missing. RunError in one sentence when that can't be done."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Its one warning is a whole statement, shown where a connection broke; with_retries has the last word on that.
    logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)
    full = with_password(make_url(url))

    def connect() -> RDBStorage:
        with schema_lock(full):
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
    full = with_password(make_url(url))
    # A mere connection would make the file.
    if full.drivername == "sqlite" and "uri" not in full.query and not Path(str(full.database)).exists():
        return False
    return _in_one_sentence(url, lambda: inspect(unpooled_engine(full)).has_table("studies"))


def with_retries(call: Callable[[], T], what: str = "the database") -> T:
    """The result of `call`, tried again with growing, jittered pauses while the database has passing trouble.

    `call` must be safe to repeat: the answer of a transaction that went through may be what was lost. DatabaseAway when RETRY_TOTAL_S
    are over; the last try may end later by a connection's and a call's deadline. RunError at once where nothing may be written.
    """
    deadline_s = time.monotonic() + RETRY_TOTAL_S
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return call()
        except (SQLAlchemyError, StorageInternalError) as error:
            passes, reason = is_transient(error), _first_line(error)
            if not (passes or _is_refusal(error)):
                raise
        if not passes:
            raise RunError(f"{what} refuses: {reason}")
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        jittered_s = random.uniform(0.5, 1.0) * pause_s
        if time.monotonic() + jittered_s > deadline_s:
            raise DatabaseAway(f"{what} has not answered for {RETRY_TOTAL_S:g} s: {reason}")
        time.sleep(jittered_s)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may work a little later: lost connections, locks, restarts, a full disk; not data that the database
    refuses, nor a read-only file."""
    cause = _cause(error)
    if isinstance(cause, PoolTimeoutError) or (isinstance(cause, DBAPIError) and (cause.connection_invalidated or _may_pass(cause))):
        return True
    # Optuna may go on with a connection after it broke, and what fails then is only the consequence.
    return isinstance(cause, SQLAlchemyError) and cause.__context__ is not None and is_transient(cause.__context__)


def _may_pass(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", None)
    # The lowest byte of SQLite's extended codes is the plain one.
    return isinstance(error, OperationalError) and (code is None or code & 0xFF in _PASSING_IN_SQLITE)


def _is_refusal(error: BaseException) -> bool:
    """Whether the user has to change the database or its rights; other refusals are mistakes of ours."""
    cause = _cause(error)
    return isinstance(cause, OperationalError) or getattr(getattr(cause, "orig", None), "sqlstate", None) in _REFUSALS


def _cause(error: BaseException) -> BaseException:
    """What SQLAlchemy raised, which Optuna wraps."""
    return error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error


def _in_one_sentence(url: str, call: Callable[[], T]) -> T:
    """What `call` gives; RunError in one sentence where the database refuses."""
    try:
        return call()
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = f"the database {masked(url)} can't be opened: {_first_line(error)}"
        if "refused" in reason:
            reason += ": is it running, and is its URL right?"
    except RuntimeError as error:
        reason = f"the tables of the database {masked(url)} don't fit this version: {_first_line(error)}"
    # Raised out here, so that the error of the driver isn't its context.
    raise RunError(reason)


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
    template = with_deadlines(url).render_as_string(hide_password=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(template, engine_options(url), heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)


def _prefer_wal(url: URL) -> None:
    """Lets readers and one writer of a SQLite file work at once. It stays in the file, and where it can't be set nothing is lost."""
    with unpooled_engine(url).connect() as connection:
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def _first_line(error: BaseException) -> str:
    """What the driver said, without SQLAlchemy's copy of the statement."""
    cause = _cause(error)
    original = getattr(cause, "orig", None) or cause
    lines = str(original).strip().splitlines()
    return masked(lines[0].strip()) if lines else type(original).__name__
