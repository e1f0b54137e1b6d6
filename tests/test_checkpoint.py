"""Checkpoints: what is read again, what is passed over and said, and what a full disk leaves."""

from __future__ import annotations

import hashlib
import io
import pickle
import uuid
import warnings
from pathlib import Path

import pytest
import torch
from full_disk import full_disk

from trainers.checkpoint import newest_checkpoint, save_checkpoint, save_weights
from trainers.places import RootPlace, checkpoint_name


def content(epoch):
    return {"model": {"weight": torch.full((4, 1000), epoch / 3)}, "curve": [0.5] * epoch, "config": {"augment": ("crop",), "seed": 7}}


@pytest.fixture(params=["folder", "memory"])
def place(request, tmp_path):
    return RootPlace(str(tmp_path / "root") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


def epoch_of(found):
    assert torch.equal(found["model"]["weight"], content(len(found["curve"]))["model"]["weight"])
    return len(found["curve"])


def damage(place, attempt, epoch, change):
    place.write(attempt, checkpoint_name(epoch), change(place.read(attempt, checkpoint_name(epoch))))


def test_there_may_be_none(place):
    assert newest_checkpoint(place) is None


def test_the_newest_of_any_attempt_is_read_as_it_was(place):
    for attempt, epoch in ((1, 1), (1, 2), (2, 3)):
        save_checkpoint(place, attempt, epoch, content(epoch))
    found = newest_checkpoint(place)
    assert epoch_of(found) == 3
    assert found["config"] == content(3)["config"]


def test_two_of_an_attempt_are_kept(place):
    for epoch in range(1, 5):
        save_checkpoint(place, 1, epoch, content(epoch))
    assert [epoch for epoch, *_ in place.checkpoints()] == [4, 3]


def flipped(data):
    """One bit of a weight: torch itself reads it without a word."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 64]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "change", [flipped, lambda data: data[:-1], lambda data: data[:1000], lambda data: b"", lambda data: bytes(len(data))]
)
def test_a_damaged_one_falls_back_to_the_one_before_and_says_so(place, change):
    save_checkpoint(place, 1, 2, content(2))
    save_checkpoint(place, 2, 3, content(3))
    damage(place, 2, 3, change)
    with pytest.warns(UserWarning, match="so the training goes on from") as said:
        assert epoch_of(newest_checkpoint(place)) == 2
    assert [str(warning.message) for warning in said] == [
        f"checkpoint {place}/attempt-2/epoch-00003.pt can't be read, so the training goes on from {place}/attempt-1/epoch-00002.pt: "
        "its content does not match its checksum"
    ]


def test_a_flipped_bit_is_what_torch_would_not_notice(place):
    save_checkpoint(place, 1, 2, content(2))
    data = flipped(place.read(1, checkpoint_name(2)))
    assert not torch.equal(torch.load(io.BytesIO(data), weights_only=True)["model"]["weight"], content(2)["model"]["weight"])


def test_where_all_are_damaged_the_training_starts_anew(place):
    for epoch in (1, 2):
        save_checkpoint(place, 1, epoch, content(epoch))
        damage(place, 1, epoch, lambda data: data[:100])
    with pytest.warns(UserWarning, match="so the training starts anew") as said:
        assert newest_checkpoint(place) is None
    assert ["epoch-00002" in str(warning.message) for warning in said] == [True, False]
    # What was written before the damage would hide what is written now.
    save_checkpoint(place, 1, 1, content(1))
    assert [epoch for epoch, *_ in place.checkpoints()] == [1]
    assert epoch_of(newest_checkpoint(place)) == 1


def test_one_that_is_removed_meanwhile_is_passed_over(place, monkeypatch):
    for epoch in (1, 2):
        save_checkpoint(place, 1, epoch, content(epoch))
    listed = place.checkpoints()
    place.remove(1, checkpoint_name(2))
    monkeypatch.setattr(place, "checkpoints", lambda: listed)
    assert epoch_of(newest_checkpoint(place)) == 1


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil"),)


def test_a_checkpoint_runs_no_code(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save({"curve": Evil()}, buffer)
    for epoch, data in enumerate((buffer.getvalue(), pickle.dumps(Evil(), protocol=2)), 1):
        place.write(1, checkpoint_name(epoch), data + hashlib.sha256(data).digest())
    with pytest.warns(UserWarning, match="can't be read, so the training starts anew"):
        assert newest_checkpoint(place) is None
    assert not Path("evil").exists()


def test_a_full_disk_is_a_warning_and_the_next_epoch_tries_again(tmp_path):
    place = RootPlace(str(tmp_path / "root"))
    save_checkpoint(place, 1, 1, content(1))
    with full_disk(), pytest.warns(UserWarning, match=r"^the training goes on, but \S+/epoch-00002\.pt can't be written: File too large$"):
        save_checkpoint(place, 1, 2, content(2))
    assert [path.name for path in tmp_path.glob("root/attempt-1/*")] == ["epoch-00001.pt"]
    assert epoch_of(newest_checkpoint(place)) == 1
    save_checkpoint(place, 1, 3, content(3))
    assert epoch_of(newest_checkpoint(place)) == 3


def test_checkpoints_and_weights_open_with_torch_alone(tmp_path):
    save_checkpoint(RootPlace(str(tmp_path)), 1, 2, content(2))
    save_weights(tmp_path / "weights.pt", content(2)["model"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.load(tmp_path / "attempt-1/epoch-00002.pt", weights_only=True)["curve"] == [0.5, 0.5]
        assert torch.equal(torch.load(tmp_path / "weights.pt", weights_only=True)["weight"], content(2)["model"]["weight"])
