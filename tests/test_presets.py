"""Each preset's plan against values worked by hand and the published code's own arithmetic, and what it means in a space and a training."""

import dataclasses
import itertools
import json
import math
import random
from collections import Counter
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from studies import StudySpec
from studies.configs import meaning_differences
from studies.space import canonical_params, possible_steps
from trainers.config import DataConfig, TrainConfig
from trainers.data import load_data
from trainers.decoding import read_image
from trainers.errors import InputError
from trainers.folders import Preprocessing, find_images
from trainers.loop import Training
from trainers.presets import GROWING, PresetName
from trainers.schedule import Schedule, Step
from trainers.splits import LoaderSplit
from tuner.commands.dry_run import expected_costs
from tuner.launching.proposals import Ledger, SearchProposer
from tuner.results.describe import describe_schedule

NAMES = [name for name in get_args(PresetName) if name != "none"]
# Ten epochs of ten batches.
LENGTH = (100, 10)


def runs(name, full_px, total=LENGTH[0], per_epoch=LENGTH[1], **fields):
    """(side, batches at once, steps in a row)."""
    plan = Schedule(preset=name, **fields).plan(total, full_px, per_epoch)
    return [(*key, len(list(group))) for key, group in itertools.groupby((step.side_px, step.batches) for step in plan)]


# -- plans by hand


def test_interleaved_and_two_stage_are_plain_schedules():
    assert Schedule(preset="interleaved").canonical() == Schedule(frequency=0.5, kernel="pooled")
    assert Schedule(preset="interleaved").plan(4, 32) == (Step(32, "full"), Step(16, "pooled")) * 2
    # 5/6 of 32 px is 26.7, of 224 px 186.7, of 192 px the published 160.
    for full_px, side_px in ((32, 28), (224, 188), (192, 160)):
        assert runs("two_stage", full_px) == [(side_px, 1, 80), (full_px, 1, 20)]


def test_progressive():
    # Side 16 + 16 (t - 0.5) / 0.3 in multiples of 4: 18 px at t = 0.5375, 22 at 0.6125, 26 at 0.6875, 30 at 0.7625.
    assert runs("progressive", 32) == [(16, 1, 54), (20, 1, 8), (24, 1, 7), (28, 1, 8), (32, 1, 23)]
    sides = {side: count for side, _, count in runs("progressive", 224)}
    # 112 px + 3.73 px a step from the 51st on, each in multiples of 4: 29 sides, none twice but where two steps round alike.
    assert list(sides) == [112, *range(116, 224, 4), 224]
    assert (sides[112], sides[140], sides[196], sides[224], sum(sides.values())) == (51, 2, 2, 20, 100)


def test_a_half_goes_to_the_even_multiple_as_in_the_published_code():
    # t = 0.6: scale 0.5 + 0.5 / 3 = 2/3; of 30 px 20, of 27 px 18 = 4.5 x 4, which Python rounds to 16.
    assert Schedule(preset="progressive").plan(10, 27)[6].side_px == 16
    assert Schedule(preset="progressive").plan(10, 30)[6].side_px == 20


def test_progressive_is_composers_own_arithmetic():
    def published(width, elapsed):
        """resize_batch's width in floats, as ProgressiveResizing.apply computes it."""
        grown = min((elapsed - 0.5) / (1 - 0.2 - 0.5), 1) if elapsed >= 0.5 else 0.0
        return min(width, round(width * (0.5 + (1 - 0.5) * grown) / 4) * 4)

    for width, total in ((32, 97), (224, 311), (176, 1009)):
        plan = Schedule(preset="progressive").plan(total, width)
        assert [step.side_px for step in plan] == [published(width, index / total) for index in range(total)]


def test_four_stage():
    assert runs("four_stage", 32) == [(16, 1, 25), (20, 1, 25), (28, 1, 25), (32, 1, 25)]
    # 149.3 px is nearer to 148 than to 152, 186.7 px to 188.
    assert runs("four_stage", 224) == [(112, 1, 25), (148, 1, 25), (188, 1, 25), (224, 1, 25)]
    assert runs("four_stage", 24, 6) == [(12, 1, 2), (16, 1, 1), (20, 1, 2), (24, 1, 1)]


def test_mixed_sizes_draw_three_sides_and_batches_grow():
    for full_px, kinds in ((224, {(224, 1), (128, 3), (96, 5)}), (32, {(32, 1), (20, 2), (12, 7)})):
        plan = Schedule(preset="mixed_sizes", seed=1).plan(40_000, full_px, 40_000)
        drawn = Counter((step.side_px, step.batches) for step in plan[:-10])
        assert set(drawn) == kinds
        shares = [drawn[kind] / sum(drawn.values()) for kind in sorted(kinds, reverse=True)]
        # Five standard deviations of a share among 10,000 draws or more.
        assert np.allclose(shares, [0.2, 0.6, 0.2], atol=0.025)


def test_mixed_sizes_are_drawn_by_the_seed_and_end_with_each_epoch():
    first, again, other = (Schedule(preset="mixed_sizes", seed=seed).plan(100, 32, 10) for seed in (3, 3, 4))
    assert first == again != other
    # By hand: Python's draws of this seed, and what an epoch of ten batches has left of each.
    draw, left, steps = random.Random(3).random, 10, []
    while left:
        share = draw()
        side_px, batches = (32, 1) if share < 0.2 else (20, 2) if share < 0.8 else (12, 7)
        taken = [batches] if batches <= left else [1] * left
        steps += [(side_px, count) for count in taken]
        left -= sum(taken)
    assert [(step.side_px, step.batches) for step in first.epochs[0]] == steps


def test_multigrid():
    low = [(16, 4, 1), (24, 2, 2)]
    full = [(16, 4, 1), (24, 2, 1), (32, 1, 1)]
    # Of ten batches 8 (4 + 2 + 2) or 7 (4 + 2 + 1) make a short cycle; the next step's four batches don't fit.
    low_epoch, full_epoch = [*low, (16, 1, 2)], [*full, (16, 1, 3)]
    # The long cycle's shares are 0.212, 0.398, 0.534, 0.652, 0.747, 0.830: an epoch's last steps are those of where they begin.
    assert runs("multigrid", 32) == [
        *low_epoch, *low_epoch, *full_epoch, *full_epoch, *low_epoch, *full_epoch, *low_epoch, *full_epoch, *full_epoch, *full_epoch,
    ]  # fmt: skip
    assert {(step.side_px, step.batches) for step in Schedule(preset="multigrid").plan(700, 224, 70)} >= {(112, 4), (160, 2), (224, 1)}


def test_multigrids_long_cycle_is_the_published_arithmetic():
    """SlowFast's get_long_cycle_schedule, on the two shapes that images have."""
    steps, last = [0, 94, 154, 196], 239
    means = [np.mean([round(1 / scale**2) for scale in (0.5, 0.5**0.5, base)]) for base in (0.5**0.5, 1)]
    lengths, iterations = [], 0.0
    for begin, end in itertools.pairwise(steps):
        for mean in means:
            lengths.append((end - begin) * mean / sum(means))
            iterations += lengths[-1] / mean
    lengths.append((last - steps[-1]) / (steps[-1] / iterations) * means[-1])
    ends = np.cumsum(lengths) / sum(lengths)
    assert np.allclose(ends * 3542, [752, 1410, 1890, 2310, 2646, 2940, 3542])
    total = 70_840
    plan = Schedule(preset="multigrid").plan(total, 32, total)
    starts = list(itertools.accumulate((step.batches for step in plan[:-1]), initial=0))
    bases = [(start / total, step) for number, (start, step) in enumerate(zip(starts, plan, strict=True)) if number % 3 == 2]
    for progress, step in bases[:-1]:
        stage = int(np.searchsorted(ends, progress, side="right"))
        assert step == (Step(24, "full", 2) if stage in (0, 2, 4) else Step(32, "full")), progress


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("multiple", [1, 4, 32])
def test_plans_are_whole_and_their_steps_are_foreseen(name, multiple):
    space = spec_of(preset=name, side_multiple=multiple).search
    for full_px, total, per_epoch in itertools.product((4, 8, 32, 33, 224), (0, 7, 640), (1, 3, 80)):
        plan = Schedule(preset=name, side_multiple=multiple, seed=5).plan(total, full_px, per_epoch)
        assert set(plan) <= possible_steps(space, full_px)
        lengths = [sum(step.batches for step in epoch) for epoch in plan.epochs]
        assert lengths == [per_epoch] * (total // per_epoch) + ([total % per_epoch] if total % per_epoch else [])
        assert all(step.batches == 1 for step in plan if step.side_px == full_px)


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_that_is_foreseen_occurs(name):
    taken = {step for length in (1, 1000) for step in Schedule(preset=name).plan(2000, 32, length)}
    # Only what no frequency reduces is left out of the space's own steps.
    assert taken | {Step(32, "full")} == possible_steps(StudySpec.from_json_dict(study(preset=name, window_length=0)).search, 32)


# -- what a preset means


@pytest.mark.parametrize("name", NAMES)
def test_equal_schedules_compare_equal(name):
    busy = Schedule(
        preset=name, policy="stochastic", frequency=0.3, scale=0.75, kernel="pooled", pooled_layers="most_saved", window_start=0.2,
        window_length=0.3, growth="linear", batch_growth="constant_work",
    )  # fmt: skip
    assert busy.plan(60, 32, 20) == Schedule(preset=name).plan(60, 32, 20)
    assert busy.canonical() == Schedule(preset=name, frequency=0.0).canonical() == busy.canonical().canonical()
    assert busy.canonical().frequency > 0
    assert dataclasses.replace(busy, batch_norm="separate").canonical() != busy.canonical()
    assert (dataclasses.replace(busy, seed=9).canonical() == busy.canonical()) == (name != "mixed_sizes")
    assert Schedule.from_dict(json.loads(json.dumps(busy.to_dict()))) == busy


def test_presets_that_grow_batches_need_the_epochs():
    for name in NAMES:
        if name in GROWING:
            with pytest.raises(InputError, match=rf"^steps_per_epoch is None, it must be .* where preset is '{name}'$"):
                Schedule(preset=name).plan(8, 32)
        else:
            assert len(Schedule(preset=name, batch_growth="constant_work").plan(8, 32)) == 8


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match=r"preset' is 'progresive'.*the nearest valid name is 'progressive'"):
        Schedule(preset="progresive")


def test_a_picture_shows_every_batch():
    # 4 + 2 + 2 batches of the first short cycle.
    shown = Schedule(preset="multigrid").batch_by_batch(200, 32)
    assert shown[:8] == (Step(16, "full"),) * 4 + (Step(24, "full"),) * 4
    assert len(shown) == 200
    assert Schedule(frequency=1.0, batch_growth="constant_work").batch_by_batch(8, 32) == (Step(16, "full"),) * 8


# -- in a study


def study(**search):
    return {
        "name": "presets",
        "dataset": {"name": "digits"},
        "model": "cifar_resnet8",
        "search": {"frequency": [0, 0.25, 0.5], "batch_norm": ["shared", "separate"]} | search,
    }


def spec_of(**search):
    return StudySpec.from_json_dict(study(**search))


def test_presets_that_are_listed_are_tried_first():
    spec = spec_of(preset=["progressive", "multigrid"], kernel=["pooled", "full"])
    assert spec.search["preset"].members == ("none", "progressive", "multigrid")
    points = spec.start_points()
    assert [mark for _, mark in points] == ["baseline", "shorter", "shorter", "shorter", "preset", "preset"]
    assert [spec.search.is_full_resolution(params) for params, _ in points] == [True] * 4 + [False] * 2
    expected = {"frequency": 0.5, "kernel": "pooled", "epochs": 10}
    assert points[4][0] == expected | {"preset": "progressive", "batch_norm": "shared"}
    # Its reduced steps go on to the end.
    assert points[5][0] == expected | {"preset": "multigrid", "batch_norm": "separate"}
    schedule = spec.train_config(points[4][0], seed=3).schedule
    assert schedule.canonical() == Schedule(preset="progressive").canonical()
    proposer, ledger = SearchProposer(spec), Ledger()
    rivals = []
    for root in range(6):
        proposal = proposer.propose(ledger)
        rivals.append(proposal.rival)
        ledger.add(root, proposal)
    # A preset has reduced steps, so it is no rival: the next but one keeps the rivals at a fifth of all.
    assert rivals == ["baseline", "shorter", "shorter", "shorter", None, None]
    assert proposer.propose(ledger).fixed == {}


def test_a_study_without_presets_starts_as_ever():
    assert [mark for _, mark in spec_of().start_points()] == ["baseline", "shorter", "shorter", "shorter"]
    assert possible_steps(spec_of().search, 32) == {Step(32, "full"), Step(16, "full")}


def test_points_with_a_preset_are_written_in_one_way():
    space = spec_of(preset=["mixed_sizes", "none"], scale=[0.5, 0.75], kernel=["full", "pooled"]).search
    busy = {"frequency": 0.25, "batch_norm": "separate", "preset": "mixed_sizes", "scale": 0.75, "kernel": "pooled", "epochs": 7}
    assert canonical_params(space, busy) == busy | {"frequency": 0.5, "scale": 0.5, "kernel": "full"}
    # Frequency 0 is full resolution, whatever the preset.
    full = canonical_params(space, busy | {"frequency": 0.0})
    assert full == busy | {"frequency": 0.0, "preset": "none", "batch_norm": "shared", "scale": 0.5, "kernel": "full"}
    assert space.is_full_resolution(busy | {"frequency": 0.0})
    assert not space.is_full_resolution(canonical_params(space, busy))
    assert set(space.schedule(busy | {"frequency": 0.0}).plan(20, 32, 10)) == {Step(32, "full")}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"search": {"frequency": 0, "preset": "progressive"}}, "search.preset is 'progressive', it must be none where"),
        ({"search": {"frequency": [0, 1], "preset": ["none", "progresive"]}}, "the nearest valid name is 'progressive'"),
    ],
)
def test_a_study_is_refused_in_one_sentence(changed, words):
    with pytest.raises(InputError) as error:
        StudySpec.from_json_dict(study() | changed)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_spec_from_before_there_were_presets_means_the_same():
    new = spec_of().to_json_dict()
    old = json.loads(json.dumps(new))
    del old["search"]["preset"]
    assert meaning_differences(old, new) == []
    assert StudySpec.from_json_dict(old) == spec_of()


def test_a_dry_run_prices_presets():
    # All points but those at frequency 0 are two_stage or interleaved: by pixels 0.8 x 0.766 + 0.2, and 0.625, of as many epochs.
    spec = spec_of(preset=["two_stage", "interleaved"], frequency=[0, 1.0], scale=1.0, epochs=[10, 5])
    costs = expected_costs(spec, None)
    assert costs.lowest == pytest.approx(0.625 / 2)
    assert costs.highest == pytest.approx(1)


def test_words_for_people():
    assert describe_schedule({"frequency": 0.5, "preset": "multigrid", "batch_norm": "separate"}) == "preset multigrid, separate batch norm"


# -- in a training


def test_augmentation_grows_with_the_stages():
    plan = Schedule(preset="four_stage").plan(16, 32, 8)
    strengths = Schedule(preset="four_stage").augment_strengths(plan.epochs[1], 8, 16)
    assert strengths == [5 / 6] * 4 + [1.0] * 4
    assert Schedule(preset="four_stage").augment_strengths(plan.epochs[0], 0, 16) == [0.5] * 4 + [float(Fraction(2, 3))] * 4
    grown = Schedule(preset="mixed_sizes").plan(16, 32, 16)
    assert Schedule(preset="mixed_sizes").augment_strengths(grown, 0, 16) == [1.0] * len(grown)


def test_a_weaker_augmentation_shifts_less():
    data = load_data(DataConfig(name="digits", train_images=64, val_images=20), torch.device("cpu"))
    plain, full, half, none = (
        next(data.train.batches(64, augment=names, training=True, strengths=strengths))[0]
        for names, strengths in (((), None), (("crop",), None), (("crop",), [0.5]), (("crop",), [0.0]))
    )
    assert torch.equal(plain, none)

    def reach(images):
        """The farthest shift at which some image is the plain one, by trying all."""
        return max(
            max(abs(down), abs(right))
            for image, original in zip(images, plain, strict=True)
            for down, right in itertools.product(range(-4, 5), repeat=2)
            if torch.equal(inner(image, 0, 0), inner(original, down, right))
        )

    assert (reach(full), reach(half)) == (4, 2)


def inner(image, down, right):
    """The inner 24 px of a 32 px image, seen (down, right) px further."""
    return image[:, 4 + down : 28 + down, 4 + right : 28 + right]


def test_a_weaker_random_crop_keeps_more_of_the_file(tmp_path):
    path = tmp_path / "ramp.png"
    # Brightness is the place, so what is left of its range is the share of the height that was kept.
    ramp = np.linspace(0, 255, 256, dtype=np.uint8)[:, None].repeat(256, axis=1)
    Image.fromarray(ramp).convert("RGB").save(path)

    def smallest(strength):
        heights = []
        for seed in range(60):
            image = read_image(path, 64, 72, crop_seed=seed, strength=strength)
            heights.append(float(image.max()) - float(image.min()))
        return min(heights) / 255

    # An area of at least 1 - 0.25 x 0.92 = 0.77 of the file with sides of at most 4:3 has a height of at least 0.76 of it; 0.08 has 0.25.
    assert smallest(0.25) > math.sqrt(0.77 * 3 / 4) - 0.02
    assert smallest(1.0) < 0.45
    assert torch.equal(read_image(path, 64, 72, crop_seed=7), read_image(path, 64, 72, crop_seed=7, strength=1.0))


def test_a_loader_crops_as_strongly_as_it_is_told(tmp_path):
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)[:, None].repeat(64, axis=1)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(ramp).convert("RGB").save(tmp_path / name / f"{number}.png")
    split = LoaderSplit(find_images(tmp_path), Preprocessing.imagenet(32), torch.device("cpu"))

    def images(*strengths):
        return [batch for batch, _ in split.batches(2, augment=("crop",), training=True, strengths=strengths or None)]

    # At strength 0 the whole of each image is left, and all of them are the same one.
    uncropped, cropped = images(0.0, 1.0)
    assert torch.equal(uncropped[0], uncropped[1])
    assert not torch.equal(cropped[0], cropped[1])
    assert torch.equal(cropped, images()[1])


TINY = TrainConfig(
    model="cifar_resnet8",
    data=DataConfig(name="digits", train_images=80, val_images=20),
    epochs=2,
    batch_size=10,
    lr=0.01,
    augment=("crop",),
    device="cpu",
    threads=1,
)


def test_a_training_augments_as_strongly_as_its_stage(monkeypatch):
    used = []
    monkeypatch.setattr("trainers.splits.augmented", lambda images, names, draws, strength: used.append(strength) or images)
    training = Training(dataclasses.replace(TINY, schedule=Schedule(preset="four_stage")))
    while not training.done:
        training.run_epoch()
    assert used == [1 / 2] * 4 + [2 / 3] * 4 + [5 / 6] * 4 + [1.0] * 4


@pytest.mark.parametrize("name", ["four_stage", "multigrid", "mixed_sizes"])
def test_a_training_goes_on_bit_same(name, tmp_path):
    config = dataclasses.replace(TINY, schedule=Schedule(preset=name, batch_norm="separate"), checkpoint=str(tmp_path))
    undisturbed = Training(dataclasses.replace(config, checkpoint=None))
    while not undisturbed.done:
        undisturbed.run_epoch()
    Training(config).run_epoch()
    resumed = Training(config)
    assert resumed.epochs_done == 1
    resumed.run_epoch()
    assert resumed.result().counts == config.schedule.plan(16, 32, 8).counts()
    for own, other in zip(resumed.model.state_dict().values(), undisturbed.model.state_dict().values(), strict=True):
        assert torch.equal(own, other)


def test_checkpoints_from_before_there_were_presets_are_gone_on_from(tmp_path, monkeypatch):
    config = dataclasses.replace(TINY, checkpoint=str(tmp_path))
    written = []
    monkeypatch.setattr("trainers.loop.save_checkpoint", lambda place, attempt, epoch, content: written.append(content))
    Training(config).run_epoch()
    (content,) = written
    assert "preset" not in content["config"]["schedule"]
    assert "schedule field 'preset'" not in content["downsampler"]
