"""How images are to be seen, as it was said when they were packed; shards do not depend on it."""

import json

from pipeline.base.atomic import write_json
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.options import checked_by
from pipeline.images.original_view import ImageOptions
from stages.experiment.paths import DatasetLayout


def say_packed_for(layout: DatasetLayout, image: ImageOptions) -> None:
    """Keep how the images of a data set are to be seen."""
    write_json(layout.packed_for, image.model_dump(mode="json"))


def packed_for(layout: DatasetLayout) -> ImageOptions | None:
    """Return how the images of a data set are to be seen, None if nobody has said so.

    Raises DataError if the file that says so is damaged.
    """
    try:
        content = json.loads(layout.packed_for.read_text(encoding="utf-8"))
        found: ImageOptions = checked_by(ImageOptions, content, "image")
    except FileNotFoundError:
        return None
    except (ValueError, ConfigError) as error:
        raise DataError(
            f"{layout.packed_for} is damaged ({error}): remove it, or pack again with "
            "image=mvmr.Image(size)."
        ) from error
    return found
