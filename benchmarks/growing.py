"""What a change of the images costs, over the cost of computing everything from scratch.

    python -m benchmarks.growing --images 50000 [--folder DIR]

A folder of images in class folders (those of `--folder`, or else noise of 32 px with the spectrum
of natural images) is packed and five features are extracted. Then, each from that state:

    added     1 % new images
    removed   1 % of the images are gone
    renamed   1 % of the files have other names
    seed      another seed of the splits: everything is packed anew
    samples   another number of images per tar: likewise

For each: images that passed through a network or transform, bytes written, and seconds, of packing
and of extraction. `copy` is the time to copy shards and store twice, file by file.
"""

import argparse
import io
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.base.progress import Silent, Step
from pipeline.datasets.image_folder import ImageFolder
from pipeline.datasets.split import SplitOptions
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.store import FeatureStore
from pipeline.images.original_view import ImageOptions
from pipeline.representations.kinds import KINDS
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.packing import pack, plan_packing
from pipeline.shards.writing import ShardOptions

IMAGE = ImageOptions(size=32, channels=3, mean=(0.48,) * 3, std=(0.25,) * 3)
FEATURES: Mapping[str, Mapping[str, Any]] = {
    "scattering": {"J": 2, "L": 8, "reduce": {"pca": 256}},
    "hog": {"cell": 8},
    "local_std": {},
    "dct": {"reduce": {"pca": 128}},
    "pixels": {"dtype": "int8"},
}
COMPUTING = ("extract", "sample", "measure")


class Counted(Silent):
    """A Progress that counts the images of phases in which rows are computed."""

    def __init__(self) -> None:
        self.images, self._counts = 0, False

    def start(self, what: str, total: int, unit: str, *, step: Step | None = None) -> None:
        """Begin a phase."""
        del total, unit, step
        self._counts = what.startswith(COMPUTING)

    def advance(self, count: int, status: str = "") -> None:
        """Count the images."""
        del status
        self.images += count * self._counts


@dataclass
class State:
    """A folder, its shards and its store, below one directory."""

    root: Path
    split: SplitOptions = field(default_factory=lambda: SplitOptions(validation=0.1))
    shards: ShardOptions = field(default_factory=lambda: ShardOptions(samples=1000))

    def bring_up_to_date(self) -> dict[str, float]:
        """Pack and extract; return what that cost."""
        began, progress = time.perf_counter(), Counted()
        moment = time.time_ns()
        source = ImageFolder(self.root / "images")
        made_with = {
            "source": "",
            "split": self.split.provenance(),
            "shards": self.shards.model_dump(mode="json"),
        }
        place = self.root / "shards"
        plan = plan_packing(
            source,
            place,
            split=self.split,
            options=self.shards,
            provenance=made_with,
            progress=progress,
        )
        pack(
            plan,
            source,
            place,
            work=self.root / "packing",
            dataset="growing",
            options=self.shards,
            provenance=made_with,
            progress=progress,
        )
        packed = time.perf_counter()
        features: dict[str, RepresentationOptions] = {
            name: KINDS[name].model_validate(options) for name, options in FEATURES.items()
        }
        extract(
            features,
            image=IMAGE,
            shards=place,
            store=FeatureStore(self.root / "features.zarr"),
            work=self.root / "work",
            options=ClusterOptions(),
            progress=progress,
        )
        return {
            "images": progress.images,
            "bytes": self._written_since(moment),
            "packing": packed - began,
            "extraction": time.perf_counter() - packed,
        }

    def _written_since(self, moment: int) -> int:
        files = [
            file.stat()
            for folder in ("shards", "features.zarr")
            for file in (self.root / folder).rglob("*")
            if file.is_file()
        ]
        return sum(status.st_size for status in files if status.st_mtime_ns >= moment)


def fill(folder: Path, count: int, given: Path | None) -> None:
    """Save `count` images in class folders: noise, or copies of the first ones below `given`."""
    if given is None:
        for number in range(count):
            save(folder / f"class{number % 10}" / f"{number:06d}.png", number)
        return
    for path in sorted(p for p in given.rglob("*") if p.is_file())[:count]:
        place = folder / path.relative_to(given)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)


def save(path: Path, seed: int) -> None:
    """Save an image of noise with the spectrum of natural ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    waves = np.fft.rfft2(rng.standard_normal((3, 32, 32)))
    frequency = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.rfftfreq(32))
    pixels = np.fft.irfft2(waves / np.maximum(frequency, 1 / 32)).transpose(1, 2, 0)
    buffer = io.BytesIO()
    scaled = (pixels - pixels.min()) / np.ptp(pixels) * 255
    Image.fromarray(scaled.astype(np.uint8)).save(buffer, format="png")
    path.write_bytes(buffer.getvalue())


def every_hundredth(state: State) -> list[Path]:
    """Return 1 % of the files."""
    return sorted(path for path in (state.root / "images").rglob("*") if path.is_file())[::100]


def added(state: State) -> None:
    """Add 1 %."""
    for number, path in enumerate(every_hundredth(state)):
        save(path.with_name(f"new-{path.stem}.png"), 10_000_000 + number)


def removed(state: State) -> None:
    """Remove 1 %."""
    for path in every_hundredth(state):
        path.unlink()


def renamed(state: State) -> None:
    """Rename 1 %."""
    for path in every_hundredth(state):
        path.rename(path.with_name(f"renamed-{path.name}"))


def seed(state: State) -> None:
    """Split by another seed."""
    state.split = state.split.model_copy(update={"seed": 1})


def samples(state: State) -> None:
    """Pack other tars."""
    state.shards = state.shards.model_copy(update={"samples": 640})


CHANGES: tuple[Callable[[State], None], ...] = (added, removed, renamed, seed, samples)


def copied_twice(state: State, into: Path) -> float:
    """Return the seconds to copy shards and store twice."""
    began = time.perf_counter()
    for number in range(2):
        for folder in ("shards", "features.zarr"):
            shutil.copytree(state.root / folder, into / f"{folder}-{number}")
    return time.perf_counter() - began


def main() -> None:
    """Print a table of ratios, and everything measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, help="class folders of images to copy")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="growing-") as directory:
        first = State(Path(directory) / "first")
        fill(first.root / "images", arguments.images, arguments.folder)
        whole = first.bring_up_to_date()
        found: dict[str, dict[str, float]] = {"scratch": whole}
        copying = copied_twice(first, Path(directory) / "copies")
        shutil.rmtree(Path(directory) / "copies")
        for change in CHANGES:
            state = State(Path(directory) / change.__name__)
            shutil.copytree(first.root, state.root, copy_function=shutil.copy2)
            change(state)
            found[change.__name__] = state.bring_up_to_date()
            shutil.rmtree(state.root)
    print(f"{arguments.images:,} images; copying shards and store twice takes {copying:.1f} s")
    print(f"{'':10}{'images':>10}{'MB':>8}{'packing':>10}{'extraction':>12}{'of scratch':>12}")
    total = whole["packing"] + whole["extraction"]
    for name, cost in found.items():
        seconds = cost["packing"] + cost["extraction"]
        print(
            f"{name:10}{cost['images']:>10,.0f}{cost['bytes'] / 1e6:>8.1f}"
            f"{cost['packing']:>9.1f}s{cost['extraction']:>11.1f}s{seconds / total:>11.1%}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"copied_twice": copying, **found}, indent=2))


if __name__ == "__main__":
    main()
