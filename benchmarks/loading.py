"""Cost of cached targets in the loader, and the time that a training step waits for the loader.

    python -m benchmarks.loading [--size 32] [--quick] [--images DIR] [--count 20000] [--rounds 5]

Reads whole epochs of one random resized crop of each image in turns, each with two persistent
workers, and prints images per second of

    folder     torchvision's ImageFolder and RandomResizedCrop in a DataLoader
    plain      webdataset's own pipeline over the tars with the same transform: images only
    litdata    litdata's StreamingDataset of the same files and transform, where it is installed
    images     our streaming loader, images only
    targets    our streaming loader with five targets (1,664 float16 numbers per image)
    resident   our resident loader with the same targets

It also prints ratios within a round, by wall-clock and by CPU time, and the share of a training
step (ResNet-18, 3x3 stem without max-pool, batch 256, CPU) spent waiting for data. All shuffle
within the same number of samples. Where files have the size of the view, ours are cut in batches by
the consumer, which is counted. An epoch is timed from its first request, so filling the buffer is
included. Without --images, the benchmark makes JPEG files of noise, of 32 x 32 pixels at 32 px and
of 500 x 375 otherwise. --quick does a third of the work.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.timing import Cost, cost_of, ratios, rounds, spread, verdict
from pipeline.base.progress import Silent
from pipeline.datasets.image_folder import ImageFolderOptions
from pipeline.datasets.split import SplitOptions, cut
from pipeline.features.encoding import Encoding
from pipeline.features.store import FeatureStore, FeatureWriter
from pipeline.images.original_view import ImageOptions, normalise
from pipeline.images.random_views import AugmentationOptions, build_augmentation
from pipeline.loading.batch import SplitData
from pipeline.loading.batch_pixels import RandomViews, random_view
from pipeline.loading.loaders import LoadingOptions, training_loader
from pipeline.models.encoder import build_encoder
from pipeline.models.student import StudentOptions
from pipeline.shards.writing import ShardOptions, write_split

POLICY = AugmentationOptions(policy="custom")  # of which only the crop is timed
WIDTHS = {"scattering": 256, "hog": 512, "local_std": 256, "dct": 128, "clip": 512}
BATCH, WORKERS, SHARD, BUFFER = 256, 2, 1000, 4096


def make_images(root: Path, count: int, size: int) -> None:
    """Write noise as JPEG files of two classes."""
    rng = np.random.default_rng(0)
    shape, grain = ((32, 32), (8, 8)) if size == 32 else ((500, 375), (125, 94))
    for number in range(count):
        path = root / str(number % 2) / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (*grain[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(shape).save(path, quality=90)


def make_data(images: Path, root: Path, count: int, size: int) -> SplitData:
    """Pack images into tars and store random targets for them."""
    source = ImageFolderOptions(root=str(images)).open()
    items = cut(source, SplitOptions())["train"][:count]
    shard = min(SHARD, len(items) // (2 * WORKERS))  # so that each worker has some
    manifest = write_split(
        source,
        items,
        root / "train",
        dataset="benchmark",
        split="train",
        options=ShardOptions(samples=shard),
        provenance={},
        progress=Silent(),
    )
    store = FeatureStore(root / "features.zarr")
    random = np.random.default_rng(0)
    features = {}
    for name, width in WIDTHS.items():
        rows = random.standard_normal((len(items), width), np.float32)
        encoding = Encoding.fit("float16", rows)
        writer = FeatureWriter(store, name, root / "work" / name, {"dtype": "float16"})
        writer.begin()
        writer.write_reduction(encoding.arrays(), {})
        writer.create_split(
            "train",
            samples=len(items),
            width=width,
            stored_type="float16",
            samples_per_shard=shard,
        )
        for first in range(0, len(items), writer.chunk_rows("train")):
            chunk = rows[first : first + writer.chunk_rows("train")]
            writer.write_rows("train", first, chunk, encoding)
        features[name] = writer.publish({})
    return SplitData(root / "train", manifest, features, image_of(size))


def image_of(size: int) -> ImageOptions:
    """Return how the student sees an image."""
    return ImageOptions(size=size, mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.261))


def transform(size: int) -> Any:
    """Return the crop of the other loaders, to 8-bit tensors."""
    return v2.Compose([v2.RandomResizedCrop(size), v2.PILToTensor()])


def plain(data: SplitData) -> Iterable[Any]:
    """Return webdataset's own pipeline."""
    tars = [str(Path(str(data.directory)) / shard.name) for shard in data.manifest.shards]
    dataset = (
        webdataset.WebDataset(tars, shardshuffle=len(tars))
        .shuffle(BUFFER)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(transform(data.image.size), int)
        .batched(BATCH, partial=False)
    )
    loader: Iterable[Any] = webdataset.WebLoader(
        dataset, batch_size=None, num_workers=WORKERS, persistent_workers=True
    )
    return loader


def folder(images: Path, size: int) -> Iterable[Any]:
    """Return torchvision's loader."""
    dataset = ImageFolder(str(images), transform=transform(size))
    return DataLoader(
        dataset,
        BATCH,
        shuffle=True,
        num_workers=WORKERS,
        drop_last=True,
        persistent_workers=True,
    )


class Litdata:
    """litdata's loader of the same files, if it is installed."""

    def __init__(self, data: SplitData, root: Path) -> None:
        from litdata import (  # type: ignore[import-not-found]
            StreamingDataLoader,
            StreamingDataset,
            optimize,
        )

        files = [r for n in range(len(data.manifest.shards)) for r in data.records(n)]
        optimize(
            fn=partial(_sample, [(record.data, record.label) for record in files]),
            inputs=list(range(len(files))),
            output_dir=str(root),
            chunk_bytes="64MB",
            num_workers=1,
            start_method="fork",  # or it changes how all others start
        )
        cropped = partial(_cropped, transform(data.image.size))
        dataset = StreamingDataset(str(root), shuffle=True, drop_last=True, transform=cropped)
        self._loader = StreamingDataLoader(
            dataset, batch_size=BATCH, num_workers=WORKERS, persistent_workers=True
        )

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader)


def _sample(files: Sequence[tuple[bytes, Any]], index: int) -> tuple[bytes, Any]:
    return files[index]


def _cropped(crop: Callable[[Any], Any], sample: tuple[bytes, Any]) -> tuple[Any, Any]:
    image, label = sample
    return crop(Image.open(io.BytesIO(image))), label


def ours(data: SplitData, mode: str, names: Sequence[str]) -> Any:
    """Return our loader with the targets `names`."""
    chosen = SplitData(
        data.directory, data.manifest, {n: data.features[n] for n in names}, data.image
    )
    options = LoadingOptions.model_validate({"mode": mode, "workers": WORKERS, "buffer": BUFFER})
    views = RandomViews(POLICY, original=False)
    return training_loader(chosen, options, batch_size=BATCH, seed=0, views=views)


def epoch(loader: Iterable[Any], work: Callable[[Any], object] | None) -> int:
    """Read an epoch; return its number of images."""
    batches = 0
    for batch in loader:
        batches += 1
        if work is not None:
            work(batch)
    return batches * BATCH


def crops(batch: Any) -> torch.Tensor:
    """Return the crops of a batch of ours; they are cut here if its files have the view's size."""
    (view,) = batch["views"]
    if view.crops is not None:
        found: torch.Tensor = view.crops
        return found
    augment = build_augmentation(POLICY, image_of(32))
    return augment.crop(batch["images"].float() / 255, view.numbers[:, : augment.crop.count])


def waiting_share(loader: Any, image: ImageOptions, steps: int) -> float:
    """Return the share of time that `steps` training steps spend waiting for `loader`."""
    student = StudentOptions(architecture="resnet18", stem="3x3", maxpool=False)
    encoder = build_encoder(student, channels=3, size=image.size, seed=0)
    augment = build_augmentation(POLICY, image)
    encoder.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(encoder.parameters())

    def step(batch: Any) -> None:
        images = normalise(random_view(batch, augment, torch.device("cpu")), image)
        h = encoder.features(images.contiguous(memory_format=torch.channels_last))
        optimizer.zero_grad()
        torch.autograd.backward(h.square().mean())
        optimizer.step()

    iterator = iter(loader)
    step(next(iterator))
    waited, start = loader.waited_seconds, time.perf_counter()
    for _ in range(steps):
        step(next(iterator))
    return float((loader.waited_seconds - waited) / (time.perf_counter() - start))


def measured(data: SplitData, images: Path, root: Path, count: int) -> dict[str, list[Cost]]:
    """Return the cost of each loader in each of `count` rounds, after one warm-up round."""
    names = list(WIDTHS)
    ways: dict[str, tuple[Iterable[Any], Callable[[Any], object] | None]] = {
        "folder": (folder(images, data.image.size), None),
        "images": (ours(data, "streaming", []), crops),
        "plain": (plain(data), None),
        "targets": (ours(data, "streaming", names), crops),
        "resident": (ours(data, "resident", names), crops),
    }
    if find_spec("litdata"):
        ways["litdata"] = (Litdata(data, root / "litdata"), None)
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for turn in rounds(list(ways), count + 1):
        for name in turn:
            costs[name].append(cost_of(partial(epoch, *ways[name])))
    return {name: values[1:] for name, values in costs.items()}


def report(costs: Mapping[str, Sequence[Cost]], goals: Mapping[tuple[str, str], float]) -> None:
    """Print speeds and ratios, as median, smallest and largest over the rounds."""
    for name, values in costs.items():
        speeds = [1 / cost.wall_each for cost in values]
        cpu = 1e6 * statistics.median(cost.cpu_each for cost in values)
        print(f"{name:16} {spread(speeds, 0):>28} images/s   {cpu:6.0f} us of CPU per image")
    # A ratio of throughputs is the inverse ratio of costs.
    pairs = [("targets", other) for other in ("folder", "plain", "litdata") if other in costs]
    for above, below in [*pairs, ("resident", "targets"), ("targets", "images")]:
        least = goals.get((above, below))
        for clock, found in ratios(costs[below], costs[above]).items():
            goal = verdict(statistics.median(found), at_least=least) if least else ""
            print(f"{above + ' / ' + below:20} by {clock:6} {spread(found, 2):24} {goal}")


def main() -> None:
    """Print the table and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    size, repeats, steps = arguments.size, arguments.rounds, arguments.steps
    count = arguments.count or (20_000 if size == 32 else 2_000)
    if arguments.quick:
        count, repeats, steps = count // 2, 3, 4
    least = 1.0 if size == 32 else 1.3
    goals = {("targets", "folder"): least, ("targets", "plain"): least}
    with tempfile.TemporaryDirectory() as root:
        images = arguments.images or Path(root) / "images"
        if arguments.images is None:
            make_images(images, count, size)
        data = make_data(images, Path(root), count, size)
        report(measured(data, images, Path(root), repeats), goals)
        for mode in ("resident", "streaming") if size == 32 else ():
            share = waiting_share(ours(data, mode, list(WIDTHS)), data.image, steps)
            goal = verdict(share, at_most=0.05)
            print(f"waiting, {mode:9}    {100 * share:.1f} % of a ResNet-18 step   {goal}")


if __name__ == "__main__":
    main()
