"""A few of an experiment's images as shards, which its cost is measured on."""

import math
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.base.devices import available_cores
from pipeline.base.errors import DataError
from pipeline.base.progress import Progress
from pipeline.datasets.source import Item, Source, Split
from pipeline.planning.pace import Pace, PaceMeter
from pipeline.shards.manifest import Manifest
from pipeline.shards.writing import ShardOptions, write_split

TAR_BLOCK, TAR_RECORD = 512, 10_240
SHARDS_PER_CORE = 4
# One image in three is for validation. One in twelve is in small tars, which hold an eighth as many
# images as the others.
VALIDATION_SHARE = 3
SMALL_SHARE = 12
SMALLER = 8
FEWEST_IMAGES = 24


@dataclass(frozen=True)
class ShardCost:
    """Bytes of all tars, seconds to write them, and the bytes saved by storing images reduced."""

    bytes: int
    seconds: float
    saved: int = 0


@dataclass(frozen=True)
class TrialSample:
    """Some of an experiment's training images, sharded as the splits of a smaller data set.

    Its `test` split has few images, in small tars. `images` is the number of images in each split
    of the full data set, `samples_per_shard` the number in each of its tars.
    """

    root: Path
    manifests: Mapping[Split, Manifest]
    images: Mapping[Split, int]
    samples_per_shard: int
    cost: ShardCost

    @property
    def total(self) -> int:
        """Number of images in the full data set."""
        return sum(self.images.values())

    @property
    def shards(self) -> int:
        """Number of tars in the full data set."""
        return sum(math.ceil(count / self.samples_per_shard) for count in self.images.values())


def sample_of(
    source: Source,
    splits: Mapping[Split, Sequence[Item]],
    options: ShardOptions,
    *,
    count: int,
    root: Path,
    progress: Progress | None = None,
) -> TrialSample:
    """Shard the first `count` training images, which are a random choice, below `root`.

    Raises DataError if there are too few.
    """
    chosen = splits["train"][:count]
    if len(chosen) < FEWEST_IMAGES:
        raise DataError(
            f"A plan needs at least {FEWEST_IMAGES} training images; found {len(chosen)}."
        )
    parts = _parts(chosen)
    large = max(1, len(parts["train"]) // (SHARDS_PER_CORE * available_cores()))
    sizes = {"train": large, "validation": large, "test": max(1, large // SMALLER)}
    meter = PaceMeter(progress)
    began = time.perf_counter()
    manifests = {
        split: write_split(
            source,
            items,
            root / "shards" / split,
            dataset="sample",
            split=split,
            options=options.model_copy(update={"samples": sizes[split]}),
            provenance={},
            progress=meter,
        )
        for split, items in parts.items()
    }
    elapsed = time.perf_counter() - began
    images = {split: len(items) for split, items in splits.items()}
    content = sum(_content_bytes(tar) for tar in sorted((root / "shards").glob("*/*.tar")))
    size = sum(_tar_bytes(n, options.samples, content / len(chosen)) for n in images.values())
    sample = TrialSample(root, manifests, images, options.samples, ShardCost(size, 0.0))
    train, validation, test = (phase.piece() for phase in meter.of("shard"))
    pace = Pace.of(train + validation, test)
    done = train + validation + test
    fixed = max(0.0, elapsed - pace.seconds(done.shards, done.images))
    seconds = fixed + pace.seconds(sample.shards, sample.total)
    saved = sum(m.saved for m in manifests.values()) * sample.total // len(chosen)
    return replace(sample, cost=ShardCost(size, seconds, saved))


def _parts(chosen: Sequence[Item]) -> dict[Split, Sequence[Item]]:
    held_out, few = len(chosen) // VALIDATION_SHARE, max(2, len(chosen) // SMALL_SHARE)
    border = len(chosen) - held_out - few
    return {
        "train": chosen[:border],
        "validation": chosen[border : border + held_out],
        "test": chosen[border + held_out :],
    }


def _content_bytes(path: Path) -> int:
    """Return the bytes of a tar's members and headers, without the end of the archive."""
    with tarfile.open(path) as tar:
        sizes = [member.size for member in tar]
    return sum(TAR_BLOCK + TAR_BLOCK * math.ceil(size / TAR_BLOCK) for size in sizes)


def _tar_bytes(images: int, samples: int, bytes_per_image: float) -> int:
    """Return the bytes of tars of `samples` images each, with two empty end blocks and padding."""
    whole, rest = divmod(images, samples)
    return sum(
        count * TAR_RECORD * math.ceil((held * bytes_per_image + 2 * TAR_BLOCK) / TAR_RECORD)
        for count, held in ((whole, samples), (1, rest))
        if held
    )
