"""Scattering of each patch of an image separately, so that no coefficient mixes two patches."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from pipeline.base.errors import ConfigError
from pipeline.images.original_view import ImageOptions
from pipeline.representations.handcrafted import HandCrafted
from pipeline.representations.representation import RepresentationOptions
from pipeline.representations.scattering import Scattering2D


class PatchScatteringOptions(RepresentationOptions):
    """`kind: patch_scattering`: scattering (J, L, order) of each of `patches` x `patches` parts."""

    kind: Literal["patch_scattering"] = "patch_scattering"
    patches: Annotated[int, Field(ge=1)] = 4
    J: Annotated[int, Field(ge=1, le=12)] = 2
    L: Annotated[int, Field(ge=1, le=64)] = 8
    order: Literal[1, 2] = 2

    def build(self, image: ImageOptions) -> HandCrafted:
        """Construct the representation; raises ConfigError if 2^J is larger than a patch."""
        side = image.size // self.patches
        if side < 2**self.J:
            raise ConfigError(
                f"patch_scattering over 2^J = {2**self.J} pixels does not fit patches of {side} "
                f"pixels a side; choose a smaller J or fewer patches."
            )
        transform = PatchScattering2D(
            (image.size, image.size), patches=self.patches, J=self.J, L=self.L, order=self.order
        )
        numbers = {"patches": self.patches, "J": self.J, "L": self.L, "order": self.order}
        return HandCrafted(transform, image, {"kind": self.kind, **numbers, "implementation": 1})


class PatchScattering2D:
    """The scattering of the patches of images of one shape (H, W).

    Maps (..., H, W) to (..., patches, patches, K, h, w): rows of patches, columns of patches, and
    what `Scattering2D` gives for a patch of (H // patches, W // patches) pixels. Rows and
    columns of pixels beyond the last whole patch are left out.
    """

    def __init__(
        self, shape: tuple[int, int], *, patches: int = 4, J: int = 2, L: int = 8, order: int = 2
    ) -> None:
        self._patches = patches
        self._sides = shape[0] // patches, shape[1] // patches
        self._scattering = Scattering2D(self._sides, J=J, L=L, order=order)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the coefficients of images (..., H, W), float32 or float64."""
        p, (H, W) = self._patches, self._sides
        whole = images[..., : p * H, : p * W]
        patches = whole.reshape(*images.shape[:-2], p, H, p, W)
        return self._scattering(patches.transpose(-3, -2))
