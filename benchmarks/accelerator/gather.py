"""Gather wheels and data for a machine that has a GPU, PyTorch and no network.

    python -m benchmarks.accelerator.gather --into DIR --installed FILE
        [--python 3.12] [--images ARCHIVE] [--teacher DIR] [--photographs TAR] [--megabytes 60]

FILE names the packages that the machine has, one per line. Wheels of the other packages that the
benchmark needs, and of their dependencies, go to DIR/wheels, in the versions of `constraints.txt`.
PyTorch, torchvision and NumPy are never gathered: a second copy would hide the machine's own. The
archive of images and the teacher's files are copied unchanged. As many photographs from the tar
as still fit are copied to DIR/photographs.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOTS = (
    "dask[distributed]",
    "kymatio",
    "open_clip_torch",
    "pydantic",
    "ruamel.yaml",
    "simplejpeg",
    "universal_pathlib",
    "webdataset",
    "zarr",
    # The benchmark also needs these, but most machines have them.
    *("click", "fsspec", "hypothesis", "jinja2", "lightning", "matplotlib", "pillow", "psutil"),
    *("pytest", "rich", "safetensors", "scikit-learn", "scipy", "tensorboard", "timm"),
)
# Pydantic needs a recent version, and machines with PyTorch often have an old one.
REPLACED = ("typing_extensions",)
NEVER = {"numpy", "torch", "torchvision"}
PLATFORMS = tuple(f"manylinux_2_{minor}_x86_64" for minor in (34, 31, 28, 27, 24, 17))
OLD_PLATFORMS = ("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64")
MEBIBYTE = 2**20


def main() -> None:
    """Gather everything, and print its size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--installed", type=Path, required=True)
    parser.add_argument("--constraints", type=Path, default=Path("constraints.txt"))
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--images", type=Path, help="an archive, copied unchanged")
    parser.add_argument("--teacher", type=Path, help="a folder, copied unchanged")
    parser.add_argument("--photographs", type=Path, help="a tar of JPEG files")
    parser.add_argument("--megabytes", type=float, default=60.0, help="limit for everything")
    arguments = parser.parse_args()
    names = arguments.installed.read_text(encoding="utf-8").split()
    installed: set[str] = {canonicalize_name(name) for name in names}
    pins = versions(arguments.constraints.read_text(encoding="utf-8"))
    into: Path = arguments.into
    for name in gather_wheels(into / "wheels", installed, pins, arguments.python):
        print(f"wheel  {name}")
    if arguments.images:
        shutil.copy2(arguments.images, into)
    if arguments.teacher:
        shutil.copytree(arguments.teacher, into / "teacher", dirs_exist_ok=True)
    room = int(arguments.megabytes * MEBIBYTE) - weight(into)
    if arguments.photographs and room > 0:
        count = copy_photographs(arguments.photographs, into / "photographs", room)
        print(f"{count} photographs")
    found = weight(into) / MEBIBYTE
    print(f"{found:.1f} MiB in {into}")
    if found > arguments.megabytes:
        raise SystemExit(f"That is more than {arguments.megabytes:g} MiB.")


def gather_wheels(
    folder: Path, installed: set[str], pins: Mapping[str, str], python: str
) -> Iterator[str]:
    """Download packages that are not installed, and their dependencies; yield each wheel's name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pending = [Requirement(root) for root in ROOTS]
    seen: set[tuple[str, frozenset[str]]] = set()
    wheels: dict[str, Path] = {}
    for replaced in REPLACED:
        wheels[canonicalize_name(replaced)] = download(replaced, folder, pins, python)
    while pending:
        wanted = pending.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if name in installed or (name, extras) in seen:
            continue
        if name in NEVER:
            raise SystemExit(f"The machine lacks {name}, which is never gathered.")
        seen.add((name, extras))
        if name not in wheels:
            wheels[name] = download(wanted.name, folder, pins, python)
            yield wheels[name].name
        pending += requirements(wheels[name], extras, python)


def download(name: str, folder: Path, pins: Mapping[str, str], python: str) -> Path:
    """Download the wheel of one package by pip, and return its path."""
    version = pins.get(canonicalize_name(name))
    before = set(folder.iterdir())
    platforms = [part for p in (*PLATFORMS, *OLD_PLATFORMS) for part in ("--platform", p)]
    machine = ["--python-version", python, "--implementation", "cp", *platforms]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    wanted = f"{name}=={version}" if version else name
    subprocess.run([*pip, *machine, "--dest", str(folder), wanted], check=True)
    (wheel,) = set(folder.iterdir()) - before
    return wheel


def requirements(wheel: Path, extras: Iterable[str], python: str) -> list[Requirement]:
    """Return a wheel's requirements on Linux with that Python, including those of `extras`."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)]
        metadata = Parser().parsestr(archive.read(path).decode("utf-8"))
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    return [
        need
        for need in needed
        if need.marker is None
        or any(need.marker.evaluate({**machine, "extra": extra}) for extra in ("", *extras))
    ]


def versions(constraints: str) -> dict[str, str]:
    """Return the version of each package in a file of lines NAME==VERSION."""
    pairs = [line.split("==") for line in constraints.splitlines() if "==" in line]
    return {canonicalize_name(name.strip()): version.strip() for name, version in pairs}


def copy_photographs(archive: Path, folder: Path, room: int) -> int:
    """Copy JPEG files, spread evenly over the archive, until `room` bytes are full."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        files = [m for m in tar if m.isfile() and m.name.lower().endswith((".jpg", ".jpeg"))]
        stride = max(1, -(-sum(file.size for file in files) // room))
        count = 0
        for file in files[::stride]:
            content = tar.extractfile(file)
            if content is None or file.size > room:
                continue
            # Named by number, so that the archive does not decide where files are written.
            (folder / f"{count:05d}.jpg").write_bytes(content.read())
            room, count = room - file.size, count + 1
    return count


def weight(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
