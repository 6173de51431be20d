"""Every error that a user can cause or meet, as one tree.

    MvmrError
    ├── ArgumentError      a function was given what it does not take; a ValueError too
    ├── ConfigError        the experiment file is wrong
    ├── DataError          images, sources or shards
    ├── StoreError         the feature store
    │   ├── StaleFeatureError    a stored feature was made from something else
    │   └── DamagedChunkError    a file of the store cannot be trusted
    ├── WeightsError       checkpoints and teachers' weights
    │   └── WeightsMissingError  they are not on this machine
    └── TrainingError      a run cannot go on
        └── NotFiniteError       its objective is not finite

A message is one sentence or two: what was expected, what was found, what to do about it.
The command line prints it without a traceback.
"""

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST_LISTED = 50  # names in one message


class MvmrError(Exception):
    """Base of all errors raised on purpose by this project."""


class ArgumentError(MvmrError, ValueError):
    """A function was given an argument of another form than it takes."""


class ConfigError(MvmrError):
    """The experiment file asks for something that does not exist or is impossible."""


class DataError(MvmrError):
    """Images, their source or their shards are missing, unreadable or inconsistent."""


class StoreError(MvmrError):
    """The feature store lacks something or contradicts itself."""


class StaleFeatureError(StoreError):
    """A stored feature was computed from inputs other than those now asked for."""


class DamagedChunkError(StoreError):
    """A file of the store fails its checksum, is cut short or is missing."""


class WeightsError(MvmrError):
    """Weights are missing, unreadable, or belong to another architecture."""


class WeightsMissingError(WeightsError):
    """Weights are not on this machine, and cannot be fetched."""


class TrainingError(MvmrError):
    """A training run cannot go on."""


class NotFiniteError(TrainingError):
    """The objective of a training run is infinite or not a number."""


def unknown_name(what: str, name: str, valid: "Iterable[str]") -> str:
    """Return a message about an unknown name, which suggests the nearest valid name first."""
    names = sorted(valid)
    near = nearest(name, names)
    hint = f" Did you mean {near!r}?" if near else ""
    listed = ", ".join(names) or "none"
    if len(names) > MOST_LISTED:
        close = get_close_matches(name, names, n=5, cutoff=0.0)
        listed = f"{len(names):,} names, the nearest of them {', '.join(close)}"
    return f"Unknown {what} {name!r}.{hint} Valid: {listed}."


def nearest(name: str, names: "Sequence[str]") -> str | None:
    """Return the most likely name: the only one that starts with `name`, else the most similar."""
    similar = get_close_matches(name, names, n=1)
    begun = [other for other in names if name and other.startswith(name)]
    return next(iter(begun if len(begun) == 1 else similar), None)
