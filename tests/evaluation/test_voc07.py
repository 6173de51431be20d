"""VOC 2007, from a VOCdevkit in its real layout to the mean average precision, by command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.models.encoder import build_encoder
from pipeline.models.student import StudentOptions
from stages.terminal.cli import run

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
EXPERIMENT = """
name: transfer
seed: 0
dataset:
  name: voc07
  source: {kind: voc07, root: voc}
  split: {method: exact, seed: 0, validation: 0.3, test: 0}
  shards: {samples: 16, on_bad_image: fail}
  image: {size: 16, resize: 18, channels: 3, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}
features: {}
student: {architecture: resnet8, weights: released.pth}
objective: none
train: none
evaluate:
  voc07: {}
"""


def write_devkit(root: Path, sets: dict[str, int]) -> None:
    """Write pictures with half of the classes each; some objects of every class are difficult."""
    rng = np.random.default_rng(0)
    folder = root / "VOCdevkit" / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    number = 0
    for image_set, count in sets.items():
        names = []
        for _ in range(count):
            number += 1
            names.append(f"{number:06d}")
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{names[-1]}.jpg")
            objects = "".join(
                f"<object><name>{CLASSES[i]}</name><difficult>{int(rng.random() < 0.2)}"
                "</difficult></object>"
                for i in rng.permutation(20)[:10]
            )
            annotation = f"<annotation><filename>{names[-1]}.jpg</filename>{objects}</annotation>"
            (folder / "Annotations" / f"{names[-1]}.xml").write_text(annotation)
        (folder / "ImageSets/Main" / f"{image_set}.txt").write_text("\n".join(names) + "\n")


def test_released_weights_are_transferred_to_voc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_devkit(tmp_path / "voc", {"trainval": 60, "test": 25})
    student = StudentOptions(architecture="resnet8")
    backbone = build_encoder(student, channels=3, size=16, seed=5).backbone
    classifier = torch.nn.Linear(64, 20).state_dict()
    torch.save({"encoder": backbone.state_dict(), "classifier": classifier}, "released.pth")
    Path("transfer.yaml").write_text(EXPERIMENT)
    for command in (["shard"], ["train"], ["evaluate"]):
        assert run([*command, "-c", "transfer.yaml", "-q"]) == 0
    record = json.loads(Path("runs/transfer/metrics/voc07.json").read_text())
    assert record["main"] == "map"
    assert record["images"] == {"train": 42, "validation": 18, "test": 25}
    assert set(record["controls"]) == {"untrained", "pixels"}
    # Noise shows no classes, so precision is near the share of positives, a half.
    assert 30 < record["map_low"] < record["map"] < record["map_high"] < 75
    assert set(record["details"]["area_by_class"]) == set(CLASSES)
    assert record["checkpoint"]["selection"]["rule"] == "given"
