"""Extraction and training over several hosts, which lose each other for a while or for good."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hosts import Host, hosts
from ruamel.yaml import YAML

from pipeline.features.store import FeatureStore
from pipeline.models.checkpoint import load_checkpoint
from stages.terminal import cli

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
MVMR, TORCHRUN, DASK = (str(BIN / name) for name in ("mvmr", "torchrun", "dask"))
SECONDS = 20  # for which a link is down
ENOUGH = 300  # seconds for any of these commands
ONE_THREAD = {"OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}


def write_params(root: Path, **changes: Any) -> None:
    data = YAML(typ="safe", pure=True).load(ROOT / "configs" / "digits.yaml")
    data["dataset"]["shards"]["samples"] = 100
    data["features"] = {"hog": {"cell": 4}}
    data["objective"] = {"invariance": {}, "variance": {}, "hog": {"kind": "dependence"}}
    data["student"] = {"architecture": "resnet8", "projector": [16]}
    data["train"] |= {"epochs": 16, "parallel": {"accelerator": "cpu", "timeout_minutes": 0.5}}
    data["evaluate"] = {"knn": {}}
    with (root / "params.yaml").open("w") as file:
        YAML().dump(data | changes, file)


def await_that(condition: Callable[[], bool], *running: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + ENOUGH
    while not condition():
        for process in running:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)


@contextmanager
def inside(root: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(root)
    try:
        yield
    finally:
        os.chdir(before)


# Training by torchrun on two hosts, as docs/training.md says


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with shards and features."""
    root = tmp_path_factory.mktemp("project")
    write_params(root)
    with inside(root):
        assert cli.run(["shard", "--quiet"]) == 0
        assert cli.run(["extract-features", "--workers", "1", "--quiet"]) == 0
    return root


def launch(nodes: list[Host], root: Path) -> "list[subprocess.Popen[str]]":
    command = (
        *(TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"),
        *("--rdzv-endpoint", f"{nodes[0].name}:29500", "--no-python"),
        *(MVMR, "train", "-s", "train.parallel.nodes=2", "-s", "train.parallel.devices=1"),
    )
    return [node.start(*command, cwd=root, env=ONE_THREAD) for node in nodes]


def begun(nodes: list[Host], root: Path) -> "list[subprocess.Popen[str]]":
    """Launch a training, and return when its first epochs are done."""
    running = launch(nodes, root)
    await_that(lambda: epochs_done(root) >= 3, *running)
    return running


def weights(root: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(root / "runs/digits/checkpoints/last.pt").encoder)


def epochs_done(root: Path) -> int:
    files = list((root / "runs").glob(".unfinished/*/epochs.csv"))
    return len(files[0].read_text().splitlines()) - 1 if files else 0


def trained(nodes: list[Host], root: Path) -> dict[str, torch.Tensor]:
    for process in launch(nodes, root):
        output, _ = process.communicate(timeout=ENOUGH)
        assert process.returncode == 0, output
    return weights(root)


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = shutil.copytree(prepared, tmp_path_factory.mktemp("undisturbed") / "project")
    with hosts(2) as nodes:
        return trained(nodes, root)


def require_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_training_outlives_a_link_that_drops(
    prepared: Path, undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    root = shutil.copytree(prepared, tmp_path / "project")
    with hosts(2) as nodes:
        running = begun(nodes, root)
        nodes[1].unplug()
        time.sleep(SECONDS)
        assert epochs_done(root) < 16
        nodes[1].plug_in()
        for process in running:
            output, _ = process.communicate(timeout=ENOUGH)
            assert process.returncode == 0, output
    require_equal(weights(root), undisturbed)


def test_a_host_that_disappears_ends_the_training_which_then_continues(
    prepared: Path, undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    root = shutil.copytree(prepared, tmp_path / "project")
    with hosts(2) as nodes:
        running = begun(nodes, root)
        nodes[1].unplug()
        nodes[1].kill_all()
        began = time.monotonic()
        output, _ = running[0].communicate(timeout=ENOUGH)
        assert running[0].returncode == 1
        assert time.monotonic() - began < 120
        assert "has ended, or has not answered for 0.5 minutes" in output
        assert "Start all processes again in the same way" in output
        running[1].communicate()
        done = epochs_done(root)
        assert 3 <= done < 16
        nodes[1].plug_in()
        require_equal(trained(nodes, root), undisturbed)
    rows = (root / "runs/digits/curves.csv").read_text().splitlines()
    assert len(rows) == 17


# Extraction by workers of other hosts, with shards and store behind an S3 server

URL = "s3://bucket/mvmr"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the rows that one machine computes."""
    root = tmp_path_factory.mktemp("alone")
    write_large(root)
    with inside(root):
        assert cli.run(["shard", "--quiet"]) == 0
        assert cli.run(["extract-features", "--workers", "2", "--quiet"]) == 0
    feature = FeatureStore(root / "data/digits/features.zarr")["scattering"]
    return {split: feature.read(split) for split in feature.splits}


def write_large(root: Path) -> None:
    image = {"size": 64, "channels": 1, "mean": [0.3], "std": [0.4]}
    data = YAML(typ="safe", pure=True).load(ROOT / "configs" / "digits.yaml")["dataset"]
    data["shards"]["samples"] = 50
    write_params(
        root,
        dataset={**data, "image": image},
        features={"scattering": {"J": 3, "L": 8}},
        objective={"scattering": {"kind": "dependence"}},
    )


def environment(server: Host) -> dict[str, str]:
    return {
        **ONE_THREAD,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{server.name}:5000",
        "MVMR_DATA": URL,
    }


def told(host: Host, method: str, path: str) -> str:
    """Return what the S3 server answers to a request from its own host."""
    code = (
        "import sys, urllib.request as u\n"
        "request = u.Request('http://' + sys.argv[2], method=sys.argv[1])\n"
        "try: print(u.urlopen(request, timeout=20).read().decode())\n"
        "except OSError as error: print('unreachable', error)\n"
    )
    url = f"{host.address}:5000/{path}"
    process = host.start(sys.executable, "-S", "-c", code, method, url, cwd=Path("/"))
    return process.communicate(timeout=60)[0]


def tars_done(server: Host) -> int:
    return told(server, "GET", "bucket?list-type=2&prefix=mvmr/digits/work").count("/done/")


@contextmanager
def extracting(nodes: list[Host], root: Path) -> "Iterator[subprocess.Popen[str]]":
    """Extract on two hosts from the store on the third, until the first tars are done."""
    first, second, server = nodes
    write_large(root)
    env = environment(server)

    def start(host: Host, *command: str, heard: bool = True) -> "subprocess.Popen[str]":
        return host.start(*command, cwd=root, env=env, heard=heard)

    moto = (sys.executable, "-m", "moto.server", "-H", server.address, "-p", "5000")
    start(server, *moto, heard=False)
    await_that(lambda: "unreachable" not in told(server, "PUT", "bucket"))
    packing = start(first, MVMR, "shard", "--quiet")
    assert packing.wait(ENOUGH) == 0, packing.communicate()[0]
    start(first, DASK, "scheduler", "--host", first.address, heard=False)
    place = f"tcp://{first.address}:8786"
    worker = (DASK, "worker", place, "--nworkers", "1", "--nthreads", "2", "--memory-limit", "0")
    for host in (first, second):
        start(host, *worker, heard=False)
    time.sleep(15)
    driver = start(first, MVMR, "extract-features", "--scheduler", place)
    await_that(lambda: tars_done(server) >= 3, driver)
    yield driver
    output, _ = driver.communicate(timeout=ENOUGH)
    assert driver.returncode == 0, output
    verified = start(first, MVMR, "store", "verify")
    output, _ = verified.communicate(timeout=ENOUGH)
    assert verified.returncode == 0, output
    assert "damaged" not in output


def rows(nodes: list[Host], root: Path) -> dict[str, Any]:
    """Return the rows in the store behind the server, read from another host."""
    code = (
        "import numpy as np, mvmr\n"
        f"feature = mvmr.FeatureStore('{URL}/digits')['scattering']\n"
        "np.savez('rows.npz', **{split: feature.read(split) for split in feature.splits})\n"
    )
    reading = nodes[1].start(sys.executable, "-c", code, cwd=root, env=environment(nodes[2]))
    output, _ = reading.communicate(timeout=ENOUGH)
    assert reading.returncode == 0, output
    with np.load(root / "rows.npz") as found:
        return dict(found)


def require_same_rows(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for split, values in expected.items():
        np.testing.assert_allclose(found[split], values, rtol=2e-3, atol=2e-3)


def test_extraction_outlives_a_link_that_drops(expected: dict[str, Any], tmp_path: Path) -> None:
    with hosts(3) as nodes:
        with extracting(nodes, tmp_path):
            nodes[1].unplug()
            time.sleep(SECONDS)
            nodes[1].plug_in()
        require_same_rows(rows(nodes, tmp_path), expected)


def test_the_other_workers_do_what_a_host_that_disappears_leaves(
    expected: dict[str, Any], tmp_path: Path
) -> None:
    with hosts(3) as nodes:
        with extracting(nodes, tmp_path):
            nodes[1].unplug()
            nodes[1].kill_all()
        nodes[1].plug_in()
        require_same_rows(rows(nodes, tmp_path), expected)
