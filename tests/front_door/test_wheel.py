"""An installed wheel has what it needs, and type checkers accept the examples with it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from pages import ROOT

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("typed_script.py")


def done(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment with the wheel, and the libraries of this one."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    for name in ("mvmr", "pipeline", "stages"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip")
    done(*pip, "wheel", ".", "-q", "--no-deps", "--no-build-isolation", "-w", root, cwd=source)
    venv.create(root / "venv", with_pip=False)
    interpreter = root / "venv/bin/python"
    place = done(interpreter, "-c", "import site; print(site.getsitepackages()[0])", cwd=root)
    (wheel,) = root.glob("*.whl")
    target = place.strip()
    done(*pip, "install", "-q", "--no-deps", "--target", target, wheel, cwd=root)
    (Path(target) / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return interpreter


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
