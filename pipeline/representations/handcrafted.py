"""What hand-crafted representations share: a pure transform of the normalised original view."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pipeline.base.arguments import require_floating
from pipeline.base.precision import full_precision
from pipeline.images.image_batch import require_normalised
from pipeline.images.original_view import ImageOptions
from pipeline.images.preparation import OriginalView
from pipeline.representations.representation import JsonValue, Representation


class HandCrafted(Representation):
    """A transform of images (B, C, H, W) of float32 or float64, flattened to vectors (B, D).

    `parameters` holds everything that the values depend on, except the images: the kind, the
    transform's own numbers and its `implementation`.
    """

    def __init__(
        self,
        transform: Callable[[Tensor], Tensor],
        image: ImageOptions,
        parameters: Mapping[str, JsonValue],
    ) -> None:
        super().__init__()
        self.preparation = OriginalView(image)
        self._transform = transform
        self._image = image
        self._values = dict(parameters)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, C, size, size) to (B, D), in float32 unless they are float64.

        Gradients flow to images that require them, and are finite. Raises ArgumentError for images
        of another form, such as uint8.
        """
        require_normalised(images, (self._image.channels, self._image.size, self._image.size))
        with full_precision(images.device):  # training may compute it inside autocast
            return self._transform(in_working_precision(images)).flatten(1)

    def identity(self) -> dict[str, JsonValue]:
        """Return the transform's parameters and how its images are prepared."""
        return {**self._values, "image": image_identity(self._image)}


def in_working_precision(images: Tensor) -> Tensor:
    """Return images of float64 as they are and of other floats as float32."""
    require_floating(images, "A representation", dimensions=2)
    return images if images.dtype == torch.float64 else images.float()


def image_identity(image: ImageOptions) -> dict[str, JsonValue]:
    """Return what the original view depends on, as JSON values."""
    values: dict[str, JsonValue] = image.model_dump(mode="json")
    return values
