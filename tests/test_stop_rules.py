"""When a study has searched enough, on trials made by hand."""

from __future__ import annotations

import pytest
from filled import TINY, filled_store, tiny_spec
from typer.testing import CliRunner
from yaml import safe_dump

from trainers.errors import InputError
from tuner.cli import app
from tuner.launching.stop_rules import StopRules, accelerator_seconds, hypervolume_noise
from tuner.storage.opening import open_storage
from tuner.storage.trials import CompletedTrial, PrunedTrial, StudyTrials


def completed(number, time, accuracy, last_change=0.0, seconds=None):
    return CompletedTrial(
        number=number,
        root=number,
        attempt=1,
        params={},
        values={"relative_time": time, "val_accuracy": accuracy},
        rival=None,
        seed=0,
        curve=[accuracy - last_change, accuracy],
        counts={},
        seconds=seconds or {"train": 30.0, "data": 1.0, "evaluation": 4.0, "checkpoint": 1.0},
        observed_over_calibrated=None,
        test_accuracy=None,
        device="abacus",
        versions={},
        commit="",
    )


def pruned(number):
    seconds = {"train": 9.0, "data": 0.0, "evaluation": 1.0, "checkpoint": 0.0}
    return PrunedTrial(number=number, root=number, attempt=1, params={}, rival=None, seed=None, curve=[0.1], seconds=seconds)


def trials(*finished):
    done = [trial for trial in finished if isinstance(trial, CompletedTrial)]
    return StudyTrials(done, [trial for trial in finished if isinstance(trial, PrunedTrial)], [], [])


def reason(found, **budget):
    return StopRules(tiny_spec(budget={"trials": 99, **budget})).reason(found)


def test_without_a_rule_nothing_ends_a_study():
    assert not StopRules(tiny_spec()).any
    assert StopRules(tiny_spec(budget={"patience": 3})).any
    assert StopRules(tiny_spec(budget={"accelerator_time": "1h"})).any
    assert reason(trials(*(completed(number, 0.5, 0.5) for number in range(50)))) is None


class TestAcceleratorTime:
    def test_is_all_that_finished_trials_took_stopped_ones_too(self):
        found = trials(completed(0, 1.0, 0.9), pruned(1), completed(2, 0.5, 0.8))
        assert accelerator_seconds(found) == 36 + 10 + 36
        assert reason(found, accelerator_time="83s") is None
        assert reason(found, accelerator_time="82s") == "its 82s of accelerator time are used (82 s)"

    @pytest.mark.parametrize(("gpus", "limit", "ends"), [(2, "72s", True), (2, "73s", False), (0.5, "18s", True), (0.5, "19s", False)])
    def test_counts_every_device_of_a_trial(self, gpus, limit, ends):
        spec = tiny_spec(budget={"trials": 99, "accelerator_time": limit}, resources={"cpus": 1, "gpus": gpus})
        assert (StopRules(spec).reason(trials(completed(0, 1.0, 0.9))) is not None) is ends


class TestPatience:
    """The reference is a relative time of 1 and no accuracy at all."""

    def test_noise_by_hand(self):
        # Median change 0.02; 1.4826 * 0.02 / sqrt(2) = 0.020967; the fastest point leaves 0.6 of the baseline's time.
        found = [completed(0, 0.8, 0.9, 0.01), completed(1, 0.4, 0.5, 0.02), completed(2, 0.9, 0.7, -0.05)]
        assert hypervolume_noise(found) == pytest.approx(0.6 * 0.020967, rel=1e-4)

    def test_no_gain_ends_it_only_after_so_many_trials(self):
        first = completed(0, 0.5, 0.8)
        worse = [completed(number, 0.6, 0.7) for number in range(1, 5)]
        assert reason(trials(first, *worse[:3]), patience=4) is None
        assert reason(trials(first, *worse), patience=4) == (
            "the last 4 trials raised the hypervolume by 0.0000, which is within its noise of 0.0000"
        )

    def test_a_gain_among_the_last_ones_goes_on(self):
        found = trials(completed(0, 0.5, 0.8), completed(1, 0.6, 0.7), completed(2, 0.3, 0.79), completed(3, 0.7, 0.7))
        # 0.2 wide and 0.79 high.
        assert reason(found, patience=3) is None
        assert reason(found, patience=1) is not None

    def test_a_gain_within_the_noise_does_not_count(self):
        # 0.01 higher over half of the baseline's time: 0.005 gained, against 0.5 * 1.4826 * 0.04 / sqrt(2) = 0.021.
        found = trials(*(completed(number, 0.5, accuracy, 0.04) for number, accuracy in enumerate((0.8, 0.81))))
        assert "by 0.0050, which is within its noise of 0.0210" in reason(found, patience=1)
        quiet = trials(*(completed(number, 0.5, accuracy, 0.004) for number, accuracy in enumerate((0.8, 0.81))))
        assert reason(quiet, patience=1) is None

    def test_stopped_trials_are_tries_too(self):
        assert reason(trials(completed(0, 0.5, 0.8), pruned(1), pruned(2)), patience=2) is not None
        assert reason(trials(pruned(0), pruned(1), pruned(2)), patience=2) is None, "a study without a result has not stopped growing"

    def test_the_order_is_that_of_the_numbers(self):
        late = completed(5, 0.3, 0.9)
        found = trials(late, *(completed(number, 0.5, 0.8) for number in range(5)))
        assert reason(found, patience=1) is None


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        ({"patience": 0}, r"^budget\.patience is 0, it must be a whole number"),
        ({"patience": "many"}, r"^budget\.patience is 'many'"),
        ({"accelerator_time": "soon"}, r"^budget\.accelerator_time .*duration is 'soon'|^budget\.accelerator_time is 'soon'"),
        ({"accelerator": "2h"}, r"^budget\.accelerator is unknown, .* the nearest valid name is 'accelerator_time'"),
    ],
)
def test_a_rule_that_is_none_is_refused(budget, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        tiny_spec(budget=budget)
    assert "\n" not in str(caught.value)


def test_patience_needs_a_hypervolume():
    with pytest.raises(InputError, match=r"^budget\.patience is 5, it needs the objectives relative_time and val_accuracy, not val_loss$"):
        tiny_spec(budget={"patience": 5}, objectives=["val_loss"])


def test_a_study_that_has_enough_begins_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(safe_dump(TINY))
    filled_store(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), 6)
    found = CliRunner().invoke(app, ["launch", "tiny.yaml", "--trials", "9", "--set", "budget.accelerator_time=10s"])
    assert found.exit_code == 0, found.output
    said = " ".join(found.output.split())
    # Six records of 2.31 s.
    assert "stopped, because its 10s of accelerator time are used (13.9 s); raise that rule of its budget to go on" in said
    assert "6 of 9 trials are finished" in said
