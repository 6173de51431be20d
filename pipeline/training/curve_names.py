"""Names of the columns of a run's curves, and the shares that follow from them."""

from collections.abc import Iterator, Mapping

from pipeline.objective.trivial import share_explained

PROBE = "validation/probe_top1"
KNN = "validation/knn_top1"
OBJECTIVE = "validation/objective"
LABELLED = "validation/labelled"  # images that the probes are scored on
LARGEST_CLASS = "validation/largest_class"  # the share of their largest class, in percent

# Of one term of the objective, after `train/` or `validation/` and before its name.
TERM = "term/"
WEIGHT = "weight/"  # of terms whose weight changes, the mean over the epoch
TRIVIAL = "trivial/"  # what the term would be without any learning
EXPLAINED = "explained/"  # how much of the trivial answer is gone: 1 - term / trivial


def explained_shares(row: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Yield name and share explained of each term whose trivial answer a row of curves holds."""
    start = f"validation/{TRIVIAL}"
    for column, trivial in row.items():
        if column.startswith(start):
            name = column.removeprefix(start)
            share = share_explained(row[f"validation/{TERM}{name}"], trivial)
            if share is not None:
                yield name, share
