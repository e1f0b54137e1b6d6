"""Trainings in two real processes on CPUs: the same steps as in one, agreement on what was measured, and no process that is left."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from images import CPU
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from studies.files import load_study
from trainers import Schedule, TrainConfig
from trainers.calibration import _calibration, cost_conditions
from trainers.config import DataConfig
from trainers.cost import CostTable
from trainers.data import load_data
from trainers.distributed import RankPool
from trainers.downsampling import Downsampler, resize
from trainers.errors import InputError, NonFiniteLossError, RunError
from trainers.folders import Preprocessing, find_images
from trainers.loop import Training
from trainers.methods.settings import Grouping, WeightSampling
from trainers.ranks import ALONE, Ranks
from trainers.schedule import Step
from trainers.splits import LoaderSplit, Split, TensorSplit
from trainers.steps import add_gradients
from tuner.launching.jobs import Job, TrialDone, TrialFailed

CONFIG = TrainConfig(
    model="test_distributed:plain_network",
    data=DataConfig(name="digits", train_images=160, val_images=80),
    schedule=Schedule(frequency=0.5, scale=0.625, kernel="pooled", batch_growth="constant_work"),
    epochs=2,
    batch_size=32,
    lr=0.02,
    augment=("crop", "cutout"),
    seed=7,
    device="cpu",
    threads=2,
)
ON_TWO = dataclasses.replace(CONFIG, ranks=2)
STEPS = (Step(32, "full"), Step(16, "full", 2), Step(16, "pooled"), Step(20, "pooled", 2))


def plain_network(num_classes: int) -> nn.Module:
    """Without batch norm, whose statistics are those of each rank's part."""
    convolutions = (nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Tanh())
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, num_classes))


class CheckedTraining(Training):
    """What a test wants every rank to do."""

    def check_same_weights(self) -> None:
        weights = b"".join(tensor.numpy().tobytes() for tensor in self.model.state_dict().values())
        self.ranks.check_equal("the checksum of the weights", zlib.crc32(weights))

    def check_same_evaluated(self) -> None:
        with self.methods.evaluated():
            self.check_same_weights()

    def load_images_slowly(self) -> None:
        """In rank 1 only: 50 ms a batch."""
        if self.ranks.rank == 1:
            self.data = dataclasses.replace(self.data, train=SlowSplit(self.data.train))

    def fail_in_rank_1(self) -> None:
        if self.ranks.rank == 1:
            raise ValueError("a layer\nof rank 1 broke")
        self.ranks.total(1)

    def kill_rank_1(self) -> None:
        if self.ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        self.ranks.total(1)


class SlowSplit:
    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, *args, **options):
        for batch in self.split.batches(*args, **options):
            time.sleep(0.05)
            yield batch


class Gradients:
    """The gradients of one step of each kind on the first batches of an epoch."""

    def __init__(self, config: TrainConfig, ranks: Ranks = ALONE) -> None:
        self.config, self.ranks = config, ranks
        torch.manual_seed(config.seed)
        self.model = plain_network(10)
        self.parallel = ranks.parallel(self.model)

    def of_all_steps(self) -> dict[Step, list[Tensor]]:
        found = {}
        for step in STEPS:
            with Downsampler(self.model, Schedule(), 0, 32).run_as(step):
                add_gradients(self.parallel, *first_batch(step, self.ranks), self.config)
            found[step] = [parameter.grad.clone() for parameter in self.model.parameters()]
            self.model.zero_grad(set_to_none=True)
        return found


def first_batch(step: Step, ranks: Ranks) -> tuple[Tensor, Tensor]:
    split = load_data(CONFIG.data, CPU).train
    steps = (step, *[Step(32, "full")] * (5 - step.batches))
    images, labels = next(split.batches(32, seed=3, epoch=1, augment=("crop",), training=True, steps=steps, ranks=ranks))
    return resize(images, step.side_px), labels


class Waiting:
    """Ranks that wait and don't notice when another is gone, as in NCCL's operations on a GPU; gloo's would end with an error."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def wait(self) -> None:
        time.sleep(600)


class Agreement:
    """Ranks 0 and 1 compare 1 and 2."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.own = ranks.rank + 1

    def figures(self) -> tuple[float, float, list[float]]:
        means = self.ranks.mean(torch.tensor([float(self.own), float("nan") if self.own == 2 else 0.0]))
        return self.ranks.slowest(self.own), self.ranks.total(self.own), means.tolist()

    def differ(self) -> None:
        self.ranks.check_equal("the figure", self.own)


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(2, "cpu") as pool:
        yield pool


def trained(pool: RankPool, config: TrainConfig) -> CheckedTraining:
    training = pool.start(CheckedTraining, config)
    while not training.done:
        pool.call(training.run_epoch)
    return training


def weights(model: nn.Module) -> Tensor:
    return torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])


def children() -> list[int]:
    """Spawned processes that this one has started and that still run."""
    pids = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [pid for pid in pids if (state := state_of(pid)) and state[0] != "Z" and state[1] == os.getpid() and is_spawned(pid)]


def state_of(pid: int) -> tuple[str, int] | None:
    """State and parent of a process; None if it is gone. One that nobody has waited for stays, as Z."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None
    return state, int(parent)


def is_spawned(pid: int) -> bool:
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_ranks_have_the_gradients_of_the_whole_batch(pool: RankPool, accumulate: int) -> None:
    config = dataclasses.replace(ON_TWO, accumulate=accumulate)
    found = pool.call(pool.start(Gradients, config).of_all_steps)
    alone = Gradients(CONFIG)
    for step in STEPS:
        images, labels = first_batch(step, ALONE)
        assert len(images) == 32 * step.batches
        with Downsampler(alone.model, Schedule(), 0, 32).run_as(step):
            expected = torch.autograd.grad(F.cross_entropy(alone.model(images), labels), list(alone.model.parameters()))
        for gradient, whole in zip(found[step], expected, strict=True):
            torch.testing.assert_close(gradient, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_train_as_one_process_does(pool: RankPool, accumulate: int) -> None:
    one = Training(dataclasses.replace(CONFIG, accumulate=accumulate))
    reports = [one.run_epoch() for _ in range(2)]
    training = pool.start(CheckedTraining, dataclasses.replace(ON_TWO, accumulate=accumulate))
    on_two = [pool.call(training.run_epoch) for _ in range(2)]
    pool.call(training.check_same_weights)
    torch.testing.assert_close(weights(training.model), weights(one.model), rtol=0, atol=1e-5)
    assert weights(one.model).abs().mean() > 1e-2
    for report, ranks_report in zip(reports, on_two, strict=True):
        assert ranks_report.train_loss == pytest.approx(report.train_loss, abs=1e-5)
        assert ranks_report.val_loss == pytest.approx(report.val_loss, abs=1e-5)
        assert ranks_report.val_accuracy == pytest.approx(report.val_accuracy, abs=1 / 80)
    assert training.result().counts == one.result().counts
    assert {step.batches for step in one.result().counts} == {1, 2}


def test_two_ranks_learn_the_gates_that_one_process_does(pool: RankPool) -> None:
    # A strong penalty: were its gradient added before that of the ranks is averaged, or in one rank only, gates would be far apart.
    grouping = Grouping(name="groupable", budget=0.2, strength=50.0)
    one = Training(dataclasses.replace(CONFIG, grouping=grouping))
    one.run_epoch()
    training = pool.start(CheckedTraining, dataclasses.replace(ON_TWO, grouping=grouping))
    pool.call(training.run_epoch)
    pool.call(training.check_same_weights)
    torch.testing.assert_close(weights(training.model), weights(one.model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampling", [WeightSampling(), WeightSampling(name="pswa", every=2, write_back=True)])
def test_a_training_of_two_ranks_with_batch_norm_resumes_bit_same(pool: RankPool, tmp_path: Path, sampling: WeightSampling) -> None:
    schedule = Schedule(frequency=0.5, kernel="pooled", batch_norm="separate")
    config = dataclasses.replace(ON_TWO, model="cifar_resnet8", schedule=schedule, augment=("crop",), weight_sampling=sampling)
    whole = trained(pool, config)
    pool.call(whole.check_same_weights)
    broken = dataclasses.replace(config, checkpoint=str(tmp_path))
    pool.call(pool.start(CheckedTraining, broken).run_epoch)
    resumed = pool.start(CheckedTraining, broken)
    assert resumed.epochs_done == 1
    pool.call(resumed.run_epoch)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    pool.call(resumed.check_same_evaluated)
    assert torch.equal(weights(resumed.result().model), weights(whole.result().model))
    assert resumed.curve == whole.curve
    assert [path.name for path in tmp_path.rglob("*.*")] == ["epoch-00001.pt", "epoch-00002.pt"]
    # One process goes on where two have stopped.
    assert Training(dataclasses.replace(broken, ranks=1)).done


def test_seconds_are_those_of_the_slowest_rank(pool: RankPool) -> None:
    training = pool.start(CheckedTraining, ON_TWO)
    pool.call(training.load_images_slowly)
    pool.call(training.run_epoch)
    steps = len(training.downsampler.plan.epochs[0])
    assert training.seconds()["data"] >= 0.05 * steps
    own = training._stopwatch.seconds()
    # Rank 0 was not slow at loading: it waited for the other's gradients.
    assert own["data"] < 0.05 * steps
    assert own["train"] >= 0.05 * (steps - 1)


def test_what_ranks_agree_on(pool: RankPool) -> None:
    agreement = pool.start(Agreement)
    slowest, total, means = pool.call(agreement.figures)
    assert (slowest, total, means[0]) == (2, 3, 1.5)
    assert np.isnan(means[1])


def test_a_calibration_of_two_ranks_ends(pool: RankPool) -> None:
    calibration = pool.start(_calibration, ON_TWO, frozenset({Step(16, "pooled"), Step(16, "full", 4)}), 10, True)
    latest = None
    while not isinstance(latest, CostTable):
        latest = pool.call(calibration.__next__)
    assert latest.costs.keys() == {Step(32, "full"), Step(16, "pooled"), Step(16, "full", 4)}
    assert latest.conditions == cost_conditions(ON_TWO)
    assert (latest.conditions["ranks"], latest.conditions["threads"]) == (2, 1)


def test_a_failure_in_rank_1_is_one_sentence_in_rank_0(pool: RankPool) -> None:
    training = pool.start(CheckedTraining, ON_TWO)
    started = time.monotonic()
    with pytest.raises(RunError) as failure:
        pool.call(training.fail_in_rank_1)
    assert str(failure.value) == "rank 1 of 2 failed: ValueError: a layer of rank 1 broke"
    # Far below what a collective operation waits.
    assert time.monotonic() - started < 60
    assert children() == []


def test_a_killed_rank_is_one_sentence_in_rank_0(pool: RankPool) -> None:
    training = pool.start(CheckedTraining, ON_TWO)
    assert len(children()) == 1
    with pytest.raises(RunError) as failure:
        pool.call(training.kill_rank_1)
    assert str(failure.value) == "rank 1 of 2 ended without a reason, as if killed"
    assert children() == []


def test_no_process_outlives_a_killed_rank_0() -> None:
    script = (
        "from test_distributed import Waiting, RankPool, children\n"
        "if __name__ == '__main__':\n"
        "    pool = RankPool(2, 'cpu')\n"
        "    waiting = pool.start(Waiting)\n"
        "    print(*children(), flush=True)\n"
        "    pool.call(waiting.wait)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as rank_0:
        try:
            other = int(rank_0.stdout.readline())
            # Until it has begun to wait.
            time.sleep(1)
            assert state_of(other)[1] == rank_0.pid
        finally:
            rank_0.kill()
    deadline = time.monotonic() + 30
    while (state := state_of(other)) and state[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert state is None or state[0] == "Z"


def test_a_pool_of_one_rank_has_no_processes() -> None:
    with RankPool(1, "cpu") as pool:
        agreement = pool.start(Agreement)
        assert pool.call(agreement.figures)[:2] == (1, 1)
        pool.call(agreement.differ)


def test_the_parts_of_a_batch_are_that_batch() -> None:
    split = load_data(CONFIG.data, CPU).train
    assert isinstance(split, TensorSplit)
    check_parts(split, batch_size=32, steps=(Step(16, "full", 4), Step(32, "full")))


def test_a_rank_decodes_its_part_of_a_batch_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    for class_name in "ab":
        (tmp_path / class_name).mkdir()
        for number in range(9):
            Image.fromarray(generator.integers(256, size=(20, 20, 3), dtype=np.uint8)).save(tmp_path / class_name / f"{number}.png")
    decoded = []
    read_image = sys.modules["trainers.workers"].read_image
    monkeypatch.setattr(
        "trainers.workers.read_image", lambda path, *args, **options: decoded.append(path) or read_image(path, *args, **options)
    )
    torch.set_num_threads(1)
    split = LoaderSplit(find_images(tmp_path), Preprocessing.imagenet(16), CPU)
    check_parts(split, batch_size=6, steps=(Step(8, "full", 2), Step(16, "full")))
    # Twice by two ranks, once by one, and so for the evaluation: 18 images each time, none decoded by both ranks.
    assert len(decoded) == 4 * 18


def check_parts(split: Split, batch_size: int, steps: tuple[Step, ...]) -> None:
    options = {"seed": 3, "epoch": 2, "augment": ("crop", "flip", "cutout"), "training": True, "steps": steps}
    whole = list(split.batches(batch_size, **options))
    parts = [list(split.batches(batch_size, **options, ranks=Ranks(rank, 2))) for rank in (0, 1)]
    assert len(whole) == len(steps)
    for (images, labels), (first, first_labels), (second, second_labels) in zip(whole, *parts, strict=True):
        assert len(first) == len(second)
        assert torch.equal(torch.cat([first, second]), images)
        assert torch.equal(torch.cat([first_labels, second_labels]), labels)
    whole = list(split.batches(4, training=False))
    first, second = ([labels for _, labels in split.batches(4, training=False, ranks=Ranks(rank, 2))] for rank in (0, 1))
    assert len(first) + len(second) == len(whole)
    assert sorted(torch.cat([*first, *second]).tolist()) == sorted(torch.cat([labels for _, labels in whole]).tolist())
    assert torch.equal(first[1], whole[2][1])
    assert torch.equal(second[0], whole[1][1])


@pytest.mark.parametrize(("batch_size", "ranks", "nearest"), [(129, 2, 130), (129, 8, 128), (6, 4, 8), (1, 3, 3), (130, 4, 132)])
def test_batches_must_be_shared_equally(batch_size: int, ranks: int, nearest: int) -> None:
    sentence = rf"batch_size is {batch_size}, it must be a multiple of {ranks}, the ranks \(GPUs\) that share it; the nearest is {nearest}$"
    with pytest.raises(InputError, match=sentence):
        dataclasses.replace(CONFIG, batch_size=batch_size, ranks=ranks)


def test_a_split_smaller_than_a_batch_is_shared_equally_or_refused() -> None:
    split = TensorSplit(torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.arange(5), Preprocessing(8, 8, (0, 0, 0), (1, 1, 1)))
    with pytest.raises(InputError, match=r"a batch of 5 images can't be shared equally by 2 ranks"):
        next(split.batches(8, training=True, ranks=Ranks(1, 2)))
    ((images, _),) = split.batches(10, training=True, ranks=Ranks(4, 5))
    assert len(images) == 1


def test_a_training_needs_a_pool_of_its_size() -> None:
    with pytest.raises(InputError, match=r"ranks is 2, it must be the size of the RankPool that trains, which is 1"):
        Training(ON_TWO)


@pytest.mark.parametrize(("threads", "size", "each"), [(8, 2, 4), (3, 2, 1), (1, 4, 1), (5, 1, 5), (None, 1, None)])
def test_ranks_share_the_threads(threads: int | None, size: int, each: int | None) -> None:
    assert Ranks(0, size).threads(threads) == each


@pytest.mark.parametrize(("gpus", "ranks"), [(0, 1), (0.5, 1), (1, 1), (2, 2), (3.0, 3)])
def test_each_whole_gpu_of_a_trial_is_a_rank(gpus: float, ranks: int) -> None:
    spec = load_study("digits", [f"resources.gpus={gpus}", "training.batch_size=96"])
    assert spec.train_config(spec.baseline_params(), 0).ranks == ranks


def test_a_study_whose_gpus_cannot_share_its_batches_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"training.batch_size is 63, it must be a multiple of 2, the ranks \(GPUs\) .*; the nearest is 64$"
    ):
        load_study("digits", ["resources.gpus=2", "training.batch_size=63"])


def test_a_worker_keeps_its_ranks_from_trial_to_trial_until_one_fails(tmp_path: Path) -> None:
    # Not at the top: the other processes import this file, and Ray takes seconds.
    from tuner.launching.worker import TrialWorker

    diverging = dataclasses.replace(CONFIG, lr=1e30, lr_curve="cosine", model="cifar_resnet8")
    with pytest.raises(NonFiniteLossError) as alone:
        Training(diverging).run_epoch()
    reports, ranks = [], []
    worker = TrialWorker({"job": Job(0, ON_TWO)})
    for number, config in enumerate([ON_TWO, dataclasses.replace(ON_TWO, seed=8), dataclasses.replace(diverging, ranks=2)]):
        worker.reset_config({"job": Job(number, dataclasses.replace(config, checkpoint=str(tmp_path / f"root-{number}")))})
        reports.append(worker.step()["report"])
        ranks.append(children())
    assert [type(report) for report in reports] == [TrialDone, TrialDone, TrialFailed]
    assert reports[-1].reason == f"NonFiniteLossError: {alone.value}"
    assert [len(pids) for pids in ranks] == [1, 1, 0]
    assert ranks[0] == ranks[1]
    worker.stop()
