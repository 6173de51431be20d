"""Lightning's trainer, configured by the options and without its own messages."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from pipeline.base.errors import ConfigError
from pipeline.base.text import counted
from pipeline.training.train_options import ParallelOptions, TrainOptions

_PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def build_trainer(options: TrainOptions, work: Path, loggers: Sequence[Logger] = ()) -> Trainer:
    """Return a trainer without callbacks; its rank and world size are known at once.

    Raises ConfigError if the options need a GPU and there is none, or too few.
    """
    parallel = options.parallel
    gpus = torch.cuda.device_count() if parallel.accelerator != "cpu" else 0
    wants_gpu = {
        "train.parallel.accelerator gpu": parallel.accelerator == "gpu",
        "train.precision 16": options.precision == "16",
        "train.parallel.sync_batch_norm": parallel.sync_batch_norm,
    }
    for what, wanted in wants_gpu.items():
        if wanted and not gpus:
            raise ConfigError(
                f"{what} needs a GPU, and there is none: change it, or use a machine that has one."
            )
    if gpus and parallel.devices > gpus:
        raise ConfigError(
            f"train.parallel.devices is {parallel.devices}; found {counted(gpus, 'GPUs')}."
        )
    _require_processes(parallel)
    return Trainer(
        max_epochs=options.epochs,
        precision=_PRECISIONS[options.precision],
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=options.clip_norm,
        accelerator=parallel.accelerator,
        devices=parallel.devices,
        num_nodes=parallel.nodes,
        strategy=_strategy(parallel),
        sync_batchnorm=parallel.sync_batch_norm,
        use_distributed_sampler=False,  # the loaders divide the samples
        default_root_dir=work,
        logger=[*loggers] or False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _strategy(parallel: ParallelOptions) -> str | DDPStrategy:
    """Return Lightning's strategy; several processes wait for each other for a limited time."""
    if parallel.devices * parallel.nodes == 1:
        return parallel.strategy
    return DDPStrategy(
        find_unused_parameters=parallel.strategy == "ddp_find_unused_parameters_true",
        timeout=timedelta(minutes=parallel.timeout_minutes),
    )


def _require_processes(parallel: ParallelOptions) -> None:
    """Raise ConfigError if a launcher has started another number of processes than asked for."""
    started, wanted = int(os.environ.get("WORLD_SIZE", "0")), parallel.devices * parallel.nodes
    if started and started != wanted:
        raise ConfigError(
            f"{counted(started, 'processes')} were started, and train.parallel asks for {wanted} "
            f"({parallel.devices} devices on {counted(parallel.nodes, 'nodes')}): make both equal."
        )


@contextmanager
def plain_lightning() -> Iterator[None]:
    """Silence messages of Lightning that are of no use to the user of this program."""
    names = ("lightning.pytorch", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")
        warnings.filterwarnings("ignore", "The `srun` command is available")
        warnings.filterwarnings("ignore", "You defined a `validation_step` but have no")
        warnings.filterwarnings("ignore", "You passed in a `val_dataloader` but have no")
        # torch.compile causes this one when it inspects tensors.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
