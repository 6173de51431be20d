"""Training: it learns, it can be stopped and goes on, and probes do not touch the encoder."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from pipeline.checkpoints import BEST, LAST, Checkpoint, load_checkpoint, save_checkpoint
from pipeline.datasets.base import Split
from pipeline.datasets.digits import DigitsOptions
from pipeline.datasets.split import SplitOptions, cut
from pipeline.encoders import StudentOptions, build_encoder
from pipeline.errors import ConfigError, TrainingError, WeightsError
from pipeline.extraction.cluster import ClusterOptions
from pipeline.extraction.run import extract
from pipeline.images import ImageOptions
from pipeline.loading.batch import SplitData
from pipeline.objective import ObjectiveOptions
from pipeline.representations.hog import HogOptions
from pipeline.representations.pixels import PixelsOptions
from pipeline.runtime import Silent
from pipeline.shards import ShardOptions, read_manifests, write_split
from pipeline.store import FeatureStore
from pipeline.training.fit import CURVES, RESUME, Run, fit
from pipeline.training.options import TrainOptions
from pipeline.training.start import initial_encoder

IMAGE = ImageOptions(size=8, channels=1, mean=(0.3,), std=(0.4,))
STUDENT = StudentOptions(architecture="resnet8", projector=(16, 16))
SELF_SUPERVISED: dict[str, Any] = {
    "invariance": {},
    "variance": {},
    "view_dependence": {},
    "hog": {"kind": "dependence"},
    "pixels": {"kind": "dependence", "on": "h"},
}
TRAIN: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 50,
    "lr": 3e-3,
    "augmentation": {"flip_p": 0, "min_scale": 0.5},
    "schedule": {"warmup_epochs": 0.5},
}


def objective(terms: Mapping[str, Any]) -> Any:
    return TypeAdapter(ObjectiveOptions).validate_python(terms)


def make_data(root: Path) -> None:
    source = DigitsOptions().open()
    splits = cut(source, SplitOptions(validation=0.05))
    wanted: dict[Split, Any] = {
        "train": splits["train"][:250],
        "validation": splits["validation"],
    }
    for split, items in wanted.items():
        write_split(
            source,
            items,
            root / "shards" / split,
            dataset="digits",
            split=split,
            options=ShardOptions(samples=100),
            provenance={},
            progress=Silent(),
        )
    extract(
        {"hog": HogOptions(cell=4)},
        image=IMAGE,
        shards=root / "shards",
        store=FeatureStore(root / "features.zarr"),
        work=root / "work",
        options=ClusterOptions(workers=1),
        progress=Silent(),
    )


def make_run(root: Path, terms: Mapping[str, Any] = SELF_SUPERVISED, **train: Any) -> Run:
    manifests = read_manifests(root / "shards")
    features = {"hog": FeatureStore(root / "features.zarr")["hog"]} if "hog" in terms else {}

    def split(name: Split) -> SplitData:
        return SplitData(root / "shards" / name, manifests[name], features, IMAGE)

    return Run(
        train=split("train"),
        validation=split("validation"),
        student=STUDENT,
        objective=objective(terms),
        live={"pixels": PixelsOptions().build(IMAGE)} if "pixels" in terms else {},
        options=TrainOptions.model_validate({**TRAIN, **train}),
        seed=5,
        about={},
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    make_data(root)
    return root


def curves(path: Path) -> list[dict[str, str]]:
    """Rows of the curves without those columns that depend on the clock."""
    with (path / CURVES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {k: v for k, v in row.items() if k not in ("images_per_second", "wait_share")}
        for row in rows
    ]


def test_it_learns_and_leaves_what_it_promises(data: Path, tmp_path: Path) -> None:
    fit(make_run(data, epochs=6, probe={"lr": 0.02}), work=tmp_path, progress=Silent())
    rows = curves(tmp_path)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert float(rows[-1]["train/objective"]) < float(rows[0]["train/objective"])
    assert {f"train/term/{name}" for name in SELF_SUPERVISED} <= rows[0].keys()
    best = load_checkpoint(tmp_path / BEST, student=STUDENT)
    scores = [float(row["validation/probe_top1"]) for row in rows]
    assert best.about["selection"]["rule"] == "validation/probe_top1"
    assert best.about["selection"]["score"] == pytest.approx(max(scores), rel=1e-4)
    assert max(scores) > 30  # chance is 10
    assert load_checkpoint(tmp_path / LAST).about["selection"]["epoch"] == 6


def test_a_checkpoint_holds_the_student_alone(data: Path, tmp_path: Path) -> None:
    fit(make_run(data, epochs=1), work=tmp_path, progress=Silent())
    checkpoint = load_checkpoint(tmp_path / LAST)
    assert {name.split(".")[0] for name in checkpoint.encoder} == {"backbone", "projector"}
    assert checkpoint.probe is not None
    assert set(checkpoint.probe) == {"weight", "bias"}
    encoder = checkpoint.build()
    assert not encoder.training
    assert encoder.features(torch.zeros(2, 1, 8, 8)).shape == (2, encoder.h_width)


def test_two_runs_are_equal_and_another_seed_is_not(data: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        run = replace(make_run(data, epochs=1), seed=seed)
        fit(run, work=tmp_path / name, progress=Silent())
    assert curves(tmp_path / "a") == curves(tmp_path / "b") != curves(tmp_path / "c")


def test_a_killed_run_continues_on_the_same_trajectory(data: Path, tmp_path: Path) -> None:
    fit(make_run(data, epochs=4), work=tmp_path / "whole", progress=Silent())
    process = subprocess.Popen([sys.executable, __file__, str(data), str(tmp_path / "killed")])
    deadline = time.monotonic() + 90
    while not (tmp_path / "killed" / RESUME).exists() or len(curves(tmp_path / "killed")) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(curves(tmp_path / "killed")) < 4
    fit(make_run(data, epochs=4), work=tmp_path / "killed", progress=Silent())
    assert curves(tmp_path / "killed") == curves(tmp_path / "whole")
    whole, killed = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "killed"))
    for name, values in whole.encoder.items():
        assert torch.equal(values, killed.encoder[name]), name


def test_the_probe_does_not_touch_the_encoder(data: Path, tmp_path: Path) -> None:
    for name, rate in (("a", 1e-6), ("b", 0.1)):
        run = make_run(data, epochs=1, probe={"lr": rate})
        fit(run, work=tmp_path / name, progress=Silent())
    a, b = (load_checkpoint(tmp_path / name / LAST) for name in ("a", "b"))
    assert all(torch.equal(a.encoder[name], b.encoder[name]) for name in a.encoder)
    assert a.probe is not None
    assert b.probe is not None
    assert not torch.equal(a.probe["weight"], b.probe["weight"])


@pytest.mark.parametrize("view", ["augmented", "both"])
def test_distillation_by_regression(data: Path, tmp_path: Path, view: str) -> None:
    run = make_run(data, {"hog": {"kind": "regression", "view": view}}, epochs=4)
    fit(run, work=tmp_path, progress=Silent())
    rows = curves(tmp_path)
    assert float(rows[-1]["validation/objective"]) < float(rows[0]["validation/objective"])


def test_without_labels_the_objective_chooses(data: Path, tmp_path: Path) -> None:
    run = make_run(data)
    train, validation = (
        replace(split, manifest=replace(split.manifest, labelled=0, classes=None))
        for split in (run.train, run.validation)
    )
    run = replace(run, train=train, validation=validation)
    fit(run, work=tmp_path, progress=Silent())
    best = load_checkpoint(tmp_path / BEST)
    lowest = min(float(row["validation/objective"]) for row in curves(tmp_path))
    assert best.probe is None
    assert best.about["selection"]["rule"] == "validation/objective"
    assert best.about["selection"]["score"] == pytest.approx(lowest, rel=1e-4)
    asked = TrainOptions.model_validate({**TRAIN, "select": "probe"})
    with pytest.raises(ConfigError, match="no labels"):
        fit(replace(run, options=asked), work=tmp_path / "asked", progress=Silent())


def test_an_objective_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path) -> None:
    run = make_run(data, {"hog": {"kind": "regression", "loss": "squared"}}, lr=1e30)
    with pytest.raises(TrainingError, match=r"not finite at step \d+.*in hog"):
        fit(run, work=tmp_path, progress=Silent())


def test_bf16_and_accumulation_and_clipping_run(data: Path, tmp_path: Path) -> None:
    run = make_run(data, epochs=2, precision="bf16", accumulate=2, clip_norm=1.0)
    fit(run, work=tmp_path, progress=Silent())
    rows = curves(tmp_path)
    assert int(rows[-1]["step"]) == 2 * 3  # five batches an epoch make three optimiser steps
    assert float(rows[-1]["train/objective"]) < float(rows[0]["train/objective"])


def test_starting_weights_are_loaded(data: Path, tmp_path: Path) -> None:
    encoder = build_encoder(STUDENT, channels=1, size=8, seed=99)
    path = tmp_path / "start.pt"
    save_checkpoint(path, Checkpoint(STUDENT, IMAGE, encoder.state_dict(), None, {}))
    run = replace(make_run(data, epochs=1, lr=1e-12), weights=path)
    fit(run, work=tmp_path / "run", progress=Silent())
    trained = load_checkpoint(tmp_path / "run" / LAST).encoder
    for name, value in encoder.named_parameters():
        assert torch.allclose(trained[name], value, atol=1e-6), name


def test_starting_weights_with_another_projector_keep_the_backbone(tmp_path: Path) -> None:
    encoder = build_encoder(STUDENT, channels=1, size=8, seed=99)
    path = tmp_path / "start.pt"
    save_checkpoint(path, Checkpoint(STUDENT, IMAGE, encoder.state_dict(), None, {}))
    other = STUDENT.model_copy(update={"projector": (24, 8)})
    fresh = build_encoder(other, channels=1, size=8, seed=5)
    started = initial_encoder(other, IMAGE, path, seed=5, progress=Silent())
    expected = {**fresh.state_dict(), **encoder.backbone.state_dict(prefix="backbone.")}
    for name, value in started.state_dict().items():
        assert torch.equal(value, expected[name]), name
    wide = StudentOptions(architecture="resnet8x2")
    with pytest.raises(WeightsError, match="do not fit"):
        initial_encoder(wide, IMAGE, path, seed=5, progress=Silent())


def test_a_checkpoint_of_another_student_names_the_difference(tmp_path: Path) -> None:
    encoder = build_encoder(STUDENT, channels=1, size=8, seed=0)
    path = tmp_path / "x.pt"
    save_checkpoint(path, Checkpoint(STUDENT, IMAGE, encoder.state_dict(), None, {}))
    with pytest.raises(WeightsError, match="architecture is resnet8 in the file"):
        load_checkpoint(path, student=StudentOptions(architecture="resnet14"))
    with pytest.raises(WeightsError, match=r"dataset\.image.*mean is \[0.3\] in the file"):
        load_checkpoint(path, image=IMAGE.model_copy(update={"mean": (0.9,)}))


@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "foreign"])
def test_a_bad_checkpoint_is_one_sentence(tmp_path: Path, damage: str) -> None:
    encoder = build_encoder(STUDENT, channels=1, size=8, seed=0)
    path = tmp_path / "x.pt"
    save_checkpoint(path, Checkpoint(STUDENT, IMAGE, encoder.state_dict(), None, {}))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "missing":
        path.unlink()
    else:
        torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="mvmr train"):
        load_checkpoint(path)


if __name__ == "__main__":  # a run to be killed
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    fit(make_run(Path(sys.argv[1]), epochs=4), work=Path(sys.argv[2]), progress=Silent())
