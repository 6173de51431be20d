"""Exported backbones, read back by the other program."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from pipeline.checkpoints import Checkpoint
from pipeline.encoders import StudentOptions, build_encoder, load_weights
from pipeline.errors import ConfigError
from pipeline.exporting import FORMATS, export
from pipeline.images import ImageOptions

IMAGE = ImageOptions(size=64, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
BATCH = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def checkpoint(**student: object) -> Checkpoint:
    options = StudentOptions.model_validate({"projector": [32], **student})
    encoder = build_encoder(options, channels=3, size=64, seed=1)
    return Checkpoint(options, IMAGE, encoder.state_dict(), None, {"experiment": "x"})


def test_torchvision_gives_the_same_embeddings(tmp_path: Path) -> None:
    trained = checkpoint(architecture="resnet18")
    card = export(trained, tmp_path / "x.pth", form="torchvision")
    network = torchvision.models.resnet18(weights=None)
    network.fc = torch.nn.Identity()
    network.load_state_dict(torch.load(tmp_path / "x.pth", weights_only=True))
    expected = trained.build().features(BATCH)
    torch.testing.assert_close(network.eval()(BATCH), expected, rtol=1e-4, atol=1e-4)
    assert json.loads(card.read_text())["embedding_size"] == 512


@pytest.mark.parametrize("architecture", ["resnet18", "resnet8x2"])
def test_safetensors_hold_the_backbone(tmp_path: Path, architecture: str) -> None:
    trained = checkpoint(architecture=architecture)
    export(trained, tmp_path / "x.safetensors", form="safetensors")
    other = build_encoder(trained.student, channels=3, size=64, seed=2).eval()
    load_weights(other.backbone, load_file(tmp_path / "x.safetensors"))
    torch.testing.assert_close(other.features(BATCH), trained.build().features(BATCH))


@pytest.mark.parametrize(
    "student",
    [
        {"architecture": "resnet8"},
        {"architecture": "resnet18", "stem": "3x3"},
        {"architecture": "resnet18", "maxpool": False},
    ],
)
def test_what_torchvision_lacks_is_refused_with_what_works(
    tmp_path: Path, student: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match="safetensors"):
        export(checkpoint(**student), tmp_path / "x.pth", form="torchvision")
    assert list(tmp_path.iterdir()) == []
    assert set(FORMATS) == {"safetensors", "torchvision"}
