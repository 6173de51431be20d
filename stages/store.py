"""`mvmr store`: look at the feature store, check it, mend it, choose from it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.datasets.base import SPLITS, Split
from pipeline.datasets.split import cut
from pipeline.errors import DamagedChunkError, StoreError
from pipeline.extraction.cluster import ClusterOptions
from pipeline.extraction.repair import repair
from pipeline.runtime import Progress, write_json
from pipeline.shard_repair import DamagedFile, find_damage, repair_split
from pipeline.shards import MANIFEST, read_manifest
from pipeline.storage import location, names_in
from pipeline.store import FeatureStore, StoredFeature
from pipeline.store.integrity import METADATA
from pipeline.wording import counted
from stages.console import Screen
from stages.experiment import Experiment, load
from stages.layout import DatasetLayout, dataset_layout, run_layout
from stages.making import in_the_making
from stages.material import check_source, checked_features
from stages.result import Column, Result, count, megabytes, rows_table

SHARDS = "shards/"  # before a split, in the name of a part that can be damaged


def _layout(
    path: str | None, config: Path, assignments: tuple[str, ...], data: str
) -> tuple[DatasetLayout, Experiment | None]:
    """Return the places of the store at `path`, or of the active data set with its experiment."""
    experiment = load(config, assignments) if path is None else None
    if experiment is not None:
        layout = dataset_layout(experiment.dataset.name, data)
    else:
        layout = DatasetLayout(location((path or "").rstrip("/")).parent)
    named = path or str(layout.features)
    if Path(named).name != layout.features.name or not layout.features.exists():
        raise StoreError(
            f"There is no feature store at {named}: name a folder {layout.features.name}, or run "
            "`mvmr shard` first."
        )
    return layout, experiment


def info(
    screen: Screen, *, path: str | None, config: Path, assignments: tuple[str, ...], data: str
) -> Result:
    """Say what each feature holds: of the active data set, or of the store at `path`."""
    layout, experiment = _layout(path, config, assignments, data)
    store = FeatureStore(layout.features)
    sound, damaged = [], {}
    screen.progress.start("read the store", 0, "")
    for name in store.names():
        try:
            sound.append(feature_values(store[name]))
        except DamagedChunkError as error:
            damaged[name] = str(error)
    making = list(in_the_making(experiment, layout))
    values = {"store": str(store.path), "features": sound, "damaged": damaged}
    table = rows_table(str(store.path), FEATURE_COLUMNS, sound)
    return Result(
        {**values, "unfinished": [feature.values() for feature in making]},
        [table, *damaged.values(), *(feature.sentence() for feature in making)],
        ["mvmr", "store", "verify", "--repair", str(store.path)] if damaged else (),
    )


def verify(
    screen: Screen,
    *,
    path: str | None,
    config: Path,
    assignments: tuple[str, ...],
    data: str,
    mend: bool,
) -> Result:
    """Read every tar and chunk, and list what cannot be trusted."""
    (layout, _), progress = _layout(path, config, assignments, data), screen.progress
    found = _damage(layout, progress)
    if mend and any(found.values()):
        screen.print(*_damage_lines(found))
        _mend(found, load(config, assignments), layout, progress)
        found = _damage(layout, progress)
    rows = [
        {"part": part, "damaged": [{"file": str(d.path), "reason": d.reason} for d in damages]}
        for part, damages in found.items()
    ]
    sound = not any(found.values())
    named = [] if path is None else [path]
    again = ["mvmr", "store", "verify", "--repair", *named]
    values = {"store": str(layout.features), "parts": rows}
    return Result(values, _damage_lines(found), () if sound or mend else again, ok=sound)


def _damage(layout: DatasetLayout, progress: Progress) -> dict[str, list[Any]]:
    """Return what is damaged, by part: `shards/<split>` or the name of a feature."""
    tars = {f"{SHARDS}{split}": damages for split, damages in _tars(layout, progress)}
    return {**tars, **FeatureStore(layout.features).verify(progress=progress)}


def _damage_lines(found: Mapping[str, Sequence[Any]]) -> list[str]:
    lines = []
    for part, damages in found.items():
        state = f"{counted(len(damages), 'files')} damaged" if damages else "sound"
        lines.append(f"{part}: {state}")
        lines += [f"  {damage.path}: {damage.reason}" for damage in damages]
    return lines


def _mend(
    found: Mapping[str, Sequence[Any]],
    experiment: Experiment,
    layout: DatasetLayout,
    progress: Progress,
) -> None:
    """Make what is damaged anew, and only that."""
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


def _tars(layout: DatasetLayout, progress: Progress) -> Iterator[tuple[Split, list[DamagedFile]]]:
    for split in SPLITS:
        directory = layout.shards / split
        if not names_in(directory):
            continue
        if (directory / MANIFEST).exists():
            yield split, find_damage(directory, read_manifest(directory), progress=progress)
        else:
            yield split, [DamagedFile(directory / MANIFEST, "is missing: run `mvmr shard`")]


def _repair_tars(
    damaged: Mapping[Split, Sequence[DamagedFile]], experiment: Experiment, layout: DatasetLayout
) -> None:
    dataset = experiment.dataset
    source = dataset.source.open()
    items = cut(source, dataset.split)
    for split, files in damaged.items():
        directory = layout.shards / split
        manifest = read_manifest(directory)
        repair_split(source, items.get(split, []), directory, manifest, files, dataset.shards)


def select(screen: Screen, *, config: Path, assignments: tuple[str, ...], data: str) -> Result:
    """Check the experiment's shards and features and record their fingerprints."""
    experiment = load(config, assignments)
    layout, run = dataset_layout(experiment.dataset.name, data), run_layout(experiment.name)
    check_source(experiment, layout, screen.progress)
    features = checked_features(experiment, experiment.features, layout, screen.progress)
    digests = {name: feature.digest for name, feature in sorted(features.items())}
    targets = {name: digest for name, digest in digests.items() if name in experiment.targets()}
    write_json(run.targets, targets)
    write_json(run.features, digests)
    return Result(
        {"experiment": experiment.name, "features": digests, "targets": list(targets)},
        [f"{counted(len(features), 'features')}: complete, and as the config says."],
        ["mvmr", "train"],
    )


def feature_values(feature: StoredFeature) -> dict[str, Any]:
    """Return what a feature holds and what storing it costs, one value a column."""
    fidelity = feature.report["fidelity"]
    return {
        "feature": feature.name,
        "width": feature.width,
        "original_width": feature.report["original_width"],
        "type": feature.stored_type,
        "images": sum(feature.splits.values()),
        "bytes": sum(f.stat().st_size for f in feature.path.rglob("*") if f.is_file()),
        "bytes_per_image": fidelity["bytes_per_image"],
        "dcor_error_max": fidelity["dcor_error_max"],
        "fingerprint": feature.digest,
    }


FEATURE_COLUMNS = (
    Column("feature", "feature"),
    Column("width", "width"),
    Column("original_width", "of"),
    Column("type", "type"),
    Column("images", "images", count),
    Column("bytes", "MB", megabytes),
    Column("bytes_per_image", "bytes/image"),
    Column("dcor_error_max", "dCor error", "{:.1e}".format),
    Column("fingerprint", "fingerprint", lambda digest: str(digest)[:8]),
)
