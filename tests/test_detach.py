"""`tuner launch --detach`: begun, then on its own; nothing that happens to the terminal ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filled import TINY, filled_store
from priced import make_priced
from yaml import safe_dump

from tuner.launching import detach
from tuner.launching.detach import begun_or_ended, start
from tuner.storage.opening import open_storage
from tuner.storage.store import StudyStore

TUNER = Path(sys.executable).parent / "tuner"
PATIENCE_S = 240


@pytest.fixture
def place(tmp_path):
    (tmp_path / "tiny.yaml").write_text(safe_dump(TINY))
    return tmp_path


def launch(*arguments, cwd, **environment):
    """A detached launch in a session of its own, as a terminal's shell would start it."""
    return subprocess.Popen(
        [TUNER, "launch", *map(str, arguments), "--detach", "--accept-noisy-timing"],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def started(program, tmp_path):
    log = tmp_path / f"{time.monotonic_ns()}.log"
    return start([sys.executable, "-u", "-c", program], log), log


def test_a_lost_session_ends_nothing(place):
    make_priced(f"sqlite:///{place / 'tuner.db'}", TINY)
    shell = launch("tiny.yaml", "--trials", 3, cwd=place)
    out, err = shell.communicate(timeout=PATIENCE_S)
    assert shell.returncode == 0, err
    said = out.splitlines()
    pid = int(said[0].partition("process ")[2].split(",")[0])
    try:
        log = place / said[1].split()[-1]
        assert log.parent == place / "runs" / "tiny"
        assert "tuner status tiny" in said[2]
        assert "tuner logs tiny --trial N --follow" in said[3]
        assert "tuner stop tiny" in said[4]
        # The session of the terminal is another one; a hangup that is sent to the launch itself is not heard either.
        assert os.getsid(pid) == pid
        assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")
        os.kill(pid, signal.SIGHUP)
        with pytest.raises(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGHUP)
        deadline_s = time.monotonic() + PATIENCE_S
        while "3 of 3 trials are finished" not in log.read_text():
            assert time.monotonic() < deadline_s, log.read_text()
            assert alive(pid) or "3 of 3 trials are finished" in log.read_text(), log.read_text()
            time.sleep(0.2)
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGTERM)
    store = StudyStore.load(open_storage(f"sqlite:///{place / 'tuner.db'}"), "tiny")
    assert (len(store.trials().completed), store.trials().running) == (3, [])


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["tini.yaml"], "study file 'tini.yaml' is missing"),
        (["tiny.yaml", "--set", "training.lr=-1"], "it must be a finite number above 0"),
        (["tiny.yaml", "--storage", "mysql://127.0.0.1/x"], "its scheme must be one of"),
    ],
)
def test_bad_input_is_said_in_the_foreground(place, arguments, rule):
    refused = launch(*arguments, cwd=place)
    out, err = refused.communicate(timeout=PATIENCE_S)
    assert (refused.returncode, out) == (2, "")
    assert rule in err
    assert len(err.splitlines()) == 1
    assert not (place / "runs").exists()


def test_what_can_not_work_is_said_in_the_foreground(place):
    (place / "runs").write_text("in the way")
    refused = launch("tiny.yaml", "--address", "127.0.0.1:1", cwd=place)
    out, err = refused.communicate(timeout=PATIENCE_S)
    assert (refused.returncode, out) == (1, "")
    assert "runs is a file" in err
    assert "nothing answers at 127.0.0.1:1" in err


def test_a_launch_that_ends_at_once_gives_its_words_and_exit_code(place, monkeypatch, capsys):
    filled_store(open_storage(f"sqlite:///{place / 'tuner.db'}"), 4).storage.engine.dispose()
    monkeypatch.chdir(place)
    # A busy machine takes a while to end a process.
    monkeypatch.setattr(detach, "_STAYS_S", PATIENCE_S)
    for trials, code in (("4", 0), ("0", 2)):
        monkeypatch.setattr(sys, "argv", [str(TUNER), "launch", "tiny.yaml", "--trials", trials, "--detach"])
        with pytest.raises(SystemExit) as left:
            detach.launch_detached("tiny.yaml", None, [], None, None)
        assert left.value.code == code
        # The logs of two launches in one second would have one name.
        time.sleep(1.1)
    said = capsys.readouterr()
    assert said.out == "study 'tiny' has 4 finished trials and 4 are asked for: nothing to do\n"
    assert "--trials" in said.err


def test_a_launch_has_begun_when_it_has_said_something_and_lives(tmp_path, monkeypatch):
    process, log = started("print('begun'); import time; time.sleep(60)", tmp_path)
    assert begun_or_ended(process, log) is None
    assert log.read_text() == "begun\n"
    process.kill()
    process.wait()
    monkeypatch.setattr(detach, "_STAYS_S", PATIENCE_S)
    process, log = started("import sys; print('begun'); sys.exit('no memory')", tmp_path)
    assert begun_or_ended(process, log) == 1
    assert log.read_text() == "begun\nno memory\n"
    process, log = started("import sys; sys.exit(7)", tmp_path)
    assert begun_or_ended(process, log) == 7


def test_the_password_is_in_the_environment_only(tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "wrench-0f-secrets")
    process, _ = started("import time; time.sleep(60)", tmp_path)
    # Empty while the process is still becoming that of the command.
    deadline = time.monotonic() + PATIENCE_S
    while not (environment := Path(f"/proc/{process.pid}/environ").read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert b"wrench" in environment
    assert b"wrench" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    process.kill()
    process.wait()
