"""Two processes (gloo) train like one with the joined batch, and count nothing twice."""

import csv
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from training_runs import IMAGE, make_data, make_run

from pipeline.base.errors import ConfigError
from pipeline.base.processes import is_first_process
from pipeline.base.progress import Silent
from pipeline.images.original_view import normalise
from pipeline.loading.batch import Batch
from pipeline.loading.evaluation_loader import EvaluationLoader
from pipeline.loading.resident import DecodedSplit
from pipeline.models.checkpoint import BEST, LAST, load_checkpoint
from pipeline.models.encoder import Encoder
from pipeline.objective.objective import Objective
from pipeline.objective.terms import ObjectiveOptions
from pipeline.training.fit import CURVES, fit
from pipeline.training.module import StudentModule
from pipeline.training.train_options import TrainOptions
from pipeline.training.trainer import build_trainer, plain_lightning

B, STEPS = 12, 3
TERMS: dict[str, Any] = {
    "invariance": {},
    "variance": {"margin": 3},
    "covariance": {},
    "view_dependence": {"statistic": "dcor_squared_unbiased"},
    "hog": {"kind": "dependence", "on": "h", "view": "both"},
    "regressed": {"kind": "regression", "representation": "hog"},
}
# These views are not random: the whole image, unflipped, with its own colours.
OPTIONS: dict[str, Any] = {
    "epochs": 1,
    "batch_size": B,
    "lr": 0.1,
    "optimizer": {"name": "sgd", "momentum": 0},
    "schedule": {"kind": "constant"},
    "augmentation": {"policy": "custom", "min_scale": 1, "flip_p": 0, "jitter": 0},
}


class Joined:
    """Batches of noise; each process takes its part of every batch."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.part = slice(rank * B // world_size, (rank + 1) * B // world_size)

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Any:
        random = torch.Generator().manual_seed(3)
        for _ in range(STEPS):
            batch = Batch(
                images=torch.randint(0, 256, (B, 1, 8, 8), generator=random, dtype=torch.uint8),
                views=[],
                labels=torch.zeros(B, dtype=torch.int64),
                index=torch.arange(B),
                targets={"hog": torch.randn(B, 7, generator=random)},
            )
            yield {
                name: {n: v[self.part] for n, v in value.items()}
                if isinstance(value, dict)
                else value[self.part]  # type: ignore[index]
                for name, value in batch.items()
            }


def trained(world_size: int, work: Path) -> dict[str, Tensor]:
    """Weights after some steps of plain gradient descent: their changes are the gradients."""
    parallel = {"accelerator": "cpu", "devices": world_size}
    options = TrainOptions.model_validate({**OPTIONS, "parallel": parallel})
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(216, 5))
    encoder = Encoder(backbone, nn.Linear(5, 4), 5, 4)
    objective = Objective(
        TypeAdapter(ObjectiveOptions).validate_python(TERMS),
        h_width=5,
        z_width=4,
        representation_widths={"hog": 7},
        gather=world_size > 1,
    )
    module = StudentModule(
        encoder, objective, live={}, image=IMAGE, options=options, steps_per_epoch=STEPS, seed=0
    )
    with plain_lightning():
        trainer = build_trainer(options, work)
        batches = Joined(trainer.global_rank, world_size)
        trainer.fit(module, batches, batches)
    return {name: value.detach() for name, value in module.state_dict().items()}


def in_two_processes(what: str, data: Path, work: Path) -> None:
    """Run this file as a program, which Lightning starts a second time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, what, str(data), str(work)],
        env={**os.environ, "MASTER_PORT": port},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


def test_another_number_of_processes_than_asked_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = TrainOptions.model_validate({**OPTIONS, "parallel": {"accelerator": "cpu"}})
    with pytest.raises(ConfigError, match=r"2 processes were started, .* asks for 1"):
        build_trainer(options, tmp_path)


def test_weights_after_steps_are_those_of_the_joined_batch(tmp_path: Path) -> None:
    in_two_processes("steps", tmp_path, tmp_path)
    expected = trained(1, tmp_path)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5 * OPTIONS["lr"])


@pytest.mark.slow  # two processes load all libraries
def test_a_run_in_two_processes_counts_every_validation_image_once(tmp_path: Path) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    make_data(data)
    in_two_processes("run", data, work)
    with (work / CURVES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [int(row["step"]) for row in rows] == [5, 10, 15]
    best, last = (load_checkpoint(work / name) for name in (BEST, LAST))
    highest = max(float(row["validation/probe_top1"]) for row in rows)
    assert best.about["selection"]["score"] == pytest.approx(highest, abs=1e-3)
    # One process scores, on all images, the weights that both processes ended with.
    seen = torch.load(work / "0.pt", weights_only=True)
    other = torch.load(work / "1.pt", weights_only=True)
    assert not set(seen["validation"]) & set(other["validation"])
    count = make_run(data).validation.valid_samples
    assert sorted([*seen["validation"], *other["validation"]]) == list(range(count))
    encoder = last.build()
    (batch,) = EvaluationLoader(make_run(data).validation, 1000)
    images, labels = normalise(batch["images"], IMAGE), batch["labels"]
    assert last.probe is not None
    with torch.no_grad():
        h = encoder.features(images)
        logits = h @ last.probe["weight"].T + last.probe["bias"]
    score = 100 * (logits.argmax(1) == labels).float().mean()
    assert float(rows[-1]["validation/probe_top1"]) == pytest.approx(float(score), abs=1e-3)
    cosines = nn.functional.normalize(h) @ nn.functional.normalize(h).T
    weights, places = cosines.fill_diagonal_(-1).topk(20)
    votes = torch.zeros(count, 10).scatter_add_(1, labels[places], (weights / 0.07).exp())
    score = 100 * (votes.argmax(1) == labels).float().mean()
    assert float(rows[-1]["validation/knn_top1"]) == pytest.approx(float(score), abs=1e-3)


def run_in_this_process(data: Path, work: Path) -> None:
    """Train, and note which images this process has seen."""
    seen: dict[int, set[int]] = {}
    batches = DecodedSplit.batches

    def noted(self: DecodedSplit, *arguments: Any, **named: Any) -> Iterator[Batch]:
        for batch in batches(self, *arguments, **named):
            seen.setdefault(len(self), set()).update(batch["index"].tolist())
            yield batch

    DecodedSplit.batches = noted  # type: ignore[method-assign]
    parallel = {"accelerator": "cpu", "devices": 2}
    run = make_run(data, epochs=3, batch_size=25, parallel=parallel, saving={"steps": 2})
    fit(run, work=work, progress=Silent())
    del seen[run.train.valid_samples]
    (validation,) = seen.values()  # what this process has decoded is its share alone
    content = {"validation": sorted(validation)}
    torch.save(content, work / f"{0 if is_first_process() else 1}.pt")


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    what, data, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if what == "steps":
        weights = trained(2, work)
        torch.save(weights, work / f"{0 if is_first_process() else 1}.pt")
    else:
        run_in_this_process(data, work)
