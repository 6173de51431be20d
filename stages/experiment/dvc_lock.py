"""What DVC is told about results that were not made by `dvc repro`.

DVC sets the outputs of the active experiment to what `dvc.lock` says, at the beginning of `dvc exp
run` and in each `dvc checkout` and `dvc pull`: it replaces what differs, and removes what it has no
record of. So whatever a command changes outside DVC is recorded there. Results of the active
experiment's run are committed to DVC's cache, as `dvc commit` does. Of anything else, the record
holds only the digests of the files: DVC then leaves them alone, and runs the stage once more, which
finds its work done.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from pipeline.base.atomic import atomic_path, write_json
from pipeline.base.errors import ConfigError
from pipeline.base.progress import Progress
from stages.experiment.dvc_links import in_dvc_project, run_by_dvc
from stages.experiment.dvc_stages import TrackedStage, tracked_stages

if TYPE_CHECKING:  # it imports torch
    from pipeline.features.store import StoredFeature
    from stages.experiment.schema import Experiment

LOCK, ACTIVE, DATA = Path("dvc.lock"), Path("params.yaml"), "data"
LONG = 3000  # lines
Entry = dict[str, Any]
_RUN = r"runs/([^/]+)"
_OLDER = re.compile(r"^  (shard|select|train|report):$", re.MULTILINE)
_PLACES = {  # an output of each stage, with the parts of the stage's name
    "shard": r"data/([^/]+)/shards",
    "extract": r"data/([^/]+)/features\.zarr/([^/]+)",
    "select": rf"{_RUN}/targets\.json",
    "train": rf"{_RUN}/checkpoints",
    "evaluate": rf"{_RUN}/predictions/([^/]+)",
    "report": rf"{_RUN}/report\.html",
}


def changed_by_hand(
    experiment: "Experiment", stages: Collection[str], progress: Progress, *, data: str = DATA
) -> None:
    """Tell DVC what stands in the outputs of these stages, unless DVC runs this command.

    `stages` are named as by `tracked_stages`; those without outputs are skipped. Nothing happens
    outside a DVC project, and for data that are elsewhere than in `data/`.
    """
    if run_by_dvc() or not in_dvc_project():
        return
    known = tracked_stages(experiment)
    wanted = [known[name] for name in stages if not known[name].of_data or data == DATA]
    found = [stage for stage in wanted if any(out.exists() for out in stage.outs)]
    if not found:
        return
    progress.start("tell DVC", 0, "")
    with _despite_dvc(", ".join(stage.name for stage in found), progress):
        _record(found, committed=_is_active(experiment))


def settle(experiment: "Experiment", progress: Progress) -> None:
    """Tell DVC what is there of an experiment that becomes the active one.

    Also bring `dvc.lock` into the form that this version of `dvc.yaml` expects, and shorten it.
    """
    if in_dvc_project():
        adopt_older_lock(experiment, progress)
        with _despite_dvc(str(LOCK), progress):
            _shorten(experiment)
            changed_by_hand(experiment, _unrecorded(experiment), progress)


@contextmanager
def _despite_dvc(what: str, progress: Progress) -> Iterator[None]:
    """Go on with a note if DVC is busy or broken, and without one if it is not installed."""
    try:
        yield
    except ImportError:  # without DVC, nothing can harm the files
        return
    except Exception as error:  # of many kinds; the results themselves are safe and complete
        reason = " ".join(str(error).split())
        progress.note(
            f"DVC could not be told of {what} ({reason}). "
            "Run `dvc repro` before any other command of DVC."
        )


def record_fingerprints(path: Path, features: "Mapping[str, StoredFeature]") -> None:
    """Write the fingerprints that the stage `select` writes, if DVC will ask for them."""
    digests = {name: feature.digest for name, feature in sorted(features.items())}
    if run_by_dvc() or not in_dvc_project():
        return
    if not path.exists() or json.loads(path.read_text(encoding="utf-8")) != digests:
        write_json(path, digests)


def adopt_older_lock(experiment: "Experiment", progress: Progress) -> None:
    """Rename the stages of a `dvc.lock` from before they were named after data set and run.

    DVC does not know such a record. If it has removed the data for that reason, they come back from
    its cache.
    """
    if not in_dvc_project() or not _OLDER.search(LOCK.read_text() if LOCK.exists() else ""):
        return
    with _despite_dvc(str(LOCK), progress):
        from dvc.repo import Repo, lock_repo

        with Repo() as repo, lock_repo(repo):
            _rename_older()
            entries = _entries()
            stages = [stage for stage in tracked_stages(experiment).values() if stage.of_data]
            gone = [s.name for s in stages if s.name in entries and not _whole(s)]
            if gone:
                repo.checkout(targets=gone, force=True, allow_missing=True)


def _shorten(experiment: "Experiment") -> None:
    """Keep only the digests of the outputs of other experiments, if `dvc.lock` is long.

    DVC reads and writes the whole file after each stage: a thousand lines take it half a second.
    """
    if not LOCK.exists() or len(LOCK.read_text().splitlines()) <= LONG:
        return
    from dvc.repo import Repo, lock_repo

    active = {stage.name for stage in tracked_stages(experiment).values()}
    with Repo() as repo, lock_repo(repo):
        _write(
            {
                name: entry if name in active else {"cmd": entry["cmd"], "outs": entry["outs"]}
                for name, entry in _entries().items()
                if name in active or entry.get("outs")
            }
        )


def _unrecorded(experiment: "Experiment") -> list[str]:
    """Return the stages whose outputs exist, but not in `dvc.lock` or not in DVC's cache."""
    entries = _entries()
    return [
        name
        for name, stage in tracked_stages(experiment).items()
        if any(out.exists() for out in stage.outs) and not _is_known(stage, entries)
    ]


def _record(stages: Collection[TrackedStage], *, committed: bool) -> None:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo

    with Repo() as repo, lock_repo(repo):
        _rename_older()
        for stage in stages:
            entries = _entries()
            outs = [_digests(repo, out) for out in sorted(stage.outs) if out.exists()]
            if _same(entries.get(stage.name), outs):
                continue
            if committed and not stage.of_data and _whole(stage):
                try:
                    repo.commit(stage.name, force=True)
                    continue
                except DvcException:  # for example, a dependency was never made here
                    pass
            _write({**entries, stage.name: {"cmd": stage.cmd, "outs": outs}})


def _digests(repo: Any, out: Path) -> Entry:
    """Return a path's entry in `dvc.lock`, with a directory's list of files put into the cache.

    DVC compares a directory with its list; it needs no files in the cache for that.
    """
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import add_update_tree
    from dvc_data.hashfile.tree import Tree

    cache = repo.cache.local
    path, ignored = str(Path.cwd() / out), repo.dvcignore
    _, meta, made = build(cache, path, repo.fs, "md5", ignore=ignored, dry_run=True)
    if isinstance(made, Tree):
        add_update_tree(cache, made)
    size = {name: value for name, value in meta.to_dict().items() if name != "isdir"}
    return {"path": out.as_posix(), "hash": "md5", "md5": made.hash_info.value, **size}


def _same(entry: Entry | None, outs: Collection[Entry]) -> bool:
    recorded = {out["path"]: out.get("md5") for out in (entry or {}).get("outs", ())}
    return recorded == {out["path"]: out["md5"] for out in outs}


def _whole(stage: TrackedStage) -> bool:
    return all(out.exists() for out in stage.outs)


def _is_active(experiment: "Experiment") -> bool:
    """Whether params.yaml, from which DVC reads the parameters, is this experiment now."""
    from stages.experiment.schema import load

    try:
        return load(ACTIVE).digest() == experiment.digest()
    except ConfigError:
        return False


def _is_known(stage: TrackedStage, entries: Mapping[str, Entry]) -> bool:
    recorded = {o["path"]: o.get("md5", "") for o in entries.get(stage.name, {}).get("outs", ())}
    digests = [recorded.get(out.as_posix(), "") for out in stage.outs if out.exists()]
    return all(md5 and (not md5.endswith(".dir") or _in_cache(md5)) for md5 in digests)


def _in_cache(md5: str) -> bool:
    here = Path.cwd()
    roots = (folder / ".dvc" / "cache" for folder in (here, *here.parents))
    return any((root / "files" / "md5" / md5[:2] / md5[2:]).exists() for root in roots)


def _entries() -> dict[str, Entry]:
    if not LOCK.exists():
        return {}
    with LOCK.open(encoding="utf-8") as file:
        content = YAML(typ="rt").load(file) or {}
    entries: dict[str, Entry] = content.get("stages") or {}
    return entries


def _write(entries: Mapping[str, Entry]) -> None:
    yaml = YAML()  # as DVC itself writes the file
    yaml.default_flow_style = False
    with atomic_path(LOCK) as temporary, temporary.open("w", encoding="utf-8") as file:
        yaml.dump({"schema": "2.0", "stages": dict(entries)}, file)


def _rename_older() -> None:
    """Rename the entries of a `dvc.lock` from before stages were named after data set and run."""
    entries = _entries()
    older = {name: entry for name, entry in entries.items() if _newer_name(name, entry) != name}
    if older:
        kept = {name: entry for name, entry in entries.items() if name not in older}
        _write({**{_newer_name(n, e): e for n, e in older.items()}, **kept})


def _newer_name(name: str, entry: Entry) -> str:
    group, found = name.partition("@")[0], None
    for out in entry.get("outs", ()):
        pattern = _PLACES.get(group)
        found = found or (re.fullmatch(pattern, out["path"]) if pattern else None)
    return f"{group}@{'-'.join(found.groups())}" if found else name
