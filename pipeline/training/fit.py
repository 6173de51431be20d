"""One training run, from data and options to checkpoints; it continues where it was stopped."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from pipeline.checkpoints import BEST, LAST, Checkpoint, save_checkpoint
from pipeline.encoders import Encoder, StudentOptions
from pipeline.errors import ConfigError
from pipeline.images import ImageOptions
from pipeline.loading.batch import SplitData
from pipeline.loading.resident import EvaluationLoader
from pipeline.loading.training import training_loader
from pipeline.objective import AnyTerm, Objective
from pipeline.representations.base import Representation
from pipeline.runtime import Progress
from pipeline.training.callbacks import Curves, Position, Selection
from pipeline.training.module import StudentModule
from pipeline.training.options import TrainOptions
from pipeline.training.probe import OnlineProbe
from pipeline.training.start import initial_encoder

RESUME = "resume.ckpt"
CURVES = "epochs.csv"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class Run:
    """Everything that determines a training run.

    `live` are the representations that the objective names and the store does not hold.
    `about` goes into the checkpoints as it is. `weights` is a checkpoint to start from.
    """

    train: SplitData
    validation: SplitData
    student: StudentOptions
    objective: Mapping[str, AnyTerm]
    live: Mapping[str, Representation]
    options: TrainOptions
    seed: int
    about: Mapping[str, Any]
    weights: Path | None = None

    @property
    def image(self) -> ImageOptions:
        """How the student sees an image."""
        return self.train.image


def fit(run: Run, *, work: Path, progress: Progress) -> None:
    """Train, leaving `best.pt`, `last.pt`, `epochs.csv` and TensorBoard's files in `work`.

    What an interrupted call left in `work` is continued from its last finished epoch. Raises
    TrainingError if the objective is not finite.
    """
    options = run.options
    encoder = initial_encoder(run.student, run.image, run.weights, seed=run.seed, progress=progress)
    loader = training_loader(
        run.train, options.loading, batch_size=options.batch_size, seed=run.seed, progress=progress
    )
    steps_per_epoch = -(-len(loader) // options.accumulate)
    module = StudentModule(
        encoder,
        _objective(run, encoder),
        live=run.live,
        image=run.image,
        options=options,
        steps_per_epoch=steps_per_epoch,
        seed=run.seed,
    )
    if options.channels_last:
        module.encoder.to(memory_format=torch.channels_last)
    classes = run.train.manifest.classes
    probe = None
    if classes is not None and not run.train.manifest.multi_label:
        probe = OnlineProbe(encoder.h_width, len(classes), lr=options.probe.lr, seed=run.seed)

    def save(name: str, chosen: Mapping[str, Any]) -> None:
        weights = {key: value.detach().cpu() for key, value in encoder.state_dict().items()}
        about = {**run.about, "selection": dict(chosen)}
        probe_weights = probe.weights() if probe else None
        checkpoint = Checkpoint(run.student, run.image, weights, probe_weights, about)
        save_checkpoint(work / name, checkpoint)

    validation = EvaluationLoader(run.validation, options.batch_size, progress=progress)
    validation.preload()  # so that the progress of training is not interrupted
    resume = work / RESUME
    callbacks = [
        Position(loader),
        *([probe] if probe else []),
        Selection(_selection_rule(run), lambda chosen: save(BEST, chosen)),
        Curves(work / CURVES, progress),
        ModelCheckpoint(
            dirpath=work,
            filename=Path(RESUME).stem,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
    ]
    with _plain_lightning():
        trainer = Trainer(
            max_epochs=options.epochs,
            precision=_precision(options),
            accumulate_grad_batches=options.accumulate,
            gradient_clip_val=options.clip_norm,
            accelerator="auto",
            devices=1,
            default_root_dir=work,
            logger=TensorBoardLogger(work, name="", version=TENSORBOARD),
            callbacks=callbacks,
            num_sanity_val_steps=0,
            log_every_n_steps=max(1, min(50, len(loader))),
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(
                module,
                loader,
                validation,
                ckpt_path=resume if resume.exists() else None,
                weights_only=True,
            )
        except SystemExit:  # how Lightning answers Ctrl-C
            raise KeyboardInterrupt from None
    save(LAST, {"epoch": options.epochs, "rule": "last", "score": None})


def _objective(run: Run, encoder: Encoder) -> Objective:
    image = run.image
    blank = torch.zeros((2, image.channels, image.size, image.size))
    widths = {name: feature.width for name, feature in run.train.features.items()}
    widths |= {name: network(blank).shape[1] for name, network in run.live.items()}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(run.seed)
        return Objective(
            run.objective,
            h_width=encoder.h_width,
            z_width=encoder.z_width,
            representation_widths=widths,
        )


def _selection_rule(run: Run) -> Any:
    manifest = run.validation.manifest
    labelled = manifest.labelled > 0 and not manifest.multi_label
    if run.options.select == "probe" and not labelled:
        raise ConfigError(
            "train.select is probe, but the validation images do not have one label each: "
            "set it to objective or auto."
        )
    if run.options.select == "auto":
        return "probe" if labelled else "objective"
    return run.options.select


@contextmanager
def _plain_lightning() -> Iterator[None]:
    """Leave out what Lightning says that is not for the user of this program."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")
        try:
            yield
        finally:
            log.setLevel(level)


def _precision(options: TrainOptions) -> Any:
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[options.precision]
