"""Golden arrays: the outputs of each transform, and of Kymatio, for fixed images.

A test fails when a representation's values change but its `implementation` does not, because
features stored earlier would pass for current ones. After raising the number, run
`python tests/representations/test_golden.py` to write the arrays again (those of Kymatio only if
it is installed).
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.base.own_code import OWN
from pipeline.images.original_view import ImageOptions
from pipeline.representations.handcrafted import HandCrafted
from pipeline.representations.kinds import KINDS
from pipeline.representations.representation import RepresentationOptions
from pipeline.representations.scattering import Scattering2D

FOLDER = Path(__file__).parents[1] / "golden"
IMAGE = ImageOptions(size=16, channels=3, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
OPTIONS: dict[str, dict[str, int]] = {
    "pixels": {},
    "scattering": {"J": 2, "L": 4},
    "hog": {},
    "local_std": {},
    "dct": {},
    "patch_scattering": {"J": 1, "L": 4, "patches": 2},
}
# (H, W), J, L, order of the arrays from Kymatio
KYMATIO = [((16, 16), 2, 8, 2), ((12, 17), 2, 3, 2), ((8, 8), 3, 4, 2), ((20, 9), 1, 5, 1)]


def golden_options(kind: str) -> RepresentationOptions:
    return KINDS[kind].model_validate({"kind": kind, **OPTIONS[kind]})


def images(*shape: int) -> torch.Tensor:
    """Return reproducible images, float64, of about -2 to 2: waves, an edge and a flat corner."""
    *batch, H, W = shape
    phase = np.arange(int(np.prod(batch, dtype=int))).reshape(*batch, 1, 1)
    y, x = np.mgrid[:H, :W]
    values = np.sin(0.7 * x + 0.3 * y + phase) + np.cos(0.05 * x * y - phase) * (x > y)
    values[..., : H // 3, : W // 3] = 0.5
    return torch.from_numpy(values)


def relative_error(actual: NDArray[np.float64], expected: NDArray[np.float32]) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("kind", OPTIONS)
def test_values_change_only_with_the_implementation_number(kind: str) -> None:
    representation = golden_options(kind).build(IMAGE)
    implementation = representation.identity()["implementation"]
    with np.load(FOLDER / "representations.npz", allow_pickle=False) as arrays:
        key = f"{kind}.{implementation}"
        assert key in arrays, f"implementation {implementation} has no golden array yet"
        expected = arrays[key]
    actual = representation(images(1, 3, 16, 16)).numpy()
    assert actual.shape == expected.shape
    assert relative_error(actual, expected) < 1e-6, "raise `implementation` and write a new array"


def test_every_hand_crafted_kind_has_a_golden_array() -> None:
    hand_crafted = [
        kind
        for kind, options in KINDS.items()
        if options.build.__annotations__["return"] is HandCrafted
        and options.storable
        and kind != OWN
    ]
    assert sorted(hand_crafted) == sorted(OPTIONS)


@pytest.mark.parametrize("index", range(len(KYMATIO)))
def test_scattering_agrees_with_arrays_made_by_kymatio(index: int) -> None:
    shape, J, L, order = KYMATIO[index]
    with np.load(FOLDER / "kymatio.npz", allow_pickle=False) as arrays:
        expected = arrays[str(index)]
    actual = Scattering2D(shape, J=J, L=L, order=order)(images(1, *shape)).numpy()
    assert actual.shape == expected.shape
    assert relative_error(actual, expected) < 1e-6


def write_ours() -> None:
    arrays = {}
    for kind in OPTIONS:
        representation = golden_options(kind).build(IMAGE)
        values = representation(images(1, 3, 16, 16)).numpy().astype(np.float32)
        arrays[f"{kind}.{representation.identity()['implementation']}"] = values
    np.savez_compressed(FOLDER / "representations.npz", allow_pickle=False, **arrays)


def write_those_of_kymatio() -> None:
    from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

    arrays = {}
    for index, (shape, J, L, order) in enumerate(KYMATIO):
        transform = ScatteringTorch2D(J, shape, L=L, max_order=order).double()
        arrays[str(index)] = transform(images(1, *shape)).numpy().astype(np.float32)
    np.savez_compressed(FOLDER / "kymatio.npz", allow_pickle=False, **arrays)


if __name__ == "__main__":
    write_ours()
    write_those_of_kymatio()
