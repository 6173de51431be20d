"""Nothing stale is used silently: sources, teachers, and files missing on this machine."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from ruamel.yaml import YAML
from watched import Watched

from pipeline.base.errors import DataError, StaleFeatureError
from pipeline.base.locks import exclusive
from pipeline.base.progress import Silent
from pipeline.datasets.digits import DigitsOptions
from pipeline.datasets.image_folder import ImageFolder
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.extraction.fingerprint import check_features
from pipeline.features.store import FeatureStore, StoredFeature
from pipeline.images.original_view import ImageOptions
from pipeline.representations.teachers.timm import TimmOptions
from pipeline.shards.writing import ShardOptions, write_split
from stages.experiment.schema import load
from stages.experiment.state import states
from stages.terminal.cli import run

ROOT = Path(__file__).parents[2]
IMAGE = ImageOptions(size=8, channels=1, mean=(0.3,), std=(0.4,))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project of 40 unlabelled images, sharded and extracted."""
    folder = tmp_path / "images"
    folder.mkdir()
    source = DigitsOptions().open()
    for item in source.splits["train"][:40]:
        (folder / f"{item.name}.png").write_bytes(source.read(item).data)
    data: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "configs" / "digits.yaml")
    data["dataset"]["source"] = {"kind": "image_folder", "root": "images"}
    data["dataset"]["split"] = {"validation": 0.25}
    data["features"] = {"hog": {"cell": 4}}
    data["objective"] = {"invariance": {}, "variance": {}, "hog": {"kind": "dependence"}}
    data["student"] = {"architecture": "resnet8", "projector": [16]}
    data["train"] |= {"epochs": 1, "batch_size": 10}
    data["evaluate"] = {}
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(data, file)
    monkeypatch.chdir(tmp_path)
    assert run(["shard", "-q"]) == 0
    assert run(["extract-features", "-q"]) == 0
    return tmp_path


def added(folder: Path) -> str:
    Image.new("L", (8, 8), 9).save(folder / "new.png")
    return "1 new (new.png)"


def removed(folder: Path) -> str:
    (folder / "0003.png").unlink()
    return "1 gone (0003.png)"


def replaced(folder: Path) -> str:
    Image.new("L", (8, 8), 9).save(folder / "0003.png")
    return "1 replaced (0003.png)"


@pytest.mark.parametrize("change", [added, removed, replaced])
def test_a_changed_folder_is_told_and_followed(
    project: Path, capsys: pytest.CaptureFixture[str], change: Any
) -> None:
    expected = change(project / "images")
    experiment = load(Path("params.yaml"))
    (found, *_) = states(experiment, "data", Silent())
    assert (found.stage, found.condition, found.remedy) == ("shard", "stale", "mvmr shard")
    assert expected in found.found
    assert run(["shard"]) == 0
    assert f"images have changed: {expected}." in " ".join(capsys.readouterr().out.split())
    assert run(["train"]) == 1
    message = capsys.readouterr().err
    assert "`mvmr extract-features --only hog`, which computes only those that are new" in message
    assert "--force" not in message
    assert run(["extract-features"]) == 0
    taken = {"1 new (new.png)": "40 of 41", "1 gone (0003.png)": "39 of 39"}
    told = taken.get(expected, "39 of 40")
    assert f"hog: {told} rows taken over" in " ".join(capsys.readouterr().out.split())
    found, extracted, *_ = states(experiment, "data", Silent())
    assert (found.condition, extracted.condition) == ("done", "done")
    assert run(["train", "-q"]) == 0


def test_a_touched_file_costs_a_listing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar = next(Path("data/digits/shards/train").glob("*.tar"))
    before = tar.stat().st_mtime_ns
    os.utime(project / "images" / "0003.png", ns=(1, 1))
    assert run(["shard", "--json"]) == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert not any(changes.values())
    assert tar.stat().st_mtime_ns == before
    assert run(["train", "-q"]) == 0


def test_an_unchanged_folder_is_only_listed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(ImageFolder, "read", read)
    assert run(["shard", "-q"]) == 0


def test_two_packings_of_one_data_set_exclude_each_other(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    added(project / "images")
    with exclusive(project / "data/digits/packing.lock", DataError("busy")):
        assert run(["shard"]) == 1
        assert "Another `mvmr shard` is packing data/digits/shards" in capsys.readouterr().err
    assert run(["shard", "-q"]) == 0


def test_without_the_folder_what_follows_the_shards_runs(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "images").rename(project / "elsewhere")
    assert run(["store", "look"]) == 0
    assert "The shards are used as they are" in capsys.readouterr().out
    for stage in (["extract-features"], ["store", "select"], ["train"]):
        assert run([*stage, "-q"]) == 0


def test_a_checkpoint_is_not_scored_on_images_that_it_may_have_seen(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data set is split again with another seed, so training images become test images."""
    assert run(["train", "-q"]) == 0
    scored = ["-q", "-s", "evaluate={retrieval: {}}"]
    assert run(["evaluate", *scored]) == 0
    other = [*scored, "-s", "dataset.split.seed=5"]
    assert run(["shard", *other]) == 0
    assert run(["extract-features", *other]) == 0
    assert run(["evaluate", *other]) == 1
    message = capsys.readouterr().err
    assert "trained on other train and validation images of 'digits'" in message
    assert (project / "runs").exists()


def test_a_missing_manifest_is_damage(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "data" / "digits" / "shards" / "train" / "manifest.json").unlink()
    assert run(["store", "verify"]) == 1
    assert "manifest.json: is missing" in capsys.readouterr().out


def test_the_table_shows_sound_features_beside_a_damaged_one(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    added = ["-s", "features.more={kind: hog, cell: 2}"]
    assert run(["extract-features", "-q", *added]) == 0
    (project / "data" / "digits" / "features.zarr" / "hog" / "zarr.json").unlink()
    assert run(["store", "info"]) == 0
    output = capsys.readouterr().out
    assert "more" in output
    assert "is missing" in output


def test_what_was_begun_is_gone_on_with_only_by_what_began_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = project / "data" / "digits"
    store = FeatureStore(data / "features.zarr")
    begun = data / "work" / f"hog-{store['hog'].digest[:16]}"
    (begun / "done").mkdir(parents=True)
    (begun / "done" / "train-000000").touch()

    def told(*arguments: str) -> str:
        assert run(["store", "info", *arguments]) == 0
        return capsys.readouterr().out.splitlines()[-1]

    assert "1 of 2 shards done. The stored feature is complete" in told()
    assert "`mvmr extract-features --only hog --force` continues" in told()
    other = ["-s", "features.hog.cell=2"]
    assert "this experiment cannot continue it" in told(*other)
    assert f"remove data/digits/work/{begun.name}." in told(*other)
    assert "the experiment that began it can continue it" in told("data/digits/features.zarr")
    (store.path / "hog").rename(project / "aside")
    assert "`mvmr extract-features --only hog` continues from there" in told()
    found = {state.stage: state for state in states(load(Path("params.yaml")), "data", Silent())}
    assert found["extract@hog"].condition == "unfinished"
    changed = load(Path("params.yaml"), other[1:])
    found = {state.stage: state for state in states(changed, "data", Silent())}
    assert found["extract@hog"].condition == "missing"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    return tmp_path / "teacher.pt"


def options(weights: Path, **changes: Any) -> TimmOptions:
    return TimmOptions.model_validate({"model": "test_resnet", "weights": weights, **changes})


def check(root: Path, wanted: TimmOptions) -> list[str]:
    notes = Watched()
    check_features(
        {"teacher": wanted},
        image=IMAGE,
        shards=root / "shards",
        store=FeatureStore(root / "features.zarr"),
        progress=notes,
    )
    return notes.notes


@pytest.fixture
def taught(tmp_path: Path, weights: Path) -> StoredFeature:
    source = DigitsOptions().open()
    write_split(
        source,
        source.splits["train"][:12],
        tmp_path / "shards" / "train",
        dataset="digits",
        split="train",
        options=ShardOptions(samples=12),
        provenance={},
        progress=Silent(),
    )
    return extract(
        {"teacher": options(weights)},
        image=IMAGE,
        shards=tmp_path / "shards",
        store=FeatureStore(tmp_path / "features.zarr"),
        work=tmp_path / "work",
        options=ClusterOptions(workers=1),
        progress=Silent(),
    )["teacher"]


@pytest.mark.usefixtures("taught")
def test_changed_weights_are_refused(tmp_path: Path, weights: Path) -> None:
    assert check(tmp_path, options(weights)) == []
    state = torch.load(weights, weights_only=True)
    name = next(iter(state))
    torch.save({**state, name: state[name] + 1e-3}, weights)
    with pytest.raises(StaleFeatureError, match=r"representation\.weights is now"):
        check(tmp_path, options(weights))


@pytest.mark.usefixtures("taught")
def test_absent_weights_are_taken_on_trust_and_the_rest_is_checked(
    tmp_path: Path, weights: Path
) -> None:
    weights.unlink()
    (note,) = check(tmp_path, options(weights))
    assert "checked without its weights" in note
    with pytest.raises(StaleFeatureError, match="dtype is now 'int8', was 'float16'"):
        check(tmp_path, options(weights, dtype="int8"))
    with pytest.raises(StaleFeatureError, match=r"options\.precision is now 'bfloat16'"):
        check(tmp_path, options(weights, precision="bfloat16"))
