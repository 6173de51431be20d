"""No term makes the host wait for a device, or decides by the values of a tensor."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from pipeline.objective.objective import Moment, Objective, ObjectiveValue
from pipeline.objective.references import Reference
from pipeline.objective.shared_batch import Activations
from pipeline.objective.terms import AnyTerm, ObjectiveOptions

B, D, N = 8, 6, 30
TERMS: dict[str, Any] = {
    "invariance": {}, "variance": {}, "covariance": {}, "view_dependence": {},
    "barlow": {"weight": {"from": 2, "to": 1}}, "sigreg": {"directions": 5},
    "hog": {"kind": "dependence", "statistic": "dcor_squared_unbiased", "whiten": 0.5},
    "scaled": {"kind": "dependence", "representation": "hog", "standardise": True, "on": "h"},
    "clip": {"kind": "regression", "relative": True, "drop": 0.5},
    "halves": {
        "kind": "regression", "representation": "hog", "loss": "cosine_smooth_l1", "whiten": 1,
        "layers": 2, "drop": 0.5,
    },
    "near": {"kind": "affinity", "representation": "clip", "bank": 20, "whiten": 0},
    "labels": {},
}  # fmt: skip


def objective(device: str = "cpu") -> Objective:
    rows = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    reference = Reference(rows, torch.arange(N), rows.mean(0), rows.std(0))
    terms: TypeAdapter[dict[str, AnyTerm]] = TypeAdapter(ObjectiveOptions)
    return Objective(
        terms.validate_python(TERMS),
        h_width=D,
        z_width=D,
        representation_widths={"hog": D, "clip": D},
        references={"hog": reference, "clip": reference},
        class_counts=torch.tensor([3, 1, 2]),
    ).to(device)


def step(built: Objective, device: str = "cpu") -> ObjectiveValue:
    """Return the objective of a batch, after a backward pass in training."""

    def rows() -> Tensor:
        return torch.randn(B, D, device=device, requires_grad=True)

    views: Any = {"original": rows(), "augmented": rows()}
    value: ObjectiveValue = built(
        Activations(views, views),
        {"hog": rows().detach(), "clip": rows().detach()},
        index=torch.arange(B, device=device),
        labels=torch.arange(B, device=device) % 4 - 1,
        moment=Moment(0.5, 3),
    )
    if built.training:
        torch.autograd.backward(value.total)
    return value


def test_the_check_notices_a_value_that_is_read() -> None:
    with FakeTensorMode():
        x = torch.randn(4)
        with pytest.raises(DataDependentOutputException):
            x.sum().item()
        with pytest.raises(DynamicOutputShapeException):
            x[x > 0]


@pytest.mark.parametrize("training", [True, False])
def test_no_term_reads_a_value(training: bool) -> None:
    built = objective().train(training)
    assert set(step(built).terms) == set(TERMS)  # constants are in place, as after a first step
    with FakeTensorMode(allow_non_fake_inputs=True):
        value = step(built)
    assert value.total.shape == ()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_a_gpu() -> None:
    built = objective("cuda")
    for training in (True, False):
        step(built.train(training), "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for training in (True, False):
            step(built.train(training), "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
