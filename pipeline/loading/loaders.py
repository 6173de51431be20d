"""Choosing the source of training batches: memory if the data set fits, otherwise the tars."""

from collections.abc import Callable, Iterator
from itertools import islice
from math import inf
from typing import Annotated, Literal

from pydantic import Field

from pipeline.base.errors import DataError
from pipeline.base.options import Options
from pipeline.base.progress import Progress
from pipeline.base.text import counted
from pipeline.datasets.source import Split
from pipeline.loading.batch import Batch, Loader, SplitData
from pipeline.loading.batch_pixels import BatchPixels, RandomViews
from pipeline.loading.evaluation_loader import EvaluationLoader
from pipeline.loading.resident import HeldSplit, ResidentLoader, load_decoded, load_encoded
from pipeline.loading.streaming import StreamingLoader


class LoadingOptions(Options):
    """`train.loading`: how the training step gets its batches.

    `mode: auto` keeps the data set in memory if it takes at most `memory_share` of the available
    memory: decoded, or as files where random views are cut from larger files. `workers` decode:
    processes when streaming, threads for files in memory. `buffer` is the number of samples in the
    shuffle buffer of a streaming worker.
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
    views: RandomViews | None = None,
    rank: int = 0,
    world_size: int = 1,
    progress: Progress | None = None,
    all_agree: Callable[[bool], bool] | None = None,
) -> Loader:
    """Return a resident or a streaming loader, depending on `options` and the memory.

    Its batches bring the draws of random `views`, and their crops where files are larger than the
    original view.

    Resident and streaming loaders have different orders, so all ranks must use the same kind.
    With several ranks, `all_agree` says whether a condition holds on all of them; it is called
    when the first batch is asked for, or before that by `choose`.

    Raises DataError if the split does not fill one batch on every rank.
    """
    _require_a_batch_of(data, batch_size, world_size)  # before time is spent on decoding

    def choose() -> Loader:
        loader = loader_by_size(
            data,
            options,
            seed=seed,
            views=views,
            rank=rank,
            world_size=world_size,
            progress=progress,
            all_agree=all_agree,
        )
        return loader(batch_size)

    if all_agree is None or world_size == 1:
        return choose()
    return DeferredLoader(data.valid_samples // (batch_size * world_size), choose)


class DeferredLoader(Loader):
    """The batches of a loader that is only chosen when it is needed, or by `choose`."""

    def __init__(self, batches: int, choice: Callable[[], Loader]) -> None:
        super().__init__(batches)
        self._choice = choice
        self._chosen: Loader | None = None

    def choose(self) -> Loader:
        """Return the loader, the same one in every call."""
        if self._chosen is None:
            self._chosen = self._choice()
        return self._chosen

    def _epoch_batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        chosen = self.choose()
        chosen.load_state_dict({"epoch": epoch, "delivered": skip})
        yield from chosen


class OrderedLoader(Loader):
    """Every sample of a split, once and in order in each epoch; see `EvaluationLoader`."""

    def __init__(
        self,
        data: SplitData,
        options: LoadingOptions,
        *,
        batch_size: int,
        progress: Progress | None = None,
    ) -> None:
        share = {"auto": options.memory_share, "resident": inf, "streaming": 0.0}[options.mode]
        self._loader = EvaluationLoader(data, batch_size, memory_share=share, progress=progress)
        super().__init__(len(self._loader))

    def _epoch_batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        del epoch
        yield from islice(self._loader, skip, None)


def loader_by_size(
    data: SplitData,
    options: LoadingOptions,
    *,
    seed: int,
    views: RandomViews | None = None,
    rank: int = 0,
    world_size: int = 1,
    progress: Progress | None = None,
    all_agree: Callable[[bool], bool] | None = None,
) -> Callable[[int], Loader]:
    """Return a function from batch size to a new loader; a resident split is read once."""
    pixels = BatchPixels(data, views, seed=seed)
    held: HeldSplit | None = None
    resident = _is_resident(bytes_in_memory(data, pixels), options, world_size)
    if resident if all_agree is None else all_agree(resident):
        threads = max(1, options.workers)
        held = (
            load_encoded(data, pixels, threads=threads, progress=progress)
            if pixels.from_files
            else load_decoded(data, progress=progress)
        )

    def loader(batch_size: int) -> Loader:
        _require_a_batch_of(data, batch_size, world_size)
        if held is not None:
            return ResidentLoader(
                held, pixels, batch_size, seed=seed, rank=rank, world_size=world_size
            )
        return StreamingLoader(
            data,
            pixels,
            workers=options.workers,
            buffer=options.buffer,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    return loader


def bytes_in_memory(data: SplitData, pixels: BatchPixels) -> int:
    """Return the bytes that a split takes if it is kept in memory."""
    views = pixels.choice.count if pixels.choice else 0
    return data.encoded_bytes(stored_views=views) if pixels.from_files else data.decoded_bytes()


def _is_resident(taken: int, options: LoadingOptions, world_size: int) -> bool:
    import psutil

    budget = options.memory_share * psutil.virtual_memory().available / world_size
    fits = taken <= budget
    return options.mode == "resident" or (options.mode == "auto" and fits)


def _require_a_batch_of(data: SplitData, batch_size: int, world_size: int) -> None:
    require_a_batch(data.valid_samples, batch_size, world_size, split=data.manifest.split)


def require_a_batch(
    images: int, batch_size: int, world_size: int, *, split: Split = "train"
) -> None:
    """Raise DataError if the images of a split do not fill one batch on every rank."""
    if images < batch_size * world_size:
        # The largest power of 2 that gives two batches per epoch or more.
        fitting = 2 ** max(1, (images // (2 * world_size)).bit_length() - 1)
        raise DataError(
            f"A batch of {batch_size} on {counted(world_size, 'ranks')} needs more than the "
            f"{counted(images, f'{split} images')} there are: lower the batch size "
            f"(train.batch_size), for example to {fitting}."
        )
