"""Batches of stored views: each crop beside its own targets, however they are read."""

import io
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.base.progress import Silent
from pipeline.datasets.source import Encoded, Item, Source
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.store import FeatureStore
from pipeline.features.store.feature import view_part
from pipeline.images.decoding import opened
from pipeline.images.original_view import ImageOptions
from pipeline.images.random_views import AugmentationOptions, build_augmentation
from pipeline.images.stored_views import StoredViewOptions, stored_view
from pipeline.images.view_options import GLOBAL
from pipeline.loading.batch import SplitData
from pipeline.loading.batch_pixels import RandomViews, random_view
from pipeline.loading.loaders import LoadingOptions, training_loader
from pipeline.representations.hog import HogOptions
from pipeline.shards.manifest import read_manifest
from pipeline.shards.reading import read_shard
from pipeline.shards.writing import ShardOptions, write_split

SIZE, SAMPLES, BATCH, TAR = 16, 26, 4, 6
IMAGE = ImageOptions(size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)
STORED = StoredViewOptions(count=3)
PLAIN = AugmentationOptions(policy="custom", jitter=0.0, grey_p=0.0)


class Scenes(Source):
    """Smooth colour images of several sizes, of which one cannot be decoded."""

    classes = None

    def __init__(self) -> None:
        self.splits = {"train": [Item(str(number)) for number in range(SAMPLES)]}

    def read(self, item: Item) -> Encoded:
        """Return one file."""
        number = int(item.name)
        if number == 9:
            return Encoded(b"", "png")
        coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        sides = (30 + number, 41)
        image = Image.fromarray(coarse).resize(sides, Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "PNG")
        return Encoded(file.getvalue(), "png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SplitData:
    root, source = tmp_path_factory.mktemp("scenes"), Scenes()
    write_split(
        source,
        source.splits["train"],
        root / "shards/train",
        dataset="scenes",
        split="train",
        options=ShardOptions(samples=TAR, on_bad_image="skip"),
        provenance={},
        progress=Silent(),
    )
    features = extract(
        {
            "plain": HogOptions(cell=8),
            "viewed": HogOptions(cell=4, views=STORED),
        },
        image=IMAGE,
        shards=root / "shards",
        store=FeatureStore(root / "features.zarr"),
        work=root / "work",
        options=ClusterOptions(workers=1),
        progress=Silent(),
    )
    return SplitData(root / "shards/train", read_manifest(root / "shards/train"), features, IMAGE)


class Shown(NamedTuple):
    """What an epoch shows of a sample in one view: its crop, its target, and the original's."""

    crop: Tensor
    target: Tensor
    plain: Tensor


Epochs = dict[tuple[int, int, int], Shown]  # by epoch, sample and view


def epochs(data: SplitData, count: int = 3, *, skip: int = 0, **how: Any) -> Epochs:
    options = LoadingOptions.model_validate(
        {name: how.pop(name) for name in ("mode", "workers") if name in how}
    )
    views = RandomViews(PLAIN, (GLOBAL, GLOBAL), original=how.pop("original", False), stored=STORED)
    loader = training_loader(data, options, batch_size=BATCH, seed=7, views=views, **how)
    loader.load_state_dict({"epoch": skip // len(loader), "delivered": skip % len(loader)})
    found: Epochs = {}
    for epoch in range(loader.epoch, loader.epoch + count):
        for batch in loader:
            assert batch["targets"].keys() == {"plain", "viewed"}
            for number, view in enumerate(batch["views"]):
                assert view.crops is not None
                assert view.targets is not None
                assert view.targets.keys() == {"viewed"}
                for row, sample in enumerate(batch["index"].tolist()):
                    found[epoch, sample, number] = Shown(
                        view.crops[row], view.targets["viewed"][row], batch["targets"]["plain"][row]
                    )
    return found


def test_each_crop_stands_beside_its_own_target(data: SplitData) -> None:
    files = {
        data.manifest.first_index(number) + record.row: opened(record.data)
        for number in range(len(data.manifest.shards))
        for record in read_shard(data.directory, data.manifest, number)
        if record.valid
    }
    stored = data.features["viewed"]
    targets = [torch.from_numpy(stored.read(view_part(n))) for n in range(3)]
    plain = torch.from_numpy(data.features["plain"].read("train"))
    shown = epochs(data, mode="streaming", workers=0)
    numbers: dict[tuple[int, int, int], set[int]] = {}
    for (epoch, sample, view), found in shown.items():
        (number,) = [n for n in range(3) if torch.equal(targets[n][sample], found.target)]
        drawn = stored_view(STORED, files[sample], number)
        crop = drawn.cut(files[sample].decoded()).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        expected = torch.from_numpy(np.array(crop)).permute(2, 0, 1)
        assert (found.crop.int() - expected.int()).abs().double().mean() < 1
        assert torch.equal(found.plain, plain[sample])
        numbers.setdefault((epoch, sample // TAR, view), set()).add(number)
    assert all(len(found) == 1 for found in numbers.values())  # one view of a tar in an epoch
    for tar in range(5):
        counts = Counter(n for (_, t, _), (n,) in numbers.items() if t == tar)
        assert counts == {0: 2, 1: 2, 2: 2}  # in three epochs of two views, all of them twice


def test_memory_tars_workers_and_processes_show_the_same(data: SplitData) -> None:
    streamed = epochs(data, mode="streaming", workers=0)
    others = [
        epochs(data, mode="streaming", workers=2),
        epochs(data, mode="resident"),
        *(epochs(data, mode="resident", workers=3, rank=r, world_size=2) for r in range(2)),
        epochs(data, 1, skip=SAMPLES // BATCH + 2, mode="resident"),
    ]
    for other in others:
        common = streamed.keys() & other.keys()
        assert len(common) > SAMPLES
        for key in common:
            assert all(map(torch.equal, streamed[key], other[key]))


def test_a_stored_flip_is_the_only_one(data: SplitData) -> None:
    """Colours are drawn on top, here with no strength; nothing is mirrored again."""
    options = LoadingOptions(mode="resident")
    views = RandomViews(PLAIN.model_copy(update={"policy": "cifar20"}), stored=STORED)
    augment = build_augmentation(views.augmentation, IMAGE)
    for batch in training_loader(data, options, batch_size=BATCH, seed=7, views=views):
        (view,) = batch["views"]
        assert view.crops is not None
        shown = random_view(batch, augment, torch.device("cpu"))
        torch.testing.assert_close(shown, view.crops / 255, rtol=0, atol=1e-5)


def test_memory_is_counted_with_the_targets_of_views(data: SplitData) -> None:
    width = data.features["viewed"].width
    rows = data.valid_samples
    assert data.encoded_bytes(stored_views=3) - data.encoded_bytes() == 3 * rows * 2 * width
