"""The quick start: what it needs, and how it ends."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from digits_run import ROOT

import mvmr
from pipeline.metrics.paired import paired
from pipeline.reporting.comparison_texts import standing_of
from stages.experiment.report_content import per_image

NAME = "robust_digits"
# What `make repro` does not install.
TOOLS = (
    *("dcor", "flask", "hypothesis", "kornia", "kymatio", "mkdocs", "moto", "mypy", "onnx"),
    *("onnxruntime", "onnxscript", "pyarrow", "pytest", "ruff", "s3fs", "selenium"),
)
WITHOUT_TOOLS = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path

class WithoutTools(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        is_tool = name.partition(".")[0] in {tools}
        return None if is_tool else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTools
from digits_run import COMMANDS, run_all
run_all(Path("."))
print("done", len(COMMANDS))
"""


def installed_by(target: str, folder: Path) -> list[str]:
    """Return the extras that a target of the Makefile installs in a fresh copy."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=folder, capture_output=True, text=True, check=True
    )
    return re.findall(r"--editable '\.\[(\w+)\]'", done.stdout)


def test_tools_of_development_come_with_what_uses_them(tmp_path: Path) -> None:
    assert installed_by("repro", tmp_path) == ["pipeline"]
    for target in ("test", "slow", "check", "format", "docs"):
        assert installed_by(target, tmp_path) == ["pipeline", "dev"]


@pytest.mark.slow
def test_all_stages_run_without_tools_of_development(tmp_path: Path) -> None:
    code = WITHOUT_TOOLS.format(tools=set(TOOLS))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done" in done.stdout


@pytest.mark.slow
def test_the_student_is_ahead_of_every_control(tmp_path: Path) -> None:
    run = mvmr.run_experiment(NAME, out=tmp_path / "runs" / NAME, workers=1)
    metrics = {name: score.record for name, score in run.scores.items()}
    assert {"robustness", "robustness_knn", "linear", "knn"} == metrics.keys()
    for protocol, images in per_image(run.layout, metrics).items():
        controls = dict(images.values)
        student = controls.pop("student")
        assert controls.keys() == {"untrained", "pixels", "scattering", "hog"}
        for control, values in controls.items():
            lead = paired(student, values, seed=0)
            expected = ("ahead",) if protocol.startswith("robustness") else ("ahead", "open")
            assert standing_of(lead) in expected, (protocol, control, lead)
    page = run.report().read_text(encoding="utf-8")
    won = "It is better than every control without training by robustness and robustness_knn: "
    assert won in page
