"""A TCP proxy on loopback that cuts, stalls, silences and loses what passes between a client and a database."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_CHUNK_BYTES: Final = 65_536
_LONGEST_WAIT_S: Final = 1.0
_TARGET_ANSWERS_S: Final = 2.0
# As PostgreSQL's simple query protocol sends it, without TLS.
_COMMIT: Final = b"COMMIT\x00"
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


@dataclass(eq=False, slots=True)
class _End:
    """One socket of a link. unsent: what still has to go to it. ended: nothing more comes from it."""

    socket: socket.socket
    unsent: bytearray = field(default_factory=bytearray)
    ended: bool = False


@dataclass(eq=False, slots=True)
class _Link:
    """A client and, unless it came during a silence, its own connection to the target."""

    client: _End
    server: _End | None
    silent: bool = False
    losing: bool = False

    def ends(self) -> Iterator[tuple[_End, _End]]:
        """Each end with the opposite one; none where nothing can pass."""
        if self.server is not None:
            yield self.client, self.server
            yield self.server, self.client


class TcpProxy:
    """Passes connections to its own port on to `target_port`. Its methods may be called from any thread and act at once.

    port: the same for the proxy's life, also over `cut`. lost_acknowledgements: how many answers have been lost so far.
    """

    def __init__(self, target_port: int, target_host: str = "127.0.0.1") -> None:
        self.lost_acknowledgements = 0
        self._target = (target_host, target_port)
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._stalled_until_s = 0.0
        self._silent = False
        self._losing = False
        self._closed = False
        # Never listens: while nobody else does, clients are refused, and no other program can take the port.
        self._reservation = _bound(0)
        self.port: int = self._reservation.getsockname()[1]
        self._listener: socket.socket | None = self._listening()
        self._woken, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="tcp-proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many clients are connected, silent ones included."""
        with self._lock:
            return len(self._links)

    def pass_on(self) -> None:
        """Back to normal. Connections that were silent stay so for ever, as a firewall leaves them; new ones work."""
        with self._lock:
            self._stalled_until_s = 0.0
            self._silent = self._losing = False
            if self._listener is None:
                self._listener = self._listening()
            self._wake()

    def cut(self) -> None:
        """Resets all connections and refuses new ones until `pass_on`."""
        with self._lock:
            if self._listener is not None:
                # close alone would wait for the thread's poll, which holds the socket.
                self._listener.shutdown(socket.SHUT_RDWR)
                self._listener.close()
            self._listener = None
            self._drop_all()
            self._wake()

    def stall(self, seconds: float) -> None:
        """For so long nothing passes, but nothing is lost: then it all goes on by itself."""
        with self._lock:
            self._stalled_until_s = time.monotonic() + seconds
            self._wake()

    def silence(self) -> None:
        """Connections stay open, but nothing passes in either direction; new ones are accepted and silent, too. Until `pass_on`."""
        with self._lock:
            self._silent = True
            for link in self._links:
                link.silent = True
            self._wake()

    def lose_acknowledgement(self) -> None:
        """The next COMMIT reaches the server, but its answer is lost, and with it all connections; new ones work at once."""
        with self._lock:
            self._losing = True

    def close(self) -> None:
        """Ends all connections and the proxy."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._wake()
        self._thread.join()
        self._drop_all()
        for each in (self._listener, self._reservation, self._woken, self._waker):
            if each is not None:
                each.close()

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                poll, wait_s = self._poll(), self._wait_s()
            ready = poll.poll(wait_s * 1000)
            with self._lock:
                self._handle(dict(ready))

    def _poll(self) -> select.poll:
        """What is worth waiting for now. Silent and stalled sockets are left out: poll would still report their ends."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if self._is_stalled():
            return poll
        if self._listener is not None:
            poll.register(self._listener, select.POLLIN)
        for link in self._links:
            for end, other in link.ends() if not link.silent else ():
                events = (0 if end.ended or other.unsent else select.POLLIN) | (select.POLLOUT if end.unsent else 0)
                if events:
                    poll.register(end.socket, events)
        return poll

    def _wait_s(self) -> float:
        stalled_s = self._stalled_until_s - time.monotonic()
        return stalled_s if 0 < stalled_s < _LONGEST_WAIT_S else _LONGEST_WAIT_S

    def _is_stalled(self) -> bool:
        return time.monotonic() < self._stalled_until_s

    def _handle(self, ready: dict[int, int]) -> None:
        if self._woken.fileno() in ready:
            self._woken.recv(_CHUNK_BYTES)
        # What was asked for meanwhile comes first: nothing may pass once `stall` or `silence` has returned.
        if self._is_stalled():
            return
        for link in [link for link in self._links if not link.silent]:
            try:
                for end, other in link.ends():
                    self._move(link, end, other, ready.get(end.socket.fileno(), 0))
            except OSError:
                self._drop(link)
            if self._is_over(link):
                self._drop(link)
        if self._listener is not None and self._listener.fileno() in ready:
            self._accept(self._listener)

    def _move(self, link: _Link, end: _End, other: _End, events: int) -> None:
        if link not in self._links:
            return
        if events & select.POLLOUT:
            _send(end)
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR) and not end.ended and not other.unsent:
            data = end.socket.recv(_CHUNK_BYTES)
            end.ended = not data
            if end is link.server and link.losing and data:
                self.lost_acknowledgements += 1
                self._drop_all()
                return
            if end is link.client and self._losing and _COMMIT in data:
                self._losing, link.losing = False, True
            other.unsent += data
            _send(other)

    def _is_over(self, link: _Link) -> bool:
        return link in self._links and any(end.ended and not other.unsent for end, other in link.ends())

    def _accept(self, listener: socket.socket) -> None:
        client = _End(listener.accept()[0])
        link = _Link(client, None, silent=self._silent)
        self._links.add(link)
        try:
            if not self._silent:
                link.server = _End(socket.create_connection(self._target, timeout=_TARGET_ANSWERS_S))
        except OSError:
            self._drop(link)
            return
        for end, _ in link.ends():
            end.socket.setblocking(False)
            end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _drop_all(self) -> None:
        for link in list(self._links):
            self._drop(link, reset=True)

    def _drop(self, link: _Link, *, reset: bool = False) -> None:
        self._links.discard(link)
        for end in (link.client, link.server):
            if end is not None:
                if reset:
                    end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                end.socket.close()

    def _listening(self) -> socket.socket:
        listener = _bound(self.port)
        listener.listen(128)
        return listener

    def _wake(self) -> None:
        self._waker.send(b"x")


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def _send(end: _End) -> None:
    if end.unsent:
        try:
            del end.unsent[: end.socket.send(end.unsent)]
        except BlockingIOError:
            return
