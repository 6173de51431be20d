"""Whether what was opened is still what is stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.base.errors import DataError, MvmrError
from pipeline.base.locations import Location
from pipeline.datasets.source import Split
from pipeline.features.store import StoredFeature
from pipeline.features.store.integrity import METADATA
from pipeline.shards.manifest import MANIFEST, Manifest, read_manifest

Stamp = tuple[float, int] | None


@dataclass
class _Watched:
    """A file which is written last, and the digest of what it was opened as."""

    file: Location
    what: str
    opened: "Manifest | StoredFeature"
    seen: Stamp = None

    def has_changed(self) -> bool:
        """Return whether the file has another content; it is read only if it was written again."""
        stamp = _stamp(self.file)
        if stamp is not None and stamp == self.seen:
            return False
        try:
            changed = self._digest() != self.opened.digest
        except MvmrError:
            changed = True
        self.seen = None if changed else stamp
        return changed

    def _digest(self) -> str:
        if isinstance(self.opened, Manifest):
            return read_manifest(self.file.parent).digest
        return StoredFeature(self.file.parent).digest


@dataclass
class OpenHandles:
    """The manifests and the features of an open data set, at the place where it was opened."""

    path: Location
    shards: Location
    manifests: Mapping[Split, Manifest]
    features: Mapping[str, StoredFeature]
    _watched: Sequence[_Watched] = field(init=False)

    def __post_init__(self) -> None:
        self._watched = [
            *(
                _Watched(self.shards / split / MANIFEST, "the images", manifest)
                for split, manifest in self.manifests.items()
            ),
            *(
                _Watched(feature.path / METADATA, f"the feature {name!r}", feature)
                for name, feature in self.features.items()
            ),
        ]

    def require_current(self) -> None:
        """Raise DataError if images were packed, or features stored, anew since they were opened.

        What was opened names rows, which would then be those of other images.
        """
        for one in self._watched:
            if one.has_changed():
                raise DataError(
                    f"Since the data set at {self.path} was opened, {one.what} in it changed: open "
                    f"it again with mvmr.open_dataset({str(self.path)!r}, ...)."
                )


def _stamp(file: Location) -> Stamp:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime, found.st_size
