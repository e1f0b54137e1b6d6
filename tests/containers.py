"""The containers that docker-compose.yml and deploy/kuberay.yaml describe, as plain processes here: same commands, same order."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from postgres import free_port

from benchmarks.fault_ray import descendants, kill_users_of

ROOT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
KUBERAY = {document["kind"]: document for document in yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text())}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
_VARIABLE = re.compile(r"\$\{(\w+)(?::?([-?])([^}]*))?\}")
# The machine's only name for each container, as one that many share has no other.
_HEAD = "127.0.0.2"
PATIENCE_S = 180.0


@dataclass(frozen=True)
class Container:
    """What runs in one: entry point and arguments, and its environment, the image's included."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def composed(service: str, variables: Mapping[str, str], *command: str) -> Container:
    """A service of docker-compose.yml, as `docker compose run` takes it where a command is given."""
    found = COMPOSE["services"][service]
    entry = found.get("entrypoint") or _instruction("ENTRYPOINT")
    arguments = [interpolated(word, variables) for word in command or found["command"]]
    environment = {name: interpolated(value, variables) for name, value in found["environment"].items()}
    return Container([*entry, *arguments], _image_environment() | environment)


def ray_node(group: str, **changes: str) -> Container:
    """The head or a worker of deploy/kuberay.yaml, with the command that KubeRay makes of its parameters, some of them changed."""
    spec = KUBERAY["RayCluster"]["spec"]
    found = spec["headGroupSpec"] if group == "head" else next(one for one in spec["workerGroupSpecs"] if one["groupName"] == group)
    (container,) = found["template"]["spec"]["containers"]
    parameters = dict(found["rayStartParams"])
    limits = container["resources"]["limits"]
    if "cpu" in limits:
        parameters.setdefault("num-cpus", limits["cpu"])
    parameters.update({name.replace("_", "-"): value for name, value in changes.items()})
    role = "--head" if group == "head" else "--address=tuner-head-svc:6379"
    words = [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in parameters.items()]
    return Container(["ray", "start", role, *words], _pod_environment(container, {}))


def pod(kind: str, given: Mapping[str, str], **words: str) -> Container:
    """The container of the Job or the Deployment. given: values of the Secrets' keys. words: replace some of its command."""
    (container,) = KUBERAY[kind]["spec"]["template"]["spec"]["containers"]
    return Container([words.get(word, word) for word in container["command"]], _pod_environment(container, given))


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """`text` with ${NAME}, ${NAME:-default} and ${NAME:?message} replaced, as Compose does."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if kind == "?" and not variables.get(name):
            raise KeyError(rest)
        return variables.get(name) or (rest if kind == "-" else "")

    return _VARIABLE.sub(value, str(text))


def _instruction(name: str) -> list[str]:
    """The last ENTRYPOINT or CMD of the Dockerfile."""
    return [str(word) for word in yaml.safe_load(re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)[-1])]


def _image_environment() -> dict[str, str]:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    words = [word for line in re.findall(r"^ENV (.*)$", final, re.MULTILINE) for word in shlex.split(line)]
    return dict(word.split("=", 1) for word in words)


def _pod_environment(container: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    found = {one["name"]: one["value"] if "value" in one else given[one["valueFrom"]["secretKeyRef"]["key"]] for one in container["env"]}
    return _image_environment() | found


class Machines:
    """Runs containers side by side. What a network or an engine would give them is replaced: host names, ports, paths and the image's PATH.

    folder: with `secrets`, for /run/secrets, and `work`, the current folder of every container, which they share.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"{_HEAD}:{free_port()}"
        self.dashboard_port = free_port()
        self.replaced = {"/run/secrets/": f"{folder}/secrets/", "8080": str(self.dashboard_port), "0.0.0.0": "127.0.0.1"}
        for name in ("ray-head:6379", "tuner-head-svc:6379", "127.0.0.1:6379"):
            self.replaced[name] = self.address
        self._running: list[subprocess.Popen[bytes]] = []
        for name in ("secrets/ray", "work"):
            (folder / name).mkdir(parents=True)
        programs = [str(folder / "bin"), str(Path(sys.executable).parent), "/usr/bin", "/bin"]
        shutil.copytree(ROOT / "deploy", folder / "bin")
        self._around = {"PATH": os.pathsep.join(programs), "HOME": str(folder), "RAY_TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}

    def keep_secret(self, name: str, value: str) -> None:
        """Makes it readable below /run/secrets."""
        (self.folder / "secrets" / name).write_text(value)

    def start(self, container: Container, log: str) -> subprocess.Popen[bytes]:
        """A container that goes on beside the test."""
        command, environment = self._here(container)
        with self.log(log).open("wb") as output:
            process = subprocess.Popen(
                ["nice", "-n", "10", *command],
                cwd=self.folder / "work",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def run(self, container: Container, log: str) -> int:
        """A container until it ends; its exit code."""
        return self.start(container, log).wait(PATIENCE_S)

    def start_node(self, container: Container, log: str, *, place: int) -> subprocess.Popen[bytes]:
        """A node of Ray at an address of its own, as each container has; returns once others can reach it.

        On a busy machine Ray gives itself up while it starts, and then it is started again, as its service says.
        """
        options = [f"--node-ip-address=127.0.0.{place}", "--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
        # Each container has ports of its own, too.
        command = [re.sub(r"^--port=6379$", f"--port={self.address.rpartition(':')[2]}", word) for word in container.command]
        command = [re.sub(r"^(--node-manager-port)=\d+$", f"\\1={free_port()}", word) for word in command]
        deadline_s = time.monotonic() + PATIENCE_S
        process = self.start(Container([*command, *options], container.environment), log)
        # The only words that a head and other nodes have in common once they run.
        while "--block" not in self.said(log):
            assert time.monotonic() < deadline_s, self.said(log)
            if process.poll() is not None:
                process = self.start(Container([*command, *options], container.environment), log)
            time.sleep(0.1)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """What an engine does to a container that is to go at once: asks, waits a second, kills. Ray would take half a minute."""
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        for pid in [*descendants(process.pid), process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(PATIENCE_S)

    def wait_for(self, what: Callable[[], Any], process: subprocess.Popen[bytes], log: str) -> Any:
        """The first answer that is true, while the container lives."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not (found := what()):
            assert process.poll() is None, f"{log} ended:\n{self.said(log)}"
            assert time.monotonic() < deadline_s, f"waited for {log} too long:\n{self.said(log)}"
            time.sleep(0.1)
        return found

    def log(self, name: str) -> Path:
        """Where a container's words are."""
        return self.folder / f"{name}.log"

    def said(self, name: str) -> str:
        """What a container has said so far."""
        return self.log(name).read_text(errors="replace")

    def close(self) -> None:
        """Ends every container, and what they left behind."""
        for process in self._running:
            if process.poll() is None:
                self.stop(process)
        # What has left its container's processes; an engine would have taken it along.
        kill_users_of(self.folder)

    def _here(self, container: Container) -> tuple[list[str], dict[str, str]]:
        environment = {name: self._replaced(value) for name, value in container.environment.items() if name != "PATH"}
        return [self._replaced(word) for word in container.command], environment | self._around

    def _replaced(self, text: str) -> str:
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        return text


@contextmanager
def running_machines() -> Iterator[Machines]:
    """Ends with everything that was started. In the short `/tmp`: the paths of Ray's sockets must be short."""
    folder = Path(tempfile.mkdtemp(prefix="cl-", dir="/tmp" if Path("/tmp").is_dir() else None))
    found = Machines(folder)
    try:
        yield found
    finally:
        found.close()
        shutil.rmtree(folder, ignore_errors=True)
