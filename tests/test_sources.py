"""Every source on a small replica in the format in which people have it."""

import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
import webdataset
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from scipy.io import savemat
from torchvision.datasets import CIFAR10, STL10

from pipeline.datasets.base import Item, MultiLabel, Source
from pipeline.datasets.table import AnySource
from pipeline.errors import DataError

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


# --- CIFAR


PythonPickler: Any = pickle._Pickler


class PythonTwoPickler(PythonPickler):  # type: ignore[misc]
    """Writes what Python 2 wrote: byte strings as strings, and numpy's modules of that time."""

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


def test_cifar10_batches_in_official_order(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    source = opened(kind="cifar10", root=str(tmp_path))
    assert source.classes is not None
    assert tuple(source.classes)[:3] == ("airplane", "automobile", "bird")
    assert labels_of(source, "train") == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert labels_of(source, "test") == [5, 4]
    items = [*source.splits["train"], *source.splits["test"]]
    assert items[3].name == "data_batch_2/00001"
    assert len({item.name for item in items}) == 12
    for item, pixels in zip(items, CIFAR_PIXELS, strict=True):
        assert np.array_equal(pixels_of(source, item), pixels)


@pytest.mark.parametrize(("kind", "classes", "top"), [("cifar100", 100, 99), ("cifar20", 20, 19)])
def test_cifar100_by_class_and_by_superclass(
    tmp_path: Path, kind: str, classes: int, top: int
) -> None:
    write_cifar100(tmp_path)
    source = opened(kind=kind, root=str(tmp_path))
    assert source.classes is not None
    assert len(source.classes) == classes
    assert labels_of(source, "train") == [top - i for i in range(8)]
    assert labels_of(source, "test") == [top - i for i in range(8, 12)]
    assert np.array_equal(pixels_of(source, source.splits["test"][0]), CIFAR_PIXELS[8])


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_batch_cannot_run_code(tmp_path: Path) -> None:
    batch = write_cifar10(tmp_path) / "data_batch_3"
    batch.write_bytes(pickle.dumps({"data": Evil(tmp_path / "ran"), "labels": []}))
    with pytest.raises(DataError, match=r"data_batch_3 is not a batch of CIFAR \(it asks for"):
        opened(kind="cifar10", root=str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["cut", "missing", "labels", "text"])
def test_damaged_batches_are_named(tmp_path: Path, damage: str) -> None:
    batch = write_cifar10(tmp_path) / "test_batch"
    if damage == "cut":
        batch.write_bytes(batch.read_bytes()[:500])
    elif damage == "missing":
        batch.unlink()
    elif damage == "labels":
        batch.write_bytes(python_two_pickle({b"labels": [1, 10], b"data": rows(0, 2)}))
    else:
        batch.write_bytes(b"<html>")
    with pytest.raises(DataError, match="test_batch"):
        opened(kind="cifar10", root=str(tmp_path))


# --- archives


def pack(archive: Path, folder: Path, *, within: Path, mode: str = "w:gz") -> None:
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, arcname=folder.relative_to(within).as_posix())


def test_an_archive_is_unpacked_once(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path / "elsewhere")
    root = tmp_path / "raw"
    root.mkdir()
    pack(root / "cifar-10-python.tar.gz", folder, within=tmp_path / "elsewhere")
    first = opened(kind="cifar10", root=str(root))
    (root / "cifar-10-python.tar.gz").unlink()
    second = opened(kind="cifar10", root=str(root))
    assert labels_of(first, "train") == labels_of(second, "train")
    assert sorted(path.name for path in root.iterdir()) == ["cifar-10-batches-py"]


def test_nothing_leaves_the_folder_that_an_archive_is_unpacked_to(tmp_path: Path) -> None:
    root = tmp_path / "raw" / "deep"
    root.mkdir(parents=True)
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as tar:
        for name in (
            "cifar-10-batches-py/../../out",
            "cifar-10-batches-py/a/../../../out",
            f"{tmp_path}/out",
            "cifar-10-batches-py/.hidden",
            "cifar-10-batches-py/plain",
        ):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("cifar-10-batches-py/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"batches\.meta is missing"):
        opened(kind="cifar10", root=str(root))
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert {path for path in found if "tar.gz" not in path} == {
        "raw",
        "raw/deep",
        "raw/deep/cifar-10-batches-py",
        "raw/deep/cifar-10-batches-py/plain",
    }


def test_a_cut_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path / "elsewhere")
    archive = tmp_path / "cifar-10-python.tar.gz"
    pack(archive, folder, within=tmp_path / "elsewhere")
    archive.write_bytes(archive.read_bytes()[:4000])
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz cannot be read"):
        opened(kind="cifar10", root=str(tmp_path))
    assert not (tmp_path / "cifar-10-batches-py").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cifar-10-python.tar.gz", "elsewhere"]


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python.tar.gz"),
        ("cifar20", "cifar-100-python.tar.gz"),
        ("stl10", "stl10_binary.tar.gz"),
        ("voc07", "VOCtrainval_06-Nov-2007.tar"),
    ],
)
def test_the_message_says_what_to_fetch_and_where_it_goes(
    tmp_path: Path, kind: str, file: str
) -> None:
    with pytest.raises(DataError) as caught:
        opened(kind=kind, root=str(tmp_path / "raw"))
    for part in (file, "from http", "MD5", str(tmp_path / "raw"), "download to true"):
        assert part in str(caught.value)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve `tmp_path` and yield its URL."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_a_download_is_checked_and_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    folder = write_cifar10(tmp_path / "elsewhere")
    published = tmp_path / "published.tar.gz"
    pack(published, folder, within=tmp_path / "elsewhere")
    monkeypatch.setattr(CIFAR10, "url", f"{server}/published.tar.gz")
    root = tmp_path / "raw"
    with pytest.raises(DataError, match=r"cannot be fetched \(File not found or corrupted"):
        opened(kind="cifar10", root=str(root), download=True)
    md5 = hashlib.md5(published.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5)
    source = opened(kind="cifar10", root=str(root), download=True)
    assert len(source.splits["train"]) == 10


def test_without_a_network_the_message_says_what_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(STL10, "url", (tmp_path / "nowhere.tar.gz").as_uri())
    with pytest.raises(DataError, match=r"where there is a network, and put it into .*raw"):
        opened(kind="stl10", root=str(tmp_path / "raw"), download=True)


# --- STL-10

STL_PIXELS = np.random.default_rng(1).integers(0, 256, (9, 96, 96, 3), dtype=np.uint8)


def write_stl10(root: Path) -> Path:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    (folder / "class_names.txt").write_text("\n".join(names) + "\n")
    for part, first, last in (("train", 0, 4), ("test", 4, 6), ("unlabeled", 6, 9)):
        # The published files run through each plane column by column.
        STL_PIXELS[first:last].transpose(0, 3, 2, 1).tofile(folder / f"{part}_X.bin")
    np.array([1, 10, 2, 2], dtype=np.uint8).tofile(folder / "train_y.bin")
    np.array([3, 4], dtype=np.uint8).tofile(folder / "test_y.bin")
    return folder


@pytest.mark.parametrize(
    ("train", "labels", "images"),
    [
        ("train", [0, 9, 1, 1], range(4)),
        ("unlabeled", [None] * 3, range(6, 9)),
        ("train+unlabeled", [0, 9, 1, 1, None, None, None], [*range(4), *range(6, 9)]),
    ],
)
def test_stl10_with_and_without_the_unlabelled(
    tmp_path: Path, train: str, labels: list[Any], images: Sequence[int]
) -> None:
    write_stl10(tmp_path)
    source = opened(kind="stl10", root=str(tmp_path), train=train)
    assert source.classes is not None
    assert source.classes[9] == "truck"
    assert labels_of(source, "train") == labels
    assert labels_of(source, "test") == [2, 3]
    for item, number in zip(source.splits["train"], images, strict=True):
        assert np.array_equal(pixels_of(source, item), STL_PIXELS[number])
    assert np.array_equal(pixels_of(source, source.splits["test"][1]), STL_PIXELS[5])


@pytest.mark.parametrize("damage", ["train_X.bin", "train_y.bin", "label", "class_names.txt"])
def test_damaged_stl10_is_named(tmp_path: Path, damage: str) -> None:
    folder = write_stl10(tmp_path)
    if damage == "label":
        damage = "train_y.bin"
        np.array([1, 11, 2, 2], dtype=np.uint8).tofile(folder / damage)
    elif damage == "class_names.txt":
        (folder / damage).unlink()
    else:
        (folder / damage).write_bytes((folder / damage).read_bytes()[:-1])
    with pytest.raises(DataError, match=damage):
        opened(kind="stl10", root=str(tmp_path))


# --- ImageNet and Tiny ImageNet

SYNSETS = ("n01440764", "n01443537", "n02085620")
VALIDATION = ("n02085620", "n01440764", "n01443537", "n01440764")


def write_imagenet_train(root: Path) -> None:
    for i, name in enumerate(SYNSETS):
        for j in range(2):
            picture(root / "train" / name / f"{name}_{j}.JPEG", 10 * i + j)


def write_flat_validation(root: Path) -> list[str]:
    names = [f"ILSVRC2012_val_{i:08d}" for i in range(1, 1 + len(VALIDATION))]
    for i, name in enumerate(names):
        picture(root / "val" / f"{name}.JPEG", 100 + i)
    return names


def write_devkit(root: Path) -> None:
    """Write the kit's two files; its numbers are not in the order of the class folders."""
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = [(1, SYNSETS[2], "Chihuahua", 0), (2, SYNSETS[0], "tench", 0)]
    synsets += [(3, SYNSETS[1], "goldfish", 0), (1001, "n00001740", "entity", 3)]
    savemat(data / "meta.mat", {"synsets": np.array(synsets, dtype=kinds)[:, None]})
    numbers = {SYNSETS[2]: 1, SYNSETS[0]: 2, SYNSETS[1]: 3}
    lines = "".join(f"{numbers[name]}\n" for name in VALIDATION)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)


def write_kaggle_labels(root: Path, names: list[str]) -> None:
    lines = [f"{n},{label} 1 2 3 4 \n" for n, label in zip(names, VALIDATION, strict=True)]
    # Not in the order of the names, as published.
    content = "ImageId,PredictionString\n" + "".join(reversed(lines))
    (root / "LOC_val_solution.csv").write_text(content)


@pytest.mark.parametrize("layout", ["folders", "devkit", "kaggle"])
def test_imagenet_by_folders_kit_or_table(tmp_path: Path, layout: str) -> None:
    write_imagenet_train(tmp_path)
    if layout == "folders":
        for i, name in enumerate(VALIDATION):
            picture(tmp_path / "val" / name / f"{i}.JPEG", i)
    else:
        names = write_flat_validation(tmp_path)
        if layout == "devkit":
            write_devkit(tmp_path)
        else:
            write_kaggle_labels(tmp_path, names)
    source = opened(kind="imagenet", root=str(tmp_path))
    assert source.classes == SYNSETS
    assert labels_of(source, "train") == [0, 0, 1, 1, 2, 2]
    expected = [0, 0, 1, 2] if layout == "folders" else [2, 0, 1, 0]
    assert labels_of(source, "test") == expected
    item = source.splits["test"][0]
    assert source.read(item).data == (tmp_path / item.name).read_bytes()
    assert source.read(item).extension == "jpg"


@pytest.mark.parametrize("layout", ["folders", "kaggle"])
def test_a_subset_of_classes_by_a_list(tmp_path: Path, layout: str) -> None:
    write_imagenet_train(tmp_path)
    if layout == "folders":
        for i, name in enumerate(VALIDATION):
            picture(tmp_path / "val" / name / f"{i}.JPEG", i)
    else:
        write_kaggle_labels(tmp_path, write_flat_validation(tmp_path))
    listing = tmp_path / "two.txt"
    listing.write_text(
        f"# two of them\n{SYNSETS[2]} Chihuahua\n\n{SYNSETS[0]} tench, Tinca tinca\n"
    )
    source = opened(kind="imagenet", root=str(tmp_path), classes=str(listing))
    assert source.classes == (SYNSETS[0], SYNSETS[2])
    assert labels_of(source, "train") == [0, 0, 1, 1]
    assert sorted(labels_of(source, "test")) == [0, 0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("n99999999\n", "no class folder .*n99999999"),
        ("", "is empty"),
        (f"{SYNSETS[0]}\n{SYNSETS[0]} again\n", "twice"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_list_of_classes(tmp_path: Path, content: str | None, message: str) -> None:
    write_imagenet_train(tmp_path)
    if content is not None:
        (tmp_path / "list.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        opened(
            kind="image_folder", root=str(tmp_path / "train"), classes=str(tmp_path / "list.txt")
        )


def test_a_flat_validation_folder_needs_labels(tmp_path: Path) -> None:
    write_imagenet_train(tmp_path)
    with pytest.raises(DataError, match="asks for an agreement"):
        opened(kind="imagenet", root=str(tmp_path))
    write_flat_validation(tmp_path)
    with pytest.raises(
        DataError, match=r"ILSVRC2012_devkit_t12/ or Kaggle's LOC_val_solution\.csv"
    ):
        opened(kind="imagenet", root=str(tmp_path))
    write_devkit(tmp_path)
    (tmp_path / "val" / "ILSVRC2012_val_00000003.JPEG").unlink()
    with pytest.raises(DataError, match=r"00000003\.JPEG is missing"):
        opened(kind="imagenet", root=str(tmp_path))


def test_tiny_imagenet(tmp_path: Path) -> None:
    for i, name in enumerate(("n02124075", "n01443537")):
        for j in range(3):
            picture(tmp_path / "train" / name / "images" / f"{name}_{j}.JPEG", 10 * i + j, (64, 64))
        (tmp_path / "train" / name / f"{name}_boxes.txt").write_text(
            f"{name}_0.JPEG\t0\t10\t63\t58\n"
        )
        picture(tmp_path / "test" / "images" / f"test_{i}.JPEG", i)
    (tmp_path / "wnids.txt").write_text("n02124075\nn01443537\n")
    (tmp_path / "words.txt").write_text("n01443537\tgoldfish\n")
    labels = ("n01443537", "n02124075", "n02124075")
    for i in range(3):
        picture(tmp_path / "val" / "images" / f"val_{i}.JPEG", 50 + i)
    lines = [f"val_{i}.JPEG\t{name}\t0\t32\t44\t62\n" for i, name in enumerate(labels)]
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    source = opened(kind="tiny_imagenet", root=str(tmp_path))
    assert source.classes == ("n01443537", "n02124075")
    assert labels_of(source, "train") == [0, 0, 0, 1, 1, 1]
    assert labels_of(source, "test") == [0, 1, 1]
    assert set(source.splits) == {"train", "test"}


# --- VOC 2007


def write_voc07(root: Path) -> Path:
    folder = root / "VOCdevkit" / "VOC2007"
    objects: Mapping[str, Sequence[tuple[str, int]]] = {
        "000005": (("chair", 0), ("chair", 1), ("person", 1)),
        "000007": (("car", 0),),
        "000012": (("dog", 1),),
        "000001": (("dog", 0), ("person", 0)),
    }
    for name, found in objects.items():
        picture(folder / "JPEGImages" / f"{name}.jpg", int(name))
        nodes = "".join(
            f"<object><name>{label}</name><pose>Left</pose><truncated>1</truncated>"
            f"<difficult>{difficult}</difficult><bndbox><xmin>48</xmin></bndbox>"
            "<part><name>head</name></part></object>\n"
            for label, difficult in found
        )
        path = folder / "Annotations" / f"{name}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f"<annotation>\n<folder>VOC2007</folder><filename>{name}.jpg</filename>\n"
            f"<size><width>9</width></size>\n{nodes}</annotation>\n"
        )
    sets = folder / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / "trainval.txt").write_text("000005\n000007\n000012\n")
    (sets / "test.txt").write_text("000001\n")
    (sets / "train.txt").write_text("000005\n")
    return folder


def test_voc07_tells_difficult_from_absent(tmp_path: Path) -> None:
    folder = write_voc07(tmp_path)
    source = opened(kind="voc07", root=str(tmp_path))
    assert source.classes is not None
    assert len(source.classes) == 20
    place = {name: i for i, name in enumerate(source.classes)}
    assert labels_of(source, "train") == [
        MultiLabel((place["chair"],), ignored=(place["person"],)),
        MultiLabel((place["car"],)),
        MultiLabel((), ignored=(place["dog"],)),
    ]
    assert labels_of(source, "test") == [MultiLabel((place["dog"], place["person"]))]
    item = source.splits["test"][0]
    assert source.read(item).data == (folder / "JPEGImages" / "000001.jpg").read_bytes()


def test_voc07_from_both_archives(tmp_path: Path) -> None:
    folder = write_voc07(tmp_path / "elsewhere")
    for archive, lists in (
        ("VOCtrainval_06-Nov-2007.tar", ["trainval"]),
        ("VOCtest_06-Nov-2007.tar", ["test"]),
    ):
        with tarfile.open(tmp_path / archive, "w") as tar:
            for image_set in lists:
                path = folder / "ImageSets" / "Main" / f"{image_set}.txt"
                names = path.read_text().split()
                files = [path, *(folder / "JPEGImages" / f"{name}.jpg" for name in names)]
                files += [folder / "Annotations" / f"{name}.xml" for name in names]
                for file in files:
                    tar.add(file, arcname=file.relative_to(tmp_path / "elsewhere").as_posix())
    source = opened(kind="voc07", root=str(tmp_path))
    assert [len(source.splits[split]) for split in ("train", "test")] == [3, 1]


@pytest.mark.parametrize("damage", ["xml", "class", "image", "bomb"])
def test_damaged_voc07_is_named(tmp_path: Path, damage: str) -> None:
    folder = write_voc07(tmp_path)
    annotation = folder / "Annotations" / "000007.xml"
    if damage == "xml":
        annotation.write_text(annotation.read_text()[:60])
    elif damage == "class":
        annotation.write_text(annotation.read_text().replace("car", "cart"))
    elif damage == "bomb":
        entities = '<!ENTITY e0 "boom">' + "".join(
            f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12)
        )
        annotation.write_text(
            f"<!DOCTYPE a [{entities}]><annotation><object><name>&e11;</name></object></annotation>"
        )
    else:
        (folder / "JPEGImages" / "000007.jpg").unlink()
    with pytest.raises(DataError, match="000007"):
        opened(kind="voc07", root=str(tmp_path))


# --- WebDataset


def write_tars(root: Path, samples: Sequence[Mapping[str, Any]], per_tar: int = 2) -> str:
    """Write tars with the library that defines the format; return their URL."""
    root.mkdir(exist_ok=True)
    for number in range(0, len(samples), per_tar):
        with webdataset.TarWriter(str(root / f"part-{number // per_tar:03d}.tar")) as sink:
            for sample in samples[number : number + per_tar]:
                sink.write(dict(sample))
    return f"{root}/part-{{000..{(len(samples) - 1) // per_tar:03d}}}.tar"


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="jpeg")
    return buffer.getvalue()


LABELLED: dict[str, tuple[str, list[Any], list[str]]] = {
    "cls": ("cls", [2, 0, 1, 0, 2], ["0", "1", "2"]),
    "txt": ("txt", ["wolf", "ant", "bee", "ant", "wolf"], ["ant", "bee", "wolf"]),
    "json": ("json", [{"label": name, "w": 8} for name in "caabc"], ["a", "b", "c"]),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the library leaves files open
@pytest.mark.parametrize("member", LABELLED)
@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_tars_of_another_tool(tmp_path: Path, member: str, scheme: str) -> None:
    kind, labels, classes = LABELLED[member]
    samples = [
        {"__key__": f"dir/{i:04d}", "jpg": jpeg(i), member: label, "extra.txt": "x"}
        for i, label in enumerate(labels)
    ]
    url = scheme + write_tars(tmp_path / "tars", samples)
    if scheme == "memory://":
        fsspec.filesystem("memory").put(
            str(tmp_path / "tars"), str(tmp_path / "tars"), recursive=True
        )
    source = opened(kind="webdataset", train=url, labels=kind)
    assert source.classes is not None
    assert list(source.classes) == classes
    written = [label["label"] if member == "json" else str(label) for label in labels]
    assert labels_of(source, "train") == [classes.index(label) for label in written]
    for i, item in enumerate(source.splits["train"]):
        assert source.read(item).data == jpeg(i)
        assert source.read(item).extension == "jpg"
    assert source.splits["train"][4].name.endswith("part-002.tar/dir/0004")


def test_tars_in_splits_without_labels_and_with_class_names(tmp_path: Path) -> None:
    plain = [{"__key__": str(i), "webp": b"x", "__url__": "y"} for i in range(3)]
    url = write_tars(tmp_path / "plain", plain)
    source = opened(kind="webdataset", train=url, test=url, labels="none")
    assert source.classes is None
    assert labels_of(source, "test") == [None] * 3
    named = [{"__key__": str(i), "png": b"x", "cls": i} for i in (1, 0)]
    (tmp_path / "names.txt").write_text("first\nsecond class\nthird\n")
    source = opened(
        kind="webdataset",
        train=write_tars(tmp_path / "named", named),
        classes=str(tmp_path / "names.txt"),
    )
    assert source.classes == ("first", "second class", "third")
    assert labels_of(source, "train") == [1, 0]


@pytest.mark.parametrize(
    ("sample", "options", "message"),
    [
        ({"cls": 1}, {}, "has no image"),
        ({"jpg": b"x", "json": {"other": 1}}, {"labels": "json"}, "holds no label"),
        ({"jpg": b"x", "json": {"label": [1]}}, {"labels": "json"}, "number or name"),
        ({"jpg": b"x", "cls": 5}, {"classes": "two.txt"}, "none of the 2 classes"),
        ({"jpg": b"x", "txt": "wolv"}, {"labels": "txt", "classes": "two.txt"}, "mean 'wolf'"),
    ],
)
def test_tars_that_cannot_be_meant(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sample: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.txt").write_text("ant\nwolf\n")
    url = write_tars(tmp_path / "tars", [{"__key__": "a", **sample}])
    with pytest.raises(DataError, match=message):
        opened(kind="webdataset", train=url, **options)


def test_tars_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.tar' cannot be opened"):
        opened(kind="webdataset", train=str(tmp_path / "nowhere.tar"))
    (tmp_path / "cut.tar").write_bytes(b"PK" + bytes(700))
    with pytest.raises(DataError, match="not a whole, uncompressed tar"):
        opened(kind="webdataset", train=str(tmp_path / "cut.tar"))
    with pytest.raises(ValidationError, match="runs a command"):
        opened(kind="webdataset", train="pipe:touch made")


# --- folders


def test_names_of_any_kind_in_nested_and_linked_folders(tmp_path: Path) -> None:
    picture(tmp_path / "outside" / "Straße 1.PNG", 0)
    picture(tmp_path / "images" / "猫" / "a b" / "Ünï côdé.JPEG", 1)
    picture(tmp_path / "images" / "猫" / "x.JpG", 2)
    (tmp_path / "images" / "two words").symlink_to(tmp_path / "outside")
    (tmp_path / "images" / "猫" / "linked.png").symlink_to(tmp_path / "outside" / "Straße 1.PNG")
    (tmp_path / "images" / "猫" / "notes.txt").write_text("not an image")
    (tmp_path / "images" / ".cache").mkdir()
    source = opened(kind="image_folder", root=str(tmp_path / "images"))
    assert source.classes == ("two words", "猫")
    assert [item.name for item in source.splits["train"]] == [
        "two words/Straße 1.PNG",
        "猫/a b/Ünï côdé.JPEG",
        "猫/linked.png",
        "猫/x.JpG",
    ]
    assert [source.read(item).extension for item in source.splits["train"]] == [
        "png",
        "jpg",
        "png",
        "jpg",
    ]


def test_split_folders_without_classes_and_chosen_classes(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "flat" / "train" / f"{i}.png", i)
        picture(tmp_path / "flat" / "test" / f"{i}.png", i)
        picture(tmp_path / "classes" / f"c{i}" / "x.png", i)
    flat = opened(kind="image_folder", root=str(tmp_path / "flat"))
    assert flat.classes is None
    assert labels_of(flat, "test") == [None] * 3
    (tmp_path / "list.txt").write_text("c2\nc0\n")
    chosen = {"root": str(tmp_path / "classes"), "classes": str(tmp_path / "list.txt")}
    assert opened(kind="image_folder", **chosen).classes == ("c0", "c2")
    unlabelled = opened(kind="image_folder", labels="none", **chosen)
    assert [item.name for item in unlabelled.splits["train"]] == ["c0/x.png", "c2/x.png"]
    assert labels_of(unlabelled, "train") == [None] * 2


def test_how_files_got_there_is_not_what_they_are(tmp_path: Path) -> None:
    dumps = [
        OPTIONS.validate_python({"kind": kind, "root": "x", "download": download}).model_dump()
        for kind in ("cifar10", "cifar100", "cifar20", "stl10", "voc07")
        for download in (False, True)
    ]
    assert dumps[::2] == dumps[1::2]


def test_a_listing_tells_replaced_content_and_changed_labels(tmp_path: Path) -> None:
    folder = write_stl10(tmp_path)
    before = opened(kind="stl10", root=str(tmp_path)).listing_digest()
    assert opened(kind="stl10", root=str(tmp_path)).listing_digest() == before
    np.array([1, 10, 2, 3], dtype=np.uint8).tofile(folder / "train_y.bin")
    assert opened(kind="stl10", root=str(tmp_path)).listing_digest() != before
