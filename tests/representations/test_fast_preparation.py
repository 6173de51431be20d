"""`preparation: fast` against the libraries' own, and what extraction says of the difference."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from photographs import photographs
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from watched import Watched

from pipeline.base.errors import ConfigError
from pipeline.datasets.source import Encoded, Item, Source
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.store import FeatureStore
from pipeline.images.decoding import opened
from pipeline.images.original_view import ImageOptions
from pipeline.representations.teachers.exported import ExportedOptions
from pipeline.representations.teachers.frozen import FrozenTeacher
from pipeline.representations.teachers.timm import TimmOptions
from pipeline.shards.writing import ShardOptions, write_split

STUDENT = ImageOptions(size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
MODEL = "test_resnet.r160_in1k"  # resizes to 168, crops 160
SIZES = [(160, 160), (161, 203), (333, 250), (500, 375), (375, 501), (1024, 683), (90, 140)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet.pt"
    torch.save(timm.create_model(MODEL).state_dict(), path)
    return path


class Files(Source):
    """Image files in memory, without labels."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self.classes = None
        self._files = files
        self.splits = {"train": [Item(f"{number}") for number in range(len(files))]}

    def read(self, item: Item) -> Encoded:
        """Return one file."""
        return Encoded(self._files[int(item.name)], "jpg")


def teacher(weights: Path, how: str) -> FrozenTeacher:
    options = {"model": MODEL, "weights": weights, "preparation": how}
    return TimmOptions.model_validate(options).build(STUDENT)


def picture(width: int, height: int, *, turned: bool = False) -> bytes:
    """Return a JPEG file with details of several sizes."""
    random = np.random.default_rng(width)
    layers = [
        Image.fromarray(random.integers(0, 256, (n, n + 1, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for n in (4, 16, 40)
    ]
    mixed = Image.blend(Image.blend(layers[0], layers[1], 0.4), layers[2], 0.3)
    file, exif = io.BytesIO(), Image.Exif()
    if turned:
        exif[0x0112] = 6
    mixed.save(file, "JPEG", quality=92, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_it_shows_the_same_part_of_an_image(
    weights: Path, size: tuple[int, int], turned: bool
) -> None:
    exact, fast = teacher(weights, "exact").preparation, teacher(weights, "fast").preparation
    file = opened(picture(*size, turned=turned))
    wanted, found = exact.pixels(file).int(), fast.pixels(file).int()
    assert found.shape == wanted.shape == (3, 160, 160)
    assert (found - wanted).abs().double().mean() < 0.3
    image = file.decoded()
    settings = resolve_model_data_config(timm.create_model(MODEL))
    transform: Any = create_transform(**settings)
    assert (fast(image) - transform(image)).abs().mean() < 0.02


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_an_exported_program_keeps_its_kernel(tmp_path: Path, interpolation: str) -> None:
    exact, fast = (exported(tmp_path, interpolation, how) for how in ("exact", "fast"))
    for size in SIZES:
        file = opened(picture(*size))
        gap = (fast.preparation.pixels(file).int() - exact.preparation.pixels(file).int()).abs()
        assert gap.double().mean() < 0.5  # of which the largest is decoded at a reduced scale
    assert exact.identity() != fast.identity()


def test_what_it_cannot_follow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="preparation: fast resizes the shorter side"):
        exported(tmp_path, "nearest", "fast")


def test_identities_differ_and_equal_settings_are_equal(weights: Path) -> None:
    exact, fast = teacher(weights, "exact"), teacher(weights, "fast")
    assert exact.identity() != fast.identity()
    assert fast.identity() == teacher(weights, "fast").identity()
    assert fast.preparation == teacher(weights, "fast").preparation
    assert "decoder" in str(fast.identity()["preprocessing"])


def test_extraction_measures_the_cosine_to_the_exact_vectors(weights: Path, tmp_path: Path) -> None:
    files = [picture(*size) for size in SIZES]
    source = Files(files)
    write_split(
        source,
        source.splits["train"],
        tmp_path / "shards/train",
        dataset="pictures",
        split="train",
        options=ShardOptions(samples=4),
        provenance={},
        progress=Watched(),
    )
    options = TimmOptions(model=MODEL, weights=weights, preparation="fast")
    noted = Watched()
    stored = extract(
        {"net": options},
        image=STUDENT,
        shards=tmp_path / "shards",
        store=FeatureStore(tmp_path / "features.zarr"),
        work=tmp_path / "work",
        options=ClusterOptions(here=True),
        progress=noted,
    )["net"]
    report = stored.report["preparation"]
    exact = teacher(weights, "exact")
    images = torch.stack([exact.preparation(opened(file).decoded()) for file in files])
    rows = torch.from_numpy(stored.read("train")).float()
    cosines = F.cosine_similarity(rows, exact(images))
    assert report["images"] == len(SIZES)
    assert report["cosine"] == pytest.approx(cosines.mean().item(), abs=1e-4)
    assert report["least"] == pytest.approx(cosines.min().item(), abs=1e-4)
    assert any("the cosine of fast to exact preparation is" in note for note in noted.notes)


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def exported(folder: Path, interpolation: str, how: str) -> FrozenTeacher:
    program = folder / "mean.pt2"
    if not program.exists():
        shapes = ({0: torch.export.Dim("batch")},)
        example = (torch.rand(4, 3, 48, 48),)
        torch.export.save(torch.export.export(_Mean(), example, dynamic_shapes=shapes), program)
    settings = {"input_size": 48, "resize": 55, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    options = {"program": program, "trust": True, "interpolation": interpolation} | settings
    return ExportedOptions.model_validate({**options, "preparation": how}).build(STUDENT)


def test_of_photographs_vectors_are_the_same(weights: Path) -> None:
    files = [opened(path.read_bytes()) for path in photographs(20)]
    exact, fast = (
        how(how.preparation.finish(torch.stack([how.preparation.pixels(f) for f in files])))
        for how in (teacher(weights, "exact"), teacher(weights, "fast"))
    )
    assert F.cosine_similarity(exact, fast).min() > 0.999
