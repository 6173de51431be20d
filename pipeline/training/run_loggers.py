"""`train.loggers`: where the curves of a run are written besides `epochs.csv`.

Each is the logger that Lightning, or the library itself, has for Lightning. All get the same
metrics under the same names, in a directory of their own below that of the run, unless the
library's environment variables name a server (WANDB_MODE, MLFLOW_TRACKING_URI).
"""

import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from pipeline.base.atomic import write_json
from pipeline.base.errors import ConfigError
from pipeline.base.processes import is_first_process
from pipeline.training.train_options import LoggerName

TENSORBOARD: LoggerName = "tensorboard"
PROJECT = "mvmr"
IDENTITIES = "loggers.json"  # of runs in libraries that name each run


@contextmanager
def run_loggers(
    names: Sequence[LoggerName], work: Path, run_name: str
) -> Iterator[Sequence[Logger]]:
    """Yield the loggers of a run whose files are below `work`; an interrupted run is continued.

    Raises ConfigError if the library of one is not installed.
    """
    before = _open_wandb()
    try:
        yield [_built(name, work, run_name) for name in dict.fromkeys(names)]
    finally:
        # Lightning leaves it open, and the next run of this process would be written into it.
        if (opened := _open_wandb()) is not before:
            opened.finish()


def publish_logs(work: Path, target: Path) -> None:
    """Copy the loggers' files of a finished run: TensorBoard's into `target`, others below it."""
    for name in _BUILDERS:
        if (work / name).exists():
            into = target if name == TENSORBOARD else target / name
            shutil.copytree(work / name, into, symlinks=True, dirs_exist_ok=True)


def _built(name: LoggerName, work: Path, run_name: str) -> Logger:
    try:
        return _BUILDERS[name](work, run_name)
    except ImportError as error:
        raise ConfigError(
            f"train.loggers: {name} is not installed: pip install 'mvmr[{name}]', or leave it out."
        ) from error


def _tensorboard(work: Path, run_name: str) -> Logger:
    del run_name
    return TensorBoardLogger(work, name="", version="tensorboard")


def _csv(work: Path, run_name: str) -> Logger:
    del run_name
    return CSVLogger(work, name="csv")  # a version for each time that the run was continued


def _dvclive(work: Path, run_name: str) -> Logger:
    from dvclive.lightning import DVCLiveLogger

    folder = work / "dvclive"
    logger: Logger = DVCLiveLogger(
        run_name=run_name,
        dir=str(folder),
        resume=folder.exists(),
        save_dvc_exp=False,
        dvcyaml=None,
        monitor_system=False,
    )
    return logger


def _wandb(work: Path, run_name: str) -> Logger:
    from wandb import Settings

    work.mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        name=run_name,
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        save_dir=work,
        id=_identity(work, "wandb", _random),
        settings=Settings(silent=True),
    )


def _mlflow(work: Path, run_name: str) -> Logger:
    # The only store that needs no database.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

    def made() -> str:
        return str(logger().run_id)

    def logger(run_id: str | None = None) -> MLFlowLogger:
        return MLFlowLogger(
            experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
            run_name=run_name,
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"),
            save_dir=str(work.absolute() / "mlflow"),
            run_id=run_id,
        )

    return logger(_identity(work, "mlflow", made))


def _open_wandb() -> Any:
    """Return the run of wandb that is open in this process, perhaps the caller's, if any."""
    return getattr(sys.modules.get("wandb"), "run", None)


def _random() -> str:
    return secrets.token_hex(8)


def _identity(work: Path, name: str, make: Callable[[], str]) -> str | None:
    """Return what names this run in a library, made once; None in all processes but the first."""
    if not is_first_process():
        return None
    record = work / IDENTITIES
    known: Mapping[str, Any] = json.loads(record.read_text("utf-8")) if record.exists() else {}
    if name not in known:
        known = {**known, name: make()}
        write_json(record, known)
    return str(known[name])


_BUILDERS: Mapping[LoggerName, Callable[[Path, str], Logger]] = {
    "tensorboard": _tensorboard,
    "csv": _csv,
    "dvclive": _dvclive,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
