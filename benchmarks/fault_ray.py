"""A real Ray cluster of the fault suite's own, in processes of its own: a head, and a second node that can be killed and started again."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

# Not 127.0.0.1, in whose place Ray puts an address that other machines reach.
_ADDRESS: Final = "127.0.0.2"
_START_S: Final = 180.0
_PORTS: Final = ("--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000", "--disable-usage-stats")


class RayCluster:
    """Processes that others may talk to only with the token in `environment`, which drivers need, too."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.environment = {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}
        self.address = f"{_ADDRESS}:{_free_port()}"

    def begin_head(self, cpus: int) -> None:
        """Starts the head; `wait_for_head` waits until it is there."""
        port = self.address.rpartition(":")[2]
        options = ["--head", f"--port={port}", f"--temp-dir={self._folder / 'ray'}", "--include-dashboard=false", "--no-monitor"]
        self._begin("head", options, cpus)

    def wait_for_head(self) -> None:
        """Returns once others can join. RuntimeError with what Ray said where they never can."""
        self._wait("head")

    def start_node(self, cpus: int = 1) -> None:
        """Starts the second node, again if need be."""
        self._begin("node", [f"--address={self.address}"], cpus)
        self._wait("node")

    def kill_node(self) -> int:
        """kill -9 of the second node's raylet, whose workers then go by themselves; its process id."""
        node = self._nodes.pop("node")
        raylet = next(pid for pid in descendants(node.pid) if _command(pid).partition("\0")[0].endswith("/raylet"))
        os.kill(raylet, signal.SIGKILL)
        # `ray start --block` ends the rest of the node when it sees this.
        _end(node, patience_s=30)
        return raylet

    @property
    def has_node(self) -> bool:
        """Whether the second node was started and not killed."""
        return "node" in self._nodes

    def close(self) -> None:
        """Ends both nodes."""
        for node in self._nodes.values():
            node.terminate()
        for node in self._nodes.values():
            _end(node, patience_s=15)
        self._nodes.clear()

    def _begin(self, name: str, options: list[str], cpus: int) -> None:
        common = ["start", f"--node-ip-address={_ADDRESS}", f"--num-cpus={cpus}", f"--dashboard-agent-listen-port={_free_port()}"]
        command = [str(Path(sys.executable).with_name("ray")), *common, *_PORTS, *options, "--block"]
        self._commands[name] = command
        self._start(name)

    def _start(self, name: str) -> None:
        with self._log(name).open("wb") as log:
            command = self._commands[name]
            self._nodes[name] = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)

    def _wait(self, name: str) -> None:
        """On a busy machine Ray may give up on itself, and then it is started again."""
        deadline_s = time.monotonic() + _START_S
        # The only words that a head and other nodes have in common once they run.
        while "--block" not in (said := self._log(name).read_text()):
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"Ray's {name} did not start:\n{said}")
            if self._nodes[name].poll() is not None:
                self._start(name)
            time.sleep(0.1)

    def _log(self, name: str) -> Path:
        return self._folder / f"ray-{name}.log"


def descendants(pid: int) -> list[int]:
    """Every process that `pid` has started, directly or not, as far as their parents still live."""
    parents = {entry: _parent(entry) for entry in all_pids()}
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def all_pids() -> list[int]:
    """Every process of this machine."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def kill_users_of(folder: Path) -> list[int]:
    """kill -9 of every process that has this folder in its command line or a file below it open, this one aside; their ids.

    The folder is the suite's own, so nobody else's process does; Ray's workers outlive those that started them by a while.
    """
    ours = [pid for pid in all_pids() if pid != os.getpid() and _uses(pid, str(folder))]
    for pid in ours:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return ours


def _uses(pid: int, folder: str) -> bool:
    if folder in _command(pid):
        return True
    try:
        return any(_link(entry).startswith(f"{folder}/") for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        for pid in [*descendants(process.pid), process.pid]:
            os.kill(pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((_ADDRESS, 0))
        return int(listener.getsockname()[1])
