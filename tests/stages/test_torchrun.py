"""`mvmr train` as torchrun starts it, in two processes: all end, with one message and one code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from digits_run import QUICK

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
MVMR = str(Path(sys.executable).parent / "mvmr")
SECONDS = 60  # far below the minutes that processes wait for each other


def launched(*arguments: str, within: int = SECONDS) -> subprocess.CompletedProcess[str]:
    began = time.monotonic()
    done = subprocess.run(
        [*LAUNCH, MVMR, "train", *QUICK, *arguments],
        capture_output=True,
        text=True,
        timeout=2 * within,
    )
    assert time.monotonic() - began < within
    return done


@pytest.mark.usefixtures("inside")
def test_a_finished_run_started_again_ends_in_every_process() -> None:
    done = launched()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is up to date; --force trains again.") == 1


@pytest.mark.slow  # two processes load all libraries
@pytest.mark.usefixtures("inside")
def test_another_number_of_processes_than_the_experiment_says_is_refused() -> None:
    done = launched("-s", "train.epochs=3")
    assert done.returncode != 0
    assert "2 processes were started, and train.parallel asks for 1" in done.stderr


@pytest.mark.slow  # four processes on the cores of two
@pytest.mark.usefixtures("inside")
def test_a_second_launch_is_refused_and_an_interruption_ends_the_first_in_every_process() -> None:
    long = ("-s", "train.epochs=500")
    devices = ("-s", "train.parallel={devices: 2, accelerator: cpu}")
    first = subprocess.Popen(
        [*LAUNCH, MVMR, "train", *QUICK, *long, *devices],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 2 * SECONDS
        while not list(Path("runs").glob(".unfinished/*/epochs.csv")):
            assert first.poll() is None, first.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        second = launched(*long, *devices, within=4 * SECONDS)
        assert second.returncode != 0
        assert second.stderr.count("Another process trains this experiment") == 1
        assert first.poll() is None
        os.killpg(first.pid, signal.SIGINT)
        told, _ = first.communicate(timeout=SECONDS)
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
            first.communicate()
    assert first.returncode != 0
    assert told.count("Interrupted") == 1, told
    assert "NCCL" not in told
