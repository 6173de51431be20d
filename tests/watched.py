"""A Progress that records the calls to it."""

from dataclasses import dataclass, field

from pipeline.base.progress import Silent, Step


@dataclass
class Phase:
    """One phase: its total and finished units, and the statuses beside the bar."""

    what: str
    total: int
    unit: str
    done: int = 0
    statuses: list[str] = field(default_factory=list)


class Watched(Silent):
    """Records phases and notes, each in order."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.notes: list[str] = []

    def start(self, what: str, total: int, unit: str, *, step: Step | None = None) -> None:
        """Begin a phase."""
        self.phases.append(Phase(what, total, unit))

    def advance(self, count: int, status: str = "") -> None:
        """Count units of the last phase."""
        self.phases[-1].done += count
        if count:
            self.phases[-1].statuses.append(status)

    def note(self, text: str) -> None:
        """Record a line."""
        self.notes.append(text)
