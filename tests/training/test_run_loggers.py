"""`train.loggers`: the same metrics under the same names, wherever they are looked at."""

import builtins
import csv
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import RESUMED, make_data, make_run
from watched import Watched

from pipeline.base.errors import ConfigError
from pipeline.base.progress import Silent
from pipeline.training.fit import CURVES, fit
from pipeline.training.run_loggers import publish_logs

# These libraries warn of things that are none of this project's.
pytestmark = pytest.mark.filterwarnings("ignore")

Scalars = dict[str, list[float]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    make_data(root)
    return root


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the libraries offline, and their settings out of the user's."""
    for name in [n for n in os.environ if n.startswith(("WANDB_", "MLFLOW_", "DVC"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)


def of_tensorboard(work: Path) -> Scalars:
    found = EventAccumulator(str(work / "tensorboard")).Reload()
    return {tag: [e.value for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def of_csv(work: Path) -> Scalars:
    scalars: Scalars = {}
    for path in sorted(work.glob("csv/*/metrics.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name != "step":
                        scalars.setdefault(name, []).append(float(value))
    return scalars


def of_dvclive(work: Path) -> Scalars:
    folder = work / "dvclive/plots/metrics"
    scalars = {}
    for path in folder.rglob("*.tsv"):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        name = path.relative_to(folder).with_suffix("").as_posix()
        scalars[name] = [float(row[path.stem]) for row in rows]
    return scalars


def of_wandb(work: Path) -> Scalars:
    from wandb.proto import wandb_internal_pb2

    scalars: Scalars = {}
    for path in sorted(work.glob("wandb/offline-run-*/*.wandb")):
        for content in logged_records(path.read_bytes()[7:]):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if not name.startswith(("_", "trainer/")):
                    scalars.setdefault(name, []).append(float(item.value_json))
    return scalars


def logged_records(content: bytes, block: int = 32 * 1024, first: int = 7) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format, which begins `first` bytes into a block."""
    place, held = 0, b""
    while place + 7 <= len(content):
        left = block - (place + first) % block
        if left < 7:  # too little for a header
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        held += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield held
            held = b""


def of_mlflow(work: Path) -> Scalars:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"file:{work.absolute()}/mlflow")
    (experiment,) = [e for e in client.search_experiments() if e.name == "mvmr"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history
    return {name: [m.value for m in history(run.info.run_id, name)] for name in run.data.metrics}


READ: dict[str, Callable[[Path], Scalars]] = {
    "tensorboard": of_tensorboard,
    "csv": of_csv,
    "dvclive": of_dvclive,
    "wandb": of_wandb,
    "mlflow": of_mlflow,
}
PACKAGES = ("dvclive", "wandb", "mlflow")


def curves(work: Path) -> Scalars:
    with (work / CURVES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "step"}


@pytest.mark.parametrize("name", READ)
def test_a_logger_gets_all_curves_under_their_names(data: Path, tmp_path: Path, name: str) -> None:
    if name in PACKAGES:
        pytest.importorskip(name)
    work = tmp_path / "work"
    fit(make_run(data, epochs=2, loggers=[name]), work=work, progress=Silent())
    found, expected = READ[name](work), curves(work)
    batches = {tag for tag in found if tag.startswith("batch/")}
    assert {"batch/objective", "batch/learning_rate", "batch/term/hog"} <= batches
    assert found.keys() - batches == expected.keys()
    for tag, values in expected.items():
        assert found[tag] == pytest.approx(values, rel=1e-4), tag


@pytest.mark.parametrize("name", READ)
def test_an_interrupted_run_continues_its_curves(data: Path, tmp_path: Path, name: str) -> None:
    from test_training import Pulled, PullThePlug

    if name in PACKAGES:
        pytest.importorskip(name)
    work, options = tmp_path / "work", {**RESUMED, "epochs": 3, "loggers": [name]}
    with pytest.raises(Pulled):
        fit(make_run(data, **options), work=work, progress=PullThePlug(7))
    time.sleep(1.1)  # wandb names the directory of a run by the second
    fit(make_run(data, **options), work=work, progress=Silent())
    found = READ[name](work)
    assert found["epoch"] == [1, 2, 3]
    assert found["train/objective"] == pytest.approx(curves(work)["train/objective"], rel=1e-4)


def test_a_missing_library_is_one_sentence(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any, **options: Any) -> Any:
        if name.split(".")[0] == "dvclive":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *more, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    screen = Watched()
    with pytest.raises(ConfigError, match=r"dvclive is not installed: pip install 'mvmr\[dvclive"):
        fit(make_run(data, loggers=["csv", "dvclive"]), work=tmp_path / "w", progress=screen)
    assert not screen.phases  # before anything is loaded


def test_an_unknown_logger_lists_the_valid_ones(data: Path) -> None:
    with pytest.raises(ValueError, match="'tensorboard', 'csv', 'dvclive', 'wandb' or 'mlflow'"):
        make_run(data, loggers=["tensorbord"])


def test_files_of_several_loggers_are_published(data: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    fit(make_run(data, epochs=1, loggers=["tensorboard", "csv"]), work=work, progress=Silent())
    publish_logs(work, tmp_path / "logs")
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))
    assert (tmp_path / "logs/csv/version_0/metrics.csv").exists()
    none = make_run(data, epochs=1, loggers=[])
    assert len(fit(none, work=tmp_path / "none", progress=Silent())) == 1
