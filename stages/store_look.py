"""`mvmr store look`: record the listing of the images, so that DVC notices when it changes."""

import json

from pipeline.base.atomic import write_json
from pipeline.base.errors import DataError
from pipeline.shards.packing import packed_manifests
from stages.experiment.chosen import Chosen
from stages.experiment.dvc_lock import adopt_older_lock, changed_by_hand
from stages.experiment.freshness import listing_of
from stages.experiment.paths import DatasetLayout, dataset_layout
from stages.terminal.console import Screen
from stages.terminal.result import Result


def store_look(screen: Screen, *, chosen: Chosen, data: str) -> Result:
    """List the experiment's images, or use the shards as they are if the images are not here."""
    experiment = chosen.experiment
    layout = dataset_layout(experiment.dataset.name, data)
    adopt_older_lock(experiment, screen.progress)
    screen.progress.start("list images", 0, "")
    line = "The images are listed."
    try:
        source = experiment.dataset.source.open_again(layout.listings)
        listing = listing_of(experiment.dataset, source)
    except DataError as error:
        known = _known_listing(layout)
        if known is None:
            raise
        listing, line = known, f"The shards are used as they are: {error}"
    write_json(layout.listing, {"listing": listing})
    changed_by_hand(experiment, ["source"], screen.progress, data=data)
    return Result({"listing": listing}, [line], ["mvmr", "shard"])


def _known_listing(layout: DatasetLayout) -> str | None:
    """Return the digest that was recorded last, or that of the shards; None without shards."""
    found = list(packed_manifests(layout.shards).values())
    if not found:
        return None
    if layout.listing.exists():
        recorded: str = json.loads(layout.listing.read_text(encoding="utf-8"))["listing"]
        return recorded
    return found[0].source
