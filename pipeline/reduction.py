"""Storing a representation in fewer numbers, with a measured promise.

Distance correlation sees a representation only through the distances between images, so an
orthogonal projection that keeps the distances keeps the objective.
"""

from typing import Annotated

from pydantic import Field, model_validator

from pipeline.config import Options

Components = Annotated[int, Field(ge=1)]


class ReduceOptions(Options):
    """`features.<name>.reduce`: {pca: K}, {projection: K}, or {} for all dimensions."""

    pca: Components | None = None
    projection: Components | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "ReduceOptions":
        if self.pca is not None and self.projection is not None:
            raise ValueError("reduce takes either pca or projection, not both")
        return self
