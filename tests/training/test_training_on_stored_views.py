"""Training on stored views: the target of a view is that of its own crop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dcor import distance_correlation as reference
from torch import Tensor
from training_runs import TRAIN, make_data, make_run, objective

from pipeline.base.errors import ConfigError
from pipeline.base.progress import Silent
from pipeline.features.store import FeatureStore
from pipeline.images.stored_views import StoredViewOptions
from pipeline.models.checkpoint import BEST, load_checkpoint
from pipeline.objective.objective import Objective
from pipeline.objective.references import Reference
from pipeline.objective.shared_batch import Activations
from pipeline.representations.hog import HogOptions
from pipeline.training.fit import fit
from pipeline.training.step_views import stored_views_of
from pipeline.training.train_options import TrainOptions

torch.set_num_threads(1)
VIEWS = StoredViewOptions(count=3, min_scale=0.5)
TERMS: dict[str, Any] = {
    "variance": {},
    "hog": {"kind": "regression", "loss": "cosine", "view": "both", "on": "h"},
}
SHORT: dict[str, Any] = {**TRAIN, "epochs": 1, "augmentation": {}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    make_data(root, HogOptions(cell=4, views=VIEWS))
    return root


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


H = {"original": normal(20, 6, seed=0), "augmented": normal(20, 6, seed=1)}
ROWS = {"original": normal(20, 6, seed=2), "augmented": normal(20, 6, seed=3)}


def value(terms: Mapping[str, Any], rows: Any, **more: Any) -> tuple[Objective, float]:
    torch.manual_seed(0)
    built = Objective(
        objective(terms), h_width=6, z_width=6, representation_widths={"hog": 6}, **more
    )
    found = built(Activations(H, H), {"hog": rows})
    return built, found.total.item()


def test_dependence_is_that_of_each_view_with_its_own_rows() -> None:
    terms = {"hog": {"kind": "dependence", "view": "both", "on": "h"}}
    expected = sum(reference(H[view].double().numpy(), ROWS[view].double().numpy()) for view in H)
    assert value(terms, ROWS)[1] == pytest.approx(1 - expected / 2, abs=1e-5)
    same = value(terms, {"original": ROWS["original"], "augmented": ROWS["original"]})
    assert value(terms, ROWS["original"])[1] == pytest.approx(same[1], abs=1e-6)


def test_regression_is_that_of_each_view_with_its_own_rows() -> None:
    terms = {"hog": {"kind": "regression", "loss": "cosine", "view": "both", "on": "h"}}
    built, found = value(terms, ROWS)
    head = built.heads["to_hog"]
    losses = [1 - F.cosine_similarity(head(H[view]), ROWS[view]).mean().item() for view in H]
    assert found == pytest.approx(sum(losses) / 2, abs=1e-5)


def test_affinity_is_that_of_each_view_with_its_own_rows() -> None:
    terms = {"hog": {"kind": "affinity", "view": "both", "on": "h", "bank": 30}}
    bank = normal(30, 6, seed=4)
    reference_rows = Reference(bank, torch.arange(100, 130))
    alone = [
        value(
            {"hog": {**terms["hog"], "view": view}}, ROWS[view], references={"hog": reference_rows}
        )
        for view in ("original", "augmented")
    ]
    both = value(terms, ROWS, references={"hog": reference_rows})[1]
    assert both == pytest.approx(sum(found for _, found in alone) / 2, abs=1e-5)


def test_a_run_learns_from_them_and_without_them_is_what_it_was(
    data: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain = tmp_path_factory.mktemp("plain")
    make_data(plain)
    runs = {
        "views": make_run(data, TERMS, **SHORT),
        "random": make_run(data, TERMS, **SHORT, stored_views=False),
        "plain": make_run(plain, TERMS, **SHORT),
    }
    states = {}
    for name, run in runs.items():
        fit(run, work=tmp_path / name, progress=Silent())
        states[name] = load_checkpoint(tmp_path / name / BEST).encoder
    weights = [next(iter(state.values())) for state in states.values()]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


@pytest.mark.parametrize(
    ("augmentation", "problem"),
    [
        ({"policy": "cifar"}, "has a padded crop"),
        ({"min_scale": 0.2}, "asks for smaller boxes"),
    ],
)
def test_a_policy_that_cannot_follow_them_is_refused(
    data: Path, tmp_path: Path, augmentation: dict[str, Any], problem: str
) -> None:
    run = make_run(data, TERMS, **{**SHORT, "augmentation": augmentation})
    with pytest.raises(ConfigError, match=problem):
        fit(run, work=tmp_path, progress=Silent())


def test_targets_of_different_views_are_refused_and_of_fewer_ones_are_not(data: Path) -> None:
    stored = FeatureStore(data / "features.zarr")["hog"]
    options = TrainOptions.model_validate(SHORT)

    def like(**views: Any) -> Any:
        other = VIEWS.model_copy(update=views)
        found = FeatureStore(data / "features.zarr")["hog"]
        found.fingerprint = {
            **stored.fingerprint,
            "views": {"count": other.count, **other.recipe()},
        }
        return found

    with pytest.raises(ConfigError, match="hog and other are stored of different views"):
        stored_views_of({"hog": stored, "other": like(seed=1)}, options)
    few = stored_views_of({"hog": stored, "other": like(count=2)}, options)
    assert few == VIEWS.model_copy(update={"count": 2})
    without = TrainOptions.model_validate({**SHORT, "stored_views": False})
    assert stored_views_of({"hog": stored}, without) is None
