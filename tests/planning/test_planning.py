"""The estimates of a plan, compared with the actual costs."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from digits_run import QUICK
from hypothesis import given
from hypothesis import strategies as st
from watched import Watched

from pipeline.base.errors import DataError
from pipeline.base.progress import Silent
from pipeline.datasets.digits import DigitsOptions
from pipeline.datasets.split import SplitOptions, cut
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.store import FeatureStore
from pipeline.images.original_view import ImageOptions
from pipeline.planning.cost import extraction_cost
from pipeline.planning.pace import Pace, PaceMeter, Piece
from pipeline.planning.trial_sample import TrialSample, sample_of
from pipeline.representations.hog import HogOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.representations.scattering import ScatteringOptions
from pipeline.shards.writing import ShardOptions, write_split
from stages.terminal.cli import run

IMAGE = ImageOptions(size=8, channels=1, mean=(0.3,), std=(0.4,))
SPLIT = SplitOptions(validation=0.1, test=0.2)
SHARDS = ShardOptions(samples=512)
CONFIG = Path(__file__).parents[2] / "configs" / "digits.yaml"


def size_below(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.fixture
def sample(tmp_path: Path) -> TrialSample:
    source = DigitsOptions().open()
    return sample_of(source, cut(source, SPLIT), SHARDS, count=150, root=tmp_path / "sample")


def test_sizes_are_those_of_the_whole(sample: TrialSample, tmp_path: Path) -> None:
    source = DigitsOptions().open()
    shards = tmp_path / "shards"
    splits = cut(source, SPLIT)
    for split, items in splits.items():
        write_split(
            source,
            items,
            shards / split,
            dataset="digits",
            split=split,
            options=SHARDS,
            provenance={},
            progress=Silent(),
        )
    assert sample.images == {split: len(items) for split, items in splits.items()}
    tars = sum(tar.stat().st_size for tar in shards.rglob("*.tar"))
    assert sample.cost.bytes == pytest.approx(tars, rel=0.01)
    features: dict[str, RepresentationOptions] = {
        "hog": HogOptions(cell=4),
        # More components than the training images of the sample could give.
        "scattering": ScatteringOptions.model_validate({"reduce": {"pca": 120}}),
    }
    store = FeatureStore(tmp_path / "features.zarr")
    store.create()
    extract(
        features,
        image=IMAGE,
        shards=shards,
        store=store,
        work=tmp_path / "work",
        options=ClusterOptions(workers=1),
        progress=Silent(),
    )
    for name, options in features.items():
        cost, _ = extraction_cost(sample, name, options, IMAGE)
        assert cost.width == store[name].width
        assert cost.bytes == pytest.approx(size_below(tmp_path / "features.zarr" / name), rel=0.05)
        assert cost.seconds > 1797 / cost.images_per_second


def test_few_images_give_as_many_components_as_they_can_and_that_is_said(tmp_path: Path) -> None:
    source, notes = DigitsOptions().open(), Watched()
    for split, items in cut(source, SPLIT).items():
        write_split(
            source,
            items[:60],
            tmp_path / "shards" / split,
            dataset="digits",
            split=split,
            options=SHARDS,
            provenance={},
            progress=Silent(),
        )
    store = FeatureStore(tmp_path / "features.zarr")
    store.create()
    stored = extract(
        {"scattering": ScatteringOptions.model_validate({"reduce": {"pca": 120}})},
        image=IMAGE,
        shards=tmp_path / "shards",
        store=store,
        work=tmp_path / "work",
        options=ClusterOptions(workers=1),
        progress=notes,
    )["scattering"]
    assert 20 < stored.width < 60
    (note,) = [note for note in notes.notes if "components" in note]
    assert note.startswith(f"scattering: {stored.width} principal components instead of 120")
    assert "Set features.scattering.reduce to {}" in note
    fitted = stored.reduction()[0]
    assert any(stored.width in array.shape for array in fitted.values())


def test_a_plan_needs_some_images(tmp_path: Path) -> None:
    source = DigitsOptions().open()
    splits = cut(source, SPLIT)
    with pytest.raises(DataError, match="found 20"):
        sample_of(source, {"train": splits["train"][:20]}, SHARDS, count=150, root=tmp_path)


def test_the_meter_tells_phases_apart() -> None:
    meter = PaceMeter()
    meter.start("one", 2, "images", step="shard")
    meter.advance(1)
    meter.advance(1)
    meter.start("between", 0, "")
    meter.start("two", 3, "images", step="extract")
    (one,), (two,) = meter.of("shard"), meter.of("extract")
    assert (one.piece().shards, one.piece().images) == (2, 2)
    assert one.piece().seconds == pytest.approx(one.times[1] - one.began)
    assert one.piece(1).seconds == pytest.approx(one.times[1] - one.times[0])
    assert two.piece().seconds == 0


@given(
    per_shard=st.just(0.0) | st.floats(1e-3, 10),
    per_image=st.floats(1e-5, 1),
    large=st.tuples(st.integers(1, 50), st.integers(100, 1000)),
    small=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_what_a_tar_and_what_an_image_takes_are_told_apart(
    per_shard: float, per_image: float, large: tuple[int, int], small: tuple[int, int]
) -> None:
    pieces = [
        Piece(tars, tars * each, tars * per_shard + tars * each * per_image)
        for tars, each in (large, small)
    ]
    pace = Pace.of(*pieces)
    whole = 7 * per_shard + 7000 * per_image
    assert pace.seconds(7, 7000) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("objective", ["hog", "pixels"])
def test_the_command_leaves_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    objective: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    arguments = ["plan", "-c", str(CONFIG), "--images", "150"]
    stored = "{hog: {cell: 4}}" if objective == "hog" else "{}"
    views = "{}" if objective == "hog" else "{local: {count: 2, size: 5}}"
    for assignment in (
        f"features={stored}",
        f"objective={{invariance: {{}}, {objective}: {{kind: dependence}}}}",
        "student={architecture: resnet8, projector: [16]}",
        "train={epochs: 40, batch_size: 64, lr: 1e-3, schedule: {warmup_epochs: 5}}",
        f"train.views={views}",
    ):
        arguments += ["-s", assignment]
    assert run(arguments) == 0
    said = capsys.readouterr().out
    for part in (
        "1,259 train, 179 validation, 359 test",
        "shards",
        "40 epochs",
        "memory",
        "report",
    ):
        assert part in said
    assert ("Caching saves" in said) == (objective == "hog")
    assert ("2 global of 8 x 8 px, 2 local of 5 x 5 px" in said) == (objective == "pixels")
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == threads


STAGE = re.compile(r"Running stage '([^']*)'")


def repro(root: Path) -> dict[str, float]:
    """Run the whole experiment with DVC, and return the seconds of each stage."""
    shutil.copy(CONFIG.parents[1] / "dvc.yaml", root)
    (root / ".dvcignore").touch()
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {**os.environ, "PATH": paths, "DVC_NO_ANALYTICS": "1"}
    subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=root, env=settings, check=True)
    begun, ended = dict[str, float](), 0.0
    with subprocess.Popen(
        ["dvc", "repro"], cwd=root, env=settings, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout or ():
            if found := STAGE.search(line):
                begun[found[1].replace("@digits-", "@").replace("@digits", "")] = time.monotonic()
        ended = time.monotonic()
    assert process.returncode == 0
    times = [*begun.values(), ended]
    return dict(zip(begun, (b - a for a, b in pairwise(times)), strict=True))


@pytest.mark.slow
def test_the_forecast_of_every_stage_is_near_what_dvc_takes(tmp_path: Path) -> None:
    shutil.copy(CONFIG, tmp_path / "params.yaml")
    began = time.monotonic()
    answer = subprocess.run(
        [Path(sys.executable).with_name("mvmr"), "plan", "--json"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    planned = time.monotonic() - began
    forecast = json.loads(answer.stdout)["stages"]
    took = repro(tmp_path)
    assert forecast.keys() == took.keys()
    assert planned <= max(20, sum(took.values()) / 10)
    assert sum(took.values()) / 1.5 < sum(forecast.values()) < 1.5 * sum(took.values())
    kinds = {name.partition("@")[0] for name in took}
    for kind in kinds & {"extract", "train", "evaluate", "report"}:
        expected, found = (
            sum(s for n, s in some.items() if n.startswith(kind)) for some in (forecast, took)
        )
        assert found / 1.5 < expected < 1.5 * found, (kind, expected, found)


@pytest.mark.slow
def test_what_is_done_is_not_forecast_again(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "--json", "--images", "100", *QUICK]) == 0
    assert list(json.loads(capsys.readouterr().out)["stages"]) == ["source", "select", "keep"]
    changed = ["-s", "evaluate.knn.ks=[5]"]
    assert run(["plan", "--json", "--images", "100", *QUICK, *changed]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert "evaluate@knn" in stages
    assert "train" not in stages
    assert all(seconds > 0 for seconds in stages.values())


def test_a_missing_file_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    missing = "features.t={kind: timm, model: test_vit, weights: nowhere.pt}"
    assert run(["plan", "-c", str(CONFIG), "-s", missing]) == 1
    told = capsys.readouterr()
    assert "features.t.weights: there is no file 'nowhere.pt'" in told.err
    assert "measur" not in told.out
