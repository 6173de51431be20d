"""Published figures of the experiments that `configs/` reproduces, to compare with measured ones.

MV-MR figures are those of its released code (arXiv 2303.12130); the VICReg figure on CIFAR-10 is
from solo-learn's table. A row applies only to a run with that name and that architecture, so a
config edited into something else gets no published figure.
"""

from dataclasses import dataclass

MVMR = "the released MV-MR code"
SOLO_LEARN = "solo-learn's table"


@dataclass(frozen=True)
class Published:
    """One row: `values` in percent by the name of the figure, after `epochs` epochs.

    `epochs` is None where the run does not train.
    """

    experiment: str
    protocol: str
    architecture: str
    values: dict[str, float]
    epochs: int | None
    source: str = MVMR
    note: str = ""


PUBLISHED = (
    Published(
        *("stl10_self_supervised", "linear_augmented", "resnet50"),
        {"top1": 89.67, "top5": 99.46},
        1000,
    ),
    Published(
        *("imagenet_self_supervised", "linear_augmented", "resnet50"),
        {"top1": 74.5, "top5": 92.1},
        1000,
    ),
    Published(
        *("cifar20_self_supervised", "linear_augmented", "resnet50"),
        {"top1": 73.2, "top5": 95.6},
        1000,
    ),
    Published(
        *("imagenet_semi_supervised", "one_percent", "resnet50"),
        {"top1": 56.1, "top5": 79.4},
        None,
    ),
    Published(
        *("imagenet_semi_supervised", "ten_percent", "resnet50"),
        {"top1": 69.9, "top5": 89.5},
        None,
    ),
    Published(
        *("voc07_transfer", "voc07", "resnet50"),
        {"map": 87.1},
        None,
        note="It is averaged over all answers at once; the figures here are means over classes.",
    ),
    Published(*("imagenet_clip", "linear_augmented", "resnet50"), {"top1": 75.3}, 200),
    Published(*("stl10_clip", "linear_augmented", "resnet50"), {"top1": 95.6}, 200),
    Published(*("cifar100_clip", "linear_augmented", "resnet50"), {"top1": 78.6}, 200),
    Published(
        *("vicreg_cifar10", "online", "resnet18"),
        {"top1": 92.07},
        1000,
        SOLO_LEARN,
    ),
)


def published_for(experiment: str, architecture: str) -> dict[str, Published]:
    """Return the rows that apply to a run, by protocol."""
    return {
        row.protocol: row
        for row in PUBLISHED
        if (row.experiment, row.architecture) == (experiment, architecture)
    }
