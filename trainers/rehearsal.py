"""Steps on a throw-away network with made-up images: to time them, to compile them beforehand, and to find what fits into memory."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import warnings
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import torch
from torch import Tensor, nn

from trainers.config import TrainConfig
from trainers.device import IMAGE_FORMAT, device_name, resolve_device, set_threads
from trainers.downsampling import Downsampler, resize
from trainers.errors import InputError, OutOfMemoryError
from trainers.methods.grouping import before_update
from trainers.models import build_training_model
from trainers.optim import build_optimizer
from trainers.ranks import ALONE, Ranks
from trainers.schedule import Schedule, Step
from trainers.steps import training_step

Result = TypeVar("Result")

# Besides torch.OutOfMemoryError: the CPU's allocator, and what CUDA's libraries say when they get no memory of their own.
_OUT_OF_MEMORY: Final = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
# torch gives up after 8 graphs of one function, taking them for a network that compiles for ever; a plan may have more kinds of step.
_MAX_GRAPHS: Final = 2**16


class Rehearsal:
    """Makes single steps of any kind as a training of this configuration would, on a network of its own; all ranks together.

    like: a network that it shall be a copy of, where filters have been removed from the configuration's.
    """

    def __init__(self, config: TrainConfig, num_classes: int, ranks: Ranks = ALONE, like: nn.Module | None = None) -> None:
        self.device = ranks.device(config.device)
        set_threads(ranks.threads(config.threads))
        # A tiny learning rate keeps the figures of made-up data finite; the arithmetic is the same.
        self.config = dataclasses.replace(config, lr=1e-6)
        torch.manual_seed(0)
        self.model = (build_training_model(config, num_classes, self.device) if like is None else copy.deepcopy(like)).train()
        self.optimizer = build_optimizer(self.model, self.config)
        self._before_update = before_update(self.model, config.grouping)
        self._parallel = ranks.parallel(self.model)
        side_px = config.data.full_px
        count = config.batch_size // ranks.size
        images = torch.randn(count, 3, side_px, side_px, device=self.device)
        # As the splits give them: a compiled step takes one format only.
        self._images = images.contiguous(memory_format=IMAGE_FORMAT)
        self._labels = torch.randint(num_classes, (count,), device=self.device)
        self._downsampler = Downsampler(self.model, Schedule(), total_steps=0, full_px=side_px)

    def batch(self, step: Step) -> tuple[Tensor, Tensor]:
        """This rank's images [step.batches * batch_size / ranks, 3, full side, full side] and labels for a step of this kind."""
        if step.batches == 1:
            return self._images, self._labels
        images = self._images.repeat(step.batches, 1, 1, 1).contiguous(memory_format=IMAGE_FORMAT)
        return images, self._labels.repeat(step.batches)

    def make(self, step: Step, images: Tensor, labels: Tensor) -> None:
        """One step: resizing of the images, forward, backward, optimizer."""
        with self._downsampler.run_as(step):
            training_step(self._parallel, self.optimizer, resize(images, step.side_px), labels, self.config, self._before_update)

    def make_one(self, step: Step) -> None:
        """One step on made-up images."""
        self.make(step, *self.batch(step))


def compile_steps(
    config: TrainConfig, steps: Iterable[Step], num_classes: int, ranks: Ranks = ALONE, like: nn.Module | None = None
) -> None:
    """Compiles every kind of step by making one of it, so that none is compiled while a training or a calibration is timed.

    The compiled graphs serve every network of this structure in this process; like: of which structure, where not the configuration's.
    InputError if torch can't compile here, OutOfMemoryError.
    """
    import torch._dynamo as dynamo

    rehearsal = Rehearsal(config, num_classes, ranks, like)
    with warnings.catch_warnings(), dynamo.config.patch(recompile_limit=_MAX_GRAPHS, accumulated_recompile_limit=_MAX_GRAPHS):
        # torch looks at the gradient of each input of a graph, and pooled filters are inputs without one.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed")
        for step in sorted(set(steps)):
            try:
                or_out_of_memory(functools.partial(rehearsal.make_one, step), config, step, num_classes)
            except dynamo.exc.TorchDynamoException as error:
                reason = " ".join(str(error).split("\n\n")[0].split())
                raise InputError(f"compile is true, but torch can't compile network '{config.model}' here: {reason}") from error


def or_out_of_memory(make_step: Callable[[], Result], config: TrainConfig, step: Step, num_classes: int) -> Result:
    """What `make_step` returns; where it runs out of memory, an OutOfMemoryError that names the batch that would fit."""
    try:
        return make_step()
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
    # Only here: inside the except block the exception would keep the failed step's tensors alive.
    raise OutOfMemoryError(_advice(config, step, num_classes))


def _advice(config: TrainConfig, step: Step, num_classes: int) -> str:
    ranks = config.ranks
    # A rank looks for what fits without the others, which may have had memory enough.
    config = dataclasses.replace(config, ranks=1, batch_size=config.batch_size // ranks)
    images = step.batches * config.batch_size
    fitting = _fitting_accumulation(config, step, num_classes)
    _free_memory()
    what = f"a step on {images} images of {step.side_px} px ({step.kernel} kernels, accumulate {config.accumulate})"
    needs = f"{what} needs more memory than there is on {device_name(resolve_device(config.device))}"
    if fitting is None:
        return f"{needs}, where not even one image at a time fits"
    batch_size = ranks * _smaller(config, fitting)
    return f"{needs}: give accumulate {fitting}, which fits with {-(-images // fitting)} images at a time, or batch_size {batch_size}"


def _smaller(config: TrainConfig, fitting: int) -> int:
    return max(1, config.batch_size * config.accumulate // fitting)


def _fitting_accumulation(config: TrainConfig, step: Step, num_classes: int) -> int | None:
    """The first of 2, 4, 8... times config.accumulate micro-batches with which the step fits into memory."""
    accumulate = config.accumulate
    while accumulate < step.batches * config.batch_size:
        accumulate *= 2
        _free_memory()
        # Compiling each attempt would take minutes.
        if _fits(dataclasses.replace(config, accumulate=accumulate, compile=False), step, num_classes):
            return accumulate
    return None


def _fits(config: TrainConfig, step: Step, num_classes: int) -> bool:
    try:
        rehearsal = Rehearsal(config, num_classes)
        rehearsal.make_one(step)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        return False
    return True


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
