"""Robustness: the same transformed pixels for every subject, classifiers fitted on others."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from pydantic import ValidationError
from shades import COUNTS, CPU, IMAGE, images, setting, single

from pipeline.base.progress import Silent
from pipeline.datasets.source import Split
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.knn import KnnOptions
from pipeline.evaluation.linear import LinearOptions, linear_probe
from pipeline.evaluation.protocol import ProtocolOptions, probe_splits
from pipeline.evaluation.robustness import RobustnessOptions
from pipeline.evaluation.subjects import Recomputed, Subject, stored_subject
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.store import FeatureStore
from pipeline.images.transformations import Transformation
from pipeline.representations.hog import HogOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.representations.scattering import ScatteringOptions
from pipeline.representations.storing import ReduceOptions
from pipeline.representations.teachers.timm import TimmOptions

NONE: dict[str, Any] = {"shifts": [], "rotations": [], "scales": [], "noises": []}


@pytest.mark.parametrize(
    ("classifier", "own"), [("linear", LinearOptions()), ("knn", KnnOptions(ks=(10, 20, 100)))]
)
def test_images_that_are_hardly_moved_score_as_they_are(
    labelled: Images, tmp_path: Path, classifier: Any, own: ProtocolOptions
) -> None:
    made, student, _ = setting(labelled, tmp_path)
    options = RobustnessOptions(**{**NONE, "shifts": [1e-6]}, classifier=classifier)
    outcome, expected = options.score(student, made), own.score(student, made)
    assert outcome.main == "transformed_top1"
    for figure in ("transformed_top1", "top1_shift_1e-06", "top1"):
        assert outcome.values[figure] == pytest.approx(expected.values["top1"])
    assert outcome.per_image is not None
    assert expected.per_image is not None
    assert torch.equal(outcome.per_image.rows, expected.per_image.rows)
    assert torch.equal(outcome.per_image.values, expected.per_image.values)
    assert (outcome.chance, outcome.images) == (expected.chance, expected.images)


def test_the_figure_is_the_mean_over_transformations(labelled: Images, tmp_path: Path) -> None:
    made, student, _ = setting(labelled, tmp_path)
    options = RobustnessOptions(**{**NONE, "rotations": [40], "noises": [0.4]})
    values = options.score(student, made).values
    splits, known = probe_splits(student, labelled), labelled.known("test")
    classifier = linear_probe(*splits, options=LinearOptions(), device=CPU).classifier
    views, hits = torch.cat([*labelled.batches("test")]), {}
    assert student.embed is not None
    for kind, amount in (("rotation", 40.0), ("noise", 0.4)):
        moved = Transformation(kind, amount)(views, first=0, seed=0)  # type: ignore[arg-type]
        guesses = classifier.classes[classifier.logits(student.embed(moved)[known]).argmax(1)]
        hits[f"top1_{kind}_{amount:g}"] = (guesses == splits[2].labels).double()
    for name, own in hits.items():
        assert values[name] == pytest.approx(100 * own.mean().item())
    mean = 100 * torch.stack([*hits.values()]).mean().item()
    assert values["transformed_top1"] == pytest.approx(mean)
    assert values["transformed_top1_low"] < mean < values["transformed_top1_high"]
    assert values["top1"] > mean


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Images]:
    root = tmp_path_factory.mktemp("robust")
    return root, images(root / "shards", {split: single(split) for split in COUNTS})


def features_of(root: Path) -> dict[str, RepresentationOptions]:
    weights = root / "teacher.pt"
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), weights)
    return {
        "scattering": ScatteringOptions(J=2, reduce=ReduceOptions(pca=8)),
        "hog": HogOptions(cell=4),
        "teacher": TimmOptions(model="test_vit", weights=weights),
    }


def test_stored_features_are_computed_anew_as_they_were_stored(
    packed: tuple[Path, Images],
) -> None:
    root, found = packed
    store, features = FeatureStore(root / "features.zarr"), features_of(root)
    stored = extract(
        features,
        image=IMAGE,
        shards=root / "shards",
        store=store,
        work=root / "work",
        options=ClusterOptions(workers=1),
        progress=Silent(),
    )
    split: Split = "test"
    views = torch.cat([*found.batches(split)])
    for name, options in features.items():
        again = Recomputed(stored[name], options, IMAGE, CPU)
        subject = stored_subject(stored[name], found, again)
        rows = subject.of(split)
        assert subject.of_views is not None
        torch.testing.assert_close(subject.of_views(views), rows, rtol=2e-3, atol=2e-3)
        larger = IMAGE.model_copy(update={"resize": 2 * IMAGE.size})  # views are cropped already
        cropped = Recomputed(stored[name], options, larger, CPU)
        torch.testing.assert_close(cropped(views), rows, rtol=2e-3, atol=2e-3)


def test_rows_that_cannot_be_computed_anew_have_their_plain_score(
    labelled: Images, tmp_path: Path
) -> None:
    made, student, _ = setting(labelled, tmp_path)
    given = Subject("given", partial(student.of))
    outcome = RobustnessOptions().score(given, made)
    assert outcome.main == "top1"
    assert outcome.values["top1"] == LinearOptions().score(student, made).values["top1"]
    assert outcome.per_image is None


def test_a_protocol_without_transformations_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least one of shifts, rotations, scales"):
        RobustnessOptions(**NONE)
