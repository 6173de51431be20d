"""Training and extraction under SLURM, by the commands of docs/training.md and docs/scaling.md.

A whole SLURM of one node is started in a folder: munge, controller and node.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from pipeline.features.store import FeatureStore
from pipeline.models.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
ENOUGH = 240  # seconds for any of these commands
EPOCHS = 12
JOB = """#!/bin/bash
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --signal=SIGTERM@60
srun mvmr train -s train.parallel.nodes=1 -s train.parallel.devices=2
"""


def configuration(root: Path, ports: list[int]) -> str:
    host = socket.gethostname().split(".")[0]
    return f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/controller.pid
SlurmdPidFile={root}/node.pid
SlurmctldLogFile={root}/controller.log
SlurmdLogFile={root}/node.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    open_ones = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in open_ones]
    for one in open_ones:
        one.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start SLURM, and yield the environment in which its commands find it."""
    if os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS)):
        pytest.skip("SLURM is not installed here (slurm-wlm and munge), or may not be started")
    root = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (root / name).mkdir()
    key, config = root / "munge.key", root / "slurm.conf"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    config.write_text(configuration(root, free_ports(2)))
    env = {
        **os.environ,
        "SLURM_CONF": str(config),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    host = socket.gethostname().split(".")[0]
    munge = [f"--{n}={root}/munge.{n}" for n in ("socket", "pid-file", "log-file", "seed-file")]
    for command in (
        ["munged", "--force", f"--key-file={key}", *munge],
        ["slurmctld", "-f", str(config)],
        ["slurmd", "-f", str(config), "-N", host],
    ):
        subprocess.run(command, env=env, check=True, capture_output=True, timeout=30)
        time.sleep(2)
    yield env
    for name in ("node.pid", "controller.pid", "munge.pid-file"):
        with suppress(OSError, ValueError):
            os.kill(int((root / name).read_text()), signal.SIGKILL)


@pytest.fixture
def project(tmp_path: Path, slurm: dict[str, str]) -> Path:
    """Return a project with shards."""
    data = YAML(typ="safe", pure=True).load(ROOT / "configs" / "digits.yaml")
    data["dataset"]["shards"]["samples"] = 100
    data["features"] = {"hog": {"cell": 4}}
    data["objective"] = {"invariance": {}, "variance": {}, "hog": {"kind": "dependence"}}
    data["student"] = {"architecture": "resnet8", "projector": [16]}
    data["train"] |= {"epochs": EPOCHS, "parallel": {"accelerator": "cpu"}}
    data["evaluate"] = {"knn": {}}
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(data, file)
    call(slurm, tmp_path, "mvmr", "shard", "--quiet")
    return tmp_path


def call(env: dict[str, str], root: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=root, env=env, capture_output=True, text=True, timeout=ENOUGH, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def weights(root: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(root / "runs/digits/checkpoints/last.pt").encoder)


def epochs_done(root: Path) -> int:
    files = list((root / "runs").glob(".unfinished/*/epochs.csv"))
    return len(files[0].read_text().splitlines()) - 1 if files else 0


def test_a_job_that_ends_early_is_saved_and_continues_when_submitted_again(
    slurm: dict[str, str], project: Path
) -> None:
    call(slurm, project, "mvmr", "extract-features", "--workers", "1", "--quiet")
    alone = shutil.copytree(project, project / "alone")
    (project / "job.sh").write_text(JOB)
    number = call(slurm, project, "sbatch", "--parsable", "--output=job.log", "job.sh").strip()
    deadline = time.monotonic() + ENOUGH
    while epochs_done(project) < 2:
        assert time.monotonic() < deadline, (project / "job.log").read_text()
        time.sleep(0.2)
    call(slurm, project, "scancel", "--signal=TERM", number)
    while call(slurm, project, "squeue", "--noheader").strip():
        assert time.monotonic() < deadline, (project / "job.log").read_text()
        time.sleep(0.5)
    assert 2 <= epochs_done(project) < EPOCHS, (project / "job.log").read_text()
    assert "Traceback" not in (project / "job.log").read_text()
    call(slurm, project, "sbatch", "--wait", "--output=again.log", "job.sh")
    assert "Continuing the interrupted run" in (project / "again.log").read_text()
    two = ("train.parallel.nodes=1", "train.parallel.devices=2")
    call(slurm, alone, "mvmr", "train", "--quiet", "-s", two[0], "-s", two[1])
    found, expected = weights(project), weights(alone)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_workers_that_the_queue_admits_extract(slurm: dict[str, str], project: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    script = (
        "import subprocess\n"
        "from dask_jobqueue import SLURMCluster\n"
        "cluster = SLURMCluster(\n"
        "    queue='cpu', cores=1, processes=1, memory='1GB', walltime='00:10:00'\n"
        ")\n"
        "cluster.scale(jobs=2)\n"
        "command = ['mvmr', 'extract-features', '--scheduler', cluster.scheduler_address]\n"
        "subprocess.run(command, check=True)\n"
    )
    call(slurm, project, sys.executable, "-c", script)
    found: Any = FeatureStore(project / "data/digits/features.zarr")["hog"]
    rows = {split: found.read(split) for split in found.splits}
    assert sum(map(len, rows.values())) == 1797
    call(slurm, project, "mvmr", "extract-features", "--force", "--workers", "1", "--quiet")
    again = FeatureStore(project / "data/digits/features.zarr")["hog"]
    for split, values in rows.items():
        assert (again.read(split) == values).all()
