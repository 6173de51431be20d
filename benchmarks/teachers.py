"""Cost of a teacher relative to its library: the wrapped forward pass against the bare one.

    python -m benchmarks.teachers [--model ViT-B-32] [--batch 32] [--rounds 9]

Uses random weights and prepared tensors; runs alternate within one process. Prints medians over
rounds of two ratios of images per second: of the teacher to `encode_image`, and of our preparation
of images to the library's transform.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

from pipeline.images.original_view import ImageOptions
from pipeline.representations.teachers.open_clip import OpenClipOptions


def seconds(work: Callable[[], object]) -> float:
    """Return the time that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(theirs: Callable[[], object], ours: Callable[[], object], rounds: int) -> float:
    """Return the median of theirs / ours; each round times both, in alternating order."""
    theirs(), ours()
    found = []
    for number in range(rounds):
        if number % 2:
            mine, base = seconds(ours), seconds(theirs)
        else:
            base, mine = seconds(theirs), seconds(ours)
        found.append(base / mine)
    return statistics.median(found)


def main() -> None:
    """Print the two ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        torch.save(open_clip.create_model(arguments.model).state_dict(), weights)
        options = OpenClipOptions(model=arguments.model, pretrained=str(weights))
        teacher = options.build(ImageOptions(size=32, mean=(0.5,) * 3, std=(0.5,) * 3))
        bare, _, transform = open_clip.create_model_and_transforms(
            arguments.model, pretrained=str(weights)
        )
    bare.eval()
    noise = np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    images = transform(image).expand(arguments.batch, -1, -1, -1).contiguous()

    @torch.no_grad()
    def plain() -> object:
        return bare.encode_image(images)

    forward = ratio(plain, lambda: teacher(images), arguments.rounds)
    print(f"{arguments.model}: teacher / bare forward {forward:.3f}")
    prepared = ratio(
        lambda: [transform(image) for _ in range(20)],
        lambda: [teacher.preparation(image) for _ in range(20)],
        arguments.rounds,
    )
    print(f"{arguments.model}: preparation / the library's transform {prepared:.3f}")


if __name__ == "__main__":
    main()
