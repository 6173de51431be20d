"""How a representation is stored: its type and its reduction."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.base.options import Options

StoredType = Literal["float16", "bfloat16", "int8", "float32"]
Components = Annotated[int, Field(ge=1)]


class ReduceOptions(Options):
    """`features.<name>.reduce`: how vectors are shortened; {} keeps all dimensions.

    {pca: K} keeps K principal components, or as many as the images of the fit allow;
    {projection: K} is a random projection to K numbers; {fidelity: E} keeps the fewest principal
    components for which the largest error of dCor, on images used neither for the fit nor for
    the choice, is at most E.
    """

    pca: Components | None = None
    projection: Components | None = None
    fidelity: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "ReduceOptions":
        if len(self.model_dump(exclude_none=True)) > 1:
            raise ValueError("reduce takes one of pca, projection and fidelity")
        return self

    @property
    def by_components(self) -> bool:
        """Whether principal components are fitted."""
        return self.pca is not None or self.fidelity is not None
