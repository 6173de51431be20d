"""Students against torchvision, timm, published sizes and plain computations."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from pydantic import ValidationError
from torch import nn

from pipeline.base.errors import ConfigError, WeightsError
from pipeline.models.cifar_resnet import CIFAR_RESNETS, DEPTHS
from pipeline.models.encoder import (
    Encoder,
    build_encoder,
    load_pretrained,
    load_weights,
    parameters_count,
)
from pipeline.models.student import PRETRAINED, StudentOptions


def built(*, channels: int = 3, size: int = 32, seed: int = 0, **options: Any) -> Encoder:
    chosen = StudentOptions.model_validate(options)
    return build_encoder(chosen, channels=channels, size=size, seed=seed)


def outputs(encoder: Encoder, images: torch.Tensor) -> torch.Tensor:
    encoder.eval()
    with torch.no_grad():
        return encoder.features(images)


def images(channels: int = 3, size: int = 32, count: int = 4) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(7))


def released_names() -> dict[str, tuple[int, ...]]:
    """List names and shapes of a released ResNet-50 with its projector, by its layout."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    shapes["backbone.conv1.weight"] = (64, 3, 7, 7)
    norm("backbone.bn1", 64)
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        width = 64 * 2 ** (stage - 1)
        for block in range(blocks):
            name = f"backbone.layer{stage}.{block}"
            for number, shape in enumerate(
                [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)], start=1
            ):
                shapes[f"{name}.conv{number}.weight"] = shape
                norm(f"{name}.bn{number}", shape[0])
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, inputs, 1, 1)
                norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    for layer, linear_inputs in ((0, 2048), (3, 8192), (6, 8192)):
        shapes[f"projector.{layer}.weight"] = (8192, linear_inputs)
    norm("projector.1", 8192)
    norm("projector.4", 8192)
    return shapes


def test_the_released_weight_layout_loads_strictly() -> None:
    with torch.device("meta"):
        encoder = built(architecture="resnet50", projector=[8192, 8192, 8192])
        state = {name: torch.empty(shape) for name, shape in released_names().items()}
    assert {n: tuple(t.shape) for n, t in encoder.state_dict().items()} == released_names()
    load_weights(encoder, state)
    assert (encoder.h_width, encoder.z_width) == (2048, 8192)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_torchvision_resnets_compute_what_torchvision_computes(architecture: str) -> None:
    encoder = built(architecture=architecture, size=64)
    reference = torchvision.models.get_model(architecture, weights=None)
    reference.fc = nn.Identity()
    load_weights(reference, encoder.backbone.state_dict())
    batch = images(size=64, count=2)
    with torch.no_grad():
        torch.testing.assert_close(outputs(encoder, batch), reference.eval()(batch))


@pytest.mark.parametrize(
    ("options", "side"),
    [
        ({"architecture": "resnet18"}, 8),
        ({"architecture": "resnet18", "maxpool": False}, 16),
        ({"architecture": "resnet18", "stem": "3x3"}, 16),
        ({"architecture": "resnet18", "stem": "3x3", "maxpool": False}, 32),
        ({"architecture": "resnet18", "stem": "3x3/2", "maxpool": False}, 16),
        ({"architecture": "resnet8"}, 32),
        ({"architecture": "resnet8", "stem": "3x3/2"}, 16),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_stem_sets_the_resolution_of_the_first_stage(
    options: dict[str, Any], side: int, channels: int
) -> None:
    encoder = built(channels=channels, **options)
    seen: list[tuple[int, ...]] = []
    stage = encoder.backbone.get_submodule("layer1")
    stage.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
    h = outputs(encoder, images(channels))
    assert seen[0][2:] == (side, side)
    assert h.shape == (4, encoder.h_width)


@pytest.mark.parametrize(
    ("architecture", "width"),
    [("resnet8", 64), ("resnet20", 64), ("resnet56", 64), ("resnet8x2", 128), ("resnet8x4", 256)],
)
def test_cifar_resnets_have_the_published_shape(architecture: str, width: int) -> None:
    depth, factor = CIFAR_RESNETS[architecture]
    stem, *stages = {1: (16, 16, 32, 64), 2: (32, 32, 64, 128), 4: (32, 64, 128, 256)}[factor]
    expected, inputs = 27 * stem + 2 * stem, stem
    for stage in stages:
        first = 9 * inputs * stage + 9 * stage * stage + 4 * stage
        shortcut = inputs * stage + 2 * stage if inputs != stage else 0
        rest = ((depth - 2) // 6 - 1) * (18 * stage * stage + 4 * stage)
        expected, inputs = expected + first + shortcut + rest, stage
    encoder = built(architecture=architecture)
    assert parameters_count(encoder) == expected
    assert encoder.h_width == width == outputs(encoder, images()).shape[1]


@pytest.mark.parametrize(
    ("architecture", "published"),
    [("resnet20", 278_324), ("resnet56", 861_620), ("resnet8x4", 1_233_540)],
)
def test_students_have_the_size_that_distillation_papers_report(
    architecture: str, published: int
) -> None:
    with torch.device("meta"):
        encoder = built(architecture=architecture, projector=[100])
    biases = 100  # theirs is a classifier of 100 classes
    assert parameters_count(encoder) + biases == published


def test_every_cifar_resnet_has_the_layers_of_its_name() -> None:
    assert {CIFAR_RESNETS[f"resnet{depth}"] for depth in DEPTHS} == {(d, 1) for d in DEPTHS}
    for name, (depth, _) in CIFAR_RESNETS.items():
        with torch.device("meta"):
            encoder = built(architecture=name)
        convolutions = [
            module
            for path, module in encoder.backbone.named_modules()
            if isinstance(module, nn.Conv2d) and "downsample" not in path
        ]
        assert len(convolutions) == depth - 1, name  # the classifier would be the last layer


def test_a_cifar_resnet_matches_a_plain_computation() -> None:
    encoder = built(architecture="resnet8", zero_init_residual=False)
    state = encoder.eval().backbone.state_dict()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])

    batch = images()
    x = norm(F.conv2d(batch, state["conv1.weight"], padding=1), "bn1").relu()
    for stage, stride in (("layer1.0", 1), ("layer2.0", 2), ("layer3.0", 2)):
        y = F.conv2d(x, state[f"{stage}.conv1.weight"], stride=stride, padding=1)
        y = F.conv2d(norm(y, f"{stage}.bn1").relu(), state[f"{stage}.conv2.weight"], padding=1)
        if stride == 2:
            short = F.conv2d(x, state[f"{stage}.downsample.0.weight"], stride=2)
            x = norm(short, f"{stage}.downsample.1")
        x = (x + norm(y, f"{stage}.bn2")).relu()
    torch.testing.assert_close(outputs(encoder, batch), x.mean(dim=(2, 3)))


@pytest.mark.parametrize("architecture", ["resnet14", "resnet18", "resnet50"])
def test_residual_branches_start_at_zero_unless_told_otherwise(architecture: str) -> None:
    last = "bn3" if architecture == "resnet50" else "bn2"
    for chosen, value in ((None, 0.0), (True, 0.0), (False, 1.0)):
        encoder = built(architecture=architecture, zero_init_residual=chosen)
        scales = [p for n, p in encoder.named_parameters() if n.endswith(f"{last}.weight")]
        assert scales
        assert all((scale == value).all() for scale in scales)


def test_the_projector_is_linear_last_and_absent_without_widths() -> None:
    encoder = built(architecture="resnet8", projector=[48, 16])
    kinds = [type(layer) for layer in encoder.projector.children()]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert not any("projector" in n and n.endswith("0.bias") for n in encoder.state_dict())
    h, z = encoder(images())
    assert h.shape == (4, 64)
    assert z.shape == (4, encoder.z_width) == (4, 16)
    assert (z < 0).any()  # no ReLU at the end

    plain = built(architecture="resnet8")
    h, z = plain(images())
    assert plain.z_width == plain.h_width
    assert torch.equal(h, z)


def test_features_do_not_touch_the_projector() -> None:
    encoder = built(architecture="resnet8", projector=[32, 16])
    torch.autograd.backward(encoder.features(images()).sum())
    assert all(p.grad is None for p in encoder.projector.parameters())
    assert int(encoder.state_dict()["projector.1.num_batches_tracked"]) == 0


@pytest.mark.parametrize("architecture", ["resnet8", "resnet18", "timm:test_resnet"])
def test_initial_weights_depend_on_the_seed_alone(architecture: str) -> None:
    torch.manual_seed(1)
    first = built(architecture=architecture, projector=[8]).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = built(architecture=architecture, projector=[8]).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = built(architecture=architecture, projector=[8], seed=3).state_dict()
    assert not torch.equal(first["projector.0.weight"], other["projector.0.weight"])
    name = next(name for name in first if name.startswith("backbone.conv1"))
    assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize(
    ("name", "width"), [("test_resnet", 96), ("test_vit", 64), ("test_efficientnet", 256)]
)
def test_a_timm_backbone_gives_its_pooled_features(name: str, width: int) -> None:
    encoder = built(architecture=f"timm:{name}", channels=1, size=64, projector=[8])
    assert encoder.training
    h, z = encoder(images(1, 64))
    assert h.shape == (4, encoder.h_width) == (4, width)
    assert z.shape == (4, 8)
    reference = timm.create_model(
        name, num_classes=0, in_chans=1, **({"img_size": 64} if name == "test_vit" else {})
    )
    load_weights(reference, encoder.backbone.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(outputs(encoder, images(1, 64)), reference.eval()(images(1, 64)))


def test_a_timm_backbone_that_cannot_take_the_images_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"timm:test_vit cannot take .* 3 x 8 x 8"):
        built(architecture="timm:test_vit", size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "resnet81"}, "Did you mean 'resnet8'"),
        ({"architecture": "resnet20", "stem": "7x7"}, "CIFAR ResNet"),
        ({"architecture": "resnet20", "maxpool": True}, "CIFAR ResNet"),
        ({"architecture": "timm:resnet10t", "stem": "3x3"}, "stem cannot be chosen"),
        ({"architecture": "resnet18", "projector": [0]}, "greater than or equal to 1"),
    ],
)
def test_impossible_students_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StudentOptions.model_validate(options)


def test_a_timm_backbone_that_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'resnet10t'"):
        built(architecture="timm:resnet10tt")


def test_weights_load_whole_or_not_at_all() -> None:
    source, target = (built(architecture="resnet8", projector=[8], seed=s) for s in (0, 1))
    state = source.state_dict()
    before = {name: value.clone() for name, value in target.state_dict().items()}

    renamed = {name.replace("layer3", "stage3"): value for name, value in state.items()}
    with pytest.raises(
        WeightsError, match=r"missing \(backbone\.layer3\.0.*unexpected \(backbone\.stage3"
    ):
        load_weights(target, renamed)
    resized = {**state, "projector.0.weight": torch.zeros(8, 32)}
    with pytest.raises(WeightsError, match=r"projector\.0\.weight is \(8, 32\) .* \(8, 64\)"):
        load_weights(target, resized)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())

    load_weights(target, state)
    assert all(torch.equal(value, state[name]) for name, value in target.state_dict().items())
    assert torch.equal(outputs(source, images()), outputs(target, images()))


def test_pretrained_weights_are_timms_own_or_an_error_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = StudentOptions(architecture="timm:resnet10t", weights=PRETRAINED)
    source = build_encoder(options, channels=3, size=32, seed=9)
    file = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet10t", num_classes=1000).state_dict(), file)
    weights = torch.load(file, weights_only=True)
    registered = timm.models._registry._model_pretrained_cfgs["resnet10t"]
    monkeypatch.setattr(registered, "file", str(file))
    load_pretrained(source, options, channels=3, size=32)
    for name, value in source.backbone.state_dict().items():
        assert torch.equal(value, weights[name]), name
    monkeypatch.setattr(registered, "file", str(tmp_path / "missing.pth"))
    with pytest.raises(WeightsError, match="no pretrained weights of timm:resnet10t"):
        load_pretrained(source, options, channels=3, size=32)
    with pytest.raises(ValidationError, match="is for backbones timm:NAME"):
        StudentOptions(architecture="resnet18", weights=PRETRAINED)
