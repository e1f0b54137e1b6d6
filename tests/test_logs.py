"""What a training says: all of it in its own attempt's log and nowhere else, and shown by `tuner logs` while it grows."""

from __future__ import annotations

import logging
import os
import random
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filled import filled_store, tiny_spec
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from trainers.errors import InputError, RunError
from trainers.places import RootPlace
from tuner.cli import app
from tuner.commands.logs import Tail
from tuner.launching.trial_log import LOG_NAME, MAX_BYTES, trial_log
from tuner.storage.distributions import distributions
from tuner.storage.opening import open_storage

TUNER = Path(sys.executable).parent / "tuner"
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def log_of(place, attempt=1):
    content = RootPlace(str(place)).read(attempt, LOG_NAME)
    return None if content is None else content.decode()


def lines_of(place, attempt=1):
    """Without the times and the first line, which says where the attempt is."""
    return [re.sub(f"^{STAMP} ", "", line) for line in log_of(place, attempt).splitlines()][1:]


def printed_by_c(text):
    import ctypes

    ctypes.CDLL(None).printf(b"%s", text.encode())


PRINTING = r"""
import ctypes, logging, os, subprocess, sys
from trainers.places import RootPlace
from tuner.launching.trial_log import trial_log

print("before")
for attempt in (1, 2):
    with trial_log(RootPlace(sys.argv[1]), attempt):
        print("said")
        print("complained", file=sys.stderr)
        logging.warning("logged %d", attempt)
        os.write(1, b"native\n")
        subprocess.run(["sh", "-c", "echo child; echo child error >&2"], check=True)
        ctypes.CDLL(None).printf(b"buffered in C\n")
        print("no end of line", end="")
print("after")
"""


def test_everything_that_is_printed_goes_to_its_attempts_log_and_nowhere_else(tmp_path):
    """In a process of its own, because pytest takes warnings and logging."""
    printed = run(PRINTING, tmp_path)
    assert (printed.stdout, printed.stderr) == ("before\nafter\n", "")
    for attempt in (1, 2):
        assert sorted(lines_of(tmp_path, attempt)) == sorted(
            ["said", "complained", f"WARNING:root:logged {attempt}", "native", "child", "child error", "buffered in C", "no end of line"]
        )


WARNING = """
import sys, warnings
from trainers.places import RootPlace
from tuner.launching.trial_log import trial_log

def warn():
    warnings.warn("warned", stacklevel=1)

for attempt in (1, 2):
    with trial_log(RootPlace(sys.argv[1]), attempt):
        warn()
        warn()
"""


def test_each_trial_of_a_process_has_its_warnings_once(tmp_path):
    run(WARNING, tmp_path)
    for attempt in (1, 2):
        assert sum("UserWarning: warned" in line for line in lines_of(tmp_path, attempt)) == 1


def run(program, *arguments):
    # Where this is set, the C library doesn't buffer either.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)


def test_lines_of_python_have_their_time(tmp_path):
    with trial_log(RootPlace(str(tmp_path)), 1):
        print("one\ntwo")
    assert re.fullmatch(rf"({STAMP} [^\n]+\n){{3}}", log_of(tmp_path))


def test_a_line_is_in_the_file_at_once(tmp_path):
    with trial_log(RootPlace(str(tmp_path)), 1) as log:
        assert log.path == tmp_path / "attempt-1" / LOG_NAME
        print("half", end="")
        assert lines_of(tmp_path) == []
        print(" and half")
        assert lines_of(tmp_path) == ["half and half"]


def test_progress_bars_leave_their_last_state(tmp_path):
    with trial_log(RootPlace(str(tmp_path)), 1):
        for percent in range(0, 101, 10):
            print(f"\r{percent} %", end="", file=sys.stderr)
        print(file=sys.stderr)
        print("windows\r\n", end="")
    assert lines_of(tmp_path) == ["100 %", "windows"]


def test_one_trials_log_never_gets_the_next_ones_lines(tmp_path, capfd):
    """The handler and the child are of the first trial and live on, as a library's handler and other ranks do."""
    script = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
    first, second = RootPlace(str(tmp_path / "first")), RootPlace(str(tmp_path / "second"))
    with trial_log(first, 1):
        handler = logging.StreamHandler()
        child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, text=True)
        print("of the first")
        printed_by_c("C of the first\n")
    with trial_log(second, 1):
        handler.emit(logging.makeLogRecord({"msg": "handled in the second"}))
        print("of the second")
        child.communicate("from the first's child\n")
    handler.emit(logging.makeLogRecord({"msg": "handled after both"}))
    assert lines_of(tmp_path / "first") == ["of the first", "C of the first"]
    assert lines_of(tmp_path / "second") == ["handled in the second", "of the second"]
    assert capfd.readouterr() == ("", "handled after both\n")


def test_a_log_that_grows_too_large_loses_its_oldest_lines(tmp_path):
    with trial_log(RootPlace(str(tmp_path)), 1) as log:
        for number in range(30_000):
            print(f"{number:06d} {'x' * 93}")
        assert log.path.stat().st_size <= MAX_BYTES + 200
        os.write(1, b"native\n" * 300_000)
        log.flush()
        assert log.path.stat().st_size < MAX_BYTES * 0.6
    lines = [line for line in lines_of(tmp_path) if line.endswith("x")]
    assert lines == []
    with trial_log(RootPlace(str(tmp_path)), 2):
        for number in range(30_000):
            print(f"{number:06d} {'x' * 93}")
    kept = [line for line in lines_of(tmp_path, 2) if line.endswith("x")]
    # Whole lines, in order, up to the last one; half of the largest size is some 4,300 of them.
    assert kept == [f"{number:06d} {'x' * 93}" for number in range(30_000 - len(kept), 30_000)]
    assert 4_000 < len(kept) < 9_000


def test_a_full_disk_ends_no_training_and_the_log_says_what_it_lacks(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with trial_log(RootPlace(str(tmp_path)), 1) as log:
        print("before")
        # No file may grow beyond this, as on a disk that is full.
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size, hard))
        try:
            print("lost\nlost too")
            log.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        print("after")
    assert lines_of(tmp_path) == ["before", "2 lines could not be written, for want of space", "after"]


def test_a_place_that_is_no_folder_gets_copies(monkeypatch):
    monkeypatch.setattr("tuner.launching.trial_log._COPY_EVERY_S", 0.0)
    place = "memory://logs/root-00001"
    with trial_log(RootPlace(place), 2) as log:
        print("first")
        log.flush()
        assert lines_of(place, 2) == ["first"]
        print("second")
    assert lines_of(place, 2) == ["first", "second"]
    assert not log.path.exists()


def test_copies_are_not_made_all_the_time():
    place = "memory://logs/root-00002"
    with trial_log(RootPlace(place), 1) as log:
        assert lines_of(place) == []
        print("a moment later")
        log.flush()
        assert lines_of(place) == []
    assert lines_of(place) == ["a moment later"]


def test_a_place_that_is_away_gets_the_log_when_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr("tuner.launching.trial_log._COPY_EVERY_S", 0.0)
    in_the_way = tmp_path / "root"
    in_the_way.write_text("no folder")
    with trial_log(RootPlace(str(in_the_way)), 1) as log:
        print("meanwhile")
        log.flush()
        in_the_way.unlink()
        log.flush()
    said = lines_of(in_the_way)
    assert "meanwhile" in said
    assert any(f"the log is only in {log.path} on" in line for line in said)


DYING = """
import ctypes, os, sys
from trainers.places import RootPlace
from tuner.launching.trial_log import trial_log
with trial_log(RootPlace(sys.argv[1]), 1):
    print("last words")
    if os.fork() == 0:
        print("of a fork")
        os._exit(0)
    os.wait()
    os.write(2, b"terminate called after throwing\\n")
    os.kill(os.getpid(), 9)
"""


def test_a_killed_process_has_its_last_words_in_the_log(tmp_path):
    died = subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert lines_of(tmp_path) == ["last words", "of a fork", "terminate called after throwing"]


def test_nothing_of_the_environment_is_logged(tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "wrench-0f-secrets")
    with trial_log(RootPlace(str(tmp_path)), 1):
        print("said")
    assert "wrench" not in log_of(tmp_path)


def test_following_shows_every_line_once_whatever_was_dropped():
    """A log of numbered lines grows in random bits, half lines too, and now and then loses its oldest half."""
    generator = random.Random(7)
    for _ in range(200):
        tail, log, printed, written = Tail(), b"", b"", 0
        for _ in range(generator.randrange(1, 40)):
            for _ in range(generator.randrange(4)):
                log += b"%06d %s\n" % (written, b"x" * generator.randrange(30))
                written += 1
            half = b"begun" if generator.random() < 0.3 else b""
            printed += tail.new(log + half, whole=False)
            if generator.random() < 0.2:
                log = b"older lines were dropped\n" + log[log.find(b"\n", len(log) // 2) + 1 :]
        printed += tail.new(log, whole=True)
        numbers = [int(line[:6]) for line in printed.splitlines() if line[:6].isdigit()]
        assert numbers == list(range(written))


# tuner logs


@pytest.fixture
def study(tmp_path):
    """Three completed trials in the default database of tmp_path; nothing has been logged."""
    store = filled_store(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), 3)
    store.set_attr("checkpoints", str(tmp_path / "place"))
    return store


def running_trial(store):
    spec = tiny_spec()
    return store.create_trial(fixed=spec.baseline_params(), distributions=distributions(spec.search), sampler=None, rival=None)


def write_log(tmp_path, text, *, root, attempt=1):
    RootPlace(str(tmp_path / "place" / f"root-{root:05d}")).write(attempt, LOG_NAME, text.encode())


def logs(tmp_path, *arguments):
    app(["logs", "tiny", *arguments, "--storage", f"sqlite:///{tmp_path / 'tuner.db'}"], standalone_mode=False)


def test_a_trials_log_is_printed(tmp_path, study, capsys):
    write_log(tmp_path, "öne\n\ttwo\nthree", root=1)
    logs(tmp_path, "--trial", "1")
    assert capsys.readouterr().out == "öne\n\ttwo\nthree"


def test_what_steers_a_terminal_is_escaped(tmp_path, study, capsys):
    (tmp_path / "place" / "root-00002" / "attempt-1").mkdir(parents=True)
    (tmp_path / "place" / "root-00002" / "attempt-1" / LOG_NAME).write_bytes(b"\x1b]0;title\x07 \x9b2J \xc2\x9b2J a\rb \x00\x7f\n")
    logs(tmp_path, "--trial", "2")
    assert capsys.readouterr().out == "\\x1b]0;title\\x07 \\x9b2J \\x9b2J a\\rb \\x00\\x7f\n"


def test_a_retry_has_the_log_of_its_attempt(tmp_path, study, capsys):
    first = running_trial(study)
    study.fail(first.number, "interrupted", "stopped")
    (retry,) = study.retries()
    second = study.claim_retry(retry, distributions(tiny_spec().search))
    write_log(tmp_path, "first\n", root=first.number, attempt=1)
    write_log(tmp_path, "second\n", root=first.number, attempt=2)
    logs(tmp_path, "--trial", str(first.number))
    logs(tmp_path, "--trial", str(second.number))
    assert capsys.readouterr().out == "first\nsecond\n"


def test_what_other_ranks_said_as_they_hung_follows(tmp_path, study, capsys):
    number = running_trial(study).number
    write_log(tmp_path, "what rank 0 said\n", root=number)
    folder = tmp_path / "place" / f"root-{number:05d}" / "attempt-1"
    (folder / "log.rank1.txt").touch()
    (folder / "log.rank2.txt").write_text("Timeout (0:01:00)!\n")
    logs(tmp_path, "--trial", str(number))
    assert capsys.readouterr().out == "what rank 0 said\nrank 2:\nTimeout (0:01:00)!\n"


def test_a_trial_that_was_stopped_early_has_its_log(tmp_path, study, capsys):
    trial = running_trial(study)
    study.prune(trial.number, {})
    write_log(tmp_path, "weak\n", root=trial.number)
    logs(tmp_path, "--trial", str(trial.number))
    assert capsys.readouterr().out == "weak\n"


def refused(tmp_path, *arguments):
    return subprocess.run([TUNER, "logs", "tiny", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)


def test_a_trial_that_does_not_exist_is_bad_input(tmp_path, study):
    answer = refused(tmp_path, "--trial", "3")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "tuner: study 'tiny' has no trial 3, its trials are 0 to 2\n"


def test_a_study_without_trials_says_so(tmp_path):
    filled_store(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), 0)
    with pytest.raises(InputError, match="it has no trials yet"):
        logs(tmp_path, "--trial", "0")


def test_why_there_is_no_log(tmp_path, study):
    with pytest.raises(RunError, match=r"kept in .*/place, which is not there on "):
        logs(tmp_path, "--trial", "0")
    (tmp_path / "place").mkdir()
    with pytest.raises(RunError, match=r"left no log in .*: it ended before its training began, or"):
        logs(tmp_path, "--trial", "0", "--follow")
    trial = running_trial(study)
    with pytest.raises(RunError, match="has no log yet, because its training has not begun; --follow waits for it"):
        logs(tmp_path, "--trial", str(trial.number))
    study.study.enqueue_trial({})
    with pytest.raises(RunError, match="has not been started"):
        logs(tmp_path, "--trial", str(trial.number + 1))
    study.set_attr("checkpoints", None)
    with pytest.raises(RunError, match="does not say where it keeps"):
        logs(tmp_path, "--trial", "0")


def following(tmp_path, number):
    return subprocess.Popen(
        [TUNER, "logs", "tiny", "--trial", str(number), "--follow"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_following_shows_what_is_added_until_the_trial_ends(tmp_path, study):
    trial = running_trial(study)
    place = RootPlace(str(tmp_path / "place" / f"root-{trial.number:05d}"))
    process = following(tmp_path, trial.number)
    with trial_log(place, 1):
        for number in range(3):
            print(f"line {number}")
            assert f"line {number}\n" in (process.stdout.readline() if number else process.stdout.readline() + process.stdout.readline())
        print("the end", end="")
    study.fail(trial.number, "error", "no reason")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert re.fullmatch(rf"{STAMP} the end\n", out)


def test_ctrl_c_ends_following(tmp_path, study):
    trial = running_trial(study)
    write_log(tmp_path, "begun\n", root=trial.number)
    process = following(tmp_path, trial.number)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_following_ends_with_a_driver_that_died(tmp_path, study):
    """Its trial is RUNNING until the next launch."""
    trial = running_trial(study)
    write_log(tmp_path, "begun\n", root=trial.number)
    gone = subprocess.Popen(["true"])
    gone.wait()
    storage: RDBStorage = study.storage
    storage.set_trial_user_attr(trial.trial_id, "owner", storage.get_trial(trial.trial_id).user_attrs["owner"] | {"pid": gone.pid})
    process = following(tmp_path, trial.number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "begun\n", "")
    assert storage.get_trial(trial.trial_id).state == TrialState.RUNNING


def test_status_says_of_a_running_trial_what_it_has_told(tmp_path, study, capsys):
    trial = running_trial(study)

    def said():
        app(["status", "tiny", "--storage", f"sqlite:///{tmp_path / 'tuner.db'}"], standalone_mode=False)
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"trial {trial.number} "))

    assert said().startswith(f"trial {trial.number} is handed out and has told no epoch yet: process ")
    study.beat([trial.number], {trial.number: (0.25,)})
    assert said().startswith(f"trial {trial.number} has told 1 epoch: process ")
