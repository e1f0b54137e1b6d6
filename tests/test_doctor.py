"""`tuner doctor` and the start of a launch: everything that is wrong is found, and said at once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filled import TINY, filled_store, tiny_spec
from PIL import Image
from postgres import free_port
from psycopg import sql
from yaml import safe_dump

from trainers.errors import RunError
from tuner.launching import doctor, node_checks
from tuner.launching.doctor import check_address, check_database, check_here, check_this_node, raise_problems, together, warnings_in
from tuner.launching.image_checks import check_images
from tuner.launching.node_checks import (
    Finding,
    NodeOrder,
    check_data,
    check_disk,
    check_network,
    check_node,
    check_place,
    check_shared,
    class_count,
)
from tuner.storage.opening import open_storage, resolve_url

TUNER = Path(sys.executable).parent / "tuner"
PATIENCE_S = 240
DEAD = "postgresql+psycopg://nobody@127.0.0.1:1/none"


def folder_study(root, **changes):
    """The small study on an image folder."""
    return tiny_spec(dataset={"name": "folder", "root": str(root), "side_px": 32}, **changes)


def images(root, each=1, side_px=None):
    """Two classes; without a side the files are none."""
    for name in ("cat", "dog"):
        (root / "train" / name).mkdir(parents=True)
        for number in range(each):
            file = root / "train" / name / f"{number}.png"
            Image.new("RGB", (side_px, side_px)).save(file) if side_px else file.write_bytes(b"png")
    return root


def sqlite(tmp_path):
    return f"sqlite:///{tmp_path / 'tuner.db'}"


def wrong(findings):
    return {finding.what: finding.sentence for finding in findings if finding.ok is False}


def test_nothing_is_wrong_where_nothing_is(tmp_path):
    spec = folder_study(images(tmp_path, each=6, side_px=32), training={**TINY["training"], "batch_size": 1})
    findings = check_here(spec, sqlite(tmp_path), str(tmp_path / "runs"))
    assert [finding.what for finding in findings if not finding.ok] == []
    assert {finding.what for finding in findings} == {
        "versions",
        "disk",
        "checkpoints",
        "database",
        "cores",
        "dataset",
        "image size",
        "steps",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train"], "something was made"


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    spec = folder_study(tmp_path / "nowhere", resources={"cpus": 4096}, model="my_networks:factory")
    findings = check_here(spec, DEAD, str(tmp_path / "file" / "runs"), least_free_mib=1e12)
    found = wrong(findings)
    assert found.keys() == {"disk", "checkpoints", "database", "cores", "dataset", "network"}
    with pytest.raises(RunError, match=r"^6 things keep this launch from beginning:\n- ") as raised:
        raise_problems(findings)
    assert str(raised.value).splitlines()[1:] == [f"- {sentence}" for sentence in found.values()]


def test_one_problem_is_one_sentence():
    with pytest.raises(RunError, match=r"^the disk is full$"):
        raise_problems([Finding("disk", False, "the disk is full"), Finding("cores", True, "2"), Finding("Ray", None, "not looked at")])


def test_what_is_only_worth_a_warning_stops_no_launch():
    findings = [Finding("clock", False, "the clock is late", stops=False), Finding("disk", True, "fine")]
    raise_problems(findings)
    assert warnings_in(findings) == ["the clock is late"]


def test_a_full_disk(tmp_path):
    (finding,) = check_disk({"checkpoints": str(tmp_path / "not" / "made"), "database": str(tmp_path)}, least_free_mib=1e12)
    assert finding.ok is False
    assert finding.sentence.startswith("only ")
    assert f"are free at {tmp_path} (checkpoints), a launch needs at least 976562500.0 GiB: free some, or" in finding.sentence
    (finding,) = check_disk({"checkpoints": str(tmp_path)}, least_free_mib=0)
    assert finding.ok
    assert check_disk({"checkpoints": "s3://bucket/folder"}, least_free_mib=1e12) == []


def test_a_place_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    finding = check_place(str(tmp_path / "file" / "runs"))
    assert finding.ok is False
    assert f"{tmp_path / 'file'} is a file" in finding.sentence
    assert "--checkpoints" in finding.sentence
    assert check_place("/proc/runs").ok is False
    assert check_place("gopher://host/runs").ok is False
    assert check_place("memory://doctor").ok
    assert check_place(str(tmp_path / "new" / "runs")).ok
    assert not (tmp_path / "new").exists()


def image_warnings(spec):
    return {finding.what: finding.sentence for finding in check_images(order(spec, ".").config) if finding.ok is False}


def test_images_far_smaller_than_the_side_and_short_epochs_are_warned_of(tmp_path):
    """Forty images, of which a tenth validates: 36 are two steps of 16, and twelve of 3."""
    images(tmp_path, each=20, side_px=20)
    of_16, of_3 = ({**TINY["training"], "batch_size": size} for size in (16, 3))
    # 32 px are more than one and a half times 20, but not than 22.
    assert image_warnings(folder_study(tmp_path, training=of_16)) == {
        "image size": "half of the images have at most 20 px on their shorter side, dataset.side_px is 32: "
        "enlarging them costs time and adds nothing, set it to 20",
        "steps": "an epoch has 2 steps: 36 images in batches of 16, too few for schedules to differ: "
        "set training.batch_size to 8, and lr lower in proportion",
    }
    assert image_warnings(folder_study(tmp_path, training=of_3)).keys() == {"image size"}
    for file in (tmp_path / "train").rglob("*.png"):
        Image.new("RGB", (50, 22)).save(file)
    assert image_warnings(folder_study(tmp_path, training=of_3)) == {}
    assert all(not finding.stops for finding in check_images(order(folder_study(tmp_path), ".").config)[1:])


def test_a_network_for_one_side_is_found_before_a_launch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("flat_network.py").write_text(
        "from torch import nn\n\ndef flat(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))\n"
    )
    (finding,) = check_this_node(tiny_spec(model="flat_network:flat"), str(tmp_path))
    assert finding.ok is False
    assert "can't take a reduced side of 16 px" in finding.sentence
    assert finding.stops
    (finding,) = check_this_node(tiny_spec(), str(tmp_path))
    assert finding.sentence == "'cifar_resnet8' with 10 classes takes 2 sides from 16 to 32 px; a checkpoint takes about 1 MiB"


def test_a_dataset_that_is_missing(tmp_path):
    spec = folder_study(tmp_path)
    assert "can't be read (No such file or directory)" in check_data(spec.dataset).sentence
    (tmp_path / "train").mkdir()
    assert "has no folders in it" in check_data(spec.dataset).sentence
    (tmp_path / "train" / "cat").mkdir()
    assert f"class folder '{tmp_path / 'train' / 'cat'}' has no images" in check_data(spec.dataset).sentence
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"png")
    assert check_data(spec.dataset) == Finding("dataset", True, f"{tmp_path / 'train'} holds 1 classes")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_a_dataset_that_can_be_downloaded(tmp_path, name):
    """Where torchvision looks is written down a second time, because looking must not import it; here the two are compared."""
    from trainers.downloads import _SOURCES

    data = tiny_spec(dataset={"name": name, "root": str(tmp_path / "data")}).dataset
    finding = check_data(data)
    assert finding.ok is None
    assert "will be downloaded" in finding.sentence
    (tmp_path / "data" / _SOURCES[name][1]).mkdir(parents=True)
    assert check_data(data).ok
    (tmp_path / "file").touch()
    assert check_data(tiny_spec(dataset={"name": name, "root": str(tmp_path / "file" / "data")}).dataset).ok is False


def test_classes_are_counted(tmp_path):
    assert class_count(folder_study(images(tmp_path)).dataset) == 2
    assert class_count(folder_study(tmp_path / "nowhere").dataset) is None
    assert [class_count(tiny_spec(dataset={"name": name}).dataset) for name in ("digits", "cifar100")] == [10, 100]


def test_a_dead_database(tmp_path):
    (finding,) = check_database(DEAD)
    assert finding.ok is False
    assert "can't be opened" in finding.sentence
    assert "is it running" in finding.sentence
    (finding,) = check_database(sqlite(tmp_path / "nowhere"))
    assert f"the folder '{tmp_path / 'nowhere'}' does not exist" in finding.sentence
    (finding,) = check_database(sqlite(tmp_path))
    assert finding.ok
    assert "no studies yet" in finding.sentence
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_may_only_be_read(tmp_path):
    filled_store(open_storage(sqlite(tmp_path)), 1).storage.engine.dispose()
    assert [finding.ok for finding in check_database(sqlite(tmp_path))] == [True]
    (finding,) = check_database(f"sqlite:///file:{tmp_path / 'tuner.db'}?mode=ro&uri=true")
    assert finding.sentence == "the database can't be written: attempt to write a readonly database"


def test_rights_and_clock_of_postgresql(postgres_server, postgres_database, monkeypatch):
    storage = open_storage(resolve_url(postgres_database, None))
    written, clock = check_database(storage)
    assert written.ok
    assert clock.ok
    name = postgres_database.rpartition("/")[2]
    role = f"reader_{name[-8:]}"
    for statement in (
        "CREATE ROLE {} LOGIN",
        "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {}",
        "REVOKE INSERT ON trials FROM {}",
    ):
        postgres_server.execute(sql.SQL(statement).format(sql.Identifier(role)), name)
    try:
        (finding,) = check_database(resolve_url(postgres_database.replace("tester@", f"{role}@"), None))
        assert finding.sentence == "the database can't be written: permission denied for table trials"
    finally:
        postgres_server.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)), name)
        postgres_server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)), name)
    # The server's clock is this machine's, so this process has to see another time.
    real = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: real() + 300)
    _, clock = check_database(storage)
    assert (clock.ok, clock.stops) == (False, False)
    assert clock.sentence == "the database's clock is 300 s behind this host's: set both by NTP"


def test_the_address_of_a_cluster():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert check_address(f"127.0.0.1:{port}").ok
        assert check_address(f"ray://localhost:{port}").ok
    assert check_address("auto").ok is None
    for address, reason in (
        (f"127.0.0.1:{free_port()}", "nothing answers"),
        ("somewhere", "it must be host:port"),
        ("127.0.0.1:99999", "nothing"),
    ):
        finding = check_address(address)
        assert finding.ok is False
        assert reason in finding.sentence


def test_the_users_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = tiny_spec(model="doctored_network:factory")
    assert "module 'doctored_network'" in wrong(check_here(spec, sqlite(tmp_path), str(tmp_path)))["network"]
    Path("doctored_network.py").write_text("raise SystemError('it ran')")
    assert wrong(check_here(spec, sqlite(tmp_path), str(tmp_path))) == {}
    (finding,) = check_this_node(spec, str(tmp_path))
    assert "doctored_network" in finding.sentence
    assert "SystemError: it ran" in finding.sentence


def order(spec, place, trials=1, marker=None):
    return NodeOrder(spec.train_config(spec.baseline_params(), 0, device="cpu", threads=1), str(place), trials, marker=marker)


def test_a_network_is_built_and_its_checkpoints_must_fit(tmp_path):
    """A cifar_resnet8 of 10 classes has 78,042 parameters (He et al. 2016: 0.08 M) and its SGD as many momenta: 0.6 MiB."""
    (finding,) = check_network(order(tiny_spec(), tmp_path))
    assert finding.ok
    assert finding.sentence == "'cifar_resnet8' with 10 classes; a checkpoint takes about 1 MiB"
    _, disk = check_network(order(tiny_spec(), tmp_path, trials=10**9))
    assert disk.ok is False
    assert "1000000000 trials at once need" in disk.sentence
    (finding,) = check_network(order(tiny_spec(model="cifar_resnet9"), tmp_path))
    assert "the nearest valid name is 'cifar_resnet" in finding.sentence


def test_a_trial_that_asks_for_a_gpu_where_there_is_none(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    spec = tiny_spec(resources={"gpus": 1})
    assert "a trial asks for 1 GPUs, but torch sees none on " in wrong(check_this_node(spec, str(tmp_path)))["GPU memory"]


def test_trials_that_share_a_gpu_must_fit_together():
    assert node_checks._fits("H200", 300.0, 1000.0, 0.3).ok
    finding = node_checks._fits("H200", 300.0, 1000.0, 0.25)
    assert node_checks._fits("H200", 900.0, 1000.0, 2).ok
    assert finding.ok is False
    assert finding.sentence.startswith("a full step takes 300 MiB of the 1000 MiB that are free on H200, 4 trials share it: give")


def test_another_folder_than_the_drivers(tmp_path):
    marker = tmp_path / "marker"
    marker.touch()
    assert check_shared(str(marker), str(tmp_path)).ok
    findings = check_node(order(tiny_spec(), tmp_path, marker=str(tmp_path / "not here")))
    (finding,) = [finding for finding in findings if finding.ok is False]
    assert "is another folder than where the launch is" in finding.sentence
    assert not finding.stops


def test_other_versions_than_the_drivers():
    here = node_checks.node_versions()
    assert node_checks.check_same_versions(here).ok
    finding = node_checks.check_same_versions(here | {"optuna": "4.0.0"})
    assert finding.sentence == f"not the driver's versions: optuna {here['optuna']} instead of 4.0.0; install the same"


def test_nodes_are_told_apart_where_they_differ():
    fine, full = Finding("disk", True, "9 GiB are free"), Finding("disk", False, "1 MiB is free")
    data = Finding("dataset", True, "holds 2 classes")
    assert together([("a", [fine, data]), ("a", [full])]) == [fine, data, full]
    assert together([("a", [fine, data]), ("b", [full, data])]) == [
        Finding("disk", True, "node a: 9 GiB are free"),
        Finding("disk", False, "node b: 1 MiB is free"),
        Finding("dataset", True, "on all 2 nodes; holds 2 classes"),
    ]


def run(*arguments, cwd, **environment):
    return subprocess.run(
        [TUNER, "doctor", *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_prints_a_table_and_exits_with_1_where_something_is_wrong(tmp_path):
    fine = run(cwd=tmp_path)
    assert fine.returncode == 0, fine.stdout + fine.stderr
    assert "✓ database sqlite:///tuner.db has no studies yet" in " ".join(fine.stdout.split())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "tiny.yaml").write_text(safe_dump({**TINY, "dataset": {"name": "folder", "root": "nowhere", "side_px": 32}}))
    ill = run("tiny.yaml", "--storage", "postgresql://nobody@127.0.0.1:1/none", "--json", cwd=tmp_path)
    assert ill.returncode == 1, ill.stderr
    found = {finding["what"]: finding["ok"] for finding in json.loads(ill.stdout)}
    # What else runs on this machine is not this test's to say.
    del found["load"]
    assert found == {
        "versions": True, "disk": True, "checkpoints": True, "database": False, "cores": True, "dataset": False, "network": None
    }  # fmt: skip
    assert run("tyni", cwd=tmp_path).returncode == 2


NODES = """
import dataclasses, json, sys
from pathlib import Path
from rich.console import Console
from studies.files import load_study
from tuner.launching.cluster import ray_cluster
from tuner.launching.doctor import check_nodes

spec = load_study("own.yaml")
gone = load_study("own.yaml", ["dataset.root=gone"])
with ray_cluster(None, spec, Console(quiet=True)):
    found = [check_nodes(spec, str(Path("runs").absolute())), check_nodes(gone, str(Path("own.yaml/runs").absolute()))]
print(json.dumps([[dataclasses.asdict(finding) for finding in findings] for findings in found]))
"""


def test_the_nodes_of_a_real_cluster(tmp_path):
    """One node, which is this machine; its folder of images is there in the first check and gone in the second."""
    images(tmp_path)
    (tmp_path / "own.yaml").write_text(safe_dump({**TINY, "dataset": {"name": "folder", "root": ".", "side_px": 32}}))
    done = subprocess.run([sys.executable, "-c", NODES], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    fine, ill = ([Finding(**finding) for finding in findings] for findings in json.loads(done.stdout.splitlines()[-1]))
    assert wrong(fine) == {}
    assert {"versions", "checkpoints", "disk", "dataset", "network"} == {finding.what for finding in fine if finding.ok}
    assert wrong(ill).keys() == {"checkpoints", "dataset"}
