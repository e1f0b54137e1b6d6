"""The Ray cluster that a launch runs on: started here on loopback, or an existing one."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console

import studies
import trainers
import tuner
from studies.spec import StudySpec
from trainers.cores import available_cores
from trainers.environment import training_environment
from trainers.errors import RunError
from tuner.launching.display import waiting
from tuner.launching.ray_token import ray_token
from tuner.storage.opening import forget_secrets

# Ray and Tune read these when they are imported or started.
_SETTINGS = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers use this environment, not one that uv would build anew
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results live in the database, not in Tune's log files
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: it has to say how to go on
    "TUNE_FORCE_TRIAL_CLEANUP_S": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
# Ray binds its servers to every interface unless the node's address is loopback, and this is what makes it choose loopback.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

_RAY_TIMEOUT = "timed out during startup"


@contextmanager
def ray_cluster(address: str | None, spec: StudySpec, console: Console) -> Iterator[int]:
    """A connection to Ray; yields how many trials the cluster can train at once. RunError where not even one fits."""
    forget_secrets()
    os.environ.update(_SETTINGS if address else {**_SETTINGS, **_LOOPBACK})
    with ray_token(address):
        with waiting(console, "connecting to Ray" if address else "starting Ray"):
            _connect(address, _runtime_env(spec, remote=address is not None))
        import ray

        try:
            yield _slots(ray.nodes(), spec)
        finally:
            ray.shutdown()


def _connect(address: str | None, runtime_env: dict[str, Any]) -> None:
    import ray

    try:
        ray.init(
            address=address or "local",  # None would join whatever cluster was started on this machine
            # A launch never gives out more threads than there are cores that it may use.
            num_cpus=None if address else len(available_cores()),
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=runtime_env,
        )
    # Ray raises bare exceptions too, such as for a node that takes too long to start.
    except Exception as error:  # noqa: BLE001
        place, reason = f"at {address}" if address else "on this machine", " ".join(str(error).split())
        if _RAY_TIMEOUT in reason:
            why = "did not start in time, probably because the machine is busy"
            raise RunError(f"Ray {place} {why}: give the same command again") from None
        raise RunError(f"Ray {place} can't be used: {reason}") from None


def _slots(nodes: list[dict[str, Any]], spec: StudySpec) -> int:
    """How many trials fit at once, node by node: a trial doesn't spread over two."""
    slots = 0
    for node in nodes:
        if node["Alive"]:
            have = node["Resources"]
            fits = [int(have.get("CPU", 0) // spec.resources.cpus)]
            if spec.resources.gpus:
                fits.append(int(have.get("GPU", 0) / spec.resources.gpus))
            slots += min(fits)
    if slots == 0:
        cpus, gpus = (sum(node["Resources"].get(kind, 0) for node in nodes if node["Alive"]) for kind in ("CPU", "GPU"))
        raise RunError(
            f"a trial asks for {spec.resources.cpus} cores and {spec.resources.gpus:g} GPUs, but no node has them: "
            f"the cluster has {cpus:g} cores and {gpus:g} GPUs in all"
        )
    return slots


def _runtime_env(spec: StudySpec, *, remote: bool) -> dict[str, Any]:
    """What trainings want set before their process starts; on a remote cluster our code too."""
    variables = training_environment(spec.resources.cpus)
    if not remote:
        # Workers of a local cluster share the disk, but not the current folder in sys.path, where a user's `module:factory` lies.
        variables["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {"env_vars": variables}
    modules: list[ModuleType | str] = [trainers, studies, tuner]
    if ":" in spec.model:
        modules.append(_source_of(spec.model.partition(":")[0]))
    return {"env_vars": variables, "py_modules": modules}


def _source_of(module: str) -> str:
    """File or package folder of the user's module, to be sent to every node."""
    sys.path.insert(0, str(Path.cwd()))
    found = importlib.util.find_spec(module.partition(".")[0])
    if found is None or found.origin is None:
        raise RunError(f"module '{module}' of the study's model was not found from {Path.cwd()}")
    origin = Path(found.origin)
    return str(origin.parent if origin.name == "__init__.py" else origin)
