"""Cutting validation and test images from the training images of a source, by a seeded draw."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from pipeline.base.errors import DataError
from pipeline.base.options import Options
from pipeline.datasets.source import SPLITS, Item, Source, Split

Share = Annotated[float, Field(ge=0, lt=1)]


class SplitOptions(Options):
    """`dataset.split`: the shares of the training images that become validation and test.

    A share is of all training images that the source brings; 0 cuts none. If the source brings
    a split of its own, a share for that split is an error.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    validation: Share = 0.1
    test: Share = 0.0


def cut(source: Source, options: SplitOptions) -> dict[Split, list[Item]]:
    """Return the items of each split that is not empty, in an order shuffled by the seed.

    Images with one class each are cut class by class, so every split keeps the proportions of
    the classes. Raises DataError if the source brings a split that is also to be cut, or if no
    image would be left for training or for a split that is cut.
    """
    rng = np.random.default_rng(options.seed)
    splits: dict[Split, list[Item]] = {name: list(items) for name, items in source.splits.items()}
    shares: dict[Split, float] = {"validation": options.validation, "test": options.test}
    counts = len(splits["train"])
    for name, share in shares.items():
        if share and splits.get(name):
            raise DataError(
                f"The source brings its own {name} images ({len(splits[name])}); "
                f"set dataset.split.{name} to 0 to use them."
            )
        if share:
            remaining = share * counts / len(splits["train"])
            splits["train"], splits[name] = _stratified(splits["train"], remaining, rng)
            if not splits[name]:
                raise DataError(
                    f"A share of {share} leaves no {name} image, as every class is rounded on its "
                    f"own: raise dataset.split.{name}."
                )
    if not splits["train"]:
        raise DataError(f"No image is left for training after cutting {dict(shares)}.")
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
