"""What local views cost: a training step with and without four of two thirds of the size.

    python -m benchmarks.local_views [--architecture resnet8x4] [--batch 64] [--rounds 5]

Both steps use one thread, images of 32 px, a batch in memory, and the terms of the published
objective without representations. In a round they take turns, two steps each; a step consists of
views, forward, backward and Adam. Prints milliseconds of CPU time, the ratio within a round, and
that of the numbers of pixels.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import TypeAdapter

from benchmarks.loading import image_of
from pipeline.loading.batch import Batch
from pipeline.models.encoder import build_encoder
from pipeline.models.student import StudentOptions
from pipeline.objective.objective import Objective
from pipeline.objective.terms import ObjectiveOptions
from pipeline.training.module import StudentModule
from pipeline.training.train_options import TrainOptions

SIZE = 32
TERMS: Mapping[str, Any] = {"invariance": {}, "variance": {}, "view_dependence": {}}
LOCAL: Mapping[str, Any] = {"local": {"count": 4, "size": 21}}


def options_of(views: Mapping[str, Any]) -> TrainOptions:
    """Return the options of a step with these views."""
    shared = {"epochs": 1, "lr": 1e-3, "channels_last": True, "augmentation": {"policy": "cifar20"}}
    return TrainOptions.model_validate({**shared, "views": views})


def stepper(architecture: str, batch: Batch, views: Mapping[str, Any]) -> Callable[[], float]:
    """Return a function that takes one step and returns its seconds of CPU time."""
    student = StudentOptions.model_validate(
        {"architecture": architecture, "projector": (512, 512, 512)}
    )
    encoder = build_encoder(student, channels=3, size=SIZE, seed=0)
    encoder.to(memory_format=torch.channels_last)
    objective = Objective(
        TypeAdapter(ObjectiveOptions).validate_python(TERMS),
        h_width=encoder.h_width,
        z_width=encoder.z_width,
        representation_widths={},
    )
    module = StudentModule(
        encoder,
        objective,
        live={},
        image=image_of(SIZE),
        options=options_of(views),
        steps_per_epoch=1,
        seed=0,
    )
    optimizer = torch.optim.Adam(module.parameters())

    def step() -> float:
        began = time.process_time()
        loss = module.loss(batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return time.process_time() - began

    return step


def main() -> None:
    """Print times and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="resnet8x4")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = arguments.batch
    batch = Batch(
        images=torch.randint(0, 256, (rows, 3, SIZE, SIZE), dtype=torch.uint8),
        views=[],
        labels=torch.zeros(rows, dtype=torch.int64),
        index=torch.arange(rows),
        targets={},
    )
    two, six = (stepper(arguments.architecture, batch, views) for views in ({}, LOCAL))
    two(), six()
    rounds = []
    for _ in range(arguments.rounds):
        first, *local, last = two(), six(), six(), two()
        rounds.append(((first + last) / 2, sum(local) / 2))
    for name, times in zip(("two views", "with local"), zip(*rounds, strict=True), strict=True):
        print(f"{name:10}  {1e3 * statistics.median(times):8.0f} ms of CPU a step")
    ratios = sorted(six / two for two, six in rounds)
    print(
        f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}); of pixels "
        f"{options_of(LOCAL).views.in_global_ones(SIZE) / 2:.2f}"
    )


if __name__ == "__main__":
    main()
