"""Retrieval against scikit-learn's neighbours and known geometries."""

import dcor
import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from pipeline.base.errors import DataError
from pipeline.evaluation.labelled_features import LabelledFeatures
from pipeline.evaluation.retrieval import (
    chance_of_recall,
    mean_dependence,
    neighbour_agreement,
    recall_at,
)

CPU = torch.device("cpu")
COUNT = 1100  # more than one block of queries


def embeddings(seed: int = 0, count: int = COUNT, width: int = 12) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def neighbours_by_scikit_learn(x: torch.Tensor, k: int) -> np.ndarray:
    found = NearestNeighbors(n_neighbors=k, metric="cosine").fit(x.double().numpy())
    return np.asarray(found.kneighbors(return_distance=False))  # without the query itself


def test_recall_agrees_with_scikit_learns_neighbours() -> None:
    x = embeddings()
    labels = torch.randint(20, (COUNT,), generator=torch.Generator().manual_seed(1))
    found = recall_at(LabelledFeatures(x, labels), ks=(1, 5, 10), device=CPU)
    hits = labels.numpy()[neighbours_by_scikit_learn(x, 10)] == labels.numpy()[:, None]
    for k in (1, 5, 10):
        assert found[k].tolist() == hits[:, :k].any(axis=1).tolist()


def test_separate_classes_are_always_found_and_lone_images_never() -> None:
    labels = torch.arange(60) % 6
    x = torch.eye(6)[labels] + 0.01 * embeddings(count=60, width=6)
    assert bool(recall_at(LabelledFeatures(x, labels), ks=(1,), device=CPU)[1].all())
    alone = recall_at(LabelledFeatures(x, torch.arange(60)), ks=(1, 10), device=CPU)
    assert not any(bool(hits.any()) for hits in alone.values())


def test_agreement_agrees_with_a_plain_count() -> None:
    student, teacher = embeddings(0), embeddings(0) @ embeddings(2, 12, 30)
    found = neighbour_agreement(student, teacher, ks=(1, 10, 50), device=CPU)
    a, b = (neighbours_by_scikit_learn(x, 50) for x in (student, teacher))
    for k in (1, 10, 50):
        shared = [len(set(p[:k]) & set(q[:k])) / k for p, q in zip(a, b, strict=True)]
        assert found[k].mean().item() == pytest.approx(np.mean(shared), abs=1e-3)
    assert 0.1 < found[10].mean() < 1


def test_agreement_is_one_for_a_rotation_and_chance_for_an_unrelated_space() -> None:
    x = embeddings()
    rotation = torch.linalg.qr(embeddings(3, 12, 12))[0]
    turned = neighbour_agreement(x, 3 * x @ rotation, ks=(1, 10), device=CPU)
    assert min(share.mean() for share in turned.values()) > 0.998  # near ties change places
    unrelated = neighbour_agreement(x, embeddings(4, width=7), ks=(50,), device=CPU)
    assert unrelated[50].mean().item() == pytest.approx(50 / (COUNT - 1), rel=0.1)


def test_agreement_is_symmetric_and_follows_the_images() -> None:
    x, y = embeddings(0, 200), embeddings(0, 200) + 0.5 * embeddings(1, 200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))

    def agreement(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return neighbour_agreement(a, b, ks=(5,), device=CPU)[5]

    assert torch.equal(agreement(y, x), agreement(x, y))
    assert torch.equal(agreement(x[order], y[order]), agreement(x, y)[order])
    assert agreement(x[order], y).mean() < agreement(x, y).mean() / 2


def test_dependence_is_that_of_dcor_and_none_for_unrelated_spaces() -> None:
    x, y = embeddings(0, 100), embeddings(0, 100) @ embeddings(2, 12, 30)
    expected = dcor.u_distance_correlation_sqr(x.double().numpy(), y.double().numpy())
    assert mean_dependence(x, y, 0) == pytest.approx(expected, abs=1e-5)
    wide = embeddings(1, COUNT, 500)  # where the plain statistic is 0.8
    assert mean_dependence(embeddings(), wide, 0) == pytest.approx(0, abs=0.02)


def test_bad_input_is_a_data_error() -> None:
    x = embeddings(count=20)
    with pytest.raises(DataError, match="the same images; found 20 and 19"):
        neighbour_agreement(x, x[:19], ks=(1,), device=CPU)
    with pytest.raises(DataError, match="at least 20 images as neighbours; found 19"):
        recall_at(LabelledFeatures(x, torch.arange(20)), ks=(20,), device=CPU)
    broken = x.clone()
    broken[3] = torch.inf
    with pytest.raises(DataError, match="row 3 holds NaN or infinity"):
        neighbour_agreement(broken, x, ks=(1,), device=CPU)


def test_chance_is_what_an_unrelated_space_reaches() -> None:
    labels = torch.cat([torch.zeros(30), torch.ones(70), torch.full((1,), 2.0)]).long()
    for k in (1, 3):
        by_lot = [
            recall_at(LabelledFeatures(embeddings(n, 101), labels), ks=(k,), device=CPU)[k].mean()
            for n in range(60)
        ]
        expected = torch.stack(by_lot).mean().item()
        assert chance_of_recall(labels, k=k) == pytest.approx(expected, abs=0.01)
    assert chance_of_recall(torch.arange(9), k=2) == 0
    assert chance_of_recall(torch.zeros(9).long(), k=2) == 1
    # One of the three other images has the same class, and two of the three are drawn.
    assert chance_of_recall(torch.tensor([0, 0, 1, 1]), k=2) == pytest.approx(2 / 3)
