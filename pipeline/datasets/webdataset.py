"""Existing WebDataset tars, from this or any other tool, local or behind any fsspec URL.

A sample is the members whose paths agree up to the first dot of the file name: an image and, if
labelled, a member `cls` or `txt` with a class's number or name, or `json`, a mapping that holds
either under `json_key`. Tar headers are listed once; images are then read by byte range. What a
tar holds can be remembered, so that of a source which only gets new tars only those are read.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import field_validator

from pipeline.base.errors import DataError
from pipeline.base.locations import Location
from pipeline.datasets.files import read_lines
from pipeline.datasets.image_files import PASSED_THROUGH, text_of
from pipeline.datasets.remote_files import brief, expanded, remembered, url_stamp
from pipeline.datasets.source import SPLITS, Encoded, Item, Source, SourceOptions, Split
from pipeline.datasets.written_labels import Written, WrittenClasses, written_label

LabelMember = Literal["cls", "txt", "json", "none"]


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
            for tar in expanded(urls[split], "tar"):
                stamp = url_stamp(tar, "tar")
                for key, first, last, extension, label in _listed(
                    tar, stamp, labels, json_key, listings
                ):
                    name = f"{tar}/{key}"
                    self._images[name] = _Image(tar, first, last, extension)
                    if label is not None:
                        written[name] = label
                    found.append((name, stamp))
        meant = WrittenClasses.of(written.values(), classes)
        self.classes = meant.names
        self.splits = {
            split: [
                Item(name, meant.label(written.get(name), name), stamp) for name, stamp in found
            ]
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
            raise DataError(f"{image.tar} cannot be read ({brief(error)}).") from error
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

    def look() -> list[_Entry]:
        found = list[_Entry]()
        for key, members in _samples(tar):
            image, label = _image(members, tar, key), None
            if labels in members:
                label = _label(members[labels], labels, json_key, f"{tar}/{key}")
            found.append((key, image.first, image.last, image.extension, label))
        return found

    return [tuple(entry) for entry in remembered(listings, tar, question, look)]


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
        raise DataError(f"{tar} cannot be read ({brief(error)}).") from error
    if members:
        yield key, members


def _image(members: Mapping[str, _Member], tar: str, key: str) -> _Image:
    for suffix, extension in PASSED_THROUGH.items():
        member = members.get(suffix.removeprefix("."))
        if member is not None:
            return _Image(tar, member.first, member.first + member.size, extension)
    raise DataError(
        f"{tar}: sample {key!r} has no image ({' '.join(sorted(PASSED_THROUGH))}); it has "
        f"{', '.join(sorted(members))}."
    )


def _label(member: _Member, kind: LabelMember, json_key: str, name: str) -> Written | None:
    try:
        text = member.content.decode().strip()
        value: Any = json.loads(text)[json_key] if kind == "json" else text
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{name}.{kind} holds no label ({error!r}): set dataset.source.labels and json_key."
        ) from error
    written = written_label(value, f"{name}.{kind}")
    if value in (None, "") or isinstance(written, list):
        raise DataError(f"{name}.{kind}: a label is a class's number or name; found {value!r}.")
    return written
