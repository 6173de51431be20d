"""Embeddings in the plane by PCA and t-SNE; each image is a mark in the colour of its class."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from pipeline.features.encoding import Array
from pipeline.reporting.pictures import Sprite, sprite
from pipeline.reporting.sample import STUDENT, Absent, ImageSample, class_name

LEAST_IMAGES = 10
SEED = 0
PERPLEXITY = 30
PCA_FIRST = 50  # PCA dimensions given to t-SNE
EQUAL = 1e-6  # relative difference between embeddings that are equal but for rounding
EQUAL_SAYS = {
    "PCA": "all embeddings are equal",
    "t-SNE": "all embeddings point in the same direction",
}
COLOURS = 10  # and as many marks
NAMED_CLASSES = COLOURS**2  # at most; each has its own pair of colour and mark
SPELT_CLASSES = 20  # at most, for the map itself to show class names
SIDE, MARGIN = 400, 14  # of a map, in its own units
OTHERS = "other classes"
LETTER, LINE = 8.0, 16.0  # room for a letter of a label, and for a line
STEPS = (0, -1, 1, -2, 2, -3, 3)  # lines to move a label up or down, if its place is taken


@dataclass(frozen=True)
class Group:
    """The images of one class, or those of all other classes (`rest`)."""

    label: str
    place: int
    count: int
    rest: bool = False

    @property
    def colour(self) -> int:
        """Its place in the page's palette."""
        return self.place % COLOURS

    @property
    def mark(self) -> int:
        """The number of its mark; the pair of colour and mark is unique."""
        return (self.place + self.place // COLOURS) % COLOURS


@dataclass(frozen=True)
class Placed:
    """One class on one map: its marks (x, y), and the place of its label, if there is room."""

    group: Group
    points: tuple[tuple[str, str], ...]
    label_at: tuple[str, str] | None


@dataclass(frozen=True)
class Map:
    """One space, projected by one method."""

    name: str
    title: str
    note: str
    groups: tuple[Placed, ...]


@dataclass(frozen=True)
class Maps:
    """All maps. Their marks, `items` and the tiles are the same images in the same order.

    Where images may have several classes, all images are one group, and `tags` holds the
    classes: label, number (as in `items`), and number of images.
    """

    maps: tuple[Map, ...]
    groups: tuple[Group, ...]
    tags: tuple[tuple[str, int, int], ...]
    items: tuple[Mapping[str, Any], ...]
    sprite: Sprite
    labelled: bool
    images: int

    @property
    def many(self) -> bool:
        """Whether there are too many classes to tell apart by colour and mark."""
        return len(self.groups) > SPELT_CLASSES


def maps(sample: ImageSample, predicted: Mapping[str, str]) -> Maps | Absent:
    """Return maps of the encoder after and before training.

    `predicted` maps names of images to classes.
    """
    N = len(sample.images)
    if N < LEAST_IMAGES:
        return Absent(f"a map needs at least {LEAST_IMAGES} images; there are {N}")
    groups, of_image = _grouped(sample)
    order = np.argsort(of_image, kind="stable")
    titles = {STUDENT: "Student", sample.before: "Before training"}
    drawn = []
    for method in ("t-SNE", "PCA"):
        for space, title in titles.items():
            points, note = project(sample.spaces[space], method)
            name = f"{space}-{method.lower()}"
            placed = _placed(_scaled(points), of_image, groups)
            drawn.append(Map(name, f"{title}, {method}", note, placed))
    return Maps(
        maps=tuple(drawn),
        groups=groups,
        tags=_tags(sample),
        items=tuple(_item(sample, row, predicted) for row in order.tolist()),
        sprite=sprite(sample.images[order]),
        labelled=sample.labels is not None,
        images=N,
    )


def project(space: Tensor, method: str) -> tuple[Array, str]:
    """Return features (N, D) in the plane (N, 2), and a note on the method.

    PCA uses the features themselves; t-SNE uses cosine neighbourhoods, as the
    nearest-neighbour protocols do. Embeddings that are all equal are one point.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    values = space.double() if method == "PCA" else F.normalize(space.double(), dim=1)
    points: Array = values.numpy()
    if np.ptp(points, axis=0).max() <= EQUAL * np.abs(points).max():
        return np.zeros((len(points), 2)), EQUAL_SAYS[method]
    if method == "PCA":
        pca = PCA(min(2, *points.shape), random_state=SEED)
        points = _two(pca.fit_transform(points))
        held = 100 * pca.explained_variance_ratio_.sum()
        return points, f"the two axes hold {held:.0f} % of the variance"
    if points.shape[1] > PCA_FIRST:
        points = PCA(min(PCA_FIRST, *points.shape), random_state=SEED).fit_transform(points)
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=SEED, n_jobs=1)
    near: Array = tsne.fit_transform(_two(points))
    return near, "nearby images are similar; distances between clusters say little"


def _two(points: Array) -> Array:
    """Return two columns; a single column gets a second one of zeros."""
    return points if points.shape[1] > 1 else np.column_stack([points, np.zeros(len(points))])


def _grouped(sample: ImageSample) -> tuple[tuple[Group, ...], Array]:
    """Return the groups, and the index of each image's group."""
    N = len(sample.images)
    if sample.labels is None:
        return (Group("images", 0, N),), np.zeros(N, dtype=int)
    labels = sample.labels.tolist()
    counts = Counter(labels)
    named = sorted(counts)
    if len(named) > NAMED_CLASSES:
        named = sorted(label for label, _ in counts.most_common(NAMED_CLASSES))
    places = {label: place for place, label in enumerate(named)}
    of_image = np.array([places.get(label, len(named)) for label in labels])
    groups = [
        Group(class_name(label, sample.classes), place, counts[label])
        for label, place in places.items()
    ]
    rest = int((of_image == len(named)).sum())
    if rest:
        groups.append(Group(OTHERS, 0, rest, rest=True))
    return tuple(groups), of_image


def _tags(sample: ImageSample) -> tuple[tuple[str, int, int], ...]:
    counts = Counter(tag for tags in sample.tags for tag in tags)
    return tuple((class_name(tag, sample.classes), tag, counts[tag]) for tag in sorted(counts))


def _scaled(points: Array) -> Array:
    """Fit points (N, 2) into the map: same factor on both axes, larger y further up."""
    low, high = points.min(axis=0), points.max(axis=0)
    extent = max(float((high - low).max()), 1e-12)
    centred = (points - (low + high) / 2) / extent * (SIDE - 2 * MARGIN)
    scaled: Array = SIDE / 2 + centred * np.array([1, -1])
    return scaled


def _placed(points: Array, of_image: Array, groups: Sequence[Group]) -> tuple[Placed, ...]:
    own = [points[of_image == place] for place in range(len(groups))]
    place = _within if len(groups) > SPELT_CLASSES else _apart
    labels = place([group.label for group in groups], [_middle(part) for part in own])
    return tuple(
        Placed(group, tuple((f"{x:.1f}", f"{y:.1f}") for x, y in part), label)
        for group, part, label in zip(groups, own, labels, strict=True)
    )


def _middle(points: Array) -> tuple[float, float]:
    """Return the point nearest to the median of all points."""
    x, y = points[np.linalg.norm(points - np.median(points, axis=0), axis=1).argmin()]
    return float(x), float(y)


def _within(
    labels: Sequence[str], wanted: Sequence[tuple[float, float]]
) -> list[tuple[str, str] | None]:
    """Return places within the map for labels that are shown one at a time."""
    found = []
    for label, (x, y) in zip(labels, wanted, strict=True):
        half = LETTER * len(label) / 2
        across = min(max(x, half + 2), max(SIDE - half - 2, SIDE / 2))
        found.append((f"{across:.0f}", f"{min(max(y, LINE), SIDE - 4):.0f}"))
    return [*found]


def _apart(
    labels: Sequence[str], wanted: Sequence[tuple[float, float]]
) -> list[tuple[str, str] | None]:
    """Return places near the wanted ones where labels do not overlap; None for no room."""
    taken: list[tuple[float, float, float]] = []  # half the width, x, y
    result: list[tuple[str, str] | None] = []
    for label, (x, y) in zip(labels, wanted, strict=True):
        half = LETTER * max(len(label), 1) / 2
        x = min(max(x, half + 2), SIDE - half - 2)
        free = (
            y + LINE * step
            for step in STEPS
            if LINE < y + LINE * step < SIDE
            and not any(
                abs(x - other) < half + width and abs(y + LINE * step - line) < LINE
                for width, other, line in taken
            )
        )
        at = next(free, None)
        result.append(None if at is None else (f"{x:.0f}", f"{at:.0f}"))
        if at is not None:
            taken.append((half, x, at))
    return result


def _item(sample: ImageSample, row: int, predicted: Mapping[str, str]) -> dict[str, Any]:
    name = sample.names[row]
    item: dict[str, Any] = {"name": name}
    if sample.tags:
        item["tags"] = list(sample.tags[row])
    label = sample.called(row)
    if label is not None:
        item["class"] = label
    if name in predicted:
        item["predicted"] = predicted[name]
    return item
