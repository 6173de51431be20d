"""The normalised image itself: the simplest representation, which needs no storage.

The loader has it already, so an objective can name it without extracting anything. It may still
be stored, for example to reduce it.
"""

from typing import Literal

from torch import Tensor

from pipeline.images.original_view import ImageOptions
from pipeline.representations.handcrafted import HandCrafted
from pipeline.representations.representation import RepresentationOptions


class PixelsOptions(RepresentationOptions):
    """`kind: pixels`: the normalised original view, (C, H, W) flattened."""

    kind: Literal["pixels"] = "pixels"

    def build(self, image: ImageOptions) -> HandCrafted:
        """Construct the representation; it fits every image."""
        return HandCrafted(_unchanged, image, {"kind": self.kind, "implementation": 1})


def _unchanged(images: Tensor) -> Tensor:
    return images
