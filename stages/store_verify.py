"""`mvmr store verify`: read every tar and chunk, and list or repair damaged files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.base.errors import StaleFeatureError, WeightsError
from pipeline.base.progress import Progress
from pipeline.base.text import counted
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.spot_check import SpotCheck, spot_check
from pipeline.features.store import FeatureStore
from stages.experiment.chosen import Chosen
from stages.experiment.paths import DatasetLayout
from stages.experiment.repairing import find_all_damage, mend_all
from stages.experiment.store_place import store_place
from stages.terminal.console import Screen
from stages.terminal.result import Result


def store_verify(
    screen: Screen,
    *,
    path: str | None,
    chosen: Chosen,
    data: str,
    mend: bool,
    recompute: int,
) -> Result:
    """Read every tar and chunk, list damaged and missing files, and compute some rows again."""
    (layout, _), progress = store_place(path, chosen, data), screen.progress
    found = find_all_damage(layout, progress)
    if mend and any(found.values()):
        screen.print(*_damage_lines(found))
        mend_all(found, chosen.experiment, layout, progress)
        found = find_all_damage(layout, progress)
    rows = [
        {"part": part, "damaged": [{"file": str(d.path), "reason": d.reason} for d in damages]}
        for part, damages in found.items()
    ]
    sound = not any(found.values())
    checks = _spot_checks(layout, recompute, progress) if sound and recompute else {}
    right = not any(isinstance(check, SpotCheck) and check.wrong for check in checks.values())
    named = [] if path is None else [path]
    again = ["mvmr", "store", "verify", "--repair", *named]
    recomputed = {
        name: asdict(check) if isinstance(check, SpotCheck) else {"impossible": check}
        for name, check in checks.items()
    }
    values = {"store": str(layout.features), "parts": rows, "recomputed": recomputed}
    lines = [*_damage_lines(found), *_check_lines(checks)]
    return Result(values, lines, () if sound or mend else again, ok=sound and right)


def _spot_checks(
    layout: DatasetLayout, count: int, progress: Progress
) -> dict[str, SpotCheck | str]:
    """Return what computing some rows of each feature again shows, or why that is impossible."""
    found, store = dict[str, SpotCheck | str](), FeatureStore(layout.features)
    for name in store.names():
        try:
            found[name] = spot_check(
                store[name],
                count,
                seed=0,
                shards=layout.shards,
                work=layout.work,
                options=ClusterOptions(),
                progress=progress,
            )
        except (WeightsError, StaleFeatureError) as error:
            found[name] = str(error)
    return found


def _check_lines(checks: Mapping[str, SpotCheck | str]) -> Iterator[str]:
    for name, check in checks.items():
        if isinstance(check, str):
            yield f"{name}: not computed again: {check}"
        elif not check.wrong:
            yield (
                f"{name}: {counted(check.rows, 'rows')} computed again, all within one unit of "
                f"the stored type (at most {check.largest:.2g})"
            )
        else:
            split, row = check.wrong[0]
            yield (
                f"{name}: {len(check.wrong)} of {counted(check.rows, 'rows')} computed again "
                f"differ by up to {check.largest:.3g} units; the first is row {row} of {split}. "
                f"Compute the feature anew: `mvmr extract-features --only {name} --force`."
            )


def _damage_lines(found: Mapping[str, Sequence[Any]]) -> list[str]:
    lines = []
    for part, damages in found.items():
        state = f"{counted(len(damages), 'files')} damaged" if damages else "sound"
        lines.append(f"{part}: {state}")
        lines += [f"  {damage.path}: {damage.reason}" for damage in damages]
    return lines
