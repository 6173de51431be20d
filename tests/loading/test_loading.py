"""Loading images together with targets: alignment, plans, order, resumption."""

import io
import time
import tracemalloc
from collections import Counter
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from stores import store_rows

from pipeline.base.errors import DataError, StaleFeatureError
from pipeline.base.progress import Silent
from pipeline.datasets.source import Encoded, Item, Source
from pipeline.images.decoding import ImageFile, opened
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import Batch, Loader, SplitData
from pipeline.loading.epoch_plan import plan_epoch
from pipeline.loading.evaluation_loader import EvaluationLoader
from pipeline.loading.loaders import LoadingOptions, training_loader
from pipeline.shards.writing import ShardOptions, write_split

IMAGE = ImageOptions(size=8, channels=1, mean=(0.0,), std=(1.0,))
SAMPLES, SHARD = 103, 10
BAD = (7, 55)


class Noise(Source):
    """Random grey images; two of them cannot be decoded."""

    classes = ("even", "odd")

    def __init__(self, samples: int = SAMPLES) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (samples, 8, 8), dtype=np.uint8)
        self.splits = {"train": [Item(str(i), i % 2) for i in range(samples)]}

    def read(self, item: Item) -> Encoded:
        """Return one image, or nothing for a bad one."""
        if int(item.name) in BAD:
            return Encoded(b"", "png")
        buffer = io.BytesIO()
        Image.fromarray(self.pixels[int(item.name)]).save(buffer, format="png")
        return Encoded(buffer.getvalue(), "png")


def row_sums(images: torch.Tensor) -> torch.Tensor:
    """Compute the stored representation from pixels: the sum of each row of the image."""
    return images.float().sum(dim=(1, 3))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SplitData:
    root = tmp_path_factory.mktemp("data")
    source = Noise()
    manifest = write_split(
        source,
        source.splits["train"],
        root / "train",
        dataset="noise",
        split="train",
        options=ShardOptions(samples=SHARD, on_bad_image="skip"),
        provenance={},
        progress=Silent(),
    )
    assert manifest.invalid == set(BAD)
    rows = row_sums(torch.from_numpy(source.pixels)[:, None]).numpy()
    feature = store_rows(root, "sums", rows, samples_per_shard=SHARD)
    return SplitData(root / "train", manifest, {"sums": feature}, IMAGE)


def loader(
    data: SplitData,
    mode: str,
    workers: int = 0,
    *,
    batch_size: int = 10,
    seed: int = 1,
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    loading = LoadingOptions.model_validate({"mode": mode, "workers": workers, "buffer": 16})
    return training_loader(
        data, loading, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
    )


def check(batch: Batch) -> list[int]:
    """Assert that targets and labels belong to their images; return the indices."""
    assert torch.equal(batch["targets"]["sums"], row_sums(batch["images"]))
    index: list[int] = batch["index"].tolist()
    assert batch["labels"].tolist() == [i % 2 for i in index]
    return index


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_every_rank_and_epoch(data: SplitData, mode: str, world_size: int) -> None:
    ranks = [loader(data, mode, rank=rank, world_size=world_size) for rank in range(world_size)]
    expected = (SAMPLES - len(BAD)) // (10 * world_size)
    assert {len(rank) for rank in ranks} == {expected}
    orders = []
    for _ in range(3):
        batches = [[check(batch) for batch in rank] for rank in ranks]
        assert {len(rank) for rank in batches} == {expected}
        seen = Counter(index for rank in batches for batch in rank for index in batch)
        assert max(seen.values()) == 1
        assert len(seen) == expected * 10 * world_size
        assert not seen.keys() & set(BAD)
        orders.append(batches)
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_give_each_sample_once(data: SplitData, workers: int) -> None:
    streaming = loader(data, "streaming", workers)
    for _ in range(2):
        batches = [check(batch) for batch in streaming]
        assert len(batches) == len(streaming) == 10
        assert len({index for batch in batches for index in batch}) == 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # fewer cores than workers
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_every_rank_worker_and_epoch(data: SplitData, world_size: int, workers: int) -> None:
    orders = []
    for seed in (1, 1, 2):
        epochs: list[list[list[list[int]]]] = [[], []]
        for rank in range(world_size):
            streaming = loader(
                data, "streaming", workers, seed=seed, rank=rank, world_size=world_size
            )
            for epoch in epochs:
                epoch.append([check(batch) for batch in streaming])
        for ranks in epochs:
            assert {len(rank) for rank in ranks} == {101 // (10 * world_size)}
            seen = Counter(index for rank in ranks for batch in rank for index in batch)
            assert max(seen.values()) == 1
            assert len(seen) == 101 // (10 * world_size) * 10 * world_size
            assert not seen.keys() & set(BAD)
        assert epochs[0] != epochs[1]
        orders.append(epochs)
    assert orders[0] == orders[1] != orders[2]


def test_streaming_needs_no_more_memory_for_more_images(tmp_path: Path) -> None:
    peaks = {}
    for count in (600, 2400):
        root, source = tmp_path / str(count), Noise(count)
        manifest = write_split(
            source,
            source.splits["train"],
            root / "train",
            dataset="noise",
            split="train",
            options=ShardOptions(samples=100, on_bad_image="skip"),
            provenance={},
            progress=Silent(),
        )
        wide = np.zeros((count, 1000), dtype=np.float32)
        feature = store_rows(root, "wide", wide, samples_per_shard=100)
        streaming = loader(
            SplitData(root / "train", manifest, {"wide": feature}, IMAGE), "streaming"
        )
        tracemalloc.start()
        for _ in streaming:
            pass
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    chunk, buffered = 100 * 4000, 16 * 4000  # bytes
    assert peaks[2400] < peaks[600] + chunk / 2
    assert peaks[2400] < 4 * chunk + buffered


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_the_same_seed_gives_the_same_order(data: SplitData, mode: str) -> None:
    orders = [[check(b) for b in loader(data, mode, seed=seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize(
    ("mode", "workers", "stops"),
    [("resident", 0, (1, 5, 9, 10)), ("streaming", 0, (1, 5, 9, 10)), ("streaming", 2, (5,))],
)
def test_an_interrupted_epoch_continues_with_the_next_unseen_sample(
    data: SplitData, mode: str, workers: int, stops: tuple[int, ...]
) -> None:
    whole = loader(data, mode, workers)
    expected = [[check(batch) for batch in whole] for _ in range(2)]
    for stop in stops:
        first = loader(data, mode, workers)
        begun = iter(first)
        for _ in range(stop):
            next(begun)
        second = loader(data, mode, workers)
        second.load_state_dict(first.state_dict())
        rest = [check(batch) for batch in second]
        assert rest == (expected[0][stop:] or expected[1])


@pytest.mark.parametrize(("mode", "workers"), [("resident", 0), ("streaming", 0), ("streaming", 1)])
def test_looking_at_a_batch_takes_none_from_an_epoch(
    data: SplitData, mode: str, workers: int
) -> None:
    batches = loader(data, mode, workers)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    seen = check(next(iter(batches)))
    assert torch.equal(torch.get_rng_state(), before)  # the caller's draws are its own
    for _ in range(2):
        epoch = [check(batch) for batch in batches]
        assert len(epoch) == len(batches)
        assert len(set(chain(*epoch))) == 10 * len(batches)
        assert epoch[0] != seen  # every iteration has its own order


def test_a_look_in_between_does_not_hide_the_position_that_is_continued(data: SplitData) -> None:
    first, second = loader(data, "resident"), loader(data, "resident")
    running = iter(first)
    seen = [check(next(running)) for _ in range(4)]
    second.load_state_dict(first.state_dict())
    next(iter(first))
    rest = [check(batch) for batch in second]
    assert seen + rest == [check(batch) for batch in loader(data, "resident")]


def test_evaluation_sees_every_valid_sample_in_order(data: SplitData) -> None:
    evaluation = EvaluationLoader(data, 40)
    for _ in range(2):
        batches = [check(batch) for batch in evaluation]
        assert [len(batch) for batch in batches] == [34, 33, 34]
        assert list(chain.from_iterable(batches)) == [i for i in range(SAMPLES) if i not in BAD]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ranks_share_evaluation_out(
    data: SplitData, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []

    def counted(data: bytes) -> ImageFile:
        decoded.append(data)
        return opened(data)

    monkeypatch.setattr("pipeline.loading.resident.opened", counted)
    ranks = [EvaluationLoader(data, 10, rank=r, world_size=world_size) for r in range(world_size)]
    batches = [[check(batch) for batch in rank] for rank in ranks]
    assert {len(rank) for rank in batches} == {len(ranks[0])}
    sizes = {len(batch) for rank in batches for batch in rank}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 10
    assert len(decoded) == SAMPLES - len(BAD)  # no rank decodes the others' images
    seen = [index for rank in batches for batch in rank for index in batch]
    assert sorted(seen) == [i for i in range(SAMPLES) if i not in BAD]


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize(("batch_size", "least"), [(2, 2), (4, 4), (5, 4), (40, 4), (200, 4)])
def test_no_evaluation_batch_is_too_small_for_the_objective(
    data: SplitData, batch_size: int, least: int, world_size: int
) -> None:
    ranks = [
        EvaluationLoader(data, batch_size, least=least, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    batches = [check(batch) for rank in ranks for batch in rank]
    assert len({len(rank) for rank in ranks}) == 1
    assert sorted(chain.from_iterable(batches)) == [i for i in range(SAMPLES) if i not in BAD]
    assert least <= min(map(len, batches))
    assert max(map(len, batches)) <= batch_size + 1
    with pytest.raises(DataError, match="too few for 1 process with 500 images each"):
        EvaluationLoader(data, 500, least=500)


def test_more_ranks_than_images_are_refused(data: SplitData) -> None:
    with pytest.raises(DataError, match="too few for 200 processes"):
        EvaluationLoader(data, 10, rank=0, world_size=200)


@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    world_size=st.sampled_from([1, 2, 3, 8]),
    workers=st.integers(1, 4),
    batch_size=st.integers(1, 9),
    epoch=st.integers(0, 3),
)
def test_a_plan_cuts_whole_batches_and_no_sample_twice(
    samples: list[int], world_size: int, workers: int, batch_size: int, epoch: int
) -> None:
    plan = plan_epoch(
        samples,
        seed=0,
        epoch=epoch,
        batch_size=batch_size,
        world_size=world_size,
        workers=workers,
    )
    counts = [[sum(s.last - s.first for s in segments) for segments in rank] for rank in plan]
    assert all(count % batch_size == 0 for rank in counts for count in rank)
    batches = sum(samples) // (batch_size * world_size)
    assert {sum(rank) for rank in counts} == {batches * batch_size}
    used = Counter(
        (segment.shard, row)
        for rank in plan
        for segments in rank
        for segment in segments
        for row in range(segment.first, segment.last)
    )
    assert all(count == 1 for count in used.values())
    assert all(row < samples[shard] for shard, row in used)


def test_a_plan_for_imagenet_is_quick_and_small() -> None:
    tracemalloc.start()
    start = time.perf_counter()
    plan = plan_epoch([1000] * 1281, seed=0, epoch=0, batch_size=256, world_size=8, workers=8)
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(plan) == 8
    assert seconds < 1
    assert peak < 200e6


def test_too_few_images_for_a_batch(data: SplitData) -> None:
    with pytest.raises(DataError, match=r"lower the batch size \(train\.batch_size\)"):
        loader(data, "resident", batch_size=200)


def test_a_feature_of_another_length_is_refused(data: SplitData, tmp_path: Path) -> None:
    short = store_rows(tmp_path, "short", np.zeros((5, 1)), samples_per_shard=5)
    with pytest.raises(DataError, match="'short' has 5 rows for train"):
        SplitData(data.directory, data.manifest, {"short": short}, IMAGE)


def test_a_feature_of_other_shards_is_refused_though_it_has_as_many_rows(
    data: SplitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature = data.features["sums"]
    for digest, fits in ((data.manifest.digest, True), ("0" * 64, False)):
        monkeypatch.setattr(
            feature, "fingerprint", {"shards": {"train": digest}, "dtype": "float32"}
        )
        with nullcontext() if fits else pytest.raises(StaleFeatureError, match="'sums' was made"):
            SplitData(data.directory, data.manifest, {"sums": feature}, IMAGE)


@pytest.mark.parametrize(("mode", "workers"), [("resident", 0), ("streaming", 0), ("streaming", 2)])
def test_a_subset_gives_its_samples_alone_each_with_its_target(
    data: SplitData, mode: str, workers: int
) -> None:
    valid = [index for index in range(data.manifest.samples) if index not in BAD]
    chosen = [*valid[3:40:3], *valid[-7:]]
    part = data.subset(chosen)
    assert part.valid_samples == len(chosen)
    batches = list(loader(part, mode, workers, batch_size=5))
    seen = torch.cat([batch["index"] for batch in batches]).tolist()
    assert len(seen) == len(set(seen)) == len(chosen) // 5 * 5
    assert set(seen) <= set(chosen)
    for batch in batches:
        assert torch.equal(row_sums(batch["images"]), batch["targets"]["sums"])


def test_a_subset_names_valid_samples(data: SplitData) -> None:
    for index in (BAD[0], -1, data.manifest.samples):
        with pytest.raises(DataError, match="no valid sample"):
            data.subset([index])
