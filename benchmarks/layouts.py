"""What channels last gains on a CPU: passes of encoders, compared with the contiguous layout.

    python -m benchmarks.layouts [--rounds 5] [--batch 32]

One thread. In a round, both layouts take turns: features without gradients, where the weights alone
are in the layout, as in `mvmr embed`; and features with gradients, where the images are too, as in
training with `channels_last`. Prints how many times as fast channels last is, by CPU time.
"""

import argparse
from collections.abc import Callable, Mapping

import torch

from benchmarks.timing import Cost, cost_of, ratios, rounds, spread
from pipeline.models.encoder import Encoder, build_encoder
from pipeline.models.student import StudentOptions

STUDENTS = (
    ("timm:tf_efficientnet_lite0", 64),
    ("timm:tf_efficientnet_lite0", 128),
    ("timm:tf_efficientnet_lite0", 224),
    ("timm:mobilenetv3_large_100", 128),
    ("resnet18", 64),
    ("resnet18", 128),
    ("resnet50", 96),
)
LAYOUTS: Mapping[str, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}
Work = Callable[[], int]


def encoder_of(architecture: str, size: int, layout: torch.memory_format) -> Encoder:
    """Return an untrained encoder in a layout."""
    student = StudentOptions.model_validate({"architecture": architecture})
    return build_encoder(student, channels=3, size=size, seed=0).to(memory_format=layout)


def embedding(encoder: Encoder, images: torch.Tensor) -> Work:
    """Return a function that computes features, and returns their number."""

    def work() -> int:
        with torch.inference_mode():
            return len(encoder.eval().features(images))

    return work


def training(encoder: Encoder, images: torch.Tensor, layout: torch.memory_format) -> Work:
    """Return a function that computes features and gradients, and returns the features' number."""
    laid_out = images.contiguous(memory_format=layout)

    def work() -> int:
        features = encoder.train().features(laid_out)
        torch.autograd.backward(features.sum())
        return len(features)

    return work


def compared(works: Mapping[str, Work], count: int) -> str:
    """Return how many times as fast the second of two is, after a call of each to warm up."""
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for work in works.values():
        work()
    for turns in rounds([*works], count):
        for name in turns:
            costs[name].append(cost_of(works[name]))
    slow, fast = costs.values()
    return spread(ratios(slow, fast)["CPU"], digits=2)


def main() -> None:
    """Print a line for each network and size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for architecture, size in STUDENTS:
        images = torch.rand(arguments.batch, 3, size, size)
        pairs = {name: encoder_of(architecture, size, by) for name, by in LAYOUTS.items()}
        read = {name: embedding(encoder, images) for name, encoder in pairs.items()}
        steps = {name: training(pairs[name], images, by) for name, by in LAYOUTS.items()}
        print(
            f"{architecture:28} {size:4} px  embedding {compared(read, arguments.rounds)}  "
            f"training {compared(steps, arguments.rounds)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
