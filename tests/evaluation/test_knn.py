"""Nearest neighbours against scikit-learn, and independence of the block size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.neighbors import KNeighborsClassifier

from pipeline.base.errors import DataError
from pipeline.evaluation.knn import KnnOptions, Temperature, knn_probe
from pipeline.evaluation.labelled_features import LabelledFeatures
from pipeline.metrics.neighbours import nearest, vote

CPU = torch.device("cpu")


def blobs(count: int, seed: int, classes: int = 4, spread: float = 1.2) -> LabelledFeatures:
    centres = torch.randn(classes, 8, generator=torch.Generator().manual_seed(99))
    source = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=source)
    return LabelledFeatures(
        centres[labels] + spread * torch.randn(count, 8, generator=source), labels
    )


def splits() -> tuple[LabelledFeatures, LabelledFeatures, LabelledFeatures]:
    return blobs(300, 0), blobs(100, 1), blobs(120, 2)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_uniform_votes_agree_with_scikit_learn(k: int) -> None:
    train, validation, test = splits()
    options = KnnOptions(ks=(k,), temperatures=("uniform",))
    result = knn_probe(train, validation, test, options=options, device=CPU)
    reference = KNeighborsClassifier(k, metric="cosine").fit(train.features, train.labels)
    np.testing.assert_allclose(
        result.test_scores, reference.predict_proba(test.features), atol=1e-6
    )
    predicted = result.classes[result.test_scores.argmax(dim=1)]
    assert predicted.tolist() == reference.predict(test.features).tolist()
    expected = reference.score(validation.features, validation.labels)
    assert result.validation_accuracies == {(k, "uniform"): pytest.approx(expected)}


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_weighted_votes_agree_with_scikit_learn(temperature: float) -> None:
    train, validation, test = splits()
    options = KnnOptions(ks=(15,), temperatures=(temperature,))
    result = knn_probe(train, validation, test, options=options, device=CPU)
    reference = KNeighborsClassifier(
        15, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(train.features, train.labels)
    np.testing.assert_allclose(
        result.test_scores, reference.predict_proba(test.features), atol=1e-4
    )


def test_a_cold_vote_is_the_nearest_neighbours_and_does_not_overflow() -> None:
    train, validation, test = splits()
    cold, single = (
        knn_probe(train, validation, test, options=options, device=CPU).test_scores
        for options in (KnnOptions(ks=(50,), temperatures=(1e-6,)), KnnOptions(ks=(1,)))
    )
    assert torch.isfinite(cold).all()
    torch.testing.assert_close(cold, single)


def test_validation_chooses_and_the_choice_is_the_best_of_all() -> None:
    train, validation, test = splits()
    options = KnnOptions(ks=(1, 10, 100), temperatures=(0.07, "uniform"))
    result = knn_probe(train, validation, test, options=options, device=CPU)
    assert set(result.validation_accuracies) == {
        (k, t) for k in options.ks for t in options.temperatures
    }
    best = max(result.validation_accuracies.values())
    assert result.validation_accuracies[result.k, result.temperature] == best
    for (k, temperature), accuracy in result.validation_accuracies.items():
        alone = KnnOptions(ks=(k,), temperatures=(temperature,))
        again = knn_probe(train, validation, test, options=alone, device=CPU)
        assert again.validation_accuracies == {(k, temperature): accuracy}
        if (k, temperature) == (result.k, result.temperature):
            torch.testing.assert_close(again.test_scores, result.test_scores)
    shuffled = LabelledFeatures(test.features, test.labels.roll(1))
    blind = knn_probe(train, validation, shuffled, options=options, device=CPU)
    assert torch.equal(blind.test_scores, result.test_scores)


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(6, 40),
    k=st.integers(1, 5),
    queries_at_once=st.integers(1, 50),
    bank_at_once=st.integers(1, 50),
    exclude_self=st.booleans(),
)
def test_blocks_of_any_size_find_the_same_neighbours(
    count: int, k: int, queries_at_once: int, bank_at_once: int, exclude_self: bool
) -> None:
    rows = torch.randn(count, 5, generator=torch.Generator().manual_seed(count)).double()
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2)
    if exclude_self:
        cosines.fill_diagonal_(-2)
    found = nearest(
        rows,
        rows,
        k=k,
        device=CPU,
        exclude_self=exclude_self,
        queries_at_once=queries_at_once,
        bank_at_once=bank_at_once,
    )
    expected = cosines.topk(k, dim=1)
    assert torch.equal(found.indices, expected.indices)
    torch.testing.assert_close(found.similarities, expected.values.float())


def test_neighbours_do_not_depend_on_the_length_of_vectors() -> None:
    train, _, test = splits()
    scaled = test.features * torch.logspace(-3, 3, len(test))[:, None]
    a, b = (nearest(q, train.features, k=5, device=CPU) for q in (test.features, scaled))
    assert torch.equal(a.indices, b.indices)


def test_a_zero_vector_is_similar_to_nothing() -> None:
    train, _, _ = splits()
    found = nearest(torch.zeros(1, 8), train.features, k=3, device=CPU)
    assert found.similarities.tolist() == [[0, 0, 0]]


def test_votes_are_shares() -> None:
    train, _, test = splits()
    found = nearest(test.features, train.features, k=20, device=CPU)
    temperatures: list[Temperature] = [0.1, "uniform"]
    for temperature in temperatures:
        scores = vote(found, train.labels, classes=4, k=10, temperature=temperature)
        torch.testing.assert_close(scores.sum(dim=1), torch.ones(len(test)))
        assert (scores >= 0).all()


def test_more_neighbours_than_training_images_are_left_out() -> None:
    train, validation, test = splits()
    asked = knn_probe(train, validation, test, options=KnnOptions(ks=(5, 301)), device=CPU)
    alone = knn_probe(train, validation, test, options=KnnOptions(ks=(5,)), device=CPU)
    assert asked.validation_accuracies == alone.validation_accuracies
    assert torch.equal(asked.test_scores, alone.test_scores)


def test_bad_input_is_a_data_error() -> None:
    train, validation, test = splits()
    with pytest.raises(DataError, match=r"k = 301 neighbours need as many .* found 300"):
        knn_probe(train, validation, test, options=KnnOptions(ks=(400, 301)), device=CPU)
    with pytest.raises(DataError, match="at least 300 images as neighbours; found 299"):
        nearest(train.features, train.features, k=300, device=CPU, exclude_self=True)
    unseen = LabelledFeatures(test.features, test.labels + 1)
    with pytest.raises(DataError, match="occur in evaluation"):
        knn_probe(train, validation, unseen, options=KnnOptions(ks=(5,)), device=CPU)


@pytest.mark.parametrize(
    "options", [{"ks": []}, {"temperatures": [0.0]}, {"temperatures": ["cold"]}]
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        KnnOptions.model_validate(options)


SCALES = {torch.float32: (1e-30, 1e30), torch.float64: (1e-200, 1e200)}


@pytest.mark.parametrize(("dtype", "scale"), [(d, s) for d, both in SCALES.items() for s in both])
def test_neighbours_are_found_at_any_scale_that_a_type_holds(
    dtype: torch.dtype, scale: float
) -> None:
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    queries, bank = rows[:20], rows[20:]
    plain = nearest(queries.to(dtype), bank.to(dtype), k=5, device=CPU)
    scaled = nearest((queries * scale).to(dtype), (bank / scale).to(dtype), k=5, device=CPU)
    assert torch.equal(scaled.indices, plain.indices)
    torch.testing.assert_close(scaled.similarities, plain.similarities)
