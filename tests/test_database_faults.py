"""What the network and the server do to a study's writes: through a proxy that breaks the connection at the worst moment, the COMMIT."""

import contextlib
import itertools
import os
import pickle
import socket
import threading
import time

import postgres
import psycopg
import pytest
from optuna.samplers import RandomSampler
from psycopg import sql
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from test_storage import everything_said

from benchmarks.tcp_proxy import TcpProxy
from studies import StudySpec
from trainers.errors import RunError
from tuner.storage import connections
from tuner.storage import opening as storage_module
from tuner.storage.connections import unpooled_engine
from tuner.storage.distributions import distributions
from tuner.storage.opening import DatabaseAway, holds_studies, is_transient, open_storage, with_retries
from tuner.storage.store import StudyStore

# A test of calls that must end should not wait for one that doesn't.
pytestmark = pytest.mark.timeout(120)
DEADLINE_S = 0.4
SPEC = StudySpec.from_json_dict(
    {
        "name": "small",
        "dataset": {"name": "digits"},
        "model": "cifar_resnet8",
        "training": {"epochs": 10, "lr": 0.1},
        "search": {"frequency": [0.0, 0.5], "scale": 0.25},
    }
)
POINT = SPEC.start_points()[0]
DISTRIBUTIONS = distributions(SPEC.search)
VALUES = {"relative_time": 0.5, "val_accuracy": 0.75}


@pytest.fixture(scope="module")
def server():
    """A server that tests may kill, with a database `study` that has the tables."""
    if reason := postgres.missing_binaries():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with postgres.postgres_server() as server:
        open_storage(as_driver(server.create_database("study"))).engine.dispose()
        yield server


@pytest.fixture
def proxy(server):
    with TcpProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def url(server, proxy, monkeypatch):
    """The emptied database through the proxy. The server asks for no password, so it takes any."""
    monkeypatch.setattr(storage_module, "_LONGEST_PAUSE_S", 0.2)
    server.empty_database("study")
    return f"postgresql+psycopg://{postgres.USER}:hush@127.0.0.1:{proxy.port}/study?connect_timeout=2"


@pytest.fixture
def storage(url):
    storage = open_storage(url)
    yield storage
    storage.engine.dispose()


@pytest.fixture
def store(storage):
    return StudyStore.create_or_continue(storage, SPEC)


@pytest.fixture
def impatient(monkeypatch):
    """Shortens the deadline; called when a fault strikes, because what comes before may be slow on a busy machine."""
    return lambda: monkeypatch.setattr(connections, "CALL_DEADLINE_S", DEADLINE_S)


def as_driver(url):
    return url.replace("postgresql:", "postgresql+psycopg:")


def create(store):
    return store.create_trial(fixed=POINT, distributions=DISTRIBUTIONS, sampler=RandomSampler(), rival=None)


def stored(server, query):
    """Asked past the proxy. A COMMIT may be answered by what is left of a killed server, which is not up again then."""
    deadline_s = time.monotonic() + 30
    while True:
        try:
            return server.execute(sql.SQL(query), "study")
        except psycopg.OperationalError:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


def later(seconds, call):
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


class TestProxy:
    """The fault tool itself, on a server that sends everything back in capitals."""

    @pytest.fixture
    def echo(self):
        def answer(connection):
            with connection, contextlib.suppress(ConnectionResetError):
                while data := connection.recv(1000):
                    connection.sendall(data.upper())

        def serve():
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=serve, daemon=True).start()
            with TcpProxy(listener.getsockname()[1]) as proxy:
                yield proxy
            listener.shutdown(socket.SHUT_RDWR)

    @pytest.fixture
    def client(self, echo):
        with self.connect(echo) as client:
            assert self.said(client, b"ready") == b"READY"
            yield client

    def connect(self, proxy):
        return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)

    def said(self, client, data):
        client.sendall(data)
        return client.recv(1000)

    def hears_nothing(self, client, seconds=0.3):
        client.settimeout(seconds)
        with pytest.raises(TimeoutError):
            client.recv(1000)
        client.settimeout(5)

    def test_passes_what_is_large_and_the_end(self, echo, client):
        whole = b"x" * 5_000_000
        threading.Thread(target=client.sendall, args=(whole,), daemon=True).start()
        answer = b""
        while len(answer) < len(whole):
            answer += client.recv(1_000_000)
        assert answer == whole.upper()
        assert echo.connections == 1
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1000) == b""

    def test_a_cut_resets_and_refuses(self, echo, client):
        echo.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1000)
        with pytest.raises(ConnectionRefusedError):
            self.connect(echo)
        assert echo.connections == 0
        echo.pass_on()
        with self.connect(echo) as again:
            assert self.said(again, b"again") == b"AGAIN"

    def test_a_stall_loses_nothing(self, echo, client):
        echo.stall(0.6)
        client.sendall(b"held")
        with self.connect(echo) as newcomer:
            newcomer.sendall(b"back")
            self.hears_nothing(client)
            self.hears_nothing(newcomer, 0.01)
            assert client.recv(1000) == b"HELD"
            assert newcomer.recv(1000) == b"BACK"

    def test_a_silence_is_for_ever(self, echo, client):
        echo.silence()
        with self.connect(echo) as newcomer:
            for silent in (client, newcomer):
                silent.sendall(b"lost")
                self.hears_nothing(silent)
            echo.pass_on()
            with self.connect(echo) as fresh:
                assert self.said(fresh, b"fresh") == b"FRESH"
            for silent in (client, newcomer):
                self.hears_nothing(silent)

    def test_an_answer_is_lost_once(self, echo, client):
        echo.lose_acknowledgement()
        assert self.said(client, b"begin\x00") == b"BEGIN\x00"
        with pytest.raises(ConnectionResetError):
            self.said(client, b"COMMIT\x00")
        assert echo.lost_acknowledgements == 1
        with self.connect(echo) as again:
            assert self.said(again, b"COMMIT\x00") == b"COMMIT\x00"


class TestSilence:
    """The connection stays open, the peer's kernel acknowledges, and nobody answers."""

    @pytest.mark.parametrize("call", ["execute", "commit", "rollback"])
    def test_every_call_ends(self, url, proxy, impatient, call):
        with unpooled_engine(make_url(url)).connect() as connection:
            connection.execute(text("SELECT 1"))
            proxy.silence()
            impatient()
            with pytest.raises(OperationalError, match=r"the server said nothing for 0\.4 s") as caught:
                connection.execute(text("SELECT 1")) if call == "execute" else getattr(connection, call)()
            assert caught.value.connection_invalidated
            assert is_transient(caught.value)

    def test_connecting_ends(self, url, proxy):
        proxy.silence()
        with pytest.raises(OperationalError, match="timeout expired") as caught:
            unpooled_engine(make_url(url)).connect()
        assert is_transient(caught.value)

    def test_looking_for_studies_ends_in_one_sentence(self, url, proxy):
        proxy.silence()
        with pytest.raises(RunError, match=r"^the database .*:\*\*\*@.* can't be opened: .*timeout expired$") as caught:
            holds_studies(url)
        assert "hush" not in everything_said(caught.value)

    def test_a_pooled_connection_is_replaced_before_use(self, storage, proxy, impatient):
        assert storage.get_all_studies() == []
        proxy.silence()
        proxy.pass_on()
        impatient()
        assert storage.get_all_studies() == []

    def test_a_wait_for_a_lock_ends(self, storage, store, server, impatient):
        with psycopg.connect(server.url_of("study")) as holder:
            holder.execute("SELECT 1 FROM studies FOR UPDATE")
            with storage.engine.connect() as waiting:
                impatient()
                with pytest.raises(OperationalError, match="a lock was waited for") as caught:
                    waiting.execute(text("UPDATE studies SET study_name = study_name"))
        assert is_transient(caught.value)
        assert storage.engine.pool.checkedout() == 0

    def test_the_server_gives_up_only_who_holds_locks(self, storage):
        """A transaction that only reads may be idle while 100,000 trials are made of its rows."""
        limit, write = text("SHOW idle_in_transaction_session_timeout"), text("UPDATE studies SET study_name = study_name")
        with storage.engine.connect() as connection:
            for statements in ([limit], [write, limit], [limit], [text("SELECT 1 FROM studies FOR UPDATE"), limit]):
                shown = [connection.execute(statement) for statement in statements][-1].scalar()
                assert shown == ("0" if statements == [limit] else "30s")
                connection.commit()

    def test_a_long_answer_is_no_silence(self, url, monkeypatch):
        """1.5 s altogether, but never a second without a byte."""
        rows = text("SELECT pg_sleep(0.1), repeat('x', 20000) FROM generate_series(1, 15)")
        with unpooled_engine(make_url(url)).connect() as connection:
            monkeypatch.setattr(connections, "CALL_DEADLINE_S", 1.0)
            assert len(connection.execute(rows).all()) == 15


class TestAway:
    def test_a_database_that_stays_away_is_one_sentence(self, storage, proxy, impatient, monkeypatch):
        monkeypatch.setattr(storage_module, "RETRY_TOTAL_S", 0.5)
        proxy.silence()
        impatient()
        with pytest.raises(DatabaseAway, match=r"^the database x has not answered for 0\.5 s: .*timeout expired$") as caught:
            with_retries(storage.get_all_studies, "the database x")
        assert isinstance(caught.value, RunError)
        proxy.pass_on()
        assert with_retries(storage.get_all_studies) == []

    def test_no_password_in_what_can_be_shown_or_pickled(self, storage, store, proxy, monkeypatch):
        monkeypatch.setattr(storage_module, "RETRY_TOTAL_S", 0.1)
        proxy.cut()
        with pytest.raises(DatabaseAway) as away:
            store.finished_count()
        with pytest.raises(SQLAlchemyError) as raw, storage.engine.connect():
            pass
        for error in (away.value, raw.value):
            assert "hush" not in everything_said(error)
            assert b"hush" not in pickle.dumps(error)
        assert "hush" not in repr(vars(storage)) + repr(storage.engine)
        assert b"hush" not in pickle.dumps(storage)

    def test_a_connection_that_breaks_inside_one_of_optunas_reads(self, storage, store, proxy, caplog):
        """Optuna tries again on the broken connection, and SQLAlchemy's complaint about that hides the cause."""
        create(store)
        strikes = itertools.count()

        @event.listens_for(storage.engine, "before_cursor_execute")
        def strike(connection, cursor, statement, *rest):
            if "FROM trials" in statement and next(strikes) == 0:
                proxy.cut()
                proxy.pass_on()

        assert [trial.number for trial in store.trials().running] == [0]
        assert next(strikes) > 1
        assert caplog.records == []

    def test_a_database_that_may_only_be_read(self, storage, store):
        event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("SET TRANSACTION READ ONLY"))
        with pytest.raises(RunError, match=r"^the database postgresql.* refuses: cannot execute .* in a read-only transaction$"):
            store.set_attr("kept", 1)


def silent(server, proxy):
    proxy.silence()
    later(0.1, proxy.pass_on)


def cut(server, proxy):
    proxy.cut()
    later(0.3, proxy.pass_on)


def stall(server, proxy):
    """Longer than a call's deadline: the COMMIT arrives when nobody waits for it any more."""
    proxy.stall(1.5)


def killed_backend(server, proxy):
    server.execute(sql.SQL("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'study'"))


def killed_server(server, proxy):
    server.kill()
    later(0.2, server.start)


def lost_acknowledgement(server, proxy):
    proxy.lose_acknowledgement()


@pytest.mark.parametrize(
    "fault", [silent, cut, stall, killed_backend, killed_server, lost_acknowledgement], ids=lambda fault: fault.__name__
)
class TestFaultAtCommit:
    """Each write is struck after its last statement and before its COMMIT is answered; it is there once, and its caller knows."""

    @pytest.fixture
    def strike(self, storage, server, proxy, fault, impatient, monkeypatch):
        """Arms the fault for the next COMMIT; afterwards it has struck."""
        struck = []

        def at_commit(connection):
            struck.append(fault)
            fault(server, proxy)
            impatient()

        def arm():
            event.listen(storage.engine, "commit", at_commit, once=True)
            if fault is silent:
                # What a silent connection has locked is free again by the next try. A stalled COMMIT is still to be executed.
                monkeypatch.setattr(connections, "IDLE_TRANSACTION_S", DEADLINE_S)

        yield arm
        assert struck == [fault]
        assert proxy.lost_acknowledgements == (fault is lost_acknowledgement)

    def test_create_trial(self, store, server, strike):
        strike()
        assert create(store).number == 0
        assert stored(server, "SELECT number, state::text FROM trials") == [(0, "RUNNING")]
        assert stored(server, "SELECT count(*) FROM trial_heartbeats") == [(1,)]
        assert create(store).number == 1

    def test_complete(self, store, server, strike):
        create(store)
        strike()
        assert store.complete(0, VALUES, {"curve": [0.5, 0.75]}) is True
        assert stored(server, "SELECT number, state::text FROM trials") == [(0, "COMPLETE")]
        store.complete(0, {"relative_time": 0.1, "val_accuracy": 0.1}, {})
        assert stored(server, "SELECT objective, value FROM trial_values ORDER BY objective") == [(0, 0.5), (1, 0.75)]
        assert stored(server, "SELECT count(*) FROM trial_user_attributes WHERE key = 'ended'") == [(1,)]

    def test_claim_retry(self, store, server, strike):
        create(store)
        store.fail(0, "lost", "its worker died")
        (retry,) = store.retries()
        strike()
        claimed = store.claim_retry(retry, DISTRIBUTIONS)
        assert (claimed.number, claimed.root, claimed.attempt) == (1, 0, 2)
        assert stored(server, "SELECT number, state::text FROM trials ORDER BY number") == [(0, "FAIL"), (1, "RUNNING")]
        assert store.claim_retry(retry, DISTRIBUTIONS) is None


def test_a_stall_within_the_deadline_is_only_a_wait(storage, store, server, proxy):
    event.listen(storage.engine, "commit", lambda connection: proxy.stall(3.0), once=True)
    create(store)
    errors = []
    event.listen(storage.engine, "handle_error", errors.append)
    assert store.complete(0, VALUES, {}) is True
    assert errors == []
    assert stored(server, "SELECT state::text FROM trials") == [("COMPLETE",)]
