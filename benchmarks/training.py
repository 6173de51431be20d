"""The claim: a training step with cached targets costs no more than a step without targets.

    python -m benchmarks.training [--quick] [--architecture resnet18] [--batch 64] [--rounds 5]
                                  [--only a e]

All variants use the same student and batch and two threads, and take turns within one process:

    a            no representation in the objective
    b            five cached targets (1,664 numbers per image), by dependence
    c            four of them computed in the step, unreduced, as without a store: kymatio's
                 scattering, and our hog, local_std and dct; the fifth is a teacher's
    d ViT-...    the objective of b with one teacher, run in the step at 224 px (random weights)
    e            the objective of a, with four local views of two thirds of the size

A step consists of loading (resident), views, forward, backward and Adam. Prints milliseconds of
wall-clock and of CPU time, and ratios within a round. In a round, a and b take eight steps each,
alternately, c and e take two and d one. --quick omits ViT-B-16 and runs fewer rounds; --only a e
compares these alone.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D as Scattering2D
from pydantic import TypeAdapter
from torch import Tensor, nn

from benchmarks.loading import WIDTHS, image_of, make_data, make_images
from benchmarks.timing import Cost, cost_of, ratios, rounds, spread, verdict
from pipeline.loading.batch import Batch, SplitData
from pipeline.loading.loaders import LoadingOptions, training_loader
from pipeline.models.encoder import build_encoder
from pipeline.models.student import StudentOptions
from pipeline.objective.objective import Objective
from pipeline.objective.terms import ObjectiveOptions
from pipeline.representations.dct import DctOptions
from pipeline.representations.hog import HogOptions
from pipeline.representations.local_std import LocalStdOptions
from pipeline.training.module import StudentModule
from pipeline.training.train_options import TrainOptions

IMAGE = image_of(32)
VIEWS: dict[str, Any] = {"invariance": {}, "variance": {}, "view_dependence": {}}
COMPUTED = {"scattering": 15_552, "hog": 1_152, "local_std": 3_072, "dct": 3_072}


class Kymatio(nn.Module):
    """Scattering by the reference library, on the batch's device."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = Scattering2D(J=2, L=8, shape=(32, 32))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, 32, 32) to (B, 15552)."""
        coefficients: Tensor = self.transform(images.contiguous())
        return coefficients.flatten(1)


class Teacher(nn.Module):
    """The image tower of an open_clip model with random weights."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.model = open_clip.create_model(name).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Enlarge images (B, 3, 32, 32) to 224 px and map them to embeddings (B, 512)."""
        enlarged = F.interpolate(images, size=224, mode="bicubic")
        embeddings: Tensor = self.model.encode_image(enlarged)
        return embeddings


def stepper(
    data: SplitData,
    architecture: str,
    batch_size: int,
    *,
    cached: Mapping[str, int],
    live: Mapping[str, nn.Module],
    live_widths: Mapping[str, int],
    views: Mapping[str, Any],
) -> Callable[[], Cost]:
    """Return a function that takes one training step and returns its cost."""
    terms = {**VIEWS, **{name: {"kind": "dependence"} for name in {**cached, **live_widths}}}
    student = StudentOptions.model_validate(
        {"architecture": architecture, "stem": "3x3", "projector": (512, 512, 512)}
    )
    encoder = build_encoder(student, channels=3, size=32, seed=0)
    encoder.to(memory_format=torch.channels_last)
    objective = Objective(
        TypeAdapter(ObjectiveOptions).validate_python(terms),
        h_width=encoder.h_width,
        z_width=encoder.z_width,
        representation_widths={**cached, **live_widths},
    )
    options = TrainOptions.model_validate(
        {
            "epochs": 1,
            "lr": 1e-3,
            "channels_last": True,
            "augmentation": {"policy": "cifar20"},
            "views": views,
        }
    )
    extractors: Any = live
    module = StudentModule(
        encoder, objective, live=extractors, image=IMAGE, options=options, steps_per_epoch=1, seed=0
    )
    optimizer = torch.optim.Adam(module.parameters())
    chosen = SplitData(
        data.directory, data.manifest, {n: data.features[n] for n in cached}, data.image
    )
    loader = training_loader(chosen, LoadingOptions(mode="resident"), batch_size=batch_size, seed=0)
    batches = endless(loader)

    def step() -> int:
        loss = module.loss(next(batches))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return 1

    return partial(cost_of, step)


def endless(loader: Any) -> Iterator[Batch]:
    """Yield batches, epoch after epoch."""
    while True:
        yield from loader


def ways(teachers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the targets of each variant's objective, cached and computed live."""
    computed: dict[str, nn.Module] = {
        "scattering": Kymatio(),
        "hog": HogOptions().build(IMAGE),
        "local_std": LocalStdOptions().build(IMAGE),
        "dct": DctOptions().build(IMAGE),
    }
    none: dict[str, Any] = {"cached": {}, "live": {}, "live_widths": {}, "views": {}}
    result = {
        "a": none,
        "b": {**none, "cached": WIDTHS},
        "c": {**none, "live": computed, "live_widths": COMPUTED},
        "e": {**none, "views": {"local": {"count": 4, "size": 21}}},
    }
    for name in teachers:
        live = {"live": {"clip": Teacher(name)}, "live_widths": {"clip": 512}}
        result[f"d {name}"] = {**none, **live}
    return result


def measured(steps: Mapping[str, Callable[[], Cost]], count: int) -> dict[str, list[Cost]]:
    """Return the cost of each variant's steps in `count` rounds, after one warm-up round."""
    turns = ["a", "b"] * 4 + ["b", "a"] * 4 + ["c", "e"] * 2
    turns = [turn for turn in [*turns, *(n for n in steps if n.startswith("d"))] if turn in steps]
    costs: dict[str, list[Cost]] = {name: [] for name in steps}
    for turn in rounds(turns, count + 1):
        total = {name: Cost(0.0, 0.0, 0) for name in steps}
        for name in turn:
            total[name] += steps[name]()
        for name, cost in total.items():
            costs[name].append(cost)
    return {name: values[1:] for name, values in costs.items()}


def main() -> None:
    """Print the table and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", help="variants to compare, a among them")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    teachers = ["ViT-B-32"] if arguments.quick else ["ViT-B-32", "ViT-B-16"]
    if arguments.only:
        teachers = [name for name in teachers if f"d {name}" in arguments.only]
    with tempfile.TemporaryDirectory() as root:
        make_images(Path(root) / "images", 1000, 32)
        data = make_data(Path(root) / "images", Path(root), 1000, 32)
        steps = {
            name: stepper(data, arguments.architecture, arguments.batch, **way)
            for name, way in ways(teachers).items()
            if arguments.only is None or name in arguments.only
        }
        costs = measured(steps, 3 if arguments.quick else arguments.rounds)
    for name, values in costs.items():
        wall = [1e3 * cost.wall_each for cost in values]
        cpu = 1e3 * statistics.median(cost.cpu_each for cost in values)
        print(f"{name:10} {spread(wall, 0):>24} ms per step   {cpu:6.0f} ms of CPU")
    for name in list(steps)[1:]:
        against = "a" if name in ("b", "e") else "b"
        for clock, found in ratios(costs[name], costs[against]).items():
            goal = verdict(statistics.median(found), at_most=1.05) if name == "b" else ""
            print(f"{name + ' / ' + against:14} by {clock:6} {spread(found):28} {goal}")


if __name__ == "__main__":
    main()
