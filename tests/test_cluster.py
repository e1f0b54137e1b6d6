"""The cluster of docker-compose.yml and deploy/kuberay.yaml as real processes: trials land on every worker, one leaves and comes back."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from containers import COMPOSE, PATIENCE_S, ROOT, Container, composed, pod, ray_node, running_machines
from filled import TINY
from postgres import missing_binaries, postgres_server
from priced import make_priced
from test_ray_token import STRANGER, processes_with
from yaml import safe_dump

from benchmarks.fault_ray import descendants
from tuner.launching.trial_log import LOG_NAME

CLUSTER_MD = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
TRIALS = 8
# Seconds a training: a worker is to leave in the middle of one, and to come back before all are done.
STUDY = TINY | {
    "dataset": {"name": "digits", "train_images": 1200, "val_images": 60},
    "training": TINY["training"] | {"epochs": 8},
    "search": TINY["search"] | {"epochs": {"low": 4, "high": 8}},
    "budget": {"trials": TRIALS},
}


@pytest.fixture(scope="module")
def cluster():
    """The database with its role, and Ray's head, well by docker-compose.yml's own look at it."""
    if reason := missing_binaries():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    names = ("POSTGRES_PASSWORD", "TUNER_PASSWORD", "RAY_TOKEN", "TUNER_DASHBOARD_TOKEN")
    variables = {name: secrets.token_hex(24) for name in names} | {"WORKER_CPUS": "1", "TUNER_STUDY": STUDY["name"]}
    with postgres_server(password=variables["POSTGRES_PASSWORD"]) as server, running_machines() as machines:
        make_role(server, variables)
        machines.replaced["postgres:5432"] = f"127.0.0.1:{server.port}"
        for name, source in COMPOSE["secrets"].items():
            machines.keep_secret(name, variables[source["environment"]])
        machines.keep_secret("ray/auth_token", variables["RAY_TOKEN"])
        url = f"postgresql://tuner:{variables['TUNER_PASSWORD']}@127.0.0.1:{server.port}/tuner"
        (machines.folder / "work" / "tiny.yaml").write_text(safe_dump(STUDY))
        machines.start_node(composed("ray-head", variables), "head", place=2)
        make_priced(url.replace("postgresql:", "postgresql+psycopg:"), STUDY)
        look = COMPOSE["services"]["ray-head"]["healthcheck"]["test"][1:]
        assert machines.run(composed("ray-head", variables, *look), "health") == 0, machines.said("health")
        yield SimpleNamespace(machines=machines, variables=variables, url=url)


def make_role(server, variables):
    subprocess.run(
        ["psql", server.url, "--no-psqlrc", "--file", ROOT / "docs" / "postgresql.sql"],
        env={**os.environ, "PGPASSWORD": variables["POSTGRES_PASSWORD"], "TUNER_PASSWORD": variables["TUNER_PASSWORD"]},
        capture_output=True,
        check=True,
    )


def trained(machines):
    """Processes that have begun to train something, as the logs of trials say."""
    return {pid for path in trial_logs(machines) for pid in trainers_in(path)}


def finishers(machines):
    """Of each root trial the process that was the last one to train it."""
    newest = {path.relative_to(machines.folder / "work" / "runs").parts[1]: path for path in trial_logs(machines)}
    return [trainers_in(path)[-1] for path in newest.values()]


def trial_logs(machines):
    """The oldest first."""
    return sorted((machines.folder / "work" / "runs").rglob(f"*{LOG_NAME}"), key=lambda path: path.stat().st_mtime)


def trainers_in(log):
    return [int(pid) for pid in re.findall(r"attempt \d+ on \S+, process (\d+)", log.read_text(errors="replace"))]


def command_lines():
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                continue
    return found


def documented_worker(variables):
    """What docs/cluster.md starts on another machine."""
    (line,) = re.findall(r"^ +(RAY_AUTH_MODE=token ray start --address=.*?)(?: +#.*)?$", CLUSTER_MD, re.MULTILINE)
    setting, *command = shlex.split(line)
    name, value = setting.split("=")
    command = [word.replace("10.0.0.1:6379", "ray-head:6379") for word in command]
    return Container([*command, "--num-cpus=1", "--num-gpus=0"], {name: value, "RAY_AUTH_TOKEN_PATH": "/run/secrets/ray_token"})


def look_at_the_dashboard(cluster):
    machines, variables = cluster.machines, cluster.variables
    dashboard = machines.start(composed("dashboard", variables), "dashboard")
    machines.wait_for(lambda: "http://" in machines.said("dashboard"), dashboard, "dashboard")
    look = COMPOSE["services"]["dashboard"]["healthcheck"]["test"][1:]
    assert machines.run(Container(look), "look") == 0, machines.said("look")
    url = f"http://127.0.0.1:{machines.dashboard_port}/"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url, timeout=20)
    with urllib.request.urlopen(f"{url}?token={variables['TUNER_DASHBOARD_TOKEN']}", timeout=20) as answer:
        assert answer.status == 200
    assert variables["TUNER_DASHBOARD_TOKEN"] not in machines.said("dashboard")
    dashboard.terminate()
    dashboard.wait(60)


def test_trials_land_on_every_worker_and_one_leaves_and_comes_back(cluster):
    machines, variables = cluster.machines, cluster.variables

    def trained_on(node):
        return machines.wait_for(lambda: trained(machines) & set(descendants(node.pid)), launch, "launch")

    first = machines.start_node(composed("worker", variables), "first", place=3)
    second = machines.start_node(ray_node("cpu", num_cpus="1"), "second", place=4)
    launch = machines.start(composed("launch", variables, "tuner", "launch", "tiny.yaml"), "launch")
    on_first, on_second = trained_on(first), trained_on(second)
    machines.stop(second)
    third = machines.start_node(documented_worker(variables), "third", place=5)
    on_third = trained_on(third)
    assert not on_first & on_second
    assert not on_third & (on_first | on_second)
    assert processes_with(variables["RAY_TOKEN"]) == []
    assert not any(variables["TUNER_PASSWORD"] in line for line in command_lines())
    look_at_the_dashboard(cluster)

    assert launch.wait(PATIENCE_S) == 0, machines.said("launch")
    check = Container(["tuner", "check", "tiny"], pod("Job", {"url": cluster.url}).environment)
    assert machines.run(check, "check") == 0, machines.said("check")
    assert f"{TRIALS} of {TRIALS} trials asked for are finished" in " ".join(machines.said("check").split())
    # What the second worker had begun, another one has finished.
    assert len(finishers(machines)) == TRIALS
    assert not on_second & set(finishers(machines))


def test_who_has_no_token_stays_outside(cluster):
    machines, worker = cluster.machines, composed("worker", cluster.variables)
    bare = {name: value for name, value in worker.environment.items() if not name.startswith("RAY_AUTH")}
    hasty = bare | {"RAY_NUM_REDIS_GET_RETRIES": "1"}
    driver = ["python", "-c", STRANGER, machines.address]
    strangers = {
        "worker": Container(worker.command, bare),
        "driver": Container(driver, hasty),
        "guesser": Container(driver, hasty | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 48}),
    }
    running = {name: machines.start(stranger, name) for name, stranger in strangers.items()}
    for name, process in running.items():
        assert process.wait(PATIENCE_S) != 0, machines.said(name)
        assert "Authentication token is missing or incorrect" in machines.said(name)
