"""`tuner doctor` and the start of a launch: everything that would keep trials from being trained, said at once."""

from __future__ import annotations

import dataclasses
import json
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, false, make_url, select, text
from sqlalchemy.exc import SQLAlchemyError

from studies.space import possible_steps
from studies.spec import StudySpec
from trainers.config import TrainConfig
from trainers.errors import DownsampleTunerError, InputError, RunError
from tuner.launching.image_checks import check_images
from tuner.launching.node_checks import (
    LEAST_FREE_MIB,
    Finding,
    NodeOrder,
    check_cores,
    check_disk,
    check_gpus,
    check_load,
    check_module,
    check_network,
    check_node,
    check_place,
    check_versions,
    node_versions,
)
from tuner.launching.places import CHECKPOINTS, DEFAULT_PLACE
from tuner.launching.timing import data_root, trial_device
from tuner.results.describe import printable
from tuner.storage.lookup import spec_to_launch
from tuner.storage.opening import GRACE_S, holds_studies, masked, open_storage, resolve_url
from tuner.storage.sqlite_file import check_sqlite_file
from tuner.storage.store import StudyStore

# Importing torch from a busy disk takes a minute.
NODE_PATIENCE_S: Final = 180.0
_CONNECT_S: Final = 3.0
_MARKS: Final = {True: ("✓", "green"), False: ("✗", "red"), None: ("\N{EN DASH}", "dim")}
_WARNING_MARK: Final = ("!", "yellow")


def show_doctor(study: str | None, storage: str | None, address: str | None, checkpoints: str | None, as_json: bool) -> None:
    """`tuner doctor`: all findings, and exit code 1 where one would keep a launch from beginning."""
    spec = None
    if study is not None:
        # A database that is away is one finding among others; what else can't be known without it is left out.
        with suppress(RunError):
            spec = spec_to_launch(study, storage, [])
    url = resolve_url(storage, spec.storage if spec else None)
    place = checkpoints or kept_place(spec, url)
    findings = check_here(spec, url, place, address=address)
    if spec is not None:
        findings += _nodes_of(spec, place, address, Console(stderr=True)) if address else [check_load(), *check_this_node(spec, place)]
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        Console().print(_table(findings))
    if any(finding.ok is False and finding.stops for finding in findings):
        sys.exit(1)


def check_here(
    spec: StudySpec | None,
    database: str | RDBStorage,
    place: str,
    *,
    address: str | None = None,
    least_free_mib: float = LEAST_FREE_MIB,
) -> list[Finding]:
    """What can be seen from this host within seconds, without Ray and torch.

    spec: None leaves out what depends on a study. database: a URL as `resolve_url` gives it, or the storage where it is open.
    place: of checkpoints, a folder or URL. address: of the Ray cluster to use, None for one that is started here.
    """
    url = make_url(database) if isinstance(database, str) else database.engine.url
    kept = {"checkpoints": place, "temporary files": tempfile.gettempdir()}
    if url.drivername == "sqlite" and url.database:
        kept["database"] = str(Path(url.database).absolute().parent)
    findings = [check_versions(), *check_disk(kept, least_free_mib), check_place(place), *check_database(database)]
    if address is not None:
        findings.append(check_address(address))
    elif spec is not None:
        findings.append(check_cores(spec.resources.cpus))
    if spec is not None:
        if address is None:
            findings += check_images(_training(spec))
        if (module := check_module(spec.model)) is not None:
            findings.append(module)
    return findings


def check_this_node(spec: StudySpec, place: str, *, with_gpus: bool = True) -> list[Finding]:
    """The slow rest of what a node must be able to, in this process: its network at all sides, and a full step on its GPUs."""
    order = NodeOrder(_training(spec), place, trials=1, gpus=spec.resources.gpus, steps=possible_steps(spec.search, spec.dataset.full_px))
    return [*check_network(order), *(check_gpus(order) if order.gpus and with_gpus else [])]


def check_nodes(spec: StudySpec, place: str) -> list[Finding]:
    """The same on every node of the cluster that Ray is connected to, side by side. What doesn't answer in NODE_PATIENCE_S is a finding."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    with _marker(place, needed=len(nodes) > 1 or nodes[0]["NodeManagerHostname"] != socket.gethostname()) as marker:
        tasks: list[tuple[str, str, Any]] = []
        for node in nodes:
            order = NodeOrder(_training(spec), place, _trials(node, spec), spec.resources.gpus, marker, node_versions())
            tasks.append((_name(node), "node", _on(ray.remote(check_node), node, num_cpus=0).remote(order)))
            gpus = max(1.0, spec.resources.gpus)
            for _ in range(int(node["Resources"].get("GPU", 0) // gpus) if spec.resources.gpus else 0):
                tasks.append((_name(node), "GPU memory", _on(ray.remote(check_gpus), node, num_cpus=0, num_gpus=gpus).remote(order)))
        ready, _ = ray.wait([task for *_, task in tasks], num_returns=len(tasks), timeout=NODE_PATIENCE_S)
        return together([(name, _answer(what, task, answered=task in ready)) for name, what, task in tasks])


def check_database(database: str | RDBStorage) -> list[Finding]:
    """Whether it answers, lets every table be written, and has this host's time. Nothing is made or changed."""
    try:
        storage = _opened(database) if isinstance(database, str) else database
        if storage is None:
            return [Finding("database", True, f"{masked(str(database))} has no studies yet, the first launch makes its tables")]
        with storage.engine.connect() as connection:
            _write_nothing(connection)
            ahead_s = _seconds_ahead(connection)
    except InputError as error:
        return [Finding("database", False, str(error))]
    except RunError as error:
        return [Finding("database", False, str(error) if str(error).endswith("?") else f"{error}: is it running, and is its URL right?")]
    except SQLAlchemyError as error:
        reason = masked(str(getattr(error, "orig", None) or error).strip().splitlines()[0])
        return [Finding("database", False, f"the database can't be written: {reason}")]
    written = Finding("database", True, f"{storage.url} answers and can be written")
    return [written] if ahead_s is None else [written, _clock(ahead_s)]


def check_address(address: str) -> Finding:
    """Whether something listens at a cluster's address; Ray itself compares versions when it connects."""
    if address in ("auto", "local"):
        return Finding("Ray", None, f"the address is '{address}', which Ray looks up when it connects")
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return Finding("Ray", False, f"the address is '{address}', it must be host:port, ray://host:port or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        return Finding("Ray", False, f"nothing answers at {address} ({error}): is 'ray start --head' running there, and the port open?")
    return Finding("Ray", True, f"something listens at {address}")


def raise_problems(findings: Sequence[Finding]) -> None:
    """RunError with all that keeps a launch from beginning, one sentence a line."""
    problems = [finding.sentence for finding in findings if finding.ok is False and finding.stops]
    if len(problems) > 1:
        raise RunError("\n- ".join([f"{len(problems)} things keep this launch from beginning:", *problems]))
    if problems:
        raise RunError(problems[0])


def warnings_in(findings: Sequence[Finding]) -> list[str]:
    """What is wrong and no reason not to begin."""
    return [finding.sentence for finding in findings if finding.ok is False and not finding.stops]


def together(answers: Sequence[tuple[str, list[Finding]]]) -> list[Finding]:
    """One finding for what is right on all nodes, and one for each node where it is not. answers: by the node's name, which may recur."""
    names = list(dict.fromkeys(name for name, _ in answers))
    if len(names) == 1:
        return [finding for _, findings in answers for finding in findings]
    found: list[Finding] = []
    for what in dict.fromkeys(finding.what for _, findings in answers for finding in findings):
        of_nodes = [(name, finding) for name, findings in answers for finding in findings if finding.what == what]
        if all(finding.ok for _, finding in of_nodes):
            found.append(dataclasses.replace(of_nodes[0][1], sentence=f"on all {len(names)} nodes; {of_nodes[0][1].sentence}"))
        else:
            found += [dataclasses.replace(finding, sentence=f"node {name}: {finding.sentence}") for name, finding in of_nodes]
    return found


def _nodes_of(spec: StudySpec, place: str, address: str, console: Console) -> list[Finding]:
    from tuner.launching.cluster import ray_cluster

    try:
        with ray_cluster(address, spec, console):
            return check_nodes(spec, place)
    except RunError as error:
        return [Finding("Ray", False, str(error))]


def _answer(what: str, task: Any, *, answered: bool) -> list[Finding]:
    import ray

    if answered:
        try:
            findings: list[Finding] = ray.get(task)
        except ray.exceptions.RayError as error:
            return [Finding(what, False, f"it could not be checked: {' '.join(str(error).split())[-500:]}")]
        return findings
    ray.cancel(task, force=True)
    if what == "GPU memory":
        return [Finding(what, None, f"a GPU has been busy for {NODE_PATIENCE_S:g} s, so no step was made on it")]
    return [Finding(what, False, f"it has not answered for {NODE_PATIENCE_S:g} s: a folder of its disks may hang")]


def _on(task: Any, node: dict[str, Any], **options: float) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return task.options(max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False), **options)


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:6]})"


def _trials(node: dict[str, Any], spec: StudySpec) -> int:
    """How many trials the node trains at once."""
    have, wanted = node["Resources"], spec.resources
    by_gpus = [int(have.get("GPU", 0) / wanted.gpus)] if wanted.gpus else []
    return min(int(have.get("CPU", 0) // wanted.cpus), *by_gpus) if by_gpus else int(have.get("CPU", 0) // wanted.cpus)


@contextmanager
def _marker(place: str, *, needed: bool) -> Iterator[str | None]:
    """A file in the folder that all nodes should see; None where the place is a URL or no other machine takes part."""
    with ExitStack() as stack:
        file = None
        if needed and "://" not in place:
            folder = Path(place).expanduser().absolute()
            # Where it can't be made, the place itself is a finding.
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix="shared-with-nodes-"))
        yield file.name if file else None


def _training(spec: StudySpec) -> TrainConfig:
    return spec.train_config(
        spec.baseline_params(), spec.seed, device=trial_device(spec), threads=spec.resources.cpus, root=data_root(spec)
    )


def kept_place(spec: StudySpec | None, url: str) -> str:
    """Where the study keeps its checkpoints, or would; asking must not make it."""
    kept = None
    with suppress(DownsampleTunerError):
        if spec is not None and (storage := _opened(url)) is not None and spec.name in StudyStore.names(storage):
            kept = StudyStore.load(storage, spec.name).get_attr(CHECKPOINTS)
    return str(kept or Path(DEFAULT_PLACE).absolute())


def _opened(url: str) -> RDBStorage | None:
    return open_storage(url) if holds_studies(check_sqlite_file(url)) else None


def _write_nothing(connection: Connection) -> None:
    """Copies no row into every table: refused by a read-only database and by missing rights all the same."""
    for table in models.BaseModel.metadata.sorted_tables:
        names = [column.name for column in table.columns]
        connection.execute(table.insert().from_select(names, select(table).where(false()), include_defaults=False))
    connection.rollback()


def _seconds_ahead(connection: Connection) -> float | None:
    """How far the database's clock is ahead of this host's; None where it is the same."""
    if connection.dialect.name == "sqlite":
        return None
    asked_s = time.time()
    there_s = float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return there_s - (asked_s + time.time()) / 2


def _clock(ahead_s: float) -> Finding:
    if abs(ahead_s) <= GRACE_S:
        return Finding("clock", True, f"{abs(ahead_s):.1f} s from the database's")
    direction = "ahead of" if ahead_s > 0 else "behind"
    return Finding("clock", False, f"the database's clock is {abs(ahead_s):.0f} s {direction} this host's: set both by NTP", stops=False)


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 1))
    for finding in findings:
        mark, colour = _WARNING_MARK if finding.ok is False and not finding.stops else _MARKS[finding.ok]
        table.add_row(Text(mark, style=colour), Text(finding.what), Text(printable(finding.sentence)))
    return table
