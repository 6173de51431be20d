"""Which GPU a worker takes, and the settings that its process has."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from distributed import Client, Status

from pipeline.base.devices import available_cores
from pipeline.base.errors import StoreError
from pipeline.base.gpu_places import own_gpu
from pipeline.base.progress import Silent
from pipeline.features.extraction import cluster as cluster_module
from pipeline.features.extraction import worker
from pipeline.features.extraction.cluster import Cluster, ClusterOptions, cluster


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """Run `dask scheduler` and three plain `dask worker`s, and return the scheduler's address."""
    file, logs = tmp_path / "scheduler.json", (tmp_path / "log").open("w")
    modules = os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]])
    # Places are files in the temporary folder.
    environment = {**os.environ, "PYTHONPATH": modules, "TMPDIR": str(tmp_path)}

    def start(*arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "dask", *arguments, "--scheduler-file", str(file)]
        return subprocess.Popen(command, env=environment, stdout=logs, stderr=logs)

    started = [start("scheduler", "--port", "0", "--dashboard-address", "127.0.0.1:0")]
    worker_options = ("--nthreads", "1", "--no-dashboard", "--memory-limit", "0")
    started += [start("worker", *worker_options) for _ in range(3)]
    try:
        while not file.exists() or not file.read_text():
            time.sleep(0.1)
        yield str(file)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)
        logs.close()


def device_of_two() -> torch.device:
    """Return the device of this process on a host with two GPUs, which are not asked anything."""
    torch.cuda.device_count = lambda: 2
    setattr(torch.cuda, "get_device_properties", int)  # noqa: B010
    return worker._device()


def die_soon() -> None:
    threading.Timer(0.2, os._exit, [1]).start()


def test_plain_workers_of_a_host_share_its_gpus_evenly(scheduler: str) -> None:
    with Client(scheduler_file=scheduler) as client:
        client.wait_for_workers(3, timeout=60)
        devices = client.run(device_of_two)
        assert sorted(Counter(devices.values()).values()) == [1, 2]
        assert client.run(device_of_two) == devices  # it is kept
        # A process that replaces a dead one takes its place.
        lone = Counter(devices.values()).most_common()[-1][0]
        (address,) = [a for a, device in devices.items() if device == lone]
        client.run(die_soon, workers=[address])
        deadline = time.monotonic() + 60
        while address in client.scheduler_info()["workers"] and time.monotonic() < deadline:
            time.sleep(0.1)
        client.wait_for_workers(3, timeout=60)
        again = client.run(device_of_two)
        (replacement,) = set(again) - set(devices)
        assert again[replacement] == lone


def test_without_a_gpu_a_worker_takes_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    own_gpu.cache_clear()
    assert worker._device() == torch.device("cpu")


def settings(task: Any) -> tuple[int, str | None, str | None]:
    names = ("OMP_WAIT_POLICY", "MALLOC_TRIM_THRESHOLD_")
    return os.getpid(), *(os.environ.get(name) for name in names)  # type: ignore[return-value]


def test_a_single_local_worker_has_the_settings_of_a_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks: Any = [SimpleNamespace(images=1, unit="shards")]
    # From Python, where idle threads spin, it is a process of its own.
    monkeypatch.delenv("OMP_WAIT_POLICY")
    with cluster(ClusterOptions(workers=1), shards=1, progress=Silent()) as running:
        (found,) = running.run(settings, tasks, Silent())
    assert found[0] != os.getpid()
    assert found[1] == "PASSIVE"
    assert found[2] is not None
    # From the command line, which has set this already, no process needs to be started.
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with cluster(ClusterOptions(workers=1), shards=1, progress=Silent()) as running:
        (found,) = running.run(settings, tasks, Silent())
    assert found[0] == os.getpid()


def shares(task: Any) -> tuple[int, int]:
    return worker._share_of_cores(task.workers_per_host), available_cores()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_share_the_cores_of_their_host(workers: int) -> None:
    with cluster(ClusterOptions(workers=workers), shards=8, progress=Silent()) as running:
        ((host, count),) = running.workers_per_host.items()
        assert (host, count) == (host, workers)
        task = SimpleNamespace(images=1, unit="shards", workers_per_host={host: count})
        several: Any = [task] * 4
        found = running.run(shares, several, Silent())
    assert {share for share, _ in found} == {max(1, cores // workers) for _, cores in found}


def test_workers_that_died_and_are_not_replaced_are_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when a process dies before it has told its keeper that it is there."""
    monkeypatch.setattr(cluster_module, "PATIENCE_SECONDS", 0.5)
    tasks: Any = [SimpleNamespace(images=n, unit="shards", name=str(n)) for n in range(5)]
    with cluster(ClusterOptions(workers=2), shards=8, progress=Silent()) as running:
        keepers = list(running.client.cluster.workers.values())
        for keeper in keepers:
            keeper.status = Status.failed
            os.kill(keeper.pid, signal.SIGKILL)
        while running.client.ncores():
            time.sleep(0.05)
        assert running.run(attrgetter("images"), tasks, Silent()) == [0, 1, 2, 3, 4]


def test_workers_that_die_whatever_they_do_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "PATIENCE_SECONDS", 0.05)
    tasks: Any = [SimpleNamespace(images=1, unit="shards", name="1")]
    revived: list[int] = []
    with cluster(ClusterOptions(workers=2), shards=8, progress=Silent()) as running:
        without = Cluster(running.client, {}, lambda: revived.append(1))
        running.client.cluster.scale(0)
        while running.client.ncores():
            time.sleep(0.05)
        with pytest.raises(StoreError, match="All workers have died again and again"):
            without.run(attrgetter("images"), tasks, Silent())
    assert len(revived) == cluster_module.LIVES
