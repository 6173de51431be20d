"""Cutting validation and test images from the training images of a source.

By `hash`, the split of an image follows from the seed and the image's group key alone: a number in
[0, 1) is drawn by hashing both, and images with small numbers become validation, those with large
ones test. So images keep their split when others come, go or are renamed, and exact duplicates are
never divided. `exact` draws a stratified permutation of all images instead.
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from pipeline.base.digests import sha256_of
from pipeline.base.errors import DataError
from pipeline.base.options import Options
from pipeline.datasets.files import read_lines
from pipeline.datasets.identity import identify
from pipeline.datasets.source import SPLITS, Item, Source, Split

Share = Annotated[float, Field(ge=0, lt=1)]
Splits = dict[Split, list[Item]]


class GroupOptions(Options):
    """`dataset.split.groups`: images that must stay together, such as those of one patient.

    `pattern` is a regular expression that is searched in an image's name; what its first
    parenthesis matches is the group. `file` lists a name, a tab and a group per line. An image
    without a group is one by itself.
    """

    pattern: str | None = None
    file: str | None = None

    @field_validator("pattern")
    @classmethod
    def _has_one_parenthesis(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                groups = re.compile(pattern).groups
            except re.error as error:
                raise ValueError(f"is not a regular expression: {error}") from error
            if groups != 1:
                raise ValueError(f"needs one parenthesis, which matches the group; has {groups}")
        return pattern

    @model_validator(mode="after")
    def _one_of_both(self) -> "GroupOptions":
        if (self.pattern is None) == (self.file is None):
            raise ValueError("give either pattern or file")
        return self

    def key(self) -> Callable[[str], str | None]:
        """Return the function from an image's name to its group, or None if it has none."""
        if self.pattern is not None:
            pattern = re.compile(self.pattern)
            return lambda name: match[1] if (match := pattern.search(name)) else None
        return _listed_groups(Path(str(self.file))).get


def _listed_groups(path: Path) -> dict[str, str]:
    groups = {}
    for number, line in enumerate(read_lines(path, "file of groups"), 1):
        name, tab, group = line.partition("\t")
        if not tab:
            raise DataError(f"{path}, line {number}: expected a name, a tab and a group: {line!r}.")
        groups[name] = group
    return groups


class SplitOptions(Options):
    """`dataset.split`: the shares of the training images that become validation and test.

    A share is of all training images that the source brings; 0 cuts none. A split that the source
    brings is taken as it is, and no share is cut for it.
    """

    method: Literal["hash", "exact"] = "hash"
    seed: Annotated[int, Field(ge=0)] = 0
    validation: Share = 0.1
    test: Share = 0.0
    groups: GroupOptions | None = None

    @model_validator(mode="after")
    def _groups_are_hashed(self) -> "SplitOptions":
        if self.groups is not None and self.method == "exact":
            raise ValueError("groups need method: hash")
        return self

    @property
    def shares(self) -> dict[Split, float]:
        """The share of each split that is cut."""
        named: dict[Split, float] = {"validation": self.validation, "test": self.test}
        return {split: share for split, share in named.items() if share}

    def beside(self, source: Source) -> "SplitOptions":
        """Return these options without the shares of splits that a source brings."""
        brought: dict[str, Any] = {s: 0.0 for s in self.shares if source.splits.get(s)}
        return self.model_copy(update=brought)

    def provenance(self) -> dict[str, Any]:
        """Return what determines the split of an image, as a JSON value."""
        values = self.model_dump(mode="json", exclude_none=True)
        if self.groups is not None and self.groups.file is not None:
            try:
                values["groups"]["sha256"] = sha256_of(Path(self.groups.file))
            except OSError as error:
                raise DataError(
                    f"dataset.split.groups.file: {self.groups.file!r} cannot be read "
                    f"({error.strerror})."
                ) from error
        return values


def groups_told(items: Sequence[Item], options: SplitOptions) -> str:
    """Return how many groups there are, and how many images are in none; empty without groups."""
    if options.groups is None:
        return ""
    key = options.groups.key()
    found = [key(item.name) for item in items]
    alone = sum(group is None for group in found)
    return f"{len(set(found) - {None}):,} groups of images; {alone:,} images are in none."


def cut(
    source: Source,
    options: SplitOptions,
    identities: Mapping[str, str] | None = None,
    *,
    kept: Mapping[str, Split] | None = None,
) -> Splits:
    """Return the items of each split that is not empty, in an order shuffled by their names.

    `identities` are the digests of the images, by name; by default they are read, where they
    decide. The images whose names are in `kept` stay in that split. Raises DataError if no image
    would be left for training or for a split that is cut.
    """
    options = options.beside(source)
    if options.method == "exact":
        splits = _permuted(source, options)
    else:
        splits = _hashed(source, options, identities, kept or {})
    if not splits.get("train"):
        raise DataError(f"No image is left for training after cutting {options.shares}.")
    for name, share in options.shares.items():
        if not splits.get(name):
            raise DataError(
                f"A share of {share} leaves no {name} image of "
                f"{sum(map(len, splits.values()))}: raise dataset.split.{name}."
            )
    return {name: splits[name] for name in SPLITS if splits.get(name)}


def _hashed(
    source: Source,
    options: SplitOptions,
    identities: Mapping[str, str] | None,
    kept: Mapping[str, Split],
) -> Splits:
    splits: Splits = {name: list(items) for name, items in source.splits.items()}
    if options.shares:
        group_of = options.groups.key() if options.groups is not None else dict[str, str]().get
        together = {item.name: group_of(item.name) for item in splits["train"]}
        if options.groups is not None and not any(together.values()):
            raise DataError(
                "Not one image is in a group of dataset.split.groups, such as "
                f"{splits['train'][0].name!r}: correct the pattern or the names in the file, or "
                "leave groups out."
            )
        alone = [i for i in splits["train"] if together[i.name] is None and i.name not in kept]
        if identities is None:
            identities = identify(source, alone)
        train, splits["train"] = splits["train"], []
        for item in train:
            key = together[item.name]
            split = kept.get(item.name) or split_of(
                identities[item.name] if key is None else f"group {key}", options
            )
            splits.setdefault(split, []).append(item)
    return {name: sorted(items, key=_place) for name, items in splits.items()}


def split_of(key: str, options: SplitOptions) -> Split:
    """Return the split of the images with a group key: their identity, or their named group."""
    number = int.from_bytes(hashlib.sha256(f"{options.seed}:{key}".encode()).digest()[:8]) / 2**64
    if number < options.validation:
        return "validation"
    return "test" if number >= 1 - options.test else "train"


def _place(item: Item) -> bytes:
    """Return what a shuffled order sorts by: independent of the seed and of other images."""
    return hashlib.sha256(f"place {item.name}".encode()).digest()


def _permuted(source: Source, options: SplitOptions) -> Splits:
    """Cut class by class, so every split keeps the proportions of the classes."""
    rng = np.random.default_rng(options.seed)
    splits: Splits = {name: list(items) for name, items in source.splits.items()}
    counts = len(splits["train"])
    for name, share in options.shares.items():
        remaining = share * counts / len(splits["train"])
        splits["train"], splits[name] = _stratified(splits["train"], remaining, rng)
        if not splits[name]:
            raise DataError(
                f"A share of {share} leaves no {name} image, as every class is rounded on its "
                f"own: raise dataset.split.{name}."
            )
    return {name: _shuffled(splits[name], rng) for name in SPLITS if splits.get(name)}


def _stratified(
    items: Sequence[Item], share: float, rng: np.random.Generator
) -> tuple[list[Item], list[Item]]:
    """Return (kept, cut): `share` of each class, rounded and chosen at random, is cut.

    Images without a class, or with several, form one group.
    """
    by_label: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        by_label[item.label if isinstance(item.label, int) else -1].append(item)
    kept, taken = [], []
    for label in sorted(by_label):
        group = _shuffled(by_label[label], rng)
        count = round(share * len(group))
        taken += group[:count]
        kept += group[count:]
    return kept, taken


def _shuffled(items: Sequence[Item], rng: np.random.Generator) -> list[Item]:
    return [items[i] for i in rng.permutation(len(items))]


@dataclass(frozen=True)
class SplitShare:
    """The share of the images that a cut split got, over all and by class.

    `least` and `most` are the classes with the smallest and the largest share, None if there are
    fewer than two classes; `missing` are classes without an image in the split.
    """

    split: Split
    wanted: float
    images: int
    share: float
    least: tuple[int, float] | None
    most: tuple[int, float] | None
    missing: tuple[int, ...]

    @cached_property
    def deviation(self) -> float:
        """The standard deviation of the share, as drawn by hashing."""
        total = self.images / self.share if self.share else 1
        return math.sqrt(self.wanted * (1 - self.wanted) / total)


def shares_of(splits: Mapping[Split, Sequence[Item]], options: SplitOptions) -> list[SplitShare]:
    """Return the shares that the splits which were cut have."""
    counts = {
        split: Counter(item.label for item in items if isinstance(item.label, int))
        for split, items in splits.items()
        if split == "train" or split in options.shares
    }
    total = sum((counts[split] for split in counts), Counter[int]())
    images = sum(len(splits[split]) for split in counts)
    found = []
    for split, wanted in options.shares.items():
        by_class = sorted((counts[split][label] / total[label], label) for label in total)
        several = len(by_class) > 1
        found.append(
            SplitShare(
                split,
                wanted,
                len(splits[split]),
                len(splits[split]) / images,
                (by_class[0][1], by_class[0][0]) if several else None,
                (by_class[-1][1], by_class[-1][0]) if several else None,
                tuple(sorted(label for share, label in by_class if not share)),
            )
        )
    return found
