"""Several runs of one data set, or in one folder: each object shows its own run or says so."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from stranger import SIDE, Network, photos
from torch import nn

import mvmr
from pipeline.base.errors import DataError
from stages.experiment.paths import DatasetLayout, RunLayout

TRAIN: dict[str, Any] = {"epochs": 1, "batch_size": 16, "parallel": {"accelerator": "cpu"}}
KNN = {"knn": {"ks": [5]}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> mvmr.Dataset:
    root = tmp_path_factory.mktemp("beside")
    pictures = photos(root / "photos", each=20)
    return mvmr.pack(pictures, root / "packed", image=mvmr.Image(SIDE))


def pooled(side: int) -> Any:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten())
    return mvmr.teacher(network, name=f"pooled to {side}")


def distilled(data: mvmr.Dataset, out: Path, side: int) -> mvmr.Run:
    return mvmr.distil(
        data,
        teacher=pooled(side),
        student="resnet8",
        out=out,
        train=TRAIN,
        evaluate=KNN,
        features={"hog": {"cell": 8}},
    )


def test_a_run_keeps_its_teacher_when_another_one_takes_its_place(
    data: mvmr.Dataset, tmp_path: Path
) -> None:
    one, two = (distilled(data, tmp_path / str(side), side) for side in (1, 2))
    for run, width in ((one, 3), (two, 12), (one, 3)):
        assert run.data["train"].features("teacher").shape[1] == width
        assert run.report().stat().st_size > 10_000
        assert run.scores["knn"].controls.keys() >= {"teacher", "hog"}


def test_an_object_of_a_run_does_not_become_another_run(data: mvmr.Dataset, tmp_path: Path) -> None:
    first = distilled(data, tmp_path / "out", 1)
    value = first.scores["knn"].value
    second = mvmr.pretrain(
        data, student="resnet8", out=tmp_path / "out", train=TRAIN, evaluate={"retrieval": {}}
    )
    assert list(second.scores) == ["retrieval"]
    assert list(first.scores) == ["knn"]
    for use in (
        lambda: first.encoder,
        lambda: first.export(),
        first.report,
        lambda: first.embed(Path(str(data.path)).parent / "photos"),
    ):
        with pytest.raises(DataError, match=r"holds another run.*`out` of its own"):
            use()
    again = distilled(data, tmp_path / "out", 1)
    assert again.scores["knn"].value == first.scores["knn"].value == value
    x = torch.ones(1, 3, SIDE, SIDE)
    assert torch.equal(first.encoder.module(x), again.encoder.module(x))
    assert first.report().exists()


def test_a_report_needs_no_more_than_the_network_in_a_later_process(
    data: mvmr.Dataset, tmp_path: Path
) -> None:
    run = mvmr.distil(
        data, teacher=pooled(1), student=Network(), out=tmp_path / "own", train=TRAIN, evaluate=KNN
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); import mvmr, stranger\n"
        "run = mvmr.open_run(sys.argv[1], backbone=stranger.Network())\n"
        "print(run.report())\n"
    )
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path), tests],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(run.path / "report.html")


def test_results_are_not_mixed_with_files_of_others(data: mvmr.Dataset, tmp_path: Path) -> None:
    mine = tmp_path / "letters"
    mine.mkdir()
    (mine / "letter.txt").write_text("Dear")
    pictures = Path(str(data.path)).parent / "photos"
    with pytest.raises(DataError, match="holds files that are not of a run"):
        mvmr.pretrain(data, out=mine, train=TRAIN)
    with pytest.raises(DataError, match="not of this library: choose a new"):
        mvmr.pack(pictures, mine)
    for place in (pictures, pictures / "packed"):
        with pytest.raises(DataError, match="lies within the folder of images"):
            mvmr.pack(pictures, place)
    assert [path.name for path in mine.iterdir()] == ["letter.txt"]
    assert not (pictures / "packed").exists()


@pytest.mark.parametrize("name", ["source.json", "features.zarr", "fidelity", "image.json"])
def test_a_folder_that_a_stage_began_is_one_of_a_data_set(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert DatasetLayout(tmp_path).is_free
    assert not RunLayout(tmp_path).is_free


@pytest.mark.parametrize("name", ["targets.json", "features.json", "checkpoints", "curves.csv"])
def test_a_folder_that_a_stage_began_is_one_of_a_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert RunLayout(tmp_path).is_free
    assert not DatasetLayout(tmp_path).is_free
