"""What sources share: published archives, lists of classes, pixels as PNG."""

import io
import re
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field

from pipeline.base.errors import DataError
from pipeline.datasets.source import Encoded

CLASS_LISTS = Path(__file__).parent / "class_lists"
# A file below a folder of an archive: names of letters, digits, "_", "-" and inner dots.
PLAIN_PATH = r"(?:\./)?{folder}/((?:[\w-][\w.-]*/)*[\w-][\w.-]*)"


# Whether a source may fetch its archives; not part of the experiment's identity.
Download = Annotated[bool, Field(exclude=True)]


@dataclass(frozen=True)
class Archive:
    """A published tar archive: its URL, its file name and its MD5."""

    url: str
    name: str
    md5: str


def unpacked(root: Path, folder: str, archives: Sequence[Archive], *, download: bool) -> Path:
    """Return `root/folder`; if it is missing, unpack it from `archives` in `root` first.

    With `download`, a missing archive is fetched, and its MD5 is checked. Only regular files with
    plain names below `folder` are unpacked. Raises DataError that says what to fetch, or which
    archive cannot be read.
    """
    target = root / folder
    if target.is_dir():
        return target
    if download:
        for archive in archives:
            _fetch(archive, root)
    missing = [archive for archive in archives if not (root / archive.name).is_file()]
    if missing:
        listed = " and ".join(f"{a.name} (from {a.url}, MD5 {a.md5})" for a in missing)
        raise DataError(
            f"The folder {str(target)!r} does not exist and cannot be unpacked: put {listed} "
            f"into {str(root)!r}, or set dataset.source.download to true."
        )
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpacking") as temporary:
        for archive in archives:
            _unpack(root / archive.name, folder, Path(temporary))
        target.parent.mkdir(parents=True, exist_ok=True)
        (Path(temporary) / folder).rename(target)
    return target


def _fetch(archive: Archive, root: Path) -> None:
    from torchvision.datasets.utils import download_url

    try:
        download_url(archive.url, root, archive.name, archive.md5)
    except (OSError, RuntimeError) as error:  # no network, or a wrong checksum
        raise DataError(
            f"{archive.url} cannot be fetched ({error}). Fetch it where there is a network, and "
            f"put it into {str(root)!r} as {archive.name} (MD5 {archive.md5})."
        ) from error


def _unpack(archive: Path, folder: str, into: Path) -> None:
    pattern = re.compile(PLAIN_PATH.format(folder=re.escape(folder)))
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                match = pattern.fullmatch(member.name)
                content = tar.extractfile(member) if match and member.isreg() else None
                if match and content is not None:
                    path = into / folder / match[1]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as file:
                        shutil.copyfileobj(content, file)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{archive} cannot be read ({error}): fetch it again.") from error
    if not (into / folder).is_dir():
        raise DataError(f"{archive} holds no file below {folder}/: it is the wrong archive.")


def read_lines(path: Path, what: str) -> list[str]:
    """Return the non-empty lines of a text file; `what` names the file in error messages."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a name may hold other separators
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The {what} {str(path)!r} cannot be read: {error}.") from error
    return [line for line in lines if line.strip()]


def read_class_list(named: str) -> list[str]:
    """Return the first word of every line of a file, sorted; lines that start with # are skipped.

    `named` is a path, or the name of a list that comes with the program, such as imagenet50. Raises
    DataError if there is no such word, or if one occurs twice.
    """
    shipped = {path.stem: path for path in CLASS_LISTS.glob("*.txt")}
    path = shipped.get(named, Path(named))
    lines = read_lines(path, "list of classes")
    names = sorted(line.split()[0] for line in lines if not line.startswith("#"))
    if not names:
        raise DataError(f"The list of classes {str(path)!r} is empty.")
    twice = [name for name, following in pairwise(names) if name == following]
    if twice:
        raise DataError(f"The list of classes {str(path)!r} names {twice[0]!r} twice.")
    return names


def stamp_of(path: Path) -> str:
    """Return a file's size and modification time, to detect that it may have changed.

    It is empty for a link to nothing.
    """
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}"


def bytes_in(stamp: str) -> int:
    """Return the size of the file that a stamp is of."""
    size = stamp.partition(":")[0]
    return int(size) if size else 0


def png_of(pixels: "np.ndarray[Any, np.dtype[np.uint8]]") -> Encoded:
    """Encode pixels (H, W) or (H, W, 3) as a PNG, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return Encoded(buffer.getvalue(), "png")


def read_bytes(path: Path) -> bytes:
    """Return the content of an image file, or raise DataError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
