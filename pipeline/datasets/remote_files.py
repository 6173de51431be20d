"""Files of a source behind paths or URLs: which there are, whether they changed, what they hold."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pipeline.base.atomic import write_json
from pipeline.base.digests import digest
from pipeline.base.errors import DataError
from pipeline.base.locations import Location


def expanded(url: str, what: str) -> list[str]:
    """Return the files that a path or a URL stands for, which messages call `what`.

    Braces such as {000..099} stand for all numbers in the range; *, ? and [...] stand for whatever
    matches, sorted. Raises DataError if nothing does.
    """
    from webdataset.shardlists import expand_urls

    return [file for one in expand_urls(url) for file in _matching(one, what)]


def _matching(url: str, what: str) -> list[str]:
    from fsspec.core import has_magic, url_to_fs

    if not has_magic(url):
        return [url]
    try:
        files, path = url_to_fs(url)
        found = [str(place) for place in sorted(files.glob(path))]
    except Exception as error:  # every service has errors of its own
        raise DataError(f"The {what}s {url!r} cannot be listed ({brief(error)}).") from error
    if not found:
        raise DataError(
            f"No {what} matches {url!r}: set dataset.source to URLs of {what}s that exist."
        )
    return [files.unstrip_protocol(place) for place in found] if "://" in url else found


def url_stamp(url: str, what: str) -> str:
    """Return a file's size and time, or another mark, to detect that it may have changed.

    Raises DataError if it cannot be opened.
    """
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(url)
        about = files.info(path)
    except Exception as error:  # every service has errors of its own
        raise DataError(
            f"The {what} {url!r} cannot be opened ({brief(error)}). Set dataset.source to URLs of "
            f"{what}s that exist; braces such as {{000..099}} stand for all numbers in the range."
        ) from error
    return f"{about['size']}:{about.get('mtime') or about.get('ETag') or ''}"


def brief(error: Exception) -> str:
    """Return what a service says, in one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def remembered(
    listings: Location | None, url: str, question: dict[str, Any], look: Callable[[], list[Any]]
) -> list[Any]:
    """Return what a file holds: `look()`, as JSON values, or what was remembered of it.

    It is remembered below `listings` with the `question` that it answers, such as the file's stamp.
    """
    if listings is None:
        return look()
    memory = listings / f"{digest(url)[:24]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["question"] == question:
            samples: list[Any] = known["samples"]
            return samples
    found = look()
    write_json(memory, {"question": question, "samples": found})
    return found
