"""What each space finds similar: the nearest images of a few queries, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.evaluation.neighbours import Neighbours, nearest
from pipeline.reporting.pictures import picture
from pipeline.reporting.sample import Absent, Sample

QUERIES, NEAREST = 6, 6


@dataclass(frozen=True)
class Found:
    """An image: `right` says whether it has the query's class, None where there are no classes."""

    uri: str
    name: str
    label: str | None
    cosine: float | None = None
    right: bool | None = None


@dataclass(frozen=True)
class Query:
    """A query, and what each space finds for it, nearest first."""

    image: Found
    found: Mapping[str, tuple[Found, ...]]


@dataclass(frozen=True)
class Searches:
    """Queries; `hits` is the share, by space, of all images whose nearest one has their class."""

    queries: tuple[Query, ...]
    spaces: tuple[str, ...]
    hits: Mapping[str, float]
    images: int


def searches(sample: Sample, spaces: Sequence[str]) -> Searches | Absent:
    """Return the nearest images by cosine, of one query a class, in each of `spaces`."""
    N = len(sample.images)
    if N <= NEAREST:
        return Absent(f"it needs more than {NEAREST} images; there are {N}")
    cpu = torch.device("cpu")
    found = {
        space: nearest(
            sample.spaces[space], sample.spaces[space], k=NEAREST, device=cpu, exclude_self=True
        )
        for space in spaces
    }
    return Searches(
        queries=tuple(
            Query(
                image=_found(sample, row),
                found={space: _results(sample, row, f) for space, f in found.items()},
            )
            for row in _queries(sample)
        ),
        spaces=tuple(spaces),
        hits={} if sample.labels is None else _hits(sample.labels, found),
        images=N,
    )


def _queries(sample: Sample) -> list[int]:
    """Return the first image of each of the first classes, or the first images."""
    if sample.labels is None:
        return list(range(min(QUERIES, len(sample.images))))
    labels = sample.labels.tolist()
    first = {label: row for row, label in reversed(list(enumerate(labels)))}
    return [first[label] for label in sorted(first)][:QUERIES]


def _hits(labels: torch.Tensor, found: Mapping[str, Neighbours]) -> dict[str, float]:
    return {
        space: 100 * (labels[n.indices[:, 0]] == labels).double().mean().item()
        for space, n in found.items()
    }


def _results(sample: Sample, query: int, found: Neighbours) -> tuple[Found, ...]:
    rows, cosines = found.indices[query].tolist(), found.similarities[query].tolist()
    return tuple(
        _found(sample, row, cosine, query) for row, cosine in zip(rows, cosines, strict=True)
    )


def _found(
    sample: Sample, row: int, cosine: float | None = None, query: int | None = None
) -> Found:
    label = sample.called(row)
    right = None if query is None or label is None else label == sample.called(query)
    return Found(picture(sample.images[row]), sample.names[row], label, cosine, right)
