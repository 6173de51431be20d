"""Runs every command of a small digits experiment in a folder."""

import os
import shutil
from pathlib import Path

from stages.terminal.cli import run

ROOT = Path(__file__).parents[1]
QUICK = [
    *("-s", "train.epochs=2"),
    *("-s", "student={architecture: resnet8, projector: [32, 32]}"),
    *("-s", "train.schedule={kind: cosine}"),
]
COMMANDS = (
    ["shard"],
    ["extract-features", "--workers", "1"],
    ["store", "select"],
    ["train"],
    ["evaluate"],
    ["report"],
    ["export"],
)


def run_all(root: Path) -> None:
    """Run every stage in the folder `root`."""
    shutil.copytree(ROOT / "configs", root / "configs")
    before = Path.cwd()
    os.chdir(root)
    try:
        assert run(["use", "digits"]) == 0
        for command in COMMANDS:
            assert run([*command, *QUICK]) == 0
    finally:
        os.chdir(before)
