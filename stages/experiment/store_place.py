"""The store that a command acts on: that of the active data set, or one named by its path."""

from pathlib import Path

from pipeline.base.errors import StoreError
from pipeline.base.locations import location
from stages.experiment.chosen import Chosen
from stages.experiment.paths import DatasetLayout, dataset_layout
from stages.experiment.schema import Experiment


def store_place(
    path: str | None, chosen: Chosen, data: str
) -> tuple[DatasetLayout, Experiment | None]:
    """Return the layout of the store at `path`, or of the active data set with its experiment.

    Raises StoreError if there is no store.
    """
    experiment = chosen.experiment if path is None else None
    if experiment is not None:
        layout = dataset_layout(experiment.dataset.name, data)
    else:
        layout = DatasetLayout(location((path or "").rstrip("/")).parent)
    named = path or str(layout.features)
    if Path(named).name != layout.features.name or not layout.features.exists():
        remedy = "run `mvmr shard` first" if path is None else f"name a {layout.features.name}"
        raise StoreError(f"There is no feature store at {named}: {remedy}.")
    return layout, experiment
