"""Any network as a student's backbone: where its features are, and how it is built.

A network's features are its output, if that is (B, D); the mean of feature maps (B, D, h, w) over
their places; what timm's networks hand to their classifier; or the output of a named layer.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.base.errors import ConfigError
from pipeline.base.own_code import OwnCode, require_arguments
from pipeline.models.student import OWN_PREFIX, StudentOptions

# Functions that build a network, from keywords `channels` and `size` if they take them.
STUDENTS: OwnCode[Callable[..., nn.Module]] = OwnCode("student", "mvmr.register_student")

# Kernels differ with the shape of a batch; statistics of a batch make a far larger difference.
RELATIVE, ABSOLUTE = 1e-2, 1e-3


class PooledFeatures(nn.Module):
    """A network whose features are not its output, as a map from images to (B, D).

    `layer` is the name of a layer whose output they are; without one, they are what a timm network
    hands to its classifier, or the network's output. Maps (B, D, h, w) are averaged.
    """

    def __init__(self, network: nn.Module, layer: str | None = None) -> None:
        super().__init__()
        self.network = network
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to features (B, D)."""
        network: Any = self.network
        if self.layer is not None:
            found = _output_of(self.network, self.layer, images)
        elif _is_of_timm(self.network):
            found = network.forward_head(network.forward_features(images), pre_logits=True)
        else:
            found = network(images)
        return found.mean((2, 3)) if found.ndim == 4 else found


def own_backbone(
    network: Any, *, channels: int, size: int, name: str, layer: str | None = None
) -> tuple[nn.Module, int]:
    """Return a network as a backbone for images (B, channels, size, size), and its width.

    Raises ConfigError if it is no network, has nothing to learn, takes no such images, or has no
    features (B, D) that are the same in any batch.
    """
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"The student {name!r} must be a torch.nn.Module; found {type(network).__name__}."
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(f"The student {name!r} has no parameters that could learn.")
    pooled = layer is not None or _is_of_timm(network)
    backbone = PooledFeatures(network, layer) if pooled else network
    blank = _example(network, channels, size)
    training = backbone.training
    try:
        with torch.no_grad():
            found = backbone.eval()(blank)
            if isinstance(found, Tensor) and found.ndim == 4:
                backbone = PooledFeatures(network).eval()
                found = backbone(blank)
    except ConfigError:
        raise
    except Exception as error:  # of any kind: it is the user's code
        raise ConfigError(
            f"The student {name!r} cannot take images of {channels} x {size} x {size}: {error}. "
            "Check its first layer and the image's size."
        ) from error
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(blank):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"The student {name!r} must map images to features (B, D); found {shape} for "
            f"{len(blank)} images. Name the layer that gives them, or wrap the network."
        )
    if not blank.is_meta:
        _require_independent_rows(backbone, blank, name)
    return backbone.train(training), found.shape[1]


@torch.no_grad()
def _require_independent_rows(backbone: nn.Module, images: Tensor, name: str) -> None:
    """Raise ConfigError unless images (B, C, H, W), B > 1, have the same features one by one."""
    many = backbone(images)
    alone = torch.cat([backbone(image[None]) for image in images])
    if not torch.isfinite(many).all():
        raise ConfigError(f"The student {name!r} gives features that are not finite.")
    if not torch.allclose(many, alone, rtol=RELATIVE, atol=ABSOLUTE):
        raise ConfigError(
            f"The student {name!r} must give an image the same features in any batch in evaluation "
            f"mode; alone they differ by up to {(many - alone).abs().max():.2g}. Use no statistics "
            "of the batch in that mode."
        )


def _is_of_timm(network: nn.Module) -> bool:
    return hasattr(network, "forward_features") and hasattr(network, "forward_head")


def _example(network: nn.Module, channels: int, size: int) -> Tensor:
    first = next(network.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    ramp = torch.linspace(-1, 1, 3 * channels * size * size, device=device)
    return ramp.mul(9).sin().reshape(3, channels, size, size)


def _output_of(network: nn.Module, layer: str, images: Tensor) -> Tensor:
    modules = dict(network.named_modules())
    if layer not in modules:
        some = ", ".join([name for name in modules if name][:20])
        raise ConfigError(f"The student has no layer {layer!r}; its layers are {some}, ...")
    held: list[Tensor] = []
    hook = modules[layer].register_forward_hook(lambda _module, _given, out: held.append(out))
    try:
        network(images)
    finally:
        hook.remove()
    return held[-1]


def build_own(options: StudentOptions, *, channels: int, size: int) -> tuple[nn.Module, int]:
    """Build the network of a registered or importable function, and return it with its width.

    Raises ConfigError if there is no such function, or it is not trusted.
    """
    name = options.architecture
    make = STUDENTS.find(name.removeprefix(OWN_PREFIX), trust=options.trust)
    given = _taken_by(make, {"channels": channels, "size": size})
    require_arguments(make, f"The function of the student {name!r}", **given)
    network = make(**given)
    return own_backbone(network, channels=channels, size=size, name=name, layer=options.layer)


def _taken_by(make: Callable[..., Any], offered: dict[str, int]) -> dict[str, int]:
    """Return those of the offered keywords that a function takes."""
    names = inspect.signature(make).parameters
    return {key: value for key, value in offered.items() if key in names}
