"""Small labelled images of known brightness, and settings to score protocols with."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.base.progress import Silent
from pipeline.datasets.source import Encoded, Item, Label, MultiLabel, Source, Split
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.protocol import Setting
from pipeline.evaluation.subjects import Subject, image_subjects
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import SplitData
from pipeline.models.checkpoint import Checkpoint
from pipeline.models.encoder import build_encoder
from pipeline.models.student import StudentOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.writing import ShardOptions, write_split

CPU = torch.device("cpu")
IMAGE = ImageOptions(size=12, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
STUDENT = StudentOptions(architecture="resnet8")
CLASSES = ("dark", "grey", "light")
COUNTS: dict[Split, int] = {"train": 150, "validation": 45, "test": 60}
SPARSE: Any = {"policy": "custom", "jitter": 0.0, "grey_p": 0.0}
AUGMENTED: Any = {"augmentation": SPARSE, "fit": {"epochs": 2}}


class Shades(Source):
    """Noisy images whose brightness tells the class; three of each split cannot be decoded."""

    classes: Sequence[str] | None = CLASSES

    def __init__(self, split: Split, labels: Sequence[Label | None]) -> None:
        self.splits = {split: [Item(f"{split}/{i}.png", label) for i, label in enumerate(labels)]}
        self._shades = [_shade(label, i) for i, label in enumerate(labels)]

    def read(self, item: Item) -> Encoded:
        """Return one image, or empty bytes for a bad one."""
        number = int(Path(item.name).stem)
        if number in (1, 11, 30):
            return Encoded(b"", "png")
        rng = np.random.default_rng([number, len(item.name)])
        pixels = rng.normal(self._shades[number], 30, (12, 12, 3)).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="png")
        return Encoded(buffer.getvalue(), "png")


def _shade(label: Label | None, number: int) -> float:
    if isinstance(label, MultiLabel):
        return 40 + 80 * (0 in label.present) + 60 * (1 in label.present)
    return 60.0 + 60 * (number % 3 if label is None else label)


def images(root: Path, labels: dict[Split, list[Label | None]]) -> Images:
    splits = {}
    for split, own in labels.items():
        source = Shades(split, own)
        manifest = write_split(
            source,
            source.splits[split],
            root / split,
            dataset="shades",
            split=split,
            options=ShardOptions(samples=40, on_bad_image="skip"),
            provenance={},
            progress=Silent(),
        )
        splits[split] = SplitData(root / split, manifest, {}, IMAGE)
    return Images(splits)


def single(split: Split) -> list[Label | None]:
    """Return the classes in turn; every fifth image has no label."""
    return [None if i % 5 == 4 else i % 3 for i in range(COUNTS[split])]


def several(split: Split) -> list[Label | None]:
    rows = ((0,), (1,), (0, 2), (2,), (0, 1))
    return [
        MultiLabel(rows[i % 5], ignored=(2,) if i % 7 == 0 and 2 not in rows[i % 5] else ())
        for i in range(COUNTS[split])
    ]


def setting(
    of: Images,
    work: Path,
    *,
    probe: dict[str, torch.Tensor] | None = None,
    specifications: dict[str, RepresentationOptions] | None = None,
    references: dict[str, Subject] | None = None,
    device: torch.device = CPU,
) -> tuple[Setting, Subject, Subject]:
    """Return a setting, an encoder as the subject, and pixels as its control."""
    encoder = build_encoder(STUDENT, channels=3, size=12, seed=0)
    checkpoint = Checkpoint(STUDENT, IMAGE, encoder.state_dict(), probe, {})
    made = Setting(
        images=of,
        references=references or {},
        specifications=specifications or {},
        checkpoint=checkpoint,
        device=device,
        seed=0,
        work=work,
        progress=Silent(),
    )
    subjects = image_subjects(
        {"student": encoder}, of, device=device, cache=work, progress=Silent()
    )
    return made, subjects["student"], subjects["pixels"]
