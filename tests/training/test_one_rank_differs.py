"""Two processes (gloo), one of which finds less memory or a number that is not finite."""

import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from stores import store_rows
from training_runs import SELF_SUPERVISED, make_data, make_run

from pipeline.base.errors import NotFiniteError
from pipeline.base.processes import is_first_process
from pipeline.base.progress import Silent
from pipeline.loading.batch import Loader
from pipeline.training.fit import fit

PARALLEL = {"accelerator": "cpu", "devices": 2}
SECONDS = 120  # far below the minutes that processes wait for each other


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    make_data(root)
    return root


def in_two_processes(what: str, data: Path, work: Path) -> "subprocess.CompletedProcess[str]":
    """Run this file as a program, which Lightning starts a second time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, what, str(data), str(work)],
        env={**os.environ, "MASTER_PORT": port},
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
    )
    assert time.monotonic() - began < SECONDS
    return done


def test_all_read_in_the_same_order_though_one_has_less_memory(data: Path, tmp_path: Path) -> None:
    done = in_two_processes("memory", data, tmp_path)
    assert done.returncode == 0, done.stderr
    seen = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for first, second in zip(seen[0], seen[1], strict=True):  # the samples of an epoch
        assert len({*first, *second}) == len(first) + len(second)


def test_one_value_that_is_not_finite_ends_all_with_one_message(data: Path, tmp_path: Path) -> None:
    done = in_two_processes("numbers", data, tmp_path)
    assert done.returncode != 0
    messages = re.findall(r"The objective is not finite.*", done.stdout)
    assert len(messages) == 1, done.stdout + done.stderr
    assert "in hog, in 1 of 2 processes. Nothing had been saved yet" in messages[0]


def train_with_less_memory_in_the_second(data: Path, work: Path) -> None:
    """Train, and note the samples of each epoch of this process."""
    free = 2**34 if is_first_process() else 1000
    psutil.virtual_memory = lambda: SimpleNamespace(available=free)
    epochs: list[list[int]] = []
    following = Loader.__iter__

    def noted(self: Loader) -> Any:
        epochs.append([])
        for batch in following(self):
            epochs[-1] += batch["index"].tolist()
            yield batch

    Loader.__iter__ = noted  # type: ignore[method-assign]
    loading = {"workers": 0}
    run = make_run(data, epochs=2, batch_size=25, parallel=PARALLEL, loading=loading)
    fit(run, work=work, progress=Silent())
    counts = [epoch for epoch in epochs if len(epoch) == 125]
    torch.save(counts[:2], work / f"{0 if is_first_process() else 1}.pt")


def train_on_a_target_that_is_not_finite(data: Path, work: Path) -> None:
    """Train, without gathering, on targets of which one row has no finite square."""
    terms = {**SELF_SUPERVISED, "hog": {"kind": "regression", "loss": "squared"}}
    run = make_run(data, terms, epochs=1, batch_size=25, parallel={**PARALLEL, "gather": False})
    rows = np.random.default_rng(0).normal(size=(run.train.manifest.samples, 4))
    rows[17] = 1e30  # its square overflows
    root = work / f"store{0 if is_first_process() else 1}"
    bad = store_rows(root, "hog", rows.astype(np.float32), samples_per_shard=100)
    run = replace(run, train=replace(run.train, features={"hog": bad}))
    try:
        fit(run, work=work, progress=Silent())
    except NotFiniteError as error:
        print(error, flush=True)  # noqa: T201 (as the command line does)
        raise SystemExit(1) from error


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    what, data_root, work_root = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if what == "memory":
        train_with_less_memory_in_the_second(data_root, work_root)
    else:
        train_on_a_target_that_is_not_finite(data_root, work_root)
