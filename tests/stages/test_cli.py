"""The command line, run as a user runs it, on digits in an empty folder."""

import csv
import json
import os
import re
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from digits_run import QUICK, ROOT
from PIL import Image
from replicas import picture, too_deep
from safetensors.torch import load_file
from sklearn.metrics import balanced_accuracy_score, f1_score

from pipeline.base.errors import TrainingError
from pipeline.base.locks import exclusive
from pipeline.base.timing import read_attempts
from pipeline.evaluation.record import read_per_image
from pipeline.models.checkpoint import load_checkpoint, save_checkpoint
from stages.terminal.cli import run


def metrics(project: Path, protocol: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(
        (project / "runs" / "digits" / "metrics" / f"{protocol}.json").read_text()
    )
    return result


def test_probes_stand_beside_the_same_probe_of_every_control(project: Path) -> None:
    for protocol in ("linear", "knn"):
        record = metrics(project, protocol)
        controls = record["controls"]
        assert isinstance(controls, dict)
        assert set(controls) == {"untrained", "pixels", "scattering", "hog", "local_std"}
        for values in (record, *controls.values()):
            assert 0 <= values["top1_low"] <= values["top1"] <= values["top1_high"] <= 100
        assert controls["pixels"]["top1"] > 90
        assert record["split"] == "test"
        assert record["images"] == {"train": 1259, "validation": 179, "test": 359}
        provenance = {"protocol", "checkpoint", "seed", "versions", "experiment"}
        assert provenance <= record.keys()
        assert record["main"] == "top1"


def test_scores_are_few_and_predictions_add_up_to_them(project: Path) -> None:
    run = project / "runs/digits"
    for protocol in ("linear", "knn"):
        score = json.loads((run / f"scores/{protocol}.json").read_text())
        record = metrics(project, protocol)
        assert score["student"] == record["top1"]
        bounds = f"{record['top1_low']:.1f} to {record['top1_high']:.1f}"
        assert score["student_ci95"] == bounds
        assert len(score) == 8
        with (run / f"predictions/{protocol}/predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 359
        hits = [row["actual"] == row["predicted"] for row in rows]
        assert 100 * sum(hits) / len(hits) == pytest.approx(record["top1"])
        images = read_per_image(run / f"metrics/{protocol}.csv")
        assert images.names == [row["image"] for row in rows]
        assert images.values["student"].tolist() == hits
        for name, values in record["controls"].items():
            assert 100 * images.values[name].mean() == pytest.approx(values["top1"])
        assert 9 < record["chance"] < 12
    (header,) = (run / "predictions/retrieval/predictions.csv").read_text().splitlines()
    assert header == "image,actual,predicted,confidence"  # it predicts no classes


def test_retrieval_tells_agreement_dependence_and_rank(project: Path) -> None:
    record = metrics(project, "retrieval")
    assert {"effective_rank", "recall_at_1", "with_scattering", "with_hog"} <= record.keys()
    assert record["main"] == "recall_at_1"
    beside = record["with_scattering"]
    assert isinstance(beside, dict)
    agreement = {"agreement_at_1", "agreement_at_10", "agreement_at_50"}
    assert set(beside) == {*agreement, "dcor_squared_unbiased"}


def test_select_records_the_fingerprints_between_store_and_run(project: Path) -> None:
    targets = json.loads((project / "runs/digits/targets.json").read_text())
    assert sorted(targets) == ["hog", "local_std", "scattering"]
    assert all(len(value) == 64 for value in targets.values())


def test_runs_are_compared_by_name_on_one_page(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(inside / "runs/digits", inside / "runs/second")
    record = inside / "runs/second/report.json"
    record.write_text(record.read_text().replace('"name": "digits"', '"name": "second"'))
    assert run(["report", "digits", "second"]) == 0
    page = (inside / "runs/comparison.html").read_text()
    top1 = json.loads((inside / "runs/digits/metrics/linear.json").read_text())["top1"]
    assert page.count(f"{top1:.1f}") >= 2  # of both
    assert "second" in page
    assert run(["report", "digits"]) == 2
    assert "two or more runs" in capsys.readouterr().err
    assert run(["report", "digits", "third"]) == 1
    assert "There is no report of a run 'third'" in capsys.readouterr().err
    (inside / "configs/third.yaml").touch()
    assert run(["report", "digits", "third"]) == 1
    assert "`mvmr use third` and `dvc repro` make the run" in capsys.readouterr().err
    (inside / "configs/third.yaml").unlink()
    (inside / "runs/second/checkpoints/best.pt").write_bytes(b"another")
    assert run(["report", "digits", "second"]) == 1
    assert "was trained again after its report" in capsys.readouterr().err
    shutil.rmtree(inside / "runs/second")


def test_the_report_is_one_file_that_needs_nothing(project: Path) -> None:
    page = (project / "runs/digits/report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.findall(r"url\((?!data:|#)|@import", page)
    for word in ("linear", "untrained", "local_std", "Objective", "resnet8x2"):
        assert word in page
    assert len(page) < 10e6


def test_the_export_is_the_backbone_with_a_card(project: Path) -> None:
    weights = load_file(project / "runs/digits/exports/digits.safetensors")
    card = json.loads((project / "runs/digits/exports/digits.safetensors.json").read_text())
    assert card["metrics"]["linear"]["top1"] == metrics(project, "linear")["top1"]
    assert card["student"]["architecture"] == "resnet8"
    assert card["preprocessing"]["size"] == 8
    assert "conv1.weight" in weights
    checkpoint = torch.load(project / "runs/digits/checkpoints/best.pt", weights_only=True)
    assert torch.equal(weights["conv1.weight"], checkpoint["encoder"]["backbone.conv1.weight"])


def test_a_second_run_of_a_stage_says_so(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["shard"]) == 0
    assert "up to date" in capsys.readouterr().out
    assert run(["store", "verify"]) == 0
    assert run(["store", "info"]) == 0
    assert "scattering" in capsys.readouterr().out


@pytest.mark.parametrize("by_dvc", [True, False])
def test_as_a_stage_of_dvc_one_command_computes_what_others_publish(
    inside: Path, monkeypatch: pytest.MonkeyPatch, by_dvc: bool
) -> None:
    data = inside / "data" / "digits"
    for name in ("hog", "local_std"):
        shutil.rmtree(data / "features.zarr" / name)
        for record in data.glob(f"times/extract-{name}-*"):
            record.unlink()
    if by_dvc:
        monkeypatch.setenv("DVC_STAGE", "extract@digits-hog")
    assert run(["extract-features", "--only", "hog"]) == 0
    assert (data / "features.zarr" / "hog").exists()
    assert not (data / "features.zarr" / "local_std").exists()
    waiting = list(data.glob("work/local_std-*/done/*"))
    assert len(waiting) == (5 if by_dvc else 0)  # of five tars
    if not by_dvc:
        return
    chunk = next(data.glob("work/local_std-*/feature/train/c/0/0")).stat().st_mtime_ns
    assert run(["extract-features", "--only", "local_std"]) == 0
    stored = data / "features.zarr" / "local_std" / "train" / "c" / "0" / "0"
    assert stored.stat().st_mtime_ns == chunk
    assert not list(data.glob("work/*-*"))
    (record,) = data.glob("times/extract-local_std-*")
    first, second = read_attempts(record)
    assert [phase.step for phase in first.phases].count("extract") == 1
    assert (first.finished, second.finished) == (False, True)


@pytest.mark.parametrize("lost", ["test/manifest.json", "test"])
def test_interrupted_sharding_is_made_whole(
    inside: Path, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    shards = inside / "data/digits/shards"
    before = {path: path.read_bytes() for path in shards.rglob("*") if path.is_file()}
    if lost == "test":
        shutil.rmtree(shards / lost)
    else:
        (shards / lost).unlink()
    assert run(["shard"]) == 0
    assert "up to date" not in capsys.readouterr().out
    assert {path: path.read_bytes() for path in shards.rglob("*") if path.is_file()} == before


def test_another_checkpoint_is_scored_without_touching_the_runs_metrics(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (inside / "runs/digits/metrics/knn.json").read_bytes()
    last = ["--checkpoint", "runs/digits/checkpoints/last.pt"]
    assert run(["evaluate", "--only", "knn", *last, *QUICK]) == 0
    assert "top1" in capsys.readouterr().out
    assert (inside / "runs/digits/metrics/knn.json").read_bytes() == before


def test_an_unreadable_file_stops_an_embedding_or_is_left_out_by_name(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = inside / "mixed"
    folder.mkdir()
    Image.new("L", (9, 11), 7).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no image at all")
    (folder / "d.heic").write_bytes(b"another format")
    Image.new("L", (9, 11), 99).save(folder / "c.png")
    assert run(["embed", "mixed", *QUICK, "-o", "mixed.npz"]) == 1
    message = capsys.readouterr().err
    assert "mixed/b.png: Not a readable image" in message
    assert "--skip-unreadable" in message
    assert not (inside / "mixed.npz").exists()
    skipping = ["embed", "mixed", *QUICK, "-o", "mixed.npz", "--skip-unreadable"]
    assert run([*skipping, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["left_out"]) == ["b.png"]
    assert found["others"] == {".heic": 1}
    with np.load(inside / "mixed.npz") as content:
        assert content["names"].tolist() == ["a.png", "c.png"]
        assert len(content["embeddings"]) == 2
    assert run(skipping) == 0
    said = capsys.readouterr().out
    assert "1 of 3 images cannot be read and are left out:\n  b.png: Not" in said
    assert "Files not recognised as images: 1 .heic." in said
    (folder / "a.png").unlink()
    (folder / "c.png").unlink()
    assert run(skipping) == 1
    assert "None of the 1 images can be read. b.png: Not" in capsys.readouterr().err


def test_images_of_any_folder_are_embedded_alike_from_every_file(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = inside / "photos" / "below"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (9, 11), dtype=np.uint8)).save(folder / f"{i}.png")
    released = inside / "released.pth"
    export = ["export", "--format", "released", "-o", str(released), *QUICK]
    assert run(export) == 0
    assert run(["export", "--format", "onnx", *QUICK]) == 0
    sources = {
        "a.npz": QUICK,
        "b.npz": ["--checkpoint", "runs/digits/exports/digits.onnx"],
        "c.npz": ["--checkpoint", "released.pth", *QUICK],
        # params.yaml names another student and another image size
        "e.npz": ["--checkpoint", "runs/digits/checkpoints/best.pt", "-s", "dataset.image.size=16"],
    }
    found = {}
    for name, source in sources.items():
        assert run(["embed", "photos", *source, "-o", name]) == 0
        with np.load(inside / name) as content:
            assert content["names"].tolist() == [f"below/{i}.png" for i in range(3)]
            found[name] = content["embeddings"]
    for embeddings in found.values():
        np.testing.assert_allclose(embeddings, found["a.npz"], atol=1e-4)
    assert run(["embed", "photos", *QUICK, "-o", "d.parquet"]) == 0
    table = pyarrow.parquet.read_table(inside / "d.parquet").to_pydict()
    assert table["name"] == [f"below/{i}.png" for i in range(3)]
    np.testing.assert_allclose(table["embedding"], found["a.npz"], atol=1e-6)
    assert (
        run(
            [
                "evaluate",
                "--only",
                "online",
                "--checkpoint",
                "released.pth",
                *QUICK,
                "-s",
                "evaluate.online={}",
            ]
        )
        == 0
    )
    assert "top1" in capsys.readouterr().out


def test_training_again_does_not_write_through_links_into_a_cache(inside: Path) -> None:
    outputs = [p for p in (inside / "runs/digits").rglob("*") if p.is_file()]
    (inside / "cache").mkdir()
    kept = {}
    for number, path in enumerate(outputs):
        link = inside / "cache" / str(number)
        path.chmod(0o444)
        os.link(path, link)
        kept[link] = link.read_bytes()
    for command in ("train", "evaluate", "report", "export"):
        assert run([command, *QUICK, "-s", "train.lr=2e-3"]) == 0
    assert {link: link.read_bytes() for link in kept} == kept
    curves = inside / "runs/digits/curves.csv"
    assert curves.read_bytes() not in kept.values()


def test_written_files_have_the_modes_that_the_user_asked_for(project: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    for name in ("exports/digits.safetensors", "checkpoints/best.pt", "report.html", "curves.csv"):
        assert (project / "runs/digits" / name).stat().st_mode & 0o777 == 0o666 & ~mask, name


def test_verify_fails_on_damage(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chunk = inside / "data/digits/features.zarr/hog/train/c/0/0"
    sound = chunk.read_bytes()
    try:
        chunk.write_bytes(sound[:100] + bytes([sound[100] ^ 1]) + sound[101:])
        assert run(["store", "verify"]) == 1
        assert "train/c/0/0" in capsys.readouterr().out
        assert run(["train", *QUICK, "-s", "train.lr=1e-3", "-s", "seed=7"]) == 1
        assert "cannot be trusted" in capsys.readouterr().err
    finally:
        chunk.write_bytes(sound)


def test_a_finished_run_is_trained_again_only_by_force(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = [*QUICK, "-s", "name=again", "-s", "train.epochs=1"]
    best = inside / "runs/again/checkpoints/best.pt"
    assert run(["train", *again]) == 0
    before = best.stat().st_mtime_ns
    assert run(["train", *again]) == 0
    assert "up to date; --force trains again" in capsys.readouterr().out
    assert best.stat().st_mtime_ns == before
    assert run(["train", *again, "--force"]) == 0
    assert best.stat().st_mtime_ns > before


def test_what_is_found_by_trying_is_printed_and_recorded(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = [*QUICK, "-s", "name=tuned", "-s", "train.epochs=1"]
    tuned += ["-s", "objective={invariance: {}, variance: {}}"]
    assert run(["train", *tuned, "--auto-batch-size"]) == 0
    printed = capsys.readouterr().out
    found = json.loads((inside / "runs/tuned/metrics/training.json").read_text())["tuned"]
    assert f"Found train.batch_size: {found['batch_size']}" in printed
    checkpoint = torch.load(inside / "runs/tuned/checkpoints/best.pt", weights_only=True)
    assert checkpoint["about"]["tuned"] == found
    assert found["batch_size"] == 1024  # of 1259 training images


@pytest.mark.slow  # tests/evaluation does it without the command
def test_fine_tuning_records_what_is_found_by_trying(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["-s", "evaluate={few: {kind: semi_supervised, share: 0.1, epochs: 1}, knn: {}}"]
    auto = ["--auto-lr", "--auto-batch-size"]
    assert run(["evaluate", *QUICK, *few, "--only", "few", *auto]) == 0
    printed = capsys.readouterr().out
    record = json.loads((inside / "runs/digits/metrics/few.json").read_text())
    for name, values in {"student": record, **record["controls"]}.items():
        if name not in ("student", "untrained"):  # no gradient descent, so no rate to find
            assert "tuned" not in values
            continue
        assert values["tuned"]["batch_size"] == 64  # of 126 labelled images
        assert f"{name}: found lr {values['tuned']['encoder_lr']:.4g}" in printed
    assert run(["evaluate", *QUICK, *few, "--only", "knn", "--auto-lr"]) == 2
    assert "None of the protocols knn has a learning rate" in capsys.readouterr().err


def test_abandoned_runs_are_listed_and_removed(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = inside / "runs" / ".unfinished"
    for name, age_days in (("0123456789abcdef", 30), ("fedcba9876543210", 1)):
        (unfinished / name).mkdir(parents=True)
        (unfinished / name / "resume.ckpt").write_bytes(bytes(2000))
        then = time.time() - 86_400 * age_days
        os.utime(unfinished / name / "resume.ckpt", (then, then))
    assert run(["store", "clean", "--days", "7"]) == 0
    printed = capsys.readouterr().out
    assert "0123456789abcdef" in printed
    assert "fedcba9876543210" not in printed
    assert (unfinished / "0123456789abcdef").exists()
    assert run(["store", "clean", "--days", "7", "--remove"]) == 0
    assert not (unfinished / "0123456789abcdef").exists()
    assert (unfinished / "fedcba9876543210").exists()
    with exclusive(unfinished / "fedcba9876543210.lock", TrainingError("busy")):
        assert run(["store", "clean", "--days", "0", "--remove"]) == 0
    assert (unfinished / "fedcba9876543210").exists()
    assert run(["store", "clean", "--days", "0", "--remove"]) == 0
    assert not (unfinished / "fedcba9876543210").exists()


@pytest.mark.parametrize("weights", ["digits", "runs/digits/checkpoints/best.pt"])
def test_given_weights_are_evaluated_without_training(inside: Path, weights: str) -> None:
    given = ["-s", "train=none", "-s", "objective=none", "-s", "name=given"]
    given += [*QUICK[2:4], "-s", f"student.weights={weights}", "-s", "evaluate={knn: {}}"]
    for command in ("train", "evaluate", "report"):
        assert run([command, *given]) == 0, command
    given_weights, own = (
        torch.load(inside / f"runs/{name}/checkpoints/best.pt", weights_only=True)["encoder"]
        for name in ("given", "digits")
    )
    assert given_weights.keys() == own.keys()
    assert all(torch.equal(values, own[name]) for name, values in given_weights.items())
    record = json.loads((inside / "runs/given/metrics/knn.json").read_text())
    assert record["checkpoint"]["selection"]["rule"] == "given"
    shutil.rmtree(inside / "runs/given")  # other tests list the runs of this folder


def test_use_lists_and_protects_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "begun.yaml").write_text("name: begun\ndataset: {name: x}\n")
    assert run(["use", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "incomplete" in listed
    (tmp_path / "configs" / "begun.yaml").unlink()
    names = [path.stem for path in (tmp_path / "configs").glob("*.yaml")]
    lines = [line for line in listed.splitlines() if line.split()[:1] and line.split()[0] in names]
    assert sorted(line.split()[0] for line in lines) == sorted(names)  # one line each
    (line,) = [line for line in listed.splitlines() if "cifar10_clip" in line]
    for part in ("image_folder 32 px", "tiny-clip-rn64", "resnet8x4", "18 min on two cores"):
        assert part in line
    assert run(["use", "cifar10_clip"]) == 0
    assert run(["use", "digits"]) == 0
    params = tmp_path / "params.yaml"
    assert params.read_bytes() == (tmp_path / "configs/digits.yaml").read_bytes()
    params.write_text(params.read_text().replace("epochs:", "epochs:  "))
    assert run(["use", "cifar10_clip"]) == 2
    assert "--force" in capsys.readouterr().err
    assert run(["use", "cifar10_clip", "--force"]) == 0
    config = tmp_path / "configs/cifar10_clip.yaml"  # the config was edited, not its copy,
    config.write_text(config.read_text().replace("seed: 0", "seed: 1", 1))
    assert run(["use", "cifar10_clip"]) == 0  # so no edit is lost
    assert params.read_bytes() == config.read_bytes()


def test_unlabelled_images_go_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "2024").mkdir(parents=True)
    for i in range(130):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        name = os.fsdecode(f"é{i}.jpg".encode("latin-1" if i % 2 else "utf-8"))
        Image.fromarray(pixels).save(tmp_path / "photos" / "2024" / name)
    text = (ROOT / "configs/folder_clip.yaml").read_text()
    text = text.replace("root: data/raw/images", "root: photos")
    text = text.replace(
        "  clip: {kind: open_clip, model: ViT-B-16, pretrained: laion400m_e32}",
        "  clip: {kind: hog, cell: 4}",
    )
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    small = [
        *("-c", "mine.yaml", "-s", "train.epochs=2", "-s", "train.batch_size=20"),
        *("-s", "dataset.image.size=16", "-s", "dataset.image.resize=18"),
        *("-s", "student.architecture=resnet8", "-s", "train.schedule={kind: cosine}"),
        *("-s", "dataset.split.validation=0.4"),
    ]
    for command in ("shard", "extract-features", "train", "evaluate", "report"):
        assert run([command, *small]) == 0, command
    record = json.loads((tmp_path / "runs/folder_clip/metrics/retrieval.json").read_text())
    assert record["split"] == "validation"
    assert record["checkpoint"]["selection"]["rule"] == "validation/objective"
    assert "agreement_at_10" in record["with_clip"]
    assert record["main"] == "agreement_at_10_with_clip"
    assert "recall_at_1" not in record
    assert set(record["with_clip"]) == {
        "agreement_at_1",
        "agreement_at_10",
        "agreement_at_50",
        "dcor_squared_unbiased",
    }
    assert run(["evaluate", *small, "-s", "evaluate.retrieval.agreement_ks=[1, 500]"]) == 0
    record = json.loads((tmp_path / "runs/folder_clip/metrics/retrieval.json").read_text())
    assert set(record["with_clip"]) == {"agreement_at_1", "dcor_squared_unbiased"}
    assert run(["evaluate", *small, "-s", "evaluate.linear={}"]) == 1


def test_what_a_folder_holds_besides_images_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(300):
        picture(tmp_path / "images" / f"{number}.png", number)
    picture(tmp_path / "images" / os.fsdecode(b"caf\xe9.png"), 400)
    picture(tmp_path / "images" / "@eaDir" / "0.png" / "thumb.png", 0)
    (tmp_path / "images" / "gone.png").symlink_to("nowhere.png")
    too_deep(tmp_path / "images")
    command = ["shard", "-c", str(ROOT / "configs/folder_self_supervised.yaml")]
    command += ["-s", "dataset.name=own", "-s", "dataset.source.root=images"]
    command += ["-s", "train.batch_size=20"]
    assert run([*command, "-s", "dataset.shards.on_bad_image=fail"]) == 1
    assert "cannot be listed: ddd" in capsys.readouterr().err
    assert run([*command, "-s", "dataset.shards.on_bad_image=skip"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1 of 302 images cannot be read and are left out: gone.png: " in told
    assert "folders of copies, which are left out: 1 in @eaDir" in told
    assert "1 folder cannot be listed: ddd" in told
    listings = [path.read_text() for path in Path("data/own/shards").rglob("samples.jsonl")]
    names = {json.loads(line)["name"] for text in listings for line in text.strip().split("\n")}
    assert "caf\\xe9.png" in names
    assert len(names) == 302


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_an_encoder_that_maps_all_images_to_one_point_is_scored_and_reported(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = inside / "runs/digits/checkpoints/best.pt"
    trained = load_checkpoint(path)
    constant = {name: torch.zeros_like(tensor) for name, tensor in trained.encoder.items()}
    bias = next(name for name in reversed(constant) if "backbone" in name and "bias" in name)
    constant[bias] = torch.ones_like(constant[bias])
    save_checkpoint(path, replace(trained, encoder=constant))
    assert run(["evaluate", "--only", "retrieval", *QUICK]) == 0
    assert run(["evaluate", "--only", "knn", *QUICK]) == 0
    assert run(["report", *QUICK]) == 0, capsys.readouterr().err
    page = (inside / "runs/digits/report.html").read_text()
    assert "All embeddings are equal." in page
    assert "All embeddings point in the same direction." in page
    assert "its embedding has collapsed" in page


@pytest.mark.parametrize("protocol", ["linear", "online", "knn", "ten_percent"])
def test_averages_over_classes_stand_beside_top1_and_follow_from_the_predictions(
    project: Path, protocol: str
) -> None:
    record = metrics(project, protocol)
    with (project / f"runs/digits/predictions/{protocol}/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    actual, predicted = ([row[name] for row in rows] for name in ("actual", "predicted"))
    balanced = balanced_accuracy_score(actual, predicted)
    assert record["balanced_accuracy"] == pytest.approx(100 * balanced)
    f1 = f1_score(actual, predicted, average="macro")
    assert record["macro_f1"] == pytest.approx(100 * f1)
    for name in ("balanced_accuracy", "macro_f1"):
        assert record[f"{name}_low"] < record[name] < record[f"{name}_high"]
        for control in record["controls"].values():
            assert control[f"{name}_low"] <= control[name] <= control[f"{name}_high"]
    sizes = Counter(actual).values()
    counts = {"classes": 10, "largest": max(sizes), "smallest": min(sizes)}
    assert record["class_sizes"] == counts
