"""Real launches: Ray on this machine, real trainings, a real PostgreSQL; killed, interrupted, stopped and continued."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from filled import TINY
from PIL import Image
from postgres import missing_binaries, postgres_server
from priced import make_priced
from yaml import safe_dump

from tuner.launching.places import root_place
from tuner.launching.trial_log import LOG_NAME
from tuner.results.stored import study_front
from tuner.storage.opening import open_storage, resolve_url
from tuner.storage.store import StudyStore

TUNER = Path(sys.executable).parent / "tuner"
# Of this run only: another one beside it has its own in its processes.
PASSWORD = f"wrench-{secrets.token_hex(8)}"
PATIENCE_S = 240
# Long enough that a kill lands inside a training, short enough for a test: some seconds a full training.
KILLED = TINY | {"name": "killed", "dataset": {"name": "digits", "train_images": 640, "val_images": 60}}
# With such learning rates nothing is learned; ten epochs are long enough to be reported on.
HOPELESS: dict[str, Any] = KILLED | {
    "name": "hopeless",
    "training": {"epochs": 10, "batch_size": 32, "lr": 0.05, "weight_decay": 5e-4},
    "search": {"frequency": [0.0, 0.25], "scale": 0.5, "epochs": [4, 6, 10], "lr": [1e-6, 2e-6, 3e-6, 0.05]},
    "stopper": {"name": "dominance", "confidence": 0.8},
}


@pytest.fixture
def place(tmp_path):
    for study in (TINY, KILLED, HOPELESS):
        (tmp_path / f"{study['name']}.yaml").write_text(safe_dump(study))
    return tmp_path


def start(*arguments, cwd, **environment):
    return subprocess.Popen(
        [TUNER, *map(str, arguments), "--accept-noisy-timing"],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process):
    try:
        output, _ = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return output


def wait_for(condition, process):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if condition():
            return
        if process.poll() is not None:
            pytest.fail(f"the launch ended early: {process.stdout.read()}")
        time.sleep(0.2)
    pytest.fail("waited in vain")


def stored(url, name):
    return StudyStore.load(open_storage(resolve_url(url, None)), name)


def test_a_launch_killed_in_the_middle_goes_on_where_it_was(place, postgres_database):
    make_priced(postgres_database, KILLED)
    process = start("launch", "killed.yaml", "--storage", postgres_database, "--trials", 6, cwd=place)
    store = stored(postgres_database, "killed")
    checkpoints = lambda: list(place.glob("runs/*/root-*/attempt-*/*.pt"))  # noqa: E731
    wait_for(lambda: store.finished_count() >= 2 and store.trials().running and checkpoints(), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = store.trials()
    finished_before = {trial.number: trial.values for trial in before.completed}
    assert before.running, "the kill came too late to prove anything"

    again = start("launch", "killed.yaml", "--storage", postgres_database, "--trials", 6, cwd=place)
    assert "6 of 6 trials are finished" in ended(again)
    assert again.returncode == 0
    after = store.trials()
    assert len(after.completed) == 6
    assert after.running == []
    assert {trial.number: trial.values for trial in after.completed if trial.number in finished_before} == finished_before
    roots = [trial.root for trial in after.completed]
    assert len(set(roots)) == len(roots), "a root trial was counted twice"
    # Every trial that was running at the kill was finished by a later attempt with the same parameters and seed; of one whose parameters
    # were just being chosen nothing is there to be repeated.
    chosen = [trial for trial in before.running if store.spec.search.searched.keys() <= trial.params.keys()]
    assert len(chosen) >= len(before.running) - 1
    for lost in chosen:
        retried = next(trial for trial in after.completed if trial.root == lost.root)
        assert (retried.params, retried.attempt) == (lost.params, lost.attempt + 1)
    front = {f"root-{trial.root:05d}" for trial in study_front(store).front}
    assert {path.parts[-3] for path in checkpoints()} == front, "checkpoints of other finished trials than the front's are left"
    # Every result was left beside its checkpoints before it was told, and says what was told.
    [folder] = place.glob("runs/*")
    for trial in after.completed:
        attempt, record = root_place(str(folder), trial.root).result()
        assert (record["val_accuracy"], record["curve"]) == (trial.values["val_accuracy"], trial.curve)
        assert root_place(str(folder), trial.root).read(attempt, LOG_NAME) is not None


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(place):
    url = f"sqlite:///{place / 'tuner.db'}"
    make_priced(url, KILLED)
    process = start("launch", "killed.yaml", "--trials", 8, "--notify", "tee notice.json", cwd=place)
    store = stored(url, "killed")
    wait_for(lambda: store.finished_count() >= 1, process)
    process.send_signal(signal.SIGINT)
    output = ended(process)
    assert process.returncode == 130, output
    notice = json.loads((place / "notice.json").read_text())
    assert (notice["event"], notice["asked"], notice["finished"]) == ("ended", 8, store.finished_count())
    assert notice["text"].endswith("of 8 trials are finished; stopped, because Ctrl-C was pressed")
    assert "give the same command again to go on" in output
    assert "Traceback" not in output
    trials = store.trials()
    assert trials.running == []
    assert {trial.kind for trial in trials.failed} <= {"interrupted"}


def test_tuner_stop_ends_a_launch(place):
    url = f"sqlite:///{place / 'tuner.db'}"
    make_priced(url, KILLED)
    process = start("launch", "killed.yaml", "--trials", 8, cwd=place)
    store = stored(url, "killed")
    wait_for(lambda: len(store.trials().running) >= 2, process)
    asked = subprocess.run([TUNER, "stop", "killed"], cwd=place, capture_output=True, text=True, check=True)
    assert "asked the launch of 'killed' to end" in asked.stdout
    output = ended(process)
    assert process.returncode == 0, output
    assert "tuner stop asked for it" in output
    assert store.trials().running == []


def test_hopeless_trials_are_stopped_early(place):
    make_priced(f"sqlite:///{place / 'tuner.db'}", HOPELESS)
    process = start("launch", "hopeless.yaml", "--trials", 11, cwd=place)
    output = ended(process)
    assert process.returncode == 0, output
    assert "11 of 11 trials are finished" in output
    store = stored(f"sqlite:///{place / 'tuner.db'}", "hopeless")
    trials = store.trials()
    assert trials.running == trials.failed == []
    assert len(trials.completed) + len(trials.pruned) == store.trial_count() == 11
    stopped = {trial.number for trial in trials.pruned}
    assert stopped
    assert all(trial.params["lr"] < 0.01 for trial in trials.pruned)
    for trial in trials.pruned:
        assert 0 < len(trial.curve) < trial.params["epochs"]
        assert max(trial.curve) < 0.3
        assert f"trial {trial.number} stopped after {len(trial.curve)} of {trial.params['epochs']} epochs: with 80.0 % confidence" in output
        assert root_place(str(next(place.glob("runs/*"))), trial.root).checkpoints() == []
    records = [trial.user_attrs["record"] for trial in store.study.get_trials() if trial.number in stopped]
    # 640 images are 20 steps an epoch.
    assert all(sum(record["counts"].values()) == 20 * record["stopped"]["epoch"] for record in records)
    assert all(record["seconds"]["train"] > 0 and record["stopped"]["expected"] < 0.5 for record in records)
    assert stopped.isdisjoint(trial.number for trial in study_front(store).front)
    checked = subprocess.run([TUNER, "check", "hopeless"], cwd=place, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    status = subprocess.run([TUNER, "status", "hopeless"], cwd=place, capture_output=True, text=True, check=True).stdout
    assert f"{11 - len(stopped)} completed, {len(stopped)} stopped early, 0 running" in status


def files_with(secret, *folders):
    found = subprocess.run(["grep", "-rlaF", secret, *map(str, folders)], capture_output=True, text=True, check=False)
    return found.stdout.split()


def leaks_in_processes(secret, own):
    """Where the secret shows in /proc. The driver was given it in its environment; no process with another command line may have it there.

    A process that the driver has just forked is still a copy of it, with its command line, ``own``.
    """
    leaks = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command, inherited = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        leaks += [f"command line of {command!r}"] if secret.encode() in command else []
        leaks += [f"environment of {command!r}"] if secret.encode() in inherited and command != own else []
    return leaks


def test_the_password_stays_in_the_driver(place, monkeypatch):
    if reason := missing_binaries():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    # Ray's session folder lies in it, and a path of Ray's sockets must be short.
    with postgres_server(password=PASSWORD) as server, tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as ray_folder:
        server.create_database("secret_study")
        monkeypatch.setenv("TUNER_STORAGE", server.url_of("secret_study", PASSWORD))
        temporary = place / "temporary"
        temporary.mkdir()
        webhook = f"http://127.0.0.1:1/{PASSWORD}"
        process = start(
            "launch", "tiny.yaml", "--trials", 4, cwd=place, TMPDIR=str(temporary), RAY_TMPDIR=ray_folder, TUNER_WEBHOOK=webhook
        )
        # The kernel shows the command line of a process only some time after it has begun, and no longer once it has ended.
        wait_for(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes(), process)
        own = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        # All the while: calibration, git, workers and their ranks come and go.
        leaks, looked, deadline = set(), 0, time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            leaks |= {*leaks_in_processes(PASSWORD, own), *files_with(PASSWORD, "/dev/shm")}
            looked += 1
            time.sleep(0.5)
        output = ended(process)
        assert process.returncode == 0, output
        assert leaks == set()
        assert looked > 10
        assert PASSWORD not in output
        assert "the webhook of TUNER_WEBHOOK could not be reached" in output
        assert list(Path(ray_folder).rglob("raylet.out")), "Ray's session folder is not where it is looked for"
        assert files_with(PASSWORD, place, ray_folder, *filter(Path.exists, [Path.home() / ".ray"])) == []
        exported = subprocess.run([TUNER, "export", "tiny", "--format", "json"], cwd=place, capture_output=True, text=True, check=True)
        front = json.loads(exported.stdout)["front"]
        assert front
        assert PASSWORD not in exported.stdout
        assert all(point["counts"] and point["seconds"]["train"] > 0 and point["commit"] for point in front)
        checked = subprocess.run([TUNER, "check", "tiny"], cwd=place, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
        assert PASSWORD not in checked.stdout + checked.stderr


def write_images(folder, count):
    for name, colour in (("dark", 40), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (32, 32), (colour + number, colour, colour)).save(folder / name / f"{number}.png")


def test_a_front_on_an_image_folder_is_confirmed_with_fresh_seeds(place):
    """The folder is named by a relative path: Tune gives every trial a current folder of its own, in which such a path leads nowhere."""
    write_images(place / "images" / "train", 40)
    write_images(place / "images" / "test", 8)
    dataset = {"name": "folder", "root": "images", "side_px": 32, "val_images": 16}
    (place / "own.yaml").write_text(safe_dump(TINY | {"name": "own", "dataset": dataset}))
    launched = start("launch", "own.yaml", "--trials", 3, cwd=place)
    output = ended(launched)
    assert launched.returncode == 0, output
    assert "3 of 3 trials are finished" in output
    command = [TUNER, "confirm", "own", "--seeds", "2", "--json", "--accept-noisy-timing"]
    first = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    confirmed = json.loads(first.stdout)
    baseline = next(point for point in confirmed["points"] if point["rival"] == "baseline")
    assert baseline["relative_time"] == 1.0
    assert all(len(point["test_accuracy"]) == 2 for point in confirmed["points"])
    store = stored(f"sqlite:///{place / 'tuner.db'}", "own.confirm")
    assert {trial.seed for trial in store.trials().completed} == {1_000_000, 1_000_001}
    # Nothing is trained again, and the searched study is untouched.
    assert json.loads(subprocess.run(command, cwd=place, capture_output=True, text=True, check=True).stdout) == confirmed
    assert stored(f"sqlite:///{place / 'tuner.db'}", "own").trial_count() == 3
