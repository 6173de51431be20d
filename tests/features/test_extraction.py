"""Extraction: stored rows are the representations of their images, computed only once."""

import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from watched import Watched

from pipeline.base.errors import ConfigError, DataError, StaleFeatureError, StoreError
from pipeline.base.locks import exclusive
from pipeline.base.progress import Silent
from pipeline.datasets.digits import Digits, DigitsOptions
from pipeline.datasets.source import Encoded, Item
from pipeline.datasets.split import SplitOptions, cut
from pipeline.features.encoding import Encoding
from pipeline.features.extraction import feed, worker
from pipeline.features.extraction.cluster import ClusterOptions, cluster
from pipeline.features.extraction.engine import extract
from pipeline.features.extraction.fingerprint import FIT_SEED, check_features
from pipeline.features.extraction.task import Task
from pipeline.features.fidelity import Witness, measure_fidelity
from pipeline.features.reduction import Reduction
from pipeline.features.store import FeatureStore, FeatureWriter, StoredFeature
from pipeline.images.decoding import decode
from pipeline.images.original_view import ImageOptions
from pipeline.representations.augmented import AugmentedOptions
from pipeline.representations.handcrafted import HandCrafted
from pipeline.representations.hog import HogOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.representations.scattering import ScatteringOptions
from pipeline.representations.storing import StoredType
from pipeline.shards.manifest import read_manifests
from pipeline.shards.reading import read_shard
from pipeline.shards.writing import ShardOptions, write_split

IMAGE = ImageOptions(size=8, channels=1, mean=(0.3,), std=(0.4,))
HOG = HogOptions(cell=4)
SCATTERING = ScatteringOptions.model_validate({"J": 1, "L": 4, "reduce": {"pca": 20}})
IN_PROCESS = ClusterOptions(workers=1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    source = DigitsOptions().open()
    splits = cut(source, SplitOptions(validation=0.1))
    for split, items in (("train", splits["train"][:300]), ("validation", splits["validation"])):
        write_split(
            source,
            items,
            root / split,
            dataset="digits",
            split=split,  # type: ignore[arg-type]
            options=ShardOptions(samples=70),
            provenance={},
            progress=Silent(),
        )
    return root


def run(
    features: dict[str, RepresentationOptions],
    shards: Path,
    root: Path,
    *,
    cluster: ClusterOptions = IN_PROCESS,
    force: bool = False,
    image: ImageOptions = IMAGE,
) -> dict[str, StoredFeature]:
    return extract(
        features,
        image=image,
        shards=shards,
        store=FeatureStore(root / "features.zarr"),
        work=root / "work",
        options=cluster,
        progress=Silent(),
        force=force,
    )


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_rows_are_the_representation_of_their_images(shards: Path, tmp_path: Path) -> None:
    stored = run({"hog": HOG, "scattering": SCATTERING}, shards, tmp_path)
    reduction = Reduction.load(*stored["scattering"].reduction())
    for split, manifest in read_manifests(shards).items():
        records = [
            record
            for number in range(len(manifest.shards))
            for record in read_shard(shards / split, manifest, number)
        ]
        for name, options in (("hog", HOG), ("scattering", SCATTERING)):
            network = options.build(IMAGE)
            images = torch.stack([network.preparation(decode(r.data)) for r in records])
            expected = network(images)
            if name == "scattering":
                expected = reduction.apply(expected)
            found = torch.from_numpy(stored[name].read(split)).float()
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def test_the_report_promises_a_fidelity_that_holds(shards: Path, tmp_path: Path) -> None:
    report = run({"scattering": SCATTERING}, shards, tmp_path)["scattering"].report
    assert report["fidelity"]["images"] + report["fit_images"] == 300
    assert report["fidelity"]["bytes_per_image"] == 40
    assert 0 < report["fidelity"]["dcor_error_max"] < 0.05


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_fidelity_of_what_is_stored_unreduced_is_that_of_its_rows(
    shards: Path, tmp_path: Path, dtype: StoredType
) -> None:
    """It is measured while they are computed, in batches of one shard."""
    options = HogOptions(cell=4, dtype=dtype)
    stored = run({"hog": options}, shards, tmp_path)["hog"]
    network, manifest = options.build(IMAGE), read_manifests(shards)["train"]
    witnesses = []
    for number in range(len(manifest.shards)):
        files = [record.data for record in read_shard(shards / "train", manifest, number)]
        vectors = network(torch.stack([network.preparation(decode(file)) for file in files]))
        witnesses.append(Witness.of(vectors, vectors, FIT_SEED, number, 0))
    expected = asdict(measure_fidelity(witnesses, Encoding(dtype)))
    found = dict(stored.report["fidelity"])
    whitened = found.pop("dcor_error_whitened"), expected.pop("dcor_error_whitened")
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert whitened[0] == pytest.approx(whitened[1], rel=1e-3, abs=1e-9)
    mean, deviation = stored.statistics()
    rows = stored.read("train").astype(np.float64)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(deviation, rows.std(0, ddof=1), rtol=1e-4, atol=1e-6)


def test_batches_of_any_size_give_the_same_rows(shards: Path, tmp_path: Path) -> None:
    whole = run({"hog": HOG}, shards, tmp_path / "whole")["hog"].read("train")
    odd = ClusterOptions(workers=1, batch_size=13)
    found = run({"hog": HOG}, shards, tmp_path / "odd", cluster=odd)["hog"].read("train")
    np.testing.assert_allclose(found, whole, rtol=2**-10, atol=1e-6)


@pytest.mark.parametrize("place", ["network", "preparation", "writing"])
def test_whatever_fails_in_whichever_thread_ends_the_run_with_its_own_words(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise StoreError(f"the {place} has failed")

    with monkeypatch.context() as patch:
        if place == "network":
            broken = HandCrafted(fail, IMAGE, {})
            patch.setattr(worker, "networks_of", lambda *_: {"hog": broken})
        elif place == "preparation":
            patch.setattr(feed, "opened", fail)
        else:
            patch.setattr(FeatureWriter, "write_rows", fail)
        with pytest.raises(StoreError, match=f"the {place} has failed"):
            run({"hog": HOG}, shards, tmp_path)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("mvmr-reader")]
    whole = run({"hog": HOG}, shards, tmp_path / "whole")["hog"].read("train")
    assert np.array_equal(run({"hog": HOG}, shards, tmp_path)["hog"].read("train"), whole)


@pytest.mark.parametrize("reduce", [{}, {"pca": 1}])
def test_one_image_is_too_few_to_measure_on(tmp_path: Path, reduce: dict[str, int]) -> None:
    source = DigitsOptions().open()
    write_split(
        source,
        source.splits["train"][:1],
        tmp_path / "shards" / "train",
        dataset="digits",
        split="train",
        options=ShardOptions(samples=70),
        provenance={},
        progress=Silent(),
    )
    options = HogOptions.model_validate({"cell": 4, "reduce": reduce})
    with pytest.raises(DataError, match="at least 2 are needed to measure its fidelity"):
        run({"hog": options}, tmp_path / "shards", tmp_path)


def test_as_few_components_as_the_promise_needs_are_stored(shards: Path, tmp_path: Path) -> None:
    promise = {"J": 1, "L": 4, "reduce": {"fidelity": 0.01}}
    stored = run({"x": ScatteringOptions.model_validate(promise)}, shards, tmp_path)["x"]
    assert 1 < stored.width < 100
    assert stored.report["fidelity"]["dcor_error_max"] <= 0.01
    assert stored.report["fidelity"]["bytes_per_image"] == 2 * stored.width


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_smaller_types_hold_the_representation(
    shards: Path, tmp_path: Path, dtype: StoredType
) -> None:
    exact = run({"hog": HOG}, shards, tmp_path / "exact")["hog"].read("train")
    found = run({"hog": HogOptions(cell=4, dtype=dtype)}, shards, tmp_path)["hog"]
    error = np.abs(found.read("train") - exact.astype(np.float32))
    # A few numbers beyond the sample's range saturate.
    assert 0 < np.quantile(error, 0.999) < 0.01 * np.abs(exact).max()
    assert found.report["fidelity"]["dcor_error_max"] < 2e-3


def test_two_workers_write_the_same_bytes_as_one(shards: Path, tmp_path: Path) -> None:
    run({"hog": HOG}, shards, tmp_path / "one")
    run({"hog": HOG}, shards, tmp_path / "two", cluster=ClusterOptions(workers=2))
    assert files(tmp_path / "one" / "features.zarr") == files(tmp_path / "two" / "features.zarr")


def test_a_complete_feature_is_not_computed_again(shards: Path, tmp_path: Path) -> None:
    run({"hog": HOG}, shards, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "features.zarr").rglob("*")}
    run({"hog": HOG}, shards, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "features.zarr").rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "image", "difference"),
    [
        (HogOptions(cell=2), IMAGE, "cell is now 2, was 4"),
        (HogOptions(cell=4, dtype="float32"), IMAGE, "dtype is now 'float32', was 'float16'"),
        (HOG, IMAGE.model_copy(update={"mean": (0.5,)}), "mean"),
    ],
)
def test_another_specification_is_refused_until_it_is_extracted(
    shards: Path, tmp_path: Path, options: HogOptions, image: ImageOptions, difference: str
) -> None:
    run({"hog": HOG}, shards, tmp_path)
    with pytest.raises(StaleFeatureError, match=difference):
        check_features(
            {"hog": options},
            image=image,
            shards=shards,
            store=FeatureStore(tmp_path / "features.zarr"),
            progress=Silent(),
        )
    renewed = run({"hog": options}, shards, tmp_path, image=image)
    assert renewed["hog"].fingerprint["dtype"] == options.dtype


@pytest.mark.parametrize("options", [HOG, SCATTERING], ids=["plain", "fitted"])
def test_invalid_rows_are_zero_even_where_a_batch_has_no_other(
    tmp_path: Path, options: RepresentationOptions
) -> None:
    source = BrokenDigits()
    write_split(
        source,
        source.splits["train"][:129],
        tmp_path / "shards" / "train",
        dataset="digits",
        split="train",
        options=ShardOptions(samples=129, on_bad_image="skip"),
        provenance={},
        progress=Silent(),
    )
    rows = run({"any": options}, tmp_path / "shards", tmp_path)["any"].read("train")
    assert np.flatnonzero(~rows.any(axis=1)).tolist() == [3, 128]


class BrokenDigits(Digits):
    """Digits, two of which cannot be decoded: one among others, and one alone in its batch."""

    def read(self, item: Item) -> Encoded:
        """Return a digit, or half of its file."""
        encoded = super().read(item)
        broken = int(item.name) in (3, 128)
        return Encoded(encoded.data[:40], encoded.extension) if broken else encoded


def test_a_random_representation_cannot_be_stored(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="random"):
        run({"augmented": AugmentedOptions()}, shards, tmp_path)


def test_two_extractions_at_once_are_refused(shards: Path, tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / "work" / "lock", StoreError("busy")),
        pytest.raises(StoreError, match="Another extraction"),
    ):
        run({"hog": HOG}, shards, tmp_path)


def test_unfinished_work_is_continued_not_repeated(shards: Path, tmp_path: Path) -> None:
    """Kill an extraction; the next one must not write its finished shards again."""
    whole = run({"hog": HOG}, shards, tmp_path / "whole")["hog"].read("train")
    process = subprocess.Popen([sys.executable, __file__, str(shards), str(tmp_path)])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("work/hog-*/done/train-*"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (done,) = tmp_path.glob("work/hog-*/done")
    finished = {path.name: path.stat().st_mtime_ns for path in done.iterdir()}
    chunks = {
        path: path.stat().st_mtime_ns
        for path in done.parent.glob("feature/train/c/*/0")
        if f"train-{int(path.parent.name):06d}" in finished
    }
    assert not (tmp_path / "features.zarr" / "hog").exists()
    stored = run({"hog": HOG}, shards, tmp_path)["hog"]
    kept = {
        tmp_path / "features.zarr" / "hog" / path.relative_to(done.parent / "feature"): stamp
        for path, stamp in chunks.items()
    }
    assert len(kept) >= 2
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert np.array_equal(stored.read("train"), whole)
    assert files(tmp_path / "features.zarr") == files(tmp_path / "whole" / "features.zarr")


def test_no_scheduler_is_one_sentence(shards: Path, tmp_path: Path) -> None:
    nobody = ClusterOptions(scheduler="tcp://127.0.0.1:9")
    with pytest.raises(StoreError, match="No Dask scheduler answers"):
        run({"hog": HOG}, shards, tmp_path, cluster=nobody)


if __name__ == "__main__":  # a slowed-down extraction, which a test kills
    original = worker._represented

    def slowed(task: Task) -> object:
        time.sleep(0.3)
        return original(task)

    worker._represented = slowed  # type: ignore[assignment]
    run({"hog": HOG}, Path(sys.argv[1]), Path(sys.argv[2]))


def test_the_dashboard_is_said_to_be_where_it_answers() -> None:
    watched = Watched()
    with cluster(IN_PROCESS, shards=1, progress=watched):
        (line,) = watched.notes
        address = urlsplit(line.rpartition(" ")[2])
        assert address.hostname == "127.0.0.1"
        assert address.port is not None
        socket.create_connection((address.hostname, address.port), timeout=10).close()


class Counting(Silent):
    """Keeps what is told before the first tar is done."""

    def __init__(self) -> None:
        self.before: list[str] = []
        self.done = 0

    def advance(self, count: int, status: str = "") -> None:
        """Keep a status until something is done."""
        self.done += count
        if not self.done and status:
            self.before.append(status)


@pytest.mark.parametrize("workers", [1, 2])
def test_images_are_counted_before_their_tar_is_done(tmp_path: Path, workers: int) -> None:
    source, told = DigitsOptions().open(), Counting()
    items = [item for some in source.splits.values() for item in some][:1000]
    write_split(
        source,
        items,
        tmp_path / "shards" / "train",
        dataset="digits",
        split="train",
        options=ShardOptions(samples=1000),
        provenance={},
        progress=Silent(),
    )
    extract(
        {"scattering": ScatteringOptions()},
        image=ImageOptions(size=32, channels=1, mean=(0.3,), std=(0.4,)),
        shards=tmp_path / "shards",
        store=FeatureStore(tmp_path / "features.zarr"),
        work=tmp_path / "work",
        options=ClusterOptions(workers=workers),
        progress=told,
    )
    counts = [int(text.split()[0].replace(",", "")) for text in told.before]
    assert len(counts) > 3
    assert counts == sorted(counts)
    assert told.before[0].endswith("images computed")
