"""Norms re-estimated on original views, and a validation objective on original views."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_runs import IMAGE, make_data, make_run

from pipeline.base.progress import Silent
from pipeline.images.original_view import normalise
from pipeline.loading.resident import load_decoded
from pipeline.models.checkpoint import BEST, LAST, load_checkpoint
from pipeline.models.encoder import Encoder
from pipeline.training.fit import CURVES, fit
from pipeline.training.module import StudentModule
from pipeline.training.run import Run

TERMS: dict[str, Any] = {"hog": {"kind": "regression"}}
IMAGES, BATCH = 120, 50


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    make_data(root)
    return root


def curves(work: Path) -> list[dict[str, str]]:
    with (work / CURVES).open(newline="") as file:
        return list(csv.DictReader(file))


def original_views(run: Run) -> Tensor:
    images = load_decoded(run.train.subset(run.train.indices()[:IMAGES])).images
    return normalise(images, IMAGE)


@torch.no_grad()
def expected_statistics(encoder: Encoder, views: Tensor) -> dict[str, Tensor]:
    """Means over batches of what each norm gets, by hooks and not by the norms themselves."""
    found: dict[str, list[Tensor]] = {}
    for name, norm in encoder.named_modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):

            def note(_: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
                x = given[0].transpose(0, 1).flatten(1)
                found.setdefault(f"{name}.running_mean", []).append(x.mean(1))
                found.setdefault(f"{name}.running_var", []).append(x.var(1))

            norm.register_forward_pre_hook(note)
    encoder.train()
    for batch in torch.tensor_split(views, IMAGES // BATCH):
        encoder(batch)
    return {name: torch.stack(parts).mean(0) for name, parts in found.items()}


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("file", [BEST, LAST])
def test_checkpoints_hold_the_statistics_of_original_views(
    data: Path, tmp_path: Path, ema: float | None, file: str
) -> None:
    run = make_run(data, TERMS, epochs=2, recalibrate=IMAGES, ema=ema)
    fit(run, work=tmp_path, progress=Silent())
    encoder = load_checkpoint(tmp_path / file).build()
    kept = {name: value.clone() for name, value in encoder.state_dict().items()}
    expected = expected_statistics(encoder, original_views(run))
    assert len(expected) > 10
    for name, value in expected.items():
        torch.testing.assert_close(kept[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_training_goes_on_as_if_nothing_had_been_re_estimated(data: Path, tmp_path: Path) -> None:
    for name, images in (("with", IMAGES), ("without", None)):
        run = make_run(data, TERMS, epochs=3, recalibrate=images)
        fit(run, work=tmp_path / name, progress=Silent())
    with_, without = curves(tmp_path / "with"), curves(tmp_path / "without")
    assert [row["train/objective"] for row in with_] == [row["train/objective"] for row in without]
    assert with_[0]["validation/objective"] != without[0]["validation/objective"]
    weights = [load_checkpoint(tmp_path / name / LAST).encoder for name in ("with", "without")]
    norms = {name for name in weights[0] if name.endswith(("running_mean", "running_var"))}
    counts = {name for name in weights[0] if name.endswith("num_batches_tracked")}
    for name in weights[0].keys() - norms - counts:
        assert torch.equal(weights[0][name], weights[1][name])
    assert not any(torch.equal(weights[0][name], weights[1][name]) for name in norms)


def test_validation_sees_original_images_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, Tensor]] = []
    built = StudentModule.__init__

    def watched(module: StudentModule, *given: Any, **options: Any) -> None:
        built(module, *given, **options)
        module.encoder.backbone.register_forward_pre_hook(
            lambda network, x: seen.append((network.training, x[0]))
        )

    monkeypatch.setattr(StudentModule, "__init__", watched)
    run = make_run(data, TERMS, epochs=1, validate_on="original", select="objective")
    fit(run, work=tmp_path, progress=Silent())
    images = normalise(load_decoded(run.validation).images, IMAGE)
    known = {tuple(image.flatten().tolist()) for image in images}
    validated = [x for training, x in seen if not training]
    assert sum(map(len, validated)) == 2 * len(images)  # both views of the term
    assert all(tuple(image.flatten().tolist()) in known for x in validated for image in x)
    assert load_checkpoint(tmp_path / BEST).about["selection"]["rule"] == "validation/objective"


def test_new_options_are_written_only_if_they_are_set(data: Path) -> None:
    plain = make_run(data, TERMS).options.model_dump()
    assert not {"validate_on", "recalibrate"} & plain.keys()
    given = {"validate_on": "original", "recalibrate": 5}
    assert make_run(data, TERMS, **given).options.model_dump().items() >= given.items()
