"""Who is told what of a launch: a real server on loopback, real commands, and a watch at a clock that the test moves."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from trainers.errors import InputError
from tuner.launching.notices import STALL_S, WEBHOOK_VARIABLE, Notice, Notifier, Watch, watching

NOTICE = Notice(event="ended", study="tiny", text="study 'tiny': 3 of 3 trials are finished", finished=3, asked=3)
AS_JSON = {"event": "ended", "study": "tiny", "text": "study 'tiny': 3 of 3 trials are finished", "finished": 3, "asked": 3}
HOUR_S = 3600.0


@pytest.fixture
def webhook():
    """A server that keeps what it is sent; `webhook.status` is its answer."""

    class Webhook(HTTPServer):
        status = 204

        def __init__(self):
            super().__init__(("127.0.0.1", 0), Handler)
            self.received = []
            self.url = f"http://127.0.0.1:{self.server_port}/services/secret-part"

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            content = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.received.append((self.path, self.headers["Content-Type"], json.loads(content)))
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with Webhook() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_webhook_gets_a_text_and_the_numbers(webhook):
    warnings = []
    Notifier(webhook.url, None, warnings.append).send(NOTICE)
    assert webhook.received == [("/services/secret-part", "application/json", AS_JSON)]
    assert warnings == []


def test_a_command_gets_the_same_on_its_stdin(tmp_path):
    Notifier(None, f"tee '{tmp_path}/a file'", pytest.fail).send(NOTICE)
    assert json.loads((tmp_path / "a file").read_text()) == AS_JSON


@pytest.mark.parametrize(
    ("command", "warning"),
    [("false", "false, which was to tell of the launch, ended with status 1"), ("sleep 60", "sleep could not be told: TimeoutExpired")],
)
def test_a_command_that_fails_costs_a_warning(command, warning, monkeypatch):
    monkeypatch.setattr("tuner.launching.notices._COMMAND_S", 0.2)
    warnings = []
    Notifier(None, command, warnings.append).send(NOTICE)
    assert warnings == [warning]


def test_a_webhook_that_refuses_or_is_away_costs_a_warning_without_its_url(webhook):
    warnings = []
    webhook.status = 404
    Notifier(webhook.url, None, warnings.append).send(NOTICE)
    Notifier("http://127.0.0.1:1/services/secret-part", None, warnings.append).send(NOTICE)
    assert warnings == [
        "the webhook of TUNER_WEBHOOK refused a notice: status 404",
        "the webhook of TUNER_WEBHOOK could not be reached: ConnectionRefusedError",
    ]


def test_the_webhook_is_taken_out_of_the_environment(monkeypatch, webhook):
    monkeypatch.setenv(WEBHOOK_VARIABLE, webhook.url)
    notifier = Notifier.from_environment(None, pytest.fail)
    with pytest.raises(KeyError):
        monkeypatch.delenv(WEBHOOK_VARIABLE)
    notifier.send(NOTICE)
    assert len(webhook.received) == 1


@pytest.mark.parametrize("url", ["hooks.example.org/secret-part", "ftp://example.org/secret-part", "https:///secret-part", ""])
def test_what_is_no_url_is_refused_without_being_shown(url):
    with pytest.raises(InputError, match="TUNER_WEBHOOK is no URL of a webhook") as refused:
        Notifier(url, None, pytest.fail)
    assert "secret-part" not in str(refused.value)


@pytest.mark.parametrize("command", ["no-such-program --now", "tee 'unfinished", ""])
def test_what_can_not_be_run_is_refused(command):
    with pytest.raises(InputError) as refused:
        Notifier(None, command, pytest.fail)
    assert str(refused.value) == f"--notify is '{command}', it must be a command whose program can be run here"


class Launch:
    finished, epochs_done, is_paused = 0, 0, False


@pytest.fixture
def launch():
    return Launch()


@pytest.fixture
def watch(launch, monkeypatch):
    """`watch(at_s)` looks at that second of the launch."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    watch = Watch(launch)

    def look(at_s):
        monkeypatch.setattr(time, "monotonic", lambda: at_s)
        return watch.look()

    return look


def test_a_launch_that_gets_nowhere_is_said_to_stall_once(launch, watch):
    launch.epochs_done = 1
    assert watch(60) is None
    assert watch(60 + STALL_S - 1) is None
    assert watch(60 + STALL_S) == ("stalled", "no epoch and no trial has ended for 15 min")
    assert watch(60 + 2 * STALL_S) is None
    launch.finished = 1
    assert watch(60 + 2 * STALL_S + 1) == ("moving", "trials get on again")
    assert watch(60 + 2 * STALL_S + 2) is None


def test_long_epochs_are_no_stall(launch, watch):
    # The first one took an hour, so five more may pass before anyone is called.
    launch.epochs_done = 1
    assert watch(HOUR_S) is None
    assert watch(6 * HOUR_S - 1) is None
    assert watch(6 * HOUR_S)[0] == "stalled"


def test_before_the_first_epoch_nothing_is_known(watch):
    assert watch(2 * HOUR_S - 1) is None
    assert watch(2 * HOUR_S)[0] == "stalled"


def test_a_database_that_is_away_is_no_stall(launch, watch):
    launch.epochs_done = 1
    assert watch(60) is None
    launch.is_paused = True
    assert watch(100)[0] == "paused"
    assert watch(100 + 10 * STALL_S) is None
    launch.is_paused = False
    assert watch(110 + 10 * STALL_S) == ("resumed", "the database answers again")
    # What was trained meanwhile is told now; the clock begins again.
    assert watch(111 + 10 * STALL_S) is None


def test_watching_looks_by_itself_and_ends(launch, monkeypatch):
    monkeypatch.setattr("tuner.launching.notices._LOOK_S", 0.01)
    told = threading.Event()
    launch.is_paused = False
    with watching(launch, lambda event, text: told.set()):
        launch.is_paused = True
        assert told.wait(10)
    time.sleep(0.2)
    assert not any("(look)" in thread.name for thread in threading.enumerate())
