"""Only a representation that gives each image its own vector is stored, under its own identity."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_runs import IMAGE, make_data

from pipeline.base.errors import WeightsError
from pipeline.base.progress import Silent
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.store import FeatureStore, StoredFeature
from pipeline.images.original_view import ImageOptions
from pipeline.images.preparation import OriginalView
from pipeline.representations.hog import HogOptions
from pipeline.representations.representation import JsonValue, Representation, RepresentationOptions
from pipeline.representations.row_check import checked_vectors
from pipeline.representations.teachers.frozen import FrozenTeacher


class _Centred(nn.Module):
    """A network whose rows depend on the other rows, as with batch norm in training mode."""

    def forward(self, images: Tensor) -> Tensor:
        rows = images.flatten(1)
        return rows - rows.mean(0)


class _ByPlace(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) * torch.arange(1, len(images) + 1)[:, None]


class _Drawn(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(images.flatten(1), 0.5)


class _Joined(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).mean(0, keepdim=True)


class _Endless(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) / 0


def teacher(network: nn.Module) -> FrozenTeacher:
    return FrozenTeacher(network, OriginalView(IMAGE), {"kind": "own"}, "float32")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (_Centred(), "another vector in another batch"),
        (_ByPlace(), "another vector in another batch"),
        (_Drawn(), "another vector in another batch"),
        (_Joined(), r"one vector of floats .* \(1, 64\) for 2 images"),
        (_Endless(), "not finite"),
    ],
)
def test_a_network_that_mixes_images_is_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        checked_vectors(teacher(network), "own")


def test_a_network_that_is_given_in_training_mode_is_put_in_evaluation_mode() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), nn.Flatten())
    assert network.training
    assert checked_vectors(teacher(network), "own").shape == (2, 64)
    assert torch.equal(network[0].running_mean, torch.zeros(1))  # type: ignore[arg-type]


class Net(Representation):
    """A teacher of the user's, whose stated identity says nothing about its weights."""

    def __init__(self, weight: float, *, mixes: bool) -> None:
        super().__init__()
        self.preparation = OriginalView(IMAGE)
        self.weight = nn.Parameter(torch.tensor(weight), requires_grad=False)
        self._mixes = mixes

    def forward(self, images: Tensor) -> Tensor:
        """Return scaled pixels."""
        rows = self.weight * images.flatten(1)
        return rows - rows.mean(0) if self._mixes else rows

    def identity(self) -> dict[str, JsonValue]:
        """Return only a name."""
        return {"kind": "net", "name": "mine"}


class NetOptions(RepresentationOptions):
    """Options of `Net`."""

    kind: Literal["net"] = "net"
    weight: float = 1.0
    mixes: bool = False

    def build(self, image: ImageOptions) -> Net:
        """Return the teacher."""
        return Net(self.weight, mixes=self.mixes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    make_data(root)
    return root


def stored(data: Path, name: str, **options: Any) -> StoredFeature:
    return extract(
        {name: NetOptions(dtype="float32", **options)},
        image=IMAGE,
        shards=data / "shards",
        store=FeatureStore(data / "features.zarr"),
        work=data / "work",
        options=ClusterOptions(workers=1),
        progress=Silent(),
    )[name]


def test_teachers_of_one_name_and_other_weights_share_no_rows(data: Path) -> None:
    one, two = stored(data, "one", weight=1.0), stored(data, "two", weight=2.0)
    rows = one.read("train")
    assert np.abs(rows).sum() > 0
    np.testing.assert_array_equal(two.read("train"), 2 * rows)
    assert one.fingerprint["representation"]["name"] == "mine"
    assert one.digest != two.digest
    changed = stored(data, "one", weight=3.0)
    np.testing.assert_array_equal(changed.read("train"), 3 * rows)


def test_rows_that_depend_on_their_batch_are_not_stored(data: Path) -> None:
    with pytest.raises(WeightsError, match="The representation 'mixed' gives an image another"):
        stored(data, "mixed", mixes=True)
    assert "mixed" not in FeatureStore(data / "features.zarr")


def test_what_is_built_in_passes(data: Path) -> None:
    assert checked_vectors(HogOptions(cell=4).build(IMAGE), "hog").shape == (2, 24 * 4)
