"""What a process of rank 1 and above does: joins the group, follows rank 0's orders, and says why where it can't go on."""

from __future__ import annotations

import gc
import os
import pickle
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from trainers.errors import DownsampleTunerError, InputError, NoisyTimingError, NonFiniteLossError, OutOfMemoryError, RunError
from trainers.ranks import Ranks

# How long a rank waits for the others in one collective operation, and rank 0 for the others' answers.
TIMEOUT: Final = timedelta(minutes=5)
_ERRORS: Final[dict[str, type[DownsampleTunerError]]] = {
    cls.__name__: cls for cls in (InputError, NoisyTimingError, NonFiniteLossError, OutOfMemoryError, RunError)
}


@dataclass(frozen=True, slots=True)
class Start:
    """Make an object and keep it: `factory(*args, ranks=..., **kwargs)`."""

    factory: Callable[..., object]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """Call this method of the object that was started last."""

    method: str


JOIN: Final = "join"
LEAVE: Final = "leave"
Order = Start | Call | str


@dataclass(frozen=True, slots=True, order=True)
class Failure:
    """Why a rank can't go on. at_s: by the clock that all processes of a machine share, because the first failure causes the others."""

    at_s: float
    rank: int
    error: str = field(compare=False)
    text: str = field(compare=False)

    @classmethod
    def of(cls, rank: int, error: BaseException) -> Failure:
        return cls(time.monotonic(), rank, type(error).__name__, str(error))

    def exception(self, size: int) -> DownsampleTunerError:
        """The error, as rank 0 raises it: one sentence."""
        if self.error in _ERRORS:
            return _ERRORS[self.error](self.text)
        return RunError(f"rank {self.rank} of {size} failed: {self.error}: {' '.join(self.text.split())}")


def follow(pipe: Connection, ranks: Ranks, rendezvous: str, cuda: bool) -> None:
    """The life of a process: answers with None as it starts and after every order, or with a Failure, its last word."""
    # Ctrl-C reaches every process of a terminal; what it means is rank 0's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, orders), daemon=True).start()
    try:
        pipe.send(None)
        _obey(pipe, orders, ranks, rendezvous, cuda)
    except BaseException as error:  # noqa: BLE001  whatever it is, rank 0 has to hear it
        pipe.send(Failure.of(ranks.rank, error))
        # The connections to the other ranks must end too, or they would wait for this one; loader threads may not keep it alive.
        os._exit(1)
    leave(cuda)


def join(ranks: Ranks, rendezvous: str, cuda: bool) -> None:
    """Joins the process group of `ranks.size` processes that meet at the file `rendezvous`."""
    if cuda:
        torch.cuda.set_device(ranks.rank)
    for library in ("GLOO", "NCCL"):
        # All ranks are on this machine, so nothing needs to listen to another one.
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", _loopback())
    # Both on CUDA: the ranks' agreements are tensors on the CPU, for which no GPU has to wait.
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    hook = sys.excepthook
    dist.init_process_group(backend, f"file://{rendezvous}", TIMEOUT, ranks.size, ranks.rank)
    # torch replaces it by one that marks every line with the rank, also after the group has ended.
    sys.excepthook = hook


def leave(cuda: bool) -> None:
    """Leaves the process group. On CUDA without waiting for what is under way, which may never end where a rank has failed."""
    if dist.is_initialized():
        if cuda:
            distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()


def _receive(pipe: Connection, orders: queue.SimpleQueue[bytes]) -> None:
    """A thread, because the main one may be waiting for a rank 0 that is gone: the end of the pipe is the end of this process."""
    try:
        while True:
            orders.put(pipe.recv_bytes())
    except (EOFError, OSError):
        os._exit(1)


def _obey(pipe: Connection, orders: queue.SimpleQueue[bytes], ranks: Ranks, rendezvous: str, cuda: bool) -> None:
    held: object = None
    while (order := pickle.loads(orders.get())) != LEAVE:
        match order:
            case Start(factory, args, kwargs):
                # A network and its optimizer are in reference cycles, and their memory would be missing in the next training.
                held = None
                gc.collect()
                held = factory(*args, ranks=ranks, **kwargs)
            case Call(method):
                getattr(held, method)()
            case _:
                join(ranks, rendezvous, cuda)
        pipe.send(None)


def _loopback() -> str:
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
