"""The benchmark for an accelerator: it runs here at its smallest size, and says what it lacks."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accelerator import sections
from benchmarks.accelerator.gather import requirements, versions
from benchmarks.accelerator.results import Results, plain, read
from benchmarks.accelerator.sections import SECTIONS, missing

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_section_runs_at_its_smallest_size(tmp_path: Path) -> None:
    content = run(tmp_path, "--here")
    ended = {name: status["how"] for name, status in content["status"].items()}
    assert ended == dict.fromkeys(SECTIONS, "done")
    for name, found in content["sections"].items():
        errors = {k: v for k, v in found.items() if isinstance(v, dict) and "error" in v}
        assert not errors, name
    assert content["sections"]["cifar10"]["vicreg"]["finished"]


@pytest.mark.slow
def test_a_section_is_a_process_and_is_not_repeated(tmp_path: Path) -> None:
    first = run(tmp_path, "--only", "probes")
    assert first["status"]["probes"]["how"] == "done"
    again = run(tmp_path, "--only", "probes")
    assert again["status"] == first["status"]
    assert again["sections"] == first["sections"]


def run(folder: Path, *options: str) -> dict[str, Any]:
    """Run the command at its smallest size, and return what it wrote."""
    file = folder / "results.json"
    command = [sys.executable, "-m", "benchmarks.accelerator", "--tiny", "--json", str(file)]
    done = subprocess.run(
        [*command, "--work", str(folder / "work"), *options],
        cwd=ROOT,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def test_what_fails_is_a_finding_and_the_next_one_follows(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    results = Results(file, "steps")

    def broken() -> float:
        raise RuntimeError("found at least two devices")

    results.attempt("first", broken)
    results.attempt("second", lambda: float("nan"))
    found = read(file)["sections"]["steps"]
    assert found["first"]["error"] == "RuntimeError: found at least two devices"
    assert "test_accelerator.py" in found["first"]["where"][-1]
    assert found["second"] == "nan"


def test_numbers_are_rounded_and_names_are_text() -> None:
    assert plain({1: [0.123456, 7, True, None]}) == {"1": [0.1235, 7, True, None]}


def test_missing_packages_are_named_with_the_reason() -> None:
    assert missing(("json", "no_such_package")) == {
        "no_such_package": "ModuleNotFoundError: No module named 'no_such_package'"
    }


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_can_be_loaded(name: str) -> None:
    assert callable(sections.SECTIONS[name].load())


def test_a_wheel_says_what_it_needs_on_the_machine(tmp_path: Path) -> None:
    lines = [
        "Metadata-Version: 2.1",
        "Name: one",
        "Version: 1",
        "Requires-Dist: two>=2",
        "Requires-Dist: old; python_version < '3.12'",
        "Requires-Dist: three; extra == 'more'",
        "Requires-Dist: windows-only; sys_platform == 'win32'",
    ]
    wheel = tmp_path / "one-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("one-1.dist-info/METADATA", "\n".join(lines) + "\n")
    assert [need.name for need in requirements(wheel, (), "3.12")] == ["two"]
    assert [need.name for need in requirements(wheel, ("more",), "3.12")] == ["two", "three"]


def test_versions_are_those_of_the_constraints() -> None:
    assert versions("# pinned\nopen_clip_torch==3.3.0\n") == {"open-clip-torch": "3.3.0"}
