"""What cached targets cost the loader, and how long a training step waits for it.

    python -m benchmarks.loading [--images DIR] [--count 20000] [--rounds 5]

Prints images a second (median over interleaved rounds, two workers) of

    folder     torchvision's ImageFolder in a DataLoader
    plain      webdataset's own pipeline over the tars: images alone, same decoding
    images     our streaming loader, images alone
    targets    our streaming loader with five targets (1,664 float16 numbers an image)
    resident   our resident loader with the same targets, without and with random views

and the share of a training step (ResNet-18, 3x3 stem, 32 px, batch 256, CPU) that waits for data.
Without --images, 32 px JPEG files of noise are made.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from pipeline.datasets.image_folder import ImageFolderOptions
from pipeline.datasets.split import SplitOptions, cut
from pipeline.encoders import StudentOptions, build_encoder
from pipeline.encoding import Encoding
from pipeline.images import ImageOptions, decode, normalise, original_view
from pipeline.loading.batch import SplitData
from pipeline.loading.training import LoadingOptions, training_loader
from pipeline.runtime import Silent
from pipeline.shards import ShardOptions, write_split
from pipeline.store import FeatureStore, FeatureWriter
from pipeline.views import AugmentationOptions, build_augmentation

IMAGE = ImageOptions(size=32, mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.261))
WIDTHS = {"scattering": 256, "hog": 512, "local_std": 256, "dct": 128, "clip": 512}
BATCH, WORKERS, SHARD, BUFFER = 256, 2, 1000, 4096


def make_images(root: Path, count: int) -> None:
    """Write noise as JPEG files of two classes."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = root / str(number % 2) / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(path, quality=90)


def make_data(images: Path, root: Path, count: int) -> SplitData:
    """Pack images into tars and store random targets for them."""
    source = ImageFolderOptions(root=str(images)).open()
    items = cut(source, SplitOptions())["train"][:count]
    manifest = write_split(
        source,
        items,
        root / "train",
        dataset="benchmark",
        split="train",
        options=ShardOptions(samples=SHARD),
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
            samples_per_shard=SHARD,
        )
        for first in range(0, len(items), writer.chunk_rows("train")):
            chunk = rows[first : first + writer.chunk_rows("train")]
            writer.write_rows("train", first, chunk, encoding)
        features[name] = writer.publish({})
    return SplitData(root / "train", manifest, features, IMAGE)


def view(image: Image.Image) -> torch.Tensor:
    """Decode as both pipelines do: the original view, 8 bits."""
    return original_view(image, IMAGE)


def plain(data: SplitData) -> Iterable[Any]:
    """Return webdataset's own pipeline."""
    tars = [str(Path(str(data.directory)) / shard.name) for shard in data.manifest.shards]
    dataset = (
        webdataset.WebDataset(tars, shardshuffle=len(tars))
        .shuffle(BUFFER)
        .to_tuple("jpg", "cls")
        .map_tuple(lambda content: view(decode(content)), int)
        .batched(BATCH, partial=False)
    )
    loader: Iterable[Any] = webdataset.WebLoader(dataset, batch_size=None, num_workers=WORKERS)
    return loader


def folder(images: Path) -> Iterable[Any]:
    """Return torchvision's way."""
    dataset = ImageFolder(str(images), transform=view)
    return DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, drop_last=True)


def ours(data: SplitData, mode: str, names: Sequence[str]) -> Any:
    """Return our loader with the targets `names`."""
    chosen = SplitData(
        data.directory, data.manifest, {n: data.features[n] for n in names}, data.image
    )
    options = LoadingOptions.model_validate({"mode": mode, "workers": WORKERS, "buffer": BUFFER})
    return training_loader(chosen, options, batch_size=BATCH, seed=0)


def images_a_second(loader: Iterable[Any], work: Callable[[Any], object] | None = None) -> float:
    """Return the throughput of one epoch, from the first batch on: workers are started once."""
    iterator = iter(loader)
    next(iterator)
    start = time.perf_counter()
    batches = 0
    for batch in iterator:
        batches += 1
        if work is not None:
            work(batch)
    return batches * BATCH / (time.perf_counter() - start)


def views(batch: Any) -> object:
    """Augment and normalise a batch, as the training step does."""
    return normalise(AUGMENT(batch["images"]), IMAGE)


AUGMENT = build_augmentation(AugmentationOptions(policy="cifar20"), IMAGE)


def waiting_share(loader: Any, steps: int) -> float:
    """Return the share of the time of `steps` training steps that waits for `loader`."""
    student = StudentOptions(architecture="resnet18", stem="3x3", maxpool=False)
    encoder = build_encoder(student, channels=3, size=32, seed=0)
    encoder.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(encoder.parameters())

    def step(batch: Any) -> None:
        images = normalise(AUGMENT(batch["images"]), IMAGE)
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


def main() -> None:
    """Print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        images = arguments.images or Path(root) / "images"
        if arguments.images is None:
            make_images(images, arguments.count)
        data = make_data(images, Path(root), arguments.count)
        resident = ours(data, "resident", list(WIDTHS))
        ways: dict[str, tuple[Iterable[Any], Callable[[Any], object] | None]] = {
            "folder": (folder(images), None),
            "plain": (plain(data), None),
            "images": (ours(data, "streaming", []), None),
            "targets": (ours(data, "streaming", list(WIDTHS)), None),
            "resident": (resident, None),
            "resident, views": (resident, views),
        }
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for name, (loader, work) in list(ways.items()) * (arguments.rounds + 1):
            speeds[name].append(images_a_second(loader, work))
        medians = {name: statistics.median(values[1:]) for name, values in speeds.items()}
        for name, speed in medians.items():
            print(f"{name:16} {speed:9.0f} images/s")
        pairs = zip(speeds["targets"][1:], speeds["plain"][1:], strict=True)
        print(f"targets / plain      {statistics.median(a / b for a, b in pairs):.3f}")
        print(f"resident / streaming {medians['resident'] / medians['targets']:.1f}")
        for mode in ("resident", "streaming"):
            share = waiting_share(ours(data, mode, list(WIDTHS)), arguments.steps)
            print(f"waiting, {mode:9}    {100 * share:.1f} % of a ResNet-18 step")


if __name__ == "__main__":
    main()
