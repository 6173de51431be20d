"""The page for Python, the notebook and the examples in docstrings run, in this order of cost."""

import doctest
import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import timm
import torch
from pages import ROOT, page
from safetensors.torch import save_file
from stranger import photos

import mvmr

MODULES = sorted({module for module in mvmr._MODULES.values() if module.startswith("mvmr")})
NOTEBOOK = ROOT / "docs/notebooks/neighbours.ipynb"


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name: str) -> None:
    names = {"mvmr": mvmr, "torch": torch, "nn": torch.nn, "np": np}
    module = importlib.import_module(name)
    found = doctest.testmod(module, globs=names, optionflags=doctest.ELLIPSIS)
    assert found.failed == 0


def test_what_computes_has_an_example_in_its_docstring() -> None:
    trains = {"distil", "pretrain", "run_experiment", "open_run"}  # `docs/from-python.md` has them
    reads = {"pack", "open_dataset", "extract", "FeatureStore", "load_encoder"}
    results = {"Dataset", "DatasetSplit", "LabelledImage", "Probe", "Run", "MvmrError"}
    shown = set(mvmr.__all__) - trains - reads - results - {"__version__"}
    assert [name for name in sorted(shown) if ">>>" not in getattr(mvmr, name).__doc__] == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory that the page expects."""
    photos(tmp_path / "photos", each=30)
    shutil.copytree(tmp_path / "photos/blue", tmp_path / "other")
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv3_small_050", num_classes=0)
    save_file(network.state_dict(), tmp_path / "teacher.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow  # trains half a dozen students; test_runs.py has these calls
def test_the_page_for_python_runs_from_top_to_bottom(folder: Path) -> None:
    names: dict[str, object] = {}
    for number, block in enumerate(page("docs/from-python.md").blocks("python")):
        exec(compile(block.text, f"block {number}", "exec"), names)  # noqa: S102
    assert (folder / "runs/photos/report.html").exists()
    assert (folder / "runs/photos/exports/photos.onnx").exists()
    assert names["probe"].accuracy > 0.7  # type: ignore[attr-defined]
    assert "nearest_mean" in names["run"].scores  # type: ignore[attr-defined]


def cells(kind: str) -> Iterator[str]:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ("".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind)


def test_the_notebook_goes_from_a_folder_to_pictures_of_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    names: dict[str, object] = {}
    for number, text in enumerate(cells("code")):
        exec(compile(text, f"cell {number}", "exec"), names)  # noqa: S102
    run, nearest = names["run"], names["nearest"]
    assert isinstance(run, mvmr.Run)
    assert isinstance(nearest, np.ndarray)
    found = names["found"].names  # type: ignore[attr-defined]
    same = [Path(found[row[0]]).parent == Path(found[row[1]]).parent for row in nearest]
    assert np.mean(same) > 0.5  # by chance, a tenth
    assert len(names["figure"].axes) == nearest.size  # type: ignore[attr-defined]


def test_the_notebook_is_stored_without_results() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in content["cells"])
