"""A private, real PostgreSQL server for tests: throw-away data, a free loopback port, able to be killed and started again."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg import sql

USER = "tester"
_START_S = 30.0


def missing_binaries() -> str:
    """Why there can be no server here; nothing when there can."""
    return "" if _binaries() else "PostgreSQL's server (initdb, postgres) is neither on PATH nor under /usr/lib/postgresql"


def free_port() -> int:
    """A loopback port that nobody listens on now.

    Below those that connections are given: a server that was killed would find its port taken by one of them when it is started again.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", random.SystemRandom().randrange(lowest // 2, lowest)))
            return int(listener.getsockname()[1])


@contextmanager
def postgres_server(password: str | None = None) -> Iterator[PostgresServer]:
    """A running server; with a password it asks for it (scram-sha-256), else it trusts everyone on loopback."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = PostgresServer(folder, password)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


class PostgresServer:
    """url: of the maintenance database, as the product's users write it, without the password."""

    def __init__(self, folder: Path, password: str | None) -> None:
        self.port = free_port()
        self.password = password
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of the maintenance database, without a password."""
        return self.url_of("postgres")

    def url_of(self, database: str, password: str | None = None) -> str:
        """The URL of a database."""
        secret = f":{password}" if password else ""
        return f"postgresql://{USER}{secret}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """A new, empty database; its URL."""
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Drops a database, whoever is still connected."""
        self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def empty_database(self, name: str) -> None:
        """Takes out all studies, but leaves the tables; whoever is still connected is thrown out."""
        self.execute(sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}").format(name))
        tables = self.execute(sql.SQL("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"), name)
        names = [str(table) for (table,) in tables if table not in ("version_info", "alembic_version")]
        self.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(sql.SQL(", ").join(map(sql.Identifier, names))), name)

    def execute(self, statement: sql.Composed | sql.SQL, database: str = "postgres") -> list[tuple[object, ...]]:
        """Runs one statement outside any transaction and returns its rows."""
        with psycopg.connect(self.url_of(database), password=self.password, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def initialise(self) -> None:
        """Makes the data folder, as a user who is not root: the server refuses root."""
        if os.geteuid() == 0:
            os.chown(self._folder, *_unprivileged())
        password_file = self._folder / "password"
        arguments = [_binary("initdb"), "-D", self._data, "-U", USER, "--no-sync", "-E", "UTF8", "--locale=C"]
        if self.password is None:
            arguments += ["-A", "trust"]
        else:
            password_file.write_text(self.password)
            password_file.chmod(0o644)
            arguments += ["-A", "scram-sha-256", f"--pwfile={password_file}"]
        subprocess.run(arguments, check=True, capture_output=True, **self._as_server())

    def start(self) -> None:
        """Starts the server and waits until it answers; after `kill` its remains may take a moment to go."""
        deadline_s = time.monotonic() + _START_S
        while True:
            self._process = self._started()
            if self._answers(deadline_s):
                return
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends the server. SIGINT, because SIGTERM waits for pooled connections."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=30)
        self._process = None

    def kill(self) -> None:
        """kill -9 of the server's first process; the others notice and go."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=30)

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _started(self) -> subprocess.Popen[bytes]:
        # Not synchronous_commit, too: what was committed must outlive `kill`.
        settings = {"fsync": "off", "full_page_writes": "off", "max_connections": "60"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        arguments = [_binary("postgres"), "-D", self._data, "-k", str(self._folder), "-h", "127.0.0.1", "-p", str(self.port), *options]
        with self._log.open("ab") as log:
            return subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True, **self._as_server())

    def _answers(self, deadline_s: float) -> bool:
        assert self._process is not None
        while self._process.poll() is None and time.monotonic() < deadline_s:
            try:
                self.execute(sql.SQL("SELECT 1"))
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return True
        return False

    def _as_server(self) -> dict[str, object]:
        identity = {}
        if os.geteuid() == 0:
            uid, gid = _unprivileged()
            identity = {"user": uid, "group": gid, "extra_groups": []}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {"cwd": self._folder, "env": environment, **identity}


def _unprivileged() -> tuple[int, int]:
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _binary(name: str) -> str:
    return str(_binaries()[name])


def _binaries() -> dict[str, Path]:
    """Paths of initdb and postgres, from the newest installation that has both."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True)
    folders += [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    for folder in folders:
        found = {name: folder / name for name in ("initdb", "postgres")}
        if all(os.access(path, os.X_OK) for path in found.values()):
            return found
    return {}
