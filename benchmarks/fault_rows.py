"""What the fault suite sees of a study: read by plain SQL and past the proxy, so that it shares no code and no fault with the product."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from tests.postgres import USER, PostgresServer

_PATIENCE_S: Final = 60.0
_TRIALS: Final = """
    SELECT trials.number, trials.state::text, trials.trial_id, attributes.key, attributes.value_json
    FROM trials JOIN studies USING (study_id) LEFT JOIN trial_user_attributes AS attributes USING (trial_id)
    WHERE studies.study_name = %s ORDER BY trials.number
"""
_PARAMETERS: Final = """
    SELECT trials.number, parameters.param_name, parameters.param_value
    FROM trials JOIN studies USING (study_id) JOIN trial_params AS parameters USING (trial_id) WHERE studies.study_name = %s
"""
_MOVE_BEATS: Final = """
    UPDATE trial_heartbeats SET heartbeat = heartbeat + make_interval(secs => %s)
    WHERE trial_id IN (SELECT trial_id FROM trials WHERE state = 'RUNNING')
"""
_BACKENDS: Final = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'downsample-tuner' ORDER BY pid"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A trial. root, attempt, seed: of its lineage. attributes: by key, as stored."""

    number: int
    state: str
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> int:
        root = self.attributes["lineage"]["root"]
        return self.number if root is None else int(root)

    @property
    def attempt(self) -> int:
        return int(self.attributes["lineage"]["attempt"])

    @property
    def seed(self) -> int:
        return int(self.attributes["lineage"]["seed"])

    @property
    def is_lost(self) -> bool:
        return self.attributes.get("ended", {}).get("kind") == "lost"


class Rows:
    """One study of a database."""

    def __init__(self, server: PostgresServer, database: str, study: str) -> None:
        self._server, self._database, self._study = server, database, study
        self._connection: psycopg.Connection[Any] | None = None

    def trials(self) -> list[Row]:
        """Every trial in the order of its number; none while there are no tables yet."""
        found: dict[int, Row] = {}
        for number, state, _, key, value in self._asked(_TRIALS, (self._study,)):
            row = found.setdefault(number, Row(number, state))
            if key is not None:
                row.attributes[key] = json.loads(value)
        return [row for row in found.values() if "lineage" in row.attributes]

    def running(self) -> list[Row]:
        """The trials in state RUNNING."""
        return [row for row in self.trials() if row.state == "RUNNING"]

    def finished(self) -> int:
        """How many trials are COMPLETE."""
        return sum(row.state == "COMPLETE" for row in self.trials())

    def parameters(self) -> dict[int, dict[str, float]]:
        """Parameters of each trial as numbers, by its number."""
        found: dict[int, dict[str, float]] = {}
        for number, name, value in self._asked(_PARAMETERS, (self._study,)):
            found.setdefault(number, {})[name] = value
        return found

    def move_beats(self, seconds: float) -> None:
        """Sets the last sign of life of every running trial back or ahead: what a jump of the database's clock amounts to."""
        self._asked(_MOVE_BEATS, (seconds,))

    def backends(self) -> list[int]:
        """Process ids of the server's processes that serve drivers."""
        return [pid for (pid,) in self._asked(_BACKENDS, ())]

    def terminate(self, backend: int) -> None:
        """Ends a backend as an administrator would."""
        self._asked("SELECT pg_terminate_backend(%s)", (backend,))

    def close(self) -> None:
        """Ends the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _asked(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        """Rows of an answer, asked for again while the server is down."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                cursor = self._connected().execute(statement, values)
                return cursor.fetchall() if cursor.description else []
            except psycopg.errors.UndefinedTable:
                return []
            except psycopg.OperationalError:
                self.close()
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(0.2)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            where = {"host": "127.0.0.1", "port": self._server.port, "dbname": self._database}
            self._connection = psycopg.connect(**where, user=USER, autocommit=True, connect_timeout=5)
        return self._connection
