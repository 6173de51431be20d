"""Frozen networks are placed in the layout in which a device is faster."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.base.devices import placed

CPU = torch.device("cpu")
PATCHES = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten())
SEVERAL = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Flatten())


class Flattened(nn.Sequential):
    """A network from elsewhere, which relies on the usual layout."""

    def forward(self, images: Tensor) -> Tensor:
        """Map images to features."""
        maps: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        return maps.view(len(maps), -1)


OWN = Flattened(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))


@pytest.mark.parametrize(("network", "is_last"), [(PATCHES, False), (SEVERAL, True), (OWN, False)])
def test_channels_are_last_where_several_convolutions_gain(
    network: nn.Module, is_last: bool
) -> None:
    images = torch.rand(2, 3, 12, 12)
    before: Tensor = network.eval()(images)
    found = placed(network, CPU)
    kernel: Tensor = found.state_dict()["0.weight"]
    assert kernel.is_contiguous(memory_format=torch.channels_last) == is_last
    assert torch.allclose(found(images), before, atol=1e-6)
