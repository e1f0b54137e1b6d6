"""Which database is meant, how it is opened, what happens while it is away, and that no password gets out."""

import multiprocessing
import os
import pickle
import random
import sqlite3
import threading
import time
import traceback
from contextlib import closing

import postgres
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from psycopg import sql
from sqlalchemy import create_engine, event, inspect, make_url, text
from sqlalchemy.exc import IntegrityError, OperationalError

from trainers.errors import InputError, RunError
from tuner.storage import connections
from tuner.storage import opening as storage_module
from tuner.storage.connections import schema_lock
from tuner.storage.opening import (
    DatabaseAway,
    forget_secrets,
    holds_studies,
    is_transient,
    masked,
    open_existing,
    open_storage,
    resolve_url,
    with_retries,
)

SECRET = "s3cr:t/p{a}ss%40w"
QUOTED_SECRET = "s3cr%3At%2Fp%7Ba%7Dss%2540w"
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tuner.storage.store"])


@pytest.fixture(scope="module")
def guarded_server():
    """A server that asks for a password, and that tests may kill."""
    if reason := postgres.missing_binaries():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with postgres.postgres_server(password=SECRET) as server:
        yield server


def everything_said(error):
    """All that a traceback, a log or a debugger would show of an error, contexts that `from None` only hides included."""
    said = ["".join(traceback.format_exception(error))]
    while error is not None:
        said += [str(error), repr(error), repr(error.args)]
        error = error.__cause__ or error.__context__
    return "\n".join(said)


class TestResolveUrl:
    def test_option_before_environment_before_study_file_before_default(self, monkeypatch):
        assert resolve_url(None, None) == "sqlite:///tuner.db"
        assert resolve_url(None, "sqlite:///file.db") == "sqlite:///file.db"
        monkeypatch.setenv("TUNER_STORAGE", "sqlite:///environment.db")
        assert resolve_url(None, "sqlite:///file.db") == "sqlite:///environment.db"
        assert resolve_url("sqlite:///option.db", "sqlite:///file.db") == "sqlite:///option.db"

    def test_an_empty_variable_is_none_but_an_empty_option_is_a_mistake(self, monkeypatch):
        monkeypatch.setenv("TUNER_STORAGE", "")
        assert resolve_url(None, "sqlite:///file.db") == "sqlite:///file.db"
        with pytest.raises(InputError, match="--storage is no database URL"):
            resolve_url("", "sqlite:///file.db")

    @pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
    def test_postgresql_means_psycopg_3(self, scheme):
        assert resolve_url(f"{scheme}://u@h:5433/db?sslmode=require", None) == "postgresql+psycopg://u@h:5433/db?sslmode=require"

    def test_an_unknown_scheme_names_the_nearest(self):
        with pytest.raises(InputError, match=r"--storage is postgrsql://u@h/db, its scheme must be .*nearest valid name is 'postgresql'"):
            resolve_url("postgrsql://u@h/db", None)

    @pytest.mark.parametrize("url", ["tuner.db", "host=h dbname=d password=hush", "postgresql:/h/hush"])
    def test_what_is_no_url_is_refused_unseen(self, url):
        with pytest.raises(InputError, match=r"--storage is no database URL, it must be one such as sqlite:///tuner\.db") as caught:
            resolve_url(url, None)
        assert "hush" not in str(caught.value)

    @pytest.mark.parametrize("url", ["postgresql://u@h:port/db", "postgresql://h:5a/db"])
    def test_a_broken_url_is_one_sentence(self, url):
        with pytest.raises(InputError, match=r"--storage is .*, it must have the form postgresql://user@host:port/database"):
            resolve_url(url, None)

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
    def test_a_database_in_memory_is_refused(self, url):
        with pytest.raises(InputError, match="it must name a file"):
            resolve_url(url, None)

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://u:hush@h/db",
            "postgres://u:hu%40sh:hush@h/db",
            "postgresql://u@h/db?password=hush",
            "postgresql://h/db?x=1&Password=hush",
        ],
    )
    def test_a_password_is_taken_from_the_environment_only(self, url, monkeypatch):
        for where, arguments in (("--storage", (url, None)), ("storage in the study file", (None, url))):
            with pytest.raises(InputError, match=rf"^{where} is .*must not hold a password.*TUNER_STORAGE.*~/\.pgpass") as caught:
                resolve_url(*arguments)
            assert "hush" not in everything_said(caught.value)
        monkeypatch.setenv("TUNER_STORAGE", url)
        assert "hush" in resolve_url(None, None)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///tuner.db", "sqlite:///tuner.db"),
        ("postgresql://u@h:5432/db", "postgresql://u@h:5432/db"),
        ("postgresql://u:hush@h:5432/db", "postgresql://u:***@h:5432/db"),
        # Nobody has typed the driver.
        ("postgresql+psycopg://u@h:5432/db", "postgresql://u@h:5432/db"),
        ("postgresql://u:hu:s/h@e@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u@h/db?password=hush&sslmode=require", "postgresql://u@h/db?password=***&sslmode=require"),
        ("postgresql://u@h/db?sslmode=require&sslpassword=hush", "postgresql://u@h/db?sslmode=require&sslpassword=***"),
    ],
)
def test_masked(url, shown):
    assert masked(url) == shown


class TestRetries:
    @pytest.fixture(autouse=True)
    def _short(self, monkeypatch):
        monkeypatch.setattr(storage_module, "_FIRST_PAUSE_S", 0.001)
        monkeypatch.setattr(storage_module, "RETRY_TOTAL_S", 0.3)

    def test_passing_trouble_passes(self):
        outcomes = [OperationalError("SELECT 1", {}, Exception("restarting"))] * 3 + ["answer"]

        def call():
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        assert with_retries(call) == "answer"

    def test_lasting_trouble_ends_in_one_sentence(self):
        def call():
            raise OperationalError("SELECT hidden", {"p": "hidden"}, Exception("no route to host\nhidden detail"))

        with pytest.raises(DatabaseAway, match=r"^the database x has not answered for 0.3 s: no route to host$") as caught:
            with_retries(call, "the database x")
        assert "hidden" not in everything_said(caught.value)

    def test_what_the_database_refuses_is_not_tried_again(self):
        calls = []

        def call():
            calls.append(1)
            raise IntegrityError("INSERT", {}, Exception("duplicate key"))

        with pytest.raises(IntegrityError):
            with_retries(call)
        assert len(calls) == 1

    def test_optuna_hides_the_cause_one_level_deeper(self):
        hidden = StorageInternalError("An exception is raised during the commit.")
        assert not is_transient(hidden)
        hidden.__cause__ = OperationalError("COMMIT", {}, Exception("restarting"))
        assert is_transient(hidden)


class TestSqliteTrouble:
    """Its errors are of one class, whatever may pass and whatever may not."""

    @pytest.fixture(autouse=True)
    def _short(self, monkeypatch):
        monkeypatch.setattr(connections, "_SQLITE_BUSY_S", 0.05)
        monkeypatch.setattr(storage_module, "_FIRST_PAUSE_S", 0.01)

    @pytest.fixture
    def storage(self, tmp_path):
        return open_storage(f"sqlite:///{tmp_path / 'tuner.db'}")

    @pytest.fixture
    def study_id(self, storage):
        return storage.create_new_study([1], "kept")

    def limited_to(self, storage, pages):
        """From now on the file may have so many pages, or those that it has."""

        def limit(connection, *rest):
            connection.execute(f"PRAGMA max_page_count = {pages}")

        event.listen(storage.engine, "checkout", limit)

    def test_a_full_disk_may_pass(self, storage, study_id):
        def write():
            tries.append(1)
            if len(tries) == 3:
                self.limited_to(storage, 100_000)
            storage.set_study_user_attr(study_id, "long", "x" * 100_000)

        tries = []
        self.limited_to(storage, 1)
        with_retries(write)
        assert len(tries) == 3
        assert len(storage.get_study_user_attrs(study_id)["long"]) == 100_000

    def test_a_disk_that_stays_full(self, storage, study_id, monkeypatch):
        monkeypatch.setattr(storage_module, "RETRY_TOTAL_S", 0.3)
        self.limited_to(storage, 1)
        with pytest.raises(DatabaseAway, match=r"has not answered for 0\.3 s: database or disk is full$"):
            with_retries(lambda: storage.set_study_user_attr(study_id, "long", "x" * 100_000))

    def test_a_lock_passes(self, storage, study_id, tmp_path):
        with closing(sqlite3.connect(tmp_path / "tuner.db", isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageInternalError) as caught:
                storage.set_study_user_attr(study_id, "written", "late")
            assert is_transient(caught.value)
            release = threading.Timer(0.2, other.execute, ("COMMIT",))
            release.start()
            with_retries(lambda: storage.set_study_user_attr(study_id, "written", "late"))
            release.join()
        assert storage.get_study_user_attrs(study_id) == {"written": "late"}

    def test_what_may_only_be_read_is_refused_at_once(self, storage, study_id):
        tries = []

        def write():
            tries.append(1)
            storage.set_study_user_attr(study_id, "written", "never")

        event.listen(storage.engine, "checkout", lambda connection, *rest: connection.execute("PRAGMA query_only = ON"))
        with pytest.raises(RunError, match=r"^the database x refuses: attempt to write a readonly database$") as caught:
            with_retries(write, "the database x")
        assert not isinstance(caught.value, DatabaseAway)
        assert len(tries) == 1

    def test_a_missing_table_does_not_pass(self, storage):
        with storage.engine.begin() as connection:
            connection.execute(text("DROP TABLE trial_heartbeats"))
        with pytest.raises(RunError, match="refuses: no such table: trial_heartbeats"):
            with_retries(lambda: storage.record_heartbeat(1))


class TestOpening:
    def test_makes_the_tables_and_opens_them_again(self, empty_storage_url):
        first = open_storage(resolve_url(empty_storage_url, None))
        study_id = first.create_new_study([1], "kept")
        assert open_storage(resolve_url(empty_storage_url, None)).get_study_id_from_name("kept") == study_id

    def test_a_folder_whose_name_looks_like_a_template(self, tmp_path):
        (tmp_path / "{a} b").mkdir()
        open_storage(resolve_url(f"sqlite:///{tmp_path}/{{a}} b/tuner.db", None))
        assert (tmp_path / "{a} b" / "tuner.db").exists()

    def test_several_first_drivers_at_once(self, empty_storage_url):
        barrier, outcomes = PROCESSES.Barrier(4), PROCESSES.Queue()
        drivers = [PROCESSES.Process(target=_open_at_once, args=(empty_storage_url, barrier, outcomes)) for _ in range(4)]
        for driver in drivers:
            driver.start()
        assert [outcomes.get(timeout=60) for _ in drivers] == ["opened"] * 4
        for driver in drivers:
            driver.join()

    def test_the_schema_lock_is_waited_for(self, postgres_database):
        """Whatever the race above happens to do: while another driver holds the lock, nobody creates tables."""
        url = make_url(resolve_url(postgres_database, None))
        opened = threading.Thread(target=open_storage, args=(resolve_url(postgres_database, None),))
        with schema_lock(url):
            opened.start()
            opened.join(timeout=0.5)
            assert opened.is_alive()
        opened.join(timeout=30)
        assert not opened.is_alive()

    def test_sqlite_readers_and_a_writer_at_once(self, tmp_path):
        storage = open_storage(f"sqlite:///{tmp_path / 'tuner.db'}")
        with storage.engine.connect() as reader, storage.engine.begin() as writer:
            reader.execute(text("BEGIN"))
            reader.execute(text("SELECT * FROM studies")).all()
            writer.execute(text("INSERT INTO studies (study_name) VALUES ('x')"))
            writer.commit()
        assert [study.study_name for study in storage.get_all_studies()] == ["x"]

    def test_postgresql_sessions(self, postgres_server, postgres_database):
        """Named for the administrator, and in UTC whatever the database's zone: naive heartbeats would jump with summer time."""
        name = postgres_database.rpartition("/")[2]
        postgres_server.execute(sql.SQL("ALTER DATABASE {} SET timezone TO 'Asia/Tokyo'").format(sql.Identifier(name)))
        storage = open_storage(resolve_url(postgres_database, None))
        with storage.engine.connect() as connection:
            expected = {"application_name": "downsample-tuner", "timezone": "UTC"}
            assert {setting: connection.execute(text(f"SHOW {setting}")).scalar() for setting in expected} == expected
            assert connection.execute(text("SELECT pid FROM pg_stat_activity WHERE application_name = 'downsample-tuner'")).all()

    def test_a_dropped_connection_is_noticed_before_use(self, postgres_server, postgres_database):
        storage = open_storage(resolve_url(postgres_database, None))
        assert storage.get_all_studies() == []
        dropped = postgres_server.execute(
            sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}").format(
                postgres_database.rpartition("/")[2]
            )
        )
        assert dropped
        assert storage.get_all_studies() == []

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("postgresql+psycopg://u:hush@127.0.0.1:{port}/db", "refused: is it running, and is its URL right?"),
            ("sqlite:////no/such/folder/tuner.db", "unable to open database file"),
        ],
    )
    def test_a_database_that_is_not_there_is_one_sentence(self, url, reason, free_port):
        url = url.format(port=free_port)
        with pytest.raises(RunError) as caught:
            open_storage(url)
        assert str(caught.value).startswith(f"the database {masked(url)} can't be opened: ")
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "hush" not in everything_said(caught.value)

    def test_a_file_that_is_no_database(self, tmp_path):
        (tmp_path / "notes.txt").write_text("no database" * 100)
        with pytest.raises(RunError, match="can't be opened: file is not a database"):
            open_storage(f"sqlite:///{tmp_path / 'notes.txt'}")


class TestOpenExisting:
    def test_only_a_database_with_studies_is_one(self, empty_storage_url):
        url = resolve_url(empty_storage_url, None)
        assert not holds_studies(url)
        with pytest.raises(InputError, match=r"^there is no database of studies at .*--storage or TUNER_STORAGE.*tuner launch$"):
            open_existing(url)
        assert not holds_studies(url), "looking made it"
        study_id = open_storage(url).create_new_study([1], "kept")
        assert holds_studies(url)
        assert open_existing(url).get_study_id_from_name("kept") == study_id

    def test_nothing_is_created(self, tmp_path, postgres_database):
        assert not holds_studies(f"sqlite:///{tmp_path / 'none.db'}")
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(InputError):
            open_existing(resolve_url(postgres_database, None))
        engine = create_engine(resolve_url(postgres_database, None))
        assert inspect(engine).get_table_names() == []
        engine.dispose()

    def test_a_sqlite_uri(self, tmp_path):
        url = resolve_url(f"sqlite:///file:{tmp_path / 'tuner.db'}?uri=true", None)
        open_storage(url).create_new_study([1], "kept")
        assert open_existing(url).get_study_id_from_name("kept") == 1

    def test_no_answer_is_no_missing_database(self, free_port):
        url = f"postgresql+psycopg://u:hush@127.0.0.1:{free_port}/db"
        with pytest.raises(RunError, match=r"^the database .* can't be opened: .*refused") as caught:
            open_existing(url)
        assert "hush" not in everything_said(caught.value)


def _open_at_once(url, barrier, outcomes):
    random.seed()
    barrier.wait()
    try:
        open_storage(resolve_url(url, None))
    except BaseException as error:
        outcomes.put(f"{type(error).__name__}: {error}")
        raise
    outcomes.put("opened")


class TestSecrets:
    def test_a_password_in_the_variable(self, guarded_server, monkeypatch):
        monkeypatch.setenv("TUNER_STORAGE", guarded_server.url_of("postgres", QUOTED_SECRET))
        self.check_secret(open_storage(resolve_url(None, None)))

    def test_a_password_as_a_query(self, guarded_server, monkeypatch):
        monkeypatch.setenv("TUNER_STORAGE", f"{guarded_server.url}?password={QUOTED_SECRET}")
        self.check_secret(open_storage(resolve_url(None, None)))

    def test_a_password_in_pgpassword(self, guarded_server, monkeypatch):
        monkeypatch.setenv("PGPASSWORD", SECRET)
        self.check_secret(open_storage(resolve_url(guarded_server.url, None)))

    def check_secret(self, storage):
        """The environment forgets the password, later connections still have it, and nothing shows or pickles it."""
        forget_secrets()
        assert not {"TUNER_STORAGE", "PGPASSWORD"} & os.environ.keys()
        storage.engine.dispose()
        assert storage.get_all_studies() == []
        shown = repr(storage) + repr(vars(storage)) + repr(storage.engine) + str(storage.engine.url)
        pickled = pickle.dumps(storage)
        for secret in (SECRET, QUOTED_SECRET):
            assert secret not in shown
            assert secret.encode() not in pickled

    def test_a_wrong_password_is_not_shown(self, guarded_server):
        url = resolve_url(guarded_server.url, None).replace("@", ":wr0ng@")
        with pytest.raises(RunError, match=r"can't be opened: .*password authentication failed for user") as caught:
            open_storage(url)
        assert "wr0ng" not in everything_said(caught.value)

    def test_forgetting_twice(self):
        assert forget_secrets() is None
        assert forget_secrets() is None


def test_a_restart_of_the_server_is_survived(guarded_server, monkeypatch):
    """kill -9 of the server in use, and up again a second later."""
    monkeypatch.setenv("PGPASSWORD", SECRET)
    storage = open_storage(resolve_url(guarded_server.url, None))
    assert isinstance(storage, RDBStorage)
    study_id = storage.create_new_study([1], "survivor")
    guarded_server.kill()
    restart = threading.Timer(1.0, guarded_server.start)
    restart.start()
    started_s = time.monotonic()
    with_retries(lambda: storage.set_study_user_attr(study_id, "written", "after"))
    assert time.monotonic() - started_s > 0.5
    restart.join()
    assert storage.get_study_user_attrs(study_id) == {"written": "after"}
