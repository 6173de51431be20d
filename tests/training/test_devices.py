"""Precision, layout, compilation and DDP change how fast a run is, not what it learns."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import distributed
from training_runs import make_data, make_run

from pipeline.base.errors import ConfigError
from pipeline.base.progress import Silent
from pipeline.models.checkpoint import LAST, load_checkpoint
from pipeline.training.fit import CURVES, fit

CPU, GPU = {"accelerator": "cpu"}, {"accelerator": "gpu"}
on_a_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    make_data(root)
    return root


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Return the objective and its terms after an epoch in float32 on the CPU."""
    return learned(data, tmp_path_factory.mktemp("plain"), {"parallel": CPU})


@pytest.fixture(autouse=True)
def one_process_again() -> Iterator[None]:
    """End the process group that a run leaves, and restore the environment's variables."""
    before = dict(os.environ)
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


def learned(data: Path, work: Path, options: dict[str, Any]) -> dict[str, float]:
    """Train for an epoch; return the last means of objective and terms."""
    fit(make_run(data, **{"epochs": 1, **options}), work=work, progress=Silent())
    with (work / CURVES).open(newline="") as file:
        (row,) = csv.DictReader(file)
    encoder = load_checkpoint(work / LAST).encoder
    assert all(value.device.type == "cpu" for value in encoder.values())
    assert encoder["backbone.conv1.weight"].dtype == torch.float32
    return {name: float(value) for name, value in row.items() if name.startswith("train/")}


# How far a mean over an epoch may be off: views are drawn on the CPU, so all see the same ones.
FLOAT32, HALF = 2e-3, 5e-2


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        pytest.param({"channels_last": True, "parallel": CPU}, FLOAT32, id="cpu, channels_last"),
        pytest.param({"parallel": {**CPU, "strategy": "ddp"}}, FLOAT32, id="cpu, DDP by gloo"),
        pytest.param({"precision": "bf16", "parallel": CPU}, HALF, id="cpu, bf16"),
        pytest.param(
            {"compile": True, "parallel": CPU}, FLOAT32, id="cpu, compile", marks=pytest.mark.slow
        ),
        pytest.param({"parallel": GPU}, FLOAT32, id="gpu", marks=on_a_gpu),
        pytest.param(
            {"channels_last": True, "parallel": GPU},
            FLOAT32,
            id="gpu, channels_last",
            marks=on_a_gpu,
        ),
        pytest.param({"precision": "bf16", "parallel": GPU}, HALF, id="gpu, bf16", marks=on_a_gpu),
        pytest.param({"precision": "16", "parallel": GPU}, HALF, id="gpu, 16", marks=on_a_gpu),
        pytest.param(
            {"compile": True, "parallel": GPU}, FLOAT32, id="gpu, compile", marks=on_a_gpu
        ),
        pytest.param(
            {"parallel": {**GPU, "strategy": "ddp", "sync_batch_norm": True}},
            FLOAT32,
            id="gpu, DDP by NCCL, norms in sync",
            marks=on_a_gpu,
        ),
    ],
)
def test_it_learns_the_same(
    data: Path,
    plain: dict[str, float],
    tmp_path: Path,
    options: dict[str, Any],
    tolerance: float,
) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = learned(data, tmp_path, options)
    assert found == pytest.approx(plain, rel=tolerance, abs=tolerance)
    # The requested options took effect.
    kernel = load_checkpoint(tmp_path / LAST).encoder["backbone.layer1.0.conv2.weight"]
    in_layout = kernel.is_contiguous(memory_format=torch.channels_last)
    assert in_layout == ("channels_last" in options)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert (graphs > 0) == ("compile" in options)
    assert (found != plain) or "precision" not in options


@no_gpu
@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"precision": "16"}, r"train\.precision 16"),
        ({"parallel": {"sync_batch_norm": True}}, r"train\.parallel\.sync_batch_norm"),
        ({"parallel": GPU}, r"train\.parallel\.accelerator gpu"),
    ],
)
def test_without_a_gpu_what_needs_one_is_named(
    data: Path, tmp_path: Path, options: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigError, match=f"{what} needs a GPU, and there is none"):
        fit(make_run(data, **options), work=tmp_path, progress=Silent())
