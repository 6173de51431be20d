"""Finished results of training and evaluation, kept by the digest of what determines them.

A run that is trained again with other options loses its results to the new ones, and DVC empties
outputs before it runs a stage. `runs/.finished/<key>` keeps a link to each file, or a copy where
the file system has no links, so that going back costs no computation. A directory without
`kept.json`, which is written last, is unfinished.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path

from pipeline.base.atomic import write_json
from pipeline.base.locations import remove_tree
from stages.experiment.paths import RunLayout, finished_results

RECORD, FILES = "kept.json", "files"


@dataclass(frozen=True)
class Kept:
    """A kept result: `what` it is, such as `train` or `evaluate knn`, of which run, and since when.

    `bytes` counts what removing `path` frees: files that no other directory holds.
    """

    path: Path
    run: str
    what: str
    when: float
    bytes: int


def kept_results() -> list[Kept]:
    """Return all kept results."""
    found = []
    for record in sorted(finished_results().glob(f"*/{RECORD}")):
        about = json.loads(record.read_text(encoding="utf-8"))
        stats = [file.stat() for file in record.parent.rglob("*") if file.is_file()]
        freed = sum(stat.st_size for stat in stats if stat.st_nlink == 1)
        found.append(Kept(record.parent, about["run"], about["what"], about["when"], freed))
    return found


def is_kept(key: str, run: RunLayout) -> bool:
    """Whether the result with this key is kept where this run keeps its results."""
    return (_place(key, run) / RECORD).exists()


def keep(key: str, run: RunLayout, outs: Sequence[Path], *, what: str) -> None:
    """Keep the files and directories `outs` of a run, instead of an earlier result.

    It does nothing if one of them does not exist.
    """
    if not all(out.exists() for out in outs):
        return
    place, root = _place(key, run), run.root
    work = place.with_name(f".{place.name}.{os.getpid()}")
    remove_tree(work)
    for out in outs:
        for file in _files(out):
            _link(file, work / FILES / file.relative_to(root))
    names = [str(out.relative_to(root)) for out in outs]
    about = {"key": key, "run": root.name, "what": what, "when": time.time(), "outs": names}
    write_json(work / RECORD, about)
    remove_tree(place)
    work.rename(place)


def restore(key: str, run: RunLayout) -> None:
    """Put a kept result into a run, instead of what is there."""
    place, root = _place(key, run), run.root
    about = json.loads((place / RECORD).read_text(encoding="utf-8"))
    for name in about["outs"]:
        target, kept = root / name, place / FILES / name
        if target.is_dir():
            remove_tree(target)
        for file in _files(kept):
            _link(file, root / file.relative_to(place / FILES))


def share(root: Path) -> None:
    """Let the kept results of a run be the files in `root` where both have the same content.

    DVC replaces the files of a run by links into its cache, so they would otherwise be there twice.
    """
    for kept in kept_results():
        if kept.run != root.name:
            continue
        for file in _files(kept.path / FILES):
            shown = root / file.relative_to(kept.path / FILES)
            if shown.is_file() and not shown.samefile(file) and cmp(shown, file, shallow=False):
                _link(shown, file)


def _place(key: str, run: RunLayout) -> Path:
    return run.finished / key[:16]


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    elif path.exists():
        yield path


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, at once; other links of an old target stay."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), temporary)
    except OSError:  # the file system has no links, or this one may not be made
        shutil.copy2(source, temporary)
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # a rename onto another link of the same file does nothing
