"""The encoder that is trained: backbone and projector, built by name.

Parameters are named as in the released MV-MR weights: `backbone.*` as in torchvision's
ResNet with an identity `fc`, and `projector.0`, `.1`, `.3`, `.4`, `.6`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.base.errors import ConfigError, WeightsError
from pipeline.base.seeds import generators_kept, seeded
from pipeline.base.timm_catalogue import other_activation, takes_one_size, unknown_backbone
from pipeline.models.cifar_resnet import CIFAR_RESNETS, CifarResNet
from pipeline.models.own_backbone import build_own, own_backbone
from pipeline.models.student import (
    STEMS,
    TIMM_PREFIX,
    TORCHVISION_RESNETS,
    StudentOptions,
)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Encoder(nn.Module):
    """A backbone, images -> h, and a projector, h -> z.

    `h_width` and `z_width` are the widths of h and z.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, h_width: int, z_width: int):
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.h_width = h_width
        self.z_width = z_width

    def features(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to features h (B, h_width); the projector does not run."""
        h: Tensor = self.backbone(images)
        return h

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) to h (B, h_width) and z (B, z_width)."""
        h = self.features(images)
        return h, self.projector(h)


def build_encoder(
    options: StudentOptions,
    *,
    channels: int,
    size: int,
    seed: int,
    network: nn.Module | None = None,
) -> Encoder:
    """Build an untrained encoder for images (B, channels, size, size).

    Initial weights depend only on `seed`; the global generator is left as it was. `weights`
    is not read here. A `network` takes the place of the one that options of the user's own code
    would build. Raises ConfigError if a backbone cannot take such images.
    """
    with seeded(seed):
        if network is None:
            backbone, width = _backbone(options, channels, size)
        else:
            name = options.architecture
            backbone, width = own_backbone(
                network, channels=channels, size=size, name=name, layer=options.layer
            )
        projector = build_projector(width, options.projector)
    z_width = options.projector[-1] if options.projector else width
    return Encoder(backbone, projector, width, z_width)


class _Unfilled(TorchFunctionMode):
    """Does not fill tensors without storage: PyTorch would import its compiler for it.

    That takes as long as to import PyTorch itself.
    """

    FILLING = frozenset({Tensor.normal_, Tensor.uniform_})

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in self.FILLING and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def outlined(options: StudentOptions, *, channels: int, size: int) -> Encoder:
    """Build an encoder without weights, on PyTorch's meta device: names and shapes alone.

    Raises ConfigError as `build_encoder` does.
    """
    with torch.device("meta"), _Unfilled():
        return build_encoder(options, channels=channels, size=size, seed=0)


@generators_kept()
def load_pretrained(encoder: Encoder, options: StudentOptions, *, channels: int, size: int) -> None:
    """Load timm's weights into a timm backbone; they are fetched at the first use.

    Raises ConfigError if they are for another activation, WeightsError if timm offers none, or
    if they cannot be fetched.
    """
    name = options.architecture.removeprefix(TIMM_PREFIX)
    if wrong := other_activation(name):
        raise ConfigError(wrong)
    try:
        network = _timm_network(name, channels, size, pretrained=True)
    except Exception as error:  # timm, its hub and the network fail in many ways
        raise WeightsError(
            f"There are no pretrained weights of {TIMM_PREFIX}{name}, or they cannot be fetched: "
            f"{error}. `timm.list_pretrained()` lists those that exist."
        ) from error
    load_weights(encoder.backbone, network.state_dict())


def build_projector(in_width: int, widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers without bias, with batch norm and ReLU between them.

    The last layer is only linear. Without widths, the projector is the identity, z = h.
    """
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(in_width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        in_width = width
    if widths:
        layers.append(nn.Linear(in_width, widths[-1], bias=False))
    return nn.Sequential(*layers)


@generators_kept()
def require_size(encoder: Encoder, *, channels: int, size: int) -> None:
    """Raise ConfigError unless a backbone also takes images (B, channels, size, size).

    One that does maps images of several sizes to the same h, as training on local views needs.
    """
    training = encoder.training
    try:
        with torch.no_grad():
            h = encoder.eval().features(torch.zeros(2, channels, size, size))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise ConfigError(_one_size(size, str(error))) from error
    finally:
        encoder.train(training)
    if h.shape != (2, encoder.h_width):
        raise ConfigError(_one_size(size, f"it gives {tuple(h.shape)} for two of them"))


def _one_size(size: int, found: str) -> str:
    return (
        f"train.views.local.size: the student cannot take views of {size} px beside its images "
        f"({found}). Choose another size, a student that takes images of any size, such as a "
        "ResNet, or leave local views out."
    )


def parameters_count(module: nn.Module) -> int:
    """Return the number of learnable parameters of `module`."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def load_weights(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into `module`, all of it or nothing.

    Raises WeightsError if a name is missing or unexpected, or if a shape differs.
    """
    own = module.state_dict()
    complaints = _name_complaints(own, state) or _shape_complaints(own, state)
    if complaints:
        raise WeightsError(
            f"The weights do not fit this network of {len(own)} tensors: {'; '.join(complaints)}. "
            "Check `student`: the architecture, the stem and the projector must be those that "
            "the weights were trained with."
        )
    module.load_state_dict(dict(state))


def _name_complaints(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    named = (("missing", missing), ("unexpected", unexpected))
    return [f"{len(names)} {what} ({_first(names)})" for what, names in named if names]


def _shape_complaints(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    differing = [
        f"{name} is {tuple(state[name].shape)} and should be {tuple(own[name].shape)}"
        for name in own
        if state[name].shape != own[name].shape
    ]
    return [f"{len(differing)} of another shape ({_first(differing)})"] if differing else []


def _first(items: Sequence[str], count: int = 3) -> str:
    return ", ".join(items[:count]) + (", ..." if len(items) > count else "")


def _backbone(options: StudentOptions, channels: int, size: int) -> tuple[nn.Module, int]:
    """Return a backbone that maps images to (B, width), and that width."""
    if options.is_own:
        return build_own(options, channels=channels, size=size)
    name = options.architecture
    zero_init = options.zero_init_residual is not False
    if name in CIFAR_RESNETS:
        depth, factor = CIFAR_RESNETS[name]
        network = CifarResNet(
            depth,
            factor,
            channels=channels,
            stem_stride=STEMS[options.stem or "3x3"].stride,
            zero_init_residual=zero_init,
        )
        return network, network.width
    if name in TORCHVISION_RESNETS:
        return _torchvision_resnet(options, channels, zero_init_residual=zero_init)
    return _timm_backbone(name.removeprefix(TIMM_PREFIX), channels, size)


def _torchvision_resnet(
    options: StudentOptions, channels: int, *, zero_init_residual: bool
) -> tuple[nn.Module, int]:
    import torchvision

    network = torchvision.models.get_model(
        options.architecture, weights=None, zero_init_residual=zero_init_residual
    )
    width = network.fc.in_features
    network.fc = nn.Identity()
    stem = STEMS[options.stem or "7x7"]
    if stem != STEMS["7x7"] or channels != 3:
        network.conv1 = nn.Conv2d(
            channels, 64, stem.kernel, stem.stride, stem.kernel // 2, bias=False
        )
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    if options.maxpool is False:
        network.maxpool = nn.Identity()
    return network, width


def _timm_backbone(name: str, channels: int, size: int) -> tuple[nn.Module, int]:
    """Return a timm network without its classifier, and its width, found with one image."""
    if unknown := unknown_backbone(name):
        raise ConfigError(unknown)
    try:
        network = _timm_network(name, channels, size, pretrained=False)
        network.eval()
        with torch.no_grad():
            features = network(torch.zeros(1, channels, size, size))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise ConfigError(
            f"The backbone {TIMM_PREFIX}{name} cannot take images of {channels} x {size} x {size}: "
            f"{str(error).rstrip('.')}. Choose another backbone or another dataset.image.size."
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ConfigError(f"The backbone {TIMM_PREFIX}{name} does not give one vector per image.")
    return network.train(), features.shape[1]


def expected_colours(architecture: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel that published weights were trained with.

    They are timm's for its networks, and ImageNet's for all others.
    """
    import timm

    config = None
    if architecture.startswith(TIMM_PREFIX):
        config = timm.get_pretrained_cfg(architecture.removeprefix(TIMM_PREFIX))
    return (IMAGENET_MEAN, IMAGENET_STD) if config is None else (config.mean, config.std)


def _timm_network(name: str, channels: int, size: int, *, pretrained: bool) -> nn.Module:
    import timm

    # Only networks with a fixed input size (most transformers) take img_size.
    fixed = {"img_size": size} if takes_one_size(name) else {}
    network: nn.Module = timm.create_model(
        name, pretrained=pretrained, num_classes=0, in_chans=channels, **fixed
    )
    return network
