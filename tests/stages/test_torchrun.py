"""`mvmr train` as torchrun starts it, in two processes: all end, with one message and one code."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from digits_run import QUICK

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
MVMR = str(Path(sys.executable).parent / "mvmr")
SECONDS = 60  # far below the minutes that processes wait for each other


def launched(*arguments: str) -> subprocess.CompletedProcess[str]:
    began = time.monotonic()
    done = subprocess.run(
        [*LAUNCH, MVMR, "train", *QUICK, *arguments],
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
    )
    assert time.monotonic() - began < SECONDS
    return done


@pytest.mark.usefixtures("inside")
def test_a_finished_run_started_again_ends_in_every_process() -> None:
    done = launched()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is up to date; --force trains again.") == 1


@pytest.mark.usefixtures("inside")
def test_another_number_of_processes_than_the_experiment_says_is_refused() -> None:
    done = launched("-s", "train.epochs=3")
    assert done.returncode != 0
    assert "2 processes were started, and train.parallel asks for 1" in done.stderr
