"""Training on local views: what a step computes, what validation sees, whole runs, refusals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import IMAGE, STUDENT, make_data, make_run

from pipeline.base.errors import ConfigError
from pipeline.base.progress import Silent
from pipeline.images.original_view import ImageOptions, normalise
from pipeline.images.random_views import build_augmentation
from pipeline.images.view_options import GLOBAL, ViewForm
from pipeline.loading.batch import Batch
from pipeline.loading.batch_pixels import random_view
from pipeline.loading.evaluation_loader import EvaluationLoader
from pipeline.models.checkpoint import LAST, load_checkpoint
from pipeline.models.encoder import Encoder, build_encoder
from pipeline.objective.objective import Objective
from pipeline.objective.terms import LabelsTerm
from pipeline.objective.view_names import ViewChoice
from pipeline.training.fit import CURVES, fit
from pipeline.training.module import StudentModule
from pipeline.training.run import Run
from pipeline.training.step_views import TRAINING, VALIDATION
from pipeline.training.supervised import supervised_objective

CPU = torch.device("cpu")
FEW = {"local": {"count": 3, "size": 5, "scale": [0.1, 0.4]}}
FORM = ViewForm(5, (0.1, 0.4))
TERMS: dict[str, Any] = {
    "invariance": {"weight": 2},
    "variance": {"on": "h"},
    "hog": {"kind": "regression", "view": "all"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    make_data(root)
    return root


def smaller(run: Run, size: int = 6) -> Run:
    """Return the same run for a student that sees the images smaller than their files are."""
    image = ImageOptions(**{**IMAGE.model_dump(), "size": size})
    train, validation = (replace(d, image=image) for d in (run.train, run.validation))
    return replace(run, train=train, validation=validation)


def module_of(run: Run, encoder: Encoder) -> StudentModule:
    torch.manual_seed(0)
    objective = Objective(
        run.objective,
        h_width=encoder.h_width,
        z_width=encoder.z_width,
        representation_widths={name: f.width for name, f in run.train.features.items()},
    )
    return StudentModule(
        encoder, objective, live={}, image=IMAGE, options=run.options, steps_per_epoch=1, seed=0
    )


def drawn(batch: Batch, run: Run, number: int, form: ViewForm) -> Tensor:
    augment = build_augmentation(run.options.augmentation, IMAGE, form)
    return normalise(random_view(batch, augment, CPU, number=number), IMAGE)


@pytest.mark.parametrize("both", [False, True])
def test_a_step_is_that_of_a_loop_over_views(data: Path, both: bool) -> None:
    run = make_run(data, TERMS, views=FEW, augment_both=both)
    loader = EvaluationLoader(run.train, 250, views=run.random_views(TRAINING), seed=run.seed)
    batch = next(iter(loader))
    encoder = build_encoder(STUDENT, channels=1, size=8, seed=0)
    module = module_of(run, encoder)
    found = module.loss(batch)
    torch.autograd.backward(found)
    gradients = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
    encoder.zero_grad()

    first = drawn(batch, run, 0, GLOBAL) if both else normalise(batch["images"], IMAGE)
    large = [first, drawn(batch, run, int(both), GLOBAL)]
    small = [drawn(batch, run, 1 + both + n, FORM) for n in range(3)]
    assert {tuple(view.shape) for view in small} == {(250, 1, 5, 5)}
    rows = len(first)
    h: list[Tensor] = []
    z: list[Tensor] = []
    for images in (*large, torch.cat(small)):  # views of equal size have one batch norm
        passed = encoder(images)
        for layer, values in zip((h, z), passed, strict=True):
            layer += [values[start : start + rows] for start in range(0, len(values), rows)]
    head: Any = module.objective.heads["to_hog"]
    regression = hinge = invariance = torch.zeros(())
    for view in h:
        cosines = torch.cosine_similarity(head(view), batch["targets"]["hog"].float())
        regression = regression + (1 - cosines).mean() / len(h)
        hinge = hinge + 2 * torch.relu(1 - (view.var(0) + 1e-4).sqrt()).mean() / len(h)
    for mine in (0, 1):
        others = [z[n] for n in range(len(z)) if n != mine]
        for other in others:
            invariance = invariance + (z[mine] - other).square().mean() / (2 * len(others))
    expected = 2 * invariance + hinge + regression
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.autograd.backward(expected)
    own = [p.grad for p in encoder.parameters() if p.grad is not None]
    torch.testing.assert_close(gradients, own, rtol=1e-4, atol=1e-6)


def test_validation_sees_global_views_alone(data: Path) -> None:
    run = make_run(data, {**TERMS, "variance": {"view": "local"}}, views=FEW)
    assert [form.size for form in run.random_views(TRAINING).forms] == [None, 5, 5, 5]
    assert run.random_views(VALIDATION) == make_run(data, TERMS).random_views(VALIDATION)


def rows(work: Path, kind: str) -> list[list[str]]:
    """Return the training or validation values of each epoch."""
    table = [line.split(",") for line in (work / CURVES).read_text().splitlines()]
    wanted = [n for n, name in enumerate(table[0]) if name.startswith(kind)]
    return [[row[n] for n in wanted] for row in table[1:]]


def broken_off(run: Run, work: Path) -> None:
    """Train with an interruption in the second epoch, and then to the end."""

    class Stopped(BaseException):
        pass

    class Stop(Silent):
        steps = 7

        def advance(self, count: int, status: str = "") -> None:
            self.steps -= 1
            if not self.steps:
                raise Stopped

    with pytest.raises(Stopped):
        fit(run, work=work, progress=Stop())
    fit(run, work=work, progress=Silent())


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_a_run_learns_and_resumes_in_both_ways_of_loading(
    data: Path, tmp_path: Path, mode: str
) -> None:
    terms = {"invariance": {"weight": 25}, "variance": {"weight": 12.5}, "covariance": {}}
    views = {"local": {"count": 2, "size": 4, "scale": [0.2, 0.5]}}
    how = {"loading": {"mode": mode, "workers": 0}, "saving": {"steps": 1}}
    run = smaller(make_run(data, terms, views=views, epochs=2, **how))
    fit(run, work=tmp_path / "whole", progress=Silent())
    broken_off(run, tmp_path / "broken")
    whole, broken = (load_checkpoint(tmp_path / n / LAST).encoder for n in ("whole", "broken"))
    assert all(torch.equal(values, broken[name]) for name, values in whole.items())
    objective = [float(row[0]) for row in rows(tmp_path / "whole", "train/objective")]
    assert objective[-1] < objective[0]
    assert rows(tmp_path / "whole", "validation/term")


def test_an_objective_of_local_views_alone_trains(data: Path, tmp_path: Path) -> None:
    terms = {"hog": {"kind": "regression", "view": "local"}}
    fit(make_run(data, terms, views=FEW, epochs=1), work=tmp_path, progress=Silent())
    assert float(rows(tmp_path, "train/term/hog")[0][0]) > 0
    assert float(rows(tmp_path, "validation/term/hog")[0][0]) > 0


@pytest.mark.parametrize(
    ("terms", "views", "said"),
    [
        ({"variance": {"view": "local"}}, {}, r"objective\.variance\.view: local needs .* size: 4"),
        ({"hog": {"kind": "regression"}}, FEW, r"no term .* acts on local views; set view: all"),
        (TERMS, {"local": {"count": 1, "size": 9}}, r"size: .* whose size is 8 .* found 9"),
    ],
)
def test_views_and_terms_that_do_not_go_together_are_refused(
    data: Path, terms: dict[str, Any], views: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        make_run(data, terms, views=views)


def test_a_student_of_one_size_is_refused(data: Path, tmp_path: Path) -> None:
    run = smaller(make_run(data, {"variance": {}}, views={"local": {"count": 1, "size": 8}}), 16)
    student = run.student.model_copy(update={"architecture": "timm:vit_tiny_patch16_224"})
    with pytest.raises(ConfigError, match=r"cannot take views of 8 px beside its images"):
        fit(replace(run, student=student), work=tmp_path, progress=Silent())


def test_the_control_with_labels_sees_the_views_of_the_objective(data: Path) -> None:
    options = make_run(data, TERMS, views=FEW).options
    expected: list[tuple[dict[str, Any], ViewChoice]] = [
        ({"invariance": {}}, "all"),
        ({"hog": {"kind": "regression", "view": "local"}}, "local"),
        ({"hog": {"kind": "regression", "view": "both"}, "variance": {"view": "local"}}, "all"),
    ]
    for term, view in expected:
        terms = make_run(data, term, views=FEW).objective
        assert supervised_objective(terms, options) == {"labels": LabelsTerm(view=view)}
