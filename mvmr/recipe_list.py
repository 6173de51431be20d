"""The experiments that come with the library, by name."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from mvmr.public_calls import public
from mvmr.text_tables import html_table, text_table
from pipeline.base.errors import ConfigError, unknown_name
from stages.experiment.config_summary import COLUMNS, summary_of
from stages.experiment.shipped import shipped_configs


class Configs(Mapping[str, Path]):
    """Experiment files by name; shown, they are a table of data, teacher, student and cost."""

    @public
    def __getitem__(self, name: str) -> Path:
        found = shipped_configs()
        if name not in found:
            raise ConfigError(unknown_name("config", name, found))
        return found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(shipped_configs())

    def __len__(self) -> int:
        return len(shipped_configs())

    def _rows(self) -> list[list[str]]:
        found = [summary_of(self[name]) for name in self]
        return [[*COLUMNS], *([str(row.get(c) or "") for c in COLUMNS] for row in found)]

    def __repr__(self) -> str:
        return text_table(self._rows())

    def _repr_html_(self) -> str:
        return html_table(self._rows())


def configs() -> Configs:
    """Return the experiment files that come with the library, by name.

    `mvmr.run_experiment(name, out=...)` runs one.

    >>> "folder_clip" in mvmr.configs()
    True
    """
    return Configs()
