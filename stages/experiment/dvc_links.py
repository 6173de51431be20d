"""DVC's record of the files that it linked into the workspace, and how to make it void.

DVC records the inode and the time of change of each output that it links from its cache. Each
`dvc checkout`, also as a part of `dvc pull` and `dvc exp run`, removes what still matches its
record and is not an output of the active experiment (`_remove_unused_links` in
dvc/repo/checkout.py). So the files of other experiments would vanish. An output of which one file
has another time no longer matches. One file of each output is set back by a millisecond: the
content stays, DVC only reads this one file again, and nothing looks newer than it is.
"""

import os
from collections.abc import Iterator
from pathlib import Path

BACK_NS = 1_000_000
COARSE_NS = 2_000_000_000  # the resolution of some file systems
_IN_DATA = ("source.json", "shards", "features.zarr/*", "fidelity/*")
_IN_RUNS = (
    *("targets.json", "features.json", "checkpoints", "logs", "curves.csv"),
    *("metrics/*", "scores/*", "predictions/*", "report.html", "report.json"),
)


def in_dvc_project() -> bool:
    """Whether the working directory has a `dvc.yaml` and lies in a DVC repository."""
    here = Path.cwd()
    return Path("dvc.yaml").exists() and any((f / ".dvc").is_dir() for f in (here, *here.parents))


def run_by_dvc() -> bool:
    """Whether DVC runs this command, as a stage."""
    return "DVC_STAGE" in os.environ


def void_links() -> None:
    """Make DVC's record void for all outputs below `data/` and `runs/`."""
    if in_dvc_project():
        for out in _outs():
            _set_back(out)


def _outs() -> Iterator[Path]:
    for root, patterns in ((Path("data"), _IN_DATA), (Path("runs"), _IN_RUNS)):
        for pattern in patterns:
            yield from root.glob(f"[!.]*/{pattern}")


def _set_back(out: Path) -> None:
    """Set one file of an output back in time, or do nothing if there is none left."""
    try:
        file = _light_file(out)
        if file is not None:
            before = file.stat()
            _set_time(file, before.st_atime_ns, before.st_mtime_ns - BACK_NS)
            if file.stat().st_mtime_ns == before.st_mtime_ns:
                _set_time(file, before.st_atime_ns, before.st_mtime_ns - COARSE_NS)
    except OSError:  # another process has just replaced it, or nobody here may change it
        return


def _set_time(file: Path, accessed_ns: int, modified_ns: int) -> None:
    try:
        os.utime(file, ns=(accessed_ns, modified_ns))
    except PermissionError:  # a link to a colleague's file in a shared cache
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_bytes(file.read_bytes())
        os.utime(temporary, ns=(accessed_ns, modified_ns))
        temporary.replace(file)


def _light_file(out: Path) -> Path | None:
    """Return the file itself, or one of the directory that DVC reads quickly."""
    if out.is_file():
        return out
    with os.scandir(out) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    files = [entry for entry in found if entry.is_file()]
    described = [entry for entry in files if entry.name.endswith(".json")]
    if files:
        return Path(min(described or files, key=lambda entry: entry.stat().st_size).path)
    inner = (_light_file(Path(entry.path)) for entry in found if entry.is_dir())
    return next((file for file in inner if file is not None), None)
