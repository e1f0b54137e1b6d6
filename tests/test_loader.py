"""Image files decoded at the side of a step: what a reduced image is, and that nothing else depends on the side."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from images import CPU, photographs, trained
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from trainers.data import LoaderSplit, TensorSplit
from trainers.decoding import decode_smaller, read_image
from trainers.device import IMAGE_FORMAT
from trainers.downsampling import resize
from trainers.errors import InputError
from trainers.folders import ImageFiles, Preprocessing, find_images
from trainers.schedule import Step
from trainers.workers import Order, build_loader

FULL_PX, RESIZE_PX = 224, 256


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ImageFiles:
    """24 JPEG files of 224 to 400 px a side, cut out of two photographs."""
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for number in range(24):
        photograph = photographs()[number % 2]
        width, height = generator.integers(224, 401, 2)
        left, top = generator.integers(0, photograph.width - width + 1), generator.integers(0, photograph.height - height + 1)
        (folder / "ab"[number % 2]).mkdir(exist_ok=True)
        photograph.crop((left, top, left + width, top + height)).save(folder / "ab"[number % 2] / f"{number:02}.jpg", quality=90)
    return find_images(folder)


def pixels(image: Tensor) -> Tensor:
    """[H, W, 3] uint8 -> [1, 3, H, W] float32."""
    return image.permute(2, 0, 1)[None].float()


def as_downsampler(path: Path, side_px: int, crop_seed: int | None) -> Tensor:
    """The full image, reduced as the Downsampler does."""
    return resize(pixels(read_image(path, FULL_PX, RESIZE_PX, crop_seed=crop_seed)), side_px)


def test_full_crops_are_bit_equal_to_torchvisions(files: ImageFiles) -> None:
    for number in range(len(files.labels)):
        whole = v2.functional.pil_to_tensor(Image.open(files.path(number)).convert("RGB"))
        torch.manual_seed(number)
        by_torchvision = v2.RandomResizedCrop(FULL_PX, antialias=True)(whole)
        torch.manual_seed(99)
        state = torch.get_rng_state()
        image = read_image(files.path(number), FULL_PX, RESIZE_PX, crop_seed=number)
        assert torch.equal(image.permute(2, 0, 1), by_torchvision)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_file_is_decoded_at_the_smallest_size_that_loses_nothing(tmp_path: Path, mode: str) -> None:
    generator = np.random.default_rng(1)
    seen = set()
    for number in range(60):
        width, height = (int(length) for length in generator.integers(30, 420, 2))
        Image.new(mode, (width, height)).save(tmp_path / "image.jpg")
        left, top = generator.random(2) * [width, height] * 0.5
        right, bottom = left + generator.random() * (width - left), top + generator.random() * (height - top)
        box, side_px = (float(left), float(top), float(right), float(bottom)), int(generator.integers(1, 60))
        expected = max(d for d in (1, 2, 4, 8) if d == 1 or (right - left >= d * side_px and bottom - top >= d * side_px))
        with Image.open(tmp_path / "image.jpg") as image:
            smaller = decode_smaller(image, box, side_px)
            image.load()
            assert image.size == (math.ceil(width / expected), math.ceil(height / expected)), number
        assert smaller == pytest.approx([edge / expected for edge in box])
        seen.add(expected)
    assert seen == {1, 2, 4, 8}


def test_other_formats_are_decoded_whole_and_then_resized(tmp_path: Path) -> None:
    photographs()[0].save(tmp_path / "image.png")
    box = (0.0, 0.0, 640.0, 427.0)
    with Image.open(tmp_path / "image.png") as image:
        assert decode_smaller(image, box, 56) == box
        image.load()
        assert image.size == (640, 427)
    reduced = read_image(tmp_path / "image.png", FULL_PX, RESIZE_PX, crop_seed=3, side_px=112)
    assert (pixels(reduced) - as_downsampler(tmp_path / "image.png", 112, 3)).abs().mean() < 2.5


@pytest.mark.parametrize("seed_of", [lambda number: number, lambda number: None], ids=["random crops", "evaluation crops"])
@pytest.mark.parametrize("side_px", [56, 112, 160, 208])
def test_reduced_images_are_close_to_the_downsamplers(files: ImageFiles, side_px: int, seed_of: Callable[[int], int | None]) -> None:
    """In grey levels of 255; docs/loader.md tells the same figures."""
    away = []
    for number in range(len(files.labels)):
        image = read_image(files.path(number), FULL_PX, RESIZE_PX, crop_seed=seed_of(number), side_px=side_px)
        assert (image.shape, image.dtype) == ((side_px, side_px, 3), torch.uint8)
        expected = as_downsampler(files.path(number), side_px, seed_of(number))
        away.append(float((pixels(image) - expected).abs().mean()))
        # Neither brighter nor darker, beyond what half a pixel more at one edge brings.
        assert abs(float((pixels(image) - expected).mean())) < 1.2
    assert np.mean(away) < 4
    assert max(away) < 9


def test_reduced_image_shows_what_the_full_one_shows_to_half_a_pixel(tmp_path: Path) -> None:
    # Grey ramps from edge to edge: a grey level tells where in the file a pixel lies.
    across = np.tile(np.linspace(0, 255, 400), (400, 1)).round().astype(np.uint8)
    Image.fromarray(np.stack([across, across.T, across], 2)).save(tmp_path / "ramps.png")
    Image.open(tmp_path / "ramps.png").save(tmp_path / "ramps.jpg", quality=100, subsampling=0)
    for path in (tmp_path / "ramps.png", tmp_path / "ramps.jpg"):
        for crop_seed in (None, *range(20)):
            for side_px in (28, 56, 112):
                image = read_image(path, FULL_PX, RESIZE_PX, crop_seed=crop_seed, side_px=side_px)
                expected = as_downsampler(path, side_px, crop_seed)
                level_of_a_pixel = float(expected[0, :2].amax() - expected[0, :2].amin()) / side_px
                assert (pixels(image) - expected)[:, :2].mean((0, 2, 3)).abs().max() <= 0.5 * level_of_a_pixel + 1


def steps_of_an_epoch() -> tuple[Step, ...]:
    """Six batches of four images in five steps."""
    return Step(224, "full"), Step(112, "full"), Step(160, "pooled"), Step(112, "full", 2), Step(224, "full")


@pytest.mark.parametrize("augment", [(), ("crop",), ("crop", "flip"), ("flip",)])
def test_images_of_reduced_steps_come_reduced_and_are_otherwise_the_same(files: ImageFiles, augment: tuple[str, ...]) -> None:
    split = LoaderSplit(files, Preprocessing.imagenet(FULL_PX), CPU)
    full, full_labels = trained(split, 4, seed=1, epoch=2, augment=augment)
    start = 0
    batches = split.batches(4, seed=1, epoch=2, augment=augment, training=True, steps=steps_of_an_epoch())
    for step, (images, labels) in zip(steps_of_an_epoch(), batches, strict=True):
        end = start + 4 * step.batches
        assert images.shape == (4 * step.batches, 3, step.side_px, step.side_px)
        assert torch.equal(labels, full_labels[start:end])
        expected = resize(full[start:end], step.side_px)
        if step.side_px == FULL_PX:
            assert torch.equal(images, expected)
        # Normalised by deviations of 57 to 58 levels; another crop or a flip is several times as far away.
        assert (images - expected).abs().mean((1, 2, 3)).max() < 0.2
        assert (images - expected.flip(-1)).abs().mean((1, 2, 3)).min() > 0.3
        start = end
    assert start == 24


def test_cutouts_of_reduced_steps_lie_where_those_of_full_ones_do(files: ImageFiles) -> None:
    split = LoaderSplit(files, Preprocessing.imagenet(FULL_PX), CPU)
    options = {"seed": 3, "epoch": 1, "steps": [Step(112, "full", 6)]}
    full_holes, reduced_holes = [], []
    for holes, fields in ((full_holes, {"seed": 3, "epoch": 1}), (reduced_holes, options)):
        changed = trained(split, 4, augment=("cutout",), **fields)[0] != trained(split, 4, **fields)[0]
        holes += [(where.min(0).values, where.max(0).values + 1) for where in (hole.any(0).nonzero() for hole in changed)]
    for full, reduced in zip(full_holes, reduced_holes, strict=True):
        assert all((edge - 2 * reduced_edge).abs().max() <= 4 for edge, reduced_edge in zip(full, reduced, strict=True))


def test_images_in_memory_are_the_same_whatever_the_steps() -> None:
    images = torch.randint(256, (26, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = TensorSplit(images, torch.arange(26), Preprocessing.imagenet(16))
    options = {"seed": 1, "epoch": 2, "augment": ("crop", "flip", "cutout")}
    steps = (Step(16, "full"), Step(8, "full", 3), Step(8, "pooled"), Step(16, "full"))
    batches = list(split.batches(4, training=True, steps=steps, **options))
    assert [len(labels) for _, labels in batches] == [4, 12, 4, 4]
    assert all(batch.shape[1:] == (3, 16, 16) for batch, _ in batches)
    plain, labels = trained(split, 4, **options)
    assert torch.equal(torch.cat([batch for batch, _ in batches]), plain)
    assert torch.equal(torch.cat([found for _, found in batches]), labels)


def test_steps_that_are_no_epoch_are_refused(files: ImageFiles) -> None:
    in_memory = TensorSplit(torch.zeros(24, 3, 8, 8, dtype=torch.uint8), torch.arange(24), Preprocessing.imagenet(8))
    for split in (in_memory, LoaderSplit(files, Preprocessing.imagenet(FULL_PX), CPU)):
        with pytest.raises(InputError) as caught:
            next(split.batches(4, training=True, steps=[Step(8, "full", 2), Step(8, "full", 3)]))
        assert str(caught.value) == "the steps take 5 batches of 4 images, but an epoch of 24 images has 6"


@pytest.mark.parametrize("augment", [(), ("crop",), ("flip",), ("crop", "flip", "cutout")])
def test_images_have_one_memory_format_whatever_the_augmentation(files: ImageFiles, augment: tuple[str, ...]) -> None:
    in_memory = TensorSplit(torch.zeros(24, 3, 8, 8, dtype=torch.uint8), torch.arange(24), Preprocessing.imagenet(8))
    for split in (in_memory, LoaderSplit(files, Preprocessing.imagenet(32), CPU)):
        assert next(split.batches(4, training=True, augment=augment))[0].is_contiguous(memory_format=IMAGE_FORMAT)


def test_a_gpu_gets_a_worker_where_a_cpu_decodes_itself(files: ImageFiles) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        loaders = [build_loader(files, Preprocessing.imagenet(32), Order(), torch.device(name)) for name in ("cpu", "cuda")]
        assert [(loader.num_workers, loader.pin_memory) for loader in loaders] == [(0, False), (1, True)]
        torch.set_num_threads(2)
        loaders = [build_loader(files, Preprocessing.imagenet(32), Order(), torch.device(name)) for name in ("cpu", "cuda")]
        assert [(loader.num_workers, loader.pin_memory) for loader in loaders] == [(2, False), (2, True)]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.gpu
def test_a_gpu_gets_the_same_batches(files: ImageFiles) -> None:
    options = {"seed": 1, "augment": ("crop", "flip", "cutout"), "training": True, "steps": steps_of_an_epoch()}
    on_cpu = list(LoaderSplit(files, Preprocessing.imagenet(FULL_PX), CPU).batches(4, **options))
    split = LoaderSplit(files, Preprocessing.imagenet(FULL_PX), torch.device("cuda"))
    for _ in range(3):
        for (images, labels), (cpu_images, cpu_labels) in zip(split.batches(4, **options), on_cpu, strict=True):
            assert images.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(images.cpu(), cpu_images)
            assert torch.equal(labels.cpu(), cpu_labels)
