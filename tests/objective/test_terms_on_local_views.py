"""Terms on more than two views, against loops over views in plain NumPy and the package dcor."""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import dcor
import numpy as np
import numpy.typing as npt
import pytest
import torch
from every_term import every_term
from pydantic import TypeAdapter
from torch import Tensor

import mvmr
from pipeline.base.errors import TrainingError
from pipeline.objective.objective import Objective, ObjectiveValue
from pipeline.objective.shared_batch import Activations
from pipeline.objective.terms import ObjectiveOptions, views_of
from pipeline.objective.view_names import all_views

torch.set_num_threads(1)  # importing dcor imports numba, which enables all cores

B, D, LOCAL, CLASSES = 12, 5, 3, 3
Array = npt.NDArray[np.float64]
Views = Mapping[str, Array]
GLOBAL = ("original", "augmented")
SMALL = tuple(f"local-{number}" for number in range(LOCAL))
NAMES = {"both": GLOBAL, "local": SMALL, "all": GLOBAL + SMALL, "original": GLOBAL[:1]}


def rows(seed: int, width: int = D) -> Array:
    return np.random.default_rng(seed).normal(size=(B, width))


@pytest.fixture
def views() -> dict[str, Array]:
    return {name: (1 + seed) * rows(seed) / 4 for seed, name in enumerate(GLOBAL + SMALL)}


TARGET, LABELS = rows(100, 4), np.arange(B) % CLASSES


def built(**terms: Any) -> Objective:
    torch.manual_seed(0)
    return Objective(
        TypeAdapter(ObjectiveOptions).validate_python(terms),
        h_width=D,
        z_width=D,
        representation_widths={"r": TARGET.shape[1]},
        class_counts=torch.full((CLASSES,), 4),
    ).double()


def value_of(objective: Objective, views: Mapping[str, Array | Tensor]) -> ObjectiveValue:
    embeddings = {name: torch.as_tensor(x) for name, x in views.items()}
    value: ObjectiveValue = objective(
        Activations(embeddings, embeddings),
        {"r": torch.from_numpy(TARGET)},
        labels=torch.from_numpy(LABELS),
    )
    return value


def term(views: Views, kind: str, **options: Any) -> float:
    given = {"representation": "r"} if kind in ("regression", "dependence") else {}
    return value_of(built(t={"kind": kind, **given, **options}), views).terms["t"].item()


# The terms of one pair of views, and of one view, by themselves


def squared(x: Array, y: Array) -> float:
    return float(((x - y) ** 2).mean())


def not_dependent(x: Array, y: Array) -> float:
    return float(1 - dcor.distance_correlation(x, y))


def twins(x: Array, y: Array) -> float:
    x, y = ((v - v.mean(0)) / np.sqrt(v.var(0) + 1e-5) for v in (x, y))
    pairs = product(range(D), range(D))
    correlations = {(i, j): float((x[:, i] * y[:, j]).mean()) for i, j in pairs}
    return sum((1 - c) ** 2 if i == j else 0.0051 * c**2 for (i, j), c in correlations.items())


def hinge(x: Array) -> float:
    deviations = [np.sqrt(column.var(ddof=1) + 1e-4) for column in x.T]
    return float(np.mean([max(0.0, 1 - deviation) for deviation in deviations]))


def covariances(x: Array) -> float:
    matrix = np.cov(x, rowvar=False)
    return float(sum(matrix[i, j] ** 2 for i, j in product(range(D), range(D)) if i != j) / D)


def over_pairs(loss: Callable[[Array, Array], float], views: Views, view: str) -> float:
    """Loop over global views and over those that are compared with each, as SwAV does."""
    of_each = []
    for first in GLOBAL:
        others = {"both": GLOBAL, "local": SMALL, "all": GLOBAL + SMALL}[view]
        losses = [loss(views[first], views[other]) for other in others if other != first]
        of_each.append(sum(losses) / len(losses))
    return sum(of_each) / len(of_each)


@pytest.mark.parametrize("view", ["both", "local", "all"])
@pytest.mark.parametrize(
    ("kind", "loss"),
    [("invariance", squared), ("view_dependence", not_dependent), ("barlow", twins)],
)
def test_pairs_are_those_of_a_global_view_with_every_other_one(
    views: dict[str, Array], kind: str, loss: Callable[[Array, Array], float], view: str
) -> None:
    assert term(views, kind, view=view) == pytest.approx(over_pairs(loss, views, view), rel=1e-9)


@pytest.mark.parametrize("view", ["both", "local", "all"])
@pytest.mark.parametrize(("kind", "loss"), [("variance", hinge), ("covariance", covariances)])
def test_what_shapes_one_view_counts_as_for_two_however_many_there_are(
    views: dict[str, Array], kind: str, loss: Callable[[Array], float], view: str
) -> None:
    expected = 2 * np.mean([loss(views[name]) for name in NAMES[view]])
    assert term(views, kind, view=view) == pytest.approx(expected, rel=1e-9)


def test_sigreg_is_the_mean_over_views(views: dict[str, Array]) -> None:
    alone = [term({"original": views[n], "augmented": views[n]}, "sigreg") for n in views]
    assert term(views, "sigreg") == pytest.approx(np.mean(alone), rel=1e-9)


@pytest.mark.parametrize("view", ["original", "both", "local", "all"])
def test_terms_with_a_target_are_the_mean_over_views(views: dict[str, Array], view: str) -> None:
    own = [views[name] for name in NAMES[view]]
    expected = np.mean([not_dependent(x, TARGET) for x in own])
    assert term(views, "dependence", view=view) == pytest.approx(expected, rel=1e-9)

    objective = built(t={"kind": "regression", "representation": "r", "view": view})
    weight, bias = (parameter.detach().numpy() for parameter in objective.parameters())
    losses = []
    for x in own:
        made = x @ weight.T + bias
        norms = np.linalg.norm(made, axis=1) * np.linalg.norm(TARGET, axis=1)
        losses.append((1 - (made * TARGET).sum(1) / norms).mean())
    found = value_of(objective, views).terms["t"].item()
    assert found == pytest.approx(np.mean(losses), rel=1e-9)

    objective = built(labels={"view": view})
    weight, bias = (parameter.detach().numpy() for parameter in objective.parameters())
    losses = []
    for x in own:
        logits = x @ weight.T + bias
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        losses.append(-logits[np.arange(B), LABELS].mean())
    found = value_of(objective, views).terms["labels"].item()
    assert found == pytest.approx(np.mean(losses), rel=1e-9)


KINDS = ["invariance", "variance", "covariance", "view_dependence", "barlow", "sigreg"]


@pytest.mark.parametrize("kind", [*KINDS, "dependence", "regression", "labels"])
def test_gradients_are_those_of_finite_differences(views: dict[str, Array], kind: str) -> None:
    given = {"representation": "r"} if kind in ("regression", "dependence") else {}
    options = {"directions": 4} if kind == "sigreg" else {}
    objective = built(t={"kind": kind, **given, **options, "view": "all"})

    def total(*embeddings: Tensor) -> Tensor:
        return value_of(objective, dict(zip(views, embeddings, strict=True))).total

    inputs = tuple(torch.from_numpy(x / 4).requires_grad_() for x in views.values())
    assert torch.autograd.gradcheck(total, inputs)
    gradients = torch.autograd.grad(total(*inputs), inputs)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", [name for name in every_term() if name.startswith(tuple(KINDS))])
def test_the_order_of_local_views_means_nothing(views: dict[str, Array], name: str) -> None:
    options = every_term()[name]
    if "representation" in options:
        return
    turned = {**views, **{n: views[SMALL[(i + 1) % LOCAL]] for i, n in enumerate(SMALL)}}
    found = [value_of(built(t=options), v).total.item() for v in (views, turned)]
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_without_local_views_they_are_the_terms_of_two_views(views: dict[str, Array]) -> None:
    two = {name: views[name] for name in GLOBAL}
    for kind in [*KINDS, "dependence", "regression"]:
        both = term(two, kind, view="both")
        assert term(two, kind, view="all") == both
        assert term(views, kind, view="both") == both


def test_outside_training_local_views_are_not_needed(views: dict[str, Array]) -> None:
    two = {name: views[name] for name in GLOBAL}
    objective = built(invariance={"view": "local"}, variance={"view": "local"})
    with pytest.raises(TrainingError, match=r"'invariance' acts on local views .* brings none"):
        value_of(objective, two)
    found = value_of(objective.eval(), two)
    assert float(found.terms["invariance"]) == pytest.approx(squared(*two.values()), rel=1e-9)
    assert set(found.trivial) == {"invariance", "variance"}


def test_views_that_no_term_acts_on_are_not_needed() -> None:
    terms = built(invariance={"view": "both"}, r={"kind": "dependence", "view": "original"}).terms
    assert views_of(terms, 4) == {*GLOBAL}
    assert views_of(built(labels={"view": "local"}).terms, 2) == {"local-0", "local-1"}
    assert views_of(built(variance={}).terms, 2) == {*all_views(2)}


def test_the_front_door_takes_local_views_in_order_or_by_name(views: dict[str, Array]) -> None:
    objective = mvmr.Objective({"invariance": {}, "variance": {"weight": 2}})
    embeddings = [torch.from_numpy(x) for x in views.values()]
    by_name = dict(zip(views, embeddings, strict=True))
    found = objective(z=embeddings)
    assert float(found.terms["invariance"]) == pytest.approx(over_pairs(squared, views, "all"))
    assert float(objective(z=by_name).total) == float(found.total)
    with pytest.raises(mvmr.MvmrError, match="Did you mean 'local-3'"):
        objective(z={**by_name, "local_3": embeddings[0]})
    with pytest.raises(mvmr.MvmrError, match=r"further local views.*found 1 tensor"):
        objective(z=embeddings[:1])
    with pytest.raises(mvmr.MvmrError, match="of z of the local-2 view"):
        objective(z=[*embeddings[:-1], embeddings[-1][:3]])
