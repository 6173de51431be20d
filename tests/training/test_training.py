"""Training: it learns, it can be stopped and resumed, and probes do not affect the encoder."""

import csv
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from sklearn.neighbors import KNeighborsClassifier
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from training_runs import IMAGE, RESUMED, SELF_SUPERVISED, STUDENT, TRAIN, make_data, make_run
from watched import Watched

from pipeline.base.errors import ConfigError, DataError, TrainingError, WeightsError
from pipeline.base.progress import Silent
from pipeline.images.original_view import ImageOptions, normalise
from pipeline.loading.evaluation_loader import EvaluationLoader
from pipeline.models.checkpoint import BEST, LAST, Checkpoint, load_checkpoint, save_checkpoint
from pipeline.models.encoder import build_encoder
from pipeline.models.student import StudentOptions
from pipeline.objective.objective import Objective
from pipeline.representations.hog import HogOptions
from pipeline.training.averaging import Averaging
from pipeline.training.determinants import RECORD
from pipeline.training.fit import CURVES, fit, tune
from pipeline.training.module import StudentModule
from pipeline.training.probe import OnlineNeighbours
from pipeline.training.run import Run
from pipeline.training.run_loggers import TENSORBOARD
from pipeline.training.saving import PREVIOUS, RESUME
from pipeline.training.start import given_checkpoint, initial_encoder
from pipeline.training.train_options import TrainOptions
from pipeline.training.trial import Wanted


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    make_data(root)
    return root


def curves(path: Path) -> list[dict[str, str]]:
    """Rows of the curves, without the columns that depend on the clock."""
    with (path / CURVES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {k: v for k, v in row.items() if k not in ("images_per_second", "wait_share")}
        for row in rows
    ]


def test_it_learns_and_leaves_what_it_promises(data: Path, tmp_path: Path) -> None:
    screen = Watched()
    fit(make_run(data, epochs=6, probe={"lr": 0.02}), work=tmp_path, progress=screen)
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
    (training,) = [phase for phase in screen.phases if phase.what == "train"]
    shown = next(status for status in training.statuses if status)
    for part in ("objective", *SELF_SUPERVISED, "rate", "images/s", "waiting"):
        assert part in shown
    assert training.total == training.done == 6 * 5  # which the time left is computed from
    written = EventAccumulator(str(tmp_path / TENSORBOARD)).Reload()
    for tag in ("train/objective", "validation/probe_top1", "validation/knn_top1"):
        scalars = [event.value for event in written.Scalars(tag)]
        assert scalars == pytest.approx([float(row[tag]) for row in rows], rel=1e-4)
    assert {"batch/objective", "batch/learning_rate"} <= set(written.Tags()["scalars"])


def test_a_checkpoint_holds_the_student_alone(data: Path, tmp_path: Path) -> None:
    run = make_run(data, epochs=1)
    teacher = run.live["pixels"]  # stands for a network that runs in every step
    teacher.register_parameter("teacher", nn.Parameter(torch.zeros(100_000)))
    fit(run, work=tmp_path, progress=Silent())
    resumable = torch.load(tmp_path / RESUME, weights_only=True)
    assert not [name for name in resumable["state_dict"] if "teacher" in name]
    for file in (BEST, LAST):
        assert (tmp_path / file).stat().st_size < 1_000_000
        assert b"teacher" not in (tmp_path / file).read_bytes()
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


def test_a_directory_keeps_its_run(data: Path, tmp_path: Path) -> None:
    run = make_run(data, epochs=1)
    fit(run, work=tmp_path, progress=Silent())
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert fit(run, work=tmp_path, progress=Silent()) == []  # the same one is not repeated
    others = {
        "seed is now 6, was 5": replace(run, seed=6),
        r"train\.lr is now 0\.002, was 0\.003": make_run(data, epochs=1, lr=2e-3),
        r"train\.epochs is now 2, was 1": make_run(data, epochs=2),
        r"objective\.pixels is now None": make_run(data, {"invariance": {}}, epochs=1),
        r"student\.projector is now \[16, 8\]": replace(
            run, student=STUDENT.model_copy(update={"projector": (16, 8)})
        ),
        r"shards\.train is now": replace(run, train=run.train.subset(run.train.indices()[:100])),
        "live": replace(run, live={"pixels": HogOptions().build(IMAGE)}),
    }
    for difference, other in others.items():
        with pytest.raises(TrainingError, match=rf"holds another run: .*{difference}"):
            fit(other, work=tmp_path, progress=Silent())
    assert files == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}


def test_an_interrupted_run_continues_with_its_own_options_alone(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(Pulled):
        fit(make_run(data, **RESUMED), work=tmp_path, progress=PullThePlug(7))
    with pytest.raises(TrainingError, match=r"train\.ema is now 0\.8, was 0\.9"):
        fit(make_run(data, **{**RESUMED, "ema": 0.8}), work=tmp_path, progress=Silent())
    (tmp_path / RECORD).unlink()  # as a version without records left it
    screen = Watched()
    fit(make_run(data, **RESUMED), work=tmp_path, progress=screen)
    assert any("does not say what was begun" in note for note in screen.notes)
    with pytest.raises(TrainingError, match="another run"):
        fit(make_run(data), work=tmp_path, progress=Silent())
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(TrainingError, match="cannot be read"):
        fit(make_run(data, **RESUMED), work=tmp_path, progress=Silent())


def test_training_leaves_the_callers_generators_as_they_were(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = (torch.get_rng_state(), random.getstate(), repr(np.random.get_state()))  # noqa: NPY002
    run = make_run(data, epochs=1, augmentation={"policy": "custom"})
    fit(run, work=tmp_path, progress=Silent())
    tune(run, Wanted(lr=True), progress=Silent())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.initial_seed() == 3
    assert random.getstate() == before[1]
    assert repr(np.random.get_state()) == before[2]  # noqa: NPY002


def test_training_and_validation_images_belong_together(data: Path) -> None:
    run = make_run(data)
    others = [
        replace(run.validation, image=IMAGE.model_copy(update={"mean": (0.5,)})),
        replace(run.validation, manifest=replace(run.validation.manifest, classes=("a", "b"))),
    ]
    for validation in others:
        with pytest.raises(DataError, match="need the same"):
            replace(run, validation=validation)


class Pulled(BaseException):
    """Raised when the plug is pulled."""


class PullThePlug(Silent):
    """Ends the process's training after a number of steps, without any chance to save."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def advance(self, count: int, status: str = "") -> None:
        """Count steps down."""
        self.steps -= 1
        if self.steps == 0:
            raise Pulled


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an uninterrupted run of four epochs of five steps, with averaged weights."""
    work = tmp_path_factory.mktemp("whole")
    fit(make_run(data, **RESUMED), work=work, progress=Silent())
    return work


def assert_same_run(found: Path, expected: Path) -> None:
    assert curves(found) == curves(expected)
    for name in (BEST, LAST):
        ours, theirs = (load_checkpoint(path / name) for path in (found, expected))
        for weights, others in ((ours.encoder, theirs.encoder), (ours.probe, theirs.probe)):
            assert weights is not None
            assert others is not None
            assert all(torch.equal(values, others[key]) for key, values in weights.items())


@pytest.mark.parametrize("train", [{}, {"accumulate": 2, "schedule": {"kind": "cosine"}}])
def test_a_run_broken_off_anywhere_ends_as_if_it_had_not_been(
    data: Path, tmp_path: Path, train: dict[str, Any]
) -> None:
    options = {**RESUMED, "epochs": 2, **train}
    fit(make_run(data, **options), work=tmp_path / "whole", progress=Silent())
    for steps in (2, 4, 3):  # one interruption after another
        with pytest.raises(Pulled):
            fit(make_run(data, **options), work=tmp_path / "broken", progress=PullThePlug(steps))
    fit(make_run(data, **options), work=tmp_path / "broken", progress=Silent())
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


def test_a_killed_run_continues_on_the_same_trajectory(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen([sys.executable, __file__, str(data), str(tmp_path)])
    wait_for(lambda: (tmp_path / PREVIOUS).exists(), process)
    time.sleep(random.SystemRandom().uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    fit(make_run(data, **RESUMED), work=tmp_path, progress=Silent())
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_run_after_saving_it(
    data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, __file__, str(data), str(tmp_path), "forever"], stderr=subprocess.PIPE
    )
    wait_for(lambda: (tmp_path / RESUME).exists(), process)
    before = (tmp_path / RESUME).stat().st_mtime_ns
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1].decode()
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0
    assert (tmp_path / RESUME).stat().st_mtime_ns > before
    saved = torch.load(tmp_path / RESUME, weights_only=True)
    assert saved["global_step"] > 0


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    class Notes(PullThePlug):
        notes: ClassVar[list[str]] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    with pytest.raises(Pulled):
        fit(make_run(data, **RESUMED), work=tmp_path, progress=PullThePlug(8))
    content = (tmp_path / RESUME).read_bytes()
    (tmp_path / RESUME).write_bytes(content[: len(content) // 2])
    fit(make_run(data, **RESUMED), work=tmp_path, progress=Notes(0))
    assert [note for note in Notes.notes if f"{RESUME} is damaged" in note]
    assert_same_run(tmp_path, whole)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)


def test_the_average_follows_the_weights(data: Path) -> None:
    layer, decay = nn.Linear(2, 2), 0.75
    averaging = Averaging(layer, decay)
    module: Any = StandIn()
    start = layer.weight.detach().clone()
    averaging.on_train_start(module.trainer, module)
    steps = [torch.full((2, 2), float(i)) for i in range(1, 4)]
    for number, weight in enumerate(steps, 1):
        layer.weight.data.copy_(weight)
        module.trainer.global_step = number
        for _ in range(2):  # two micro-batches a step
            averaging.on_train_batch_end(module.trainer, module, None, None, 0)
    shares = [decay**3, *((1 - decay) * decay ** (3 - n) for n in (1, 2, 3))]
    expected = sum(s * w for s, w in zip(shares, [start, *steps], strict=True))
    torch.testing.assert_close(averaging.weights()["weight"], expected)
    averaging.on_validation_start(module.trainer, module)
    torch.testing.assert_close(layer.weight.data, expected)
    averaging.on_validation_end(module.trainer, module)
    torch.testing.assert_close(layer.weight.data, steps[-1])


def test_the_average_is_what_is_kept(data: Path, tmp_path: Path) -> None:
    weights = {}
    for name, ema in (("plain", None), ("still", 1 - 1e-9)):
        run = make_run(data, epochs=1, ema=ema)
        fit(run, work=tmp_path / name, progress=Silent())
        weights[name] = load_checkpoint(tmp_path / name / LAST).encoder
    untrained = build_encoder(STUDENT, channels=1, size=8, seed=5)
    for name, value in untrained.named_parameters():
        torch.testing.assert_close(weights["still"][name], value.detach())
    assert not torch.equal(
        weights["plain"]["backbone.conv1.weight"], weights["still"]["backbone.conv1.weight"]
    )


def test_neighbours_vote_as_scikit_learn_counts_them() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    features = rng.normal(size=(60, 5)) + 2 * np.eye(3, 5)[labels]
    probe = OnlineNeighbours(7, 3)
    module: Any = StandIn()
    probe.on_validation_epoch_start(module.trainer, module)
    for rows in (slice(0, 25), slice(25, 60)):
        outputs = {"h": torch.tensor(features[rows]), "labels": torch.tensor(labels[rows])}
        probe.on_validation_batch_end(module.trainer, module, outputs, None, 0)
    probe.on_validation_epoch_end(module.trainer, module)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    right = 0
    for i in range(60):
        others = np.delete(np.arange(60), i)

        def weight(distances: Any) -> Any:  # squared chords to cosines
            return np.exp((1 - distances**2 / 2) / 0.07)

        model = KNeighborsClassifier(7, weights=weight, algorithm="brute")
        right += model.fit(unit[others], labels[others]).predict(unit[[i]])[0] == labels[i]
    assert module.logged["validation/knn_top1"] == pytest.approx(100 * right / 60)


class StandIn:
    """Stands in for a module and its trainer outside a run; keeps what is logged."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.logged: dict[str, float] = {}
        self.trainer: Any = SimpleNamespace(world_size=1, global_step=0)

    def log(self, name: str, value: Any, **_: Any) -> None:
        """Keep a value."""
        self.logged[name] = float(value)


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


def make_module(run: Run) -> StudentModule:
    encoder = build_encoder(STUDENT, channels=1, size=8, seed=0)
    objective = Objective(
        run.objective,
        h_width=encoder.h_width,
        z_width=encoder.z_width,
        representation_widths={"pixels": 64},
    )
    return StudentModule(
        encoder,
        objective,
        live=run.live,
        image=IMAGE,
        options=run.options,
        steps_per_epoch=1,
        seed=0,
    )


@pytest.mark.parametrize("both", [False, True])
def test_augment_both_draws_two_views_and_leaves_targets_and_probes_the_image(
    data: Path, monkeypatch: pytest.MonkeyPatch, both: bool
) -> None:
    terms = {"invariance": {}, "pixels": {"kind": "dependence", "on": "h"}}
    run = make_run(data, terms, augment_both=both)
    batch = next(iter(EvaluationLoader(run.validation, 50)))
    image = normalise(batch["images"], IMAGE)
    module = make_module(run).eval()
    views: list[torch.Tensor] = []
    targets: list[torch.Tensor] = []
    module.encoder.backbone.register_forward_pre_hook(lambda _, given: views.append(given[0]))
    module.objective.register_forward_pre_hook(lambda _, given: targets.append(given[1]["pixels"]))
    module.loss(batch)
    assert [torch.equal(view, image) for view in views] == [not both, False]
    assert not torch.equal(*views)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)  # there is no trainer
    probed = module.validation_step(batch, 0)["h"]
    torch.testing.assert_close(probed, module.encoder.features(image))
    for target in targets:
        torch.testing.assert_close(target, image.flatten(1))


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
    with pytest.raises(ConfigError, match="one label each"):
        fit(replace(run, options=asked), work=tmp_path / "asked", progress=Silent())


def test_an_objective_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path) -> None:
    run = make_run(data, {"hog": {"kind": "regression", "loss": "squared"}}, lr=1e30)
    with pytest.raises(TrainingError, match=r"not finite at step \d+.*in hog.*Nothing had been"):
        fit(run, work=tmp_path, progress=Silent())


def test_the_last_checkpoint_is_named_where_the_objective_is_not_finite(
    data: Path, tmp_path: Path
) -> None:
    terms = {"hog": {"kind": "regression", "loss": "squared"}}
    run = make_run(data, terms, lr=1e30, saving={"steps": 1}, schedule={"kind": "constant"})
    with pytest.raises(TrainingError, match=rf"at step 2 .*{RESUME}, of step 1"):
        fit(run, work=tmp_path, progress=Silent())


def test_an_uneven_rest_of_validation_images_does_not_end_a_run(data: Path, tmp_path: Path) -> None:
    terms = {"hog": {"kind": "dependence", "statistic": "dcor_squared_unbiased"}}
    run = make_run(data, terms, epochs=1, batch_size=4)
    assert run.validation.valid_samples % 4
    fit(run, work=tmp_path, progress=Silent())
    assert math.isfinite(float(curves(tmp_path)[-1]["validation/objective"]))


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


@pytest.mark.parametrize("kind", ["pt", "safetensors", "wrapped"])
def test_a_librarys_weights_are_loaded_without_their_classifier(tmp_path: Path, kind: str) -> None:
    library = torchvision.models.resnet18(num_classes=7)
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pt")
    if kind == "safetensors":
        safetensors.torch.save_file(library.state_dict(), path)
    else:
        state = library.state_dict()
        torch.save({"state_dict": state, "epoch": 3} if kind == "wrapped" else state, path)
    student = StudentOptions(architecture="resnet18", projector=(16,))
    image = ImageOptions(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    started = initial_encoder(student, image, path, seed=5, progress=Silent())
    library.fc = torch.nn.Identity()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = library.eval()(images)
        assert torch.equal(started.eval().features(images), expected)
    given = given_checkpoint(student, image, path, progress=Silent())
    assert torch.equal(given.encoder["backbone.conv1.weight"], library.conv1.weight)
    other = StudentOptions(architecture="resnet34")
    with pytest.raises(WeightsError, match="do not fit"):
        initial_encoder(other, image, path, seed=5, progress=Silent())


def test_a_backbone_may_learn_more_slowly(data: Path, tmp_path: Path) -> None:
    fresh = build_encoder(STUDENT, channels=1, size=8, seed=5)
    moved = {}
    for share in (1.0, 1e-6):
        run = make_run(data, epochs=1, backbone_lr=share)
        fit(run, work=tmp_path / str(share), progress=Silent())
        trained = load_checkpoint(tmp_path / str(share) / LAST).encoder
        changes = {n: (trained[n] - p).abs().max().item() for n, p in fresh.named_parameters()}
        moved[share] = [
            max(v for n, v in changes.items() if n.startswith(part))
            for part in ("backbone.", "projector.")
        ]
    assert moved[1.0][0] > 1e-3
    assert moved[1e-6][0] < 1e-5
    assert moved[1e-6][1] > 1e-3


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
    if damage != "foreign":
        with pytest.raises(WeightsError, match=r"Set student\.weights to a checkpoint's file or"):
            initial_encoder(STUDENT, IMAGE, path, seed=5, progress=Silent())


if __name__ == "__main__":  # a run to be killed
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    endless: dict[str, Any] = {**RESUMED, "epochs": 10_000, "saving": {"minutes": 1000}}
    wanted = endless if sys.argv[3:] else RESUMED
    fit(make_run(Path(sys.argv[1]), **wanted), work=Path(sys.argv[2]), progress=Silent())
