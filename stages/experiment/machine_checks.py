"""The checks of `mvmr doctor` that apply to any experiment and need no torch."""

import configparser
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any, Literal

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PROJECT = "mvmr"
LEAST_DISK_BYTES = 2 * 10**9
LEAST_MEMORY_BYTES = 2 * 10**9


@dataclass(frozen=True)
class Check:
    """One check: what was found and, if something is wrong, what to do.

    A `note` is worth knowing but blocks nothing; a finding to `mend` does.
    """

    check: str
    found: str
    state: Literal["ok", "note", "mend"] = "ok"
    remedy: str = ""

    def values(self) -> dict[str, str]:
        """Return the check as it appears in JSON."""
        return asdict(self)


def python_check() -> Check:
    """Check the interpreter."""
    wanted, found = SpecifierSet(_project()["requires-python"]), sys.version.split()[0]
    if found not in wanted:
        return Check("python", f"{found}; wanted {wanted}", "mend", "make setup PYTHON=...")
    return Check("python", f"{found} in {sys.prefix}")


def library_checks() -> Iterator[Check]:
    """Check the installed versions against those that the project requires."""
    demanded = _project()["dependencies"]
    wrong = [check for name in demanded if (check := _library(Requirement(name))) is not None]
    yield from wrong
    if not wrong:
        yield Check("libraries", f"all {len(demanded)} as the project requires")


def _project() -> dict[str, Any]:
    """Return the project's requirements, from pyproject.toml or from the installed package."""
    path = Path(__file__).parents[2] / "pyproject.toml"
    if path.exists():
        project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        return project
    plain = [line for line in requires(PROJECT) or [] if "extra ==" not in line]
    return {"requires-python": metadata(PROJECT)["Requires-Python"], "dependencies": plain}


def _library(wanted: Requirement) -> Check | None:
    remedy = f"pip install '{wanted}'"
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return Check(wanted.name, f"not installed; wanted {wanted.specifier}", "mend", remedy)
    if not wanted.specifier.contains(found, prereleases=True):
        return Check(wanted.name, f"{found}; wanted {wanted.specifier}", "mend", remedy)
    return None


def machine_checks() -> Iterator[Check]:
    """Check cores and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("cores", f"{cores} of {os.cpu_count()} for this process")
    memory = psutil.virtual_memory()
    found = f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f}"
    if memory.available < LEAST_MEMORY_BYTES:
        remedy = "Close other programs, or lower train.batch_size and the number of workers"
        yield Check("memory", found, "note", remedy)
    else:
        yield Check("memory", found)


def place_checks(places: Sequence[Path]) -> Iterator[Check]:
    """Check that directories, or their nearest existing parents, are writable and have room."""
    for place in places:
        above = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        try:
            with tempfile.TemporaryFile(dir=above):
                free = shutil.disk_usage(above).free
        except OSError as error:
            remedy = f"Make {above} writable, or link {place} to another disk"
            yield Check(f"{place}/", f"not writable: {error.strerror}", "mend", remedy)
            continue
        found = f"writable, {free / 1e9:,.1f} GB free"
        if free < LEAST_DISK_BYTES:
            remedy = "Make room: `mvmr store clean`, `dvc gc --workspace`"
            yield Check(f"{place}/", found, "mend", remedy)
        else:
            yield Check(f"{place}/", found)


def version_control_checks(here: Path) -> Iterator[Check]:
    """Check that git and DVC are installed and set up in this folder.

    DVC may be set up without git; then only its experiments (`dvc exp`) are missing.
    """
    above = [here, *here.parents]
    if _without_git(above):
        yield Check("git", "not used, as DVC was set up without it", "note", "`dvc exp` needs git")
    elif not shutil.which("git"):
        yield Check("git", "not installed", "mend", "Install git; DVC needs it")
    elif not any((folder / ".git").exists() for folder in above):
        yield Check("git", f"{here} is not in a repository", "mend", "git init")
    else:
        yield Check("git", "this folder is in a repository")
    beside = Path(sys.executable).parent / "dvc"
    if not (shutil.which("dvc") or beside.exists()):
        yield Check("dvc", "not installed", "mend", "pip install 'mvmr[pipeline]'")
    elif not any((folder / ".dvc").is_dir() for folder in above):
        yield Check("dvc", "not initialised here", "mend", "dvc init")
    elif not (here / "dvc.yaml").exists():
        yield Check("dvc", "there is no dvc.yaml here", "mend", "cd to the root of the project")
    else:
        yield Check("dvc", f"{_version_of('dvc')}, initialised")


def _without_git(folders: Sequence[Path]) -> bool:
    """Whether DVC, in the first of the folders that has its settings, was told to use no git."""
    settings = configparser.RawConfigParser()
    config = next((f / ".dvc/config" for f in folders if (f / ".dvc").is_dir()), None)
    if config is not None:
        settings.read(config, encoding="utf-8")
    return settings.getboolean("core", "no_scm", fallback=False)


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "from another environment"
