"""`mvmr store`: look at the feature store, check it, mend it, choose from it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from pipeline.datasets.base import SPLITS, Split
from pipeline.datasets.split import cut
from pipeline.errors import DamagedChunkError, StoreError
from pipeline.extraction.cluster import ClusterOptions
from pipeline.extraction.repair import repair
from pipeline.extraction.run import unfinished
from pipeline.runtime import write_json
from pipeline.shards import MANIFEST, DamagedFile, find_damage, read_manifest, repair_split
from pipeline.storage import Location, location, names_in
from pipeline.store import Damage, FeatureStore, StoredFeature
from pipeline.store.integrity import METADATA
from stages import clean
from stages.console import ConsoleProgress, table
from stages.experiment import Experiment, load
from stages.layout import DatasetLayout, dataset_layout, run_layout
from stages.material import check_source, checked_features
from stages.options import console, data_option, experiment_options


@click.group("store")
def command() -> None:
    """Look at the feature store, check it, mend it, or clean up after abandoned runs."""


command.add_command(clean.command)


def _layout(
    path: str | None, config: Path, assignments: tuple[str, ...], data: str
) -> DatasetLayout:
    """Return the places of the store at `path`, or of the active data set."""
    if path is None:
        layout = dataset_layout(load(config, assignments).dataset.name, data)
    else:
        layout = DatasetLayout(location(path.rstrip("/")).parent)
    named = str(layout.features) if path is None else path
    if Path(named).name != layout.features.name or not layout.features.exists():
        raise StoreError(
            f"There is no feature store at {named}: name a folder {layout.features.name}, or run "
            "`mvmr shard` first."
        )
    return layout


@command.command("info")
@experiment_options
@data_option
@click.argument("path", required=False)
def info(
    path: str | None, config: Path, assignments: tuple[str, ...], data: str, quiet: bool
) -> None:
    """Print what each feature holds: of the active data set, or of the store at PATH."""
    layout, screen = _layout(path, config, assignments, data), console(quiet=quiet)
    store = FeatureStore(layout.features)
    sound, damaged = [], []
    for name in store.names():
        try:
            sound.append(store[name])
        except DamagedChunkError as error:
            damaged.append(str(error))
    screen.print(feature_table(store.path, sound))
    for line in damaged:
        screen.print(line, highlight=False)
    for line in _in_the_making(layout):
        screen.print(line)


def _in_the_making(layout: DatasetLayout) -> Iterator[str]:
    directories = [layout.shards / split for split in SPLITS]
    made = [read_manifest(d) for d in directories if (d / MANIFEST).exists()]
    total = sum(len(manifest.shards) for manifest in made)
    for name, fingerprint, done in unfinished(layout.work):
        yield (
            f"{name} ({fingerprint[:8]}) is not complete: {done} of {total} shards are done. "
            f"`mvmr extract-features --only {name}` goes on from there."
        )


@command.command("verify")
@experiment_options
@data_option
@click.option("--repair", "mend", is_flag=True, help="Make what is damaged anew, and only that.")
@click.argument("path", required=False)
def verify(
    path: str | None,
    config: Path,
    assignments: tuple[str, ...],
    data: str,
    quiet: bool,
    mend: bool,
) -> int:
    """Read every tar and chunk, and list what cannot be trusted."""
    layout, screen = _layout(path, config, assignments, data), console(quiet=quiet)
    tars, features = _damaged_tars(layout, screen), _damaged_features(layout, screen)
    if not mend:
        return 1 if tars or features else 0
    if not tars and not features:
        return 0
    experiment = load(config, assignments)
    with ConsoleProgress(screen) as progress:
        if tars:
            _repair_tars(tars, experiment, layout)
        if METADATA in features:
            del features[METADATA]
            (layout.features / METADATA).unlink(missing_ok=True)
            FeatureStore(layout.features).create()
        if features:
            repair(
                features,
                features=experiment.features,
                image=experiment.dataset.image,
                shards=layout.shards,
                store=FeatureStore(layout.features),
                work=layout.work,
                options=ClusterOptions(),
                progress=progress,
            )
    left = [*_damaged_tars(layout, screen), *_damaged_features(layout, screen)]
    return 1 if left else 0


def _damaged_tars(layout: DatasetLayout, screen: Console) -> dict[Split, list[DamagedFile]]:
    found = {}
    for split in SPLITS:
        directory = layout.shards / split
        if not names_in(directory):
            continue
        if (directory / MANIFEST).exists():
            damages = find_damage(directory, read_manifest(directory))
        else:
            damages = [DamagedFile(directory / MANIFEST, "is missing: run `mvmr shard`")]
        _say(screen, f"shards/{split}", [(damage.path, damage.reason) for damage in damages])
        if damages:
            found[split] = damages
    return found


def _damaged_features(layout: DatasetLayout, screen: Console) -> dict[str, list[Damage]]:
    found = {}
    for name, damages in FeatureStore(layout.features).verify().items():
        _say(screen, name, [(damage.path, damage.reason) for damage in damages])
        if damages:
            found[name] = damages
    return found


def _say(screen: Console, name: str, damages: Sequence[tuple[Location, str]]) -> None:
    files = "file is" if len(damages) == 1 else "files are"
    screen.print(f"{name}: {f'{len(damages)} {files} damaged' if damages else 'sound'}")
    for path, reason in damages:
        screen.print(f"  {path}: {reason}", highlight=False, soft_wrap=True)


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


@command.command("select")
@experiment_options
@data_option
def select(config: Path, assignments: tuple[str, ...], data: str, quiet: bool) -> None:
    """Check the experiment's shards and features and record their fingerprints.

    The two small files stand between the shared store and one experiment: training depends on
    the features that its objective names, evaluation on all of the experiment's, and neither
    on what other experiments keep in the same store.
    """
    experiment, screen = load(config, assignments), console(quiet=quiet)
    layout, run = dataset_layout(experiment.dataset.name, data), run_layout(experiment.name)
    progress = ConsoleProgress(screen)
    check_source(experiment, layout, progress)
    features = checked_features(experiment, experiment.features, layout, progress)
    write_json(run.targets, _digests(features, list(experiment.targets())))
    write_json(run.features, _digests(features, list(features)))
    screen.print(f"{len(features)} features are complete and as the config says.")


def _digests(features: Mapping[str, StoredFeature], names: Sequence[str]) -> dict[str, str]:
    return {name: features[name].digest for name in sorted(names)}


def feature_table(path: Location, features: Sequence[StoredFeature]) -> Table:
    """Return one row a feature: its size, its type, and what storing it costs."""
    return table(str(path), feature_columns(), [feature_row(feature) for feature in features])


def feature_columns() -> list[str]:
    """Return the heads of `feature_row`'s cells."""
    return [
        "feature",
        "width",
        "of",
        "type",
        "images",
        "MB",
        "bytes/image",
        "dCor error",
        "fingerprint",
    ]


def feature_row(feature: StoredFeature) -> list[str]:
    """Return the cells of one feature."""
    size = sum(file.stat().st_size for file in feature.path.rglob("*") if file.is_file())
    fidelity = feature.report["fidelity"]
    return [
        feature.name,
        str(feature.width),
        str(feature.report["original_width"]),
        feature.stored_type,
        str(sum(feature.splits.values())),
        f"{size / 1e6:.1f}",
        str(fidelity["bytes_per_image"]),
        f"{fidelity['dcor_error_max']:.1e}",
        feature.digest[:8],
    ]
