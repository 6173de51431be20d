"""Residual networks for images of about 32 pixels, as used in distillation papers.

He et al. (arXiv 1512.03385, section 4.2): a 3 x 3 convolution and three stages of n basic
blocks at full, half and quarter resolution make 6n + 2 layers. The wide ones multiply the
stages' widths (resnet8x4 is the usual CIFAR-100 student); their stem has 32 channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn

# Factor on the widths of the stages -> channels of the stem and of the three stages.
WIDTHS = {1: (16, 16, 32, 64), 2: (32, 32, 64, 128), 4: (32, 64, 128, 256)}
DEPTHS = (8, 14, 20, 32, 44, 56, 110)

# resnet8, resnet8x2, resnet8x4, resnet14, ... -> (depth, factor).
CIFAR_RESNETS = {
    f"resnet{depth}" + (f"x{factor}" if factor > 1 else ""): (depth, factor)
    for depth in DEPTHS
    for factor in WIDTHS
}


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, and a shortcut: identity, or 1 x 1 convolution if shapes change."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H / stride, W / stride), rounded up."""
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return F.relu(branch + self.downsample(x))


class CifarResNet(nn.Module):
    """A residual network of three stages, without a classifier.

    `depth` is 6n + 2; `factor` is a key of `WIDTHS`; features have 64 * factor numbers.
    `stem_stride` 2 halves every resolution, for a quarter of the work.
    """

    def __init__(
        self,
        depth: int,
        factor: int,
        *,
        channels: int = 3,
        stem_stride: int = 1,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        stem, *widths = WIDTHS[factor]
        blocks = (depth - 2) // 6
        self.width = widths[-1]
        self.conv1 = nn.Conv2d(channels, stem, 3, stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _stage(stem, widths[0], blocks, stride=1)
        self.layer2 = _stage(widths[0], widths[1], blocks, stride=2)
        self.layer3 = _stage(widths[1], widths[2], blocks, stride=2)
        _initialise(self, zero_init_residual=zero_init_residual)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, channels, H, W) of any size to features (B, width)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


def _stage(in_channels: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    rest = (BasicBlock(channels, channels, stride=1) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(in_channels, channels, stride), *rest)


def _initialise(network: nn.Module, *, zero_init_residual: bool) -> None:
    """Initialise convolutions by He's rule (fan out); norms keep PyTorch's 1 and 0.

    `zero_init_residual` starts every block as an identity (Goyal et al., arXiv 1706.02677).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, BasicBlock) and zero_init_residual:
            nn.init.zeros_(module.bn2.weight)
