"""Remote shards and stores have the same content, and no half-written feature counts."""

import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from broken_service import broken_service
from ruamel.yaml import YAML
from upath import UPath

from pipeline.base import locks
from pipeline.base.atomic import atomic_path
from pipeline.base.digests import sha256_of
from pipeline.base.errors import StoreError
from pipeline.base.locations import Location, location, remove_tree
from pipeline.base.locks import Lease, exclusive
from pipeline.base.progress import Silent
from pipeline.datasets.digits import DigitsOptions
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract, unfinished
from pipeline.features.extraction.recompute import repair
from pipeline.features.store import FeatureStore, StoredFeature, feature_damage
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import SplitData
from pipeline.loading.resident import load_decoded
from pipeline.representations.hog import HogOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.representations.scattering import ScatteringOptions
from pipeline.shards.manifest import read_manifests
from pipeline.shards.repair import split_damage
from pipeline.shards.writing import ShardOptions, write_split
from stages.terminal import cli

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
IMAGE = ImageOptions(size=8, channels=1, mean=(0.3,), std=(0.4,))
HOG = HogOptions(cell=4)
FEATURES: dict[str, RepresentationOptions] = {
    "hog": HOG,
    "scattering": ScatteringOptions.model_validate({"J": 1, "L": 4, "reduce": {"pca": 20}}),
}
numbers = itertools.count()


@pytest.fixture
def remote() -> Iterator[Location]:
    place = location(f"memory://bucket{next(numbers)}/digits")
    yield place
    remove_tree(place)


def pack(root: Location, count: int = 200) -> None:
    source = DigitsOptions().open()
    write_split(
        source,
        source.splits["train"][:count],
        root / "shards" / "train",
        dataset="digits",
        split="train",
        options=ShardOptions(samples=70),
        provenance={},
        progress=Silent(),
    )


def run(
    root: Location,
    *,
    force: bool = False,
    features: dict[str, RepresentationOptions] | None = None,
) -> dict[str, StoredFeature]:
    return extract(
        features or FEATURES,
        image=IMAGE,
        shards=root / "shards",
        store=FeatureStore(root / "features.zarr"),
        work=root / "work",
        options=ClusterOptions(workers=1),
        progress=Silent(),
        force=force,
    )


def contents(root: Location) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    base = len(root.as_posix().rstrip("/")) + 1
    return {path.as_posix()[base:]: bytes(path.read_bytes()) for path in files}


def test_a_path_or_a_file_url_is_local(tmp_path: Path) -> None:
    assert location("data") == Path("data")
    assert location(f"file://{tmp_path}") == tmp_path


@pytest.mark.parametrize("url", ["nosuch://place", "s3://no-such-bucket-here/x"])
def test_a_place_out_of_reach_is_one_sentence(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match="cannot be reached"):
        location(url)


def test_a_remote_store_holds_what_a_local_one_does(remote: Location, tmp_path: Path) -> None:
    for root in (remote, tmp_path):
        pack(root)
        run(root)
    assert contents(remote) == {
        name: data for name, data in contents(tmp_path).items() if name != "work/lock"
    }
    manifest = read_manifests(remote / "shards")["train"]
    assert split_damage(remote / "shards" / "train", manifest) == []
    feature = FeatureStore(remote / "features.zarr")["hog"]
    data = SplitData(remote / "shards" / "train", manifest, {"hog": feature}, IMAGE)
    split = load_decoded(data)
    images = HOG.build(IMAGE)(split.images.float())
    assert images.shape == split.targets["hog"].shape
    assert len(split) == 200


def test_a_feature_counts_when_its_record_is_written_last(
    remote: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.features.store import FeatureWriter

    pack(remote)
    store = FeatureStore(remote / "features.zarr")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(remote)
    assert (store.path / "hog" / "train" / "c" / "2" / "0").exists()
    assert store.names() == []
    assert "hog" not in store
    assert [(name, done) for name, _, done in unfinished(remote / "work")] == [
        ("hog", 3),
        ("scattering", 3),
    ]
    run(remote)
    assert store.names() == ["hog", "scattering"]
    assert unfinished(remote / "work") == []


def test_force_replaces_a_remote_feature(remote: Location) -> None:
    pack(remote)
    run(remote, features={"hog": HogOptions(cell=2)})
    found = run(remote, features={"hog": HOG}, force=True)["hog"]
    assert found.fingerprint["representation"]["cell"] == 4
    assert feature_damage(found.path) == []


def test_damage_of_a_remote_store_is_found_and_mended(remote: Location) -> None:
    pack(remote)
    run(remote)
    store = FeatureStore(remote / "features.zarr")
    whole = contents(store.path)
    chunk = store.path / "hog" / "train" / "c" / "1" / "0"
    content = bytearray(chunk.read_bytes())
    content[7] ^= 1
    chunk.write_bytes(bytes(content))
    (store.path / "scattering" / "reduction" / "zarr.json").unlink()
    damages = {name: found for name, found in store.verify().items() if found}
    assert sorted(damages) == ["hog", "scattering"]
    repair(
        damages,
        features={},
        image=IMAGE,
        shards=remote / "shards",
        store=store,
        work=remote / "work",
        options=ClusterOptions(workers=1),
        progress=Silent(),
    )
    assert contents(store.path) == whole


def test_a_failed_upload_leaves_nothing(remote: Location) -> None:
    target = remote / "x.tar"

    def fail() -> None:
        with atomic_path(target) as path:
            path.write_bytes(b"half")
            raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        fail()
    assert not target.exists()
    with atomic_path(target) as path:
        path.write_bytes(b"whole")
    assert sha256_of(target) == sha256_of(path_with(b"whole"))


def path_with(content: bytes) -> Location:
    place = location(f"memory://bucket{next(numbers)}/file")
    place.write_bytes(content)
    return place


def test_a_lease_is_refused_while_its_holder_lives(
    remote: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE_RENEWAL_SECONDS", 0.05)
    monkeypatch.setattr(locks, "LEASE_ABANDONED_SECONDS", 1.0)
    busy = StoreError("busy")
    with exclusive(remote / "lock", busy):
        time.sleep(0.3)
        with pytest.raises(StoreError, match="busy"), exclusive(remote / "lock", busy):
            pass
    with exclusive(remote / "lock", busy):
        assert (remote / "lock").exists()
    assert not (remote / "lock").exists()


def test_an_abandoned_lease_is_taken_over(
    remote: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE_RENEWAL_SECONDS", 0.05)
    monkeypatch.setattr(locks, "LEASE_ABANDONED_SECONDS", 0.4)
    assert isinstance(remote, UPath)
    dead = Lease(remote / "lock")
    assert dead._create()
    began = time.monotonic()
    with exclusive(remote / "lock", StoreError("busy")):
        assert time.monotonic() - began >= 0.4


def test_one_of_several_that_wait_takes_an_abandoned_lease_over(
    remote: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_one_successor(remote, monkeypatch)


def require_one_successor(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let three processes see at once that a lease is abandoned, and act one after the other."""
    monkeypatch.setattr(locks, "LEASE_RENEWAL_SECONDS", 1.0)
    monkeypatch.setattr(locks, "LEASE_ABANDONED_SECONDS", 0.4)
    assert isinstance(place, UPath)
    waiting, turns = Lease._await_abandonment, threading.Barrier(3)

    def all_wait(self: Lease, busy: StoreError) -> bytes | None:
        seen = waiting(self, busy)
        time.sleep(0.05 * turns.wait())
        return seen

    monkeypatch.setattr(Lease, "_await_abandonment", all_wait)
    assert Lease(place / "lock")._create()
    held: list[Lease] = []

    def acquire() -> None:
        lease = Lease(place / "lock")
        with suppress(StoreError):
            lease.acquire(StoreError("busy"))
            held.append(lease)

    threads = [threading.Thread(target=acquire) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
    held[0].release()
    assert not (place / "lock").exists()


def test_a_holder_leaves_the_lease_of_its_successor_alone(
    remote: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE_RENEWAL_SECONDS", 0.05)
    assert isinstance(remote, UPath)
    paused, successor = Lease(remote / "lock"), Lease(remote / "lock")
    paused.acquire(StoreError("busy"))
    content = successor._content()
    (remote / "lock").write_bytes(content)
    time.sleep(0.2)  # in which it would be renewed
    paused.release()
    assert (remote / "lock").read_bytes() == content


# An S3 server on loopback, and a connection to it that breaks


class Line:
    """A TCP relay that cuts the next `breaks` connections after some bytes."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.breaks, self.cut = 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        # A killed process resets its connection.
        with (
            suppress(ConnectionError),
            client,
            socket.create_connection(("127.0.0.1", self._target)) as server,
        ):
            other = {client: server, server: client}
            passed = 0
            while True:
                for ready in select.select(list(other), [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    passed += len(data)
                    if passed > 3000 and self.breaks > 0:
                        self.breaks -= 1
                        self.cut += 1
                        return
                    other[ready].sendall(data)

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    yield int(moto.get_host_and_port()[1])
    moto.stop()


@pytest.fixture
def line(server: int) -> Iterator[Line]:
    """Yield a relay to the server through which `s3://bucket` is reached."""
    import s3fs

    relay = Line(server)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(relay.port).items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        place = location("s3://bucket")
        assert isinstance(place, UPath)
        place.fs.mkdirs("bucket", exist_ok=True)
        yield relay
        s3fs.S3FileSystem.clear_instance_cache()
    relay.close()


def environment(port: int) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }


def test_on_s3_one_of_several_takes_an_abandoned_lease_over(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = location(f"s3://bucket/{next(numbers)}")
    require_one_successor(place, monkeypatch)
    # A write depends on the version that was read, so nobody needs to look twice.
    assert isinstance(place, UPath)
    first, second = Lease(place / "lock"), Lease(place / "lock")
    assert first._create()
    version = second._version()
    first._renewals += 1
    first._write(version)
    with pytest.raises(FileExistsError):
        second._write(version)


def test_a_broken_line_is_tried_again(line: Line, tmp_path: Path) -> None:
    place = location(f"s3://bucket/{next(numbers)}")
    line.breaks, line.cut = 6, 0
    pack(place)
    run(place)
    line.breaks = 0
    assert line.cut >= 3
    pack(tmp_path)
    run(tmp_path)
    found, expected = contents(place), contents(tmp_path)
    assert {n: d for n, d in expected.items() if n != "work/lock"} == found


@pytest.mark.slow  # takes half a minute until the lease of a killed process expires
def test_the_commands_work_on_s3_and_go_on_after_a_kill(line: Line, tmp_path: Path) -> None:
    configure(tmp_path)
    url = f"s3://bucket/{next(numbers)}"

    def start(*command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [str(BIN / "mvmr"), *command, "--data", url],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment(line.port)},
        )

    def call(*command: str) -> str:
        process = start(*command)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
        return output

    call("shard")
    process = start("extract-features", "--workers", "1")
    work = location(url) / "digits" / "work"
    deadline = time.monotonic() + 100
    while not list(work.glob("hog-*/done/*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    call("extract-features", "--workers", "1")
    assert "hog" in call("store", "info")
    assert "damaged" not in call("store", "verify")
    call("train")
    call("evaluate")
    assert (tmp_path / "runs" / "digits" / "metrics" / "knn.json").exists()
    assert not (tmp_path / "data").exists()


def configure(root: Path) -> None:
    data = YAML(typ="safe", pure=True).load(ROOT / "configs" / "digits.yaml")
    data["dataset"]["shards"]["samples"] = 300
    data["features"] = {"hog": {"cell": 4}}
    data["objective"] = {"invariance": {}, "variance": {}, "hog": {"kind": "dependence"}}
    data["student"] = {"architecture": "resnet8", "projector": [16]}
    data["train"] |= {"epochs": 1}
    data["evaluate"] = {"knn": {}}
    with (root / "params.yaml").open("w") as file:
        YAML().dump(data, file)


def test_a_service_that_fails_is_one_sentence_in_json_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.chdir(tmp_path)
    config = str(ROOT / "configs/digits.yaml")
    with broken_service() as url:
        source = f"dataset.source={{kind: webdataset, train: '{url}/a.tar'}}"
        for more in (["--data", url], ["-s", source]):
            assert cli.run(["shard", "-c", config, "--json", *more]) == 1
            told = capsys.readouterr()
            document = json.loads(told.out)
            assert "500, message='Internal Server Error'" in document["error"]
            assert "Traceback" not in told.err
