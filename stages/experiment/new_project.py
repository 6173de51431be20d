"""Setting a project up in the working directory: its files, git and DVC, all or nothing."""

import configparser
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from pipeline.base.atomic import atomic_path
from pipeline.base.errors import ConfigError, MvmrError
from pipeline.base.yaml_file import read_yaml
from stages.experiment.shipped import DVC_CONFIG, DVC_YAML

PARAMS, PIPELINE, README = Path("params.yaml"), Path("dvc.yaml"), Path("README.md")
GIT, GIT_IGNORE = Path(".git"), Path(".gitignore")
DVC, DVC_IGNORE = Path(".dvc"), Path(".dvcignore")
OWN_README = "trained by mvmr"  # a part of what `mvmr init` writes
IGNORED = ("/data/", "/runs/", "/dvc_plots/")


def require_new() -> None:
    """Raise ConfigError if the working directory is a project already, or DVC is missing.

    A project without an experiment may get another one.
    """
    stages = set(read_yaml(DVC_YAML)["stages"])
    there = set(read_yaml(PIPELINE).get("stages") or {}) if PIPELINE.exists() else None
    if there is not None and (PARAMS.exists() or not stages <= there):
        raise ConfigError(_what_to_merge())
    if PARAMS.exists():
        raise ConfigError(
            f"There is a {PARAMS} in {Path.cwd()}, and nothing was changed. Move it away, or start "
            "in an empty folder."
        )
    if find_spec("dvc") is None:
        raise ConfigError(
            "A project is run by DVC, which is not installed: `pip install 'mvmr[pipeline]'`."
        )


def _what_to_merge() -> str:
    ours, theirs = (read_yaml(path) for path in (DVC_YAML, PIPELINE))
    names, there = list(ours["stages"]), theirs.get("stages") or {}
    if set(names) <= set(there):
        return (
            f"{Path.cwd()} is a project already ({PIPELINE} has all stages), and nothing was "
            f"changed. Edit {PARAMS} or `mvmr use NAME`, and `mvmr plan`; to choose anew, as for "
            f"another time, remove {PARAMS} first; for other images, start in an empty folder."
        )
    twice = [name for name in names if name in there]
    clash = f" Rename your own {', '.join(twice)}." if twice else ""
    return (
        f"There is a {PIPELINE} in {Path.cwd()}, and nothing was changed. Start in an empty "
        f"folder, or merge by hand: copy the stages {', '.join(names)} and the plots of {DVC_YAML} "
        f"into yours, an experiment to {PARAMS} (`mvmr use NAME`), and the lines "
        f"{' '.join(IGNORED)} to {GIT_IGNORE}.{clash}"
    )


def set_up(params: str, readme: str, photos: Path | None) -> list[Path]:
    """Write all files, and set up git and DVC where they are not; return what was written.

    `photos` are the photographs. If they lie in the project, git and DVC ignore them, as they do
    virtual environments. Stages, a README of another's and other ignored files that are there
    already stay. Whatever fails, nothing is left.
    """
    ignored = [*_below(photos), *(f"/{found.parent}/" for found in Path().glob("*/pyvenv.cfg"))]
    new = {PARAMS: params}
    if not PIPELINE.exists():
        new[PIPELINE] = DVC_YAML.read_text(encoding="utf-8")
    if not README.exists() or OWN_README in README.read_text(encoding="utf-8", errors="replace"):
        new[README] = readme
    new[GIT_IGNORE] = _with_lines(GIT_IGNORE, (*IGNORED, *ignored))
    new[DVC_IGNORE] = _with_lines(DVC_IGNORE, ("# What DVC need not look at", *ignored))
    with _undone_on_failure() as undo:
        for path, content in new.items():
            _write(path, content, undo)
        return [*new, *_repositories(undo)]


@contextmanager
def _undone_on_failure() -> Iterator[ExitStack]:
    with ExitStack() as undo:
        yield undo
        undo.pop_all()


def _write(path: Path, content: str, undo: ExitStack) -> None:
    before = path.read_bytes() if path.exists() else None
    if before is None:
        undo.callback(path.unlink, missing_ok=True)
    else:
        undo.callback(path.write_bytes, before)
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def _below(photos: Path | None) -> Iterator[str]:
    """Yield the pattern that ignores the photographs, if they are in the working directory."""
    if photos is None:
        return
    inside = Path(os.path.relpath(photos.absolute(), Path.cwd()))
    if inside.parts[0] != "..":
        escaped = re.sub(r"([*?\[\]\\!#])", r"\\\1", inside.as_posix())
        yield f"/{escaped}/"


def _with_lines(path: Path, lines: Sequence[str]) -> str:
    """Return the content of an ignore file with further lines, which it has only once."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    known = text.splitlines()
    if text and not text.endswith("\n"):
        text += "\n"
    return text + "".join(f"{line}\n" for line in lines if line not in known)


def _repositories(undo: ExitStack) -> Iterator[Path]:
    """Set up git and DVC where they are not yet, and yield their folders."""
    git, here = shutil.which("git"), Path.cwd()
    root = _root_of(git) if git else None
    if git and root is None:
        undo.callback(shutil.rmtree, GIT, ignore_errors=True)
        done = _run(git, "init", "--quiet")
        if done.returncode:
            raise MvmrError(f"`git init` failed in {here}: {done.stderr.strip()}")
        root = _root_of(git)
        yield GIT
    if not any((folder / DVC).is_dir() for folder in (here, *here.parents)):
        undo.callback(shutil.rmtree, DVC, ignore_errors=True)
        _init_dvc(root)
        yield DVC


def _root_of(git: str) -> Path | None:
    """Return the root of the repository that the working directory is in, if it is in one."""
    done = _run(git, "rev-parse", "--show-toplevel")
    return None if done.returncode else Path(done.stdout.rstrip("\n"))


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True)  # noqa: S603


def _init_dvc(root: Path | None) -> None:
    """Set up DVC in the working directory; `root` is that of the git repository, if any."""
    from dvc.exceptions import DvcException, InitError
    from dvc.repo import Repo

    logging.getLogger("dvc.repo.init").setLevel(logging.WARNING)  # it would say what to do
    try:
        try:
            within = root is not None and root.resolve() != Path.cwd().resolve()
            Repo.init(no_scm=root is None, subdir=within).close()
        except InitError:  # git ignores this folder
            Repo.init(no_scm=True).close()
    except DvcException as error:
        raise MvmrError(f"DVC cannot be set up in {Path.cwd()}: {error}") from error
    _merge_settings(DVC / "config", DVC_CONFIG)


def _merge_settings(path: Path, other: Path) -> None:
    """Add the settings in another file of DVC to one."""
    settings = configparser.RawConfigParser()
    settings.read([path, other], encoding="utf-8")
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        settings.write(file)
