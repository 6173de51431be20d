"""Stored features as a table: what each holds and what storing it costs."""

from collections.abc import Mapping
from typing import Any

from pipeline.features.store import StoredFeature
from stages.terminal.result import Column, count, megabytes


def feature_values(feature: StoredFeature) -> dict[str, Any]:
    """Return what a feature holds and what storing it costs, one value per column."""
    fidelity = feature.report["fidelity"]
    return {
        "feature": feature.name,
        "width": feature.width,
        "original_width": feature.report["original_width"],
        "type": feature.stored_type,
        "images": sum(feature.splits.values()),
        "views": feature.views.count if feature.views else 0,
        "bytes": sum(f.stat().st_size for f in feature.path.rglob("*") if f.is_file()),
        "bytes_per_image": fidelity["bytes_per_image"],
        "dcor_error_max": fidelity["dcor_error_max"],
        # Earlier versions did not measure them.
        "dcor_error_whitened": fidelity.get("dcor_error_whitened", {}),
        "fingerprint": feature.digest,
    }


def _standardised(errors: Mapping[str, float]) -> str:
    """Return the error of dCor where each component is divided by its deviation, if known."""
    return f"{errors['1']:.1e}" if "1" in errors else ""


FEATURE_COLUMNS = (
    Column("feature", "feature"),
    Column("width", "width"),
    Column("original_width", "of"),
    Column("type", "type"),
    Column("images", "images", count),
    Column("views", "views", count),
    Column("bytes", "MB", megabytes),
    Column("bytes_per_image", "bytes/image"),
    Column("dcor_error_max", "dCor error", "{:.1e}".format),
    Column("dcor_error_whitened", "whitened", _standardised),
    Column("fingerprint", "fingerprint", lambda digest: str(digest)[:8]),
)
