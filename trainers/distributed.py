"""One training in several processes of one machine: this process is rank 0, it starts the others and has them do what it does.

They meet at a private file and talk over loopback (gloo) and from GPU to GPU (NCCL): nothing listens to another machine.
"""

from __future__ import annotations

import atexit
import pickle
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Final, TypeVar

from trainers.errors import DownsampleTunerError, RunError
from trainers.follower import JOIN, LEAVE, TIMEOUT, Call, Failure, Order, Start, follow, join, leave
from trainers.ranks import Ranks

# A rank that fails says why before it leaves the others, so its reason is here at about the same time as the lost connection.
_REASON_S: Final = 5.0
# An idle process ends at once, but its loader workers take a moment.
_LEAVE_S: Final = 10.0

Held = TypeVar("Held")
Result = TypeVar("Result")


class RankPool:
    """Processes that do the same work together, kept from one training to the next because importing torch takes seconds.

    `start` makes one object in every rank, `call` calls one of its methods in every rank; both return what rank 0, this process, has.
    When a rank fails, that call raises its reason as one sentence and the other processes end; the next `start` makes new ones. They also
    end when this process does, however it ends. A pool of one rank has no other processes. One pool a process.

    size: number of ranks. device: of all of them, as in TrainConfig. InputError if there are fewer GPUs.
    """

    def __init__(self, size: int, device: str = "auto") -> None:
        self.ranks = Ranks(0, size)
        self._cuda = self.ranks.device(device).type == "cuda"
        self._others: _Others | None = None

    def start(self, factory: Callable[..., Held], *args: Any, **kwargs: Any) -> Held:
        """What `factory(*args, ranks=..., **kwargs)` returns in rank 0. All of it must pickle; what was started before is dropped."""
        if self.ranks.size > 1 and self._others is None:
            self._begin()
        return self._together(Start(factory, args, kwargs), lambda: factory(*args, ranks=self.ranks, **kwargs))

    def call(self, method: Callable[[], Result]) -> Result:
        """What `method`, a bound method without arguments of the object from `start`, returns in rank 0."""
        return self._together(Call(method.__name__), method)

    def close(self) -> None:
        """Ends the other processes."""
        self._close(_LEAVE_S)

    def __enter__(self) -> RankPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close(self, patience_s: float) -> None:
        atexit.unregister(self.close)
        others, self._others = self._others, None
        if others is not None:
            others.end(patience_s)
            leave(self._cuda)

    def _begin(self) -> None:
        self._others = others = _Others(self.ranks.size, self._cuda)
        # At exit Python waits for its child processes before it closes the pipes that would make them end.
        atexit.register(self.close)

        def join_the_others() -> None:
            others.wait_until_done()
            join(self.ranks, others.rendezvous, self._cuda)

        self._together(JOIN, join_the_others)

    def _together(self, order: Order, own_part: Callable[[], Result]) -> Result:
        others = self._others
        if others is None:
            return own_part()
        try:
            others.send(order)
            result = own_part()
            others.wait_until_done()
        except BaseException as error:
            cause = others.cause_of(error)
            # Without patience: they may be waiting for this rank, which is not going to come.
            self._close(0)
            if cause is None:
                raise
            raise cause from error
        return result


class _Others:
    """The processes of ranks 1 to size - 1, as rank 0 sees them."""

    def __init__(self, size: int, cuda: bool) -> None:
        self._size, self._cuda = size, cuda
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        self.rendezvous = str(Path(self._folder.name) / "rendezvous")
        self._answers: queue.SimpleQueue[Failure | None] = queue.SimpleQueue()
        self._failures: list[Failure] = []
        self._failed = threading.Event()
        self._ending = threading.Event()
        self._processes: list[SpawnProcess] = []
        self._pipes: list[Connection] = []
        self._listeners: list[threading.Thread] = []
        for rank in range(1, size):
            self._begin(Ranks(rank, size))

    def send(self, order: Order) -> None:
        """Orders all of them to do something."""
        content = pickle.dumps(order)
        for pipe in self._pipes:
            # That a process is gone is its listener's to say.
            with suppress(OSError):
                pipe.send_bytes(content)

    def wait_until_done(self) -> None:
        """Waits until each has answered its last order; raises the failure of one, RunError if one does not answer."""
        for _ in self._processes:
            try:
                answer = self._answers.get(timeout=TIMEOUT.total_seconds())
            except queue.Empty:
                raise RunError(f"the other ranks of {self._size} were not done {TIMEOUT} after rank 0") from None
            if answer is not None:
                raise answer.exception(self._size)

    def cause_of(self, error: BaseException) -> DownsampleTunerError | None:
        """The failure of another rank that came before this error of rank 0; None if rank 0 failed first, or for the same reason."""
        own = Failure.of(0, error)
        if not isinstance(error, DownsampleTunerError | KeyboardInterrupt):
            self._failed.wait(_REASON_S)
        first = min([own, *self._failures])
        return None if (first.error, first.text) == (own.error, own.text) else first.exception(self._size)

    def end(self, patience_s: float) -> None:
        """Ends the processes: those that are not done after `patience_s` are killed."""
        self._ending.set()
        self.send(LEAVE)
        until = time.monotonic() + patience_s
        for process in self._processes:
            process.join(max(0.0, until - time.monotonic()))
        self._kill()
        for process, pipe, listener in zip(self._processes, self._pipes, self._listeners, strict=True):
            process.join()
            listener.join()
            pipe.close()
        self._folder.cleanup()

    def _begin(self, ranks: Ranks) -> None:
        # Spawned: a fork of a process with threads or CUDA can deadlock. No daemon: those may not have loader workers.
        context = get_context("spawn")
        own_end, other_end = context.Pipe()
        process = context.Process(target=follow, args=(other_end, ranks, self.rendezvous, self._cuda), name=f"rank {ranks.rank}")
        process.start()
        other_end.close()
        listener = threading.Thread(target=self._listen, args=(ranks.rank, own_end), name=f"listens to rank {ranks.rank}", daemon=True)
        listener.start()
        self._processes.append(process)
        self._pipes.append(own_end)
        self._listeners.append(listener)

    def _listen(self, rank: int, pipe: Connection) -> None:
        """A thread, because rank 0 may be waiting for a rank that is gone."""
        answer: Failure | None = None
        while answer is None:
            try:
                answer = pipe.recv()
            except (EOFError, OSError):
                if self._ending.is_set():
                    return
                # Before any other failure: whoever lost the connection to this rank may have been heard first.
                answer = Failure(-inf, rank, RunError.__name__, f"rank {rank} of {self._size} ended without a reason, as if killed")
            if answer is not None:
                self._failures.append(answer)
            self._answers.put(answer)
        self._failed.set()
        self._ending.set()
        self._kill()
        if self._cuda:
            # gloo notices that a process is gone, NCCL waits for it.
            leave(cuda=True)

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()
