"""Terms that know stored targets before the first step: geometry, scale, bank, dropping."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dcor
import numpy as np
import pytest
import scipy.linalg
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from pipeline.base.errors import ConfigError
from pipeline.base.options import Options, problems
from pipeline.features.whitening import whitened
from pipeline.objective.affinities import affinity_divergence
from pipeline.objective.objective import Moment, Objective
from pipeline.objective.references import Reference
from pipeline.objective.row_losses import ROW_LOSSES, best_constant_loss
from pipeline.objective.shared_batch import Activations
from pipeline.objective.terms import AnyTerm, ObjectiveOptions, reads_ahead

torch.set_num_threads(1)  # importing dcor imports numba, which enables all cores

TERMS: TypeAdapter[dict[str, AnyTerm]] = TypeAdapter(ObjectiveOptions)
WIDTHS = {"clip": 6, "hog": 4}
B, H, Z, N = 12, 7, 5, 40


class Section(Options):
    """The part of an experiment's schema that is under test."""

    objective: ObjectiveOptions


def normal(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random, dtype=torch.float64)


def stored(name: str) -> Tensor:
    """Targets of all N training images, whose components differ in mean and deviation."""
    width = WIDTHS[name]
    return normal(N, width, seed=width) * torch.logspace(1, -1, width) + torch.arange(width)


def reference(name: str) -> Reference:
    rows = stored(name)
    return Reference(rows, 3 * torch.arange(N), rows.mean(0), rows.std(0, correction=0))


def objective(terms: Mapping[str, Any], **given: Any) -> Objective:
    torch.manual_seed(0)
    references = given.pop("references", {name: reference(name) for name in WIDTHS})
    return Objective(
        TERMS.validate_python(terms),
        h_width=H,
        z_width=Z,
        representation_widths=WIDTHS,
        references=references,
    ).double()


def activations() -> Activations:
    h = {"original": normal(B, H), "augmented": normal(B, H, seed=1)}
    z = {"original": normal(B, Z, seed=2), "augmented": normal(B, Z, seed=3)}
    return Activations(h, z)


def batch() -> dict[str, Tensor]:
    return {name: stored(name)[:B] for name in WIDTHS}


def white(name: str, exponent: float) -> Tensor:
    ref = reference(name)
    assert ref.mean is not None
    assert ref.deviation is not None
    return whitened(stored(name)[:B], ref.mean, ref.deviation, exponent)


# Geometry


@pytest.mark.parametrize("exponent", [0, 0.5, 1])
def test_dependence_acts_on_the_whitened_target(exponent: float) -> None:
    term = {"kind": "dependence", "on": "h", "whiten": exponent}
    found = objective({"clip": term})(activations(), batch()).terms["clip"].item()
    target = white("clip", exponent).numpy()
    expected = 1 - dcor.distance_correlation(activations().h["augmented"].numpy(), target)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("loss", ["cosine", "squared", "cosine_smooth_l1"])
@pytest.mark.parametrize("whiten", [None, 0, 1])
@pytest.mark.parametrize("layers", [1, 2])
def test_regression_predicts_the_target_in_its_geometry(
    loss: str, whiten: float | None, layers: int
) -> None:
    term = {"kind": "regression", "loss": loss, "whiten": whiten, "layers": layers}
    built = objective({"clip": term})
    found = built(activations(), batch()).total
    head = built.heads["to_clip"]
    target = stored("clip")[:B] if whiten is None else white("clip", whiten)
    views = [ROW_LOSSES[loss](head(h), target).mean() for h in activations().h.values()]
    torch.testing.assert_close(found, (views[0] + views[1]) / 2)
    torch.autograd.backward(found)
    assert all(p.grad is not None and p.grad.any() for p in built.parameters())


@pytest.mark.parametrize("loss", ["squared", "cosine_smooth_l1"])
def test_regression_predicts_principal_components_that_vary_alike(loss: str) -> None:
    own = replace(reference("hog"), uncorrelated=True)
    assert own.mean is not None
    assert own.deviation is not None
    terms = {"hog": {"kind": "regression", "loss": loss, "whiten": "phi_s", "view": "original"}}
    built = objective(terms, references={"hog": own}).eval()
    value = built(activations(), batch())
    scale = float(own.deviation.square().mean().sqrt())
    turned = (stored("hog") - own.mean).numpy() @ scipy.linalg.hadamard(4) / 2 / scale
    predicted = built.heads["to_hog"](normal(B, H)).detach()
    expected = ROW_LOSSES[loss](predicted, torch.from_numpy(turned[:B])).mean()
    torch.testing.assert_close(value.terms["hog"].double(), expected, rtol=1e-5, atol=1e-6)
    best = best_constant_loss(loss, torch.from_numpy(turned))
    torch.testing.assert_close(value.trivial["hog"].double(), best.double(), rtol=1e-5, atol=1e-6)


def test_only_principal_components_are_rotated_and_only_where_it_matters() -> None:
    terms = {"hog": {"kind": "regression", "loss": "squared", "whiten": "phi_s"}}
    with pytest.raises(ConfigError, match="rotates principal components, and 'hog'"):
        objective(terms)
    for term in (
        {"kind": "regression", "loss": "cosine"},
        {"kind": "dependence"},
        {"kind": "affinity"},
    ):
        with pytest.raises(ValidationError) as raised:
            Section.model_validate({"objective": {"hog": {**term, "whiten": "phi_s"}}})
        (problem,) = problems(raised.value, Section)
        assert problem.startswith("objective.hog: whiten: phi_s is whiten: 0")


def test_one_target_may_be_used_in_two_geometries() -> None:
    terms = {
        "clip": {"kind": "dependence", "whiten": 1},
        "raw": {"kind": "dependence", "representation": "clip"},
    }
    value = objective(terms)(activations(), batch()).terms
    alone = {name: objective({name: terms[name]}) for name in terms}
    for name, built in alone.items():
        assert torch.equal(value[name], built(activations(), batch()).terms[name])
    assert value["clip"] != value["raw"]


def test_a_feature_without_statistics_is_refused_with_the_command_that_makes_them() -> None:
    plain = Reference(stored("clip"), torch.arange(N))
    with pytest.raises(ConfigError, match="mvmr extract-features --only clip --force"):
        objective({"clip": {"kind": "dependence", "whiten": 0.5}}, references={"clip": plain})
    objective({"clip": {"kind": "regression"}}, references={"clip": plain})


@pytest.mark.parametrize(
    ("term", "why"),
    [
        ({"kind": "dependence", "whiten": 0}, "whiten"),
        ({"kind": "regression", "relative": True}, "relative"),
        ({"kind": "affinity"}, "affinity"),
    ],
)
def test_what_is_not_stored_has_no_geometry_scale_or_bank(term: dict[str, Any], why: str) -> None:
    assert reads_ahead(TERMS.validate_python({"clip": term})["clip"]) == why
    with pytest.raises(ConfigError, match=f"'clip' with {why} .* is not stored"):
        objective({"clip": term}, references={})


# One number per target


def test_relative_divides_by_the_best_constant_and_scale_no_longer_counts() -> None:
    term = {"kind": "regression", "loss": "squared"}
    plain = objective({"clip": term})(activations(), batch()).total
    found = objective({"clip": {**term, "relative": True}})(activations(), batch()).total
    torch.testing.assert_close(found, plain / best_constant_loss("squared", stored("clip")))
    large = reference("clip")
    large = Reference(1000 * large.rows, large.index)
    built = objective({"clip": {**term, "relative": True}}, references={"clip": large})
    for parameter in built.parameters():
        parameter.data *= 1000
    scaled = built(activations(), {"clip": 1000 * batch()["clip"]}).total
    torch.testing.assert_close(scaled, found)


# Affinity


@pytest.mark.parametrize("leave_out", [True, False])
@pytest.mark.parametrize("whiten", [None, 1])
def test_affinity_compares_a_head_and_the_target_with_the_first_targets(
    leave_out: bool, whiten: float | None
) -> None:
    term = {
        "kind": "affinity", "bank": 10, "temperature": 0.2, "target_temperature": 0.1,
        "leave_out_own": leave_out, "whiten": whiten, "view": "augmented",
    }  # fmt: skip
    built = objective({"clip": term})
    index = 3 * torch.arange(B)  # the first ten are those of the bank
    found = built(activations(), batch(), index=index).total
    ref = reference("clip")
    mean, deviation = ref.rows[:10].mean(0), torch.ones(6)
    if whiten is not None:
        assert ref.mean is not None
        assert ref.deviation is not None
        mean, deviation = ref.mean, ref.deviation
    rows = whitened(ref.rows, mean, deviation, whiten or 0)
    own = torch.tensor([*range(10), -1, -1])
    expected = affinity_divergence(
        [built.heads["to_clip"](activations().h["augmented"])],
        rows[:B],
        rows[:10],
        temperature=0.2,
        target_temperature=0.1,
        own=own if leave_out else None,
    )
    torch.testing.assert_close(found, expected)
    elsewhere = built(activations(), batch(), index=None).total
    assert torch.equal(found, elsewhere) != leave_out


def test_a_bank_is_no_part_of_the_state() -> None:
    built = objective({"clip": {"kind": "affinity", "bank": 10, "whiten": 1}})
    assert set(built.state_dict()) == {"heads.to_clip.weight", "heads.to_clip.bias"}
    assert not list(built.buffers())


def test_training_may_follow_a_validation_in_inference_mode() -> None:
    terms = {"clip": {"kind": "affinity", "whiten": 1}, "hog": {"kind": "regression", "whiten": 1}}
    built = objective(terms).float()
    given = Activations({view: x.float() for view, x in activations().h.items()}, {})
    rows = {name: x.float() for name, x in batch().items()}
    with torch.inference_mode():
        built.eval()(given, rows)
    total = built.train()(given, rows, index=torch.arange(B)).total
    torch.autograd.backward(total)


# Dropping


def dropping(chance: float) -> Objective:
    options = {"kind": "regression", "relative": True, "drop": chance}
    return objective({"clip": options, "hog": options})


def test_dropping_leaves_out_the_better_matched_target_of_each_image_in_training() -> None:
    built = dropping(1.0)
    value = built(activations(), batch())
    rows = []
    for name in WIDTHS:
        views = [
            ROW_LOSSES["cosine"](built.heads[f"to_{name}"](h), batch()[name])
            for h in activations().h.values()
        ]
        scale = best_constant_loss("cosine", stored(name))
        rows.append((views[0] + views[1]) / 2 / scale)
    clip, hog = rows
    assert 0 < int((clip > hog).sum()) < B
    torch.testing.assert_close(value.total, torch.maximum(clip, hog).sum() / B)
    torch.testing.assert_close(value.terms["clip"], clip.mean())  # what is shown is the whole term
    whole = built.eval()(activations(), batch()).total
    torch.testing.assert_close(whole, clip.mean() + hog.mean())


def test_what_is_dropped_depends_on_the_seed_of_the_step_alone() -> None:
    built = dropping(0.5)
    first, again, other = (
        built(activations(), batch(), moment=Moment(seed=seed)).total for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_dropping_needs_a_second_target() -> None:
    with pytest.raises(ValidationError) as caught:
        Section.model_validate({"objective": {"clip": {"kind": "regression", "drop": 0.5}}})
    assert "only clip has it" in problems(caught.value, Section)[0]


# Autocast and kinds of numbers


def test_autocast_changes_nothing_but_the_rounding_of_the_input() -> None:
    terms = {
        "clip": {"kind": "affinity", "bank": 10},
        "halves": {
            "kind": "regression", "representation": "hog", "loss": "cosine_smooth_l1", "whiten": 1,
            "layers": 2, "relative": True, "drop": 0.5,
        },
        "hog": {"kind": "regression", "drop": 0.5},
        "white": {"kind": "dependence", "representation": "clip", "whiten": 1},
    }  # fmt: skip
    built = objective(terms).float()
    rounded = Activations(
        {v: x.bfloat16() for v, x in activations().h.items()},
        {v: x.bfloat16() for v, x in activations().z.items()},
    )
    wide = Activations(
        {v: x.float() for v, x in rounded.h.items()}, {v: x.float() for v, x in rounded.z.items()}
    )
    halves = {name: x.half() for name, x in batch().items()}
    index = torch.arange(B)
    expected = built(wide, {name: x.float() for name, x in halves.items()}, index=index)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = built(rounded, halves, index=index)
    assert found.total.dtype == torch.float32
    assert torch.equal(found.total, expected.total)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"kind": "dependence", "whiten": 1.5}, "objective.clip.whiten"),
        ({"kind": "regression", "whiten": "phi"}, "objective.clip.whiten"),
        ({"kind": "regression", "layers": 3}, "objective.clip.layers"),
        ({"kind": "regression", "drop": -0.1}, "objective.clip.drop"),
        ({"kind": "affinity", "temperature": 0}, "objective.clip.temperature"),
        ({"kind": "affinity", "bank": 1}, "objective.clip.bank"),
    ],
)
def test_options_out_of_range_are_reported_with_their_path(
    options: dict[str, Any], path: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Section.model_validate({"objective": {"clip": options}})
    (line,) = problems(caught.value, Section)
    assert line.startswith(path)


def test_options_that_are_new_are_written_only_if_they_are_set() -> None:
    terms = TERMS.validate_python({"a": {"kind": "regression"}, "b": {"kind": "dependence"}})
    new = {"whiten", "layers", "relative", "drop"}
    assert not new & (terms["a"].model_dump().keys() | terms["b"].model_dump().keys())
    given = {"kind": "regression", "whiten": 0, "layers": 2, "relative": True, "drop": 0.5}
    both = TERMS.validate_python({"a": given, "b": given})
    dumped = both["a"].model_dump(mode="json")
    assert {name: dumped[name] for name in new} == {name: given[name] for name in new}
    again = {name: term.model_dump() for name, term in both.items()}
    assert TERMS.validate_python(again) == both


def test_numbers_that_are_not_finite_are_returned_under_their_name() -> None:
    given = batch()
    given["clip"] = given["clip"].clone()
    given["clip"][3, 2] = np.nan
    terms = {"clip": {"kind": "affinity"}, "hog": {"kind": "regression", "whiten": 1}}
    value = objective(terms)(activations(), given)
    assert torch.isnan(value.terms["clip"])
    assert torch.isfinite(value.terms["hog"])
