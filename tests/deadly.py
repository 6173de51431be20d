"""An extraction in which every worker dies on the same shard."""

import os
import signal
import sys

from pipeline.features.extraction import engine
from pipeline.features.extraction.task import Task
from pipeline.features.extraction.worker import extract_shard
from stages.terminal.cli import main as cli

DEADLY = "test/000003.tar"  # whose rows no reduction is fitted on


def extract_or_die(task: Task) -> None:
    """Extract a shard, unless it is the deadly one."""
    if task.name == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    extract_shard(task)


def main() -> None:
    """Run `mvmr extract-features` with such workers."""
    setattr(engine, "extract_shard", extract_or_die)  # noqa: B010
    sys.argv = ["mvmr", "extract-features", "--workers", "2", "--only", "hog"]
    cli()
