"""The cost of a training step, with five cached targets and without any.

ResNet-18 at 32 px and ResNet-50 at 224 px are trained with two views, in bf16, channels last, and
finally compiled. The batch is on the device, so only views, forward, backward and optimiser are
timed. Waits are the calls in one step after which the host waits for the device, by line of code.
ResNet-50 is also trained from JPEG files, with two workers and with many, to measure the share of
time that it waits for them.
"""

import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.utils._pytree import tree_map

from benchmarks.accelerator.results import Options, Results
from benchmarks.accelerator.teacher import Photographs, pack
from benchmarks.timing import device_seconds, wait_for
from pipeline.base.devices import available_cores
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import Batch, SplitData
from pipeline.loading.loaders import LoadingOptions, training_loader
from pipeline.models.encoder import build_encoder
from pipeline.models.student import StudentOptions
from pipeline.objective.objective import Objective
from pipeline.objective.terms import ObjectiveOptions
from pipeline.training.module import StudentModule
from pipeline.training.train_options import TrainOptions

VIEWS: Mapping[str, Any] = {"invariance": {}, "variance": {}, "view_dependence": {}}
WIDTHS = {"scattering": 256, "hog": 512, "local_std": 256, "dct": 128, "clip": 512}
CACHED = {**VIEWS, **{name: {"kind": "dependence"} for name in WIDTHS}}
GIBIBYTE = 2**30


@dataclass(frozen=True)
class Setting:
    """A student, its images and batches."""

    name: str
    size: int
    batch: int
    policy: str
    student: Mapping[str, Any]


SMALL = Setting(
    "ResNet-18, 32 px",
    32,
    256,
    "cifar20",
    {
        "architecture": "resnet18",
        "stem": "3x3",
        "maxpool": False,
        "projector": [2048, 2048, 2048],
    },
)
LARGE = Setting(
    "ResNet-50, 224 px",
    224,
    256,
    "custom",
    {"architecture": "resnet50", "projector": [8192, 8192, 8192]},
)
TINY = Setting("tiny", 32, 8, "cifar20", {"architecture": "resnet8", "projector": [16]})


def measure(options: Options, results: Results) -> None:
    """Time every step, then the feeding, then the compiled steps, which may take longest."""
    settings = (TINY,) if options.tiny else (SMALL, LARGE)
    for setting in settings:
        for what, terms in (("no target", VIEWS), ("five cached targets", CACHED)):
            work = partial(cost, setting, terms, options.device)
            results.attempt(f"{setting.name}, {what}", work)
    largest = settings[-1]
    for workers in (1,) if options.tiny else (2, max(2, available_cores() - 2)):
        work = partial(fed, largest, workers, options)
        results.attempt(f"{largest.name}, fed by {workers} workers", work)
    if not options.tiny:
        for setting in settings:
            work = partial(cost, setting, CACHED, options.device, compiled=True)
            results.attempt(f"{setting.name}, five cached targets, compiled", work)


def cost(
    setting: Setting,
    terms: Mapping[str, Any],
    device: torch.device,
    *,
    compiled: bool = False,
) -> dict[str, Any]:
    """Return milliseconds per step, images per second, peak memory, and waits by line."""
    batch = random_batch(setting, terms, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    step = stepper(setting, terms, device, compiled=compiled)
    step(batch)
    wait_for(device)
    first = time.perf_counter() - began
    calls, repeats = (1, 1) if device.type == "cpu" else (5, 5)
    seconds = device_seconds(lambda: step(batch), device, repeats=repeats, calls=calls)
    found = {
        "milliseconds": 1e3 * seconds,
        "images a second": setting.batch / seconds,
        "seconds until the first step": first,
    }
    if device.type == "cuda":
        found["peak, GiB"] = torch.cuda.max_memory_allocated(device) / GIBIBYTE
        lines = waits(lambda: step(batch))
        return {**found, "waits": sum(lines.values()), "waits by line": dict(lines)}
    return found


def stepper(
    setting: Setting, terms: Mapping[str, Any], device: torch.device, *, compiled: bool = False
) -> Callable[[Batch], Tensor]:
    """Return a function that takes one training step on a batch, and returns the objective."""
    encoder = build_encoder(
        StudentOptions.model_validate(setting.student), channels=3, size=setting.size, seed=0
    )
    encoder.to(memory_format=torch.channels_last)
    objective = Objective(
        TypeAdapter(ObjectiveOptions).validate_python(terms),
        h_width=encoder.h_width,
        z_width=encoder.z_width,
        representation_widths={n: WIDTHS[n] for n in targets(terms)},
    )
    if compiled:
        encoder.backbone.compile()
        encoder.projector.compile()
    augmentation = {"policy": setting.policy}
    module = StudentModule(
        encoder,
        objective,
        live={},
        image=image_of(setting),
        options=TrainOptions.model_validate(
            {"epochs": 1, "lr": 1e-4, "channels_last": True, "augmentation": augmentation}
        ),
        steps_per_epoch=100,
        seed=0,
    )
    module.to(device)
    optimizer = module.configure_optimizers()["optimizer"]

    def step(batch: Batch) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = module.loss(batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.detach()

    return step


def targets(terms: Mapping[str, Any]) -> list[str]:
    """Return the representations that terms name; `WIDTHS` has their widths."""
    named = [term.get("representation", name) for name, term in terms.items()]
    return [name for name in dict.fromkeys(named) if name in WIDTHS]


def image_of(setting: Setting) -> ImageOptions:
    """Return the image options of a setting."""
    return ImageOptions(size=setting.size, channels=3, mean=(0.48,) * 3, std=(0.25,) * 3)


def random_batch(setting: Setting, terms: Mapping[str, Any], device: torch.device) -> Batch:
    """Return a batch on the device, with the targets that the terms name, in 16 bits."""
    B, size = setting.batch, setting.size
    return Batch(
        images=torch.randint(0, 256, (B, 3, size, size), dtype=torch.uint8, device=device),
        views=[],
        labels=torch.randint(0, 10, (B,), device=device),
        index=torch.arange(B, device=device),
        targets={n: torch.randn(B, WIDTHS[n], device=device).half() for n in targets(terms)},
    )


def waits(work: Callable[[], object]) -> Counter[str]:
    """Return how often each line of code makes the host wait for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{Path(one.filename).name}:{one.lineno}"
        for one in caught
        if "synchronizing CUDA operation" in str(one.message)
    )


def fed(setting: Setting, workers: int, options: Options) -> dict[str, float]:
    """Return images per second of training from JPEG files, and the share of waiting for them."""
    steps = 2 if options.tiny else 8
    images = setting.batch * (steps + 2)
    device = options.device
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        root = Path(folder)
        source = Photographs(options.photographs, images)
        manifest = pack(source, root, samples=min(256, max(8, images // (2 * workers))))
        data = SplitData(root / "train", manifest, {}, image_of(setting))
        loading = LoadingOptions.model_validate({"mode": "streaming", "workers": workers})
        loader = training_loader(data, loading, batch_size=setting.batch, seed=0)
        step = stepper(setting, VIEWS, device)
        batches = iter(loader)
        step(moved(next(batches), device))
        wait_for(device)
        waited, began = loader.waited_seconds, time.perf_counter()
        taken = 0
        for batch in batches:
            step(moved(batch, device))
            taken += 1
            if taken == steps:
                break
        wait_for(device)
        seconds = time.perf_counter() - began
    return {
        "images a second": taken * setting.batch / seconds,
        "share of waiting": (loader.waited_seconds - waited) / seconds,
        "steps": taken,
    }


def moved(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on a device."""
    there: Batch = tree_map(
        lambda x: x.to(device, non_blocking=True) if isinstance(x, Tensor) else x, batch
    )
    return there
