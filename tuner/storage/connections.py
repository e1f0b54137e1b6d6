"""How the database is connected to: engines whose every call ends, and the lock under which the tables are created."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, text
from sqlalchemy.dialects import registry
from sqlalchemy.pool import NullPool

from trainers.errors import RunError

# Well below GRACE_S: after a connection that died silently there must be time for a beat through a new one.
CALL_DEADLINE_S: Final = 20.0
CONNECT_DEADLINE_S: Final = 10
# After so long the server gives back the locks of a client that is gone without a word.
IDLE_TRANSACTION_S: Final = 30.0

_DRIVER: Final = "postgresql+deadline"
# Any fixed number that no other program uses for its own advisory locks.
_SCHEMA_LOCK: Final = 0x646F776E
_SCHEMA_LOCK_TOTAL_S: Final = 120.0
_SQLITE_BUSY_S: Final = 60

# By name, because those who use SQLite need not wait for the import of psycopg.
registry.register("postgresql.deadline", "tuner.storage.deadlines", "DeadlineDialect")


def with_deadlines(url: URL) -> URL:
    """The URL by which SQLAlchemy finds the driver whose every call has a deadline (see tuner/storage/deadlines.py)."""
    return url if url.drivername == "sqlite" else url.set(drivername=_DRIVER)


def engine_options(url: URL) -> dict[str, Any]:
    """Arguments of `create_engine` for an engine that several threads use. They hold no password."""
    if url.drivername == "sqlite":
        return {"connect_args": {"timeout": _SQLITE_BUSY_S}}
    return {
        "pool_pre_ping": True,
        "pool_size": 2,
        "max_overflow": 3,
        "pool_recycle": 1800,
        "pool_timeout": CALL_DEADLINE_S,
        "connect_args": _connect_arguments(url),
    }


def unpooled_engine(url: URL) -> Engine:
    """For a few calls: its connections are closed where they are given back."""
    return create_engine(with_deadlines(url), poolclass=NullPool, connect_args=engine_options(url)["connect_args"])


@contextmanager
def schema_lock(url: URL) -> Iterator[None]:
    """Held while the tables are created: several first drivers at once would create them twice and fail. SQLite has no such lock.

    PostgreSQL gives it back with its connection even if this process is killed.
    """
    if url.drivername == "sqlite":
        yield
        return
    with unpooled_engine(url).connect() as connection:
        _take_schema_lock(connection)
        yield


def _take_schema_lock(connection: Connection) -> None:
    # Asked for again and again: many first drivers may rightly take longer than one call's deadline.
    latest_s = time.monotonic() + _SCHEMA_LOCK_TOTAL_S
    while not connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK}).scalar_one():
        if time.monotonic() > latest_s:
            raise RunError(f"another driver has been creating the database's tables for {_SCHEMA_LOCK_TOTAL_S:g} s")
        time.sleep(random.uniform(0.05, 0.15))


def _connect_arguments(url: URL) -> dict[str, Any]:
    """For libpq, the URL's own left out. Keepalives find a dead peer between calls, too."""
    arguments = {
        "connect_timeout": CONNECT_DEADLINE_S,
        "application_name": "downsample-tuner",
        "keepalives": 1,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        # Heartbeats are kept without a time zone: with the server's own they would jump by an hour twice a year.
        "options": "-c timezone=UTC",
    }
    return {name: value for name, value in arguments.items() if name not in url.query}
