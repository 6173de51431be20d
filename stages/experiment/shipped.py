"""Files that come with the program: the configs, and what a project needs for DVC.

In the repository, `stages/shipped` holds links to them; a wheel holds the files themselves.
"""

from pathlib import Path

from pipeline.base.errors import ConfigError, unknown_name

_SHIPPED = Path(__file__).parents[1] / "shipped"
DVC_YAML, DVC_CONFIG = _SHIPPED / "dvc.yaml", _SHIPPED / "dvc.config"
OWN_CONFIGS = Path("configs")  # of the project that is the working directory


def shipped_configs() -> dict[str, Path]:
    """Return the configs that come with the program, by name."""
    return _named(_SHIPPED / "configs")


def known_configs() -> dict[str, Path]:
    """Return these and the project's own, which take the place of others of the same name."""
    known = {**shipped_configs(), **_named(OWN_CONFIGS)}
    return {name: known[name] for name in sorted(known)}


def config_path(name: str) -> Path:
    """Return the config of a name, or the file if `name` is that of one.

    Raises ConfigError that suggests the nearest name.
    """
    known = known_configs()
    if name in known:
        return known[name]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.exists():
        raise ConfigError(unknown_name("config", name, known))
    return path


def _named(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
