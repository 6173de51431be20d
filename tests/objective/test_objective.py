"""Losses against plain NumPy, terms as in an experiment file, and the module around them."""

from collections.abc import Mapping
from typing import Any

import dcor
import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from pipeline.base.errors import ConfigError, TrainingError
from pipeline.base.options import Options, problems
from pipeline.dependence import distance_correlation as dependence
from pipeline.dependence import distances
from pipeline.objective.losses import (
    cosine_distance,
    covariance_penalty,
    mean_squared_error,
    standardised,
    variance_hinge,
)
from pipeline.objective.objective import Objective
from pipeline.objective.shared_batch import Activations
from pipeline.objective.terms import AnyTerm, ObjectiveOptions, representations_of, views_of

torch.set_num_threads(1)  # importing dcor imports numba, which enables all cores

Array = npt.NDArray[np.float64]
TERMS: TypeAdapter[dict[str, AnyTerm]] = TypeAdapter(ObjectiveOptions)
WIDTHS = {"scattering": 11, "hog": 4, "pixels": 30, "clip": 6, "local_std": 9}
B, H, Z = 24, 7, 5


class Section(Options):
    """The part of an experiment's schema that is under test."""

    objective: ObjectiveOptions


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def activations(dtype: torch.dtype = torch.float32) -> Activations:
    h = {"original": normal(B, H).to(dtype), "augmented": normal(B, H, seed=1).to(dtype)}
    z = {"original": normal(B, Z, seed=2).to(dtype), "augmented": normal(B, Z, seed=3).to(dtype)}
    return Activations(h, z)


def targets(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {
        name: normal(B, width, seed=10 + i).to(dtype)
        for i, (name, width) in enumerate(WIDTHS.items())
    }


def objective(terms: Mapping[str, Any]) -> Objective:
    torch.manual_seed(0)
    return Objective(
        TERMS.validate_python(terms), h_width=H, z_width=Z, representation_widths=WIDTHS
    )


def term_values(terms: Mapping[str, Any]) -> dict[str, float]:
    value = objective(terms)(activations(), targets())
    return {name: term.item() for name, term in value.terms.items()}


def as_array(x: Tensor) -> Array:
    return x.detach().double().numpy()


def naive_variance(x: Array, margin: float = 1.0) -> float:
    deviations = [np.sqrt(column.var(ddof=1) + 1e-4) for column in x.T]
    return float(np.mean([max(0.0, margin - deviation) for deviation in deviations]))


def naive_covariance(x: Array) -> float:
    D = x.shape[1]
    matrix = np.cov(x, rowvar=False).reshape(D, D)
    return float(sum(matrix[i, j] ** 2 for i in range(D) for j in range(D) if i != j) / D)


def vicreg(x: Tensor, y: Tensor) -> Tensor:
    """VICReg's published sum, with coefficients 25, 25, 1."""
    total = 25 * (x - y).pow(2).mean()
    for view in (x, y):
        covariance = torch.cov(view.T)
        std = torch.sqrt(covariance.diagonal() + 1e-4)
        total = total + 25 * torch.clamp(1 - std, min=0).mean() / 2
        off = covariance - torch.diag(covariance.diagonal())
        total = total + off.pow(2).sum() / view.shape[1]
    return total


# The pure losses


@pytest.mark.parametrize("shape", [(30, 6), (6, 30), (16, 16), (2, 3), (9, 1)])
def test_variance_and_covariance_equal_the_naive_ones(shape: tuple[int, int]) -> None:
    x = 0.7 * normal(*shape).double() + 3
    assert float(variance_hinge(x)) == pytest.approx(naive_variance(as_array(x)), rel=1e-12)
    assert float(variance_hinge(x, margin=0.5)) == pytest.approx(
        naive_variance(as_array(x), 0.5), rel=1e-12, abs=1e-15
    )
    expected = naive_covariance(as_array(x))
    assert float(covariance_penalty(x)) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_row_losses_equal_the_naive_ones() -> None:
    x, y = normal(8, 5).double(), normal(8, 5, seed=1).double()
    a, b = as_array(x), as_array(y)
    cosines = [u @ v / np.linalg.norm(u) / np.linalg.norm(v) for u, v in zip(a, b, strict=True)]
    assert float(cosine_distance(x, y)) == pytest.approx(1 - np.mean(cosines), rel=1e-12)
    assert float(mean_squared_error(x, y)) == pytest.approx(((a - b) ** 2).mean(), rel=1e-12)


@pytest.mark.parametrize("loss", [mean_squared_error, cosine_distance])
def test_row_losses_are_symmetric_zero_on_equals_and_refuse_other_shapes(loss: Any) -> None:
    x, y = normal(8, 5), normal(8, 5, seed=1)
    assert float(loss(x, y)) == float(loss(y, x)) > 0
    assert float(loss(x, x)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="the same shape"):
        loss(x, y[:1])


@pytest.mark.parametrize("loss", [variance_hinge, covariance_penalty])
@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_statistics_are_invariant_to_shift_and_to_the_order_of_rows(
    loss: Any, shape: tuple[int, int]
) -> None:
    x = 0.5 * normal(*shape).double()
    expected = float(loss(x))
    assert float(loss(x.flip(0) + 7)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("loss", [variance_hinge, covariance_penalty])
def test_statistics_refuse_a_single_row(loss: Any) -> None:
    with pytest.raises(TrainingError, match="at least 2 rows; found 1"):
        loss(torch.ones(1, 4))


@pytest.mark.parametrize(
    "loss", [variance_hinge, covariance_penalty, lambda x: standardised(x).sum()]
)
def test_gradients_are_finite_on_a_collapsed_batch(loss: Any) -> None:
    x = torch.full((6, 4), 0.3).requires_grad_()
    torch.autograd.backward(loss(x))
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_cosine_distance_of_zero_rows_has_a_finite_gradient() -> None:
    x = torch.zeros(3, 4).requires_grad_()
    loss = cosine_distance(x, normal(3, 4))
    torch.autograd.backward(loss)
    assert x.grad is not None
    assert float(loss.detach()) == 1
    assert torch.isfinite(x.grad).all()


# Terms


def test_embedding_terms_add_both_views() -> None:
    values = term_values({"invariance": {}, "variance": {"margin": 2}, "covariance": {"on": "h"}})
    z = [as_array(x) for x in activations().z.values()]
    h = [as_array(x) for x in activations().h.values()]
    assert values["invariance"] == pytest.approx(((z[0] - z[1]) ** 2).mean(), rel=1e-5)
    assert values["variance"] == pytest.approx(sum(naive_variance(x, 2) for x in z), rel=1e-5)
    assert values["covariance"] == pytest.approx(sum(map(naive_covariance, h)), rel=1e-5)


def test_dependence_terms_equal_the_package_dcor() -> None:
    values = term_values(
        {
            "view_dependence": {},
            "scattering": {"kind": "dependence"},
            "on_h": {
                "kind": "dependence", "representation": "hog", "on": "h", "view": "both",
                "statistic": "dcor_squared_unbiased",
            },
        }
    )  # fmt: skip
    h, z, fixed = activations().h, activations().z, targets()
    assert values["view_dependence"] == pytest.approx(
        1 - dcor.distance_correlation(as_array(z["original"]), as_array(z["augmented"])), abs=1e-6
    )
    assert values["scattering"] == pytest.approx(
        1 - dcor.distance_correlation(as_array(z["augmented"]), as_array(fixed["scattering"])),
        abs=1e-6,
    )
    both = [
        dcor.u_distance_correlation_sqr(as_array(x), as_array(fixed["hog"])) for x in h.values()
    ]
    assert values["on_h"] == pytest.approx(1 - np.mean(both), abs=1e-6)


def test_standardised_dependence_is_that_of_dimensions_of_one_deviation() -> None:
    scale = torch.tensor([1e3, 1.0, 1e-3, 5.0, 1.0, 2.0, 1.0])
    term = {"kind": "dependence", "on": "h", "standardise": True}
    given, fixed = activations(), targets()
    h = {view: scale * x + 3 for view, x in given.h.items()}
    value = objective({"hog": term})(Activations(h, given.z), fixed).terms["hog"].item()
    x = as_array(h["augmented"])
    deviations = np.sqrt(x.var(axis=0, ddof=1) + 1e-4)
    expected = dcor.distance_correlation(x / deviations, as_array(fixed["hog"]))
    assert value == pytest.approx(1 - expected, abs=1e-6)
    assert abs(value - (1 - dcor.distance_correlation(x, as_array(fixed["hog"])))) > 0.01


@pytest.mark.parametrize("view", ["original", "augmented", "both"])
@pytest.mark.parametrize("loss", ["cosine", "squared"])
def test_regression_goes_through_a_learned_linear_head(view: str, loss: str) -> None:
    built = objective({"clip": {"kind": "regression", "loss": loss, "view": view}})
    value = built(activations(), targets())
    weight, bias = (as_array(parameter) for parameter in built.parameters())
    views = ["original", "augmented"] if view == "both" else [view]
    expected = []
    for name in views:
        made = as_array(activations().h[name]) @ weight.T + bias
        goal = as_array(targets()["clip"])
        cosines = (made * goal).sum(1) / np.linalg.norm(made, axis=1) / np.linalg.norm(goal, axis=1)
        expected.append((1 - cosines).mean() if loss == "cosine" else ((made - goal) ** 2).mean())
    assert value.total.item() == pytest.approx(np.mean(expected), rel=1e-5)
    torch.autograd.backward(value.total)
    assert all(p.grad is not None and p.grad.any() for p in built.parameters())


def test_total_is_the_weighted_sum_of_terms_in_the_order_of_the_file() -> None:
    terms = {
        "hog": {"kind": "dependence", "weight": 2},
        "variance": {"weight": 0.5},
        "clip": {"kind": "regression", "weight": -3},
        "invariance": {},
    }
    value = objective(terms)(activations(), targets())
    assert list(value.terms) == list(terms)
    v = value.terms
    expected = 2 * v["hog"] + 0.5 * v["variance"] - 3 * v["clip"] + v["invariance"]
    torch.testing.assert_close(value.total, expected)


def test_documented_weights_reproduce_vicreg_with_its_gradient() -> None:
    built = objective(
        {"invariance": {"weight": 25}, "variance": {"weight": 12.5}, "covariance": {"weight": 1}}
    )
    x, y = normal(B, Z).double().requires_grad_(), normal(B, Z, seed=1).double()
    total = built(Activations({}, {"original": x, "augmented": y}), {}).total
    expected = vicreg(x, y)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
    (found,), (reference,) = torch.autograd.grad(total, x), torch.autograd.grad(expected, x)
    torch.testing.assert_close(found, reference, rtol=1e-10, atol=1e-12)


def test_weight_of_minus_one_gives_the_released_sign() -> None:
    built = objective({"hog": {"kind": "dependence", "weight": -1}})
    z = normal(B, Z).double().requires_grad_()
    hog = targets()["hog"].double()
    total = built(Activations({}, {"augmented": z}), {"hog": hog}).total
    released = dependence.distance_correlation(z, hog)
    torch.testing.assert_close(
        torch.autograd.grad(total, z)[0], torch.autograd.grad(released, z)[0]
    )


# What the module asks for


def test_pure_distillation_on_one_view_asks_for_that_view_alone() -> None:
    built = objective({"clip": {"kind": "regression", "view": "original"}})
    assert views_of(built.terms) == {"original"}
    assert not built.needs_projector
    assert built.representations == ("clip",)
    alone = Activations({"original": activations().h["original"]}, {})
    full = built(activations(), targets()).total
    assert torch.equal(built(alone, {"clip": targets()["clip"]}).total, full)


def test_terms_on_z_need_the_projector_and_view_terms_both_views() -> None:
    built = objective({"hog": {"kind": "dependence", "on": "h"}, "invariance": {}})
    assert views_of(built.terms) == {"original", "augmented"}
    assert built.needs_projector
    assert not list(built.parameters())
    assert views_of(objective({"hog": {"kind": "dependence"}}).terms) == {"augmented"}


def test_a_representation_is_asked_for_once_and_a_term_without_weight_asks_for_nothing() -> None:
    terms = {
        "hog": {"kind": "dependence", "view": "augmented"},
        "again": {"kind": "regression", "representation": "hog", "view": "augmented"},
        "pixels": {"kind": "dependence", "weight": 0, "view": "original"},
        "invariance": {"weight": 0},
    }
    built = objective(terms)
    assert built.representations == ("hog",)
    assert representations_of(TERMS.validate_python(terms)) == ("hog",)
    assert views_of(built.terms) == {"augmented"}
    assert list(built(activations(), targets()).terms) == ["hog", "again"]


def test_five_representations_and_the_view_term_take_seven_distance_matrices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    original = distances.pairwise_distances

    def counting(x: Tensor) -> Tensor:
        made.append(x.shape)
        return original(x)

    monkeypatch.setattr(dependence, "pairwise_distances", counting)
    term_values({"view_dependence": {}} | {name: {"kind": "dependence"} for name in WIDTHS})
    assert len(made) == 7


def test_state_holds_the_heads_and_loads_into_a_new_objective() -> None:
    terms = {"keys": {"kind": "regression", "representation": "clip"}, "invariance": {}}
    built, other = objective(terms), objective(terms)
    assert set(built.state_dict()) == {"heads.to_keys.weight", "heads.to_keys.bias"}
    nn.init.ones_(next(other.parameters()))
    before = other(activations(), targets()).total
    other.load_state_dict(built.state_dict())
    assert not torch.equal(before, built(activations(), targets()).total)
    assert torch.equal(other(activations(), targets()).total, built(activations(), targets()).total)


# Numbers and errors

EVERYTHING: dict[str, Any] = {
    "invariance": {}, "variance": {}, "covariance": {}, "view_dependence": {},
    "scattering": {"kind": "dependence", "on": "h", "view": "both"},
    "hog": {"kind": "dependence", "statistic": "dcor_squared_unbiased"},
    "clip": {"kind": "regression", "loss": "cosine"},
    "pixels": {"kind": "regression", "loss": "squared", "on": "z"},
    "halves": {"kind": "regression", "representation": "clip", "loss": "cosine_smooth_l1",
               "layers": 2},
    "barlow": {}, "sigreg": {"directions": 16},
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_change_nothing_but_the_rounding_of_the_input(
    dtype: torch.dtype,
) -> None:
    built = objective(EVERYTHING)
    rounded = activations(dtype)
    wide = Activations(
        {v: x.float() for v, x in rounded.h.items()}, {v: x.float() for v, x in rounded.z.items()}
    )
    stored = targets(torch.float16)
    expected = built(wide, {name: x.float() for name, x in stored.items()})
    with torch.autocast("cpu", dtype=dtype):
        found = built(rounded, stored)
    assert found.total.dtype == torch.float32
    assert torch.equal(found.total, expected.total)
    assert all(torch.equal(found.terms[name], x) for name, x in expected.terms.items())


def test_a_value_that_is_not_finite_is_returned_under_its_name() -> None:
    batch = targets()
    batch["hog"][3, 2] = float("nan")
    value = objective(EVERYTHING)(activations(), batch)
    broken = {name for name, term in value.terms.items() if not torch.isfinite(term)}
    assert broken == {"hog"}
    assert torch.isnan(value.total)


def test_a_batch_without_what_is_needed_says_so() -> None:
    built = objective({"hog": {"kind": "dependence"}})
    with pytest.raises(TrainingError, match="needs representation hog, but the batch brings"):
        built(activations(), {"clip": targets()["clip"]})
    with pytest.raises(TrainingError, match="needs z augmented"):
        built(Activations(activations().h, {}), targets())


def test_a_representation_without_width_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"'scatering'\. Did you mean 'scattering'"):
        objective({"scatering": {"kind": "dependence"}})


# The section of the experiment file


def complaints(section: Mapping[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Section.model_validate({"objective": section})
    return problems(caught.value, Section)


def test_names_fill_in_kind_and_representation() -> None:
    terms = TERMS.validate_python(
        {
            "variance": {"weight": 2},
            "hog": {"kind": "dependence"},
            "soft": {"kind": "regression", "representation": "clip"},
        }
    )
    assert [term.kind for term in terms.values()] == ["variance", "dependence", "regression"]
    assert representations_of(terms) == ("hog", "clip")
    again = TERMS.validate_python({name: term.model_dump() for name, term in terms.items()})
    assert again == terms


def test_defaults_are_those_of_the_documentation() -> None:
    terms = TERMS.validate_python({"a": {"kind": "dependence"}, "b": {"kind": "regression"}})
    assert terms["a"].model_dump() == {
        "kind": "dependence", "weight": 1, "representation": "a", "on": "z",
        "view": "augmented", "statistic": "dcor", "standardise": False,
    }  # fmt: skip
    assert terms["b"].model_dump() == {
        "kind": "regression", "weight": 1, "representation": "b", "on": "h",
        "view": "both", "loss": "cosine",
    }  # fmt: skip


def test_all_mistakes_are_reported_with_their_path_and_the_nearest_name() -> None:
    found = complaints(
        {
            "covarience": {"weight": 1},
            "variance": {"marginn": 1},
            "hog": {"kind": "dependence", "on": "y", "weight": "much"},
            "clip": {"kind": "regresion"},
        }
    )
    text = "\n".join(found)
    assert len(found) == 5
    assert (
        "objective.covarience.kind: Unknown kind 'covarience'. Did you mean 'covariance'?" in text
    )
    assert "objective.variance.marginn: Unknown key 'marginn'. Did you mean 'margin'?" in text
    assert "objective.hog.on: " in text
    assert "objective.hog.weight: " in text
    assert "objective.clip.kind: Unknown kind 'regresion'. Did you mean 'regression'?" in text


@pytest.mark.parametrize("section", [{}, {"invariance": {"weight": 0}}])
def test_an_objective_without_weight_is_refused(section: dict[str, Any]) -> None:
    assert "at least one term needs a weight" in complaints(section)[0]


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_are_finite(weight: float) -> None:
    assert complaints({"invariance": {"weight": weight}})[0].startswith(
        "objective.invariance.weight"
    )


def test_names_with_dots_are_refused() -> None:
    assert complaints({"a.b": {"kind": "dependence"}})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_16_bits_are_those_of_the_same_numbers_in_32(dtype: torch.dtype) -> None:
    x = (300 * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))).to(dtype)
    for loss in (covariance_penalty, variance_hinge, lambda rows: mean_squared_error(rows, -rows)):
        assert torch.isfinite(loss(x))
        assert torch.equal(loss(x), loss(x.float()))


@pytest.mark.parametrize("loss", [mean_squared_error, cosine_distance])
def test_the_loss_of_an_empty_batch_is_refused(loss: Any) -> None:
    with pytest.raises(TrainingError, match="at least 1 row"):
        loss(torch.zeros(0, 3), torch.zeros(0, 3))
