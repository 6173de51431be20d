"""The experiments for photographs, at full width, on a few real ones: every command, one epoch."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from photographs import photographs

from pipeline.datasets.voc07 import CLASSES
from pipeline.models.checkpoint import Checkpoint, save_checkpoint
from pipeline.models.encoder import build_encoder
from stages.experiment.schema import load
from stages.terminal.cli import run

ROOT = Path(__file__).parents[2]
TEACHER = ROOT.parent / "shared" / "data" / "teacher"
NAMES = (
    "folder_clip",
    "folder_self_supervised",
    "imagenet_clip",
    "imagenet_self_supervised",
    "stl10_clip",
    "stl10_self_supervised",
)
# Two classes of 20 images; the whole takes minutes at the projectors' 8192 dimensions.
TRAIN = {
    "epochs": 1,
    "batch_size": 8,
    "accumulate": 1,
    "precision": "32",
    "schedule": {"kind": "constant"},
    "loading": {"mode": "streaming", "workers": 1},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with two classes of photographs, which is the working directory."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for number, path in enumerate(photographs(40)):
        target = tmp_path / "images" / ("coat", "shoe")[number % 2] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def overrides(name: str) -> list[str]:
    """Return the options that make an experiment one for a few photographs."""
    experiment = load(ROOT / "configs" / f"{name}.yaml")
    changes: dict[str, Any] = {
        "dataset.source": {"kind": "image_folder", "root": "images"},
        "dataset.split": {"validation": 0.3, "test": 0.2},
        "evaluate": {"knn": {"ks": [3]}, "retrieval": {}},
        **{f"train.{key}": value for key, value in TRAIN.items()},
    }
    for feature, options in experiment.features.items():
        if options.kind == "open_clip":
            changes[f"features.{feature}"] = {
                "kind": "open_clip",
                "model": "tiny-clip-rn64",
                "config": str(TEACHER / "tiny-clip-rn64.json"),
                "pretrained": str(TEACHER / "tiny-clip-rn64-cifar10.pt"),
            }
        else:
            changes[f"features.{feature}.reduce"] = {"pca": 16}
    return [part for key, value in changes.items() for part in ("-s", f"{key}={json.dumps(value)}")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_runs_on_photographs(project: Path, name: str) -> None:
    if not TEACHER.exists():
        pytest.skip(f"needs the teacher in {TEACHER}")
    config = ["--config", str(ROOT / "configs" / f"{name}.yaml"), *overrides(name)]
    for command in (["shard"], ["extract-features", "--workers", "1"], ["train"], ["evaluate"]):
        assert run([*command, "--quiet", *config]) == 0, command
    scores = json.loads((project / "runs" / name / "metrics" / "knn.json").read_text())
    assert 0 <= scores["top1"] <= 100
    assert (project / "runs" / name / "checkpoints" / "best.pt").stat().st_size > 1e6


def write_voc07(root: Path, files: list[Path]) -> None:
    """Lay photographs out as VOC 2007, each with half of all classes."""
    folder = root / "VOCdevkit" / "VOC2007"
    names = [f"{number:06d}" for number in range(len(files))]
    for name, path in zip(names, files, strict=True):
        found = [label for place, label in enumerate(CLASSES) if (int(name) + place) % 4 < 2]
        objects = "".join(
            f"<object><name>{label}</name><difficult>0</difficult></object>" for label in found
        )
        for kind, content in (("JPEGImages", path.read_bytes()), ("Annotations", None)):
            target = folder / kind / f"{name}.{'jpg' if content else 'xml'}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content or f"<annotation>{objects}</annotation>".encode())
    sets = folder / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    for split, some in (("trainval", names[: len(names) // 2]), ("test", names[len(names) // 2 :])):
        (sets / f"{split}.txt").write_text("\n".join(some))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_transfer_to_voc_runs_on_photographs(project: Path) -> None:
    """From weights of a whole ResNet-50, at 300 pixels, as published; it was not trained."""
    write_voc07(project / "voc", photographs(40))
    config = ROOT / "configs" / "voc07_transfer.yaml"
    experiment = load(config)
    student = experiment.student.model_copy(update={"weights": None})
    image = experiment.dataset.image
    encoder = build_encoder(student, channels=image.channels, size=image.size, seed=0)
    checkpoint = Checkpoint(student, image, encoder.state_dict(), None, {"epoch": 0})
    save_checkpoint(project / "start.pt", checkpoint)
    changes = (
        "dataset.source={kind: voc07, root: voc}",
        "dataset.split.validation=0.4",
        "student.weights=start.pt",
    )
    options = [part for change in changes for part in ("-s", change)]
    for command in (["shard"], ["train"], ["evaluate"]):
        assert run([*command, "--quiet", "--config", str(config), *options]) == 0, command
    record = json.loads((project / "runs/voc07_transfer/metrics/voc07.json").read_text())
    assert 0 <= record["map"] <= 100
    assert record["images"]["test"] == 20
