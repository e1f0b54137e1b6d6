"""Image folders, kept in memory or decoded by workers, and all that can be wrong with them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from cifar import cifar10_root
from images import CPU, evaluated, fingerprints, trained
from PIL import Image

from trainers import data as data_module
from trainers.config import DataConfig
from trainers.data import LoaderSplit, TensorSplit, load_data, load_test
from trainers.errors import InputError, RunError
from trainers.folders import Preprocessing, find_images
from trainers.schedule import Step


@pytest.fixture
def photos(tmp_path: Path) -> DataConfig:
    """A small image folder of 48 x 40 px JPEGs enlarged from CIFAR-10, two classes of 12, with four more a class to test on."""
    for part, numbers in (("train", slice(0, 12)), ("val", slice(12, 16))):
        for class_name in ("cat", "ship"):
            folder = tmp_path / part / class_name
            folder.mkdir(parents=True)
            for file in sorted((cifar10_root() / "train" / class_name).iterdir())[numbers]:
                Image.open(file).resize((48, 40), Image.Resampling.BICUBIC).save(folder / file.name, quality=95)
    return DataConfig(name="folder", root=str(tmp_path), side_px=32, val_images=6)


def test_images_of_one_colour_stay_finite(tmp_path: Path) -> None:
    for class_name in "ab":
        (tmp_path / "train" / class_name).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (8, 8), 7).save(tmp_path / "train" / class_name / f"{number}.png")
    data = load_data(DataConfig(name="folder", root=str(tmp_path), side_px=8), CPU)
    assert not evaluated(data.train)[0].any()


def test_folder_images_are_resized_and_cut_to_the_side(photos: DataConfig) -> None:
    data = load_data(photos, CPU)
    assert (len(data.train), len(data.val), data.class_names) == (18, 6, ("cat", "ship"))
    assert Counter(evaluated(data.val)[1].tolist()) == {0: 3, 1: 3}
    file = next((Path(photos.root) / "val" / "cat").iterdir())
    # 48 x 40 -> 38 x 32 (torchvision rounds down), its middle 32 columns.
    by_hand = np.asarray(Image.open(file).resize((38, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[:, :, 3:35]
    test = load_test(photos, CPU)
    assert len(test) == 8
    assert by_hand.tobytes() in fingerprints(test.images)


def test_folder_prefers_test_to_val(photos: DataConfig) -> None:
    (Path(photos.root) / "test").symlink_to(Path(photos.root) / "train", target_is_directory=True)
    assert len(load_test(photos, CPU)) == 24


@pytest.fixture
def by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No split fits in memory."""
    monkeypatch.setattr(data_module, "MAX_TENSOR_BYTES", 8 * 3 * 32**2 - 1)


def test_size_limit_decides_what_is_kept_in_memory(photos: DataConfig, by_workers: None) -> None:
    data = load_data(photos, CPU)
    assert isinstance(data.train, LoaderSplit)
    # 6 images fit and are prepared as the training images are; 8 do not.
    assert isinstance(data.val, TensorSplit)
    assert isinstance(load_test(photos, CPU), LoaderSplit)


@pytest.mark.usefixtures("by_workers")
def test_loader_evaluates_by_the_imagenet_rule(photos: DataConfig) -> None:
    images, labels = evaluated(load_test(photos, CPU), 3)
    assert labels.tolist() == [0] * 4 + [1] * 4
    files = [file for class_name in ("cat", "ship") for file in sorted((Path(photos.root) / "val" / class_name).iterdir())]
    for image, file in zip(images, files, strict=True):
        # 48 x 40 -> 44 x 37 (32 * 256 / 224 = 36.6), its middle 32 x 32.
        pixels = np.asarray(Image.open(file).resize((44, 37), Image.Resampling.BILINEAR))[2:34, 6:38] / 255
        by_hand = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(image.numpy(), by_hand.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.usefixtures("by_workers")
def test_spawned_workers_give_the_same_batches_as_none(photos: DataConfig) -> None:
    threads = torch.get_num_threads()
    options = {"seed": 5, "epoch": 2, "augment": ("crop", "flip", "cutout"), "training": True}
    options |= {"steps": (Step(16, "full"), Step(32, "full"), Step(16, "full", 2))}
    try:
        torch.set_num_threads(1)
        alone = load_data(photos, CPU).train
        assert alone._loader.num_workers == 0
        expected = list(alone.batches(4, **options))
        load_data.cache_clear()
        torch.set_num_threads(2)
        spawned = load_data(photos, CPU).train
        assert spawned._loader.num_workers == 2
        for _ in range(2):
            for batch, other in zip(expected, spawned.batches(4, **options), strict=True):
                assert torch.equal(batch[0], other[0])
                assert torch.equal(batch[1], other[1])
        assert len(evaluated(spawned, 5)[0]) == 18
        # Read by a worker, told in one sentence all the same.
        _damage_all(Path(photos.root) / "train" / "cat")
        with pytest.raises(InputError, match=r"^image file '.*/train/cat/.*\.jpg' cannot be decoded: cannot identify image file .*$"):
            evaluated(spawned, 5)
    finally:
        torch.set_num_threads(threads)
        # Ends the workers.
        load_data.cache_clear()


def _damage_all(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"not an image")


@pytest.mark.usefixtures("by_workers")
def test_loader_batches_are_complete_shuffled_and_cropped_by_seed_and_epoch(photos: DataConfig) -> None:
    split = load_data(photos, CPU).train
    state = torch.get_rng_state()
    plain, labels = trained(split, 4, seed=1, epoch=0)
    assert len(plain) == 16
    assert len(set(fingerprints(plain))) == 16
    assert set(fingerprints(plain)) <= set(fingerprints(evaluated(split)[0]))
    assert sorted(labels.tolist()) != labels.tolist()
    cropped, cropped_labels = trained(split, 4, seed=1, epoch=0, augment=("crop",))
    assert torch.equal(labels, cropped_labels)
    assert not set(fingerprints(cropped)) & set(fingerprints(plain))
    assert torch.equal(cropped, trained(split, 4, seed=1, epoch=0, augment=("crop",))[0])
    assert not set(fingerprints(cropped)) & set(fingerprints(trained(split, 4, seed=1, epoch=1, augment=("crop",))[0]))
    assert torch.equal(torch.get_rng_state(), state)


def test_one_image_is_cropped_otherwise_in_every_epoch_and_by_every_seed(photos: DataConfig) -> None:
    one = find_images(Path(photos.root) / "train").take(np.array([0]))
    split = LoaderSplit(one, Preprocessing.imagenet(32), CPU)
    draws = [trained(split, 1, seed=seed, epoch=epoch, augment=("crop",))[0] for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert torch.equal(draws[0], draws[3])
    assert len(set(fingerprints(torch.cat(draws)))) == 3


@pytest.mark.usefixtures("by_workers")
def test_loader_flips_and_cuts_out(photos: DataConfig) -> None:
    split = load_data(photos, CPU).train
    plain = trained(split, 16, seed=1, epoch=0)[0]
    flipped = trained(split, 16, seed=1, epoch=0, augment=("flip",))[0]
    mirrored = (flipped == plain.flip(-1)).flatten(1).all(1)
    assert (mirrored | (flipped == plain).flatten(1).all(1)).all()
    assert 0 < int(mirrored.sum()) < 16
    holes = (trained(split, 16, seed=1, epoch=0, augment=("cutout",))[0] != plain).any(1).sum((1, 2))
    assert int(holes.max()) in range(50, 65)


@pytest.mark.usefixtures("by_workers")
def test_two_iterations_at_once_are_refused(photos: DataConfig) -> None:
    split = load_data(photos, CPU).train
    first = split.batches(4, training=True)
    next(first)
    # The call alone sets the workers to other batches.
    second = split.batches(4, training=True)
    with pytest.raises(RunError, match="two iterations over the same image files"):
        next(first)
    assert len(list(second)) == 4


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"train_images": 23}, "train_images is 23, but dataset 'folder' has only 22 training images beside the 2 for validation"),
        ({"val_images": 25}, "val_images is 25, but dataset 'folder' has only 24 training images"),
        ({"val_images": 1}, "val_images is 1, it must be at least 2, one image a class"),
        ({"train_images": 1}, "train_images is 1, it must be at least 2, one image a class"),
        ({"val_images": 23}, "train_images is 1, it must be at least 2, one image a class"),
    ],
)
def test_folder_draws_that_cannot_be_made(photos: DataConfig, fields: dict[str, int], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        load_data(DataConfig(name="folder", root=photos.root, side_px=32, **fields), CPU)
    assert str(caught.value) == sentence


def test_all_but_the_validation_images_can_be_drawn(photos: DataConfig) -> None:
    for train_images in (21, 22, None):
        data = load_data(DataConfig(name="folder", root=photos.root, side_px=32, train_images=train_images), CPU)
        assert (len(data.train), len(data.val)) == (train_images or 22, 2)


def test_class_without_a_training_image_is_named(photos: DataConfig) -> None:
    for file in sorted((Path(photos.root) / "train" / "ship").iterdir())[1:]:
        file.unlink()
    with pytest.raises(InputError, match=r"^class 'ship' has too few images: none of the 2 for training is of it$"):
        load_data(DataConfig(name="folder", root=photos.root, side_px=32, train_images=2, val_images=2), CPU)


def test_folders_without_images_are_refused(tmp_path: Path, photos: DataConfig) -> None:
    with pytest.raises(
        InputError, match=r"image folder '.*absent/train' must hold one folder of images a class: No such file or directory"
    ):
        load_data(DataConfig(name="folder", root=str(tmp_path / "absent"), side_px=32), CPU)
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="must hold one folder of images a class: Couldn't find any class folder"):
        load_data(DataConfig(name="folder", root=str(tmp_path / "empty"), side_px=32), CPU)
    (Path(photos.root) / "train" / "dog").mkdir()
    with pytest.raises(InputError, match="must hold one folder of images a class: Found no valid file for the classes dog"):
        load_data(photos, CPU)


def test_damaged_image_is_named(photos: DataConfig) -> None:
    next((Path(photos.root) / "train" / "cat").iterdir()).write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"^image file '.*/train/cat/.*\.jpg' cannot be decoded: cannot identify image file"):
        load_data(photos, CPU)


def test_test_images_of_other_classes_are_refused(photos: DataConfig) -> None:
    (Path(photos.root) / "val" / "ship").rename(Path(photos.root) / "val" / "boat")
    with pytest.raises(InputError, match=r"^the test and training images of dataset 'folder' differ in their classes: boat, ship$"):
        load_test(photos, CPU)


def test_missing_test_images_are_refused(tmp_path: Path, photos: DataConfig) -> None:
    (Path(photos.root) / "val").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"image folder '.*/test' must hold one folder of images a class: No such file or directory"):
        load_test(photos, CPU)
