"""Exported backbones, read back by the library that each format is for."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mvmr import load_encoder
from pipeline.base.digests import sha256_of
from pipeline.base.errors import ConfigError, WeightsError
from pipeline.images.original_view import ImageOptions
from pipeline.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pipeline.models.encoder import build_encoder
from pipeline.models.exporting import FORMATS, card_of, export
from pipeline.models.student import StudentOptions

IMAGE = ImageOptions(size=64, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
BATCH = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def checkpoint(**student: object) -> Checkpoint:
    options = StudentOptions.model_validate({"projector": [32], **student})
    encoder = build_encoder(options, channels=3, size=64, seed=1)
    return Checkpoint(options, IMAGE, encoder.state_dict(), None, {"experiment": "x"})


def exported(trained: Checkpoint, folder: Path, form: str) -> Path:
    """Save the checkpoint in `folder` and return its export as `form`."""
    save_checkpoint(folder / "best.pt", trained)
    path = folder / f"x.{FORMATS[form].ending}"
    scores = {"linear": {"top1": 90.0}}
    export(trained, path, form=form, source=folder / "best.pt", metrics=scores)
    return path


def by_card(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the card's own loading code beside the file, and return what it defines."""
    monkeypatch.chdir(path.parent)
    names: dict[str, Any] = {"images": BATCH.numpy()}
    exec(json.loads(card_of(path).read_text())["load"], names)  # noqa: S102
    return names


@pytest.mark.parametrize(
    ("form", "student"),
    [
        ("torchvision", {"architecture": "resnet18"}),
        ("timm", {"architecture": "resnet18"}),
        ("timm", {"architecture": "timm:resnet10t"}),
        ("safetensors", {"architecture": "resnet8x2"}),
        ("safetensors", {"architecture": "resnet18", "stem": "3x3/2", "maxpool": False}),
        ("released", {"architecture": "resnet18", "stem": "3x3/2"}),
        ("onnx", {"architecture": "resnet8x2"}),
    ],
)
def test_the_cards_loading_code_gives_the_same_embeddings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, student: dict[str, object]
) -> None:
    trained = checkpoint(**student)
    path = exported(trained, tmp_path, form)
    names = by_card(path, monkeypatch)
    with torch.no_grad():
        expected = trained.build().features(BATCH)
        found = names["module"](BATCH) if "module" in names else names["embeddings"]
        torch.testing.assert_close(torch.as_tensor(found), expected, rtol=1e-4, atol=1e-4)
        again = load_encoder(path).module(BATCH)
        torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-4)
    card = json.loads(card_of(path).read_text())
    assert card["embedding_size"] == expected.shape[1]
    assert card["preprocessing"]["size"] == 64
    assert card["metrics"] == {"linear": {"top1": 90.0}}
    assert card["checkpoint"]["sha256"] == sha256_of(tmp_path / "best.pt")


def test_onnx_takes_any_number_of_images(tmp_path: Path) -> None:
    trained = checkpoint(architecture="resnet8")
    module = load_encoder(exported(trained, tmp_path, "onnx")).module
    for count in (1, 5):
        images = torch.randn(count, 3, 64, 64)
        torch.testing.assert_close(
            module(images), trained.build().features(images).detach(), rtol=1e-4, atol=1e-4
        )


def test_released_files_are_checkpoints_again(tmp_path: Path) -> None:
    trained = checkpoint(architecture="resnet18")
    again = load_checkpoint(exported(trained, tmp_path, "released"), image=IMAGE)
    assert again.encoder.keys() == trained.encoder.keys()
    assert again.student.projector == (32,)


@pytest.mark.parametrize("form", ["torchvision", "timm"])
@pytest.mark.parametrize(
    "student",
    [
        {"architecture": "resnet8"},
        {"architecture": "resnet18", "stem": "3x3"},
        {"architecture": "resnet18", "maxpool": False},
    ],
)
def test_what_the_other_library_lacks_is_refused_with_what_works(
    tmp_path: Path, form: str, student: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match="export it as safetensors, onnx or released"):
        exported(checkpoint(**student), tmp_path, form)
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_a_damaged_card_is_an_error(tmp_path: Path) -> None:
    path = exported(checkpoint(architecture="resnet8"), tmp_path, "safetensors")
    card_of(path).write_text("{}")
    with pytest.raises(WeightsError, match="export again"):
        load_encoder(path)


def test_an_image_prepared_by_hand_as_the_card_says_is_what_the_encoder_sees(
    tmp_path: Path,
) -> None:
    trained = checkpoint(architecture="resnet8")
    larger = replace(trained, image=IMAGE.model_copy(update={"resize": 72}))
    card = json.loads(card_of(exported(larger, tmp_path, "safetensors")).read_text())
    assert "shorter side to 72 pixels, bicubic" in card["preparation"]["resize"]
    assert card["preparation"]["crop"] == "the central 64 x 64 pixels"
    assert card["preparation"]["colours"] == "red, green, blue"
    pixels = np.random.default_rng(0).integers(0, 256, (180, 144, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    image = Image.fromarray(pixels).convert("RGB").resize((72, 90), Image.Resampling.BICUBIC)
    values = np.asarray(image.crop((4, 13, 68, 77)), dtype=np.float32) / 255
    mean, std = (np.array(card["preprocessing"][name]) for name in ("mean", "std"))
    expected = ((values - mean) / std).transpose(2, 0, 1)
    _, preprocessing = load_encoder(tmp_path / "best.pt")
    found = preprocessing(Image.fromarray(pixels)).numpy()
    assert np.abs(found - expected).max() < 2.5 / 255 / 0.2
    assert np.abs(found - expected).mean() < 0.3 / 255 / 0.2
