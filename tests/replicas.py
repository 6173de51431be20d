"""Small replicas of published data sets, in their published formats."""

import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from pipeline.datasets.source import Item, Source
from pipeline.datasets.sources import AnySource

CIFAR_PIXELS = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
OPTIONS: TypeAdapter[Any] = TypeAdapter(AnySource)


def opened(**options: Any) -> Source:
    source: Source = OPTIONS.validate_python(options).open()
    return source


def pixels_of(source: Source, item: Item) -> "np.ndarray[Any, Any]":
    return np.asarray(Image.open(io.BytesIO(source.read(item).data)))


def labels_of(source: Source, split: str) -> list[Any]:
    return [item.label for item in source.splits[split]]  # type: ignore[index]


def picture(path: Path, seed: int, size: tuple[int, int] = (9, 7)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    image_format = "jpeg" if path.suffix.lower() in (".jpg", ".jpeg") else None
    Image.fromarray(pixels).save(path, format=image_format)


def too_deep(folder: Path) -> None:
    """Make folders in folders, below `folder`, of which the last cannot be listed by their path."""
    name, inside = "d" * 200, os.open(folder, os.O_RDONLY)
    for _ in range(25):
        os.mkdir(name, dir_fd=inside)
        below = os.open(name, os.O_RDONLY, dir_fd=inside)
        os.close(inside)
        inside = below
    os.close(inside)


PythonPickler: Any = pickle._Pickler


class PythonTwoPickler(PythonPickler):  # type: ignore[misc]
    """Writes pickles as Python 2 did: byte strings as strings, and old names of numpy modules."""

    dispatch: ClassVar[dict[type, Any]] = dict(PythonPickler.dispatch)

    def _save_string(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    def _save_global(self, obj: Any, name: str | None = None) -> None:
        module = {"_reconstruct": "numpy.core.multiarray"}.get(obj.__name__, obj.__module__)
        self.write(pickle.GLOBAL + f"{module}\n{obj.__name__}\n".encode())
        self.memoize(obj)

    save_global = _save_global
    dispatch[bytes] = _save_string
    dispatch[type] = _save_global


def python_two_pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    PythonTwoPickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def rows(first: int, last: int) -> "np.ndarray[Any, Any]":
    """Return images as CIFAR stores them: planes of red, green and blue, row by row."""
    return np.ascontiguousarray(CIFAR_PIXELS[first:last].transpose(0, 3, 1, 2)).reshape(-1, 3072)


def write_cifar10(root: Path) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [b"airplane", b"automobile", b"bird", b"cat", b"deer"]
    names += [b"dog", b"frog", b"horse", b"ship", b"truck"]
    meta = {b"num_cases_per_batch": 2, b"label_names": names, b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(python_two_pickle(meta))
    batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for i, batch in enumerate(batches):
        content = {
            b"batch_label": f"batch {i}".encode(),
            b"labels": [i, 9 - i],
            b"data": rows(2 * i, 2 * i + 2),
            b"filenames": [b"x_s_000001.png", b"x_s_000002.png"],
        }
        (folder / batch).write_bytes(python_two_pickle(content))
    (folder / "readme.html").write_text("not read")
    return folder


def write_cifar100(root: Path) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    meta = {
        b"fine_label_names": [f"fine {i}".encode() for i in range(100)],
        b"coarse_label_names": [f"coarse {i}".encode() for i in range(20)],
    }
    (folder / "meta").write_bytes(python_two_pickle(meta))
    for name, first, last in (("train", 0, 8), ("test", 8, 12)):
        content = {
            b"filenames": [b"x.png"] * (last - first),
            b"batch_label": b"",
            b"fine_labels": [99 - i for i in range(first, last)],
            b"coarse_labels": [19 - i for i in range(first, last)],
            b"data": rows(first, last),
        }
        (folder / name).write_bytes(python_two_pickle(content))
    return folder


STL_PIXELS = np.random.default_rng(1).integers(0, 256, (9, 96, 96, 3), dtype=np.uint8)


def write_stl10(root: Path) -> Path:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    (folder / "class_names.txt").write_text("\n".join(names) + "\n")
    for part, first, last in (("train", 0, 4), ("test", 4, 6), ("unlabeled", 6, 9)):
        # The published files store each plane column by column.
        STL_PIXELS[first:last].transpose(0, 3, 2, 1).tofile(folder / f"{part}_X.bin")
    np.array([1, 10, 2, 2], dtype=np.uint8).tofile(folder / "train_y.bin")
    np.array([3, 4], dtype=np.uint8).tofile(folder / "test_y.bin")
    return folder
