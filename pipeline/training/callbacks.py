"""Callbacks of a run: progress and curves, the best checkpoint, and the loader's position."""

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from pipeline.base.atomic import atomic_path
from pipeline.base.errors import TrainingError
from pipeline.base.progress import Progress
from pipeline.loading.batch import Loader
from pipeline.loading.loaders import DeferredLoader
from pipeline.training.collectives import sum_over_processes
from pipeline.training.curve_names import EXPLAINED, KNN, OBJECTIVE, PROBE, explained_shares
from pipeline.training.train_options import Rule

SHOWN_EVERY_SECONDS = 1.0
# The curve that a rule of selection follows, and 1 if more of it is better, else -1.
FOLLOWED = {"probe": (PROBE, 1), "knn": (KNN, 1), "objective": (OBJECTIVE, -1)}


class Curves(Callback):
    """Shows every step, and writes one row per epoch: objective, terms, probes, rate, speed.

    Training values are means over the samples of the whole epoch, even if it was interrupted.
    Images per second and `wait_share`, the share of time spent waiting for the loader, count from
    the start of the epoch, or from its resumption. If a run repeats an epoch, its row is replaced.
    Each term of validation stands beside its trivial answer and the share of it that is explained.
    """

    def __init__(self, path: Path, loader: Loader, progress: Progress) -> None:
        self._path = path
        self._loader = loader
        self._progress = progress
        self._names: list[str] = []
        self._sums = torch.zeros(0, dtype=torch.float64)
        self._samples = 0  # of this epoch; `_recent` counts those of this process
        self._recent = 0
        self._began = self._ended = self._shown = self._waited = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Announce the number of steps left."""
        steps = int(trainer.num_training_batches)
        done = trainer.current_epoch * steps + self._loader.delivered % steps
        left = steps * (trainer.max_epochs or 0) - done
        self._progress.start("train", left, "steps", step="train")
        self._sums = self._sums.to(pl_module.device)
        self._start_clock()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the sums and the clock."""
        self._sums, self._samples = torch.zeros_like(self._sums), 0
        self._start_clock()

    def _start_clock(self) -> None:
        self._recent = 0
        self._waited = self._loader.waited_seconds
        self._began = self._ended = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add the batch's values to the sums."""
        rows = len(batch["images"])
        values = torch.stack([value.double() for value in outputs["values"].values()])
        if not self._samples:
            self._names = list(outputs["values"])
            self._sums = torch.zeros_like(values)
        self._sums += rows * values
        self._samples += rows
        self._recent += rows
        self._ended = time.perf_counter()
        status = ""
        if self._ended - self._shown >= SHOWN_EVERY_SECONDS:
            self._shown = self._ended
            numbers = dict(zip(outputs["values"], values.tolist(), strict=True))
            status = self._status(trainer, numbers)
            steps = numbers | {"learning_rate": _rate(trainer)}
            _log(trainer, {f"batch/{n}": v for n, v in steps.items()})
        self._progress.advance(1, status)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show that training pauses for validation."""
        self._progress.advance(0, "validating")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the row of this epoch, and print it as one line."""
        count = torch.tensor([self._samples], dtype=torch.float64, device=pl_module.device)
        *sums, samples = sum_over_processes(torch.cat([self._sums, count])).tolist()
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            **{f"train/{n}": s / samples for n, s in zip(self._names, sums, strict=True)},
            **{name: float(value) for name, value in sorted(trainer.callback_metrics.items())},
            "learning_rate": _rate(trainer),
            "images_per_second": self._speed(trainer),
            "wait_share": self._wait_share(),
        }
        row |= {f"validation/{EXPLAINED}{n}": share for n, share in explained_shares(row)}
        if trainer.is_global_zero:
            self._write(row)
            _log(trainer, {name: value for name, value in row.items() if name != "step"})
            self._progress.note(_line(row, trainer.max_epochs or 0))

    def _speed(self, trainer: Trainer) -> float:
        return self._recent * trainer.world_size / max(self._ended - self._began, 1e-9)

    def _wait_share(self) -> float:
        waited = self._loader.waited_seconds - self._waited
        return waited / max(self._ended - self._began, 1e-9)

    def _status(self, trainer: Trainer, values: dict[str, float]) -> str:
        numbers = [f"{name.removeprefix('term/')} {v:.4f}" for name, v in values.items()]
        return ", ".join(
            [
                *numbers,
                f"rate {_rate(trainer):.2g}",
                f"{self._speed(trainer):.0f} images/s",
                f"waiting {100 * self._wait_share():.0f} %",
            ]
        )

    def _write(self, row: dict[str, float]) -> None:
        rows = []
        if self._path.exists():
            with self._path.open(newline="", encoding="utf-8") as file:
                rows = [r for r in csv.DictReader(file) if int(r["epoch"]) < row["epoch"]]
        with atomic_path(self._path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            writer.writeheader()
            writer.writerows([*rows, {k: f"{v:.6g}" for k, v in row.items()}])

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of this epoch so far."""
        return {"names": self._names, "sums": self._sums.cpu(), "samples": self._samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._names, self._sums = state_dict["names"], state_dict["sums"]
        self._samples = state_dict["samples"]


def _log(trainer: Trainer, values: dict[str, float]) -> None:
    """Give values to all loggers. DVCLive reserves the name `step`, so no value has it."""
    for logger in trainer.loggers:
        logger.log_metrics(values, trainer.global_step)


def _rate(trainer: Trainer) -> float:
    rate: float = trainer.optimizers[0].param_groups[0]["lr"]
    return rate


def _line(row: dict[str, float], epochs: int) -> str:
    parts = [f"epoch {row['epoch']:.0f}/{epochs}", f"objective {row['train/objective']:.4f}"]
    if OBJECTIVE in row:
        parts.append(f"validation {row[OBJECTIVE]:.4f}")
    explained = [f"{name} {100 * share:.0f} %" for name, share in explained_shares(row)]
    if explained:
        parts.append(f"explained: {', '.join(explained)}")
    if PROBE in row:
        parts.append(f"probe {row[PROBE]:.1f} %")
    if KNN in row:
        parts.append(f"k-NN {row[KNN]:.1f} %")
    parts.append(f"{row['images_per_second']:.0f} images/s")
    parts.append(f"waiting {100 * row['wait_share']:.0f} %")
    return ", ".join(parts)


class Selection(Callback):
    """Keeps the checkpoint that is best on validation images, or the last one.

    `save` is called with epoch, rule and score whenever the score is the best so far. The rule is
    the name of the curve that is followed, or `last`, which has no score.
    """

    def __init__(self, rule: Rule, save: Callable[[dict[str, Any]], None]) -> None:
        self._curve, self._sign = FOLLOWED.get(rule, ("", 1))
        self._save = save
        self._best = -math.inf

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if the score is the best so far; raise TrainingError if it is not finite."""
        epoch = trainer.current_epoch + 1
        if not self._curve:
            if trainer.is_global_zero:
                self._save({"epoch": epoch, "rule": "last", "score": None})
            return
        score = self._sign * float(trainer.callback_metrics[self._curve])
        if not math.isfinite(score):
            raise TrainingError(
                f"{self._curve} is not finite after epoch {epoch}: lower train.lr, set "
                "train.clip_norm, or use precision 32."
            )
        if score > self._best and trainer.is_global_zero:
            self._best = score
            self._save({"epoch": epoch, "rule": self._curve, "score": self._sign * score})

    def state_dict(self) -> dict[str, Any]:
        """Return the best score so far."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._best = state_dict["best"]


class Choosing(Callback):
    """Lets the processes choose together whether training images are kept in memory."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose, as soon as the processes can speak to each other."""
        if isinstance(self._loader, DeferredLoader):
            self._loader.choose()


class Position(Callback):
    """Saves the loader's position in checkpoints, so that a resumed run gets unseen samples.

    Lightning itself restores a loader only if the epoch was interrupted.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's position."""
        return dict(self._loader.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the loader's position."""
        self._loader.load_state_dict(state_dict)
