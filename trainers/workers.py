"""Worker processes that decode image files ahead of the training, and the way of their batches to the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from trainers.decoding import read_image
from trainers.errors import InputError
from trainers.folders import ImageFiles, Preprocessing

# Beyond this many workers the storage is the limit (our own choice).
MAX_WORKERS: Final = 16

Batch = tuple[Tensor, Tensor]


class Sample(NamedTuple):
    """An image to decode: its position among the files, the seed of its random resized crop (None: evaluation crop), its side in pixels,
    and how strong that crop is, in [0, 1]."""

    position: int
    crop_seed: int | None
    side_px: int
    strength: float


class Order(Sampler[list[Sample]]):
    """The batches of one pass, made as they are asked for: a list of a million samples would keep the device waiting.

    A loader keeps its workers only while it keeps its sampler, so this one is set anew for every pass.
    """

    def __init__(self) -> None:
        self._positions = torch.empty(0, dtype=torch.int64)
        self._crop_seeds: Tensor | None = None
        self._batches: Sequence[tuple[int, int, int, float]] = ()

    def set(self, positions: Tensor, crop_seeds: Tensor | None, batches: Sequence[tuple[int, int, int, float]]) -> None:
        """positions: of the files, in the order of the pass. crop_seeds: one a position. batches: [start, end) in that order, side, and
        strength of the crops."""
        self._positions, self._crop_seeds, self._batches = positions, crop_seeds, batches

    def __iter__(self) -> Iterator[list[Sample]]:
        # A later `set` must not change a pass that has begun.
        positions, crop_seeds, batches = self._positions, self._crop_seeds, self._batches
        for start, end, side_px, strength in batches:
            chosen = positions[start:end].tolist()
            seeds = [None] * len(chosen) if crop_seeds is None else crop_seeds[start:end].tolist()
            yield [Sample(position, seed, side_px, strength) for position, seed in zip(chosen, seeds, strict=True)]


class FileDataset(Dataset[Any]):
    """Image files by sample. A class of the module, because spawned workers unpickle it."""

    def __init__(self, files: ImageFiles, preprocessing: Preprocessing) -> None:
        self._files, self._full_px, self._resize_px = files, preprocessing.side_px, preprocessing.resize_px

    def __getitems__(self, samples: list[Sample]) -> list[tuple[Tensor, int]] | InputError:
        # Handed over as a value: a loader would wrap the exception of a worker into its traceback.
        try:
            return [(self._image(sample), int(self._files.labels[sample.position])) for sample in samples]
        except InputError as error:
            return error

    def _image(self, sample: Sample) -> Tensor:
        path = self._files.path(sample.position)
        seed, side_px = sample.crop_seed, sample.side_px
        return read_image(path, self._full_px, self._resize_px, crop_seed=seed, side_px=side_px, strength=sample.strength)


def build_loader(files: ImageFiles, preprocessing: Preprocessing, order: Order, device: torch.device) -> DataLoader[Any]:
    """Loader of batches (uint8 [B, side, side, 3], int64 [B]), or of an InputError.

    Workers: as many as torch has threads (those that the training was given), at most MAX_WORKERS, each two batches ahead. With one thread
    none: on a CPU the training itself decodes, but a GPU would wait, so it gets one. They are spawned, because a fork of a process with
    threads or CUDA can deadlock, and stay for the loader's life.
    """
    threads, on_gpu = torch.get_num_threads(), device.type == "cuda"
    workers = min(threads, MAX_WORKERS) if threads > 1 or on_gpu else 0
    return DataLoader(
        FileDataset(files, preprocessing),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_collated,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,
        pin_memory=on_gpu,
        # Else every pass draws a seed from torch's global generator, which belongs to the training.
        generator=torch.Generator(),
    )


class Copier:
    """Brings batches to the device, on CUDA by a stream of its own.

    The host queues steps well ahead of the GPU, so a copy on another stream than the steps' runs while an earlier step is still computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, images: Tensor, labels: Tensor) -> Batch:
        """Pinned tensors in, tensors on the device out, ready for the current stream."""
        if self._stream is None:
            return images.to(self._device), labels.to(self._device)
        with torch.cuda.stream(self._stream):
            copied = images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in copied:
            # Else its memory could serve the next copy while a step still reads it.
            tensor.record_stream(current)
        return copied


def _collated(samples: list[tuple[Tensor, int]] | InputError) -> Any:
    return samples if isinstance(samples, InputError) else default_collate(samples)
