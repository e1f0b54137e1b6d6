"""PostgreSQL connections that are given up when the server falls silent, kept by the client, because no server is there to keep it.

TCP notices a peer that is dead, not one whose kernel acknowledges while nobody answers; libpq would wait for that one for ever.
"""

from __future__ import annotations

import re
import time
from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from tuner.storage import connections

_TAKES_LOCKS: Final = re.compile(r"\s*(INSERT|UPDATE|DELETE)\b|.*\b(FOR UPDATE|pg_try_advisory_xact_lock)\b", re.DOTALL)

T = TypeVar("T")


class DeadlineConnection(psycopg.Connection[Any]):
    """Each call (a statement, commit, rollback, a ping) raises OperationalError after CALL_DEADLINE_S without a byte from the server.

    The socket is shut then, so that SQLAlchemy takes a new connection. A wait for a lock is silence, too. A long answer is none: what
    100,000 trials need may take longer than the deadline, as long as it comes. Connecting has libpq's connect_timeout.
    """

    # Whether the transaction may hold locks that others wait for.
    locks = False

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """See psycopg.Connection.wait, through which every call goes."""
        return super().wait(self._heard(gen), interval, timeout)

    def _heard(self, gen: PQGen[T]) -> PQGen[T]:
        heard_s = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                now_s = time.monotonic()
                if ready:
                    heard_s = now_s
                elif now_s - heard_s > connections.CALL_DEADLINE_S:
                    self._give_up()
                wanted = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result

    def _give_up(self) -> None:
        self.pgconn.finish()
        raise psycopg.OperationalError(
            f"the server said nothing for {connections.CALL_DEADLINE_S:g} s, or a lock was waited for, and the connection was given up"
        )


class DeadlineDialect(PGDialect_psycopg):
    """SQLAlchemy's own, but for the class of its connections, and the server's side of a silence.

    There, a transaction that holds locks is rolled back after IDLE_TRANSACTION_S without a statement, else it would block every other
    driver for hours. One that only reads is not: Optuna takes its time with 100,000 trials.
    """

    supports_statement_cache = True

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        """Executes, but limits the transaction first when it becomes one with locks."""
        _limit_locks(cursor, statement)
        super().do_execute(cursor, statement, parameters, context)  # type: ignore[no-untyped-call]

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        """As do_execute."""
        _limit_locks(cursor, statement)
        super().do_executemany(cursor, statement, parameters, context)  # type: ignore[no-untyped-call]

    def connect(self, *arguments: Any, **keywords: Any) -> Any:
        """A new connection; psycopg.OperationalError after its connect_timeout."""
        return DeadlineConnection.connect(*arguments, **keywords)


def _limit_locks(cursor: psycopg.Cursor[Any], statement: str) -> None:
    connection = cursor.connection
    assert isinstance(connection, DeadlineConnection)
    if connection.pgconn.transaction_status == TransactionStatus.IDLE:
        connection.locks = False
    if not connection.locks and _TAKES_LOCKS.match(statement):
        connection.locks = True
        cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = {1000 * connections.IDLE_TRANSACTION_S:.0f}".encode())
