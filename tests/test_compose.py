"""docker-compose.yml and the role that it makes: the committed SQL, run by psql on a real server, gives what studies need and no more."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import yaml
from filled import filled_store
from postgres import USER, missing_binaries, postgres_server
from psycopg import errors

from tuner.storage.opening import open_storage, resolve_url

ROOT = Path(__file__).parent.parent
ROLE_SQL = ROOT / "docs" / "postgresql.sql"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
ADMIN_PASSWORD, PASSWORD = "only-the-admin's", "it's a \\ role's own"


def made(server, password):
    return subprocess.run(
        ["psql", server.url, "--no-psqlrc", "--file", ROLE_SQL],
        env={**os.environ, "PGPASSWORD": server.password, "TUNER_PASSWORD": password},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL that asks for passwords, with the role, and a database of somebody else."""
    reason = missing_binaries() or ("" if shutil.which("psql") else "psql is not on PATH")
    if reason:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with postgres_server(password=ADMIN_PASSWORD) as server:
        done = made(server, PASSWORD)
        assert done.returncode == 0, done.stderr
        server.create_database("theirs")
        server.execute(psycopg.sql.SQL("CREATE TABLE public.secret AS SELECT 1 AS number"), "theirs")
        yield server


def connected(server, database="tuner"):
    return psycopg.connect(host="127.0.0.1", port=server.port, dbname=database, user="tuner", password=PASSWORD, autocommit=True)


def test_the_role_keeps_studies(server, monkeypatch):
    monkeypatch.setenv("TUNER_STORAGE", f"postgresql://tuner@127.0.0.1:{server.port}/tuner")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    store = filled_store(open_storage(resolve_url(None, None)), 2)
    assert [trial.number for trial in store.trials().completed] == [0, 1]
    store.storage.engine.dispose()
    with connected(server) as connection:
        query = "SELECT DISTINCT schemaname, tableowner FROM pg_tables WHERE tablename IN ('studies', 'trials')"
        owned = connection.execute(query)
        assert owned.fetchall() == [("tuner", "tuner")]


def test_the_role_has_no_other_right(server):
    query = "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = 'tuner'"
    with connected(server) as connection:
        assert connection.execute(query).fetchone() == (False,) * 5
        owner = connection.execute("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'tuner'").fetchone()
        assert owner == (USER,)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE ROLE another", "ALTER ROLE tuner CREATEROLE", "ALTER ROLE tuner SUPERUSER", "CREATE DATABASE another",
        "DROP DATABASE theirs",
        "CREATE SCHEMA another", "CREATE TABLE public.another (number int)", "CREATE TEMP TABLE another (number int)",
        "SELECT * FROM pg_authid", "SELECT pg_read_file('PG_VERSION')", "COPY (SELECT 1) TO PROGRAM 'true'", "CREATE EXTENSION file_fdw",
        "ALTER SYSTEM SET work_mem = '1MB'",
    ],
)  # fmt: skip
def test_what_the_role_may_not_do(server, statement):
    with connected(server) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement)


def test_the_role_reads_nothing_of_other_databases(server):
    with connected(server, "theirs") as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM public.secret")
    with connected(server) as connection, pytest.raises(errors.FeatureNotSupported):
        connection.execute("SELECT * FROM theirs.public.secret")


def test_nobody_else_gets_in(server):
    server.execute(psycopg.sql.SQL("CREATE ROLE stranger LOGIN PASSWORD 'stranger'"))
    with pytest.raises(psycopg.OperationalError, match='permission denied for database "tuner"'):
        psycopg.connect(host="127.0.0.1", port=server.port, dbname="tuner", user="stranger", password="stranger")


def test_a_second_run_ends_at_once_and_logs_no_password(server):
    again = made(server, "another-password")
    assert again.returncode != 0
    assert 'role "tuner" already exists' in again.stderr
    assert "another-password" not in again.stderr + server._log.read_text()
    connected(server).close()


def test_the_compose_file_follows_the_specification():
    checker = Path(sys.executable).parent / "check-jsonschema"
    found = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


def test_every_service_listens_on_loopback_and_pins_its_image():
    for service in COMPOSE["services"].values():
        assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service.get("ports", []))
        assert re.fullmatch(r"[\w./-]+:\d+(\.\d+)+", service["image"])


def test_compose_makes_the_role_by_the_same_file_and_holds_no_password():
    postgres = COMPOSE["services"]["postgres"]
    assert f"./{ROLE_SQL.relative_to(ROOT)}:/docker-entrypoint-initdb.d/{ROLE_SQL.name}:ro" in postgres["volumes"]
    assert set(postgres["environment"]) == {"POSTGRES_PASSWORD", "TUNER_PASSWORD"}
    assert all(re.fullmatch(r"\$\{\w+:\?[^}]+\}", value) for value in postgres["environment"].values())
