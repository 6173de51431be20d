"""A folder of small pictures that come and go, its shards and its store, for tests of growth."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from watched import Watched

from pipeline.datasets.image_folder import ImageFolder
from pipeline.datasets.source import Split
from pipeline.datasets.split import SplitOptions
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.store import FeatureStore, StoredFeature
from pipeline.images.original_view import ImageOptions
from pipeline.images.preparation import OriginalView
from pipeline.representations.representation import (
    JsonValue,
    Representation,
    RepresentationOptions,
)
from pipeline.representations.row_check import trial_pictures
from pipeline.shards.listing import read_names
from pipeline.shards.manifest import Manifest, read_manifests
from pipeline.shards.packing import PackingPlan, is_current, pack, plan_packing
from pipeline.shards.writing import ShardOptions

IMAGE = ImageOptions(size=8, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)


class CountingOptions(RepresentationOptions):
    """A fixed random map; `log` is a file that gets a line for every image."""

    kind: Literal["counting"] = "counting"
    width: int = 6
    log: Annotated[str, Field(exclude=True)]

    def build(self, image: ImageOptions) -> "Counting":
        """Construct the map."""
        return Counting(self.width, Path(self.log), image)


class Counting(Representation):
    """A fixed random map of images of 8 x 8 that notes those that pass through it."""

    def __init__(self, width: int, log: Path, image: ImageOptions) -> None:
        super().__init__()
        self.preparation = OriginalView(image)
        weight = torch.randn(width, 192, generator=torch.Generator().manual_seed(0))
        self.weight, self._log = nn.Parameter(weight), log
        self._tried = {_digest(self.preparation(picture)) for picture in trial_pictures()}

    def identity(self) -> dict[str, JsonValue]:
        """Return its width."""
        return {"kind": "counting", "width": len(self.weight)}

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, 8, 8) to (B, width)."""
        with self._log.open("a") as log:
            for image in images:
                if _digest(image) not in self._tried:  # before anything is computed
                    log.write(f"{_digest(image)}\n")
        return images.float().flatten(1) / 255 @ self.weight.T


def _digest(image: Tensor) -> str:
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()


class Collection:
    """A folder of pictures, packed and extracted as the commands do it."""

    def __init__(self, root: Path, name: str = "photos", store: Path | None = None) -> None:
        self.folder, self.shards = root / name, root / f"{name}-shards"
        self.store = FeatureStore(store or root / f"{name}-features.zarr")
        self.work, self._log = root / "work", root / "log.txt"
        self.split = SplitOptions(validation=0.2, test=0.2)
        self.options = ShardOptions(samples=16)
        self.told, self.passes = Watched(), 0

    def add(self, *numbers: int, folder: str = "") -> None:
        """Save pictures, whose content is fixed by their numbers."""
        for number in numbers:
            self.save(f"{folder or 'ab'[number % 2]}/{number:04d}.png", number)

    def save(self, name: str, number: int) -> None:
        """Save the picture of a number under a name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(1, 256, (9, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)

    def provenance(self) -> dict[str, Any]:
        """Return what the shards are made with."""
        return {
            "source": str(self.folder),
            "split": self.split.provenance(),
            "shards": self.options.model_dump(mode="json"),
        }

    def is_current(self) -> bool:
        """Whether the shards are up to date, by the listing of the folder alone."""
        source, manifests = ImageFolder(self.folder), read_manifests(self.shards)
        return is_current(manifests, source, self.split, self.provenance())

    def pack(self, **options: bool) -> PackingPlan:
        """Bring the shards up to date."""
        source, made_with = ImageFolder(self.folder), self.provenance()
        plan = plan_packing(
            source,
            self.shards,
            split=self.split,
            options=self.options,
            provenance=made_with,
            progress=self.told,
            **options,
        )
        pack(
            plan,
            source,
            self.shards,
            work=self.shards.parent / "packing",
            dataset="photos",
            options=self.options,
            provenance=made_with,
            progress=self.told,
        )
        return plan

    def extract(
        self,
        name: str = "counted",
        *,
        others: Sequence[FeatureStore] = (),
        force: bool = False,
        **options: Any,
    ) -> int:
        """Extract a feature, and return how many images its network has seen.

        `passes` is how often it has seen one.
        """
        self._log.write_text("")
        counting = CountingOptions.model_validate({"log": str(self._log), **options})
        self.extract_as(name, counting, others=others, force=force)
        seen = self._log.read_text().split()
        self.passes = len(seen)
        return len(set(seen))

    def extract_as(
        self,
        name: str,
        options: RepresentationOptions,
        *,
        others: Sequence[FeatureStore] = (),
        force: bool = False,
    ) -> StoredFeature:
        """Extract a feature of any kind."""
        return extract(
            {name: options},
            image=IMAGE,
            shards=self.shards,
            store=self.store,
            work=self.work,
            options=ClusterOptions(workers=1),
            progress=self.told,
            others=others,
            force=force,
        )[name]

    def manifests(self) -> dict[Split, Manifest]:
        """Return the manifests."""
        return read_manifests(self.shards)

    def splits(self) -> dict[str, Split]:
        """Return the split of every image that is there, by name."""
        return {
            name: split
            for split, manifest in self.manifests().items()
            for row, name in enumerate(read_names(self.shards / split, manifest))
            if row not in manifest.invalid
        }

    def rows(self, feature: StoredFeature) -> dict[str, bytes]:
        """Return the stored bytes of every image that is there, by name."""
        found = {}
        for split, manifest in self.manifests().items():
            values = feature.read(split)
            for row, name in enumerate(read_names(self.shards / split, manifest)):
                if row not in manifest.invalid:
                    found[name] = values[row].tobytes()
        return found
