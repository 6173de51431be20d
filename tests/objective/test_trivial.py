"""What terms are without any learning, and the share that is explained."""

from typing import Any

import dcor
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from pipeline.objective.objective import Objective
from pipeline.objective.references import Reference
from pipeline.objective.shared_batch import Activations
from pipeline.objective.terms import ObjectiveOptions
from pipeline.objective.trivial import share_explained

torch.set_num_threads(1)  # importing dcor imports numba, which enables all cores

B, D = 48, 3
TERMS: dict[str, Any] = {
    "invariance": {}, "variance": {"margin": 2}, "covariance": {}, "view_dependence": {},
    "barlow": {}, "sigreg": {"directions": 8},
    "hog": {"kind": "dependence", "view": "both", "statistic": "dcor_squared_unbiased"},
    "clip": {"kind": "regression"},
    "squared": {"kind": "regression", "representation": "clip", "loss": "squared"},
    "near": {"kind": "affinity", "representation": "clip", "bank": 20},
}  # fmt: skip


def normal(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random)


STORED = normal(100, 6, seed=9) + 1


def objective(terms: dict[str, Any] = TERMS, *, stored: bool = True) -> Objective:
    torch.manual_seed(0)
    reference = Reference(STORED, torch.arange(100))
    return Objective(
        TypeAdapter(ObjectiveOptions).validate_python(terms),
        h_width=D,
        z_width=D,
        representation_widths={"hog": D, "clip": 6},
        references={"clip": reference} if stored else {},
    )


def embedded(x: Tensor, y: Tensor) -> Activations:
    views: Any = {"original": x, "augmented": y}
    return Activations(views, views)


def batch() -> dict[str, Tensor]:
    return {"hog": normal(B, D, seed=3), "clip": STORED[:B]}


def test_trivial_answers_are_those_of_other_images_constants_and_constant_embeddings() -> None:
    x, y = normal(B, D), normal(B, D, seed=1)
    value = objective().eval()(embedded(x, y), batch())
    found = {name: answer.item() for name, answer in value.trivial.items()}
    assert set(found) == set(TERMS) - {"covariance"}
    moved = torch.cat([y[-1:], y[:-1]])
    assert found["invariance"] == pytest.approx(float((x - moved).square().mean()), rel=1e-5)
    a, b, hog = x.double().numpy(), moved.double().numpy(), batch()["hog"].double()
    assert found["view_dependence"] == pytest.approx(1 - dcor.distance_correlation(a, b), abs=1e-5)
    other = torch.cat([hog[-1:], hog[:-1]]).numpy()
    views = [dcor.u_distance_correlation_sqr(v.double().numpy(), other) for v in (x, y)]
    assert found["hog"] == pytest.approx(1 - sum(views) / 2, abs=1e-5)
    unit = STORED / STORED.norm(dim=1, keepdim=True)
    assert found["clip"] == pytest.approx(1 - float(unit.mean(0).norm()), rel=1e-5)
    assert found["squared"] == pytest.approx(float(STORED.var(0, correction=0).mean()), rel=1e-5)


def test_a_constant_embedding_scores_its_trivial_answer() -> None:
    constant = torch.zeros(B, D)
    value = objective().eval()(embedded(constant, constant), batch())
    for name in ("variance", "barlow", "sigreg"):
        torch.testing.assert_close(value.terms[name], value.trivial[name], msg=name)


def test_the_best_constant_of_a_head_scores_its_trivial_answer_on_the_stored_rows() -> None:
    built = objective({"squared": TERMS["squared"]}).eval()
    head: Any = built.heads["to_squared"]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(STORED.mean(0))
    x = normal(100, D)
    value = built(embedded(x, x), {"clip": STORED})
    torch.testing.assert_close(value.terms["squared"], value.trivial["squared"])


def test_a_relative_term_is_one_for_the_best_constant() -> None:
    terms = {"clip": {"kind": "regression", "relative": True}}
    value = objective(terms).eval()(embedded(normal(B, D), normal(B, D)), batch())
    assert value.trivial["clip"] == 1


def test_independent_embeddings_explain_nothing_and_equal_ones_everything() -> None:
    terms = {"hog": TERMS["hog"], "view_dependence": {}, "invariance": {}}
    built = objective(terms).eval()
    hog = normal(400, D, seed=3)
    same = built(embedded(hog, hog), {"hog": hog})
    other = built(embedded(normal(400, D), normal(400, D, seed=1)), {"hog": hog})
    for name in terms:
        shares = [
            share_explained(value.terms[name].item(), value.trivial[name].item())
            for value in (same, other)
        ]
        assert shares[0] == pytest.approx(1, abs=1e-5)
        assert shares[1] == pytest.approx(0, abs=0.1)


def test_nothing_is_compared_in_training_or_known_of_targets_that_are_not_stored() -> None:
    x = normal(B, D)
    assert objective().train()(embedded(x, x), batch()).trivial == {}
    terms = {"clip": {"kind": "regression"}}
    assert objective(terms, stored=False).eval()(embedded(x, x), batch()).trivial == {}


def test_a_share_without_anything_to_explain_is_none() -> None:
    assert share_explained(0.1, 0.4) == pytest.approx(0.75)
    assert share_explained(0.5, 0.4) == pytest.approx(-0.25)
    assert share_explained(0.1, 0.0) is None
    assert share_explained(0.1, float("nan")) is None
