"""Augmentation against loops over single images, on real CIFAR-10 images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cifar import cifar10_root
from PIL import Image
from torch import Tensor

from trainers.augment import DRAWS, augment, cutout, random_crop, random_flip
from trainers.errors import InputError

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
DTYPES = [torch.uint8, torch.float32]


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """[64, 3, 32, 32] uint8, no pixel black, so that black pixels are those that an augmentation made."""
    files = sorted((cifar10_root() / "train" / "cat").iterdir())[:64]
    return torch.stack([torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) for file in files]).clamp(min=1)


def drawn(columns: int, device: str = "cpu", seed: int = 3) -> Tensor:
    """Random numbers for 64 images."""
    return torch.rand(64, columns, generator=torch.Generator().manual_seed(seed)).to(device)


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """One image moved pixel by pixel, black where nothing was."""
    moved = torch.zeros_like(image)
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            if 0 <= row - down < image.shape[1] and 0 <= column - right < image.shape[2]:
                moved[:, row, column] = image[:, row - down, column - right]
    return moved


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_crop_is_one_of_the_shifts_of_each_image(photos: Tensor, device: str, dtype: torch.dtype) -> None:
    # 8 x 10 px: a mix-up of rows and columns would show.
    images = photos[:, :, :8, :10].to(device, dtype)
    cropped = random_crop(images, 2, *drawn(2, device).unbind(1))
    assert (cropped.shape, cropped.dtype) == (images.shape, dtype)
    shifts = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    found = []
    for image, crop in zip(images.cpu(), cropped.cpu(), strict=True):
        matches = [shift for shift in shifts if torch.equal(shifted(image, *shift), crop)]
        assert len(matches) == 1
        found += matches
    assert {down for down, _ in found} == {right for _, right in found} == {-2, -1, 0, 1, 2}
    assert len(set(found)) > 15, "rows and columns must be drawn apart from each other, and for each image"


def test_crop_without_shift_changes_nothing(photos: Tensor) -> None:
    assert torch.equal(random_crop(photos, 0, *drawn(2).unbind(1)), photos)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_flip_mirrors_half_of_the_images(photos: Tensor, device: str, dtype: torch.dtype) -> None:
    images = photos.to(device, dtype)
    flipped = random_flip(images, drawn(1, device)[:, 0])
    mirrored = 0
    for image, result in zip(images.cpu().numpy(), flipped.cpu().numpy(), strict=True):
        assert np.array_equal(result, image) != np.array_equal(result, image[:, :, ::-1])
        mirrored += np.array_equal(result, image[:, :, ::-1])
    # 64 coins: 5 standard deviations around 32 are 12 to 52.
    assert 12 < mirrored < 52


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size_px", [5, 8])
def test_cutout_blackens_one_square_and_nothing_else(photos: Tensor, device: str, size_px: int) -> None:
    images = photos[:, :, :20, :].to(device)
    holes = []
    for image, result in zip(images.cpu(), cutout(images, size_px, *drawn(2, device).unbind(1)).cpu(), strict=True):
        rows, columns = (result[0] == 0).nonzero(as_tuple=True)
        top, bottom, left, right = int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1
        expected = image.clone()
        for row in range(top, bottom):
            for column in range(left, right):
                expected[:, row, column] = 0
        assert torch.equal(result, expected)
        # Only a border may make the square smaller, and its centre lies inside the image.
        assert bottom - top == size_px or (top == 0 or bottom == 20)
        assert right - left == size_px or (left == 0 or right == 32)
        assert size_px // 2 <= min(bottom - top, right - left) <= max(bottom - top, right - left) <= size_px
        holes.append((top, left))
    assert len(set(holes)) > 40


def test_augment_takes_its_strengths_from_the_side(photos: Tensor) -> None:
    crops = augment(photos, ("crop",), drawn(DRAWS))
    black = [(crop.sum(0) == 0) for crop in crops]
    assert max(int(hidden.all(1).sum()) for hidden in black) == max(int(hidden.all(0).sum()) for hidden in black) == 4
    holes = (augment(photos, ("cutout",), drawn(DRAWS)) == 0).all(1).sum((1, 2))
    assert int(holes.max()) == 64


def test_augment_does_crop_flip_cutout_whatever_the_order_of_names(photos: Tensor) -> None:
    down, right, mirror, row, column = drawn(DRAWS).unbind(1)
    by_hand = cutout(random_flip(random_crop(photos, 4, down, right), mirror), 8, row, column)
    assert torch.equal(augment(photos, ("cutout", "crop", "flip"), drawn(DRAWS)), by_hand)
    assert torch.equal(augment(photos, (), drawn(DRAWS)), photos)


@pytest.mark.parametrize("name", ["crop", "flip", "cutout"])
def test_the_numbers_handed_over_alone_decide(photos: Tensor, name: str) -> None:
    before = photos.clone()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = augment(photos, (name,), drawn(DRAWS, seed=5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, augment(photos, (name,), drawn(DRAWS, seed=5)))
    assert not torch.equal(first, augment(photos, (name,), drawn(DRAWS, seed=6)))
    assert torch.equal(photos, before)


def test_each_image_is_augmented_by_its_own_numbers_in_whatever_batch(photos: Tensor) -> None:
    names = ("crop", "flip", "cutout")
    whole = augment(photos, names, drawn(DRAWS))
    parts = [augment(photos[part], names, drawn(DRAWS)[part]) for part in (slice(0, 5), slice(5, 40), slice(40, 64))]
    assert torch.equal(whole, torch.cat(parts))


def test_a_square_is_cut_out_of_the_same_part_at_every_side(photos: Tensor) -> None:
    small = photos[:, :, ::2, ::2]
    holes = [(augment(images, ("cutout",), drawn(DRAWS)) == 0).all(1) for images in (photos, small)]
    for full, reduced in zip(*holes, strict=True):
        edges = [torch.stack([found.nonzero().min(0).values, found.nonzero().max(0).values + 1]) for found in (full, reduced)]
        # Both sides round down to their own pixels.
        assert (edges[0] - 2 * edges[1]).abs().max() <= 2


def test_the_largest_number_is_inside_and_the_smallest_too(photos: Tensor) -> None:
    # 1 - 2**-24 is the largest that torch.rand gives; 32 would lie outside of the image, a shift of 3 would exceed 2.
    largest = torch.full((64,), 1 - 2**-24)
    assert torch.equal(random_crop(photos, 2, largest, largest)[0], shifted(photos[0], -2, -2))
    assert torch.equal(random_crop(photos, 2, 0 * largest, 0 * largest)[0], shifted(photos[0], 2, 2))
    assert cutout(photos, 8, largest, largest)[0, 0].eq(0).nonzero().min(0).values.tolist() == [27, 27]


def test_unknown_augmentation_names_the_nearest(photos: Tensor) -> None:
    with pytest.raises(
        InputError, match="augment 'cutoff' is unknown, valid names are crop, flip, cutout; the nearest valid name is 'cutout'"
    ):
        augment(photos, ("cutoff",), drawn(DRAWS))
