"""CIFAR-10, CIFAR-100 and its 20 superclasses, from the published Python version.

    root/cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}
    root/cifar-100-python/{train,test,meta}

or the archives `cifar-10-python.tar.gz` and `cifar-100-python.tar.gz` in `root`. The batches are
Python 2 pickles; the unpickler used here builds arrays of bytes and nothing else.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.base.errors import DataError
from pipeline.datasets.files import Archive, Download, png_of, stamp_of, unpacked
from pipeline.datasets.source import Encoded, Item, Source, SourceOptions, Split

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Version:
    """How the versions differ; `names` and `labels` are keys of the pickles."""

    torchvision: str  # the class of torchvision.datasets that knows the archive
    folder: str
    splits: Mapping[Split, tuple[str, ...]]
    meta: str
    names: str
    labels: str


TEN = _Version(
    torchvision="CIFAR10",
    folder="cifar-10-batches-py",
    splits={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    meta="batches.meta",
    names="label_names",
    labels="labels",
)
HUNDRED = _Version(
    torchvision="CIFAR100",
    folder="cifar-100-python",
    splits={"train": ("train",), "test": ("test",)},
    meta="meta",
    names="fine_label_names",
    labels="fine_labels",
)
TWENTY = _Version(
    torchvision="CIFAR100",
    folder="cifar-100-python",
    splits={"train": ("train",), "test": ("test",)},
    meta="meta",
    names="coarse_label_names",
    labels="coarse_labels",
)


class Cifar10Options(SourceOptions):
    """`dataset.source: {kind: cifar10, root: DIR}`."""

    kind: Literal["cifar10"] = "cifar10"
    root: str
    download: Download = False

    def open(self) -> "Cifar":
        """Read the batches."""
        return Cifar(Path(self.root), TEN, download=self.download)


class Cifar100Options(SourceOptions):
    """`dataset.source: {kind: cifar100, root: DIR}`."""

    kind: Literal["cifar100"] = "cifar100"
    root: str
    download: Download = False

    def open(self) -> "Cifar":
        """Read the batches."""
        return Cifar(Path(self.root), HUNDRED, download=self.download)


class Cifar20Options(SourceOptions):
    """`dataset.source: {kind: cifar20, root: DIR}`: CIFAR-100 labelled by superclass."""

    kind: Literal["cifar20"] = "cifar20"
    root: str
    download: Download = False

    def open(self) -> "Cifar":
        """Read the batches."""
        return Cifar(Path(self.root), TWENTY, download=self.download)


class Cifar(Source):
    """Colour PNGs of 32 x 32; an item's name is its batch and its index in the batch."""

    classes: tuple[str, ...]

    def __init__(self, root: Path, version: _Version, *, download: bool) -> None:
        folder = unpacked(root, version.folder, [_archive(version)], download=download)
        self.classes = tuple(_entry(folder / version.meta, version.names))
        self._pixels: dict[str, Pixels] = {}
        self.splits = {
            split: [item for batch in batches for item in self._load(folder / batch, version)]
            for split, batches in version.splits.items()
        }

    def _load(self, path: Path, version: _Version) -> list[Item]:
        pixels, labels = _entry(path, "data"), _entry(path, version.labels)
        whole = isinstance(pixels, np.ndarray) and pixels.shape == (len(labels), 3 * 32 * 32)
        if not whole or not set(labels) <= set(range(len(self.classes))):
            raise DataError(
                f"{path} does not give each image one of the {len(self.classes)} classes."
            )
        self._pixels[path.name] = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        stamp = stamp_of(path)
        return [Item(f"{path.name}/{i:05d}", label, stamp) for i, label in enumerate(labels)]

    def read(self, item: Item) -> Encoded:
        """Return one image as a PNG."""
        batch, _, place = item.name.partition("/")
        return png_of(self._pixels[batch][int(place)])


def _archive(version: _Version) -> Archive:
    import torchvision

    known = getattr(torchvision.datasets, version.torchvision)
    return Archive(known.url, known.filename, known.tgz_md5)


def _entry(path: Path, key: str) -> Any:
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()[key]
    except FileNotFoundError:
        raise DataError(f"{path} is missing: unpack the archive again.") from None
    except Exception as error:  # damaged pickles raise errors of a dozen kinds
        raise DataError(f"{path} is not a batch of CIFAR ({error}): unpack it again.") from error


def _bytes_dtype(name: str, *_: object) -> "np.dtype[Any]":
    """Replace numpy.dtype: the further arguments in these old pickles are deprecated."""
    if name != "u1":
        raise pickle.UnpicklingError(f"an array of {name!r} where bytes are expected")
    return np.dtype(np.uint8)


_RECONSTRUCT: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _bytes_dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return _ALLOWED[module_name, global_name]
