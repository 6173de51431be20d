"""What `import mvmr` brings: its names, at no cost, and a sentence if something hides it."""

import pydoc
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import mvmr
from pipeline.base import errors

SCREENS = 2 * 50  # lines


def python(code: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a script that lies in a folder."""
    script = folder / "script.py"
    script.write_text(code)
    return subprocess.run(
        [sys.executable, str(script)], cwd=folder, capture_output=True, text=True, check=False
    )


def test_every_public_name_exists_and_is_explained() -> None:
    for name in mvmr.__all__:
        found = getattr(mvmr, name)
        assert name == "__version__" or found.__doc__, name
    assert mvmr.__version__ == version("mvmr")
    assert mvmr.MvmrError is errors.MvmrError
    assert len(set(mvmr.__all__)) == len(mvmr.__all__)


def test_what_is_imported_by_a_type_checker_is_what_is_imported_at_run_time() -> None:
    source = Path(str(mvmr.__file__)).read_text(encoding="utf-8")
    for name in set(mvmr.__all__) - {"__version__"}:
        assert f"from {mvmr._MODULES[name]} import {name} as {name}\n" in source


def test_an_unknown_name_is_an_attribute_error_that_says_where_to_look() -> None:
    with pytest.raises(AttributeError, match=r"'distill'; help\(mvmr\)"):
        mvmr.distill  # noqa: B018


def test_the_import_is_quick_and_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = ("torch", "numpy", "lightning", "zarr", "dask", "pydantic", "rich")
    code = (
        "import sys, time\nbegan = time.process_time()\nimport mvmr\n"
        f"print(time.process_time() - began, [m for m in {heavy} if m in sys.modules])"
    )
    seconds, loaded = python(code, tmp_path).stdout.split(" ", 1)
    assert loaded.strip() == "[]"
    assert float(seconds) < 0.5


def test_help_fits_two_screens_and_names_everything() -> None:
    text = pydoc.plain(pydoc.render_doc(mvmr))
    assert len(text.splitlines()) <= SCREENS
    results = {"Dataset", "DatasetSplit", "LabelledImage", "Probe", "Run"}  # what calls return
    assert [n for n in mvmr.__all__ if n not in text and n not in results] == []


@pytest.mark.parametrize("name", ["pipeline", "stages"])
def test_a_module_of_the_users_that_hides_ours_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("mine = 1\n")
    done = python(f"import {name}\nimport mvmr\n", tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path / name}.py hides the package {name!r}" in done.stderr
    assert f"rename it, for example to my_{name}.py" in done.stderr
    (tmp_path / f"{name}.py").unlink()
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    assert f"{tmp_path / name} hides" in python("import mvmr\n", tmp_path).stderr
