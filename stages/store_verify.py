"""`mvmr store verify`: read every tar and chunk, and list or repair damaged files."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.base.text import counted
from stages.experiment.chosen import Chosen
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
) -> Result:
    """Read every tar and chunk, and list damaged and missing files."""
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
    named = [] if path is None else [path]
    again = ["mvmr", "store", "verify", "--repair", *named]
    values = {"store": str(layout.features), "parts": rows}
    return Result(values, _damage_lines(found), () if sound or mend else again, ok=sound)


def _damage_lines(found: Mapping[str, Sequence[Any]]) -> list[str]:
    lines = []
    for part, damages in found.items():
        state = f"{counted(len(damages), 'files')} damaged" if damages else "sound"
        lines.append(f"{part}: {state}")
        lines += [f"  {damage.path}: {damage.reason}" for damage in damages]
    return lines
