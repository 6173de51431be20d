"""Each term over several processes (gloo) against one process with the joined batch."""

from pathlib import Path

import pytest
import torch
from every_term import every_term, objective_of, value_of
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from pipeline.dependence import distance_correlation as dependence
from pipeline.dependence.distances import own_distances, pairwise_distances
from pipeline.dependence.gathering import gather_rows

B = 12
WIDTHS = {"h": 5, "z": 4, "r": 7}


def rows() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {name: torch.randn(B, width, generator=random) for name, width in WIDTHS.items()}


def part(rank: int, world: int) -> slice:
    return slice(rank * B // world, (rank + 1) * B // world)


def learned(name: str, own: dict[str, Tensor], world: int) -> dict[str, Tensor]:
    """Return a term and its gradients, as an optimiser would see them after averaging."""
    torch.manual_seed(1)
    objective = objective_of(name, own, gather=world > 1)
    h, z = (own[layer].clone().requires_grad_() for layer in ("h", "z"))
    value = value_of(objective, {**own, "h": h, "z": z})
    torch.autograd.backward(value.total / world)  # the loss is the mean over processes
    found = {"value": value.total.detach()}
    for place, x in {"h": h, "z": z}.items():
        if x.grad is not None:
            found[f"rows {place}"] = x.grad
    for place, parameter in objective.named_parameters():
        if parameter.grad is not None:
            if world > 1:
                distributed.all_reduce(parameter.grad)
            found[place] = parameter.grad
    return found


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous{world}", rank=rank, world_size=world
    )
    own = {name: x[part(rank, world)] for name, x in rows().items()}
    found = {name: learned(name, own, world) for name in every_term()}
    # In 16 bits: values are the same, and gradients are rounded when they are summed.
    narrow = own["z"].bfloat16().requires_grad_()
    gathered = gather_rows(narrow)
    gathered.float().sin().sum().div(world).backward()  # type: ignore[no-untyped-call]
    assert narrow.grad is not None
    found["bfloat16"] = {"value": gathered.detach().float(), "rows z": narrow.grad.float()}
    widest = [0]
    measured = getattr(dependence, "own_distances")  # noqa: B009

    def noted(x: Tensor, chosen: slice) -> Tensor:
        block: Tensor = measured(x, chosen)
        widest[0] = max(widest[0], len(block))
        return block

    setattr(dependence, "own_distances", noted)  # noqa: B010
    learned("view_dependence", own, world)
    found["block"] = {"rows": torch.tensor(widest[0])}
    torch.save(found, Path(folder) / f"{rank} of {world}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module", params=[1, 2, pytest.param(3, marks=pytest.mark.slow)])
def several(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, dict[str, Tensor]]]:
    """Return what each of 1, 2 or 3 processes has found."""
    folder, world = tmp_path_factory.mktemp("ranks"), request.param
    spawn(work, args=(world, str(folder)), nprocs=world)  # type: ignore[no-untyped-call]
    return [
        torch.load(folder / f"{rank} of {world}.pt", weights_only=True) for rank in range(world)
    ]


@pytest.mark.parametrize("name", every_term())
def test_a_term_and_its_gradients_are_those_of_the_joined_batch(
    several: list[dict[str, dict[str, Tensor]]], name: str
) -> None:
    world, expected = len(several), learned(name, rows(), 1)
    for rank, results in enumerate(several):
        assert results[name].keys() == expected.keys()
        for place, value in expected.items():
            own = value[part(rank, world)] if place.startswith("rows") else value
            torch.testing.assert_close(results[name][place], own, rtol=1e-5, atol=1e-5)


def test_rows_gathered_in_16_bits_are_exact_and_their_gradients_rounded(
    several: list[dict[str, dict[str, Tensor]]],
) -> None:
    whole = rows()["z"].bfloat16().requires_grad_()
    whole.float().sin().sum().backward()  # type: ignore[no-untyped-call]
    assert whole.grad is not None
    for rank, results in enumerate(several):
        found = results["bfloat16"]
        assert torch.equal(found["value"], whole.detach().float())
        expected = whole.grad.float()[part(rank, len(several))]
        torch.testing.assert_close(found["rows z"], expected, rtol=2**-7, atol=2**-8)


def test_each_process_computes_only_the_distances_of_its_own_rows(
    several: list[dict[str, dict[str, Tensor]]],
) -> None:
    expected = 0 if len(several) == 1 else B // len(several)  # alone, it computes all at once
    assert {int(results["block"]["rows"]) for results in several} == {expected}


@pytest.mark.parametrize("own", [slice(0, 4), slice(4, 8), slice(0, 12)])
def test_own_distances_are_rows_of_all_distances(own: slice) -> None:
    x = rows()["h"].double()
    x[5] = x[1]  # two equal rows
    x.requires_grad_()
    weights = torch.randn(own.stop - own.start, B, dtype=torch.float64)
    found, expected = own_distances(x, own), pairwise_distances(x)[own]
    torch.testing.assert_close(found, expected)
    (mine,) = torch.autograd.grad((found * weights).sum(), x)
    (theirs,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.testing.assert_close(mine, theirs)


def test_a_shared_sample_goes_with_shared_samples_only() -> None:
    shared, own = dependence.Sample(rows()["h"], shared=True), dependence.Sample(rows()["h"])
    assert not shared.shared  # there is only this process
    shared.shared = True
    with pytest.raises(ValueError, match="shared by all processes, or neither"):
        dependence.distance_correlation(shared, own)
