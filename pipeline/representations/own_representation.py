"""A function of the user's own as a representation."""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from pipeline.base.errors import ConfigError, WeightsMissingError
from pipeline.base.own_code import PREFIX, OwnCode, require_arguments
from pipeline.images.original_view import ImageOptions
from pipeline.representations.handcrafted import HandCrafted
from pipeline.representations.representation import RepresentationOptions

# Functions of normalised original views (B, C, H, W), float32, that return (B, D).
REPRESENTATIONS: OwnCode[Callable[[Tensor], Tensor]] = OwnCode(
    "representation", "mvmr.register_representation"
)


class OwnOptions(RepresentationOptions):
    """`kind: python:package.module:function` with `trust: true`, or a name registered before.

    The function maps normalised original views (B, C, H, W), float32, to (B, D), or to anything
    that flattens to it; an image must give the same vector in any batch. Raise `version` by one
    when a change of the function changes its values: stored rows are known by code and version.
    """

    kind: Literal["own"] = "own"
    code: str
    trust: bool = False
    version: Annotated[int, Field(ge=1)] = 1

    @property
    def in_this_process_only(self) -> bool:
        """Whether other processes cannot import the function."""
        return not self.code.startswith(PREFIX)

    def build(self, image: ImageOptions) -> HandCrafted:
        """Construct the representation.

        Raises ConfigError if there is no such function to import, WeightsMissingError if it was not
        registered in this process.
        """
        try:
            function = REPRESENTATIONS.find(self.code, trust=self.trust)
        except ConfigError as error:
            if self.in_this_process_only:
                raise WeightsMissingError(str(error)) from error
            raise
        require_arguments(function, f"The representation {self.code!r}", "images")
        return HandCrafted(
            function,
            image,
            {"kind": self.kind, "code": self.code, "implementation": self.version},
        )
