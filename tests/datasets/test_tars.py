"""WebDataset tars from another tool as a source of images."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import webdataset
from broken_service import broken_service
from PIL import Image
from pydantic import ValidationError
from replicas import labels_of, opened

from pipeline.base.errors import DataError
from pipeline.datasets import webdataset as tar_source
from pipeline.datasets.webdataset import WebDatasetOptions


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
        ({"jpg": b"x", "cls": 5}, {"classes": "two.txt"}, "not one of the 2 classes"),
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


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_of_a_source_that_gets_new_tars_only_those_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [{"__key__": f"{i:04d}", "jpg": jpeg(i), "cls": i % 3} for i in range(8)]
    write_tars(tmp_path / "tars", samples[:6])
    options = WebDatasetOptions(train=f"{tmp_path}/tars/part-*.tar")
    read: list[str] = []
    whole = tar_source._samples

    def noted(tar: str) -> Any:
        read.append(tar)
        return whole(tar)

    monkeypatch.setattr(tar_source, "_samples", noted)
    first = options.open_again(tmp_path / "listings")
    assert len(read) == 3
    again = options.open_again(tmp_path / "listings")
    assert len(read) == 3
    assert again.listing_digest() == first.listing_digest()
    write_tars(tmp_path / "new", samples[6:])
    (tmp_path / "new" / "part-000.tar").rename(tmp_path / "tars" / "part-003.tar")
    grown = options.open_again(tmp_path / "listings")
    assert [Path(tar).name for tar in read[3:]] == ["part-003.tar"]
    assert labels_of(grown, "train") == [i % 3 for i in range(8)]
    for i, item in enumerate(grown.splits["train"]):
        assert grown.read(item).data == jpeg(i)
    assert options.open().listing_digest() == grown.listing_digest()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("damage", ["text", "tar", "question"])
def test_what_was_remembered_is_not_believed_when_something_differs(
    tmp_path: Path, damage: str
) -> None:
    samples = [{"__key__": f"{i:04d}", "jpg": jpeg(i), "cls": i % 3} for i in range(4)]
    url, labels = write_tars(tmp_path / "tars", samples), "cls"
    WebDatasetOptions(train=url).open_again(tmp_path / "listings")
    if damage == "text":
        for file in (tmp_path / "listings").iterdir():
            file.write_text("{")
    elif damage == "tar":
        write_tars(tmp_path / "tars", [{**sample, "cls": 2} for sample in samples])
    else:
        labels = "none"
    options = WebDatasetOptions.model_validate({"train": url, "labels": labels})
    again = options.open_again(tmp_path / "listings")
    assert again.listing_digest() == options.open().listing_digest()


def test_tars_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No tar matches"):
        opened(kind="webdataset", train=f"{tmp_path}/nothing-*.tar")
    with pytest.raises(DataError, match=r"nowhere\.tar' cannot be opened"):
        opened(kind="webdataset", train=str(tmp_path / "nowhere.tar"))
    (tmp_path / "cut.tar").write_bytes(b"PK" + bytes(700))
    with pytest.raises(DataError, match="not a whole, uncompressed tar"):
        opened(kind="webdataset", train=str(tmp_path / "cut.tar"))
    with pytest.raises(ValidationError, match="runs a command"):
        opened(kind="webdataset", train="pipe:touch made")


def test_labels_that_are_identifiers_are_as_many_classes_as_occur(tmp_path: Path) -> None:
    samples = [{"__key__": str(i), "jpg": jpeg(i), "cls": n} for i, n in enumerate((1000003, 7, 7))]
    source = opened(kind="webdataset", train=write_tars(tmp_path / "tars", samples))
    assert source.classes == ("7", "1000003")
    assert labels_of(source, "train") == [1, 0, 0]


def test_a_negative_number_is_no_class(tmp_path: Path) -> None:
    url = write_tars(tmp_path / "tars", [{"__key__": "a", "jpg": jpeg(0), "json": {"label": -2}}])
    with pytest.raises(DataError, match="-2 is not the number of a class"):
        opened(kind="webdataset", train=url, labels="json")


def test_keys_that_are_not_utf8_are_written_out(tmp_path: Path) -> None:
    path = tmp_path / "part.tar"
    with tarfile.open(path, "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo("café.jpg")
        member.size = len(jpeg(0))
        tar.addfile(member, io.BytesIO(jpeg(0)))
    source = opened(kind="webdataset", train=str(path), labels="none")
    (item,) = source.splits["train"]
    assert item.name == f"{path}/caf\\xe9"
    assert source.read(item).data == jpeg(0)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("code", [500, 403, 404])
@pytest.mark.parametrize("name", ["part.tar", "part-*.tar"])
def test_a_service_that_fails_is_one_sentence(code: int, name: str) -> None:
    pytest.importorskip("aiohttp")
    with (
        broken_service(code) as url,
        pytest.raises(DataError, match=r"cannot be (opened|read|listed) \(|No tar matches"),
    ):
        opened(kind="webdataset", train=f"{url}/{name}", labels="none")
