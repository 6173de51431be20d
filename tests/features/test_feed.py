"""Decoding ahead: the same images in the same order, bounded, and ended by the first error."""

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.base.errors import DataError
from pipeline.base.threads import InOrder
from pipeline.features.extraction.feed import (
    BATCHES_AHEAD,
    PIECE_BYTES,
    PIECE_IMAGES,
    Feed,
    Files,
)
from pipeline.images.decoding import ImageFile, opened


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@dataclass(frozen=True)
class Slow:
    """Takes the first pixel of an image, after a while that depends on it."""

    gate: threading.Event | None = field(default=None, hash=False, compare=False)

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the pixel as a float."""
        return self.finish(self.pixels(opened(image)))

    def pixels(self, image: ImageFile) -> Tensor:
        """Return the pixel (1, 1, 1)."""
        value: Any = image.decoded().getpixel((0, 0))
        if self.gate is None:
            time.sleep(value % 5 / 1000)
        else:
            assert self.gate.wait(30)
        return torch.tensor([[[value]]], dtype=torch.uint8)

    def finish(self, pixels: Tensor) -> Tensor:
        """Return the pixels as floats."""
        return pixels.float()


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 2), value).save(buffer, format="png")
    return buffer.getvalue()


def files(count: int) -> Files:
    return ((7 * row, png(row % 256)) for row in range(count))


def feed(some: Files, pool: ThreadPoolExecutor, **options: Any) -> Feed:
    how = options.pop("how", Slow())
    settings: dict[str, Any] = {"size": 16, "threads": 4, "pinned": False, **options}
    return Feed(some, {how: torch.zeros(1, 1, 1, dtype=torch.uint8)}, pool=pool, **settings)


def take(some: Feed, seen: list[int]) -> None:
    with some as batches:
        for batch in batches:
            seen += batch.rows


def readers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("mvmr-reader")]


@pytest.mark.parametrize(("count", "size", "threads"), [(0, 8, 2), (100, 16, 4), (101, 50, 1)])
def test_images_come_in_order_whoever_is_faster(
    pool: ThreadPoolExecutor, count: int, size: int, threads: int
) -> None:
    rows, values, sizes = [], [], []
    with feed(files(count), pool, size=size, threads=threads) as batches:
        for batch in batches:
            (images,) = batch.images.values()
            rows += batch.rows
            values += images.flatten().tolist()
            sizes.append(len(images))
    assert rows == [7 * row for row in range(count)]
    assert values == [row % 256 for row in range(count)]
    assert sizes == [size] * (count // size) + [count % size] * bool(count % size)
    assert not readers()


def test_no_more_is_prepared_than_a_few_batches(pool: ThreadPoolExecutor) -> None:
    read = 0

    def counted() -> Files:
        nonlocal read
        for file in files(100_000):
            read += 1
            yield file

    with feed(counted(), pool, size=8) as batches:
        next(iter(batches))
        time.sleep(0.3)
        assert read <= 8 * (BATCHES_AHEAD + 1)


@pytest.mark.parametrize(
    ("padding", "most"), [(0, 2 * 2 * PIECE_IMAGES), (PIECE_BYTES // 2, 2 * 2 * 2)]
)
def test_what_is_read_ahead_is_bounded_by_images_and_by_bytes(
    pool: ThreadPoolExecutor, padding: int, most: int
) -> None:
    """With two threads, both of which are busy, two pieces each are read."""
    read, gate = 0, threading.Event()

    def large() -> Files:
        nonlocal read
        for row in range(1000):
            read += 1
            yield row, png(row % 256) + bytes(padding)

    with feed(large(), pool, size=512, threads=2, how=Slow(gate)):
        time.sleep(0.3)
        assert 0 < read <= most
        gate.set()


def test_a_bad_image_is_the_decoders_error(pool: ThreadPoolExecutor) -> None:
    def one_bad() -> Files:
        for row, file in files(1000):
            yield row, file[:40] if row == 7 * 40 else file

    seen: list[int] = []
    with pytest.raises(DataError, match="Not a readable image"):
        take(feed(one_bad(), pool), seen)
    assert len(seen) == 32  # of the batches before it
    assert not readers()


def test_an_error_of_reading_ends_the_feed(pool: ThreadPoolExecutor) -> None:
    def cut() -> Files:
        yield from files(20)
        raise DataError("the tar is damaged")

    seen: list[int] = []
    with pytest.raises(DataError, match="the tar is damaged"):
        take(feed(cut(), pool), seen)
    assert len(seen) == 16
    assert not readers()


def test_who_leaves_early_waits_for_nothing_but_the_images_in_hand(
    pool: ThreadPoolExecutor,
) -> None:
    began = time.monotonic()
    with feed(files(100_000), pool, size=64) as batches:
        next(iter(batches))
    assert time.monotonic() - began < 5
    assert not readers()


def test_calls_are_made_in_order_and_the_first_error_stops_them() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.01 * (number == 0))
        if number == 5:
            raise OSError("No space is left")
        done.append(number)

    def give() -> None:
        with InOrder(waiting=2) as thread:
            for number in range(100):
                thread.do(work, number)
                assert number - len(done) <= 3  # two wait, one is being made
            thread.finish()

    with pytest.raises(OSError, match="No space is left"):
        give()
    assert done == [0, 1, 2, 3, 4]


def test_all_calls_are_made_before_it_is_finished() -> None:
    done: list[int] = []
    with InOrder(waiting=50) as thread:
        for number in range(20):
            thread.do(done.append, number)
        thread.finish()
        assert done == list(range(20))
