"""How many rows of a feature are stored already, from whatever arrangement of the images."""

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.base.errors import MvmrError
from pipeline.features.extraction.fingerprint import fingerprint_of
from pipeline.features.store import FeatureStore, recipe_of
from pipeline.features.store.identities import Identities, places_of
from pipeline.images.original_view import ImageOptions
from pipeline.images.stored_views import identities_of_views
from pipeline.representations.representation import RepresentationOptions, identity_of
from pipeline.shards.listing import IDENTITY_BYTES, beginning_of


def stored_rows(
    options: RepresentationOptions,
    image: ImageOptions,
    contents: Iterable[str],
    training: Iterable[str],
    stores: Sequence[FeatureStore],
) -> int:
    """Return how many of the wanted rows `stores` hold: of images, and of stored views.

    Images are given by the digests of what is stored of them, and those of training once more. It
    is 0 if the weights of a teacher are missing here.
    """
    try:
        recipe = recipe_of(fingerprint_of(options, identity_of(options.build(image)), {}))
    except MvmrError:
        return 0
    alike = [found for store in stores for found in store.every() if found.recipe == recipe]
    wanted, viewed = _beginnings(contents), _beginnings(training)
    tables = [wanted]
    if options.views is not None:
        numbers = range(options.views.count)
        tables += [identities_of_views(options.views, viewed, number) for number in numbers]
    return sum(int(places_of(table, alike).found.sum()) for table in tables)


def _beginnings(contents: Iterable[str]) -> Identities:
    found = [beginning_of(content) for content in contents]
    return np.stack(found) if found else np.zeros((0, IDENTITY_BYTES), np.uint8)
