"""Partly extracted features that an interruption left, and the commands that continue them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.base.digests import digest
from pipeline.base.errors import MvmrError
from pipeline.base.locations import Location
from pipeline.base.text import counted
from pipeline.datasets.source import Split
from pipeline.features.extraction.engine import feature_digest, unfinished
from pipeline.features.store import FeatureStore
from pipeline.features.store.feature import without_basis
from pipeline.shards.manifest import Manifest
from pipeline.shards.packing import packed_manifests
from stages.experiment.paths import DatasetLayout
from stages.experiment.schema import Experiment


@dataclass(frozen=True)
class Making:
    """A partly extracted feature: `done` of its `shards` are finished, below `path`.

    `asked` says whether an experiment was given. `command` continues the extraction; it is None
    if no experiment was given, or the given one cannot continue this feature.
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
        """Return the feature as it appears in JSON."""
        named = {"feature": self.feature, "fingerprint": self.fingerprint, "path": str(self.path)}
        return {**named, "done": self.done, "shards": self.shards, "command": self.command}

    def sentence(self) -> str:
        """Say how much is done, and how to continue or remove it."""
        what = f"{self.feature} ({self.fingerprint[:8]})"
        far = f"{self.done} of {counted(self.shards, 'shards')} done"
        if self.command is None:
            begun = "with other options or images, or by another experiment"
            whose = f"was begun {begun}, and this experiment cannot continue it"
            if not self.asked:
                whose = "is not complete; the experiment that began it can continue it"
            return f"{what} {whose}: {far}. If you no longer need it, remove {self.path}."
        if self.stored:
            return (
                f"{what} was being recomputed: {far}. The stored feature is complete, and in use "
                f"until then. `{self.command}` continues; to give it up, remove {self.path}."
            )
        return f"{what} is not complete: {far}. `{self.command}` continues from there."


def in_the_making(experiment: Experiment | None, layout: DatasetLayout) -> Iterator[Making]:
    """Yield the partly extracted features; without an experiment, none has a command."""
    manifests = packed_manifests(layout.shards)
    store = FeatureStore(layout.features)
    for name, fingerprint, done in unfinished(layout.work):
        ours = experiment is not None and fingerprint == _expected(experiment, name, manifests)
        stored = name in store
        again = " --force" if stored and _is_same(store, name, fingerprint) else ""
        command = f"mvmr extract-features --only {name}{again}"
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


def _is_same(store: FeatureStore, name: str, fingerprint: str) -> bool:
    """Whether what is stored has the fingerprint that names unfinished work."""
    try:
        found = without_basis(store[name].fingerprint)
    except MvmrError:
        return False
    return digest(found).startswith(fingerprint)


def _expected(experiment: Experiment, name: str, manifests: Mapping[Split, Manifest]) -> str | None:
    """Return the digest that names work on a feature, or None if it cannot be computed here."""
    if name not in experiment.features:
        return None
    try:
        return feature_digest(experiment.features[name], experiment.dataset.image, manifests)
    except MvmrError:  # for example, without the weights of a teacher nothing can continue
        return None
