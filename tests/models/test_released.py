"""Released MV-MR files, all three kinds, read strictly as checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image

from mvmr import load_encoder
from pipeline.base.errors import WeightsError
from pipeline.images.original_view import ImageOptions
from pipeline.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pipeline.models.encoder import build_encoder
from pipeline.models.student import StudentOptions

IMAGE = ImageOptions(size=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
BATCH = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    model: torch.nn.Module = torchvision.models.resnet18(weights=None)
    model.fc = torch.nn.Identity()
    return model.eval()


def projector() -> torch.nn.Module:
    """Return the released projector, layer by layer."""
    layers = [
        *(torch.nn.Linear(512, 24, bias=False), torch.nn.BatchNorm1d(24), torch.nn.ReLU()),
        *(torch.nn.Linear(24, 24, bias=False), torch.nn.BatchNorm1d(24), torch.nn.ReLU()),
        torch.nn.Linear(24, 16, bias=False),
    ]
    return torch.nn.Sequential(*layers)


def pretrained() -> dict[str, Any]:
    encoder = {f"backbone.{n}": v for n, v in network().state_dict().items()}
    encoder |= {f"projector.{n}": v for n, v in projector().state_dict().items()}
    return {"encoder": encoder, "online_finetuner": torch.nn.Linear(512, 10).state_dict()}


def transferred() -> dict[str, Any]:
    """Return a file of the VOC and semi-supervised kind: only the backbone, and a classifier."""
    classifier = torch.nn.Linear(512, 20).state_dict()
    return {"encoder": network().state_dict(), "classifier": classifier}


def bare() -> dict[str, Any]:
    return {"encoder": {f"backbone.{n}": v for n, v in network().state_dict().items()}}


@pytest.mark.parametrize(
    ("content", "widths", "classes"),
    [(pretrained, (24, 24, 16), 10), (transferred, (), 20), (bare, (), None)],
)
def test_every_kind_gives_torchvisions_features(
    tmp_path: Path, content: Any, widths: tuple[int, ...], classes: int | None
) -> None:
    torch.save(content(), tmp_path / "released.pth")
    checkpoint = load_checkpoint(tmp_path / "released.pth", image=IMAGE)
    assert checkpoint.student.architecture == "resnet18"
    assert checkpoint.student.projector == widths
    assert (len(checkpoint.probe["weight"]) if checkpoint.probe else None) == classes
    torch.testing.assert_close(checkpoint.build().features(BATCH), network()(BATCH))


def test_the_experiments_student_is_believed_about_strides(tmp_path: Path) -> None:
    wanted = StudentOptions(architecture="resnet18", stem="3x3/2", maxpool=False)
    source = build_encoder(wanted, channels=3, size=32, seed=1).eval()
    torch.save({"encoder": source.backbone.state_dict()}, tmp_path / "x.pth")
    path = tmp_path / "x.pth"
    told = load_checkpoint(path, student=wanted, image=IMAGE)
    torch.testing.assert_close(told.build().features(BATCH), source.features(BATCH))
    guessed = load_checkpoint(path, image=IMAGE).student
    assert (guessed.stem, guessed.maxpool) == ("3x3", None)


def test_python_gets_module_and_preprocessing_in_one_call(tmp_path: Path) -> None:
    torch.save(pretrained(), tmp_path / "released.pth")
    module, preprocessing = load_encoder(tmp_path / "released.pth")
    picture = Image.new("RGB", (300, 280), "teal")
    image = preprocessing(picture)
    assert image.shape == (3, 224, 224)
    with torch.no_grad():
        assert module(image[None]).shape == (1, 512)


def break_name(content: dict[str, Any]) -> None:
    content["encoder"]["backbone.conv9.weight"] = content["encoder"].pop("backbone.conv1.weight")


def drop(content: dict[str, Any]) -> None:
    del content["encoder"]["backbone.layer1.0.conv1.weight"]


def add(content: dict[str, Any]) -> None:
    content["encoder"]["teacher.weight"] = torch.zeros(1)


def another_key(content: dict[str, Any]) -> None:
    content["optimizer"] = {}


def deep_classifier(content: dict[str, Any]) -> None:
    content["online_finetuner"]["0.weight"] = torch.zeros(1)


def no_tensors(content: dict[str, Any]) -> None:
    content["encoder"] = {"backbone.conv1.weight": 3}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_name, r"1 missing \(backbone.conv1.weight\); 1 unexpected \(backbone.conv9.weight"),
        (drop, r"1 missing \(backbone.layer1.0.conv1.weight\)"),
        (add, r"1 unexpected \(teacher.weight\)"),
        (another_key, "unexpected: optimizer"),
        (deep_classifier, "must hold weight and bias; found 0.weight, bias, weight"),
        (no_tensors, "encoder must hold named tensors"),
    ],
)
def test_loading_is_strict_and_lists_what_differs(
    tmp_path: Path, damage: Any, message: str
) -> None:
    content = pretrained()
    damage(content)
    torch.save(content, tmp_path / "x.pth")
    student = StudentOptions(architecture="resnet18", projector=(24, 24, 16))
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(tmp_path / "x.pth", student=student, image=IMAGE)


def test_another_architecture_is_named(tmp_path: Path) -> None:
    torch.save(bare(), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="do not fit this network"):
        load_checkpoint(tmp_path / "x.pth", student=StudentOptions(architecture="resnet50"))
    torch.save({"encoder": {"backbone.x": torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="no known architecture"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    options = StudentOptions(architecture="resnet8")
    weights = build_encoder(options, channels=3, size=32, seed=0).state_dict()
    save_checkpoint(tmp_path / "own.pt", Checkpoint(options, IMAGE, weights, None, {}))
    with pytest.raises(WeightsError, match=r"another dataset.image .*size is 32 in the file"):
        load_checkpoint(tmp_path / "own.pt", image=IMAGE.model_copy(update={"size": 64}))
