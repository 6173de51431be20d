"""How much of a teacher's speed remains when the extraction feeds it from JPEG files.

The teacher is ViT-B-16 with random weights, from open_clip, or from timm if that is missing. The
bare rate is the image tower's, on a batch that is on the device. The fed rate is that of the
project's extraction after its first tar, with one worker, as on one GPU.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.accelerator.results import Options, Results
from benchmarks.extraction import Noise
from benchmarks.timing import device_seconds
from pipeline.base.progress import Silent
from pipeline.datasets.source import Encoded, Item, Source
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.store import FeatureStore
from pipeline.images.decoding import decode
from pipeline.images.original_view import ImageOptions
from pipeline.planning.pace import PaceMeter
from pipeline.representations.kinds import KINDS
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.manifest import Manifest
from pipeline.shards.writing import ShardOptions, write_split

PRECISIONS = ("bfloat16", "float32")
SIDE = 224


class Photographs(Source):
    """A source of `count` images: the JPEG files below a folder, repeated, or a few made ones."""

    def __init__(self, folder: Path | None, count: int, *, made_side: int = 448) -> None:
        self.classes = None
        self._files: list[bytes] = []
        if folder is not None:
            self._files = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
        if not self._files:
            noise = Noise(16, made_side)
            self._files = [noise.read(item).data for item in noise.splits["train"]]
        self.splits = {"train": [Item(f"{number:07d}") for number in range(count)]}

    @property
    def files(self) -> Sequence[bytes]:
        """The distinct files."""
        return self._files

    def read(self, item: Item) -> Encoded:
        """Return one file."""
        return Encoded(self._files[int(item.name) % len(self._files)], "jpg")


def pack(source: Source, directory: Path, *, samples: int) -> Manifest:
    """Write the shards of a source's training images."""
    return write_split(
        source,
        source.splits["train"],
        directory / "train",
        dataset="photographs",
        split="train",
        options=ShardOptions(samples=samples),
        provenance={},
        progress=Silent(),
    )


def measure(options: Options, results: Results) -> None:
    """Time the bare network, the extraction, and what feeds it."""
    count, samples = (48, 16) if options.tiny else (1280, 256)
    batches = (4,) if options.tiny else (64, 256)
    image = ImageOptions(size=SIDE, channels=3, mean=(0.48,) * 3, std=(0.25,) * 3)
    source = Photographs(options.photographs, count)
    with (
        tempfile.TemporaryDirectory(dir=options.work) as folder,
        weights(Path(folder), tiny=options.tiny) as settings,
    ):
        for precision in PRECISIONS:
            chosen = KINDS[settings["kind"]].model_validate({**settings, "precision": precision})
            network = chosen.build(image).to(options.device).eval()
            for batch in batches:
                work = partial(bare, network, batch, options.device)
                results.attempt(f"bare, {precision}, batch {batch}", work)
            del network
        feeding = partial(preparation, settings, image, source.files[:64])
        results.attempt("preparation on one core", feeding)
        shards = Path(folder) / "shards"
        pack(source, shards, samples=samples)
        for precision in PRECISIONS[:1] if options.tiny else PRECISIONS:
            chosen = KINDS[settings["kind"]].model_validate({**settings, "precision": precision})
            work = partial(fed, chosen, image, shards, Path(folder) / precision)
            results.attempt(f"fed, {precision}", work)


@contextmanager
def weights(folder: Path, *, tiny: bool) -> Iterator[dict[str, Any]]:
    """Yield the settings of a teacher whose random weights are in a file below `folder`."""
    path = folder / "weights.pt"
    if find_spec("open_clip") and not tiny:
        import open_clip

        torch.save(open_clip.create_model("ViT-B-16").state_dict(), path)
        yield {"kind": "open_clip", "model": "ViT-B-16", "pretrained": str(path)}
    else:
        import timm

        name = "resnet18" if tiny else "vit_base_patch16_224"
        torch.save(timm.create_model(name).state_dict(), path)
        yield {"kind": "timm", "model": name, "weights": str(path)}


def bare(network: torch.nn.Module, batch: int, device: torch.device) -> dict[str, float]:
    """Return images per second of a network whose images are on its device."""
    images = torch.randn(batch, 3, SIDE, SIDE, device=device)
    with torch.inference_mode():
        seconds = device_seconds(lambda: network(images), device, calls=4)
    return {"images a second": batch / seconds, "milliseconds a batch": 1e3 * seconds}


def preparation(
    settings: dict[str, Any], image: ImageOptions, files: Sequence[bytes]
) -> dict[str, float]:
    """Return the milliseconds of decoding and of preparing an image."""
    prepare = KINDS[settings["kind"]].model_validate(settings).build(image).preparation
    cpu = torch.device("cpu")
    decoded = [decode(file) for file in files]
    decoding = device_seconds(lambda: [decode(file) for file in files], cpu, repeats=3)
    preparing = device_seconds(lambda: [prepare(one) for one in decoded], cpu, repeats=3)
    sides = [sum(one.size) / 2 for one in decoded]
    return {
        "decoding, ms": 1e3 * decoding / len(files),
        "preparing, ms": 1e3 * preparing / len(files),
        "mean side, px": sum(sides) / len(sides),
    }


def fed(
    chosen: RepresentationOptions, image: ImageOptions, shards: Path, root: Path
) -> dict[str, float]:
    """Return images per second of an extraction, without and with its first tar."""
    meter = PaceMeter()
    extract(
        {"teacher": chosen},
        image=image,
        shards=shards,
        store=FeatureStore(root / "features.zarr"),
        work=root / "work",
        options=ClusterOptions(1),
        progress=meter,
    )
    (phase,) = meter.of("extract")
    piece, whole = phase.piece(1), phase.piece()
    return {
        "images a second": piece.images / piece.seconds,
        "images": whole.images,
        "with the first tar": whole.images / whole.seconds,
    }
