"""A stranger's own student, teacher, representation, loss and score, from a folder to a report."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from stranger import SIDE, Network, brightness, frozen, nearest_mean, photos, prepare, shrink
from torch import nn

import mvmr
from pipeline.base.errors import ArgumentError, ConfigError, DataError, StoreError, WeightsError
from pipeline.base.yaml_file import read_yaml
from pipeline.models.checkpoint import load_checkpoint

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 32, "parallel": {"accelerator": "cpu"}}
KNN = {"knn": {"ks": [5]}}
TRAIN: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 16,
    "ema": 0.9,
    "parallel": {"accelerator": "cpu"},
}
IMAGE = mvmr.Image(SIDE)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def teach() -> Any:
    return mvmr.teacher(frozen(), prepare, name="random convolutions")


def student() -> Network:
    torch.manual_seed(5)
    return Network()


def arguments(folder: Path) -> dict[str, Any]:
    """Return what the run is made with; all that is registered is registered again."""
    mvmr.register_representation("brightness", brightness)
    mvmr.register_term("shrink", shrink)
    mvmr.register_protocol("nearest_mean", nearest_mean)
    return {
        "images": folder / "photos",
        "teacher": teach(),
        "student": student(),
        "image": IMAGE,
        "out": folder / "runs/mine",
        "features": {"brightness": {"dtype": "float32"}},
        "objective": {
            "teacher": {"kind": "regression", "loss": "cosine"},
            "brightness": {"kind": "dependence", "weight": 0.1, "on": "h"},
            "shrink": {"weight": 0.1},
        },
        "train": TRAIN,
        "evaluate": {"knn": {"ks": [5]}, "nearest_mean": {}},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("front")
    photos(root / "photos")
    return root


@pytest.fixture(scope="module")
def run(folder: Path) -> mvmr.Run:
    given = arguments(folder)
    before = {name: value.clone() for name, value in given["student"].state_dict().items()}
    found = mvmr.distil(**given)
    for name, value in given["student"].state_dict().items():  # a copy was trained
        assert torch.equal(value, before[name])
    return found


def test_the_run_has_scores_beside_controls(run: mvmr.Run) -> None:
    assert list(run.scores) == ["knn", "nearest_mean"]
    score = run.scores["nearest_mean"]
    assert score.interval is not None
    assert score.interval[0] <= score.value <= score.interval[1]
    assert score.value > 80  # colours are easy
    assert set(score.controls) == {"untrained", "pixels", "teacher", "brightness"}
    shown = repr(run.scores).splitlines()
    assert shown[0].split()[:3] == ["protocol", "figure", "student"]
    assert f"{score.value:.1f}" in shown[2]
    assert "<table>" in run._repr_html_()
    with pytest.raises(DataError, match=r"Did you mean 'knn'"):
        run.scores["kn"]


def test_the_encoder_is_the_trained_copy_of_the_network(run: mvmr.Run, folder: Path) -> None:
    module, preprocessing = run.encoder
    rows = run.embed(folder / "photos").rows
    path = folder / "photos/blue/000.png"
    assert rows.shape == (120, 24)
    with torch.no_grad():
        alone = module(preprocessing(path)[None])
    np.testing.assert_allclose(rows[0], alone[0].numpy(), rtol=1e-4, atol=1e-5)
    weights = dict(module.named_parameters())["network.first.weight"]
    assert not torch.equal(weights, student().first.weight)


def test_a_repeated_call_computes_nothing(run: mvmr.Run, folder: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.path.glob("checkpoints/*")}
    again = mvmr.distil(**arguments(folder))
    assert {p: p.stat().st_mtime_ns for p in again.path.glob("checkpoints/*")} == before
    assert repr(again.scores) == repr(run.scores)


def test_report_and_exports_are_written(run: mvmr.Run) -> None:
    page = run.report().read_text(encoding="utf-8")
    assert "nearest_mean" in page
    assert "shrink" in page
    exported = run.export(path=run.path / "mine.safetensors")
    module = mvmr.load_encoder(exported, backbone=Network()).module
    given = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(given), run.encoder.module(given))
    with pytest.raises(ConfigError, match="Did you mean 'onnx'"):
        run.export("onx")


def test_int8_is_compared_by_protocols_of_ones_own_too(run: mvmr.Run) -> None:
    exported = run.export("onnx", int8=True)
    comparison = json.loads(exported.with_name(f"{exported.name}.json").read_text())["comparison"]
    assert {*comparison["int8"]["scores"]} == {*run.scores}
    module, preparation = mvmr.load_encoder(exported)
    images = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    x = (images - torch.tensor(preparation.image.mean)[:, None, None]) / 0.25
    cosines = torch.cosine_similarity(module(x), run.encoder.module(x))
    assert cosines.min() > 0.95
    assert "nearest neighbours in common" in run.report().read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="int8 is for the format onnx; found 'timm'"):
        run.export("timm", int8=True)


def test_a_run_is_opened_again_in_a_process_that_has_only_the_network(
    run: mvmr.Run, tmp_path: Path
) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); import mvmr, stranger, torch\n"
        "try: mvmr.open_run(sys.argv[1]).encoder\n"
        "except mvmr.MvmrError as error: print(error)\n"
        "run = mvmr.open_run(sys.argv[1], backbone=stranger.Network())\n"
        "x = torch.ones(1, 3, 16, 16)\n"
        "print(run.scores['knn'].value, run.encoder.module(x).sum().item())\n"
        "loaded = mvmr.load_encoder(run.checkpoint, backbone=stranger.Network())\n"
        "print(loaded.module(x).sum().item())\n"
        "print(len(run.scores), run.embed(run.data.path.parents[2] / 'photos/blue').rows.shape)\n"
        "print(run.export(path=sys.argv[3]).name)\n"
        "print(len(mvmr.open_run(sys.argv[1]).scores), len(run.data['train'].names))\n"
    )
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path), tests, str(tmp_path / "a.safetensors")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refused, first, second, *more = done.stdout.splitlines()
    value, total = map(float, first.split())
    expected = run.encoder.module(torch.ones(1, 3, SIDE, SIDE)).sum().item()
    assert value == run.scores["knn"].value
    assert total == pytest.approx(expected, rel=1e-5)
    assert float(second) == pytest.approx(expected, rel=1e-5)
    assert "a network of somebody's own" in refused
    assert "mvmr.open_run(path, backbone=network)" in refused
    assert more == [
        "2 (40, 24)",
        "a.safetensors",
        f"2 {len(run.data['train'])}",
    ]


def test_weights_of_another_network_are_refused(run: mvmr.Run) -> None:
    with pytest.raises(WeightsError, match="do not fit this network"):
        mvmr.load_encoder(run.checkpoint, backbone=Network(width=12))


def test_another_network_makes_another_run_and_the_first_is_kept(
    run: mvmr.Run, folder: Path
) -> None:
    before = sha(run.checkpoint)
    other = mvmr.distil(**{**arguments(folder), "student": Network(width=8)})
    assert sha(other.checkpoint) != before
    back = mvmr.distil(**arguments(folder))
    assert sha(back.checkpoint) == before


def test_a_checkpoint_names_no_code_to_import(run: mvmr.Run, tmp_path: Path) -> None:
    content = torch.load(run.checkpoint, weights_only=True)
    trap = tmp_path / "trap.py"
    trap.write_text("open('sprung', 'w')\n")
    content["about"]["student"] |= {"architecture": "python:trap:network", "trust": True}
    torch.save(content, tmp_path / "downloaded.pt")
    code = f"import mvmr\nmvmr.load_encoder({str(tmp_path / 'downloaded.pt')!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "WeightsError" in done.stderr
    assert not (tmp_path / "sprung").exists()
    assert not load_checkpoint(tmp_path / "downloaded.pt").student.trust


def test_stored_rows_of_a_teacher_serve_where_the_teacher_is_not(
    run: mvmr.Run, folder: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, mvmr\n"
        "data = mvmr.open_dataset(sys.argv[1], features=['teacher'])\n"
        "options = data.features['teacher'].report['options']\n"
        "given = {'student': 'resnet8', 'out': sys.argv[2], 'evaluate': {'knn': {'ks': [5]}},\n"
        "         'train': {'epochs': 1, 'batch_size': 16}}\n"
        "run = mvmr.distil(data, teacher=options, **given)\n"
        "print(run.scores['knn'].controls['teacher'])\n"
        "options['weights'] = 'f' * 64\n"
        "mvmr.distil(data, teacher=options, **given)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.data.path), str(tmp_path / "other")],
        capture_output=True,
        text=True,
        check=False,
    )
    found = done.stdout.strip()
    assert float(found) == run.scores["knn"].controls["teacher"]
    assert "is not in this process: hand it over by mvmr.teacher" in done.stderr


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (nn.Conv2d(1, 8, 3), "cannot take images of 3 x 16 x 16"),
        (nn.Flatten(), "no parameters that could learn"),
        (
            nn.Sequential(nn.Conv2d(3, 3, 1), nn.Unfold(3)),
            r"must map images to features \(B, D\); found \(3, 27, 196\)",
        ),
    ],
)
def test_networks_without_features_are_refused(
    network: nn.Module, reason: str, folder: Path, tmp_path: Path
) -> None:
    given = {**arguments(folder), "student": network, "out": tmp_path / "x"}
    given |= {"data": folder / "runs/data/photos"}
    with pytest.raises(ConfigError, match=reason):
        mvmr.distil(**given)


class BatchNormalised(nn.Module):
    """Its rows depend on the rest of the batch, whatever its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Subtract the mean of the batch."""
        rows = images.flatten(1)
        return self.scale * (rows - rows.mean(0))


def test_what_depends_on_the_batch_is_neither_stored_nor_trained(
    run: mvmr.Run, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="another vector in another batch"):
        mvmr.extract({"bad": mvmr.teacher(BatchNormalised(), prepare, name="bad")}, run.data)
    mvmr.register_representation("centred", BatchNormalised().forward)
    with pytest.raises(WeightsError, match="another vector in another batch"):
        mvmr.extract({"centred": {}}, run.data)
    with pytest.raises(ConfigError, match="the same features in any batch"):
        mvmr.pretrain(run.data, student=BatchNormalised(), out=tmp_path / "x", train=TRAIN)
    assert set(run.data.store.keys()) == {"teacher", "brightness"}


def test_the_teacher_is_the_one_of_the_call_whatever_the_data_set_was_opened_with(
    run: mvmr.Run, tmp_path: Path
) -> None:
    opened = mvmr.extract({"teacher": teach()}, run.data)
    quarters = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    other = mvmr.teacher(quarters, name="means of quarters")
    found = mvmr.distil(
        opened, teacher=other, student="resnet8", out=tmp_path / "x", train=QUICK, evaluate=KNN
    )
    assert found.experiment.features["teacher"] == other
    assert mvmr.extract({"teacher": teach()}, found.data).store["teacher"].width > 12


def test_teachers_are_told_apart_by_weights_and_by_name() -> None:
    one, two = teach(), mvmr.teacher(frozen(), prepare, name="another")
    changed = frozen()
    with torch.no_grad():
        next(changed.parameters()).add_(1e-3)
    assert teach() == one
    assert two != one
    assert mvmr.teacher(changed, prepare, name="random convolutions") != one
    mvmr.teacher(brightness, name="function")
    with pytest.raises(ConfigError, match="Another function was handed over"):
        mvmr.teacher(lambda images: images.mean((2, 3)), name="function")
    with pytest.raises(ArgumentError, match=r"torch\.nn\.Module or a function; found 'open_clip:"):
        mvmr.teacher("open_clip:ViT-B-16", name="text")  # type: ignore[arg-type]


def test_a_layer_or_the_pooled_features_of_timm_are_found(run: mvmr.Run, tmp_path: Path) -> None:
    import timm

    network = timm.create_model("resnet10t", num_classes=7)
    found = mvmr.pretrain(
        run.data,
        student=network,
        out=tmp_path / "timm",
        train={"epochs": 1, "batch_size": 32, "parallel": {"accelerator": "cpu"}},
        objective={"invariance": {"weight": 25, "on": "h"}, "variance": {"on": "h"}},
        evaluate={"knn": {"ks": [5]}},
    )
    x = torch.rand(2, 3, SIDE, SIDE)
    assert found.encoder.module(x).shape == (2, network.num_features)
    mvmr.register_student("layered", Network)
    layered = mvmr.pretrain(
        run.data,
        student={"architecture": "own:layered", "layer": "first", "projector": []},
        out=tmp_path / "layer",
        train={"epochs": 1, "batch_size": 32, "parallel": {"accelerator": "cpu"}},
        objective={"variance": {"on": "h"}},
        evaluate={"knn": {"ks": [5]}},
    )
    assert layered.encoder.module(x).shape == (2, 8)


def spread(train: Any, validation: Any, test: Any) -> float:
    return float(test.features.std())


def broken(train: Any, validation: Any, test: Any) -> torch.Tensor:
    return torch.zeros(3)


def silent(train: Any, validation: Any, test: Any) -> None:
    del train, validation, test


def endless(train: Any, validation: Any, test: Any) -> float:
    return float("inf")


def unreduced(original: torch.Tensor, augmented: torch.Tensor) -> torch.Tensor:
    return original


def test_a_single_number_is_a_score_too(run: mvmr.Run, tmp_path: Path) -> None:
    mvmr.register_protocol("spread", spread)
    given: dict[str, Any] = {
        "images": run.data,
        "student": "resnet8",
        "out": tmp_path / "x",
        "objective": {"variance": {"on": "h"}},
        "train": {"epochs": 1, "batch_size": 32, "parallel": {"accelerator": "cpu"}},
    }
    found = mvmr.pretrain(**given, evaluate={"spread": {}})
    assert found.scores["spread"].interval is None
    assert found.scores["spread"].value > 0
    for function, shown in ((broken, r"values \(3,\)"), (silent, "NoneType"), (endless, "inf")):
        mvmr.register_protocol("broken", function)
        with pytest.raises(DataError, match=f"'broken' must return a finite.* found {shown}"):
            mvmr.pretrain(**given, evaluate={"broken": {}})


def test_loss_terms_that_return_something_else_are_refused(run: mvmr.Run, tmp_path: Path) -> None:
    mvmr.register_term("wide", unreduced)
    with pytest.raises(mvmr.MvmrError, match=r"'wide' \(wide\) must return a scalar"):
        mvmr.pretrain(
            run.data,
            student="resnet8",
            out=tmp_path / "x",
            objective={"wide": {}},
            train={"epochs": 1, "batch_size": 32},
        )


def without_gradient(original: torch.Tensor, augmented: torch.Tensor) -> torch.Tensor:
    return (original - augmented).detach().square().mean()


class Learned(nn.Module):
    """A loss with a parameter, which nothing trains."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, original: torch.Tensor, augmented: torch.Tensor) -> torch.Tensor:
        """Return the scaled distance of two views."""
        return self.scale * (original - augmented).square().mean()


def counting(original: torch.Tensor, augmented: torch.Tensor) -> torch.Tensor:
    return (original > augmented).sum()


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (without_gradient, r"'mine' \(mine\) has no gradient: compute it from the embeddings by"),
        (Learned(), "has parameters, which would not be trained"),
        (counting, "must return floats; found torch.int64"),
    ],
)
def test_losses_that_train_nothing_are_refused(
    loss: Any, reason: str, run: mvmr.Run, tmp_path: Path
) -> None:
    mvmr.register_term("mine", loss)
    given: dict[str, Any] = {"objective": {"mine": {}, "variance": {"on": "h"}}}
    with pytest.raises(mvmr.MvmrError, match=reason):
        mvmr.pretrain(
            run.data, student="resnet8", out=tmp_path / "x", train=QUICK, evaluate=KNN, **given
        )
    h = torch.randn(8, 4, requires_grad=True)
    with pytest.raises(mvmr.MvmrError, match=reason):
        mvmr.Objective(given["objective"])(h=(h, 2 * h))


@pytest.mark.parametrize("loss", [nn.MSELoss(), shrink, lambda a, b: (a - b).abs().mean()])
def test_a_loss_without_weights_is_an_objective_by_itself(
    loss: Any, run: mvmr.Run, tmp_path: Path
) -> None:
    mvmr.register_term("alone", loss)
    found = mvmr.pretrain(
        run.data,
        student=student(),
        out=tmp_path / "x",
        objective={"alone": {}},
        train=QUICK,
        evaluate=KNN,
    )
    assert found.scores["knn"].value > 0
    h = torch.randn(8, 4, requires_grad=True)
    mvmr.Objective({"alone": {}})(h=(h, 2 * h)).total.backward()
    assert h.grad is not None


POWER = {"fails_at": 0, "calls": 0}


def unreliable(original: torch.Tensor, augmented: torch.Tensor) -> torch.Tensor:
    POWER["calls"] += 1
    if POWER["calls"] == POWER["fails_at"]:
        raise OSError("the power has gone")
    return (original - augmented).square().mean()


def test_an_interrupted_call_continues_when_it_is_repeated(run: mvmr.Run, tmp_path: Path) -> None:
    mvmr.register_term("unreliable", unreliable)
    given: dict[str, Any] = {
        "images": run.data,
        "student": student(),
        "objective": {"unreliable": {}, "variance": {"on": "h"}},
        "train": {**TRAIN, "epochs": 3, "batch_size": 32},
        "evaluate": {"knn": {"ks": [5]}},
    }
    whole = mvmr.pretrain(**given, out=tmp_path / "whole")
    in_all, POWER["calls"] = POWER["calls"], 0
    POWER["fails_at"] = in_all - 2  # in the last epoch
    with pytest.raises(OSError, match="power"):
        mvmr.pretrain(**given, out=tmp_path / "cut")
    POWER["calls"] = POWER["fails_at"] = 0
    cut = mvmr.pretrain(**given, out=tmp_path / "cut")
    assert POWER["calls"] < in_all  # the first epochs were not trained again
    states = [torch.load(r.checkpoint, weights_only=True)["encoder"] for r in (whole, cut)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def interrupting(original: torch.Tensor, augmented: torch.Tensor) -> torch.Tensor:
    POWER["calls"] += 1
    if POWER["calls"] == POWER["fails_at"]:
        os.kill(os.getpid(), signal.SIGINT)
    return (original - augmented).square().mean()


def notes_of(call: Any, **given: Any) -> list[str]:
    with pytest.raises(KeyboardInterrupt) as caught:
        call(**given)
    return list(getattr(caught.value, "__notes__", []))


def test_an_interruption_says_what_is_kept_and_the_same_call_continues(
    run: mvmr.Run, tmp_path: Path
) -> None:
    mvmr.register_term("interrupting", interrupting)
    given: dict[str, Any] = {
        "images": run.data,
        "student": student(),
        "out": tmp_path / "cut",
        "objective": {"interrupting": {}, "variance": {"on": "h"}},
        "train": {**QUICK, "epochs": 3},
        "evaluate": KNN,
    }
    POWER.update(calls=0, fails_at=6)
    assert notes_of(mvmr.pretrain, **given) == [
        f"Interrupted: what is finished is kept in {tmp_path / 'cut'}. The same call of "
        "mvmr.pretrain continues from there."
    ]
    before, POWER["fails_at"] = POWER["calls"], 0
    assert mvmr.pretrain(**given).scores["knn"].value > 0
    in_all, POWER["calls"] = POWER["calls"], 0
    mvmr.pretrain(**{**given, "out": tmp_path / "whole"})
    assert before >= 6
    assert in_all <= POWER["calls"] + 1  # at most the step in which it stopped is repeated


def stopped(images: torch.Tensor) -> torch.Tensor:
    raise KeyboardInterrupt


def test_an_interruption_names_the_call_that_the_user_made(run: mvmr.Run, tmp_path: Path) -> None:
    mvmr.register_representation("stopped", stopped)
    notes = notes_of(mvmr.extract, features={"stopped": {}}, data=run.data)
    assert len(notes) == 1
    assert f"kept in {run.data.path}. The same call of mvmr.extract continues" in notes[0]
    given = {"images": run.data, "teacher": teach(), "out": tmp_path, "train": QUICK}
    given |= {"features": {"stopped": {}}}
    (note,) = notes_of(mvmr.distil, **given)
    assert f"kept in {tmp_path}. The same call of mvmr.distil continues" in note


def test_problems_are_reported_all_at_once_and_with_their_paths(folder: Path) -> None:
    given = arguments(folder) | {"train": {"epoch": 3, "lr": -1}, "student": "resnet8"}
    with pytest.raises(ConfigError) as caught:
        mvmr.distil(**given)
    text = str(caught.value)
    assert "train.epoch" in text
    assert "Did you mean 'epochs'" in text
    assert "train.lr" in text


def test_data_of_other_images_are_not_overwritten(folder: Path, tmp_path: Path) -> None:
    given = arguments(folder) | {"images": photos(tmp_path / "others", each=4)}
    with pytest.raises(DataError, match="holds shards of another source"):
        mvmr.distil(**{**given, "data": folder / "runs/data/photos"})


def test_teachers_may_be_named_in_short(folder: Path) -> None:
    given = arguments(folder)
    with pytest.raises(ConfigError, match="open_clip:MODEL/TAG, timm:NAME"):
        mvmr.distil(**{**given, "teacher": "ViT-B-16"})
    with pytest.raises(mvmr.MvmrError, match="no_such_network"):
        mvmr.distil(**{**given, "teacher": "timm:no_such_network"})


def test_a_student_from_known_weights_is_named_in_short_and_sees_colours_as_they_did(
    folder: Path, tmp_path: Path
) -> None:
    network = timm.create_model("test_resnet", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "known.pt")
    found = mvmr.distil(
        folder / "photos",
        teacher=teach(),
        student=f"timm:test_resnet:{tmp_path / 'known.pt'}",
        train={**QUICK, "schedule": {"kind": "constant"}, "backbone_lr": 1e-9},
        evaluate=KNN,
        out=tmp_path / "run",
        data=folder / "runs/data/photos",
    )
    experiment = read_yaml(tmp_path / "run/experiment.yaml")
    assert experiment["dataset"]["image"]["mean"] == [0.5] * 3
    assert experiment["train"]["channels_last"] is True
    assert experiment["train"]["lr"] == 1e-3  # less than the recipe's
    first, weights = next(iter(network.named_parameters()))
    trained = dict(found.encoder.module.named_parameters())
    own = next(value for name, value in trained.items() if name.endswith(first))
    torch.testing.assert_close(own, weights, rtol=0, atol=1e-6)


def test_no_run_is_opened_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished run"):
        mvmr.open_run(tmp_path)


def test_rows_that_were_put_are_targets_and_rows_of_other_words_are_not(
    run: mvmr.Run, tmp_path: Path
) -> None:
    data = run.data
    rows = {split: data[split].features("brightness").numpy() * 2 for split in data.manifests}
    data.store.put("mine", rows, data, made_from="twice the brightness")
    given: dict[str, Any] = {
        "images": data,
        "student": "resnet8",
        "out": tmp_path / "x",
        "objective": {"mine": {"kind": "regression", "loss": "squared"}},
        "train": {"epochs": 1, "batch_size": 32, "parallel": {"accelerator": "cpu"}},
        "evaluate": {"knn": {"ks": [5]}},
    }
    feature = {"kind": "given", "made_from": "twice the brightness"}
    found = mvmr.pretrain(**given, features={"mine": feature})
    assert "mine" in found.scores["knn"].controls
    with pytest.raises(StoreError, match="put its rows into the store"):
        mvmr.pretrain(**given, features={"mine": {**feature, "made_from": "thrice"}})


def test_the_places_of_a_run_are_recorded(run: mvmr.Run) -> None:
    assert json.loads((run.path / "places.json").read_text()) == {"data": str(run.data.path)}
    assert mvmr.open_run(run.path).experiment == run.experiment
