"""Writing images as WebDataset tars, and the manifest that alone says what they contain.

    shards/<split>/000000.tar ...   members KEY.jpg|png|webp; KEY.cls (one class), or
                                    KEY.json (several), if labelled
    shards/<split>/samples.jsonl    one line per sample, as `listing.py` says
    shards/<split>/manifest.json    written last: a split without it is unfinished

A key is `{shard:06d}_{row:06d}`. Samples are shuffled before they are packed, so every tar is a
random sample of its split. The same items, options and files give byte-identical tars.

A split grows: images that are new fill its last tar and then further ones, and those that are
gone keep their rows, marked as invalid. So all tars but the last are full, and a row that an
image has is its row for as long as the split is not packed anew.
"""

import io
import json
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.base.atomic import atomic_path, write_json
from pipeline.base.digests import sha256_of
from pipeline.base.errors import DataError
from pipeline.base.locations import Location, is_local, remove_tree
from pipeline.base.options import Options, added
from pipeline.base.progress import Progress
from pipeline.base.text import counted
from pipeline.datasets.identity import identity_of, unreadable
from pipeline.datasets.source import (
    Encoded,
    Item,
    Label,
    MultiLabel,
    Source,
    Split,
    label_to_json,
)
from pipeline.images.decoding import decode
from pipeline.images.reducing import ReductionOptions, Side, reduced
from pipeline.shards.listing import LISTING, ListedSample, Smaller, write_listing
from pipeline.shards.manifest import FORMAT, MANIFEST, Manifest, Shard, sample_key
from pipeline.shards.reading import INVALID_EXTENSION, read_shard
from pipeline.shards.wholeness import lacks_end, require_whole

MOST_NAMED = 20  # left-out images that a manifest names
MOST_TOLD = 5  # images that may be damaged
NEXT_LISTING = f"{LISTING}.next"


class ShardOptions(Options):
    """`dataset.shards`: how many samples a tar holds, and how images are stored.

    An image whose longer side exceeds `max_side` pixels is stored reduced to it, as JPEG of
    `quality`; a panorama so that its shorter side has a quarter of that. All others, and all
    without `max_side`, are stored byte for byte.
    """

    samples: Annotated[int, Field(ge=1)] = 1000
    on_bad_image: Literal["fail", "skip"] = "fail"
    max_side: Side | None = added(None)
    quality: Annotated[int, Field(ge=1, le=100)] = added(92)

    @property
    def reduction(self) -> ReductionOptions | None:
        """How large images are stored; None if all are stored as they are."""
        if self.max_side is None:
            return None
        return ReductionOptions(max_side=self.max_side, quality=self.quality)


@dataclass(frozen=True)
class NewRow:
    """An image of the source that is to be packed."""

    item: Item


@dataclass(frozen=True)
class KeptRow:
    """A row that is packed already; `sample` is what the source says of it now.

    If it is `relabelled`, its tar is written again; if it is `gone`, the row becomes invalid.
    """

    sample: ListedSample
    relabelled: bool = False
    gone: bool = False


Row = NewRow | KeptRow


def write_split(
    source: Source,
    items: Sequence[Item],
    directory: Location,
    *,
    dataset: str,
    split: Split,
    options: ShardOptions,
    provenance: Mapping[str, Any],
    progress: Progress,
    decodable: Collection[str] = frozenset(),
) -> Manifest:
    """Write one split and return its manifest; an existing split is removed first.

    `provenance` is recorded, and later tells whether the shards are up to date. Images whose
    identities are in `decodable` are not decoded to find out. Raises DataError with the file's
    name if an image cannot be decoded, unless `options.on_bad_image` is "skip". Also raises it if
    no image can be decoded, or if some have one class and others several.
    """
    remove_tree(directory)
    return write_rows(
        source,
        [NewRow(item) for item in items],
        directory,
        before=None,
        classes=source.classes,
        dataset=dataset,
        split=split,
        options=options,
        provenance=provenance,
        progress=progress,
        decodable=decodable,
    )


def write_rows(
    source: Source,
    rows: Sequence[Row],
    directory: Location,
    *,
    before: Manifest | None,
    classes: Sequence[str] | None,
    dataset: str,
    split: Split,
    options: ShardOptions,
    provenance: Mapping[str, Any],
    progress: Progress,
    decodable: Collection[str] = frozenset(),
) -> Manifest:
    """Write the tars of a split whose rows differ from what is packed, and return its manifest.

    `before` is the manifest of what is packed, whose rows are the first of `rows`. Only tars that
    get new images or other labels are written. Labels are indices of `classes`. Raises DataError
    as `write_split` does.
    """
    multi_label = _has_several(rows, classes)
    if options.on_bad_image == "fail":
        _refuse_undecodable(rows, before)
    packer = _Packer(source, directory, before, options, decodable)
    borders = range(0, len(rows), options.samples)
    tars = [rows[first : first + options.samples] for first in borders]
    todo = sum(len(some) for some in tars if packer.differs(some))
    progress.start(f"shard {split}", todo, "images", step="shard")
    shards, samples, left_out = list[Shard](), list[ListedSample](), dict[str, str]()
    doubtful = list[str]()
    for number, some in enumerate(tars):
        written = packer.packed(number, some)
        shards.append(written.shard)
        samples += written.samples
        left_out |= written.left_out
        doubtful += written.doubtful
        if packer.differs(some):
            progress.advance(len(some))
    if doubtful:
        progress.note(
            f"{counted(len(doubtful), 'JPEG files')} of {split} have no end mark, as files have "
            "that a copy has cut or filled with zeros: look at the lower part of "
            f"{', '.join(doubtful[:MOST_TOLD])}{', ...' if len(doubtful) > MOST_TOLD else ''}."
        )
    present = [not isinstance(row, KeptRow) or not row.gone for row in rows]
    named = {s.name for s, there in zip(samples, present, strict=True) if there and s.undecodable}
    earlier = {n: why for n, why in (before.left_out if before else {}).items() if n in named}
    changed = before is None or tuple(shards) != before.shards
    manifest = Manifest(
        dataset=dataset,
        split=split,
        classes=None if classes is None else tuple(classes),
        samples=len(rows),
        labelled=sum(label is not None for label in _labels(rows)),
        samples_per_shard=options.samples,
        source=source.listing_digest(),
        listing="",
        options=dict(provenance),
        shards=tuple(shards),
        multi_label=multi_label,
        reduced=sum(sample.smaller is not None for sample in samples),
        saved=sum(sample.smaller.saved for sample in samples if sample.smaller),
        # An unchanged split keeps its format, and so its digest.
        format=FORMAT if changed or before is None else before.format,
        left_out=dict(islice((earlier | left_out).items(), MOST_NAMED)),
    )
    if not manifest.valid:
        raise DataError(f"None of the {manifest.samples} {split} images can be decoded.")
    return _record(samples, manifest, directory)


def _record(samples: Sequence[ListedSample], manifest: Manifest, directory: Location) -> Manifest:
    """Write listing and manifest, such that `settle` can finish what an interruption left."""
    local = is_local(directory)  # object storage has no renames
    listing = directory / (NEXT_LISTING if local else LISTING)
    write_listing(samples, listing, manifest.samples_per_shard)
    manifest = replace(manifest, listing=sha256_of(listing))
    write_json(directory / MANIFEST, {**manifest.content(), "seal": manifest.seal()})
    settle(directory, manifest)
    return manifest


def settle(directory: Location, manifest: Manifest) -> None:
    """Finish the last step of writing a split, or forget the listing that came before it."""
    following = directory / NEXT_LISTING
    if following.exists():
        if sha256_of(following) == manifest.listing:
            following.replace(directory / LISTING)  # type: ignore[arg-type]
        else:
            following.unlink()


def _refuse_undecodable(rows: Sequence[Row], before: Manifest | None) -> None:
    for row in rows:
        if isinstance(row, KeptRow) and row.sample.undecodable and not row.gone:
            why = (before.left_out if before else {}).get(row.sample.name, "cannot be decoded.")
            raise DataError(
                f"{row.sample.name}: {why} Mend or remove the file, or set "
                "dataset.shards.on_bad_image to skip."
            )


def _labels(rows: Sequence[Row]) -> list[Label | None]:
    """Return the labels of all images that are not gone."""
    return [
        row.item.label if isinstance(row, NewRow) else row.sample.label
        for row in rows
        if isinstance(row, NewRow) or not row.gone
    ]


def _has_several(rows: Sequence[Row], classes: Sequence[str] | None) -> bool:
    several = {isinstance(label, MultiLabel) for label in _labels(rows) if label is not None}
    if len(several) > 1:
        raise DataError("Some images have one class and others a list of classes; use one form.")
    if True in several and classes is None:
        raise DataError("Images with lists of classes need the names of all classes.")
    return True in several


def repack_shard(
    source: Source,
    items: Mapping[str, Item],
    samples: Sequence[ListedSample],
    directory: Location,
    number: int,
    options: ShardOptions,
) -> None:
    """Write a tar again, from the images of the source that its samples name.

    Raises DataError if the source no longer has one of them.
    """
    missing = [sample.name for sample in samples if sample.name not in items]
    if missing:
        raise DataError(
            f"Tar {number} of {directory} cannot be made again: {missing[0]} is gone from the "
            "source. Pack all images again with `mvmr shard --force`; only features of images that "
            "are new are computed."
        )
    rows = [NewRow(replace(items[sample.name], label=sample.label)) for sample in samples]
    _Packer(source, directory, None, options, frozenset()).packed(number, rows)


@dataclass(frozen=True)
class WrittenShard:
    """A tar, its samples, why some of its new images are invalid, and which may be damaged."""

    shard: Shard
    samples: Sequence[ListedSample]
    left_out: Mapping[str, str]
    doubtful: Sequence[str]


@dataclass(frozen=True)
class _Checked:
    """An image that was read: what is stored of it, or why it cannot be decoded.

    If it is stored reduced, `smaller` says how. It is `doubtful` if its file lacks an end.
    """

    identity: str
    encoded: Encoded
    smaller: Smaller | None = None
    error: DataError | None = None
    doubtful: bool = False


class _Packer:
    """Writes the tars of one split."""

    def __init__(
        self,
        source: Source,
        directory: Location,
        before: Manifest | None,
        options: ShardOptions,
        decodable: Collection[str],
    ) -> None:
        self._source, self._directory, self._before = source, directory, before
        self._options, self._decodable = options, decodable

    def differs(self, rows: Sequence[Row]) -> bool:
        """Whether a tar must be written: it has new images, or images with other labels."""
        return any(isinstance(row, NewRow) or row.relabelled for row in rows)

    def packed(self, number: int, rows: Sequence[Row]) -> WrittenShard:
        """Write a tar if it differs from what is packed."""
        path = self._directory / f"{number:06d}.tar"
        left_out, doubtful = dict[str, str](), list[str]()
        kept = [row.sample for row in rows if isinstance(row, KeptRow)]
        if self._before is None or self.differs(rows):
            new = [row.item for row in rows if isinstance(row, NewRow)]
            with atomic_path(path) as temporary:
                samples, left_out, doubtful = self._write(number, kept, new, temporary)
                size, sha256 = temporary.stat().st_size, sha256_of(temporary)
        else:
            then = self._before.shards[number]
            samples, size, sha256 = kept, then.bytes, then.sha256
        gone = tuple(p for p, row in enumerate(rows) if isinstance(row, KeptRow) and row.gone)
        bad = {place for place, sample in enumerate(samples) if sample.undecodable}
        invalid = tuple(sorted(bad | set(gone)))
        shard = Shard(path.name, len(rows), size, sha256, invalid, gone)
        return WrittenShard(shard, samples, left_out, doubtful)

    def _write(
        self, number: int, kept: Sequence[ListedSample], new: Sequence[Item], path: Path
    ) -> tuple[list[ListedSample], dict[str, str], list[str]]:
        """Write a tar: first the rows that it has, then the new ones."""
        samples, left_out, doubtful = [*kept], dict[str, str](), list[str]()
        with (
            ThreadPoolExecutor() as pool,
            tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            checked = pool.map(self._checked, new)
            for place, encoded in enumerate(self._packed_images(number, len(kept))):
                self._add(tar, sample_key(number, place), encoded, kept[place].label)
            for place, (item, found) in enumerate(zip(new, checked, strict=True), len(kept)):
                samples.append(
                    ListedSample(
                        item.name,
                        item.label,
                        item.stamp,
                        found.identity,
                        found.error is not None,
                        found.smaller,
                    )
                )
                if found.error is not None:
                    left_out[item.name] = str(found.error)
                elif found.doubtful:
                    doubtful.append(item.name)
                self._add(tar, sample_key(number, place), found.encoded, item.label)
        return samples, left_out, doubtful

    def _packed_images(self, number: int, count: int) -> Iterator[Encoded]:
        """Yield the first images of a tar as they are packed."""
        if count and self._before is not None:
            for record in read_shard(self._directory, self._before, number, last=count):
                yield Encoded(record.data, record.extension)

    @staticmethod
    def _add(tar: tarfile.TarFile, key: str, encoded: Encoded, label: Label | None) -> None:
        _add(tar, f"{key}.{encoded.extension}", encoded.data)
        if isinstance(label, MultiLabel):
            _add(tar, f"{key}.json", json.dumps(label_to_json(label)).encode())
        elif label is not None:
            _add(tar, f"{key}.cls", str(label).encode())

    def _checked(self, item: Item) -> _Checked:
        identity = unreadable(item.name)
        try:
            encoded = self._source.read(item)
            identity = identity_of(encoded.data)
            if identity not in self._decodable:
                require_whole(encoded.data)
                decode(encoded.data)
            smaller = stored_smaller(encoded.data, self._options)
        except DataError as error:
            if self._options.on_bad_image == "fail":
                raise DataError(
                    f"{item.name}: {error} Mend or remove the file, or set "
                    "dataset.shards.on_bad_image to skip."
                ) from error
            return _Checked(identity, Encoded(b"", INVALID_EXTENSION), error=error)
        doubtful = lacks_end(encoded.data)
        if smaller is None:
            return _Checked(identity, encoded, doubtful=doubtful)
        data, what = smaller
        return _Checked(identity, Encoded(data, "jpg"), what, doubtful=doubtful)


def stored_smaller(data: bytes, options: ShardOptions) -> tuple[bytes, Smaller] | None:
    """Return what is stored of an image file in its place, if that is smaller; else None."""
    smaller = reduced(data, options.reduction)
    if smaller is None:
        return None
    return smaller, Smaller(identity_of(smaller), len(data) - len(smaller))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, group and time are zero: same input, same bytes
    member.size = len(data)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(data))
