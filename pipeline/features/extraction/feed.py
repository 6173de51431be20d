"""Decoded and prepared images, some batches ahead of the network that takes them.

One thread reads the files of a task in order. The threads of a pool decode and prepare a few
images each, and write them into their places in a batch. What is read but not prepared is bounded
by bytes, what is prepared by batches.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Semaphore
from types import TracebackType
from typing import Self

from torch import Tensor

from pipeline.images.decoding import opened
from pipeline.images.preparation import Preparation

BATCHES_AHEAD = 3
# A thread of the pool prepares so many images at a time, and fewer of large files.
PIECE_IMAGES, PIECE_BYTES = 16, 4 * 2**20

Files = Iterator[tuple[int, bytes]]


@dataclass
class PreparedBatch:
    """The rows of some images, and the images (B, C, H, W) by preparation, not yet finished."""

    rows: list[int]
    images: Mapping[Preparation, Tensor]
    parts: list[Future[None]] = field(default_factory=list)

    @classmethod
    def empty(
        cls, size: int, blanks: Mapping[Preparation, Tensor], *, pinned: bool
    ) -> "PreparedBatch":
        """Return a batch with room for `size` images like the blank ones."""
        room = {how: blank.new_empty(size, *blank.shape) for how, blank in blanks.items()}
        if pinned:
            room = {how: images.pin_memory() for how, images in room.items()}
        return cls([], room)

    def complete(self) -> "PreparedBatch":
        """Wait for all images, and raise what preparing the first bad one raised."""
        for part in self.parts:
            part.result()
        count = len(self.rows)
        return PreparedBatch(
            self.rows, {how: images[:count] for how, images in self.images.items()}
        )


class Feed:
    """The batches of `size` images of some files, in order, prepared by `threads` of a pool.

    Work begins on entering the context. Iterating raises what reading or decoding raised; leaving
    the context ends the work.
    """

    def __init__(
        self,
        files: Files,
        blanks: Mapping[Preparation, Tensor],
        *,
        size: int,
        pool: ThreadPoolExecutor,
        threads: int,
        pinned: bool,
    ) -> None:
        self._files, self._blanks, self._size, self._pool = files, blanks, size, pool
        self._pinned = pinned
        self._piece = max(1, min(PIECE_IMAGES, size // (2 * threads)))
        self._slots = Semaphore(2 * threads)
        self._stopped = Event()
        self._reader = ThreadPoolExecutor(1, "mvmr-reader")
        self._begun = deque[Future[PreparedBatch]]()

    def __enter__(self) -> Self:
        for _ in range(BATCHES_AHEAD):
            self._begun.append(self._reader.submit(self._begin))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._reader.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[PreparedBatch]:
        while (batch := self._begun.popleft().result()).rows:
            self._begun.append(self._reader.submit(self._begin))
            yield batch.complete()

    def _begin(self) -> PreparedBatch:
        """Read the files of the next batch, and have them prepared; it is empty at the end."""
        batch = PreparedBatch.empty(self._size, self._blanks, pinned=self._pinned)
        while len(batch.rows) < self._size and not self._stopped.is_set():
            self._slots.acquire()
            first, files = len(batch.rows), list[bytes]()
            for row, file in self._some(self._size - first):
                batch.rows.append(row)
                files.append(file)
            if not files:
                self._slots.release()
                break
            part = self._pool.submit(self._prepare, batch.images, first, files)
            part.add_done_callback(lambda _: self._slots.release())
            batch.parts.append(part)
        return batch

    def _some(self, most: int) -> Files:
        """Yield a few files, whose number depends on their size."""
        count = size = 0
        while count < min(most, self._piece) and size < PIECE_BYTES:
            found = next(self._files, None)
            if found is None:
                return
            count, size = count + 1, size + len(found[1])
            yield found

    def _prepare(self, room: Mapping[Preparation, Tensor], first: int, files: list[bytes]) -> None:
        for place, file in enumerate(files, first):
            if self._stopped.is_set():
                return
            image = opened(file)
            for how, images in room.items():
                images[place] = how.pixels(image)
