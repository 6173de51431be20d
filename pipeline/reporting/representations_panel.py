"""A few images, and maps of what hand-crafted representations see in them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from pipeline.base.errors import ConfigError
from pipeline.features.encoding import Array
from pipeline.images.original_view import ImageOptions, normalise
from pipeline.reporting.pictures import grey_picture, picture
from pipeline.reporting.sample import ImageSample
from pipeline.representations.hog import HogOptions
from pipeline.representations.local_std import LocalStdOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.representations.scattering import ScatteringOptions

IMAGES = 4
HOG_SIDE = 192  # side of a HOG drawing, in pixels
MAP_SIDE = 16  # least side of one scattering map, in pixels

Mappable = ScatteringOptions | HogOptions | LocalStdOptions


@dataclass(frozen=True)
class Drawing:
    """One representation: its name, what its maps show, and whether the run stores it."""

    name: str
    meaning: str
    used: bool
    uris: tuple[str, ...]


@dataclass(frozen=True)
class Representations:
    """Images with their names, and each representation's drawing of each image.

    `others` are the stored features that cannot be drawn.
    """

    images: tuple[tuple[str, str], ...]
    drawings: tuple[Drawing, ...]
    others: tuple[str, ...]


def representations(
    sample: ImageSample, features: Mapping[str, RepresentationOptions]
) -> Representations:
    """Return maps of the first images, one per class.

    `features` are those that the run stores. Scattering, histograms of gradients and local
    deviation are drawn with default parameters where the run does not store them.
    """
    rows = _rows(sample)
    images = normalise(sample.images[rows], sample.image)
    drawn = [
        Drawing(name, meaning, used, tuple(map(grey_picture, maps)))
        for name, options, used in _shown(features, sample.image)
        if (result := _maps(options, images, sample.image)) is not None
        for meaning, maps in [result]
    ]
    return Representations(
        images=tuple((picture(sample.images[row]), sample.names[row]) for row in rows),
        drawings=tuple(drawn),
        others=tuple(n for n, o in features.items() if not isinstance(o, Mappable)),
    )


def _rows(sample: ImageSample) -> list[int]:
    if sample.labels is None:
        return list(range(min(IMAGES, len(sample.images))))
    labels = sample.labels.tolist()
    first = {label: row for row, label in reversed(list(enumerate(labels)))}
    return [first[label] for label in sorted(first)][:IMAGES]


def _shown(
    features: Mapping[str, RepresentationOptions], image: ImageOptions
) -> list[tuple[str, Mappable, bool]]:
    stored = [(n, o, True) for n, o in features.items() if isinstance(o, Mappable)]
    kinds = {options.kind for _, options, _ in stored}
    usual = (ScatteringOptions(), HogOptions(cell=min(8, image.size // 2)), LocalStdOptions())
    return [*stored, *((o.kind, o, False) for o in usual if o.kind not in kinds)]


def _maps(
    options: Mappable, images: Tensor, image: ImageOptions
) -> tuple[str, Sequence[Array]] | None:
    """Return what the maps show, and a map (H, W) per image; None where images are too small."""
    try:
        vectors = options.build(image)(images)
    except ConfigError:
        return None
    draw: Callable[[Tensor, int], Array]
    if isinstance(options, ScatteringOptions):
        meaning = (
            f"First order: moduli of wavelet coefficients, averaged over {2**options.J} pixels, in "
            f"{options.L} orientations. Two lines per scale, fine scales first."
        )
        draw = _scattering_drawer(options)
    elif isinstance(options, HogOptions):
        meaning = (
            f"Histograms of gradients in cells of {options.cell} pixels: one stroke per "
            "orientation, along the edge, brighter for a stronger edge."
        )
        draw = _hog_drawer(options, image.size)
    else:
        meaning = "Standard deviation in a window of 3 x 3 pixels: bright where the image varies."
        draw = _deviation
    return meaning, [draw(vector, image.channels) for vector in vectors]


def _deviation(vector: Tensor, channels: int) -> Array:
    side = math.isqrt(len(vector) // channels)
    mean: Array = vector.view(channels, side, side).mean(dim=0).numpy()
    return mean


def _scattering_drawer(options: ScatteringOptions) -> Callable[[Tensor, int], Array]:
    first, second = options.J * options.L, options.L**2 * options.J * (options.J - 1) // 2
    maps = 1 + first + (second if options.order == 2 else 0)

    def draw(vector: Tensor, channels: int) -> Array:
        side = math.isqrt(len(vector) // (channels * maps))
        planes = vector.view(channels, maps, side, side)[:, 1 : 1 + first].mean(dim=0)
        return _tiled(planes.view(options.J, options.L, side, side).numpy())

    return draw


def _tiled(maps: Array) -> Array:
    """Lay out maps (J, L, h, w) in two lines per scale, with thin gaps between them."""
    J, L, side, _ = maps.shape
    factor = max(1, MAP_SIDE // side)
    maps = maps.repeat(factor, axis=2).repeat(factor, axis=3)
    across, step = -(-L // 2), side * factor + 1
    result = np.zeros((2 * J * step - 1, across * step - 1), dtype=maps.dtype)
    for scale in range(J):
        for angle in range(L):
            line, column = divmod(angle, across)
            top, left = (2 * scale + line) * step, column * step
            result[top : top + step - 1, left : left + step - 1] = maps[scale, angle]
    return result


def _hog_drawer(options: HogOptions, size: int) -> Callable[[Tensor, int], Array]:
    cells = size // options.cell

    def draw(vector: Tensor, channels: int) -> Array:
        histogram = vector.view(channels, options.bins, cells, cells).mean(dim=0)
        side = max(HOG_SIDE // cells, 6)
        strongest = max(float(histogram.max()), 1e-12)
        result = np.zeros((cells * side, cells * side), dtype=np.float32)
        for row in range(cells):
            for column in range(cells):
                strengths = (histogram[:, row, column] / strongest).tolist()
                place = (slice(row * side, (row + 1) * side), slice(column * side, None))
                result[place][:, :side] = _strokes(strengths, side)
        return result

    return draw


def _strokes(strengths: Sequence[float], side: int) -> Array:
    """Return one cell: a stroke through its centre per orientation, with the strongest on top."""
    cell = Image.new("L", (side, side))
    pen = ImageDraw.Draw(cell)
    centre, reach = (side - 1) / 2, 0.45 * side
    for bin_number in sorted(range(len(strengths)), key=lambda k: strengths[k]):
        across = (
            math.pi * bin_number / len(strengths) + math.pi / 2
        )  # edges are normal to gradients
        dx, dy = reach * math.cos(across), reach * math.sin(across)
        pen.line(
            (centre - dx, centre - dy, centre + dx, centre + dy),
            fill=round(255 * strengths[bin_number]),
            width=max(1, side // 24),
        )
    return np.asarray(cell, dtype=np.float32)
