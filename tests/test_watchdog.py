"""Hanging trainings in real processes: they end by themselves, whoever holds Python's lock, and leave what they were doing."""

from __future__ import annotations

import faulthandler
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainers.watchdog import Watchdog

# 160 images in batches of 32 are five training steps an epoch.
SCRIPT = """
import re
import sys
import time
from torch import nn

from trainers import TrainConfig
from trainers.config import DataConfig
from trainers.distributed import RankPool
from trainers.loop import Training
from trainers.models import build_model
from trainers.watchdog import Watchdog

def sleeping():
    time.sleep(600)

def backtracking():
    # Some 2**60 ways to fail, all of them without giving up Python's lock.
    re.match(r"(a+)+$", "a" * 60 + "b")

class Network(nn.Module):
    hang, hanging_step, in_training = staticmethod(sleeping), 8, True

    def __init__(self, num_classes):
        super().__init__()
        self.network, self.steps = build_model("cifar_resnet8", num_classes, 32), 0

    def forward(self, images):
        if len(images) >= 16 and self.training == self.in_training:
            self.steps += 1
            if self.steps == self.hanging_step:
                self.hang()
        return self.network(images)

class GreedyNetwork(Network):
    hang = staticmethod(backtracking)

class LateNetwork(GreedyNetwork):
    # 80 images are three batches an evaluation.
    hanging_step, in_training = 5, False

class SlowNetwork(Network):
    hanging_step = 0

    def __init__(self, num_classes):
        super().__init__(num_classes)
        time.sleep(3.5)

if __name__ == "__main__":
    model, log, ranks = sys.argv[1:]
    data = DataConfig(name="digits", train_images=160, val_images=80)
    config = TrainConfig(model=f"hanging:{model}", data=data, epochs=3, batch_size=32, device="cpu", threads=1, ranks=int(ranks))
    with RankPool(config.ranks, "cpu") as pool:
        training = pool.start(Training, config, watchdog=Watchdog(log, floor_s=2, patient_s=600))
        for _ in range(2):
            pool.call(training.run_epoch)
        # Nothing is watched between two epochs.
        time.sleep(3.5)
        pool.call(training.run_epoch)
        print("all of", training.epochs_done)
"""


@pytest.fixture
def run(tmp_path):
    """Runs the script with a network of its own; gives the ended process and what its log says."""

    def run(network, ranks=1):
        (tmp_path / "hanging.py").write_text(SCRIPT)
        log = tmp_path / "log.txt"
        log.write_text("what was said before\n")
        command = [sys.executable, "hanging.py", network, str(log), str(ranks)]
        path = str(Path(__file__).parent.parent)
        process = subprocess.run(
            command,
            cwd=tmp_path,
            env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        return process, log.read_text()

    return run


@pytest.mark.parametrize(("network", "doing"), [("Network", "in sleeping"), ("LateNetwork", "in backtracking")])
def test_a_training_that_hangs_ends_and_says_where(run, network, doing):
    process, log = run(network)
    assert process.returncode == 1, process.stderr
    assert log.startswith("what was said before\nTimeout (0:00:03")
    assert doing in log
    assert "in run_epoch" in log


def test_every_rank_has_a_watchdog_and_a_log_of_its_own(run, tmp_path):
    process, log = run("GreedyNetwork", ranks=2)
    assert process.returncode == 1, process.stderr
    # Whichever was first, none is left: the other one would have kept the pipes of this process open.
    words = [log, (tmp_path / "log.rank1.txt").read_text()]
    assert any("in backtracking" in each for each in words)
    # Each rank's words by themselves.
    assert all(each.count("Timeout (") <= 1 for each in words)


def test_a_slow_set_up_and_a_rest_between_epochs_are_no_hang(run):
    process, log = run("SlowNetwork")
    assert process.stdout == "all of 3\n", process.stderr
    assert process.returncode == 0
    assert log == "what was said before\n"


@pytest.fixture
def armed(tmp_path, monkeypatch):
    """A watchdog at a clock that the test moves: `armed.at(seconds)`; `armed.limits` is what its timer was set to."""

    class Armed:
        limits: list[float]

        def __init__(self):
            self.limits = []
            self.watchdog = Watchdog(tmp_path / "log.txt", floor_s=60, patient_s=3600)

        def at(self, now_s):
            monkeypatch.setattr(time, "monotonic", lambda: now_s)
            return self.watchdog

    armed = Armed()
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda limit_s, file, exit: armed.limits.append(limit_s))
    return armed


def test_the_limit_is_ten_usual_steps_and_at_least_the_floor(armed):
    with armed.at(0):
        assert armed.limits == [3600]
        armed.at(20).alive()
        assert armed.limits[-1] == 10 * 20 + 1
        armed.at(22).alive()
        # The median of 20 and 2.
        assert armed.limits[-1] == 10 * 11 + 1
        armed.at(24).alive()
        assert armed.limits[-1] == 60 + 1


def test_a_small_step_tells_what_a_large_one_will_take(armed):
    with armed.at(0):
        # A quarter of the side is a sixteenth of the work.
        armed.at(2).alive(1 / 16)
        assert armed.limits[-1] == 10 * 32 + 1


def test_only_steps_say_what_is_usual(armed):
    with armed.at(0):
        armed.at(20).alive()
        for second in range(21, 200):
            armed.at(second).alive(share=None)
        assert armed.limits[-1] == 10 * 20 + 1
        armed.at(209).alive()
        # From the last sign of life, not from the last step: the median of 20 and 10.
        assert armed.limits[-1] == 10 * 15 + 1


def test_a_pause_lasts_until_the_next_sign_of_life(armed):
    with armed.at(0):
        armed.at(1).alive()
        armed.at(1.1).pause()
        assert armed.limits[-1] == 3600
        armed.at(1.2).alive(share=None)
        assert armed.limits[-1] == 61


def test_short_steps_do_not_set_the_timer_every_time(armed):
    with armed.at(0):
        for tenth in range(1, 101):
            armed.at(tenth / 10).alive()
    # When entered, at the first sign of life, and then once a second.
    assert len(armed.limits) <= 1 + 1 + 10


def test_a_watchdog_travels_to_another_process(tmp_path):
    watchdog = Watchdog(tmp_path / "log.txt", floor_s=3, patient_s=4)
    with watchdog:
        watchdog.alive()
        other = pickle.loads(pickle.dumps(watchdog))
    assert (other._log, other._floor_s, other._patient_s) == (tmp_path / "log.txt", 3, 4)
    assert not other._seconds
