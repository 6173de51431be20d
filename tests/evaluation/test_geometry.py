"""The choice of a geometry: by validation images, for each subject, and against scikit-learn."""

from pathlib import Path

import numpy as np
import shades
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from pipeline.datasets.source import Label, Split
from pipeline.evaluation.geometry import in_geometry
from pipeline.evaluation.knn import KnnOptions, knn_probe
from pipeline.evaluation.labelled_features import LabelledFeatures
from pipeline.evaluation.protocol import Outcome
from pipeline.evaluation.retrieval import RetrievalOptions
from pipeline.evaluation.subjects import Subject

CPU = torch.device("cpu")
ALL = (None, 0.5, 1.0)


def hidden(count: int, seed: int, *, loud: float = 6.0) -> LabelledFeatures:
    """Return classes that a quiet component tells, beside loud ones that tell nothing."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, 3, count)
    quiet = labels[:, None] + draws.normal(0, 0.2, (count, 1))
    noise = draws.normal(3, 1, (count, 4)) * loud
    rows = np.concatenate([noise, quiet], axis=1).astype(np.float32)
    return LabelledFeatures(torch.from_numpy(rows), torch.from_numpy(labels))


def test_the_geometry_is_chosen_on_validation_images() -> None:
    splits = hidden(300, 0), hidden(200, 1), hidden(200, 2)
    plain, chosen = (
        knn_probe(*splits, options=KnnOptions(ks=(10,), whiten=how), device=CPU)
        for how in ((None,), ALL)
    )

    def accuracy(scores: Tensor) -> float:
        return (scores.argmax(1) == splits[2].labels).float().mean().item()

    assert plain.whiten is None
    assert accuracy(plain.test_scores) < 0.5
    assert chosen.whiten == 1.0
    assert accuracy(chosen.test_scores) > 0.8
    assert {how for how, _, _ in chosen.tried} == set(ALL)
    assert {pair: chosen.tried[None, *pair] for pair in plain.validation_accuracies} == (
        plain.validation_accuracies
    )


def test_standardised_neighbours_are_scikit_learns() -> None:
    train, validation, test = hidden(300, 0), hidden(200, 1), hidden(200, 2)
    options = KnnOptions(ks=(7,), temperatures=("uniform",), whiten=(1.0,))
    found = knn_probe(train, validation, test, options=options, device=CPU)
    rows, queries = (part.features.double().numpy() for part in (train, test))
    variance = rows.var(axis=0, ddof=1)
    scale = np.sqrt(0.999 * variance + 0.001 * variance.mean())
    reference = KNeighborsClassifier(7, metric="cosine")
    reference.fit((rows - rows.mean(0)) / scale, train.labels)
    expected = reference.predict_proba((queries - rows.mean(0)) / scale)
    np.testing.assert_allclose(found.test_scores.numpy(), expected, atol=1e-6)


def test_as_they_are_nothing_is_changed() -> None:
    rows = hidden(20, 0).features.double()
    assert in_geometry(rows, rows[:3], exponent=None)[0] is rows
    centred, few = in_geometry(rows, rows[:3], exponent=0)
    torch.testing.assert_close(centred, rows - rows.mean(0))
    torch.testing.assert_close(few, centred[:3])


def test_recall_is_that_of_the_geometry_that_validation_images_choose(tmp_path: Path) -> None:
    labels: dict[Split, list[Label | None]] = {
        split: [number % 3 for number in range(count)] for split, count in shades.COUNTS.items()
    }
    images = shades.images(tmp_path, labels)
    setting, _, _ = shades.setting(images, tmp_path)

    def embeddings(split: Split) -> Tensor:
        labels, draws = images.labels(split).numpy(), np.random.default_rng(len(split))
        quiet = labels[:, None] + draws.normal(0, 0.2, (len(labels), 1))
        noise = draws.normal(3, 1, (len(labels), 4)) * 6
        return torch.from_numpy(np.concatenate([noise, quiet], axis=1).astype(np.float32))

    subject = Subject("given", embeddings)
    plain = RetrievalOptions(recall_ks=(1,)).score(subject, setting)
    chosen = RetrievalOptions(recall_ks=(1,), whiten=ALL).score(subject, setting)
    assert "whiten" not in plain.values
    assert chosen.values["whiten"] == 1.0
    assert recall(chosen) > recall(plain) + 15


def recall(outcome: Outcome) -> float:
    found = outcome.values["recall_at_1"]
    assert isinstance(found, float)
    return found
