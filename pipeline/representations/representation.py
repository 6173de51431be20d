"""The interface of a representation: a fixed map from an image to one vector.

Extraction, storage, loading and objective treat hand-crafted transforms and frozen teachers
alike. To add one, write a file with an options class (its parameters, and `build`) and a
`Representation`, and add a row to `kinds.py`.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from pipeline.base.digests import state_digest
from pipeline.base.options import Options, added
from pipeline.images.original_view import ImageOptions
from pipeline.images.preparation import Preparation
from pipeline.images.stored_views import StoredViewOptions
from pipeline.representations.storing import ReduceOptions, StoredType

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]


class Representation(nn.Module, ABC):
    """A map from prepared images (B, C, H, W) to vectors (B, D), without learnable state.

    Rows do not depend on each other: an image gives the same vector in any batch. Values are
    float32 unless the input is float64. Gradients flow through hand-crafted ones, to images that
    require them, and not through teachers and random ones.
    """

    # What its owner can do if a row depends on its batch, or if a batch is not taken.
    if_mixed: ClassVar[str] = "compute each row from its own image alone"
    if_not_taken: ClassVar[str] = "it must map a batch of any size to a tensor (B, D)"

    preparation: Preparation

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Map prepared images (B, C, H, W) to vectors (B, D)."""

    @abstractmethod
    def identity(self) -> dict[str, JsonValue]:
        """Everything that the values depend on: parameters, weights digest, versions.

        Two representations with equal identities give equal vectors. `implementation` is a
        number; raise it by one whenever a change of the code changes its outputs. `identity_of`
        adds the digest of weights that it leaves out.
        """


def identity_of(representation: Representation) -> dict[str, JsonValue]:
    """Return an identity with `weights`: what it states, or the digest of all weights, if any."""
    identity = representation.identity()
    if "weights" in identity or not representation.state_dict():
        return identity
    return {**identity, "weights": state_digest(representation)}


class RepresentationOptions(Options, ABC):
    """Parameters of one kind of representation, and how it is stored.

    A subclass sets `kind: Literal["..."]`, its name in an experiment file. With `views`, the
    vectors of stored views of each training image are stored too.
    """

    # A random representation is computed at training time and cannot be stored.
    storable: ClassVar[bool] = True

    kind: str
    reduce: ReduceOptions = ReduceOptions()
    dtype: StoredType = "float16"
    views: StoredViewOptions | None = added(None)

    @property
    def computable(self) -> bool:
        """Whether the rows can be computed from images."""
        return True

    @property
    def in_this_process_only(self) -> bool:
        """Whether other processes cannot build it, because it was handed over in memory."""
        return False

    @property
    def exact(self) -> "RepresentationOptions | None":
        """The options whose vectors these only come near to; None if there are none."""
        return None

    def files(self) -> dict[str, Path]:
        """Return the local files that `build` reads, by the option that names each."""
        return {name: value for name, value in self if isinstance(value, Path)}

    @abstractmethod
    def build(self, image: ImageOptions) -> Representation:
        """Construct the representation for original views as `image` describes them.

        Raises WeightsError if a frozen network cannot be loaded, ConfigError if the
        parameters do not fit the images (such as 2^J larger than the side).
        """
