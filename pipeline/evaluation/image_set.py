"""The images that protocols use: all labels at once, pixels as a stream.

No decoded split is kept in memory: ImageNet at 224 pixels would take 190 GB.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import torch
from torch import Tensor

from pipeline.base.devices import available_cores
from pipeline.base.errors import DataError
from pipeline.datasets.source import Split
from pipeline.images.cutting import original_view_of
from pipeline.images.decoding import opened
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import NO_LABEL, SplitData, label_tensor
from pipeline.shards.listing import read_identities, read_labels, read_names
from pipeline.shards.reading import Record

BATCH = 256


class Images:
    """The valid images of each split of one data set, in the order of the manifest.

    `first` limits each split to that many images. Samples were shuffled when they were packed, so
    the first ones are a random sample, and later tars are not read.
    """

    def __init__(self, splits: Mapping[Split, SplitData], *, first: int | None = None) -> None:
        self.splits = splits
        self.first = first
        self._labels: dict[Split, Tensor] = {}

    @property
    def image(self) -> ImageOptions:
        """How the student sees an image."""
        return self.splits["train"].image

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty if the data set has none."""
        return self.splits["train"].manifest.classes or ()

    @property
    def several_classes(self) -> bool:
        """Whether an image may have several classes."""
        return self.splits["train"].manifest.multi_label

    def index(self, split: Split) -> Tensor:
        """Return the index (N,) of each valid image in the manifest."""
        manifest = self._data(split).manifest
        valid = torch.ones(manifest.samples, dtype=torch.bool)
        valid[sorted(manifest.invalid)] = False
        return valid.nonzero().flatten()[: self.first]

    def count(self, split: Split) -> int:
        """Return the number of valid images, at most `first`."""
        valid = self._data(split).valid_samples
        return valid if self.first is None else min(valid, self.first)

    def labels(self, split: Split) -> Tensor:
        """Return labels as in a batch: (N,) int64, or (N, K) int8 for several classes."""
        if split not in self._labels:
            data = self._data(split)
            every = read_labels(data.directory, data.manifest)
            self._labels[split] = label_tensor(every, data.manifest)[self.index(split)]
        return self._labels[split]

    def names(self, split: Split) -> list[str]:
        """Return the name of each valid image in its source."""
        data = self._data(split)
        names = read_names(data.directory, data.manifest)
        return [names[row] for row in self.index(split).tolist()]

    def identities(self, split: Split) -> list[str]:
        """Return the beginning of each valid image's identity, in hexadecimal."""
        data = self._data(split)
        every = read_identities(data.directory, data.manifest)
        return [every[row].tobytes().hex() for row in self.index(split).tolist()]

    def known(self, split: Split) -> Tensor:
        """Return the mask (N,) of the images that have a label.

        Raises DataError if the split is missing, or none of its images has one.
        """
        labels = self.labels(split)
        known = labels != NO_LABEL
        if self.several_classes:
            known = known.any(dim=1)
        if not known.any():
            raise DataError(
                f"This protocol needs labels, and the {split} images have none: leave it out of "
                "`evaluate`, and use retrieval, which needs no labels."
            )
        return known

    def batches(self, split: Split, view: ImageOptions | None = None) -> Iterator[Tensor]:
        """Yield the valid images (B, C, size, size), uint8, prepared by `view`; tars are streamed.

        Batches have nearly equal sizes, at most `BATCH`.
        """
        data = self._data(split)
        view = view or data.image

        def prepared(record: Record) -> Tensor:
            return original_view_of(opened(record.data), view)

        sizes = _even_sizes(self.count(split))
        held: list[Record] = []
        with ThreadPoolExecutor(available_cores()) as pool:
            size = next(sizes, 0)
            for number in range(len(data.manifest.shards)):
                for record in data.records(number):
                    held.append(record)
                    if len(held) == size:
                        yield torch.stack(list(pool.map(prepared, held)))
                        held, size = [], next(sizes, 0)
                        if size == 0:
                            return

    def _data(self, split: Split) -> SplitData:
        if split not in self.splits:
            raise DataError(
                f"This protocol needs {split} images, and there are none: set "
                f"dataset.split.{split} to a share such as 0.1, and run `mvmr shard`."
            )
        return self.splits[split]


def _even_sizes(count: int) -> Iterator[int]:
    batches = max(1, -(-count // BATCH))
    for number in range(batches):
        yield count * (number + 1) // batches - count * number // batches
