"""`mvmr store info`: show the features of the active data set, or of any store."""

from pipeline.base.errors import DamagedChunkError
from pipeline.features.store import FeatureStore
from stages.experiment.chosen import Chosen
from stages.experiment.store_place import store_place
from stages.experiment.unfinished_features import in_the_making
from stages.terminal.console import Screen
from stages.terminal.feature_table import FEATURE_COLUMNS, feature_values
from stages.terminal.result import Result, rows_table


def store_info(screen: Screen, *, path: str | None, chosen: Chosen, data: str) -> Result:
    """Show the features stored for the active data set, or in the store at `path`."""
    layout, experiment = store_place(path, chosen, data)
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
