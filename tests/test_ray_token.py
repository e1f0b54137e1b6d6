"""The Ray that a launch starts, and processes that try to reach it with and without its token."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tuner.launching.ray_token import ray_token

ROOT = Path(__file__).parent.parent
AUTH_NAMES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR")
DRIVER = """
import json, logging, os, sys, ray
from pathlib import Path
from tuner.launching.ray_token import ray_token

@ray.remote
def environment():
    return dict(os.environ)

with ray_token(None):
    address = ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
                       runtime_env={"env_vars": {"OURS": "1"}}).address_info
    found = {"address": address["gcs_address"], "session": address["session_dir"], "inside": ray.get(environment.remote())}
    print(json.dumps(found), flush=True)
    sys.stdin.readline()
    ray.shutdown()
"""
STRANGER = """
import logging, sys, ray
try:
    ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
except ConnectionError as error:
    sys.exit(str(error))
print("connected to a cluster of", ray.cluster_resources()["CPU"])
"""


def processes_with(secret):
    """Command lines of the processes that have `secret` in their environment or command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # A process may end meanwhile.
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if secret.encode() in command + (entry / "environ").read_bytes():
                    found.append(command)
    return found


@contextlib.contextmanager
def own_cluster(home):
    """What a driver in a process of its own says of the cluster that it started."""
    # As a launch does: on loopback, and whatever the user has set for other clusters.
    environment = {
        "HOME": str(home),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_AUTH_TOKEN": "another-cluster's",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], env=kept | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        yield json.loads(driver.stdout.readline())
    finally:
        driver.communicate("\n", timeout=60)


def test_a_launchs_own_ray_answers_only_who_knows_its_token(tmp_path):
    def stranger(**environment):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        # Else Ray tries for 20 s.
        patience = {"HOME": str(tmp_path), "RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        command = [sys.executable, "-c", STRANGER, cluster["address"]]
        return subprocess.run(command, env=kept | patience | environment, capture_output=True, text=True, check=False, timeout=120)

    with own_cluster(tmp_path) as cluster:
        inside = cluster["inside"]
        path = Path(inside["RAY_AUTH_TOKEN_PATH"])
        assert (inside["OURS"], inside["RAY_AUTH_MODE"]) == ("1", "token")
        assert "RAY_AUTH_TOKEN" not in inside
        assert cluster["address"].startswith("127.0.0.1:")
        # Ray opens its session folder to all users; the folder around it and the token is closed.
        assert Path(cluster["session"]).is_relative_to(path.parent)
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        token = path.read_text()
        assert len(token) == 64
        assert processes_with(token) == []
        assert [found for found in path.parent.rglob("*") if found.is_file() and token.encode() in found.read_bytes()] == [path]
        for environment in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token[::-1]}):
            refused = stranger(**environment)
            assert refused.returncode == 1, refused.stdout
            assert "Authentication token is missing or incorrect" in refused.stderr
        assert stranger(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(path)).stdout == "connected to a cluster of 1.0\n"
    assert not path.parent.exists()
    assert not list(tmp_path.rglob("auth_token")), "Ray kept a token of its own"


def test_each_cluster_of_a_process_gets_a_fresh_token_and_leaves_nothing(monkeypatch):
    import ray

    known = ray._raylet.AuthenticationTokenLoader.instance()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another-cluster's")
    before = {name: os.environ.get(name) for name in AUTH_NAMES}
    tokens = []
    for _ in range(2):
        with contextlib.suppress(KeyError), ray_token(None):
            tokens.append(known.get_raw_token())
            assert tokens[-1] == Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
            raise KeyError
        assert {name: os.environ.get(name) for name in AUTH_NAMES} == before
        assert known.get_raw_token(ignore_auth_mode=True) == "another-cluster's"
    assert tokens[0] != tokens[1]


def test_a_users_own_cluster_and_folder_stay_theirs(monkeypatch, tmp_path):
    for name, value in zip(AUTH_NAMES, ("token", "theirs", "file", str(tmp_path)), strict=True):
        monkeypatch.setenv(name, value)
    with ray_token("10.0.0.1:6379"):
        assert [os.environ[name] for name in AUTH_NAMES] == ["token", "theirs", "file", str(tmp_path)]
    with ray_token(None):
        assert os.environ["RAY_TMPDIR"] == str(tmp_path)


def test_rays_sockets_have_a_short_enough_path_where_temporary_files_have_a_long_one(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ray_token(None):
        place = os.environ["RAY_TMPDIR"]
        assert len(f"{place}/ray/session_2026-11-21_16-39-09_478278_1234567/sockets/plasma_store") < 107
        assert not Path(place).is_relative_to(tmp_path)


def test_a_users_token_is_presented_where_the_mode_is_left_open(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in AUTH_NAMES:
        monkeypatch.delenv(name, raising=False)
    with ray_token("10.0.0.1:6379"):
        assert "RAY_AUTH_MODE" not in os.environ
    monkeypatch.setenv("RAY_AUTH_TOKEN", "theirs")
    with ray_token("10.0.0.1:6379"):
        assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_MODE" not in os.environ
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with ray_token("10.0.0.1:6379"):
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
