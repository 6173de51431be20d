"""`mvmr doctor`: check this machine, the active config and every stage; say what to fix.

A broken library may end a process in ways that no `except` catches. So the checks that need
torch run in another process, and its death is a finding.
"""

import multiprocessing
import shlex
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.base.processes import deaf_children
from pipeline.base.text import counted
from stages.experiment.chosen import Chosen
from stages.experiment.machine_checks import (
    Check,
    library_checks,
    machine_checks,
    place_checks,
    python_check,
    version_control_checks,
)
from stages.terminal import proposal
from stages.terminal.console import Screen
from stages.terminal.result import Result

if TYPE_CHECKING:  # it needs torch
    from stages.experiment.state import StageState

Finding = TypeVar("Finding", Check, "StageState")
PATIENCE_SECONDS = 300.0
STYLES = {"ok": "green", "done": "green", "mend": "bold red", "broken": "bold red"}


def doctor(screen: Screen, *, chosen: Chosen, data: str) -> Result:
    """Check the machine, the experiment, and the state of its stages."""
    screen.progress.start("check this machine and the experiment", 0, "")
    beside = _Beside(chosen, data)
    places = [Path("runs")] if "://" in data else [Path(data), Path("runs")]
    checks = [python_check(), *library_checks(), *machine_checks(), *place_checks(places)]
    checks += version_control_checks(Path.cwd())
    found, stages = beside.findings()
    checks = [_carried(check) for check in [*checks, *found]]
    stages = [_carried(stage) for stage in stages]
    wrong = sum(c.state == "mend" for c in checks) + sum(s.condition == "broken" for s in stages)
    left = sum(stage.condition != "done" for stage in stages)
    shown: list[RenderableType] = [_grid([(c.state, c.check, c.found, c.remedy) for c in checks])]
    if stages:
        rows = [(s.condition, s.stage, s.found, s.remedy) for s in stages]
        shown += ["", _grid(rows)]
    values = {
        "checks": [check.values() for check in checks],
        "stages": [stage.values() for stage in stages],
    }
    shown += ["", _verdict(wrong, left)]
    return Result(values, shown, () if wrong else _following(stages), ok=not wrong)


def _carried(finding: Finding) -> Finding:
    """Return a finding whose commands repeat this command's -c, -s and --data."""
    return replace(
        finding, found=proposal.sentence(finding.found), remedy=proposal.remedy(finding.remedy)
    )


def _following(stages: "Sequence[StageState]") -> list[str]:
    """Return the command that runs all remaining stages by DVC, or else only the first."""
    left = [stage for stage in stages if stage.condition != "done"]
    if left and proposal.is_of_params():
        return ["dvc", "repro"]
    return shlex.split(left[0].remedy) if left and left[0].remedy.startswith("mvmr ") else []


class _Beside:
    """Checks torch and the experiment in a process of its own, which starts at once."""

    def __init__(self, *asked: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._received, sent = context.Pipe(duplex=False)
        self._process = context.Process(target=_look, args=(sent, *asked), daemon=True)
        with deaf_children():
            self._process.start()
        sent.close()

    def findings(self) -> "tuple[list[Check], list[StageState]]":
        """Return checks and stages; a process that died or hung gives one check instead."""
        try:
            if self._received.poll(PATIENCE_SECONDS):
                found: tuple[list[Check], list[StageState]] = self._received.recv()
                return found
            end = f"has not answered within {PATIENCE_SECONDS:.0f} s"
        except EOFError:
            self._process.join()
            end = f"ended the process that tried it, with exit code {self._process.exitcode}"
        finally:
            self._process.kill()
        return [Check("torch", f"importing or using it {end}", "mend", "make setup")], []


def _look(connection: Connection, chosen: Chosen, data: str) -> None:
    """Send the findings about torch, the experiment and its stages."""
    try:
        from stages.experiment.experiment_checks import examine

        found = examine(chosen, data)
    except Exception as error:  # incompatible libraries fail in many ways
        text = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"
        remedy = "Install the versions of constraints.txt: make setup"
        found = [Check("torch and the libraries around it", text, "mend", remedy)], []
    connection.send(found)
    connection.close()


def _verdict(wrong: int, left: int) -> str:
    if wrong:
        return f"{wrong} to mend: do what the arrows say, then run `mvmr doctor` again."
    if left:
        return f"All is well; {counted(left, 'stages')} left to run."
    return "All is well, and every stage is done."


def _grid(rows: Sequence[tuple[str, str, str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for state, name, found, remedy in rows:
        text = Text(found)
        if remedy:
            text.append(f"{' ' if found else ''}-> {remedy}", style="bold")
        grid.add_row(Text(state, style=STYLES.get(state, "yellow")), name, text)
    return grid
