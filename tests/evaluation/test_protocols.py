"""Protocols end to end on small shards: what they use, leave unchanged and refuse."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from shades import AUGMENTED, CLASSES, COUNTS, CPU, SPARSE, images, setting, single
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from watched import Watched

from pipeline.base.errors import DataError, WeightsError
from pipeline.datasets.source import Label, Split
from pipeline.evaluation import linear
from pipeline.evaluation.augmented_fit import several_classes
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.knn import KnnOptions
from pipeline.evaluation.labelled_features import LabelledFeatures
from pipeline.evaluation.linear import LinearOptions
from pipeline.evaluation.logistic import fit_binary
from pipeline.evaluation.online import OnlineOptions
from pipeline.evaluation.protocol import ProtocolOptions
from pipeline.evaluation.retrieval import RetrievalOptions
from pipeline.evaluation.semi_supervised import SemiSupervisedOptions
from pipeline.evaluation.subjects import encoder_digest
from pipeline.evaluation.voc07_protocol import MultiLabelOptions
from pipeline.evaluation.zero_shot import ZeroShotOptions
from pipeline.images.random_views import AugmentationOptions
from pipeline.loading.evaluation_loader import EvaluationLoader


def test_streamed_images_are_those_that_a_resident_loader_gives(labelled: Images) -> None:
    for split in COUNTS:
        resident = EvaluationLoader(labelled.splits[split], 64)
        batches = list(resident)
        streamed = torch.cat(list(labelled.batches(split)))
        assert torch.equal(streamed, torch.cat([batch["images"] for batch in batches]))
        assert torch.equal(labelled.labels(split), torch.cat([b["labels"] for b in batches]))
        assert torch.equal(labelled.index(split), torch.cat([b["index"] for b in batches]))
        assert labelled.names(split)[1] == f"{split}/2.png"


def test_probes_count_the_images_that_they_used(labelled: Images, tmp_path: Path) -> None:
    made, student, _ = setting(labelled, tmp_path)
    outcome = LinearOptions().score(student, made)
    usable = {
        split: sum(
            label is not None for i, label in enumerate(single(split)) if i not in (1, 11, 30)
        )
        for split in COUNTS
    }
    assert outcome.images == usable
    assert outcome.predictions is not None
    assert len(outcome.predictions.rows) == usable["test"]
    hits = outcome.predictions.actual == outcome.predictions.predicted
    assert outcome.values["top1"] == pytest.approx(100 * hits.double().mean().item())
    assert outcome.values["top1_low"] <= outcome.values["top1"] <= outcome.values["top1_high"]
    assert set(outcome.details["top1_by_class"]) == set(CLASSES)


def test_scoring_leaves_the_encoder_and_its_batch_norm_alone(
    labelled: Images, tmp_path: Path
) -> None:
    made, student, _ = setting(labelled, tmp_path)
    assert student.encoder is not None
    before = encoder_digest(student.encoder)
    few = SemiSupervisedOptions(share=0.2, epochs=2, batch_size=8)
    augmented: Any = {"augmentation": {"policy": "cifar"}, "fit": {"epochs": 1, "batch_size": 32}}
    LinearOptions.model_validate(augmented).score(student, made)
    few.score(student, made)
    assert encoder_digest(student.encoder) == before
    assert not student.encoder.training


def test_the_augmented_fit_learns_what_the_optimum_does(labelled: Images, tmp_path: Path) -> None:
    made, _, pixels = setting(labelled, tmp_path)
    options = LinearOptions.model_validate(
        {
            "augmentation": {"policy": "custom", "jitter": 0.0, "grey_p": 0.0},
            "fit": {"epochs": 15, "batch_size": 32, "lrs": [1e-6, 1e-2]},
        }
    )
    outcome = options.score(pixels, made)
    assert outcome.values["top1"] > 95
    assert outcome.values["lr"] == 1e-2
    assert [entry["lr"] for entry in outcome.details["tried"]] == [1e-6, 1e-2]
    again = options.score(pixels, made)
    assert again.values == outcome.values


@pytest.mark.parametrize("augmented", [False, True])
def test_a_class_of_test_that_training_lacks_is_named(tmp_path: Path, augmented: bool) -> None:
    labels: dict[Split, list[Label | None]] = {
        "train": [i % 2 for i in range(60)],
        "validation": [i % 2 for i in range(40)],
        "test": [i % 3 for i in range(40)],
    }
    made, _, pixels = setting(images(tmp_path, labels), tmp_path)
    options = LinearOptions(augmentation=AugmentationOptions() if augmented else None)
    with pytest.raises(DataError, match=r"Labels \[2\] occur in evaluation but not among"):
        options.score(pixels, made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": {"epochs": 3}}, "fit belongs to an augmentation"),
        ({"augmentation": {}, "l2": [1.0]}, "l2 belong to the fit without augmentation"),
    ],
)
def test_options_of_the_other_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LinearOptions.model_validate(options)


def test_ten_crops_without_a_larger_view_are_two_mirror_images(
    labelled: Images, tmp_path: Path
) -> None:
    _, student, _ = setting(labelled, tmp_path)
    train, validation, test = (
        student.labelled(labelled, split) for split in ("train", "validation", "test")
    )
    classifier = linear.linear_probe(
        train, validation, test, options=LinearOptions(), device=CPU
    ).classifier
    assert student.embed is not None
    found = linear.ten_crop_logits(classifier, student.embed, labelled)
    pictures = torch.cat(list(labelled.batches("test")))[labelled.known("test")]
    both = [classifier.logits(student.embed(x)) for x in (pictures, pictures.flip(-1))]
    torch.testing.assert_close(found, sum(both) / 2, rtol=1e-4, atol=1e-4)


def test_the_online_probe_is_the_checkpoints_own(labelled: Images, tmp_path: Path) -> None:
    made, student, _ = setting(labelled, tmp_path)
    fitted = LogisticRegression(max_iter=500)
    train, test = student.labelled(labelled, "train"), student.labelled(labelled, "test")
    fitted.fit(train.features.numpy(), train.labels.numpy())
    weights = {
        "weight": torch.from_numpy(fitted.coef_).float(),
        "bias": torch.from_numpy(fitted.intercept_).float(),
    }
    made, student, _ = setting(labelled, tmp_path, probe=weights)
    outcome = OnlineOptions().score(student, made)
    expected = 100 * fitted.score(test.features.numpy(), test.labels.numpy())
    assert outcome.values["top1"] == pytest.approx(expected)
    assert outcome.images == {"test": len(test)}
    short = {"weight": weights["weight"][:2], "bias": weights["bias"][:2]}
    made, student, _ = setting(labelled, tmp_path, probe=short)
    with pytest.raises(WeightsError, match="maps 64 features to 2 classes"):
        OnlineOptions().score(student, made)
    made, student, _ = setting(labelled, tmp_path)
    with pytest.raises(WeightsError, match="holds no online probe"):
        OnlineOptions().score(student, made)


def test_several_classes_are_learned_from_augmented_views(multi: Images, tmp_path: Path) -> None:
    made, _, pixels = setting(multi, tmp_path)
    augmented: Any = {
        "augmentation": SPARSE,
        "fit": {"epochs": 25, "batch_size": 32, "lrs": [1e-3]},
    }
    outcome = MultiLabelOptions.model_validate(augmented).score(pixels, made)
    exact = MultiLabelOptions().score(pixels, made)
    assert outcome.values["map"] > exact.values["map"] - 10
    assert outcome.details["tried"] == [
        {"lr": 1e-3, "weight_decay": 0.0, "validation_map": outcome.values["validation_map"]}
    ]


def test_the_loss_of_several_classes_is_a_mean_over_images_that_count() -> None:
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 4, generator=source)
    labels = torch.randint(-1, 2, (9, 4), generator=source, dtype=torch.int8)
    labels[:, 3] = -1  # a class that no image of the batch counts for
    naive = []
    for column in range(4):
        own = [
            -torch.nn.functional.logsigmoid(x if y else -x)
            for x, y in zip(logits[:, column], labels[:, column].tolist(), strict=True)
            if y >= 0
        ]
        naive.append(sum(own) / len(own) if own else torch.tensor(0.0))
    torch.testing.assert_close(several_classes(4).loss(logits, labels), sum(naive) / 4)


def test_binary_fits_agree_with_scikit_learn_on_the_images_that_count() -> None:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=source)
    weight = torch.randn(6, 3, generator=source)
    present = (x @ weight + torch.randn(300, 3, generator=source) > 0).to(torch.int8)
    present[torch.rand(300, 3, generator=source) < 0.2] = -1
    [(found, converged)] = fit_binary(
        x, present, l2s=[1e-2], max_iterations=200, tolerance=1e-6, device=CPU
    )
    assert converged
    scaler = StandardScaler().fit(x)
    for label in range(3):
        kept = present[:, label] >= 0
        model = LogisticRegression(C=1 / (1e-2 * int(kept.sum())), tol=1e-9, max_iter=1000)
        model.fit(scaler.transform(x)[kept], present[kept, label])
        np.testing.assert_allclose(
            found.logits(x)[:, label], model.decision_function(scaler.transform(x)), atol=1e-3
        )


def test_several_classes_are_scored_by_mean_average_precision(
    multi: Images, tmp_path: Path
) -> None:
    made, _, pixels = setting(multi, tmp_path)
    outcome = MultiLabelOptions().score(pixels, made)
    assert outcome.main == "map"
    assert outcome.values["map_low"] <= outcome.values["map"] <= outcome.values["map_high"]
    assert outcome.values["map"] > 60
    assert outcome.images == {split: count - 3 for split, count in COUNTS.items()}
    assert set(outcome.details["area_by_class"]) == set(CLASSES)


def test_protocols_for_one_class_refuse_several_and_the_other_way_round(
    labelled: Images, multi: Images, tmp_path: Path
) -> None:
    made, student, _ = setting(multi, tmp_path)
    cases: list[ProtocolOptions] = [
        LinearOptions(),
        OnlineOptions(),
        SemiSupervisedOptions(share=0.1),
        ZeroShotOptions(teacher="clip"),
    ]
    for options in cases:
        with pytest.raises(DataError, match=r"one (named )?class"):
            options.score(student, made)
    made, student, _ = setting(labelled, tmp_path)
    with pytest.raises(DataError, match="use linear"):
        MultiLabelOptions().score(student, made)


def test_missing_labels_and_splits_are_named(tmp_path: Path) -> None:
    bare = images(tmp_path / "a", {"train": single("train"), "test": single("test")})
    made, student, _ = setting(bare, tmp_path / "work")
    with pytest.raises(DataError, match=r"needs validation images.*dataset.split.validation"):
        LinearOptions().score(student, made)
    none = images(tmp_path / "b", {s: [None] * COUNTS[s] for s in COUNTS})
    made, student, _ = setting(none, tmp_path / "work")
    with pytest.raises(DataError, match="train images have none"):
        LinearOptions().score(student, made)


def test_more_neighbours_than_images_are_named(tmp_path: Path) -> None:
    few = images(tmp_path / "a", {s: [i % 3 for i in range(n)] for s, n in COUNTS.items()})
    made, student, _ = setting(few, tmp_path / "work")
    n = len(few.labels("test"))
    message = rf"recall_ks asks for {n + 5} neighbours or more, and among {n} images .* {n - 1}:"
    with pytest.raises(DataError, match=message):
        RetrievalOptions(recall_ks=(n + 5, 5000)).score(student, made)


def test_labelled_features_need_one_label_each() -> None:
    with pytest.raises(DataError, match="one label for each of 4"):
        LabelledFeatures(torch.zeros(4, 2), torch.zeros(4, 3, dtype=torch.int8))


@pytest.mark.parametrize(
    "protocol",
    [
        LinearOptions(),
        KnnOptions(ks=(5,)),
        RetrievalOptions(),
        SemiSupervisedOptions(share=0.5, epochs=2, batch_size=16),
        LinearOptions.model_validate(AUGMENTED),
        MultiLabelOptions(),
        MultiLabelOptions.model_validate(AUGMENTED),
    ],
    ids=lambda protocol: protocol.kind,
)
def test_every_phase_is_counted_to_its_end(
    labelled: Images, multi: Images, tmp_path: Path, protocol: ProtocolOptions
) -> None:
    few = images(tmp_path, {s: [i % 3 for i in range(n)] for s, n in COUNTS.items()})
    seen = {"voc07": multi, "retrieval": few}.get(protocol.kind, labelled)
    made, student, pixels = setting(seen, tmp_path)
    watched = Watched()
    protocol.score(student, replace(made, references={"pixels": pixels}, progress=watched))
    assert watched.phases
    for phase in watched.phases:
        assert phase.done == phase.total > 0, phase
