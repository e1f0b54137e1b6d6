"""Fixtures that several test files share: real databases, free ports and a browser."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(autouse=True)
def _no_storage_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a study database of their own; no test may touch it."""
    for name in ("TUNER_STORAGE", "PGPASSWORD", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE", "PGOPTIONS", "PGTZ"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    """A PostgreSQL server for the whole run, trusting everyone on loopback. Don't kill this one."""
    if reason := postgres.missing_binaries():
        # Nothing may skip in CI: a green run would prove nothing about PostgreSQL.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with postgres.postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: postgres.PostgresServer) -> str:
    """URL of the server's maintenance database; tests that write take `storage_url` or `postgres_database`."""
    return postgres_server.url


@pytest.fixture
def postgres_database(postgres_server: postgres.PostgresServer) -> Iterator[str]:
    """URL of an empty PostgreSQL database."""
    name = f"empty_{uuid.uuid4().hex}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium. Of one module, because other tests run event loops of their own in this thread."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium: install Debian's package chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield found
        found.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database without any table, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tuner.db'}"
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture(params=["sqlite", "postgresql"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database of this test's own that has the tables but no study, once of each kind."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("_sqlite_template"), tmp_path / "tuner.db")
        return f"sqlite:///{tmp_path / 'tuner.db'}"
    server = request.getfixturevalue("postgres_server")
    name = request.getfixturevalue("_postgres_study_database")
    server.empty_database(name)
    return str(server.url_of(name))


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "tuner.db"
    _make_tables(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def _postgres_study_database(postgres_server: postgres.PostgresServer) -> str:
    # Emptied for each test, because making a database anew takes half a second.
    _make_tables(postgres_server.create_database("study"))
    return "study"


def _make_tables(url: str) -> None:
    # Not at the top: most tests need no database, and Optuna takes a second to import.
    from tuner.storage.opening import open_storage, resolve_url

    open_storage(resolve_url(url, None)).engine.dispose()


@pytest.fixture
def free_port() -> int:
    """A loopback port that nobody listens on now."""
    return postgres.free_port()


# The longest first: two processes share the files, and one that begins a long one last would keep the other waiting.
_LONGEST = (
    "test_launch.py",
    "test_cluster.py",
    "test_faults.py",
    "test_detach.py",
    "test_distributed.py",
    "test_doctor.py",
    "test_check.py",
    "test_database_faults.py",
    "test_store.py",
    "test_dispatcher.py",
    "test_replay.py",
    "test_search_benchmark.py",
    "test_bad_input.py",
    "test_report.py",
    "test_known_cost.py",
    "test_watchdog.py",
    "test_logs.py",
    "test_dashboard.py",
)


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
