"""A row about an experiment file, for lists of experiments."""

import re
from pathlib import Path

from pipeline.base.yaml_file import read_yaml

COLUMNS = ("name", "data", "teacher", "student", "cost")


def summary_of(path: Path) -> dict[str, str | None]:
    """Return a config's row of the list, from its sections and comments."""
    data = read_yaml(path)
    try:
        source, size = data["dataset"]["source"]["kind"], data["dataset"]["image"]["size"]
        teachers = [feature["model"] for feature in data["features"].values() if "model" in feature]
        student = data["student"]["architecture"]
        given = " given" if data["student"].get("weights") else ""
    except (KeyError, TypeError, AttributeError):
        return {"name": path.stem, "data": "incomplete"}
    text = path.read_text(encoding="utf-8")
    cost = re.search(r"^# Cost: (.+) \((?:estimate|measured)\)$", text, re.MULTILINE)
    return {
        "name": path.stem,
        "data": f"{source} {size} px",
        "teacher": ", ".join(teachers) or "none",
        "student": f"{student}{given}",
        "cost": cost[1].replace("minutes", "min") if cost else "unknown: mvmr plan",
    }
