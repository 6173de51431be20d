"""The parts for other people's training scripts, against independent implementations."""

from typing import Any

import dcor
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mvmr
from pipeline.base.errors import ArgumentError, ConfigError, DataError, TrainingError

torch.set_num_threads(1)  # importing dcor imports numba, which enables all cores


def draws(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(draws(*shape, seed=seed)).float()


def test_the_dependence_of_arrays_is_a_float_and_of_tensors_a_tensor() -> None:
    x, y = draws(64, 5), draws(64, 3, seed=1)
    found = mvmr.distance_correlation(x, y)
    assert isinstance(found, float)
    assert found == pytest.approx(dcor.distance_correlation(x, y), rel=1e-10)
    same = mvmr.distance_correlation(torch.from_numpy(x), torch.from_numpy(y))
    assert isinstance(same, torch.Tensor)
    assert float(same) == pytest.approx(found)
    unbiased = mvmr.distance_correlation(x, y, statistic="dcor_squared_unbiased")
    assert unbiased == pytest.approx(dcor.u_distance_correlation_sqr(x, y), rel=1e-10)
    with pytest.raises(DataError, match="one of each"):
        mvmr.distance_correlation(x, torch.from_numpy(y))
    with pytest.raises(ArgumentError, match="found a list"):
        mvmr.distance_correlation([[1.0], [2.0]], [[1.0], [2.0]])  # type: ignore[call-overload]


def test_an_objective_is_the_weighted_sum_of_its_terms() -> None:
    h, clip = (tensor(32, 6), tensor(32, 6, seed=1)), tensor(32, 9, seed=2)
    objective = mvmr.Objective(
        {
            "invariance": {"weight": 25, "on": "h"},
            "clip": {"kind": "dependence", "on": "h", "weight": 2},
        }
    )
    value = objective(h=h, targets={"clip": clip.numpy()})
    invariance = ((h[0] - h[1]) ** 2).mean()
    dependence = 1 - dcor.distance_correlation(h[1].double().numpy(), clip.double().numpy())
    assert float(value.terms["invariance"]) == pytest.approx(float(invariance), rel=1e-5)
    assert float(value.terms["clip"]) == pytest.approx(dependence, rel=1e-4)
    assert float(value.total) == pytest.approx(25 * float(invariance) + 2 * dependence, rel=1e-4)


def test_learned_heads_are_parameters_of_the_objective() -> None:
    terms = {"clip": {"kind": "regression", "loss": "cosine"}}
    objective = mvmr.Objective(terms, h_width=6, targets={"clip": 9})
    assert sum(p.numel() for p in objective.parameters()) == 6 * 9 + 9
    h, clip = tensor(16, 6), tensor(16, 9, seed=2)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.1)
    losses = []
    for _ in range(30):
        value = objective(h=h, targets={"clip": clip})
        optimizer.zero_grad()
        value.total.backward()
        optimizer.step()
        losses.append(value.total.item())
    assert losses[-1] < 0.7 * losses[0]


def test_integers_are_computed_with_as_they_are() -> None:
    hours = np.random.default_rng(0).integers(0, 3600, (100, 1))
    times = 1_700_000_000 + hours
    assert mvmr.distance_correlation(times, hours / 3600) == pytest.approx(1, abs=1e-6)
    objective = mvmr.Objective({"t": {"kind": "dependence", "on": "h"}})
    value = objective(h=torch.from_numpy(hours).float(), targets={"t": times})
    assert float(value.total) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_heads_take_embeddings_of_any_float_type(dtype: torch.dtype) -> None:
    terms = {"t": {"kind": "regression", "on": "h"}}
    objective = mvmr.Objective(terms, h_width=4, targets={"t": 3})
    h, target = tensor(8, 4), tensor(8, 3, seed=1)
    found = objective(h=h.to(dtype), targets={"t": target}).total
    expected = objective(h=h, targets={"t": target}).total
    assert found.item() == pytest.approx(expected.item(), rel=2e-2)


def test_what_an_objective_lacks_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match=r"objective\.clip\.los.*Did you mean 'loss'"):
        mvmr.Objective({"clip": {"kind": "regression", "los": "cosine"}})
    with pytest.raises(ConfigError, match="width of 'h' is not known: give h_width"):
        mvmr.Objective({"clip": {"kind": "regression"}}, targets={"clip": 9})
    with pytest.raises(ConfigError, match="width of 'clip' is not known"):
        mvmr.Objective({"clip": {"kind": "regression"}}, h_width=6)
    objective = mvmr.Objective({"invariance": {"on": "h"}})
    with pytest.raises(DataError, match="invariance of the objective compares two views"):
        objective(h=tensor(8, 3))
    with pytest.raises(DataError, match="found 1 tensor"):
        objective(h=[tensor(8, 3)])
    with pytest.raises(TrainingError, match="acts on h, of which nothing was given"):
        objective(z=(tensor(8, 3), tensor(8, 3)))


@pytest.fixture(scope="module")
def digits() -> Any:
    found = load_digits()
    X, y = found.data.astype(np.float32) / 16, found.target
    return (X[:900], y[:900]), (X[900:1200], y[900:1200]), (X[1200:], y[1200:])


def test_the_linear_probe_is_logistic_regression(digits: Any) -> None:
    train, _, test = digits
    found = mvmr.linear_probe(*digits, l2=(1e-3,))
    C = 1 / (1e-3 * len(train[0]))
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000, tol=1e-6))
    reference.fit(*train)
    assert found.accuracy == pytest.approx(reference.score(*test), abs=0.004)
    assert np.mean(found.predicted == reference.predict(test[0])) > 0.99
    assert found.interval[0] < found.accuracy < found.interval[1]
    assert found.chosen == {"l2": 1e-3}
    assert repr(found).startswith(f"{found.accuracy:.3f} (")


def test_the_knn_probe_is_that_of_cosine_neighbours(digits: Any) -> None:
    train, _, test = digits
    found = mvmr.knn_probe(*digits, ks=(5,), temperatures=("uniform",))
    reference = KNeighborsClassifier(5, metric="cosine").fit(*train)
    assert np.mean(found.predicted == reference.predict(test[0])) > 0.98
    assert found.accuracy == pytest.approx(reference.score(*test), abs=0.01)
    same = mvmr.knn_probe(
        *((torch.from_numpy(X), torch.from_numpy(y)) for X, y in digits),
        ks=(5,),
        temperatures=("uniform",),
    )
    assert same.accuracy == found.accuracy


def test_probes_refuse_what_is_no_labelled_data(digits: Any) -> None:
    (X, y), validation, test = digits
    unlabelled = np.where(np.arange(len(y)) == 7, -1, y)
    with pytest.raises(DataError, match="1 image without one"):
        mvmr.linear_probe((X, unlabelled), validation, test)
    with pytest.raises(DataError, match="row 3 holds NaN"):
        mvmr.knn_probe((np.where(np.arange(len(X))[:, None] == 3, np.nan, X), y), validation, test)
    with pytest.raises(DataError, match="one label for each of"):
        mvmr.linear_probe((X, y[:-1]), validation, test)
    with pytest.raises(ConfigError, match="Did you mean 'ks'"):
        mvmr.knn_probe((X, y), validation, test, k=(5,))


def test_a_representation_is_a_module_with_its_preparation() -> None:
    image = mvmr.Image(32, channels=1)
    scattering = mvmr.representation("scattering", image, J=2, L=4)
    assert scattering(torch.rand(2, 1, 32, 32)).shape == (2, (1 + 8 + 16) * 64)
    with pytest.raises(ConfigError, match="Did you mean 'scattering'"):
        mvmr.representation("scatering", image)
    with pytest.raises(ConfigError, match=r"scattering\.JJ"):
        mvmr.representation("scattering", image, JJ=2)


def test_defaults_of_an_image_are_those_of_imagenet() -> None:
    assert mvmr.Image(96).std == (0.229, 0.224, 0.225)
    assert mvmr.Image(96, channels=1, mean=[0.3], std=[0.4]).mean == (0.3,)
    with pytest.raises(ConfigError, match="must not be smaller than size"):
        mvmr.Image(96, resize=64)


def test_configs_are_listed_and_run_by_name() -> None:
    found = mvmr.configs()
    assert {"digits", "folder_clip"} <= set(found)
    assert "ViT-B-16" in repr(found)
    assert "<table>" in found._repr_html_()
    assert found["digits"].exists()
    with pytest.raises(ConfigError, match="Did you mean 'digits'"):
        found["digit"]
