"""Random views that loaders draw: the same for a sample, however it is read."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.base.progress import Silent
from pipeline.base.seeds import numbers_of
from pipeline.datasets.source import Encoded, Item, Source
from pipeline.images.decoding import decode
from pipeline.images.original_view import ImageOptions
from pipeline.images.random_views import AugmentationOptions, build_augmentation
from pipeline.images.view_options import GLOBAL, ViewForm
from pipeline.loading.batch import SplitData
from pipeline.loading.batch_pixels import BatchPixels, RandomViews, random_view
from pipeline.loading.evaluation_loader import EvaluationLoader
from pipeline.loading.loaders import LoadingOptions, bytes_in_memory, training_loader
from pipeline.shards.writing import ShardOptions, write_split

SIZE, SAMPLES, BATCH = 16, 24, 4
IMAGE = ImageOptions(size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)
CUSTOM = AugmentationOptions(policy="custom")
CPU = torch.device("cpu")

LOCAL = ViewForm(10, (0.05, 0.3))
FOUR = (GLOBAL, GLOBAL, LOCAL, LOCAL)

# What is drawn for a sample in an epoch: its finished views.
Drawn = dict[tuple[int, int], list[torch.Tensor]]


class Scenes(Source):
    """Smooth colour images, each of its own; `sides` are height and width."""

    classes = None

    def __init__(self, sides: tuple[int, int], kind: str) -> None:
        random = np.random.default_rng(0)
        coarse = random.integers(0, 256, (SAMPLES, 5, 6, 3), dtype=np.uint8)
        images = [Image.fromarray(c).resize(sides[::-1], Image.Resampling.BICUBIC) for c in coarse]
        self.files = [self._encoded(image, kind) for image in images]
        self.kind = kind
        self.splits = {"train": [Item(str(number)) for number in range(SAMPLES)]}

    @staticmethod
    def _encoded(image: Image.Image, kind: str) -> bytes:
        file = io.BytesIO()
        image.save(file, "JPEG" if kind == "jpg" else "PNG")
        return file.getvalue()

    def read(self, item: Item) -> Encoded:
        """Return one file."""
        return Encoded(self.files[int(item.name)], self.kind)


def split(root: Path, sides: tuple[int, int], kind: str = "jpg") -> SplitData:
    source = Scenes(sides, kind)
    manifest = write_split(
        source,
        source.splits["train"],
        root,
        dataset="scenes",
        split="train",
        options=ShardOptions(samples=5),
        provenance={},
        progress=Silent(),
    )
    return SplitData(root, manifest, {}, IMAGE)


@pytest.fixture(scope="module", params=["photographs", "of the view's size"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SplitData:
    large = request.param == "photographs"
    return split(tmp_path_factory.mktemp("scenes"), (40, 57) if large else (SIZE, SIZE), "jpg")


def drawn(
    data: SplitData, epochs: int = 2, *, skip: int = 0, views: RandomViews | None = None, **how: Any
) -> Drawn:
    """Return the views of each sample in each epoch, by a loader that begins after `skip`."""
    options = LoadingOptions.model_validate(
        {name: how.pop(name) for name in ("mode", "workers") if name in how}
    )
    views = views or RandomViews(CUSTOM, FOUR)
    augment = [build_augmentation(views.augmentation, data.image, f) for f in views.forms]
    loader = training_loader(data, options, batch_size=BATCH, seed=7, views=views, **how)
    loader.load_state_dict({"epoch": skip // len(loader), "delivered": skip % len(loader)})
    found: Drawn = {}
    for epoch in range(loader.epoch, loader.epoch + epochs):
        for batch in loader:
            every = [random_view(batch, a, CPU, number=n) for n, a in enumerate(augment)]
            for row, sample in enumerate(batch["index"].tolist()):
                found[epoch, sample] = [view[row] for view in every]
    return found


def alike(some: Drawn, others: Drawn) -> int:
    """Assert that what both have is equal, and return how many those are."""
    common = some.keys() & others.keys()
    for key in common:
        torch.testing.assert_close(some[key], others[key], rtol=0, atol=1e-6)
    return len(common)


def test_memory_tars_workers_and_processes_give_a_sample_the_same_views(data: SplitData) -> None:
    resident = drawn(data, mode="resident")
    assert len(resident) == 2 * SAMPLES
    assert alike(resident, drawn(data, mode="streaming", workers=0)) == 2 * SAMPLES
    assert alike(resident, drawn(data, mode="streaming", workers=2)) == 2 * SAMPLES
    ranks = [drawn(data, mode="resident", workers=3, rank=r, world_size=2) for r in range(2)]
    assert sum(alike(resident, rank) for rank in ranks) == 2 * SAMPLES


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_a_resumed_epoch_goes_on_with_its_views(data: SplitData, mode: str) -> None:
    whole = drawn(data, mode=mode, workers=0)
    rest = drawn(data, 1, skip=SAMPLES // BATCH + 2, mode=mode, workers=0)
    assert alike(whole, rest) == SAMPLES - 2 * BATCH


def test_epochs_samples_views_and_streams_differ(data: SplitData) -> None:
    found = drawn(data, mode="resident")
    first = found[0, 3]
    assert [view.shape for view in first] == [(3, SIZE, SIZE)] * 2 + [(3, 10, 10)] * 2
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(first[2], first[3])
    other = drawn(data, mode="resident", views=RandomViews(CUSTOM, FOUR, stream=1))
    for others in (found[1, 3], found[0, 4], other[0, 3]):
        assert not any(map(torch.allclose, first, others))


@pytest.mark.parametrize("policy", ["custom", "cifar", "cifar20", "randaugment"])
@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_local_views_leave_global_ones_as_they_are(data: SplitData, policy: Any, mode: str) -> None:
    augmentation = AugmentationOptions(policy=policy)
    how: dict[str, Any] = {"mode": mode, "workers": 0}
    every = drawn(data, views=RandomViews(augmentation, FOUR, original=False), **how)
    alone = drawn(data, views=RandomViews(augmentation, FOUR[:2], original=False), **how)
    assert alike(alone, {key: views[:2] for key, views in every.items()}) == 2 * SAMPLES


@pytest.mark.parametrize("policy", ["custom", "cifar"])
def test_local_views_are_boxes_of_the_file_under_any_policy(tmp_path: Path, policy: Any) -> None:
    photographs = split(tmp_path, (60, 80), "png")
    augmentation = AugmentationOptions(policy=policy, flip_p=0.0)
    views = RandomViews(augmentation, (GLOBAL, LOCAL))
    (batch,) = EvaluationLoader(photographs, SAMPLES, views=views, seed=3)
    crops = batch["views"][1].crops
    assert crops is not None
    augment = build_augmentation(augmentation, IMAGE, LOCAL)
    numbers = numbers_of(batch["index"], augment.numbers, 3, 0, 0, 1)
    boxes = augment.boxes(numbers, 60, 80)
    for number, (crop, box) in enumerate(zip(crops, boxes.tolist(), strict=True)):
        top, left, height, width = box
        assert 0.04 < height * width / (60 * 80) < 0.32
        part = decode(Scenes((60, 80), "png").files[number])
        part = part.crop((left, top, left + width, top + height))
        expected = np.asarray(part.resize((10, 10), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(expected - crop.permute(1, 2, 0).numpy()).max() <= 1


def test_local_views_take_no_memory_of_a_split(data: SplitData) -> None:
    every, alone = (
        bytes_in_memory(data, BatchPixels(data, RandomViews(CUSTOM, forms), seed=0))
        for forms in (FOUR, FOUR[:2])
    )
    assert every == alone


def test_a_view_that_pads_is_cut_from_the_original_one_beside_local_views(tmp_path: Path) -> None:
    photographs = split(tmp_path, (40, 57))
    views = RandomViews(AugmentationOptions(policy="cifar"), FOUR, original=False)
    (batch,) = EvaluationLoader(photographs, SAMPLES, views=views)
    assert batch["images"].shape == (SAMPLES, 3, SIZE, SIZE)
    assert [view.crops is None for view in batch["views"]] == [True, True, False, False]


def test_views_of_a_file_show_what_the_original_view_leaves_out(tmp_path: Path) -> None:
    wide = split(tmp_path, (16, 160))
    augmentation = AugmentationOptions.model_validate(
        {"policy": "randaugment", "min_scale": 0.01, "flip_p": 0.0}
    )
    (batch,) = EvaluationLoader(wide, SAMPLES, views=RandomViews(augmentation), seed=3)
    (view,) = batch["views"]
    assert view.crops is not None
    augment = build_augmentation(augmentation, IMAGE)
    numbers = numbers_of(batch["index"], augment.numbers, 3, 0, 0, 0)
    left = []
    for number, (row, crop) in enumerate(zip(numbers, view.crops, strict=True)):
        top, start, height, width = augment.boxes(row[None], 16, 160)[0].tolist()
        box = (start, top, start + width, top + height)
        whole = decode(Scenes((16, 160), "jpg").files[number])
        expected = whole.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        differ = np.abs(np.asarray(expected).astype(int) - crop.permute(1, 2, 0).numpy())
        assert differ.mean() < 1
        left.append(start)
    assert min(left) < 40
    assert max(left) > 100


@pytest.mark.parametrize("share", [1.0, 1e-9])
def test_evaluation_is_the_same_from_memory_and_from_tars(data: SplitData, share: float) -> None:
    views = RandomViews(CUSTOM, stream=1)
    held = EvaluationLoader(data, 5, views=views, seed=1, memory_share=1.0)
    loader = EvaluationLoader(data, 5, views=views, seed=1, memory_share=share)
    augment = build_augmentation(CUSTOM, IMAGE)
    for _ in range(2):  # every iteration draws the same
        for ours, theirs in zip(loader, held, strict=True):
            assert torch.equal(ours["images"], theirs["images"])
            assert torch.equal(ours["index"], theirs["index"])
            view, other = (random_view(batch, augment, CPU) for batch in (ours, theirs))
            assert torch.equal(view, other)


def test_files_in_memory_are_read_once(data: SplitData, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    records = SplitData.records

    def counted(self: SplitData, number: int, *limits: Any) -> Any:
        reads.append(number)
        return records(self, number, *limits)

    monkeypatch.setattr(SplitData, "records", counted)
    drawn(data, 3, mode="resident")
    looked_at = 1  # at the first tar, to see whether files are larger than the view
    assert len(reads) == len(data.manifest.shards) + looked_at


def test_originals_that_nothing_needs_are_not_made(tmp_path: Path) -> None:
    views = RandomViews(CUSTOM, original=False)
    photographs = split(tmp_path, (40, 57))
    (batch,) = EvaluationLoader(photographs, SAMPLES, views=views)
    assert batch["images"].shape == (SAMPLES, 0)
    (view,) = batch["views"]
    assert view.crops is not None
    assert view.crops.shape == (SAMPLES, 3, SIZE, SIZE)
