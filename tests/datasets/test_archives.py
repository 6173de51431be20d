"""Published archives: unpacked once and safely, checked, and asked for if they are missing."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from replicas import labels_of, opened, write_cifar10
from torchvision.datasets import CIFAR10, STL10

from pipeline.base.errors import DataError


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
