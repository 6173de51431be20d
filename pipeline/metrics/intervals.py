"""Intervals of one share of images; `paired.py` compares two."""

import math

from pipeline.base.errors import DataError

Z = 1.959964  # the normal quantile of a 95 % interval


def wilson(right: float, images: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, which stays within [0, 1] for few images.

    Raises DataError unless 0 <= `right` <= `images`, of which there is at least one.
    """
    if images < 1 or not 0 <= right <= images:
        raise DataError(f"A share is of at least one image; found {right} of {images}.")
    share = right / images
    scale = 1 + Z**2 / images
    middle = (share + Z**2 / (2 * images)) / scale
    reach = Z / scale * math.sqrt(share * (1 - share) / images + Z**2 / (4 * images**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)
