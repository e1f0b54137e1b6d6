"""Checkpoints that are either whole or passed over, and that hold tensors and plain values only."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, Final

import torch

from trainers.files import write_whole
from trainers.places import RootPlace, checkpoint_name

# After torch's own content, which stays readable to torch.load: torch does not look at the checksums that a zip file has.
_DIGEST_BYTES: Final = hashlib.sha256().digest_size
_UNREADABLE: Final = (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile)


def save_checkpoint(place: RootPlace, attempt: int, epoch: int, content: dict[str, Any]) -> None:
    """Writes what is to be had after `epoch` epochs: tensors, numbers, strings and containers of them. The newest two of the attempt stay.

    Where that fails, as on a full disk, the training is worth more than its checkpoint: a warning says so.
    """
    data = _bytes(content)
    try:
        place.write(attempt, checkpoint_name(epoch), data + hashlib.sha256(data).digest())
        place.keep_checkpoints(attempt, epoch)
    except OSError as error:
        warnings.warn(f"the training goes on, but {error}", stacklevel=2)


def newest_checkpoint(place: RootPlace) -> dict[str, Any] | None:
    """The newest whole checkpoint of any attempt, on the CPU; None if there is none. A warning names each damaged one and what follows."""
    damaged: list[tuple[str, Exception]] = []
    found, goes_on = None, "starts anew"
    for epoch, attempt, path in place.checkpoints():
        try:
            found = _content(place.read(attempt, checkpoint_name(epoch)))
        except _UNREADABLE as error:
            damaged.append((path, error))
        if found is not None:
            goes_on = f"goes on from {path}"
            break
    for path, reason in damaged:
        warnings.warn(f"checkpoint {path} can't be read, so the training {goes_on}: {reason}", stacklevel=2)
    return found


def save_weights(path: str | Path, state: dict[str, Any]) -> None:
    """Writes a network's state for torch.load, so that `path` holds the old or the new one, never half."""
    write_whole(Path(path), _bytes(state))


def _bytes(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _content(data: bytes | None) -> dict[str, Any] | None:
    if data is None:
        # Removed since it was listed, by an attempt that has gone further.
        return None
    if hashlib.sha256(memoryview(data)[:-_DIGEST_BYTES]).digest() != data[-_DIGEST_BYTES:]:
        raise ValueError("its content does not match its checksum")
    content: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return content
