"""Choosing how training batches come: from memory where the data set fits, else from the tars."""

from typing import Annotated, Literal

import psutil
from pydantic import Field

from pipeline.config import Options
from pipeline.errors import DataError
from pipeline.loading.batch import Loader, SplitData
from pipeline.loading.resident import ResidentLoader, load_resident
from pipeline.loading.streaming import StreamingLoader
from pipeline.runtime import Progress


class LoadingOptions(Options):
    """`train.loading`: how batches come to the training step.

    `mode: auto` keeps the data set in memory if it takes at most `memory_share` of what is
    available. `buffer` is the number of samples that a streaming worker shuffles.
    """

    mode: Literal["auto", "resident", "streaming"] = "auto"
    memory_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    workers: Annotated[int, Field(ge=0)] = 2
    buffer: Annotated[int, Field(ge=1)] = 4096


def training_loader(
    data: SplitData,
    options: LoadingOptions,
    *,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    progress: Progress | None = None,
) -> Loader:
    """Return the resident or the streaming loader, as `options` and the memory say."""
    batches = data.valid_samples // (batch_size * world_size)
    if batches == 0:
        raise DataError(
            f"A batch of {batch_size} on {world_size} rank(s) needs more than the "
            f"{data.valid_samples} training images there are: lower train.batch_size."
        )
    budget = options.memory_share * psutil.virtual_memory().available / world_size
    fits = data.resident_bytes() <= budget
    if options.mode == "resident" or (options.mode == "auto" and fits):
        split = load_resident(data, progress=progress)
        return ResidentLoader(split, batch_size, seed=seed, rank=rank, world_size=world_size)
    return StreamingLoader(
        data,
        workers=options.workers,
        buffer=options.buffer,
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
