"""`mvmr init`: what it refuses, what it writes, and what it leaves alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from ruamel.yaml import YAML

from stages.experiment.own_params import OwnParams
from stages.experiment.schema import load
from stages.experiment.shipped import shipped_configs
from stages.terminal.cli import run

ROOT = Path(__file__).parents[2]
Captured = pytest.CaptureFixture[str]
COLOURS = {"boot": (40, 60, 200), "coat": (50, 180, 60), "hat": (200, 60, 50)}


def photographs(root: Path, each: int = 30, folders: Mapping[str, str] | None = None) -> Path:
    """Write images of three colours, by default in three folders of classes."""
    draw = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        place = root / (name if folders is None else folders[name])
        place.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            coarse = np.kron(draw.normal(scale=40, size=(4, 6, 3)), np.ones((8, 8, 1)))
            pixels = np.clip(np.array(colour) + coarse, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{name}{number}.jpg")
    return root


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a small network with weights in a file, as it is named on the command line."""
    path = tmp_path_factory.mktemp("teacher") / "weights of a teacher.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", num_classes=0)
    torch.save(network.state_dict(), path)
    return f"timm:test_resnet:{path}"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, which is the working directory; photographs lie beside it."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    place = tmp_path / "Projekt für Öle"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def files(root: Path) -> set[str]:
    """Return what was written, without what is inside of .git and .dvc."""
    return {path.name for path in root.iterdir()}


WRITTEN = {"params.yaml", "dvc.yaml", "README.md", ".gitignore", ".dvcignore", ".git", ".dvc"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["../nowhere"], 1, "'../nowhere' does not exist"),
        (["../a file"], 1, "'../a file' is not a folder"),
        (["../bare"], 1, "There is no image below '../bare'"),
        (["../ten"], 1, "'../ten' holds 10 images. Training needs 60 or more"),
        ([".."], 2, "keeps files of its own"),
        (["."], 2, "keeps files of its own"),
        (["data"], 2, "keeps files of its own"),
        (["../photos", "--teacher", "resnet"], 2, "A teacher is open_clip:MODEL/TAG"),
        (["../photos", "--teacher", "timm:"], 2, "A teacher is"),
        (["../photos", "--teacher", "timm:test_resnet:"], 2, "A teacher is"),
        (["../photos", "--teacher", "open_clip:ViT-B-16"], 2, "A teacher is"),
        (["../photos", "--teacher", "timm:test_resnt:x.pt"], 2, "Did you mean 'test_resnet"),
        (["../photos", "--teacher", "open_clip:ViT-B-17/openai"], 2, "Did you mean 'ViT-B-1"),
        (["../photos", "--teacher", "open_clip:ViT-B-16/opnai"], 2, "Did you mean 'openai'"),
        (["../photos", "--teacher", "timm:test_resnet:x.pt"], 1, "no weights file 'x.pt'"),
        (["--teacher", "timm:test_resnet:x.pt"], 2, "`mvmr init PHOTOS --teacher"),
        (["../photos", "--from", "digits"], 2, "'digits' brings its own images"),
        (["--from", "digitz"], 2, "Did you mean 'digits'"),
        (["../photos", "--from", "folder_self_supervised", "--teacher", "timm:a"], 2, "no teacher"),
        (["../photos", "--minutes", "0"], 2, "--minutes"),
        (["../photos", "--student", "resnet19"], 2, "Did you mean 'resnet1"),
        (["../photos", "--student", "timm:test_resnt"], 2, "Did you mean 'test_resnet"),
        (["../photos", "--student", "python:nowhere:net"], 2, "nowhere"),
        (["--student", "timm:test_resnt"], 2, "Did you mean 'test_resnet"),
        (["--student", "timm:test_resnet:"], 2, "A student is NAME or timm:NAME"),
        (["--student", "timm:test_resnet:x.pt"], 1, "no file and no finished run 'x.pt'"),
        (["--student", "resnet18:pretrained"], 2, "is for backbones timm:NAME"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(
    empty: Path, capsys: Captured, arguments: list[str], code: int, said: str
) -> None:
    photographs(empty.parent / "photos", each=20)
    for number in range(10):
        place = empty.parent / "ten" / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40)).save(place)
    (empty.parent / "bare").mkdir()
    if arguments == ["data"]:
        photographs(empty / "data" / "2024", each=1)
    (empty.parent / "a file").touch()
    assert run(["init", *arguments]) == code
    told = " ".join(capsys.readouterr().err.split())
    assert said in told
    assert "Traceback" not in told
    assert len(told) < 700
    assert files(empty) - {"data"} == set()


def test_photographs_that_are_not_named_are_pointed_at(empty: Path, capsys: Captured) -> None:
    photographs(empty / "my photos", each=1)
    assert run(["init"]) == 2
    assert "`mvmr init 'my photos'`" in capsys.readouterr().err
    assert files(empty) == {"my photos"}
    shutil.rmtree(empty / "my photos")
    Image.new("RGB", (8, 8)).save(empty / "a.png")
    assert run(["init"]) == 2
    assert "keeps files of its own" in capsys.readouterr().err
    assert files(empty) == {"a.png"}


def test_a_virtual_environment_holds_no_photographs(empty: Path) -> None:
    (empty / "venv" / "lib").mkdir(parents=True)
    (empty / "venv" / "pyvenv.cfg").touch()
    Image.new("RGB", (8, 8)).save(empty / "venv" / "lib" / "logo.png")
    assert run(["init"]) == 0
    assert "/venv/" in (empty / ".gitignore").read_text().splitlines()
    assert "/venv/" in (empty / ".dvcignore").read_text().splitlines()


def test_without_photographs_the_digits_are_set_up(empty: Path, capsys: Captured) -> None:
    assert run(["init"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("Next: dvc repro\nThen: mvmr export\n")
    assert files(empty) == WRITTEN
    assert (empty / "params.yaml").read_bytes() == (
        ROOT / "configs/robust_digits.yaml"
    ).read_bytes()
    assert (empty / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    assert (empty / ".gitignore").read_text().splitlines() == ["/data/", "/runs/", "/dvc_plots/"]
    assert len((empty / "README.md").read_text().splitlines()) == 10
    settings = (empty / ".dvc/config").read_text()
    assert "reflink,hardlink,copy" in settings
    assert "no_scm" not in settings
    shown = subprocess.run(
        [Path(sys.executable).with_name("dvc"), "stage", "list"], capture_output=True, text=True
    )
    assert "train@robust_digits" in shown.stdout, shown.stderr
    capsys.readouterr()
    assert run(["doctor", "--json"]) == 0
    checks = {c["check"]: c["state"] for c in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["git"] == checks["dvc"] == "ok"


@pytest.mark.parametrize("student", ["resnet34", "resnet8x2", "timm:test_resnet"])
def test_a_student_can_be_named(empty: Path, student: str) -> None:
    assert run(["init", "--from", "folder_self_supervised", "--student", student]) == 0
    found = load(Path("params.yaml"))
    assert found.student.architecture == student
    before = load(ROOT / "configs/folder_self_supervised.yaml")
    assert found.student.projector == before.student.projector
    assert found.train is not None
    assert found.train.channels_last == student.startswith("timm:")
    other: dict[str, Any] = {"student": True, "train": {"channels_last"}}  # and so the same rate
    assert found.model_dump(exclude=other) == before.model_dump(exclude=other)


@pytest.mark.parametrize(
    ("name", "share"),
    [("folder_self_supervised", 0.3), ("folder_clip", 1)],
)
def test_a_student_that_starts_from_known_weights_learns_more_slowly_and_sees_their_colours(
    empty: Path, name: str, share: float
) -> None:
    network = timm.create_model("tf_efficientnet_lite0")
    torch.save(network.state_dict(), empty.parent / "lite0.pt")
    student = "timm:tf_efficientnet_lite0:../lite0.pt"
    assert run(["init", "--from", name, "--student", student]) == 0
    found = load(Path("params.yaml"))
    assert (found.student.architecture, found.student.weights) == (
        "timm:tf_efficientnet_lite0",
        "../lite0.pt",
    )
    assert (found.dataset.image.mean, found.dataset.image.std) == ((0.5,) * 3, (0.5,) * 3)
    assert found.train is not None
    assert (found.train.lr, found.train.backbone_lr) == (1e-3, share)
    text = Path("params.yaml").read_text()
    assert "\n\n\n" not in text
    assert all(f"\n\n{section}:\n" in text for section in ("student", "objective", "train"))


def test_weights_of_another_network_are_refused(empty: Path, capsys: Captured) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), empty.parent / "other.pt")
    assert run(["init", "--student", "resnet18:../other.pt"]) == 1
    assert "../other.pt, for resnet18: The weights do not fit" in capsys.readouterr().err
    assert files(empty) == set()


def test_without_git_dvc_is_set_up_alone(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    programs = empty.parent / "programs"
    programs.mkdir()
    (programs / "dvc").symlink_to(Path(sys.executable).with_name("dvc"))
    monkeypatch.setenv("PATH", str(programs))
    assert run(["init"]) == 0
    capsys.readouterr()
    assert files(empty) == WRITTEN - {".git"}
    assert run(["doctor", "--json"]) == 0
    checks = {c["check"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    assert (checks["git"]["state"], checks["git"]["remedy"]) == ("note", "`dvc exp` needs git")
    shown = subprocess.run([programs / "dvc", "stage", "list"], capture_output=True, text=True)
    assert "train@robust_digits" in shown.stdout, shown.stderr


def test_a_folder_of_a_repository_keeps_what_is_there(empty: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=empty.parent, check=True)
    (empty / "README.md").write_text("mine")
    (empty / ".gitignore").write_text("*.log\n/runs/")
    assert run(["init"]) == 0
    assert (empty / "README.md").read_text() == "mine"
    assert (empty / ".gitignore").read_text() == "*.log\n/runs/\n/data/\n/dvc_plots/\n"
    assert not (empty / ".git").exists()
    assert (empty / ".dvc/config").exists()
    done = subprocess.run(
        [Path(sys.executable).with_name("dvc"), "status"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_folder_that_git_ignores_gets_dvc_alone(empty: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=empty.parent, check=True)
    (empty.parent / ".gitignore").write_text("*\n")
    assert run(["init"]) == 0
    assert "no_scm = true" in (empty / ".dvc/config").read_text().lower()


def test_a_second_time_nothing_changes(empty: Path, capsys: Captured) -> None:
    assert run(["init"]) == 0
    before = {path: path.read_bytes() for path in empty.rglob("*") if path.is_file()}
    assert run(["init", "../photos"]) == 2
    assert "is a project already" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in empty.rglob("*") if p.is_file()} == before


def test_an_experiment_that_was_removed_is_chosen_anew(empty: Path) -> None:
    assert run(["init"]) == 0
    stages = (
        (empty / "dvc.yaml").read_text().replace("stages:", "stages:\n  own:\n    cmd: make", 1)
    )
    (empty / "dvc.yaml").write_text(stages)
    (empty / "params.yaml").unlink()
    assert run(["init", "--from", "digits"]) == 0
    assert "name: digits" in (empty / "params.yaml").read_text()
    assert (empty / "README.md").read_text().startswith("# digits\n")
    assert (empty / "dvc.yaml").read_text() == stages


def test_another_pipeline_is_told_what_to_merge(empty: Path, capsys: Captured) -> None:
    (empty / "dvc.yaml").write_text("stages:\n  train:\n    cmd: make\n")
    assert run(["init"]) == 2
    said = capsys.readouterr().err
    for part in ("source, shard, extract, select, train", "Rename your own train", "/data/ /runs/"):
        assert part in said
    (merged,) = [word for word in said.split() if word.endswith("/dvc.yaml") and "shipped" in word]
    assert Path(merged).read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    assert files(empty) == {"dvc.yaml"}


def test_an_experiment_that_is_there_is_kept(empty: Path, capsys: Captured) -> None:
    (empty / "params.yaml").write_text("mine: 1\n")
    assert run(["init"]) == 2
    assert "There is a params.yaml" in capsys.readouterr().err
    assert files(empty) == {"params.yaml"}


def test_a_missing_dvc_is_said_at_once(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setitem(sys.modules, "dvc", None)  # as if it were not installed
    assert run(["init"]) == 2
    assert "pip install 'mvmr[pipeline]'" in capsys.readouterr().err
    assert files(empty) == set()


def test_what_fails_at_the_end_leaves_nothing(empty: Path, capsys: Captured) -> None:
    (empty / ".gitignore").write_text("*.log")
    (empty / ".git").write_text("not a repository\n")
    assert run(["init"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert files(empty) == {".git", ".gitignore"}
    assert (empty / ".gitignore").read_text() == "*.log"


@pytest.mark.parametrize("name", ["imagenet_subset_self_supervised", "voc07_transfer"])
def test_a_config_can_be_taken_as_it_is(empty: Path, capsys: Captured, name: str) -> None:
    assert run(["init", "--from", name]) == 0
    assert load(Path("params.yaml")) == load(ROOT / "configs" / f"{name}.yaml")
    source = load(Path("params.yaml")).dataset.source
    assert f"Put the images into {getattr(source, 'root', '')} first" in capsys.readouterr().out


def test_configs_come_with_the_program_and_from_the_project(empty: Path, capsys: Captured) -> None:
    assert run(["use", "imagenet_subset_self_supervised"]) == 0
    Path("configs").mkdir()
    text = (ROOT / "configs/digits.yaml").read_text()
    Path("configs/digits.yaml").write_text(text.replace("seed: 0", "seed: 7", 1))
    Path("configs/mine.yaml").write_text(text.replace("name: digits", "name: mine", 1))
    capsys.readouterr()
    assert run(["use", "--list", "--json"]) == 0
    listed = [row["name"] for row in json.loads(capsys.readouterr().out)["configs"]]
    assert listed == sorted([*shipped_configs(), "mine"])
    assert run(["use", "digits"]) == 0
    assert load(Path("params.yaml")).seed == 7
    assert "Next: mvmr shard" in capsys.readouterr().out
    assert run(["use", "digitz"]) == 2
    assert "Did you mean 'digits'" in capsys.readouterr().err


def plain(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe", pure=True).load(path)
    return values


def test_a_teacher_takes_the_place_of_another_everywhere(tmp_path: Path) -> None:
    params = OwnParams(ROOT / "configs/cifar10_clip.yaml")
    params.set_teacher({"kind": "timm", "model": "test_resnet", "weights": "ä b: c.pt"})
    (tmp_path / "params.yaml").write_text(params.text(["mine", "", "more"]))
    text = (tmp_path / "params.yaml").read_text()
    assert text.startswith("# mine\n#\n# more\n\nname: cifar10_clip\n")
    assert "# halves the resolution at once" in text
    before, after = plain(ROOT / "configs/cifar10_clip.yaml"), plain(tmp_path / "params.yaml")
    assert after["features"] == {
        "teacher": {"kind": "timm", "model": "test_resnet", "weights": "ä b: c.pt"}
    }
    renamed = json.dumps(before["objective"]).replace('"clip"', '"teacher"')
    assert after["objective"] == json.loads(renamed)
    assert after["evaluate"]["zero_shot"] == {"teacher": "teacher"}
    same = before.keys() - {"features", "objective", "evaluate"}
    assert {key: after[key] for key in same} == {key: before[key] for key in same}


@pytest.mark.slow
def test_proportions_follow_from_a_measurement(empty: Path, capsys: Captured, teacher: str) -> None:
    photographs(empty / "data" / "my-photos", each=40)
    assert run(["init", "data/my-photos", "--teacher", teacher, "--minutes", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    experiment = load(Path("params.yaml"))
    assert (
        experiment.name == experiment.dataset.name == document["experiment"] == "my-photos-project"
    )
    assert (document["classes"], document["size"]) == (3, 32)
    assert sum(document["images"].values()) == 120
    assert "\n# photographs: about " in Path("params.yaml").read_text()  # contents decide
    assert experiment.train is not None
    assert experiment.train.batch_size == document["batch_size"] == 8
    assert experiment.train.epochs == document["epochs"]
    assert document["seconds"] < 120 or document["epochs"] == 1
    assert [*experiment.evaluate] == ["linear", "knn", "retrieval"]
    assert [*experiment.features] == ["teacher"]
    assert [*(experiment.objective or ())] == ["near", "teacher"]
    assert (experiment.dataset.split.validation, experiment.dataset.split.test) == (0.2, 0.2)
    assert document["next"] == "dvc repro"
    assert document["then"] == "mvmr embed data/my-photos -o runs/my-photos-project.npz"
    assert files(empty) == WRITTEN | {"data"}
    for name in (".gitignore", ".dvcignore"):
        assert "/data/my-photos/" in (empty / name).read_text().splitlines()
    status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True)
    assert "photos" not in status.stdout
    row = next(c for c in shipped_list(capsys) if c["name"] == "my-photos")
    assert row["teacher"] == "test_resnet"
    assert "mvmr init" in row["cost"]


def shipped_list(capsys: Captured) -> list[dict[str, str]]:
    """Return the list of configs, of which one is the experiment that was written."""
    Path("configs").mkdir()
    shutil.copy("params.yaml", "configs/my-photos.yaml")
    capsys.readouterr()
    assert run(["use", "--list", "--json"]) == 0
    rows: list[dict[str, str]] = json.loads(capsys.readouterr().out)["configs"]
    return rows


@pytest.mark.slow
def test_an_interrupted_measurement_leaves_nothing(empty: Path, teacher: str) -> None:
    photographs(empty.parent / "photos", each=40)
    temporary = empty.parent / "temporary"
    temporary.mkdir()
    code = "import sys\nfrom stages.terminal.cli import main\nsys.argv[0] = 'mvmr'\nmain()"
    command = [sys.executable, "-c", code, "init", "../photos", "--teacher", teacher]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": paths}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for _ in range(1200):
            if list(temporary.glob("mvmr-plan-*/run")):  # training is being measured
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "is kept" not in said
    again = "Interrupted. Unfinished work is not kept. Start again with: mvmr init ../photos"
    assert again in said
    assert "Traceback" not in said
    assert files(empty) == set()
    assert list(temporary.glob("mvmr-plan-*")) == []
