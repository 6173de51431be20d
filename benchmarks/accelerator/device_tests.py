"""The tests that need a device, and a first run of the digits experiment on it.

Only files with such tests are collected, so that libraries of other tests are not needed. Warnings
do not fail a test here, as the libraries' versions may differ from the pinned ones.
"""

import io
import time
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.accelerator.results import Options, Results
from stages.terminal.cli import run

ROOT = Path(__file__).parents[2]
MARK = "pytest.mark.gpu"
# It runs last: compilation and process groups may use up the time.
SLOWEST = "test_devices.py"
SHORT = ("-s", "train.epochs=3", "-s", "train.schedule={kind: cosine}")
VARIANTS = {"float32": (), "bf16": ("-s", "train.precision=bf16", "-s", "train.channels_last=true")}


def measure(options: Options, results: Results) -> None:
    """Run the quick tests, the experiment command by command, and the slowest tests."""
    found = [p for p in sorted((ROOT / "tests").rglob("test_*.py")) if MARK in p.read_text()]
    results.add("files", [path.name for path in found])
    quick = [path for path in found if path.name != SLOWEST]
    run_tests(quick[:1] if options.tiny else quick, results)
    if options.device.type == "cuda":
        first_run(options, results)
    if not options.tiny:
        run_tests([path for path in found if path.name == SLOWEST], results)


def run_tests(files: Sequence[Path], results: Results) -> None:
    """Run the tests of some files that need a device."""
    for path in files:
        arguments = ["-q", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider", str(path)]
        with chdir(ROOT):
            code = pytest.main(arguments, plugins=[Recorder(results)])
        results.add(f"{path.name}, exit code", int(code))


class Recorder:
    """Writes the outcome of each test as soon as it is known."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a test's outcome, or a failure of its set-up or tear-down."""
        if report.when == "call" or not report.passed:
            found: dict[str, Any] = {"outcome": report.outcome, "seconds": report.duration}
            if report.failed:
                found["text"] = report.longreprtext[-3000:]
            self._results.add(report.nodeid.partition("tests/")[2] or report.nodeid, found)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a file that cannot be imported."""
        if report.failed:
            self._results.add(report.nodeid, {"outcome": "error", "text": report.longreprtext})


def first_run(options: Options, results: Results) -> None:
    """Run the digits experiment as a user would, on the device chosen by default."""
    root = options.work / "digits"
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "configs").exists():
        (root / "configs").symlink_to(ROOT / "configs")
    with chdir(root):
        results.attempt("digits, use", partial(command, ["use", "digits"]))
        for stage in ("shard", "extract-features"):
            results.attempt(f"digits, {stage}", partial(command, [stage]))
        for what, changes in VARIANTS.items():
            for stage in ("train", "evaluate"):
                arguments = [stage, *SHORT, *changes, "-s", f"name=digits_{what}"]
                results.attempt(f"digits, {stage}, {what}", partial(command, arguments))


def command(arguments: list[str]) -> dict[str, Any]:
    """Return a command's exit code, seconds and memory, and its output if it failed."""
    said = io.StringIO()
    began = time.perf_counter()
    with redirect_stdout(said), redirect_stderr(said):
        code = run(["--debug", *arguments])
    seconds = time.perf_counter() - began
    found: dict[str, Any] = {"exit code": code, "seconds": seconds}
    if torch.cuda.is_available():
        found["memory on the device, MiB"] = torch.cuda.max_memory_allocated() / 2**20
    return {**found, "said": said.getvalue()[-3000:]} if code else found
