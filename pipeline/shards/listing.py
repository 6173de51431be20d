"""The listing `samples.jsonl`: per sample, a line with key, label, name and stamp in the source."""

import json
from collections.abc import Sequence
from typing import Any

from pipeline.base.atomic import atomic_path
from pipeline.base.errors import DataError
from pipeline.base.locations import Location
from pipeline.base.text import counted
from pipeline.datasets.source import Item, Label, label_from_json, label_to_json
from pipeline.shards.manifest import Manifest, sample_key

LISTING = "samples.jsonl"


def write_listing(items: Sequence[Item], directory: Location, samples_per_shard: int) -> None:
    """Write the samples.jsonl of a split."""
    with atomic_path(directory / LISTING) as path, path.open("w", encoding="utf-8") as listing:
        for index, item in enumerate(items):
            line = {
                "key": sample_key(*divmod(index, samples_per_shard)),
                "label": label_to_json(item.label),
                "name": item.name,
                "stamp": item.stamp,
            }
            listing.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_labels(directory: Location, manifest: Manifest) -> list[Label | None]:
    """Return the label of every sample of a split, in order, without reading the tars."""
    return [label_from_json(line["label"]) for line in _listing(directory, manifest)]


def read_stamps(directory: Location, manifest: Manifest) -> dict[str, str]:
    """Return the recorded stamp of each source image, by name."""
    return {line["name"]: line["stamp"] for line in _listing(directory, manifest)}


def read_names(directory: Location, manifest: Manifest) -> list[str]:
    """Return the name in the source of every sample of a split, in order."""
    return [line["name"] for line in _listing(directory, manifest)]


def _listing(directory: Location, manifest: Manifest) -> list[dict[str, Any]]:
    path = directory / LISTING
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): run `mvmr store verify --repair`."
        ) from error
    if len(lines) != manifest.samples:
        raise DataError(
            f"{path} lists {counted(len(lines), 'samples')}, the manifest {manifest.samples}: "
            "run `mvmr store verify --repair`."
        )
    return lines
