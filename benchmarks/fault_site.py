"""Where the fault suite works: PostgreSQL behind a proxy, a Ray cluster, a small disk for checkpoints, and drivers. All of its own."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from benchmarks.fault_network import FOLDER_VARIABLE
from benchmarks.fault_plan import ROOT
from benchmarks.fault_ray import RayCluster, kill_users_of
from benchmarks.tcp_proxy import TcpProxy
from tests.postgres import USER, PostgresServer, postgres_server

_DISK_MIB: Final = 400


class Driver:
    """A launch in a process of its own."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], log: Path) -> None:
        self.log = log
        self.started_s = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True)
        self.pid = self._process.pid

    def ended(self) -> int | None:
        """Its exit code, None while it lives."""
        return self._process.poll()

    def wait(self, patience_s: float) -> int | None:
        """Its exit code; None where it still lives after `patience_s`."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(patience_s)
        return None

    def send(self, number: signal.Signals) -> None:
        """A signal to the driver's process alone."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9 of the driver's process alone."""
        self._process.kill()
        self._process.wait()

    def output(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")


class Site:
    """folder: the suite's own, with steps, marks, met and logs in it. place: of checkpoints, on a disk of its own where `has_disk`."""

    def __init__(self, folder: Path, server: PostgresServer, proxy: TcpProxy, ray: RayCluster, *, has_disk: bool) -> None:
        self.folder, self.server, self.proxy, self.ray, self.has_disk = folder, server, proxy, ray, has_disk
        self.place = folder / "place"
        self.drivers: list[Driver] = []
        # What else has to be ended.
        self.at_end = ExitStack()
        self._filler = self.place / "filler"

    def url(self, database: str) -> str:
        """A database through the proxy."""
        return f"postgresql://{USER}@127.0.0.1:{self.proxy.port}/{database}"

    def launch(self, database: str, study: str, trials: int, count: int, *, own_ray: bool = False) -> Driver:
        """Gives the launch command. count: length of its list. own_ray: with a Ray of its own on one core, as if on another machine."""
        arguments = [self.url(database), study, str(trials), str(count), str(self.place)]
        command = [sys.executable, str(ROOT / "benchmarks" / "fault_launch.py"), *arguments]
        environment = _environment(self.folder)
        if own_ray:
            scratch = self.folder / f"r{len(self.drivers)}"
            scratch.mkdir()
            environment["RAY_TMPDIR"] = str(scratch)
        else:
            environment = self.ray.environment
            command.append(self.ray.address)
        driver = Driver(command, self.folder, environment, self.folder / f"driver-{len(self.drivers):03d}.log")
        if own_ray:
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(driver.pid, {cores[len(self.drivers) % len(cores)]})
        self.drivers.append(driver)
        return driver

    def fill_disk(self) -> None:
        """Leaves no byte on the disk of checkpoints."""
        with self._filler.open("ab", buffering=0) as file:
            block = b"\0" * 2**20
            while block:
                try:
                    file.write(block)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    block = block[: len(block) // 2]

    def free_disk(self) -> None:
        """Gives the space back."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def fault_site(cpus: int) -> Iterator[Site]:
    """The site, its head starting; everything it has started or mounted ends with it, whatever happens.

    A folder in the short `/tmp`: the paths of Ray's sockets must be short.
    """
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="faults-", dir="/tmp" if Path("/tmp").is_dir() else None))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for name in ("steps", "marks", "met", "place"):
            (folder / name).mkdir()
        shutil.copy(ROOT / "benchmarks" / "fault_network.py", folder)
        has_disk = _mounted(folder / "place")
        if has_disk:
            stack.callback(subprocess.run, ["umount", "--lazy", folder / "place"], check=False)
        stack.callback(kill_users_of, folder)
        ray = RayCluster(folder, _environment(folder))
        stack.callback(ray.close)
        ray.begin_head(cpus)
        server = stack.enter_context(postgres_server())
        proxy = stack.enter_context(TcpProxy(server.port))
        site = Site(folder, server, proxy, ray, has_disk=has_disk)
        stack.enter_context(site.at_end)
        stack.callback(_end_drivers, site)
        yield site


def _environment(folder: Path) -> dict[str, str]:
    """Everything runs this checkout's code, whichever is installed."""
    return {**os.environ, FOLDER_VARIABLE: str(folder), "PYTHONPATH": str(ROOT)}


def _end_drivers(site: Site) -> None:
    for driver in site.drivers:
        if driver.ended() is None:
            driver.kill()


def _mounted(folder: Path) -> bool:
    """A small disk in memory, which only root may make."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m,mode=0700", "faults", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
