"""`mvmr store`: what the feature store holds, and whether it can be trusted."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from rich.table import Table

from pipeline.errors import StoreError
from pipeline.extraction.fingerprint import check_features
from pipeline.runtime import write_json
from pipeline.store import FeatureStore, StoredFeature
from stages import clean
from stages.console import table
from stages.experiment import load
from stages.layout import dataset_layout, run_layout
from stages.options import console, experiment_options


@click.group("store")
def command() -> None:
    """Look at the feature store, check it, or clean up after abandoned runs."""


command.add_command(clean.command)


def _store_path(path: Path | None, config: Path, assignments: tuple[str, ...]) -> Path:
    if path is None:
        path = dataset_layout(load(config, assignments).dataset.name).features
    if not (path / "zarr.json").exists():
        raise StoreError(f"There is no feature store at {str(path)!r}: run `mvmr shard` first.")
    return path


@command.command("info")
@experiment_options
@click.argument("path", type=click.Path(path_type=Path), required=False)
def info(path: Path | None, config: Path, assignments: tuple[str, ...], quiet: bool) -> None:
    """Print what each feature holds: of the active data set, or of the store at PATH."""
    store = FeatureStore(_store_path(path, config, assignments))
    features = [store[name] for name in store.names()]
    console(quiet=quiet).print(feature_table(store.path, features))


@command.command("verify")
@experiment_options
@click.argument("path", type=click.Path(path_type=Path), required=False)
def verify(path: Path | None, config: Path, assignments: tuple[str, ...], quiet: bool) -> int:
    """Read every chunk and list those that cannot be trusted."""
    store, screen = FeatureStore(_store_path(path, config, assignments)), console(quiet=quiet)
    damaged = 0
    for name in store.names():
        damages = store[name].verify()
        damaged += len(damages)
        screen.print(f"{name}: {f'{len(damages)} damaged' if damages else 'all chunks are sound'}")
        for damage in damages:
            screen.print(f"  {damage.path}: {damage.reason}")
    return 1 if damaged else 0


@command.command("select")
@experiment_options
def select(config: Path, assignments: tuple[str, ...], quiet: bool) -> None:
    """Check the experiment's features and record their fingerprints.

    The two small files stand between the shared store and one experiment: training depends on
    the features that its objective names, evaluation on all of the experiment's, and neither
    on what other experiments keep in the same store.
    """
    experiment = load(config, assignments)
    layout, run = dataset_layout(experiment.dataset.name), run_layout(experiment.name)
    features = check_features(
        experiment.features,
        image=experiment.dataset.image,
        shards=layout.shards,
        store=FeatureStore(layout.features),
    )
    write_json(run.targets, _digests(features, list(experiment.targets())))
    write_json(run.features, _digests(features, list(features)))
    console(quiet=quiet).print(f"{len(features)} features are complete and as the config says.")


def _digests(features: Mapping[str, StoredFeature], names: Sequence[str]) -> dict[str, str]:
    return {name: features[name].digest for name in sorted(names)}


def feature_table(path: Path, features: Sequence[StoredFeature]) -> Table:
    """Return one row a feature: its size, its type, and what storing it costs."""
    return table(str(path), feature_columns(), [feature_row(feature) for feature in features])


def feature_columns() -> list[str]:
    """Return the heads of `feature_row`'s cells."""
    return ["feature", "width", "of", "type", "images", "MB", "bytes/image", "dCor error"]


def feature_row(feature: StoredFeature) -> list[str]:
    """Return the cells of one feature."""
    size = sum(file.stat().st_size for file in feature.path.rglob("*") if file.is_file())
    fidelity = feature.report["fidelity"]
    return [
        feature.name,
        str(feature.width),
        str(feature.report["original_width"]),
        feature.dtype,
        str(sum(feature.splits.values())),
        f"{size / 1e6:.1f}",
        str(fidelity["bytes_per_image"]),
        f"{fidelity['dcor_error_max']:.1e}",
    ]
