"""One training run, from data and options to checkpoints. An interrupted run resumes."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from pipeline.base.errors import ConfigError, NotFiniteError, TrainingError
from pipeline.base.processes import is_first_process, leave_the_message_to_the_first
from pipeline.base.progress import Progress
from pipeline.base.seeds import generators_kept, seeded
from pipeline.base.signals import stoppable
from pipeline.loading.evaluation_loader import EvaluationLoader
from pipeline.loading.loaders import loader_by_size, training_loader
from pipeline.loading.resident import load_decoded
from pipeline.models.checkpoint import BEST, LAST, Checkpoint, save_checkpoint
from pipeline.models.encoder import Encoder, require_size
from pipeline.objective.objective import Objective
from pipeline.objective.terms import least_rows, reads_labels
from pipeline.training.averaging import Averaging
from pipeline.training.callbacks import Choosing, Curves, Position, Selection
from pipeline.training.collectives import in_all_processes, is_of_others
from pipeline.training.determinants import claim
from pipeline.training.epoch_times import EpochClock, EpochTime
from pipeline.training.module import StudentModule
from pipeline.training.probe import OnlineNeighbours, OnlineProbe
from pipeline.training.recalibration import Recalibration
from pipeline.training.run import Run
from pipeline.training.run_loggers import run_loggers
from pipeline.training.saving import RESUME, Saving, newest_checkpoint
from pipeline.training.start import initial_encoder
from pipeline.training.step_views import (
    TRAINING,
    VALIDATION,
)
from pipeline.training.stored_references import stored_references
from pipeline.training.train_options import Rule, TrainOptions
from pipeline.training.trainer import build_trainer, plain_lightning
from pipeline.training.trial import Trial, Wanted
from pipeline.training.tuning import find

CURVES = "epochs.csv"


@generators_kept()
def fit(run: Run, *, work: Path, progress: Progress) -> list[EpochTime]:
    """Train, and write `best.pt`, `last.pt`, `epochs.csv` and the loggers' files to `work`.

    Returns the times of the epochs that this call trained.

    If an earlier call was interrupted, training resumes from its last save in `work`; a finished
    run is left as it is. Only the first process writes. Raises TrainingError, naming each
    difference, if `work` holds another run; ConfigError if a logger is not installed;
    NotFiniteError if the objective is not finite; KeyboardInterrupt if the run was asked to stop,
    which is saved first.
    """
    claim(work, run.content(), progress, writes=is_first_process())
    name = run.about.get("experiment", work.name)
    with plain_lightning(), run_loggers(run.options.loggers, work, name) as loggers:
        return _fit(run, build_trainer(run.options, work, loggers), work, progress)


def _fit(run: Run, trainer: Trainer, work: Path, progress: Progress) -> list[EpochTime]:
    options = run.options
    loader = training_loader(
        run.train,
        options.loading,
        batch_size=options.batch_size,
        seed=run.seed,
        views=run.random_views(TRAINING),
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        progress=progress,
        all_agree=lambda fits: in_all_processes(fits, trainer.strategy.root_device),
    )
    validation = EvaluationLoader(
        run.validation,
        options.batch_size,
        least=least_rows(run.objective),
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        views=run.random_views(VALIDATION),
        seed=run.seed,
        memory_share=options.loading.memory_share,
        progress=progress,
    )
    validation.preload()  # so that the progress of training is not interrupted
    progress.start("build the student", 0, "")
    module = _module(run, len(loader), gather=trainer.world_size > 1, progress=progress)
    saved = newest_checkpoint(work, progress)
    with stoppable(progress) as stop:
        observers = _Observers(run, module, work)
        saving = Saving(work, options.saving, stop)
        curves = Curves(work / CURVES, loader, progress)
        clock = EpochClock()
        first = [Choosing(loader), clock, Position(loader)]
        trainer.callbacks = [*first, *observers.callbacks, curves, saving]  # type: ignore[attr-defined]
        try:
            trainer.fit(module, loader, validation, ckpt_path=saved, weights_only=True)
        except SystemExit:  # Lightning's answer to an interruption
            raise KeyboardInterrupt from None
        except NotFiniteError as error:
            if not trainer.is_global_zero:
                leave_the_message_to_the_first(error)
            raise NotFiniteError(f"{error} {_advice(work, saving.last_saved)}") from error
        except RuntimeError as error:
            if trainer.world_size == 1 or not is_of_others(error):
                raise
            raise TrainingError(
                "Another process of this training has ended, or has not answered for "
                f"{options.parallel.timeout_minutes:g} minutes (train.parallel.timeout_minutes): "
                f"{str(error).splitlines()[0][:200]} Start all processes again in the same way; "
                "they continue from what is saved."
            ) from error
    if trainer.is_global_zero:
        observers.save(LAST, {"epoch": options.epochs, "rule": "last", "score": None})
    return clock.times


@generators_kept()
def tune(run: Run, wanted: Wanted, *, progress: Progress) -> TrainOptions:
    """Return the options of `run` with the wanted values found: first batch size, then rate.

    Raises ConfigError under several processes, TrainingError if nothing is found.
    """
    options = run.options
    if options.parallel.devices * options.parallel.nodes > 1:
        raise ConfigError("A rate and a batch size are found on one device: set devices to 1.")
    loader = loader_by_size(
        run.train,
        options.loading,
        seed=run.seed,
        views=run.random_views(TRAINING),
        progress=progress,
    )
    batches = len(loader(options.batch_size))
    trial = Trial(
        module=partial(_module, run, batches, gather=False, progress=progress),
        loader=loader,
        samples=run.train.valid_samples,
        options=options,
    )
    progress.start("try batch sizes and rates", 0, "")
    found = find(trial, wanted, batch_size=options.batch_size)
    for name, value in found.items():
        progress.note(f"Found train.{name}: {value:.4g}")
    return options.model_copy(update=found)


def _advice(work: Path, last_saved: int | None) -> str:
    if last_saved is None:
        good = "Nothing had been saved yet"
    else:
        good = f"The last good checkpoint is {work / RESUME}, of step {last_saved}"
    return f"{good}; lower train.lr, set train.clip_norm, or use precision 32."


def _module(run: Run, batches: int, *, gather: bool, progress: Progress) -> StudentModule:
    options = run.options
    encoder = initial_encoder(run.student, run.image, run.weights, seed=run.seed, progress=progress)
    if options.views.local:
        require_size(encoder, channels=run.image.channels, size=options.views.local.size)
    objective = _objective(run, encoder, gather=gather and options.parallel.gather)
    encoder.projector.requires_grad_(objective.needs_projector)
    if options.channels_last:
        encoder.to(memory_format=torch.channels_last)
    if options.compile:
        encoder.backbone.compile()
        encoder.projector.compile()
    return StudentModule(
        encoder,
        objective,
        live=run.live,
        image=run.image,
        options=options,
        steps_per_epoch=-(-batches // options.accumulate),
        seed=run.seed,
    )


class _Observers:
    """The callbacks that read the encoder, and the checkpoints that they write."""

    def __init__(self, run: Run, module: StudentModule, work: Path) -> None:
        self._run, self._encoder, self._work = run, module.encoder, work
        options, classes = run.options, run.train.manifest.classes
        self.callbacks: list[Callback] = []
        self._probe: OnlineProbe | None = None
        if classes is not None and not run.train.manifest.multi_label:
            count, probe = len(classes), options.probe
            self._probe = OnlineProbe(self._encoder.h_width, count, lr=probe.lr, seed=run.seed)
            self.callbacks += [self._probe, OnlineNeighbours(probe.neighbours, count)]
        rule = _selection_rule(run)
        self.callbacks.append(Selection(rule, lambda chosen: self.save(BEST, chosen)))
        self._averaging = Averaging(self._encoder, options.ema) if options.ema else None
        if self._averaging:
            self.callbacks.append(self._averaging)
        self._recalibration = _recalibration(run, self._encoder) if options.recalibrate else None
        if self._recalibration:
            self.callbacks.append(self._recalibration)

    def save(self, name: str, chosen: Mapping[str, Any]) -> None:
        """Write the student, averaged if `ema` is set, recalibrated if asked for, and its probe."""
        state = self._averaging.weights() if self._averaging else self._encoder.state_dict()
        state = {**state, **(self._recalibration.statistics() if self._recalibration else {})}
        weights = {key: value.detach().cpu() for key, value in state.items()}
        about = {**self._run.about, "selection": dict(chosen)}
        probe = self._probe.weights() if self._probe else None
        checkpoint = Checkpoint(self._run.student, self._run.image, weights, probe, about)
        save_checkpoint(self._work / name, checkpoint)


def _objective(run: Run, encoder: Encoder, *, gather: bool) -> Objective:
    image = run.image
    blank = torch.zeros((2, image.channels, image.size, image.size))
    widths = {name: feature.width for name, feature in run.train.features.items()}
    widths |= {name: network(blank).shape[1] for name, network in run.live.items()}
    with seeded(run.seed):
        return Objective(
            run.objective,
            h_width=encoder.h_width,
            z_width=encoder.z_width,
            representation_widths=widths,
            references=stored_references(run.train, run.objective),
            class_counts=run.train.class_counts() if reads_labels(run.objective) else None,
            gather=gather,
        )


def _recalibration(run: Run, encoder: Encoder) -> Recalibration:
    sample = run.train.subset(run.train.indices()[: run.options.recalibrate])
    return Recalibration(
        encoder,
        load_decoded(sample).images,
        run.image,
        batch_size=run.options.batch_size,
        channels_last=run.options.channels_last,
    )


def _selection_rule(run: Run) -> Rule:
    manifest = run.validation.manifest
    select = run.options.select
    least = 2 if select == "knn" else 1  # an image's neighbours are others
    labelled = manifest.labelled >= least and not manifest.multi_label
    if select in ("probe", "knn") and not labelled:
        raise ConfigError(
            f"train.select is {select}, but the validation images do not have one label each: "
            "set it to objective, last or auto."
        )
    if select == "auto":
        return "probe" if labelled else "objective"
    return select
