"""What happens beside the steps: progress, curves, and the choice of the best checkpoint."""

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from pipeline.errors import TrainingError
from pipeline.loading.batch import Loader
from pipeline.runtime import Progress, atomic_path
from pipeline.training.probe import METRIC as PROBE_METRIC


class Curves(Callback):
    """Writes one row an epoch: objective, terms, probe, learning rate, throughput, waiting.

    `wait_share` is the part of an epoch's training time in which no step was running. Rows of
    epochs that an interrupted run repeats are replaced.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        self._path = path
        self._progress = progress
        self._images = 0
        self._waited = 0.0
        self._began = self._ended = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Announce all steps that are left."""
        left = int(trainer.num_training_batches) * (
            (trainer.max_epochs or 0) - trainer.current_epoch
        )
        self._progress.start("train", left, "steps")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._images, self._waited = 0, 0.0
        self._began = self._ended = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the time since the last step ended as waiting."""
        self._waited += time.perf_counter() - self._ended

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the images."""
        self._images += len(batch["images"]) * trainer.world_size
        self._ended = time.perf_counter()
        self._progress.advance(1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the row of this epoch, and say it in a line."""
        elapsed = max(self._ended - self._began, 1e-9)
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            **{name: float(value) for name, value in sorted(trainer.callback_metrics.items())},
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "images_per_second": self._images / elapsed,
            "wait_share": self._waited / elapsed,
        }
        if trainer.is_global_zero:
            self._write(row)
            self._progress.note(_line(row, trainer.max_epochs or 0))

    def _write(self, row: dict[str, float]) -> None:
        rows = []
        if self._path.exists():
            with self._path.open(newline="", encoding="utf-8") as file:
                rows = [r for r in csv.DictReader(file) if int(r["epoch"]) < row["epoch"]]
        with atomic_path(self._path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            writer.writeheader()
            writer.writerows([*rows, {k: f"{v:.6g}" for k, v in row.items()}])


def _line(row: dict[str, float], epochs: int) -> str:
    parts = [f"epoch {row['epoch']:.0f}/{epochs}", f"objective {row['train/objective']:.4f}"]
    if "validation/objective" in row:
        parts.append(f"validation {row['validation/objective']:.4f}")
    if PROBE_METRIC in row:
        parts.append(f"probe {row[PROBE_METRIC]:.1f} %")
    parts.append(f"{row['images_per_second']:.0f} images/s")
    parts.append(f"waiting {100 * row['wait_share']:.0f} %")
    return ", ".join(parts)


class Selection(Callback):
    """Keeps the checkpoint that is best on validation images.

    `save` is called with the rule's name and the score whenever the score is the best so far.
    """

    def __init__(
        self, rule: Literal["probe", "objective"], save: Callable[[dict[str, Any]], None]
    ) -> None:
        self._metric = PROBE_METRIC if rule == "probe" else "validation/objective"
        self._sign = 1 if rule == "probe" else -1
        self._save = save
        self._best = -math.inf

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, if this is the best."""
        score = self._sign * float(trainer.callback_metrics[self._metric])
        if not math.isfinite(score):
            raise TrainingError(
                f"{self._metric} is not finite after epoch {trainer.current_epoch + 1}: lower "
                "train.lr, set train.clip_norm, or use precision 32."
            )
        if score > self._best and trainer.is_global_zero:
            self._best = score
            epoch = trainer.current_epoch + 1
            self._save({"epoch": epoch, "rule": self._metric, "score": self._sign * score})

    def state_dict(self) -> dict[str, Any]:
        """Return the best score so far."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._best = state_dict["best"]


class Position(Callback):
    """Keeps in a checkpoint how far the loader is, so that a run goes on with unseen samples."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's position."""
        return dict(self._loader.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the loader to where it was."""
        self._loader.load_state_dict(state_dict)
