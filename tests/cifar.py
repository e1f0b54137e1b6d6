"""Where tests find the real CIFAR-10 images: 32x32 files as `train/<class>/*` and `test/<class>/*`."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parents[1]
_UNPACKED = _REPOSITORY / "data" / "cifar10"
_ARCHIVE = _REPOSITORY.parent / "shared" / "data" / "cifar10-images.tar.xz"


def cifar10_root() -> Path:
    """The folder that holds train/ and test/: TUNER_CIFAR10, else data/cifar10, unpacked there once. Skips the test where there is none."""
    folder = Path(os.environ.get("TUNER_CIFAR10", _UNPACKED))
    if folder == _UNPACKED and not folder.is_dir() and _ARCHIVE.is_file():
        _unpack()
    if not (folder / "train").is_dir() or not (folder / "test").is_dir():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"no CIFAR-10 images in {folder}: get them with torchvision.datasets.CIFAR10(download=True), write them as "
            "train/<class>/<n>.png and test/<class>/<n>.png, and set TUNER_CIFAR10 to that folder"
        )
    return folder


def _unpack() -> None:
    """Beside its place and then renamed, because parallel test runs may unpack at once."""
    _UNPACKED.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_UNPACKED.parent, prefix=".cifar10-") as temporary:
        files = Path(temporary, "cifar10")
        with tarfile.open(_ARCHIVE) as archive:
            archive.extractall(files, filter="data")
        try:
            files.rename(_UNPACKED)
        except OSError:
            # Another run was first.
            if not _UNPACKED.is_dir():
                raise
