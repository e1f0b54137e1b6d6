"""Who may see and change what the dashboard serves: names, origins and tokens, asked for by real requests."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from filled import filled_store
from serving import asked, dashboard

from trainers.errors import InputError, RunError
from tuner.serving.dashboard import serve
from tuner.storage.opening import open_storage

TOKEN = "a-token-of-the-user's own"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboard")
    filled_store(open_storage(f"sqlite:///{folder / 'tuner.db'}"), 3).storage.engine.dispose()
    return folder


@pytest.fixture(scope="module")
def served(folder):
    """URL of the study's page on a dashboard as it is by default."""
    with dashboard(folder) as (_, url):
        yield url


@pytest.fixture(scope="module")
def public(folder):
    """URL, token included, of a dashboard that listens on every address."""
    with dashboard(folder, "--host", "0.0.0.0") as (_, url):
        yield url


def test_it_listens_on_loopback_only(served):
    sockets = "".join(Path(f"/proc/net/{kind}").read_text() for kind in ("tcp", "tcp6"))
    port = f"{urlsplit(served).port:04X}"
    assert re.findall(rf"^ *\d+: ([0-9A-F]+):{port} \S+ 0A ", sockets, re.MULTILINE) == ["0100007F"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "[::1]:{port}"])
def test_loopback_answers_to_its_own_names(served, host):
    assert asked(served, "/api/studies", Host=host.format(port=urlsplit(served).port))[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "[::1", ""])
def test_loopback_answers_to_no_other_name(served, host):
    status, _, text = asked(served, "/api/studies", Host=host.format(port=urlsplit(served).port))
    assert (status, len(text.splitlines())) == (400, 1)
    assert "tiny" not in text


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_pages_of_other_sites_change_nothing(served, origin, method):
    status, _, text = asked(served, "/api/studies/1", method, Origin=origin)
    assert (status, len(text.splitlines())) == (403, 1)
    assert [study["study_name"] for study in json.loads(asked(served, "/api/studies")[2])["study_summaries"]] == ["tiny"]


def test_its_own_pages_may_change_something(served):
    # A study that doesn't exist: the dashboard itself says so.
    assert asked(served, "/api/studies/99", "DELETE", Origin=f"http://127.0.0.1:{urlsplit(served).port}")[0] == 404


def test_every_answer_forbids_framing_sniffing_and_referrers(served):
    for path, headers in (("/", {}), ("/live.json", {}), ("/api/studies", {}), ("/dashboard", {}), ("/", {"Host": "evil.example"})):
        given = asked(served, path, **headers)[1]
        assert (given["X-Frame-Options"], given["X-Content-Type-Options"], given["Referrer-Policy"]) == ("DENY", "nosniff", "no-referrer")


def test_elsewhere_it_warns_and_needs_a_token(public, folder):
    assert "warning: on 0.0.0.0 everyone who has the token can read, rename and delete studies" in (folder / "errors").read_text()
    token = urlsplit(public).query.removeprefix("token=")
    assert re.fullmatch(r"[\w-]{43}", token)
    for path in (
        "/",
        "/live.json",
        "/study.json",
        "/dashboard",
        "/api/studies",
        "/static/bundle.js",
        "/csv/1",
        f"/api/studies?token={token[:-1]}",
        "/api/studies?token=",
    ):
        status, _, text = asked(public, path)
        assert (status, len(text.splitlines())) == (401, 1), path
        assert "needs a token" in text
    assert asked(public, "/api/studies/1", "DELETE")[0] == 401
    assert asked(public, "/api/studies", Cookie=f"tuner-{urlsplit(public).port}={token}")[0] == 401


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(public):
    status, headers, text = asked(public, f"/dashboard/studies/1?{urlsplit(public).query}&page=2")
    assert status == 200
    assert 'content="0;url=/dashboard/studies/1?page=2"' in text
    cookie, *flags = [part.strip() for part in headers["Set-Cookie"].split(";")]
    assert set(flags) == {"HttpOnly", "SameSite=strict", "Path=/"}
    assert urlsplit(public).query.removeprefix("token=") not in headers["Set-Cookie"] + text
    status, _, text = asked(public, "/api/studies", Cookie=f"other=1; {cookie}")
    assert (status, json.loads(text)["study_summaries"][0]["study_name"]) == (200, "tiny")
    assert asked(public, "/api/studies", Cookie=f"{cookie[:-1]}")[0] == 401
    # Names are not looked at here: the token is what another name's page can't have.
    assert asked(public, "/api/studies", Cookie=cookie, Host="machine.example")[0] == 200
    assert asked(public, "/api/studies/1", "DELETE", Cookie=cookie, Origin="http://evil.example")[0] == 403


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example/", '/"><script>alert(1)</script>'])
def test_the_way_on_leads_to_no_other_site(public, path):
    _, _, text = asked(public, f"{path.replace(' ', '%20')}?{urlsplit(public).query}")
    assert re.search(r'content="0;url=(/[^"/\\][^"\\<>]*)"', text)


def test_a_token_of_the_user_is_asked_for_and_never_shown(folder):
    with dashboard(folder, TUNER_DASHBOARD_TOKEN=TOKEN) as (process, url):
        assert url.endswith("?token=...")
        assert asked(url, "/api/studies")[0] == 401
        assert asked(url, "/api/studies?token=...")[0] == 401
        assert "Set-Cookie" in asked(url, "/?token=a-token-of-the-user%27s+own")[1]
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    shown = output + (folder / "errors").read_text()
    assert process.returncode == 130
    assert "Traceback" not in shown
    assert TOKEN not in shown


@pytest.mark.parametrize(
    ("host", "environment", "error", "sentence"),
    [
        ("127.0.0.1", {"TUNER_DASHBOARD_TOKEN": "secret"}, InputError, "TUNER_DASHBOARD_TOKEN has 6 characters, it must have at least 16"),
        ("127.0.0.1", {"TUNER_DASHBOARD_TOKEN": ""}, InputError, "TUNER_DASHBOARD_TOKEN has 0 characters, it must have at least 16"),
        ("no such host", {}, InputError, "--host is 'no such host', it must be an address of this machine such as 127.0.0.1"),
        (
            "127.0.0.1",
            {},
            RunError,
            "port {port} of 127.0.0.1 can't be listened on: Address already in use; choose another one with --port",
        ),
    ],
)
def test_what_cannot_be_served_is_one_sentence(folder, served, monkeypatch, host, environment, error, sentence):
    monkeypatch.chdir(folder)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    port = urlsplit(served).port
    with pytest.raises(error) as refused:
        serve("tiny", None, host, port)
    assert str(refused.value) == sentence.format(port=port)
