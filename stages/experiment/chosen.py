"""The experiment that a command was asked to act on."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it imports torch
    from stages.experiment.schema import Experiment


@dataclass(frozen=True)
class Chosen:
    """An experiment file and overrides `dotted.key=value`; the file is read when first needed."""

    file: Path
    assignments: tuple[str, ...] = ()

    @cached_property
    def experiment(self) -> "Experiment":
        """The checked experiment. Raises a ConfigError that lists every problem."""
        from stages.experiment.schema import load

        return load(self.file, self.assignments)
