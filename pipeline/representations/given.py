"""Rows that somebody computed elsewhere and put into the store."""

from typing import Literal

from torch import Tensor

from pipeline.base.errors import ConfigError
from pipeline.images.original_view import ImageOptions
from pipeline.images.preparation import OriginalView
from pipeline.representations.representation import JsonValue, Representation, RepresentationOptions


class GivenOptions(RepresentationOptions):
    """`kind: given`: rows that `FeatureStore.put` stored; `made_from` is what was said of them."""

    kind: Literal["given"] = "given"
    made_from: str

    @property
    def computable(self) -> bool:
        """Nobody here knows how the rows were made."""
        return False

    def build(self, image: ImageOptions) -> "Given":
        """Return what stands for the rows where they are compared; it computes nothing."""
        return Given(image, self.made_from)


class Given(Representation):
    """A representation that is known by what was said of it, and cannot be computed."""

    def __init__(self, image: ImageOptions, made_from: str) -> None:
        super().__init__()
        self.preparation = OriginalView(image)
        self._made_from = made_from

    def forward(self, images: Tensor) -> Tensor:
        """Raise ConfigError."""
        raise ConfigError(
            f"The feature made from {self._made_from!r} was put into the store and cannot be "
            "computed here: put its rows again."
        )

    def identity(self) -> dict[str, JsonValue]:
        """Return what was said of the rows."""
        return {"kind": "given", "made_from": self._made_from}
