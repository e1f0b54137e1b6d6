"""The processes that make one training together, each on a GPU of its own: what they share out, and what they agree on."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainers.cores import available_cores
from trainers.device import resolve_device
from trainers.errors import InputError, RunError

# torch's name for sharing buffers at every step, older and newer.
_SHARE_BUFFERS: Final = next(
    name for name in ("forward_sync_buffers", "broadcast_buffers") if name in inspect.signature(DistributedDataParallel).parameters
)


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place (0 to size - 1) among the processes of a training. Every method that compares or adds must be called by all."""

    rank: int = 0
    size: int = 1

    def part(self, start: int, end: int) -> tuple[int, int]:
        """[start, end) of this rank's equal part of the images [start, end); InputError if they can't be shared equally."""
        if (end - start) % self.size:
            raise InputError(f"a batch of {end - start} images can't be shared equally by {self.size} ranks: give more images")
        images = (end - start) // self.size
        return start + self.rank * images, start + (self.rank + 1) * images

    def device(self, name: str) -> torch.device:
        """The device of this rank: of several ranks on CUDA each has the GPU of its own number."""
        device = resolve_device(name)
        if self.size == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise InputError(f"device is '{name}', it must be cuda where {self.size} ranks train: each takes a GPU of its own")
        if torch.cuda.device_count() < self.size:
            raise InputError(f"ranks is {self.size}, it must be at most {torch.cuda.device_count()}, the CUDA devices that torch sees")
        return torch.device("cuda", self.rank)

    def threads(self, threads: int | None) -> int | None:
        """The CPU threads of one rank, where the training has `threads`; None, for one rank only, is torch's own choice."""
        if self.size == 1:
            return threads
        return max(1, (len(available_cores()) if threads is None else threads) // self.size)

    def parallel(self, model: nn.Module) -> nn.Module:
        """The same network with gradients that are averaged over the ranks during the backward pass; its weights become those of rank 0.

        Buffers are not shared at every step: batch norm has each rank's own statistics (see `share_buffers`).
        """
        if self.size == 1:
            return model
        options: dict[str, Any] = {"gradient_as_bucket_view": True, _SHARE_BUFFERS: False}
        return DistributedDataParallel(model, **options)

    def share_buffers(self, model: nn.Module) -> None:
        """Gives every rank the buffers of rank 0, running statistics of batch norm among them."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def slowest(self, value: float) -> float:
        """The largest of the ranks' values; seconds are those of the slowest rank."""
        return self._reduced(value, dist.ReduceOp.MAX)

    def any(self, flag: bool) -> bool:
        """Whether it is so in any rank."""
        return self.slowest(float(flag)) > 0

    def total(self, value: float) -> float:
        """Sum of the ranks' values."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the ranks of a tensor on the CPU, element by element; not finite where any rank's is not."""
        if self.size == 1:
            return values
        summed = values.clone()
        dist.all_reduce(summed)
        return summed / self.size

    def largest(self, values: Tensor) -> Tensor:
        """The ranks' largest values of a tensor on the CPU, element by element."""
        if self.size == 1:
            return values
        found = values.clone()
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return found

    def check_equal(self, what: str, value: int) -> None:
        """RunError unless all ranks have the same value; `what` says what it is."""
        low, high = -self.slowest(-value), self.slowest(value)
        if low != high:
            raise RunError(f"{what} is {low:g} in one rank and {high:g} in another, they must be equal to train together")

    def _reduced(self, value: float, operation: dist.ReduceOp.RedOpType) -> float:
        if self.size == 1:
            return value
        # On the CPU also beside GPUs, which would have to wait for it.
        reduced = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(reduced, operation)
        return float(reduced)


ALONE: Final = Ranks()
