"""Size of images, batch and epochs that suit a number of images and a time.

Networks learn in steps, and more of them help until there are some thousands. A larger image helps
too, and makes each step longer by its area. So the image is as large as leaves time for enough
steps. For a network that starts from known weights these are few: on 3,068 photographs of clothes,
188 steps at 128 px made a better one than 564 at 64 px of smaller files, by 5 points of recall.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SIZES = (64, 96, 128, 160, 192, 224)
SMALLEST_SIZE, GRID = 16, 4  # of images smaller than SIZES; sides are multiples of GRID
MARGIN = 1.125  # of what is cropped: the shorter side is resized to this multiple of the size
STORED, STORED_FOR_TEACHERS = 4, 2  # the longer side that is stored, as a multiple of the size
SMALLEST_BATCH, STEPS_AN_EPOCH = 8, 16
MOST_EPOCHS = 200


@dataclass(frozen=True)
class Steps:
    """How many steps of training are enough, how many are of use, and with what batch at most.

    As many as `enough` are left for a larger image; more than these help while they are `few`.
    """

    enough: int
    few: int
    most: int
    batch: int


UNTRAINED = Steps(enough=3000, few=3000, most=10_000, batch=1024)
KNOWN = Steps(enough=150, few=400, most=4000, batch=64)


def steps_for(weights: str | None) -> Steps:
    """Return the steps that suit a student, by `student.weights`: what it starts from, if any."""
    return UNTRAINED if weights is None else KNOWN


@dataclass(frozen=True)
class Extent:
    """How long a run is: images in a batch, epochs, and steps of all epochs.

    `fits` tells whether it keeps to the time, which even one epoch may exceed.
    """

    batch: int
    epochs: int
    steps: int
    fits: bool


def sizes_for(side: int) -> tuple[int, ...]:
    """Return the sizes, in ascending order, for images whose shorter side has `side` pixels."""
    below = tuple(size for size in SIZES if size <= side)
    return below or (max(SMALLEST_SIZE, side // GRID * GRID),)


def resize_for(size: int, side: int) -> int:
    """Return what the shorter side is resized to: a little more than the crop, if there is more."""
    return max(size, min(round(MARGIN * size), side))


def stored_side(size: int, teachers: int) -> int:
    """Return the longer side to store, for a student's size and the largest that teachers see."""
    return max(STORED * size, STORED_FOR_TEACHERS * teachers)


def batch_for(images: int, most: int) -> int:
    """Return the largest power of two that leaves enough steps an epoch, up to `most`."""
    fitting = 1 << max(0, (images // STEPS_AN_EPOCH).bit_length() - 1)
    return max(SMALLEST_BATCH, min(most, fitting))


def extent_for(
    images: int, batch: int, *, seconds: float, epoch_seconds: float, most: int
) -> Extent:
    """Return the run that `seconds` allow, of at least one epoch.

    It has at most `MOST_EPOCHS`, and hardly more than `most` steps.
    """
    steps = max(1, images // batch)
    useful = min(MOST_EPOCHS, math.ceil(most / steps))
    epochs = max(1, min(useful, int(seconds / epoch_seconds)))
    return Extent(batch, epochs, epochs * steps, fits=epochs * epoch_seconds <= seconds)


def is_enough(extent: Extent, steps: Steps) -> bool:
    """Whether a run has enough steps, or as many epochs as are of use."""
    return extent.steps >= steps.enough or extent.epochs == MOST_EPOCHS


def largest(sizes: Sequence[int], suits: Callable[[int], bool]) -> int:
    """Return the largest size that suits, or the smallest if none does."""
    return max(filter(suits, sizes), default=sizes[0])
