"""Features in the making: what an interrupted extraction has left, and what goes on from there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.base.errors import MvmrError
from pipeline.base.locations import Location
from pipeline.base.text import counted
from pipeline.datasets.source import SPLITS, Split
from pipeline.features.extraction.engine import feature_digest, unfinished
from pipeline.features.store import FeatureStore
from pipeline.shards.manifest import MANIFEST, Manifest, read_manifest
from stages.experiment.paths import DatasetLayout
from stages.experiment.schema import Experiment


@dataclass(frozen=True)
class Making:
    """A feature of which `done` of `shards` are finished, below `path`.

    `command` goes on from there; None where nothing in the experiment that was asked does, or
    none was `asked`.
    """

    feature: str
    fingerprint: str
    done: int
    shards: int
    path: Location
    stored: bool
    command: str | None
    asked: bool

    def values(self) -> dict[str, Any]:
        """Return what JSON says of it."""
        named = {"feature": self.feature, "fingerprint": self.fingerprint, "path": str(self.path)}
        return {**named, "done": self.done, "shards": self.shards, "command": self.command}

    def sentence(self) -> str:
        """Say how far it is, and how to go on or be rid of it."""
        what = f"{self.feature} ({self.fingerprint[:8]})"
        far = f"{self.done} of {counted(self.shards, 'shards')} done"
        if self.command is None:
            begun = "with other options or images, or by another experiment"
            whose = f"was begun {begun}, and this one does not go on from there"
            if not self.asked:
                whose = "is not complete; the experiment that began it goes on from there"
            return f"{what} {whose}: {far}. If it is of no use any more, remove {self.path}."
        if self.stored:
            return (
                f"{what} was to be computed again: {far}. The stored feature is complete, and "
                f"stays until then. `{self.command}` goes on; to leave it, remove {self.path}."
            )
        return f"{what} is not complete: {far}. `{self.command}` goes on from there."


def in_the_making(experiment: Experiment | None, layout: DatasetLayout) -> Iterator[Making]:
    """Yield the features in the making; without an experiment none can be gone on with."""
    manifests = _manifests(layout)
    store = FeatureStore(layout.features)
    for name, fingerprint, done in unfinished(layout.work):
        ours = experiment is not None and fingerprint == _expected(experiment, name, manifests)
        stored = name in store
        command = f"mvmr extract-features --only {name}{' --force' if stored else ''}"
        yield Making(
            feature=name,
            fingerprint=fingerprint,
            done=done,
            shards=sum(len(manifest.shards) for manifest in manifests.values()),
            path=layout.work / f"{name}-{fingerprint}",
            stored=stored,
            command=command if ours else None,
            asked=experiment is not None,
        )


def _manifests(layout: DatasetLayout) -> dict[Split, Manifest]:
    directories = {split: layout.shards / split for split in SPLITS}
    return {s: read_manifest(d) for s, d in directories.items() if (d / MANIFEST).exists()}


def _expected(experiment: Experiment, name: str, manifests: Mapping[Split, Manifest]) -> str | None:
    """Return the digest by which work on a feature is known, if that can be told here."""
    if name not in experiment.features:
        return None
    try:
        return feature_digest(experiment.features[name], experiment.dataset.image, manifests)
    except MvmrError:  # as without the weights of a teacher, without which nothing goes on
        return None
