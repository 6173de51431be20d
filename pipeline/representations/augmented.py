"""The original view under a random augmentation: a representation that is never stored.

Every image gets a new draw at each call. The original view is first mapped back to [0, 1],
because an augmentation of colours would clamp a normalised image.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.images.image_batch import require_normalised
from pipeline.images.original_view import ImageOptions, denormalise, normalise_views
from pipeline.images.preparation import OriginalView
from pipeline.images.random_views import Augmentation, AugmentationOptions, build_augmentation
from pipeline.representations.handcrafted import image_identity, in_working_precision
from pipeline.representations.representation import JsonValue, Representation, RepresentationOptions


class AugmentedOptions(RepresentationOptions):
    """`kind: augmented`: one random augmentation of the original view, (C, H, W) flattened."""

    storable: ClassVar[bool] = False

    kind: Literal["augmented"] = "augmented"
    augmentation: AugmentationOptions = Field(
        default_factory=lambda: AugmentationOptions(policy="custom")
    )

    def build(self, image: ImageOptions) -> "Augmented":
        """Construct the representation; it fits every image."""
        parameters = self.augmentation.model_dump(mode="json")
        return Augmented(build_augmentation(self.augmentation, image), image, parameters)


class Augmented(Representation):
    """A random augmentation of normalised images.

    `augmentation` maps images (B, C, H, W) in [0, 1] to images in [0, 1], with one draw per image;
    `parameters` describes it in JSON values.
    """

    def __init__(
        self, augmentation: Augmentation, image: ImageOptions, parameters: Mapping[str, JsonValue]
    ) -> None:
        super().__init__()
        self.preparation = OriginalView(image)
        self._augmentation = augmentation
        self._image = image
        self._policy = dict(parameters)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map normalised original views (B, C, H, W) to (B, D), a new draw at each call."""
        # Rounding can leave [0, 1] by a unit in the last place; an augmentation may refuse that.
        images = in_working_precision(images)
        require_normalised(images, (self._image.channels, self._image.size, self._image.size))
        plain = denormalise(images, self._image).clamp(0, 1)
        views = self._augmentation.views(plain).to(plain.dtype)
        return normalise_views(views, self._image).flatten(1)

    def identity(self) -> dict[str, JsonValue]:
        """Return the policy and how its images are prepared; it does not include the draw."""
        return {
            "kind": "augmented",
            "augmentation": self._policy,
            "implementation": 1,
            "image": image_identity(self._image),
        }
