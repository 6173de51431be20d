"""Recomputing the damaged parts of a store, and nothing else.

A damaged feature is turned back into an unfinished one whose intact shards are marked as done.
Extraction then completes it like an interrupted one.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import TypeAdapter

from pipeline.base.damage import Damage
from pipeline.base.digests import digest
from pipeline.base.errors import StoreError
from pipeline.base.locations import Location, remove_tree
from pipeline.base.locks import exclusive
from pipeline.base.progress import Progress
from pipeline.datasets.source import Split
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import busy, complete, feature_task
from pipeline.features.extraction.prepare import lay_out
from pipeline.features.extraction.task import FeatureTask
from pipeline.features.store import FeatureStore, Fingerprint, check_fingerprint
from pipeline.features.store.hierarchy import open_array
from pipeline.features.store.integrity import REDUCTION, UNREADABLE, array_damage, root_attributes
from pipeline.features.store.writer import LOCK
from pipeline.images.original_view import ImageOptions
from pipeline.representations.kinds import AnyRepresentation
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.manifest import Manifest, read_manifests


def repair(
    damages: Mapping[str, Sequence[Damage]],
    *,
    features: Mapping[str, RepresentationOptions],
    image: ImageOptions,
    shards: Location,
    store: FeatureStore,
    work: Location,
    options: ClusterOptions,
    progress: Progress,
) -> None:
    """Recompute the damaged files of features, given as `FeatureStore.verify` returns them.

    A feature records how it was made. If this record is damaged, `features` and `image` of an
    experiment replace it. Raises StoreError if the experiment has no such feature,
    StaleFeatureError if the feature can no longer be made as it was.
    """
    shards, work, path = shards.absolute(), work.absolute(), store.path.absolute()
    manifests = read_manifests(shards)
    with exclusive(work / LOCK, busy(store)):
        for name, found in damages.items():
            recorded = recorded_of(store.path / name)
            if recorded is not None:
                wanted, seen = recorded.options, recorded.image
            elif name in features:
                wanted, seen = features[name], image
            else:
                raise StoreError(
                    f"{store.path / name} no longer says how it was made, and the experiment has "
                    f"no feature {name!r}: remove the folder, or use the experiment that has it."
                )
            task = feature_task(name, wanted, seen, manifests, path, work)
            if recorded is not None:
                check_fingerprint(name, task.fingerprint, recorded.fingerprint)
            _take_back(task, found, manifests)
            complete([task], manifests, seen, shards, options, progress)


@dataclass(frozen=True)
class Recorded:
    """What a feature records about how it was made."""

    options: RepresentationOptions
    image: ImageOptions
    fingerprint: Fingerprint


def recorded_of(feature: Location) -> Recorded | None:
    """Return what a feature records about how it was made, None if that is damaged."""
    try:
        attributes = root_attributes(feature)
    except UNREADABLE:
        return None
    report = attributes["report"]
    # Strict options accept a list for a tuple only from JSON.
    options: RepresentationOptions = TypeAdapter(AnyRepresentation).validate_json(
        json.dumps(report["options"])
    )
    image = ImageOptions.model_validate_json(json.dumps(report["image"]))
    return Recorded(options, image, attributes["fingerprint"])


def _take_back(
    task: FeatureTask, damages: Sequence[Damage], manifests: Mapping[Split, Manifest]
) -> None:
    """Turn a published feature into an unfinished one whose intact shards are marked as done."""
    writer = task.writer()
    if not _made_from(task, manifests):
        remove_tree(writer.target)
        return
    for damage in damages:
        damage.path.unlink(missing_ok=True)
    if any(damage.part.startswith(REDUCTION) for damage in damages):
        remove_tree(writer.target / REDUCTION)
    writer.reopen()
    if writer.has_reduction():
        lay_out(task, manifests)
    for part, manifest in task.parts(manifests).items():
        bad = {damage.number for damage in array_damage(writer.home, part)}
        if None not in bad:
            per_shard = max(1, manifest.samples_per_shard // writer.chunk_rows(part))
            spoilt = {chunk // per_shard for chunk in bad if chunk is not None}
            writer.mark(part, set(range(len(manifest.shards))) - spoilt)


def _made_from(task: FeatureTask, manifests: Mapping[Split, Manifest]) -> bool:
    """Whether the arrays of a published feature all record the fingerprint of the task."""
    found = set()
    for split in manifests:
        with suppress(*UNREADABLE):
            array = open_array(task.writer().target / split)
            found.add(array.attrs["fingerprint"])
    return found == {digest(task.fingerprint)}
