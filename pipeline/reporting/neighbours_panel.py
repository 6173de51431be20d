"""Which images each space finds similar: the nearest images of a few queries, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.metrics.neighbours import Neighbours, nearest
from pipeline.reporting.pictures import picture
from pipeline.reporting.sample import Absent, ImageSample

QUERIES, NEAREST = 6, 6


@dataclass(frozen=True)
class Hit:
    """An image: `right` says whether it shares a class with the query, None where unknown."""

    uri: str
    name: str
    label: str | None
    cosine: float | None = None
    right: bool | None = None


@dataclass(frozen=True)
class Query:
    """A query, and the images that each space finds for it, nearest first."""

    image: Hit
    found: Mapping[str, tuple[Hit, ...]]


@dataclass(frozen=True)
class Searches:
    """Queries; `hits` is the share (%), by space, of images whose nearest one shares their class.

    Hits count only images with a class, and are empty where there are none. `chance` is that
    share for an image drawn at random. With `single`, each image has exactly one class.
    """

    queries: tuple[Query, ...]
    spaces: tuple[str, ...]
    hits: Mapping[str, float]
    chance: float
    single: bool
    images: int


def searches(sample: ImageSample, spaces: Sequence[str]) -> Searches | Absent:
    """Return the nearest images by cosine in each of `spaces`, for one query per class."""
    N = len(sample.images)
    if N <= NEAREST:
        return Absent(f"the search needs more than {NEAREST} images; there are {N}")
    cpu = torch.device("cpu")
    found = {
        space: nearest(
            sample.spaces[space], sample.spaces[space], k=NEAREST, device=cpu, exclude_self=True
        )
        for space in spaces
    }
    hits = {space: share for space, f in found.items() if (share := _hits(sample, f)) is not None}
    return Searches(
        queries=tuple(
            Query(
                image=_found(sample, row),
                found={space: _results(sample, row, f) for space, f in found.items()},
            )
            for row in _queries(sample)
        ),
        spaces=tuple(spaces),
        hits=hits,
        chance=_chance(sample) if hits else 0.0,
        single=sample.labels is not None,
        images=N,
    )


def _queries(sample: ImageSample) -> list[int]:
    """Return the first image of each of the first classes; without classes, the first images."""
    if sample.labels is None:
        return list(range(min(QUERIES, len(sample.images))))
    labels = sample.labels.tolist()
    first = {label: row for row, label in reversed(list(enumerate(labels)))}
    return [first[label] for label in sorted(first)][:QUERIES]


def _hits(sample: ImageSample, found: Neighbours) -> float | None:
    nearest_ones = enumerate(found.indices[:, 0].tolist())
    return _share([sample.alike(row, other) for row, other in nearest_ones])


def _chance(sample: ImageSample) -> float:
    """Return the share of pairs of different images that share a class, in percent."""
    pairs = torch.zeros(len(sample.images), len(sample.classes) or 1 + _most(sample))
    for row in range(len(pairs)):
        pairs[row, list(sample.classes_of(row))] = 1
    known = pairs[pairs.any(dim=1)]
    alike = known @ known.T > 0
    n = len(known)
    return 100 * (int(alike.sum()) - n) / max(n * (n - 1), 1)


def _most(sample: ImageSample) -> int:
    return max(label for row in range(len(sample.images)) for label in sample.classes_of(row))


def _share(found: Sequence[bool | None]) -> float | None:
    """Return the share of known values that are true, in percent; None if none is known."""
    known = [value for value in found if value is not None]
    return 100 * sum(known) / len(known) if known else None


def _results(sample: ImageSample, query: int, found: Neighbours) -> tuple[Hit, ...]:
    rows, cosines = found.indices[query].tolist(), found.similarities[query].tolist()
    return tuple(
        _found(sample, row, cosine, query) for row, cosine in zip(rows, cosines, strict=True)
    )


def _found(
    sample: ImageSample, row: int, cosine: float | None = None, query: int | None = None
) -> Hit:
    right = None if query is None else sample.alike(row, query)
    uri = picture(sample.images[row])
    return Hit(uri, sample.names[row], sample.called(row), cosine, right)
