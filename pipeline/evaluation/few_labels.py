"""The few training images whose labels may be used: drawn per class, or listed in a file."""

from pathlib import Path

import torch
from torch import Tensor

from pipeline.base.errors import DataError
from pipeline.base.seeds import generator
from pipeline.evaluation.image_set import Images

_DRAW = 0  # stream of random draws; fine-tuning uses 1


def labelled_rows(images: Images, *, share: float | None, files: Path | None, seed: int) -> Tensor:
    """Return the sorted rows (N,) of the training images whose labels may be used.

    The text file `files` lists them, or a `share` of each class is drawn, at least one image.
    Raises DataError if the file cannot be read, is empty, or names any other image.
    """
    known = images.known("train").nonzero().flatten()
    if files is not None:
        return _listed(files, images, known)
    share = share or 0.0
    labels, source = images.labels("train")[known], generator(seed, _DRAW)
    parts = []
    for label in torch.unique(labels).tolist():
        group = known[labels == label]
        count = max(1, round(share * len(group)))
        parts.append(group[torch.randperm(len(group), generator=source)[:count]])
    return torch.cat(parts).sort().values


def _listed(path: Path, images: Images, known: Tensor) -> Tensor:
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The list of labelled images {str(path)!r} cannot be read: {error}."
        ) from error
    names = images.names("train")
    rows = {names[row]: row for row in known.tolist()}
    by_file = {Path(name).name: row for name, row in rows.items()}
    if len(by_file) < len(rows):  # the same file name in several folders
        by_file = {}
    missing = [line for line in lines if line not in rows and line not in by_file]
    if missing or not lines:
        found = f"{len(missing)} of {len(lines)} are not" if missing else "it is empty"
        first = f", such as {missing[0]!r}" if missing else ""
        raise DataError(
            f"{path} must list labelled training images by name, one per line; {found}{first}. "
            f"A name here is like {names[0]!r}."
        )
    chosen = {rows[line] if line in rows else by_file[line] for line in lines}
    return torch.tensor(sorted(chosen))
