"""Datasets of torchvision: downloaded once, found again, and one sentence where they cannot be had."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images import CPU, fingerprints
from torchvision import datasets

from trainers.config import DataConfig
from trainers.data import load_data, load_test
from trainers.errors import InputError


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        """Requests are not the test's output."""


@pytest.fixture
def fashion_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A mirror of Fashion-MNIST on this machine with 40 + 20 made-up images; torchvision's own download runs against it."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    resources = []
    for prefix, count in (("train", 40), ("t10k", 20)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, content in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, content.ndim]) + b"".join(size.to_bytes(4, "big") for size in content.shape)
            packed = gzip.compress(header + content.tobytes())
            (mirror / f"{prefix}-{kind}-ubyte.gz").write_bytes(packed)
            resources.append((f"{prefix}-{kind}-ubyte.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=mirror)) as server:
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield mirror
        server.shutdown()
        thread.join()


def test_fashion_mnist_is_downloaded_and_gets_three_equal_channels(tmp_path: Path, fashion_mirror: Path) -> None:
    config = DataConfig(name="fashion_mnist", root=str(tmp_path / "new" / "root"), train_images=20, val_images=10)
    data = load_data(config, CPU)
    assert data.train.images.shape == (20, 3, 28, 28)
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2])
    assert Counter(data.train.labels.tolist()) == dict.fromkeys(range(10), 2)
    pixels = np.random.default_rng(40).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    assert set(fingerprints(data.train.images[:, 0])) <= {image.tobytes() for image in pixels}
    assert data.class_names[:2] == ("T-shirt/top", "Trouser")
    assert len(load_test(config, CPU)) == 20
    # Found again without a network, and nothing is left of the download.
    for file in fashion_mirror.iterdir():
        file.unlink()
    load_data.cache_clear()
    assert len(load_data(config, CPU).val) == 10
    assert [entry.name for entry in Path(config.root).iterdir()] == ["FashionMNIST"]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_torchvisions_own_cifar_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    source, key = {"cifar10": (datasets.CIFAR10, "labels"), "cifar100": (datasets.CIFAR100, "fine_labels")}[name]
    files = tmp_path / source.base_folder
    files.mkdir()
    pixels = np.random.default_rng(3).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)

    def write(file: str, content: dict[str, Any]) -> str:
        packed = pickle.dumps(content)
        (files / file).write_bytes(packed)
        return hashlib.md5(packed).hexdigest()

    # As in the original release: red, green and blue planes one after the other in each row.
    monkeypatch.setattr(source, "train_list", [["batch", write("batch", {"data": pixels[:4].reshape(4, -1), key: [0, 1, 0, 1]})]])
    monkeypatch.setattr(source, "test_list", [["test", write("test", {"data": pixels[4:].reshape(2, -1), key: [0, 1]})]])
    md5 = write("names", {"names": ["cat", "ship"]})
    monkeypatch.setattr(source, "meta", {"filename": "names", "key": "names", "md5": md5})
    config = DataConfig(name=name, root=str(tmp_path), val_images=2)
    data = load_data(config, CPU)
    assert set(fingerprints(torch.cat([data.train.images, data.val.images]))) == {image.tobytes() for image in pixels[:4]}
    assert np.array_equal(load_test(config, CPU).images.numpy(), pixels[4:])
    assert data.class_names == ("cat", "ship")


def test_impossible_download_says_where_it_looked_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"{(tmp_path / 'nowhere').as_uri()}/"])
    with pytest.raises(InputError) as caught:
        load_data(DataConfig(name="fashion_mnist", root=str(tmp_path)), CPU)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(
        f"dataset 'fashion_mnist' is neither in image folders {tmp_path}/fashion_mnist/train/<class>/ and /test/<class>/"
    )
    assert f"nor in torchvision's {tmp_path}/FashionMNIST, and cannot be downloaded (Error downloading train-images" in message
    assert not list(tmp_path.iterdir()), "half a download must not be found by the next worker"
    assert f"run torchvision.datasets.FashionMNIST('{tmp_path}', download=True) where there is a network and copy what it made" in message


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_cifar_without_files_or_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "url", (tmp_path / "nowhere.tar.gz").as_uri())
    monkeypatch.setattr(datasets.CIFAR100, "url", (tmp_path / "nowhere.tar.gz").as_uri())
    with pytest.raises(
        InputError, match=f"dataset '{name}' is neither .* nor in torchvision's {tmp_path}/{folder}, and cannot be downloaded"
    ):
        load_data(DataConfig(name=name, root=str(tmp_path)), CPU)
