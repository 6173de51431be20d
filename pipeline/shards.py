"""Images as WebDataset tars, with a manifest that is the only source of what is in them.

    shards/<split>/000000.tar ...   members KEY.jpg|png|webp; KEY.cls (one class), or
                                    KEY.json (several), where labelled
    shards/<split>/samples.jsonl    one line a sample: key, label, name and stamp in the source
    shards/<split>/manifest.json    written last: a split without it is unfinished

A key is `{shard:06d}_{row:06d}`. Samples were shuffled before, so every tar is a random sample
of its split. The same items, options and files give byte-identical tars.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from webdataset import tariterators

from pipeline.config import Options, digest
from pipeline.datasets.base import (
    SPLITS,
    Encoded,
    Item,
    Label,
    MultiLabel,
    Source,
    Split,
    label_from_json,
    label_to_json,
)
from pipeline.errors import DataError
from pipeline.images import decode
from pipeline.runtime import Progress, atomic_path, sha256_of, write_json
from pipeline.storage import Location, remove_tree
from pipeline.wording import counted

FORMAT = 2
# Stands in a tar for an image that could not be decoded, so that rows keep their numbers.
INVALID_EXTENSION = "invalid"
IMAGE_EXTENSIONS = ("jpg", "png", "webp")
MANIFEST, LISTING = "manifest.json", "samples.jsonl"
MOST_NAMED = 20  # images that were left out, in a manifest


class ShardOptions(Options):
    """`dataset.shards`: how many samples a tar holds, and what a bad image does."""

    samples: Annotated[int, Field(ge=1)] = 1000
    on_bad_image: Literal["fail", "skip"] = "fail"


@dataclass(frozen=True)
class Shard:
    """One tar. `invalid` lists the rows whose image could not be decoded."""

    name: str
    samples: int
    bytes: int
    sha256: str
    invalid: tuple[int, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What is in one split. Row i of a stored feature is sample i here.

    `source` is the digest of the source's listing, `listing` the SHA-256 of samples.jsonl. With
    `multi_label` an image may have several of the classes, else it has one or no label. `samples`
    counts invalid ones too; `left_out` says of the first of those, by name, why they are.
    """

    dataset: str
    split: Split
    classes: tuple[str, ...] | None
    samples: int
    labelled: int
    samples_per_shard: int
    source: str
    listing: str
    options: Mapping[str, Any]
    shards: tuple[Shard, ...]
    multi_label: bool = False
    format: int = FORMAT
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of what can be read from the split, whenever and from where it was made."""
        names = ("split", "samples", "samples_per_shard", "shards", "format")
        return digest({name: value for name, value in asdict(self).items() if name in names})

    def seal(self) -> str:
        """Return the SHA-256 of all of the above, by which damage of the file is seen."""
        return digest(self.content())

    def content(self) -> dict[str, Any]:
        """Return what the file holds beside the seal; `left_out` only where there is one."""
        return {n: value for n, value in asdict(self).items() if value or n != "left_out"}

    @property
    def valid(self) -> int:
        """Number of samples that may be used."""
        return self.samples - sum(len(shard.invalid) for shard in self.shards)

    @property
    def invalid(self) -> frozenset[int]:
        """Indices, within the split, of samples that must not be used."""
        return frozenset(
            self.first_index(number) + row
            for number, shard in enumerate(self.shards)
            for row in shard.invalid
        )

    def first_index(self, number: int) -> int:
        """Index, within the split, of the first sample of shard `number`."""
        return number * self.samples_per_shard


@dataclass(frozen=True)
class Record:
    """One sample as it is read back: its row in the shard, the file's bytes, the label."""

    row: int
    data: bytes
    label: Label | None
    valid: bool


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
) -> Manifest:
    """Write one split and return its manifest; what was there before is removed first.

    `provenance` is recorded and compared by whoever asks whether the shards are up to date.
    Raises DataError with the file's name for an image that cannot be decoded, unless
    `options.on_bad_image` is "skip", and for images of which some have one class and others
    several.
    """
    multi_label = _has_several(items, source.classes)
    remove_tree(directory)
    progress.start(f"shard {split}", len(items), "images")
    shards, left_out = list[Shard](), dict[str, str]()
    for number, start in enumerate(range(0, len(items), options.samples)):
        chosen = items[start : start + options.samples]
        written = write_shard(source, chosen, directory, number, options)
        shards.append(written.shard)
        left_out |= written.left_out
        progress.advance(len(chosen))
    write_listing(items, directory, options.samples)
    manifest = Manifest(
        dataset=dataset,
        split=split,
        classes=None if source.classes is None else tuple(source.classes),
        samples=len(items),
        labelled=sum(item.label is not None for item in items),
        samples_per_shard=options.samples,
        source=source.listing_digest(),
        listing=sha256_of(directory / LISTING),
        options=dict(provenance),
        shards=tuple(shards),
        multi_label=multi_label,
        left_out=dict(islice(left_out.items(), MOST_NAMED)),
    )
    if not manifest.valid:
        raise DataError(f"None of the {manifest.samples} {split} images can be decoded.")
    write_json(directory / MANIFEST, {**manifest.content(), "seal": manifest.seal()})
    return manifest


def _has_several(items: Sequence[Item], classes: Sequence[str] | None) -> bool:
    several = {isinstance(item.label, MultiLabel) for item in items if item.label is not None}
    if len(several) > 1:
        raise DataError("Some images have one class and others a list of classes; use one form.")
    if True in several and classes is None:
        raise DataError("Images with lists of classes need the names of all classes.")
    return True in several


def write_listing(items: Sequence[Item], directory: Location, samples_per_shard: int) -> None:
    """Write samples.jsonl of a split."""
    with atomic_path(directory / LISTING) as path, path.open("w", encoding="utf-8") as listing:
        for index, item in enumerate(items):
            line = {
                "key": sample_key(*divmod(index, samples_per_shard)),
                "label": label_to_json(item.label),
                "name": item.name,
                "stamp": item.stamp,
            }
            listing.write(json.dumps(line, ensure_ascii=False) + "\n")


def sample_key(shard: int, row: int) -> str:
    """Return the key of a sample: `{shard:06d}_{row:06d}`."""
    return f"{shard:06d}_{row:06d}"


@dataclass(frozen=True)
class WrittenShard:
    """A tar, and why images of it are invalid, by the source's name."""

    shard: Shard
    left_out: Mapping[str, str]


def write_shard(
    source: Source, items: Sequence[Item], directory: Location, number: int, options: ShardOptions
) -> WrittenShard:
    """Write one tar of a split. Raises DataError like `write_split`."""
    path = directory / f"{number:06d}.tar"
    with atomic_path(path) as temporary:
        invalid = _write_tar(source, items, temporary, number, options)
        size, sha256 = temporary.stat().st_size, sha256_of(temporary)
    shard = Shard(path.name, len(items), size, sha256, tuple(invalid))
    return WrittenShard(shard, {items[row].name: why for row, why in invalid.items()})


def _write_tar(
    source: Source, items: Sequence[Item], path: Path, number: int, options: ShardOptions
) -> dict[int, str]:
    """Write one tar and return the rows whose image could not be decoded, and why."""

    def checked(item: Item) -> Encoded | DataError:
        try:
            encoded = source.read(item)
            decode(encoded.data)
        except DataError as error:
            return error
        return encoded

    invalid = {}
    with (
        ThreadPoolExecutor() as pool,
        tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for row, (item, encoded) in enumerate(zip(items, pool.map(checked, items), strict=True)):
            key = sample_key(number, row)
            if isinstance(encoded, DataError):
                if options.on_bad_image == "fail":
                    raise DataError(
                        f"{item.name}: {encoded} Mend or remove the file, or set "
                        "dataset.shards.on_bad_image to skip."
                    ) from encoded
                invalid[row] = str(encoded)
                encoded = Encoded(b"", INVALID_EXTENSION)
            _add(tar, f"{key}.{encoded.extension}", encoded.data)
            if isinstance(item.label, MultiLabel):
                _add(tar, f"{key}.json", json.dumps(label_to_json(item.label)).encode())
            elif item.label is not None:
                _add(tar, f"{key}.cls", str(item.label).encode())
    return invalid


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, group and time are zero: same input, same bytes
    member.size = len(data)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(data))


def read_manifest(directory: Location) -> Manifest:
    """Read the manifest of one split directory, or raise DataError."""
    path = directory / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise DataError(
                f"{path} has format {data['format']}, this version reads {FORMAT}: "
                "run `mvmr shard --force`."
            )
        recorded = data.pop("seal")
        shards = tuple(Shard(**{**s, "invalid": tuple(s["invalid"])}) for s in data["shards"])
        classes = None if data["classes"] is None else tuple(data["classes"])
        manifest = Manifest(**{**data, "shards": shards, "classes": classes})
        if manifest.seal() != recorded:
            raise ValueError("its seal does not fit its content")
    except FileNotFoundError:
        raise DataError(f"There are no finished shards in {directory}: run `mvmr shard`.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): run `mvmr shard --force`.") from error
    return manifest


def read_manifests(directory: Location) -> dict[Split, Manifest]:
    """Read the manifests of all splits below a `shards` directory; train is always among them."""
    present = [split for split in SPLITS if split == "train" or (directory / split).exists()]
    return {split: read_manifest(directory / split) for split in present}


def read_shard(
    directory: Location, manifest: Manifest, number: int, *, first: int = 0, last: int | None = None
) -> Iterator[Record]:
    """Yield rows `first` to `last` (excluded) of one tar, in order.

    Raises DataError if the tar is missing, cut short, or holds other keys than the manifest says.
    """
    shard = manifest.shards[number]
    last = shard.samples if last is None else last
    path = directory / shard.name
    row = 0
    try:
        for sample in _members(path):
            if row >= last:
                return
            if sample["__key__"] != sample_key(number, row):
                raise DataError(
                    f"{path}: expected sample {sample_key(number, row)}, found "
                    f"{sample['__key__']}. {_mend_tar(path)}"
                )
            if row >= first:
                yield _record(sample, row, path)
            row += 1
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}). {_mend_tar(path)}") from error
    if row < last:
        raise DataError(
            f"{path} holds {counted(row, 'samples')}, its manifest says {shard.samples}. "
            f"{_mend_tar(path)}"
        )


def _members(path: Location) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream:
        files = tariterators.tar_file_expander([{"url": path.name, "stream": stream}])
        yield from tariterators.group_by_keys(files)


def _record(sample: Mapping[str, Any], row: int, path: Location) -> Record:
    label: Label | None = None
    if "cls" in sample:
        label = int(sample["cls"])
    elif "json" in sample:
        label = label_from_json(json.loads(sample["json"]))
    if INVALID_EXTENSION in sample:
        return Record(row, b"", label, valid=False)
    for extension in IMAGE_EXTENSIONS:
        if extension in sample:
            return Record(row, sample[extension], label, valid=True)
    raise DataError(f"{path}: sample {sample['__key__']} has no image. {_mend_tar(path)}")


def _mend_tar(path: Location) -> str:
    return f"The tar is damaged: mend {path.parents[1]} by `mvmr store verify --repair`."


def read_labels(directory: Location, manifest: Manifest) -> list[Label | None]:
    """Return the label of every sample of a split, in order, without reading the tars."""
    return [label_from_json(line["label"]) for line in _listing(directory, manifest)]


def read_stamps(directory: Location, manifest: Manifest) -> dict[str, str]:
    """Return the stamp that each image of the source had, by name."""
    return {line["name"]: line["stamp"] for line in _listing(directory, manifest)}


def read_names(directory: Location, manifest: Manifest) -> list[str]:
    """Return the source's name of every sample of a split, in order."""
    return [line["name"] for line in _listing(directory, manifest)]


def _listing(directory: Location, manifest: Manifest) -> list[dict[str, Any]]:
    path = directory / LISTING
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): run `mvmr store verify --repair`."
        ) from error
    if len(lines) != manifest.samples:
        raise DataError(
            f"{path} lists {counted(len(lines), 'samples')}, the manifest {manifest.samples}: "
            "run `mvmr store verify --repair`."
        )
    return lines
