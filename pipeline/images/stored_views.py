"""Stored views: random boxes and flips of an image that stay the same, for many representations.

They follow from the content of the image's file and the options alone. So they are kept nowhere:
extraction, training and whoever checks them draw the same ones, for whichever arrangement of the
images, and a row can be told from the view that it is of.
"""

from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from pipeline.base.digests import digest
from pipeline.base.options import Options
from pipeline.base.seeds import numbers_of
from pipeline.images.decoding import ImageFile
from pipeline.images.view_operations import BOX_NUMBERS, drawn_boxes

# Changes if the same options and file give other boxes.
DRAWN_AS = 1
# Views that one option allows for; more are hardly different.
MOST_VIEWS = 1000


class StoredViewOptions(Options):
    """`dataset.views`: `count` random crops of each training image, flipped with a probability.

    The area of a box, as a share of the image's, is uniform in [min_scale, 1], and its aspect ratio
    log-uniform in [3/4, 4/3].
    """

    count: Annotated[int, Field(ge=1, le=MOST_VIEWS)]
    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.4
    flip_p: Annotated[float, Field(ge=0, le=1)] = 0.5
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    def recipe(self) -> dict[str, float]:
        """Return what a view depends on besides its image and its number."""
        drawn = self.model_dump(exclude={"count"})
        return {**drawn, "drawn_as": DRAWN_AS}


class StoredView(NamedTuple):
    """A box of an upright image, in pixels from its upper left corner; mirrored if `flipped`."""

    top: int
    left: int
    height: int
    width: int
    flipped: bool

    @property
    def box(self) -> "npt.NDArray[np.int64]":
        """The box (1, 4): top, left, height, width."""
        return np.array([self[:4]], np.int64)

    def cut(self, image: Image.Image) -> Image.Image:
        """Return this view of an upright image, in as many pixels as the image has there."""
        part = image.crop((self.left, self.top, self.left + self.width, self.top + self.height))
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flipped else part


def stored_view(options: StoredViewOptions, image: ImageFile, number: int) -> StoredView:
    """Return view `number` of an image, from 0."""
    content = int.from_bytes(image.content[:8], "big") >> 1
    numbers = numbers_of([number], BOX_NUMBERS + 1, options.seed, content)
    boxes = drawn_boxes(
        numbers[:, :BOX_NUMBERS], options.min_scale, height=image.height, width=image.width
    )
    top, left, height, width = boxes[0].tolist()
    return StoredView(top, left, height, width, bool(numbers[0, -1] < options.flip_p))


def identities_of_views(
    options: StoredViewOptions, contents: "npt.NDArray[np.uint8]", number: int
) -> "npt.NDArray[np.uint8]":
    """Return identities (N, 16) of view `number` of images, from those of their content (N, 16).

    That of an image without content, all zeros, is all zeros.
    """
    own = bytes.fromhex(digest([options.recipe(), number]))[: contents.shape[1]]
    found = contents ^ np.frombuffer(own, np.uint8)
    found[~contents.any(axis=1)] = 0
    return found
