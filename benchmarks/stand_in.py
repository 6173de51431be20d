"""A stand-in for an accelerator: a network that takes time, and a third of one core.

It burns a core for a third of each step, as launching kernels does, and sleeps for the rest,
letting go of the interpreter. What feeds it should keep it as busy as it can be.
"""

import time
from typing import Literal

import torch
from torch import Tensor

from pipeline.images.original_view import ImageOptions
from pipeline.images.preparation import OriginalView
from pipeline.representations.representation import (
    JsonValue,
    Representation,
    RepresentationOptions,
)

BURNT_SHARE = 1 / 3


def take_time(seconds: float) -> None:
    """Burn a third of these seconds, of this thread's CPU time, and sleep for the rest."""
    until = time.thread_time() + BURNT_SHARE * seconds
    while time.thread_time() < until:
        pass
    time.sleep((1 - BURNT_SHARE) * seconds)


class StandInOptions(RepresentationOptions):
    """A network of `width` numbers that takes `images_per_second`."""

    kind: Literal["stand_in"] = "stand_in"
    images_per_second: float
    width: int = 64

    def build(self, image: ImageOptions) -> "StandIn":
        """Construct the network."""
        return StandIn(image, self.images_per_second, self.width)


class StandIn(Representation):
    """Returns the first pixels of images, after a while."""

    def __init__(self, image: ImageOptions, images_per_second: float, width: int) -> None:
        super().__init__()
        self.preparation = OriginalView(image)
        self._rate, self._width = images_per_second, width

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to (B, width)."""
        take_time(len(images) / self._rate)
        return images.flatten(1)[:, : self._width]

    def identity(self) -> dict[str, JsonValue]:
        """Return its settings."""
        return {"kind": "stand_in", "images_per_second": self._rate, "width": self._width}
