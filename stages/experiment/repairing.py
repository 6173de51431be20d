"""Find and repair damage in the shards and the store of a data set."""

from collections.abc import Iterator, Mapping, Sequence

from pipeline.base.damage import Damage
from pipeline.base.locations import names_in
from pipeline.base.progress import Progress
from pipeline.datasets.source import SPLITS, Split
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.recompute import repair
from pipeline.features.store import FeatureStore
from pipeline.features.store.integrity import METADATA
from pipeline.shards.manifest import MANIFEST, read_manifest
from pipeline.shards.repair import repair_split, split_damage
from stages.experiment.paths import DatasetLayout
from stages.experiment.schema import Experiment

SHARDS = "shards/"  # the prefix of parts that are splits


def find_all_damage(layout: DatasetLayout, progress: Progress) -> dict[str, list[Damage]]:
    """Return what is damaged, by part: `shards/<split>` or the name of a feature."""
    tars = {f"{SHARDS}{split}": damages for split, damages in _tars(layout, progress)}
    return {**tars, **FeatureStore(layout.features).verify(progress=progress)}


def mend_all(
    found: Mapping[str, Sequence[Damage]],
    experiment: Experiment,
    layout: DatasetLayout,
    progress: Progress,
) -> None:
    """Rebuild the damaged files, and only those."""
    damaged = {part: damages for part, damages in found.items() if damages}
    tars = {s: damaged.pop(f"{SHARDS}{s}") for s in SPLITS if f"{SHARDS}{s}" in damaged}
    if tars:
        progress.start("pack damaged tars again", 0, "")
        _repair_tars(tars, experiment, layout)
    if damaged.pop(METADATA, None):
        (layout.features / METADATA).unlink(missing_ok=True)
        FeatureStore(layout.features).create()
    if damaged:
        repair(
            damaged,
            features=experiment.features,
            image=experiment.dataset.image,
            shards=layout.shards,
            store=FeatureStore(layout.features),
            work=layout.work,
            options=ClusterOptions(),
            progress=progress,
        )


def _tars(layout: DatasetLayout, progress: Progress) -> Iterator[tuple[Split, list[Damage]]]:
    for split in SPLITS:
        directory = layout.shards / split
        if not names_in(directory):
            continue
        if (directory / MANIFEST).exists():
            yield split, split_damage(directory, read_manifest(directory), progress=progress)
        else:
            yield split, [Damage(directory / MANIFEST, "is missing: run `mvmr shard`")]


def _repair_tars(
    damaged: Mapping[Split, Sequence[Damage]], experiment: Experiment, layout: DatasetLayout
) -> None:
    dataset = experiment.dataset
    source = dataset.source.open_again(layout.listings)
    for split, files in damaged.items():
        directory = layout.shards / split
        repair_split(source, directory, read_manifest(directory), files, dataset.shards)
