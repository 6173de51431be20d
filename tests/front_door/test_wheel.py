"""An installed wheel has what it needs, and makes a project anywhere from images to a report."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from pages import ROOT
from stranger import photos

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("typed_script.py")
BIN = Path(sys.executable).parent
# What is built from, as it lies in the repository.
FOLDERS = ("mvmr", "pipeline", "stages", "configs")
FILES = ("pyproject.toml", "README.md", "LICENSE", "dvc.yaml", ".dvc/config", ".gitignore")
EPOCH = "1700000000"  # a time after which nothing in an archive was changed


def done(*command: object, cwd: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def copy_of_the_source(root: Path) -> Path:
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, root / name, ignore=ignored, symlinks=True)
    (root / ".dvc").mkdir()
    for name in FILES:
        shutil.copyfile(ROOT / name, root / name)
    return root


def built(kind: str, source: Path, into: Path) -> Path:
    """Build a wheel or an sdist by the backend that pyproject.toml names, and return it."""
    into.mkdir(parents=True, exist_ok=True)
    code = f"import hatchling.build as backend; print(backend.build_{kind}({str(into)!r}))"
    name = done(sys.executable, "-c", code, cwd=source, SOURCE_DATE_EPOCH=EPOCH)
    return into / name.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wheel")
    return built("wheel", copy_of_the_source(root / "source"), root)


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    """Return the interpreter of an environment with the wheel, and the libraries of this one."""
    root = wheel.parent
    venv.create(root / "venv", with_pip=False)
    interpreter = root / "venv/bin/python"
    pip = (sys.executable, "-m", "pip", "--python", interpreter)
    done(*pip, "install", "-q", "--no-deps", wheel, cwd=root)
    place = done(interpreter, "-c", "import site; print(site.getsitepackages()[0])", cwd=root)
    (Path(place.strip()) / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return interpreter


def test_two_builds_are_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    """Elsewhere, at another time, with other rights, and from the sdist."""
    sdist = built("sdist", wheel.parent / "source", tmp_path / "first")
    again = copy_of_the_source(tmp_path / "again")
    for path in again.rglob("*.py"):
        path.chmod(0o600)
        os.utime(path, (1_600_000_000, 1_600_000_000))
    assert digest(built("sdist", again, tmp_path / "second")) == digest(sdist)
    assert digest(built("wheel", again, tmp_path / "second")) == digest(wheel)
    shutil.unpack_archive(sdist, tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert digest(built("wheel", unpacked, tmp_path / "third")) == digest(wheel)
    done(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=tmp_path)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_configs_and_types_are_in_the_wheel(python: Path, tmp_path: Path) -> None:
    code = (
        "import mvmr, pathlib, pipeline, stages\n"
        "print(len(mvmr.configs()), mvmr.configs()['digits'].exists())\n"
        "print([(pathlib.Path(p.__file__).parent / 'py.typed').exists()"
        " for p in (mvmr, pipeline, stages)])\n"
        "print(mvmr.__file__)\n"
    )
    count, typed, place = done(python, "-c", code, cwd=tmp_path).splitlines()
    assert count == f"{len(list((ROOT / 'configs').glob('*.yaml')))} True"
    assert typed == "[True, True, True]"
    assert Path(place).is_relative_to(python.parents[1])


def test_mypy_accepts_the_examples_strictly(python: Path, tmp_path: Path) -> None:
    shutil.copy(SCRIPT, tmp_path / "examples.py")
    options = ("--strict", "--no-incremental", "--python-executable", python)
    done(sys.executable, "-m", "mypy", *options, "examples.py", cwd=tmp_path)


def test_a_project_of_ones_own_runs_to_its_report(python: Path, tmp_path: Path) -> None:
    """Outside the repository: `mvmr init` on photographs, `dvc repro`, and what init says next."""
    images, project = tmp_path / "Fotos (Öle)", tmp_path / "Mein Projekt"
    photos(images)
    project.mkdir()
    weights = tmp_path / "teacher.pt"
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    paths = os.pathsep.join([str(python.parent), str(BIN), os.environ["PATH"]])
    settings = {"PATH": paths, "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
    mvmr = python.with_name("mvmr")
    arguments = ("init", f"../{images.name}", "--teacher", f"timm:test_resnet:{weights}")
    told = json.loads(done(mvmr, *arguments, "--minutes", 1, "--json", cwd=project, **settings))
    assert told["experiment"] == "Fotos-Ole"
    assert (told["classes"], told["next"]) == (3, "dvc repro")
    assert (project / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    assert "Running stage 'train@Fotos-Ole'" in done("dvc", "repro", cwd=project, **settings)
    run = project / "runs/Fotos-Ole"
    assert "teacher" in (run / "report.html").read_text()
    scores = json.loads((run / "scores/linear.json").read_text())
    assert scores["student"] > 50  # of three colours
    again = done("dvc", "repro", cwd=project, **settings)
    assert "Running stage 'train@" not in again
    done("sh", "-c", told["then"], cwd=project, **settings)
    assert len(np.load(project / "runs/Fotos-Ole.npz")["names"]) == 120
    changed = done("git", "status", "--porcelain", "-uall", cwd=project, **settings)
    assert {line[3:] for line in changed.splitlines()} == {
        *("params.yaml", "dvc.yaml", "dvc.lock", "README.md", ".gitignore"),
        *(".dvcignore", ".dvc/config", ".dvc/.gitignore"),
    }
