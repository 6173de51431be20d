"""Features computed along with others: one decoding for all, and each is published when asked."""

from pathlib import Path
from typing import Any

import pytest
from growing import IMAGE, Collection, CountingOptions

from pipeline.features.extraction import feed
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract, unfinished
from pipeline.images.decoding import ImageFile, opened
from pipeline.representations.representation import RepresentationOptions


class Counted(Collection):
    """A collection that counts how often an image is decoded by an extraction."""

    decoded = 0

    def network(self, **options: Any) -> CountingOptions:
        """Return the options of a network that notes its images in a log of its own."""
        log = self.folder.parent / f"log {options}.txt"
        return CountingOptions.model_validate({"log": str(log), **options})

    def extract_beside(self, asked: str, **features: RepresentationOptions) -> None:
        """Extract one of the features, the others beside it."""
        extract(
            {asked: features[asked]},
            image=IMAGE,
            shards=self.shards,
            store=self.store,
            work=self.work,
            options=ClusterOptions(workers=1),
            progress=self.told,
            beside={name: options for name, options in features.items() if name != asked},
        )


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    collection = Counted(tmp_path)

    def counting(data: bytes) -> ImageFile:
        collection.decoded += 1
        return opened(data)

    monkeypatch.setattr(feed, "opened", counting)
    collection.add(*range(100))
    collection.pack()
    return collection


@pytest.mark.parametrize("fitted", [{}, {"reduce": {"pca": 3}}])
def test_the_first_computes_all_and_the_others_publish(
    photos: Counted, tmp_path: Path, fitted: dict[str, Any]
) -> None:
    features = {"a": photos.network(width=4), "b": photos.network(width=5, **fitted)}
    photos.extract_beside("a", **features)
    assert photos.store.names() == ["a"]
    before = photos.manifests()["train"].valid if fitted else 0  # to fit on
    assert photos.decoded == 100 + before
    (waiting,) = unfinished(photos.work)
    assert waiting[0] == "b"
    photos.decoded = 0
    photos.extract_beside("b", **features)
    assert photos.decoded == 0
    assert photos.store.names() == ["a", "b"]
    assert unfinished(photos.work) == []
    alone = Counted(tmp_path, store=tmp_path / "alone.zarr")
    alone.extract_beside("b", b=features["b"])
    ours, theirs = photos.store["b"], alone.store["b"]
    assert photos.rows(ours) == photos.rows(theirs)
    assert ours.report == theirs.report


def test_what_is_stored_already_is_left_alone(photos: Counted) -> None:
    features = {"a": photos.network(width=4), "b": photos.network(width=5)}
    photos.extract_beside("b", b=features["b"])
    photos.extract_beside("b", b=photos.network(width=6))  # the first is superseded
    before = {p: p.stat().st_mtime_ns for p in photos.store.path.parent.rglob("b*/**/*")}
    photos.extract_beside("a", **features)
    assert {p: p.stat().st_mtime_ns for p in photos.store.path.parent.rglob("b*/**/*")} == before
    assert unfinished(photos.work) == []


@pytest.mark.parametrize("reduce", [{"pca": 50}, {"fidelity": 1e-12}])
def test_what_cannot_be_made_is_told_and_does_not_stop_what_is_asked_for(
    photos: Counted, reduce: dict[str, float]
) -> None:
    features = {"a": photos.network(width=4), "b": photos.network(width=5, reduce=reduce)}
    photos.extract_beside("a", **features)
    assert photos.store.names() == ["a"]
    (note,) = [note for note in photos.told.notes if note.startswith("b is not computed along")]
    assert "reduce" in note


def test_new_images_are_decoded_once_for_all(photos: Counted) -> None:
    features = {"a": photos.network(width=4), "b": photos.network(width=5)}
    photos.extract_beside("a", **features)
    photos.extract_beside("b", **features)
    photos.add(*range(100, 120))
    photos.pack()
    photos.decoded = 0
    photos.extract_beside("a", **features)
    photos.extract_beside("b", **features)
    assert photos.decoded == 20
    assert all(photos.store[name].splits == photos.store["a"].splits for name in features)
