"""How many rows of a feature are stored already, from whatever arrangement of the images."""

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.base.errors import MvmrError
from pipeline.features.extraction.fingerprint import fingerprint_of
from pipeline.features.store import FeatureStore, recipe_of
from pipeline.features.store.identities import places_of
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import RepresentationOptions, identity_of
from pipeline.shards.listing import beginning_of


def stored_rows(
    options: RepresentationOptions,
    image: ImageOptions,
    identities: Iterable[str],
    stores: Sequence[FeatureStore],
) -> int:
    """Return of how many images, given by their identities, `stores` hold the wanted rows.

    It is 0 if the weights of a teacher are missing here.
    """
    try:
        recipe = recipe_of(fingerprint_of(options, identity_of(options.build(image)), {}))
    except MvmrError:
        return 0
    alike = [found for store in stores for found in store.every() if found.recipe == recipe]
    wanted = [beginning_of(identity) for identity in identities]
    return int(places_of(np.stack(wanted), alike).found.sum()) if wanted else 0
