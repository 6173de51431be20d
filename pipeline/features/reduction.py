"""The reduction of a representation to fewer numbers: a random projection, a PCA, or both.

Distance correlation depends on a representation only through the distances between images, so a
projection that preserves these distances preserves the objective.
`pipeline/features/fidelity.py` measures the remaining error on images outside the fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.base.errors import StoreError
from pipeline.features.principal_components import Pca
from pipeline.features.projection import Projection

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Reduction:
    """A projection, then a PCA; either may be None, and with neither nothing is reduced."""

    projection: Projection | None = None
    pca: Pca | None = None

    @property
    def keeps_components(self) -> bool:
        """Whether reduced vectors are components of the representation: principal ones, or all."""
        return self.pca is not None or self.projection is None

    def width(self, original: int) -> int:
        """Return the width K of reduced vectors, given the `original` width."""
        if self.pca is not None:
            return self.pca.basis.shape[1]
        return original if self.projection is None else self.projection.width

    def to(self, device: torch.device | str) -> "Reduction":
        """Return the reduction on a device, where `apply` need not send it each time."""
        projection = None if self.projection is None else self.projection.to(device)
        return Reduction(projection, None if self.pca is None else self.pca.to(device))

    def apply(self, x: Tensor) -> Tensor:
        """Map representations (B, D) to reduced vectors (B, K), float32."""
        x = x.float()
        if self.projection is not None:
            x = self.projection.apply(x)
        return x if self.pca is None else self.pca.apply(x)

    def arrays(self) -> dict[str, Array]:
        """Return the arrays that `load` needs, all floating-point, so that NaN can mark gaps."""
        arrays: dict[str, Array] = {}
        if self.projection is not None:
            arrays["outputs"] = self.projection.outputs.numpy().astype(np.float64)
            arrays["signs"] = self.projection.signs.numpy()
        if self.pca is not None:
            arrays["mean"] = self.pca.mean.numpy()
            arrays["basis"] = self.pca.basis.numpy()
            arrays["variance_ratio"] = self.pca.variance_ratio.numpy()
        return arrays

    def attributes(self) -> dict[str, int | None]:
        """Return the other values that `load` needs, as JSON."""
        return {
            "projection_width": self.projection.width if self.projection else None,
            "components": len(self.pca.variance_ratio) if self.pca else None,
        }

    @classmethod
    def load(cls, arrays: Mapping[str, Array], attributes: Mapping[str, Any]) -> "Reduction":
        """Restore a reduction from `arrays()` and `attributes()`; StoreError if one is missing."""
        tensors = {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}
        projection, pca = None, None
        try:
            if attributes["projection_width"] is not None:
                projection = Projection(
                    tensors["outputs"].long(), tensors["signs"], attributes["projection_width"]
                )
            if attributes["components"] is not None:
                pca = Pca(tensors["mean"], tensors["basis"], tensors["variance_ratio"])
        except KeyError as error:
            raise StoreError(f"The stored reduction lacks {error}: extract it again.") from error
        return cls(projection, pca)
