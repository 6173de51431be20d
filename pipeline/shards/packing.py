"""Bringing shards up to date with their source, at the cost of what has changed.

What is packed is compared with the source by the names, the stamps and the identities of images.
Rows stay where they are: images that are gone keep theirs, marked as invalid, and new ones are
added at the end. Another seed, other shares or another number of samples per tar pack everything
anew, from files whose identities are known.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.base.errors import DataError
from pipeline.base.locations import Location, is_local, remove_tree
from pipeline.base.progress import Progress
from pipeline.base.text import counted
from pipeline.datasets.identity import identify
from pipeline.datasets.source import SPLITS, Item, MultiLabel, Source, Split
from pipeline.datasets.split import SplitOptions, cut
from pipeline.shards.listing import ListedSample, read_samples
from pipeline.shards.manifest import MANIFEST, Manifest, read_manifest
from pipeline.shards.writing import KeptRow, NewRow, Row, ShardOptions, settle, write_rows

NAMED = 3
Provenance = Mapping[str, Any]


@dataclass(frozen=True)
class PackedSplit:
    """A split as it is packed."""

    manifest: Manifest
    samples: Sequence[ListedSample]

    def present(self) -> Iterator[ListedSample]:
        """Yield the samples whose image was in the source when it was last compared."""
        gone = {
            self.manifest.first_index(number) + row
            for number, shard in enumerate(self.manifest.shards)
            for row in shard.gone
        }
        return (sample for row, sample in enumerate(self.samples) if row not in gone)


@dataclass(frozen=True)
class Changes:
    """The names of images that are new, gone, replaced (same name, other content) and so on.

    `moved` are now in another split, `relabelled` in another class.
    """

    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    relabelled: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            f"{len(names):,} {what} ({_few(names)})" for what, names in vars(self).items() if names
        ]
        return ", ".join(parts)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


@dataclass(frozen=True)
class PackingPlan:
    """The rows that every split will have, what has changed, and whether all are packed anew.

    `identities` are those of all images in the source, by name; `contents` those of what is stored
    of them, which differ where images are stored reduced and are known only of those that are.
    """

    splits: Mapping[Split, Sequence[Row]]
    identities: Mapping[str, str] = field(repr=False)
    contents: Mapping[str, str] = field(repr=False)
    classes: tuple[str, ...] | None
    changes: Changes
    anew: bool
    decodable: frozenset[str] = field(repr=False)

    @property
    def items(self) -> dict[Split, list[Item]]:
        """The images of each split."""
        return {split: [*_present(rows)] for split, rows in self.splits.items()}


def _present(rows: Sequence[Row]) -> Iterator[Item]:
    for row in rows:
        if isinstance(row, NewRow):
            yield row.item
        elif not row.gone:
            yield Item(row.sample.name, row.sample.label, row.sample.stamp)


def packed_manifests(shards: Location) -> dict[Split, Manifest]:
    """Return the manifests of all splits that are finished."""
    return {
        split: read_manifest(shards / split)
        for split in SPLITS
        if (shards / split / MANIFEST).exists()
    }


def is_current(
    manifests: Mapping[Split, Manifest],
    source: Source,
    options: SplitOptions,
    provenance: Provenance,
) -> bool:
    """Whether what is packed was made with these options from the source as it is listed now."""
    brought = {split for split, items in source.splits.items() if items}
    wanted = brought | options.beside(source).shares.keys()
    if manifests.keys() != wanted:
        return False
    listing = source.listing_digest()
    return all(
        manifest.source == listing and same_provenance(manifest.options, provenance)
        for manifest in manifests.values()
    )


def same_provenance(recorded: Provenance, wanted: Provenance) -> bool:
    """Whether shards were made with the wanted options; those of before `method` keep theirs."""
    return recorded == wanted or recorded == _before_methods(wanted)


def _before_methods(provenance: Provenance) -> Provenance:
    split = {n: v for n, v in provenance["split"].items() if n != "method"}
    return {**provenance, "split": split}


def listed_changes(
    source: Source, shards: Location, manifests: Mapping[Split, Manifest]
) -> Changes:
    """Return what differs by names and stamps alone, so that no image is read."""
    then = dict[str, str]()
    for split, manifest in manifests.items():
        packed = PackedSplit(manifest, read_samples(shards / split, manifest))
        then |= {sample.name: sample.stamp for sample in packed.present()}
    now = {item.name: item.stamp for items in source.splits.values() for item in items}
    return Changes(
        new=tuple(sorted(now.keys() - then.keys())),
        gone=tuple(sorted(then.keys() - now.keys())),
        replaced=tuple(sorted(n for n in now.keys() & then.keys() if now[n] != then[n])),
    )


def plan_packing(
    source: Source,
    shards: Location,
    *,
    split: SplitOptions,
    options: ShardOptions,
    provenance: Provenance,
    compact: bool = False,
    force: bool = False,
    progress: Progress,
) -> PackingPlan:
    """Compare a source with what is packed of it, reading only images that are not known.

    With `compact`, everything is packed anew, without the images that are gone; with `force`,
    every image is read again as well. Raises DataError as `cut` does, or if not one image of what
    is packed is left in the source.
    """
    _require_open(source, options)
    try:
        manifests = packed_manifests(shards)
    except DataError:
        if not force:
            raise
        manifests = {}
    progress.start("compare the images with the shards", 0, "")
    for name, manifest in manifests.items():
        settle(shards / name, manifest)
    packed = {n: PackedSplit(m, read_samples(shards / n, m)) for n, m in manifests.items()}
    trusted = {} if force else packed
    known = {(s.name, s.stamp): s.identity for p in trusted.values() for s in p.present()}
    items = [item for some in source.splits.values() for item in some]
    identities = identify(source, items, known, progress=progress)
    _require_one_known(shards, trusted, identities)
    recorded = [manifest.options for manifest in manifests.values()]
    kept = _kept(packed, items, identities) if _keeps_splits(recorded, provenance) else {}
    splits = cut(source, split, identities, kept=kept)
    classes = None if source.classes is None else tuple(source.classes)
    anew = (
        compact
        or force
        or not packed
        or split.method == "exact"
        or any(m.samples_per_shard != options.samples for m in manifests.values())
        or any(not _same_split(options_then, provenance) for options_then in recorded)
        or any(_reduction(options_then) != _reduction(provenance) for options_then in recorded)
    )
    if classes is not None and not anew:
        before = next(iter(manifests.values())).classes or ()
        classes = _in_order(classes, before)
        splits = _relabelled(splits, source.classes or (), classes)
    rows = {
        name: [NewRow(item) for item in some]
        if anew or name not in packed
        else _matched(packed[name], some, identities)
        for name, some in splits.items()
    }
    decodable = frozenset(
        sample.identity for p in trusted.values() for sample in p.samples if not sample.undecodable
    )
    smaller = {
        sample.identity: sample.smaller.stored
        for p in trusted.values()
        if _reduction(p.manifest.options) == _reduction(provenance)
        for sample in p.samples
        if sample.smaller is not None
    }
    contents = {name: smaller.get(identity, identity) for name, identity in identities.items()}
    changes = _changes(packed, splits, identities, classes)
    return PackingPlan(rows, identities, contents, classes, changes, anew, decodable)


def _require_open(source: Source, options: ShardOptions) -> None:
    closed = source.unlisted.closed
    if closed and options.on_bad_image == "fail":
        folder, why = next(iter(closed.items()))
        raise DataError(
            f"{counted(len(closed), 'folders')} of the source cannot be listed: {folder} ({why}). "
            "Make it readable or move it elsewhere, or set dataset.shards.on_bad_image to skip."
        )


def _require_one_known(
    shards: Location, packed: Mapping[Split, PackedSplit], identities: Mapping[str, str]
) -> None:
    before = {sample.identity for p in packed.values() for sample in p.samples}
    if before and before.isdisjoint(identities.values()):
        raise DataError(
            f"Not one of the {counted(len(before), 'images')} in {shards} is in the source, which "
            f"has {len(identities):,}: it seems to be another data set. Give dataset.name another "
            "name, or replace the shards with `mvmr shard --force`."
        )


def _keeps_splits(recorded: Sequence[Provenance], provenance: Provenance) -> bool:
    """Whether the splits were drawn, with these options, before `method` was one of them."""
    then = [options["split"] for options in recorded if "split" in options]
    wanted = _before_methods(provenance)["split"]
    return bool(then) and all(split == wanted for split in then)


def _same_split(recorded: Provenance, provenance: Provenance) -> bool:
    wanted = provenance["split"]
    before = _before_methods(provenance)["split"]
    return recorded.get("split") in (wanted, before)


def _reduction(provenance: Provenance) -> tuple[Any, ...]:
    shards = provenance.get("shards", {})
    return tuple(shards.get(name) for name in ("max_side", "quality"))


def _kept(
    packed: Mapping[Split, PackedSplit], items: Sequence[Item], identities: Mapping[str, str]
) -> dict[str, Split]:
    """Return the splits that images have by what is packed, by name."""
    by_name = {s.name: (s.identity, n) for n, p in packed.items() for s in p.present()}
    by_identity = {s.identity: n for n, p in packed.items() for s in p.present()}
    kept = dict[str, Split]()
    for item in items:
        identity = identities[item.name]
        then = by_name.get(item.name)
        if then is not None and then[0] == identity:
            kept[item.name] = then[1]
        elif identity in by_identity:
            kept[item.name] = by_identity[identity]
    return kept


def _in_order(classes: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
    """Return the classes such that those of before keep their numbers, if all of them are left."""
    now, then = set(classes), set(before)
    return (*(n for n in before if n in now), *(n for n in classes if n not in then))


def _relabelled(
    splits: Mapping[Split, Sequence[Item]], given: Sequence[str], wanted: Sequence[str]
) -> dict[Split, list[Item]]:
    number = {name: place for place, name in enumerate(wanted)}
    to = [number[name] for name in given]

    def relabelled(item: Item) -> Item:
        if isinstance(item.label, int):
            return replace(item, label=to[item.label])
        if isinstance(item.label, MultiLabel):
            both = (item.label.present, item.label.ignored)
            present, ignored = (tuple(sorted(to[i] for i in some)) for some in both)
            return replace(item, label=MultiLabel(present, ignored))
        return item

    if tuple(given) == tuple(wanted):
        return {split: list(items) for split, items in splits.items()}
    return {split: [relabelled(item) for item in items] for split, items in splits.items()}


def _matched(
    packed: PackedSplit, items: Sequence[Item], identities: Mapping[str, str]
) -> list[Row]:
    """Return the rows of a split: those that it has, with their images, then those of new ones."""
    by_name = {item.name: item for item in items}
    found = list[Item | None]()
    for sample in packed.samples:
        item = by_name.get(sample.name)
        same = item is not None and identities[item.name] == sample.identity
        found.append(by_name.pop(sample.name) if same else None)
    # Renamed: the content is that of a row whose name is gone.
    left = defaultdict[str, list[Item]](list)
    for item in by_name.values():
        left[identities[item.name]].append(item)
    rows = list[Row]()
    for sample, known in zip(packed.samples, found, strict=True):
        waiting = left.get(sample.identity)
        item = known or (waiting.pop(0) if waiting else None)
        if item is None:
            rows.append(KeptRow(sample, gone=True))
            continue
        by_name.pop(item.name, None)
        now = replace(sample, name=item.name, label=item.label, stamp=item.stamp)
        rows.append(KeptRow(now, relabelled=item.label != sample.label))
    return rows + [NewRow(item) for item in items if item.name in by_name]


def _changes(
    packed: Mapping[Split, PackedSplit],
    splits: Mapping[Split, Sequence[Item]],
    identities: Mapping[str, str],
    classes: Sequence[str] | None,
) -> Changes:
    then = {
        sample.name: (sample, split, p.manifest.classes)
        for split, p in packed.items()
        for sample in p.present()
    }
    now = {item.name: (item, split) for split, items in splits.items() for item in items}
    vanished = {then[name][0].identity: then[name] for name in then.keys() - now.keys()}
    found = {name: list[str]() for name in Changes.__dataclass_fields__}
    arrived = set[str]()
    for name, (item, split) in sorted(now.items()):
        identity = identities[name]
        if name not in then:
            arrived.add(identity)
            if identity not in vanished:
                found["new"].append(name)
                continue
            sample, _, classes_then = vanished[identity]
            same = _named(item.label, classes) == _named(sample.label, classes_then)
            found["renamed" if same else "relabelled"].append(name)
            continue
        sample, split_then, classes_then = then[name]
        if sample.identity != identity:
            found["replaced"].append(name)
        elif split != split_then:
            found["moved"].append(name)
        elif _named(item.label, classes) != _named(sample.label, classes_then):
            found["relabelled"].append(name)
    found["gone"] = sorted(
        name for name in then.keys() - now.keys() if then[name][0].identity not in arrived
    )
    return Changes(**{name: tuple(names) for name, names in found.items()})


def _named(label: Any, classes: Sequence[str] | None) -> Any:
    return classes[label] if isinstance(label, int) and classes is not None else label


def _require_room(
    plan: PackingPlan, source: Source, shards: Location, options: ShardOptions
) -> None:
    """Raise DataError if the disk has not enough room for the images that a plan packs.

    Nothing is known of object storage, of sources that do not tell the sizes of images, and of
    images that are stored reduced.
    """
    if not isinstance(shards, Path) or options.max_side is not None:
        return
    new = [row.item for rows in plan.splits.values() for row in rows if isinstance(row, NewRow)]
    needed = sum(source.bytes_of(item) for item in new)
    place = next(folder for folder in (shards, *shards.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DataError(
            f"Packing {counted(len(new), 'images')} takes {needed / 1e6:,.0f} MB, and "
            f"{free / 1e6:,.0f} MB are free at {place}. Make room, or name another place by --data."
        )


def pack(
    plan: PackingPlan,
    source: Source,
    shards: Location,
    *,
    work: Location,
    dataset: str,
    options: ShardOptions,
    provenance: Provenance,
    progress: Progress,
) -> dict[Split, Manifest]:
    """Write what a plan says and return the manifests of all splits.

    Splits that are packed anew are written below `work` first, where the file system can rename
    them, so that an interruption leaves what is there. Raises DataError if there
    is not enough room.
    """
    _require_room(plan, source, shards, options)
    aside = plan.anew and is_local(shards)
    target = work if aside else shards
    if plan.anew:
        remove_tree(target)
    before = {} if plan.anew else packed_manifests(shards)
    manifests = {
        split: write_rows(
            source,
            rows,
            target / split,
            before=before.get(split),
            classes=plan.classes,
            dataset=dataset,
            split=split,
            options=options,
            provenance=provenance,
            progress=progress,
            decodable=plan.decodable,
        )
        for split, rows in plan.splits.items()
    }
    for split in SPLITS:
        if aside or split not in manifests:
            remove_tree(shards / split)
        if aside and split in manifests:
            shards.mkdir(parents=True, exist_ok=True)
            (work / split).replace(shards / split)  # type: ignore[arg-type]
    if aside:
        remove_tree(work)
    return manifests
