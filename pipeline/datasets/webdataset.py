"""Existing WebDataset tars, from this or any other tool, local or behind any fsspec URL.

A sample is the members whose paths agree up to the first dot of the file name: an image and, if
labelled, a member `cls` or `txt` with a class's number or name, or `json`, a mapping that holds
either under `json_key`. Tar headers are listed once; images are then read by byte range. What a
tar holds can be remembered, so that of a source which only gets new tars only those are read.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import field_validator

from pipeline.base.atomic import write_json
from pipeline.base.digests import digest
from pipeline.base.errors import DataError, unknown_name
from pipeline.base.locations import Location
from pipeline.datasets.files import read_lines
from pipeline.datasets.image_files import PASSED_THROUGH, text_of
from pipeline.datasets.source import SPLITS, Encoded, Item, Source, SourceOptions, Split

LabelMember = Literal["cls", "txt", "json", "none"]
Written = int | str  # a label as it stands in a tar: a class's number or name


class WebDatasetOptions(SourceOptions):
    """`dataset.source: {kind: webdataset, train: "URL/train-{000..099}.tar", labels: cls}`.

    `validation` and `test` are further URLs; `*`, `?` and `[...]` stand for whatever matches.
    `classes` is a file of all class names, one per line, in the order of their numbers. Without
    it, the numbers that occur are their own names, and names are sorted.
    """

    kind: Literal["webdataset"] = "webdataset"
    train: str
    validation: str | None = None
    test: str | None = None
    labels: LabelMember = "cls"
    json_key: str = "label"
    classes: str | None = None

    @field_validator("train", "validation", "test")
    @classmethod
    def _reads_only(cls, url: str | None) -> str | None:
        if url is not None and url.startswith("pipe:"):
            raise ValueError("a pipe: URL runs a command; give the URL of the tars themselves")
        return url

    def open(self) -> "WebDatasetTars":
        """List the tars."""
        return self._opened(None)

    def open_again(self, listings: Location) -> "WebDatasetTars":
        """List the tars; of those that have not changed, read what was remembered."""
        return self._opened(listings)

    def _opened(self, listings: Location | None) -> "WebDatasetTars":
        given: dict[Split, str | None] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        return WebDatasetTars(
            {split: url for split, url in given.items() if url is not None},
            labels=self.labels,
            json_key=self.json_key,
            classes=read_lines(Path(self.classes), "list of classes") if self.classes else None,
            listings=listings,
        )


@dataclass(frozen=True)
class _Image:
    """Where an image's bytes are in a tar: from `first` up to, but excluding, `last`."""

    tar: str
    first: int
    last: int
    extension: str


class WebDatasetTars(Source):
    """Image files as they are; an item's name is its tar and its key."""

    def __init__(
        self,
        urls: Mapping[Split, str],
        *,
        labels: LabelMember = "cls",
        json_key: str = "label",
        classes: Sequence[str] | None = None,
        listings: Location | None = None,
    ) -> None:
        self._images: dict[str, _Image] = {}
        written: dict[str, Written] = {}
        names: dict[Split, list[tuple[str, str]]] = {split: [] for split in SPLITS if split in urls}
        for split, found in names.items():
            for tar in _expanded(urls[split]):
                stamp = _stamp_of(tar)
                for key, first, last, extension, label in _listed(
                    tar, stamp, labels, json_key, listings
                ):
                    name = f"{tar}/{key}"
                    self._images[name] = _Image(tar, first, last, extension)
                    if label is not None:
                        written[name] = label
                    found.append((name, stamp))
        self.classes = _classes(written, classes)
        index = {name: i for i, name in enumerate(self.classes or ())}
        numbers = {name: _number(label, index, name, classes) for name, label in written.items()}
        self.splits = {
            split: [Item(name, numbers.get(name), stamp) for name, stamp in found]
            for split, found in names.items()
        }

    def read(self, item: Item) -> Encoded:
        """Return one image file."""
        from fsspec.core import url_to_fs

        image = self._images[item.name]
        try:
            files, path = url_to_fs(image.tar)
            data = files.cat_file(path, start=image.first, end=image.last)
        except Exception as error:  # every service has errors of its own
            raise DataError(f"{image.tar} cannot be read ({_brief(error)}).") from error
        return Encoded(data, image.extension)

    def bytes_of(self, item: Item) -> int:
        """Return the size of one image file."""
        image = self._images[item.name]
        return image.last - image.first


@dataclass(frozen=True)
class _Member:
    """A member of a tar: where its bytes are, and its content if it may be a label."""

    first: int
    size: int
    content: bytes


# Of one sample: key, first and last byte of its image, extension, label as it stands in the tar.
_Entry = tuple[str, int, int, str, Written | None]


def _listed(
    tar: str, stamp: str, labels: LabelMember, json_key: str, listings: Location | None
) -> list[_Entry]:
    """Return what a tar holds, as remembered if neither the tar nor the question has changed."""
    question = {"tar": tar, "stamp": stamp, "labels": labels, "json_key": json_key}
    remembered = None if listings is None else listings / f"{digest(tar)[:24]}.json"
    if remembered is not None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(remembered.read_text(encoding="utf-8"))
            if known["question"] == question:
                return [
                    (k, int(a), int(b), str(e), label) for k, a, b, e, label in known["samples"]
                ]
    found = list[_Entry]()
    for key, members in _samples(tar):
        image, label = _image(members, tar, key), None
        if labels in members:
            label = _label(members[labels], labels, json_key, f"{tar}/{key}")
        found.append((key, image.first, image.last, image.extension, label))
    if remembered is not None:
        write_json(remembered, {"question": question, "samples": found})
    return found


def _expanded(url: str) -> list[str]:
    from webdataset.shardlists import expand_urls

    return [tar for one in expand_urls(url) for tar in _matching(one)]


def _matching(url: str) -> list[str]:
    """Return the tars that a URL with *, ? or [...] stands for, sorted; any other is itself."""
    from fsspec.core import has_magic, url_to_fs

    if not has_magic(url):
        return [url]
    try:
        files, path = url_to_fs(url)
        found = [str(place) for place in sorted(files.glob(path))]
    except Exception as error:  # every service has errors of its own
        raise DataError(f"The tars {url!r} cannot be listed ({_brief(error)}).") from error
    if not found:
        raise DataError(f"No tar matches {url!r}: set dataset.source to URLs of tars that exist.")
    return [files.unstrip_protocol(place) for place in found] if "://" in url else found


def _stamp_of(tar: str) -> str:
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(tar)
        about = files.info(path)
    except Exception as error:  # every service has errors of its own
        raise DataError(
            f"The tar {tar!r} cannot be opened ({_brief(error)}). Set dataset.source to URLs of "
            "tars that exist; braces such as {000..099} stand for all numbers in the range."
        ) from error
    return f"{about['size']}:{about.get('mtime') or about.get('ETag') or ''}"


def _samples(tar: str) -> Iterator[tuple[str, dict[str, _Member]]]:
    """Yield the key of each sample and its members by extension, in the order of the tar."""
    import fsspec

    key, members = "", dict[str, _Member]()
    try:
        with fsspec.open(tar, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for entry in archive:
                path = PurePosixPath(entry.name)
                if not entry.isreg() or path.name.startswith("."):
                    continue
                base, _, extension = path.name.partition(".")
                current = text_of(path.parent / base)
                if members and current != key:
                    yield key, members
                    members = {}
                key, extension = current, extension.lower()
                content = (
                    archive.extractfile(entry) if extension in ("cls", "txt", "json") else None
                )
                text = content.read() if content is not None else b""
                members[extension] = _Member(entry.offset_data, entry.size, text)
    except tarfile.TarError as error:
        raise DataError(f"{tar} is not a whole, uncompressed tar: {error}.") from error
    except Exception as error:  # every service has errors of its own
        raise DataError(f"{tar} cannot be read ({_brief(error)}).") from error
    if members:
        yield key, members


def _brief(error: Exception) -> str:
    """Return what a service says, in one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _image(members: Mapping[str, _Member], tar: str, key: str) -> _Image:
    for suffix, extension in PASSED_THROUGH.items():
        member = members.get(suffix.removeprefix("."))
        if member is not None:
            return _Image(tar, member.first, member.first + member.size, extension)
    raise DataError(
        f"{tar}: sample {key!r} has no image ({' '.join(sorted(PASSED_THROUGH))}); it has "
        f"{', '.join(sorted(members))}."
    )


def _label(member: _Member, kind: LabelMember, json_key: str, name: str) -> Written:
    try:
        text = member.content.decode().strip()
        value: Any = json.loads(text)[json_key] if kind == "json" else text
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{name}.{kind} holds no label ({error!r}): set dataset.source.labels and json_key."
        ) from error
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int | str) or isinstance(value, bool) or value == "":
        raise DataError(f"{name}.{kind}: a label is a class's number or name; found {value!r}.")
    return value


def _classes(written: Mapping[str, Written], given: Sequence[str] | None) -> tuple[str, ...] | None:
    if given is not None or not written:
        return None if given is None else tuple(given)
    numbers = {label for label in written.values() if isinstance(label, int)}
    names = {label for label in written.values() if isinstance(label, str)}
    if numbers and names:
        raise DataError(
            "Some labels are numbers and others names: list all names in dataset.source.classes."
        )
    # Numbers may be identifiers with gaps, so only those that occur are classes.
    return tuple(map(str, sorted(numbers))) if numbers else tuple(sorted(names))


def _number(
    label: Written, index: Mapping[str, int], name: str, given: Sequence[str] | None
) -> int:
    """Return the place of a label's class; with `given` names, a number is that place itself."""
    if isinstance(label, int) and given is not None:
        if not 0 <= label < len(given):
            raise DataError(f"{name}: class {label} is not one of the {len(given)} classes.")
        return label
    if isinstance(label, int) and label < 0:
        raise DataError(f"{name}: {label} is not the number of a class.")
    if str(label) not in index:
        raise DataError(f"{name}: {unknown_name('class', str(label), index)}")
    return index[str(label)]
