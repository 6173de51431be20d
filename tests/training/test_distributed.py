"""Two processes with half a batch each, against one process with all of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from pipeline.dependence.distance_correlation import distance_correlation
from pipeline.dependence.gathering import gather_rows
from pipeline.objective.objective import Moment, Objective, ObjectiveValue
from pipeline.objective.references import Reference
from pipeline.objective.shared_batch import Activations
from pipeline.objective.terms import ObjectiveOptions

RANKS, B, IN, H, Z = 2, 12, 6, 5, 4
WIDTHS = {"hog": 7, "clip": 3}
TERMS: dict[str, Any] = {
    "invariance": {},
    "variance": {"weight": 2},
    "covariance": {"weight": 0.5},
    "view_dependence": {"statistic": "dcor_squared_unbiased"},
    "hog": {"kind": "dependence", "on": "h", "view": "both"},
    "scaled": {"kind": "dependence", "representation": "hog", "standardise": True},
    "clip": {"kind": "regression", "loss": "cosine"},
    "halves": {
        "kind": "regression", "representation": "clip", "loss": "cosine_smooth_l1", "layers": 2,
        "whiten": 1, "relative": True, "drop": 1.0,
    },
    "matched": {"kind": "regression", "representation": "hog", "relative": True, "drop": 1.0},
    "near": {"kind": "affinity", "representation": "clip", "bank": 8},
    "white": {"kind": "dependence", "representation": "hog", "whiten": 0.5},
    "barlow": {"weight": {"from": 2, "to": 1}},
    "sigreg": {"directions": 11, "weight": 0.1},
}  # fmt: skip


class Model(nn.Module):
    """A tiny encoder with an objective, wired as in a training step."""

    def __init__(self, *, gather: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Linear(IN, H, dtype=torch.float64)
        self.projector = nn.Linear(H, Z, dtype=torch.float64)
        terms = TypeAdapter(ObjectiveOptions).validate_python(TERMS)
        self.objective = Objective(
            terms,
            h_width=H,
            z_width=Z,
            representation_widths=WIDTHS,
            references=references(),
            gather=gather,
        ).double()

    def forward(self, batch: dict[str, Tensor]) -> ObjectiveValue:
        """Return the objective of images (B, IN) of both views and their representations."""
        h = {view: self.backbone(batch[view]).tanh() for view in ("original", "augmented")}
        z = {view: self.projector(features) for view, features in h.items()}
        fixed = {name: batch[name] for name in WIDTHS}
        value: ObjectiveValue = self.objective(
            Activations(h, z),
            fixed,
            index=batch["index"],
            moment=Moment(progress=0.3, seed=4),
        )
        return value


def references() -> dict[str, Reference]:
    """Targets whose first rows are those of the batch: its images are in the bank."""
    batch, more = whole_batch(), torch.Generator().manual_seed(8)
    found = {}
    for name, width in WIDTHS.items():
        others = 2 * torch.randn(B, width, generator=more, dtype=torch.float64) + 1
        rows = torch.cat([batch[name], others])
        index = torch.cat([batch["index"], B + torch.arange(B)])
        found[name] = Reference(rows, index, rows.mean(0), rows.std(0))
    return found


def whole_batch() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(7)
    widths = {"original": IN, "augmented": IN, **WIDTHS}
    drawn = {
        name: torch.randn(B, width, generator=random, dtype=torch.float64)
        for name, width in widths.items()
    }
    return {**drawn, "index": torch.arange(B)}


def results(batch: dict[str, Tensor], *, gather: bool, world: int = 1) -> dict[str, Tensor]:
    """Values and gradients of one step; with several ranks, those that an optimiser would see."""
    model = Model(gather=gather)
    wrapped = DistributedDataParallel(model) if world > 1 else model
    value = wrapped(batch)
    torch.autograd.backward(value.total)
    x = batch["original"].clone().requires_grad_()
    y = batch["augmented"].clone().requires_grad_()
    dcor = distance_correlation(gather_rows(x), gather_rows(y))
    torch.autograd.backward(dcor / world)  # the loss is the mean over ranks
    assert x.grad is not None
    assert y.grad is not None
    gradients = {f"gradient of {n}": p.grad for n, p in model.named_parameters()}
    return {
        "total": value.total.detach(),
        **{name: term.detach() for name, term in value.terms.items()},
        **{name: gradient for name, gradient in gradients.items() if gradient is not None},
        "dcor": dcor.detach(),
        "dcor's gradient of x": x.grad,
        "dcor's gradient of y": y.grad,
    }


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS
    )
    half = slice(rank * B // RANKS, (rank + 1) * B // RANKS)
    batch = {name: x[half] for name, x in whole_batch().items()}
    torch.save(results(batch, gather=True, world=RANKS), Path(folder) / f"{rank}.pt")
    torch.save(results(batch, gather=False, world=RANKS), Path(folder) / f"{rank}_apart.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of both ranks, with and without gathering."""
    path = tmp_path_factory.mktemp("ranks")
    spawn(work, args=(str(path),), nprocs=RANKS)  # type: ignore[no-untyped-call]
    return path


def load(folder: Path, name: str) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = torch.load(folder / f"{name}.pt", weights_only=True)
    return loaded


def test_every_rank_has_the_values_and_gradients_of_one_process(folder: Path) -> None:
    expected = results(whole_batch(), gather=True)
    assert {"total", *TERMS} < expected.keys()
    for rank in range(RANKS):
        found = load(folder, str(rank))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            half = slice(rank * B // RANKS, (rank + 1) * B // RANKS)
            own = value[half] if name.startswith("dcor's") else value
            torch.testing.assert_close(found[name], own, rtol=1e-10, atol=1e-12, msg=name)


def test_without_gathering_a_statistic_is_that_of_the_ranks_own_rows(folder: Path) -> None:
    first, second = (load(folder, f"{rank}_apart") for rank in range(RANKS))
    half = {name: x[: B // RANKS] for name, x in whole_batch().items()}
    torch.testing.assert_close(first["hog"], results(half, gather=False)["hog"])
    assert not torch.equal(first["hog"], second["hog"])


def test_without_a_process_group_rows_are_returned_as_they_are() -> None:
    x = torch.randn(3, 2)
    assert gather_rows(x) is x
