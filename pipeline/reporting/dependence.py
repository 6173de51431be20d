"""How strongly all spaces depend on each other: a heat map of distance correlation."""

from dataclasses import dataclass

from pipeline.dependence import Sample as Rows
from pipeline.dependence import distance_correlation
from pipeline.reporting.sample import Absent, Sample

IMAGES = 1024  # at most: the distances between them are kept for every space


@dataclass(frozen=True)
class Dependence:
    """Bias-corrected squared distance correlation of each pair of spaces, on so many images."""

    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    images: int


def dependence(sample: Sample) -> Dependence | Absent:
    """Return the dependence of every pair of a sample's spaces.

    The bias-corrected statistic is about 0 for independent spaces, whatever their widths.
    """
    images = min(IMAGES, len(sample.images))
    if images < 4:
        return Absent(f"it needs at least 4 images; there are {images}")
    rows = {name: Rows(space[:images].double()) for name, space in sample.spaces.items()}
    return Dependence(
        names=tuple(rows),
        values=tuple(
            tuple(
                float(distance_correlation(a, b, statistic="dcor_squared_unbiased"))
                for b in rows.values()
            )
            for a in rows.values()
        ),
        images=images,
    )
