"""What is kept beside the rows of an unfinished feature, in its work folder."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from pipeline.base.atomic import atomic_path, write_json
from pipeline.base.locations import Location, names_in
from pipeline.features.encoding import Array
from pipeline.features.fidelity import Loss

LOSSES, FITTED = "losses", "fitted.npz"


def keep_losses(work: Location, split: str, number: int, losses: Sequence[Loss]) -> None:
    """Keep what was measured in a shard."""
    write_json(work / LOSSES / f"{split}-{number:06d}", [asdict(loss) for loss in losses])


def kept_losses(work: Location) -> dict[tuple[str, int], list[Loss]]:
    """Return what was measured, by split and number of the shard."""
    found = {}
    for name in sorted(names_in(work / LOSSES)):
        split, _, number = name.rpartition("-")
        recorded = json.loads((work / LOSSES / name).read_text(encoding="utf-8"))
        found[split, int(number)] = [Loss(**values) for values in recorded]
    return found


def keep_fitted(work: Location, rows: Sequence[int], numbers: Array) -> None:
    """Keep the training rows that were computed to fit and measure a reduction, encoded."""
    with atomic_path(work / FITTED) as temporary, temporary.open("wb") as file:
        np.savez(file, rows=np.array(rows, np.int64), numbers=numbers)


def fitted_rows(work: Location) -> "tuple[npt.NDArray[np.int64], Array] | None":
    """Return the rows of train that `keep_fitted` kept and their numbers, None without any."""
    path = work / FITTED
    if not path.exists():
        return None
    with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
        return kept["rows"], kept["numbers"]
