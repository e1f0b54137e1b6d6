"""What an image folder holds is found from its listing and some headers, as the training finds it later."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from studies.template import fitting_batch, fitting_side
from trainers import image_sizes
from trainers.config import DataConfig
from trainers.data import load_data
from trainers.image_sizes import ENDINGS, look_at_images


def draw(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


@pytest.fixture
def folder(tmp_path):
    """Twelve images of cats, 40 px and more, and eight of dogs, 20 px."""
    for number in range(12):
        draw(tmp_path / "train" / "cat" / "nested" / f"{number}.PNG", (60, 40 + number))
    for number in range(8):
        draw(tmp_path / "train" / "dog" / f"{number}.jpg", (20, 90))
    (tmp_path / "train" / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "list.txt").write_text("no class")
    return tmp_path


def test_endings_are_those_that_the_training_takes():
    assert set(ENDINGS) == set(IMG_EXTENSIONS)


def test_images_are_counted_and_their_shorter_sides_read(folder):
    found = look_at_images(folder / "train")
    # Sorted: eight of 20 px, then 40, 41 and on; the tenth of twenty is the second of those.
    assert (found.classes, found.images, found.more, found.shorter_px) == (2, 20, False, 41)


def test_only_some_headers_are_read_and_of_every_class(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(image_sizes, "_SIZES_READ", 4)
    monkeypatch.setattr(image_sizes, "_shorter_px", lambda path: asked.append(path.suffix) or 7)
    assert look_at_images(folder / "train").shorter_px == 7
    assert sorted(asked) == [".PNG", ".PNG", ".jpg", ".jpg"]


def test_counting_ends_where_more_would_change_nothing(folder, monkeypatch):
    monkeypatch.setattr(image_sizes, "COUNTED_MOST", 19)
    found = look_at_images(folder / "train")
    assert (found.images, found.more) == (19, True)
    monkeypatch.setattr(image_sizes, "COUNTED_MOST", 20)
    assert look_at_images(folder / "train").more is False


def test_where_there_are_none(tmp_path):
    assert look_at_images(tmp_path / "nowhere") is None
    (tmp_path / "cat").mkdir()
    assert look_at_images(tmp_path) is None
    (tmp_path / "cat" / "1.png").write_bytes(b"no image")
    assert look_at_images(tmp_path).shorter_px is None


@pytest.mark.parametrize("counts", [{}, {"val_images": 6}, {"val_images": 4, "train_images": 10}])
def test_as_many_are_left_to_train_with_as_the_training_takes(folder, counts):
    data = DataConfig(name="folder", root=str(folder), side_px=16, **counts)
    loaded = load_data(data, torch.device("cpu"))
    assert look_at_images(folder / "train").trained_on(data) == len(loaded.train)


@pytest.mark.parametrize(("shorter_px", "side_px"), [(500, 224), (226, 224), (224, 224), (223, 220), (48, 48), (50, 48), (3, 4)])
def test_a_side_enlarges_nothing_and_is_a_multiple_of_four(shorter_px, side_px):
    assert fitting_side(shorter_px) == side_px


@pytest.mark.parametrize(("images", "batch_size"), [(10**6, 256), (5120, 256), (5119, 128), (405, 16), (320, 16), (319, 8), (1, 8)])
def test_a_batch_leaves_an_epoch_twenty_steps_where_it_can(images, batch_size):
    assert fitting_batch(images, 256) == batch_size
