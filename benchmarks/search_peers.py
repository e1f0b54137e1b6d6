"""Samplers of packages that get an environment of their own: our side of the pipe. The other side is search_peer_process.py.

They are told every finished trial, start points and full-resolution rivals included, as the canonical point that was trained, and which
trials are under way.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from studies.domains import Choice, Range
from studies.space import SearchSpace
from trainers.errors import RunError
from tuner.results.front import ACCURACY, TIME
from tuner.samplers.canonical import CanonicalSampler

_PROCESS: Final = Path(__file__).with_name("search_peer_process.py")


class Peer(NamedTuple):
    """seeds: at most so many, because a proposal takes it seconds."""

    package: str
    says: str
    seeds: int | None = None


PEERS: Final = {
    "ax": Peer("ax-platform==1.3.1", "Ax with its defaults: Gaussian processes, qLogNEHVI", seeds=5),
    "syne_morea": Peer(
        "syne-tune==0.16.0",
        "Syne Tune's multi-objective regularized evolution as it ships: its NonDominatedPriority takes places for ranks, so parents are "
        "often dominated ones",
    ),
    "syne_morea_mended": Peer("syne-tune==0.16.0", "the same with ranks in place of places, and a population of 25 instead of 100"),
}


class NotInstalled(RunError):  # noqa: N818  a reason not to measure, not a mistake
    """A package does not install here."""


@contextmanager
def environment(package: str) -> Iterator[str]:
    """The interpreter of a throw-away environment with a package; NotInstalled, with the installer's last word, where there is none."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent.parent / "uv" / "bin"))
    if uv is None:
        raise NotInstalled("uv, which makes the environment, is not installed")
    with tempfile.TemporaryDirectory(prefix="downsample-tuner-peer-") as folder:
        python = str(Path(folder) / "bin" / "python")
        # Our own pins are none of the package's business.
        for command in (
            [uv, "venv", "--no-config", "--quiet", "--clear", "--python", sys.executable, folder],
            [uv, "pip", "install", "--no-config", "--quiet", "--python", python, package],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NotInstalled((done.stderr.strip().splitlines() or ["uv failed without a word"])[-1])
        yield python


@contextmanager
def peer_sampler(name: str, task: Any) -> Iterator[BaseSampler]:
    """The sampler of a peer for one run; its process ends with it. task: a search_methods.Task."""
    space, objectives = task.table.spec.search, task.table.spec.objectives
    command = [task.python, str(_PROCESS), name]
    with (
        tempfile.TemporaryFile("w+") as said,
        # Nothing of ours is importable there: a peer with another version of a package of ours would take it.
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=_environment()) as process,
    ):
        try:
            pipe = _Pipe(process, said)
            pipe.ask({"space": _space(space), "seed": task.seed, "reference": list(task.table.reference)})
            yield CanonicalSampler(PeerSampler(pipe, space, objectives, task.seed), space)
        finally:
            process.kill()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}


class _Pipe:
    def __init__(self, process: subprocess.Popen[str], said: IO[str]) -> None:
        self._process = process
        self._said = said

    def ask(self, message: dict[str, Any]) -> Any:
        """The answer to a message; RunError with the process's last word where it has died."""
        stdin, stdout = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        try:
            stdin.write(json.dumps(message) + "\n")
            stdin.flush()
            answer = stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._said.seek(0)
            raise RunError(f"the peer's process died: {(self._said.read().strip().splitlines() or ['without a word'])[-1]}")
        return json.loads(answer)


class PeerSampler(BaseSampler):
    """Asks the peer's process for each proposal, and tells it the news. Fields that a proposal must have are forced on it afterwards."""

    def __init__(self, pipe: _Pipe, space: SearchSpace, objectives: Sequence[str], seed: int) -> None:
        self._pipe = pipe
        self._searched = space.searched
        self._objectives = [objectives.index(TIME), objectives.index(ACCURACY)]
        self._told: set[int] = set()
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        running = [[other.number, other.params] for other in others if other.state == TrialState.RUNNING and other.params]
        ended = [other for other in others if other.state == TrialState.COMPLETE and other.number not in self._told]
        told = [[other.number, other.params, [other.values[index] for index in self._objectives]] for other in ended]
        self._told |= {other.number for other in ended}
        proposed = self._pipe.ask({"running": running, "told": told})
        return {field: _member(domain, proposed[field]) for field, domain in self._searched.items()}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)


def _member(domain: Choice | Range, value: Any) -> Any:
    return value if isinstance(domain.canonical, str) else domain.nearest(value)


def _space(space: SearchSpace) -> list[dict[str, Any]]:
    """Fields as both sides write them: members in their order, or the ends of a continuum."""
    return [_field(name, domain) for name, domain in space.searched.items()]


def _field(name: str, domain: Choice | Range) -> dict[str, Any]:
    log = isinstance(domain, Range) and domain.log
    members = domain.members
    if members is not None and not log:
        return {"name": name, "members": list(members), "ordered": not isinstance(members[0], str)}
    return {"name": name, "low": domain.lowest, "high": domain.highest, "log": log, "integer": members is not None}
