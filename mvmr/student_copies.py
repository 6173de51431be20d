"""A network that was handed over, as what builds a student."""

from copy import deepcopy

from torch import nn

from pipeline.models.own_backbone import STUDENTS


def register_copies(name: str, network: nn.Module) -> None:
    """Register a network under a name: each student of that name is a copy of it."""
    STUDENTS.add(name, _Copies(network))


# Its source text is part of what a training run depends on.
class _Copies:
    """A function that returns copies of a network."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    def __call__(self) -> nn.Module:
        return deepcopy(self._network)
