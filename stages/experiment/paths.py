"""Paths of all files: those shared by a data set's experiments, and those of one experiment."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.locations import Location, location, names_in

RUNS = Path("runs")
UNFINISHED, FINISHED = ".unfinished", ".finished"


@dataclass(frozen=True)
class DatasetLayout:
    """`data/<dataset>/`: computed once, shared by every experiment of the data set."""

    root: Location

    @property
    def shards(self) -> Location:
        """Tars and manifests, one directory per split."""
        return self.root / "shards"

    @property
    def listing(self) -> Location:
        """The digest of the source's listing, by which DVC notices that images changed."""
        return self.root / "source.json"

    @property
    def listings(self) -> Location:
        """What a source remembers of its files; not an output of any stage."""
        return self.root / "listings"

    @property
    def packing(self) -> Location:
        """Shards that are being packed anew; not an output of any stage."""
        return self.root / "packing"

    @property
    def packed_for(self) -> Location:
        """How images are to be seen, if that was said when they were packed."""
        return self.root / "image.json"

    @property
    def features(self) -> Location:
        """The feature store."""
        return self.root / "features.zarr"

    @property
    def fidelity(self) -> Location:
        """The cost of compression, one JSON file per feature."""
        return self.root / "fidelity"

    @property
    def times(self) -> Location:
        """How long shards and features took to make; not an output of any stage."""
        return self.root / "times"

    @property
    def work(self) -> Location:
        """Unfinished extractions; not an output of any stage."""
        return self.root / "work"

    @property
    def is_free(self) -> bool:
        """Whether the folder is new, empty, or one of a data set already."""
        known = (
            *(self.shards, self.packing, self.packed_for, self.listing, self.listings),
            *(self.features, self.fidelity, self.work, self.times),
        )
        return _is_free(self.root, {place.name for place in known})


@dataclass(frozen=True)
class RunLayout:
    """`runs/<name>/`: the results of one experiment.

    Unfinished work, earlier results and embeddings are kept in `scratch`, which all runs of a
    project share; without one, in `root` itself.
    """

    root: Path
    scratch: Path | None = None

    @property
    def targets(self) -> Path:
        """Fingerprints of the features that the objective names."""
        return self.root / "targets.json"

    @property
    def features(self) -> Path:
        """Fingerprints of all features of the experiment."""
        return self.root / "features.json"

    @property
    def checkpoints(self) -> Path:
        """`best.pt` and `last.pt`."""
        return self.root / "checkpoints"

    @property
    def supervised(self) -> Path:
        """The checkpoint of the control trained with labels, if the experiment asks for one."""
        return self.checkpoints / "supervised.pt"

    @property
    def supervised_logs(self) -> Path:
        """The curves of that control."""
        return self.logs / "supervised"

    @property
    def logs(self) -> Path:
        """TensorBoard's files."""
        return self.root / "logs"

    @property
    def curves(self) -> Path:
        """Training curves, one row per epoch."""
        return self.root / "curves.csv"

    @property
    def metrics(self) -> Path:
        """One JSON file per protocol, with everything that a reader needs in order to trust it."""
        return self.root / "metrics"

    def per_image(self, protocol: str) -> Path:
        """Return the table of the scores of student and controls, one row per scored image."""
        return self.metrics / f"{protocol}.csv"

    @property
    def scores(self) -> Path:
        """One small JSON file per protocol: the main figure of student and controls."""
        return self.root / "scores"

    @property
    def predictions(self) -> Path:
        """One directory per protocol: one row per test image, if each image has one class."""
        return self.root / "predictions"

    @property
    def exports(self) -> Path:
        """Exported backbones, each with its card; training again removes them."""
        return self.root / "exports"

    def export(self, name: str, ending: str) -> Path:
        """Return where an exported backbone lies, by the experiment's name and its own ending."""
        return self.exports / f"{name}.{ending}"

    @property
    def training_metrics(self) -> Path:
        """Which checkpoint is the best, and by which rule."""
        return self.metrics / "training.json"

    @property
    def times(self) -> Path:
        """How long training and each protocol took; not an output of any stage."""
        return self.root / "times"

    @property
    def finished(self) -> Path:
        """Finished results, by what determines them; not an output of any stage."""
        return (self.scratch or self.root) / FINISHED

    @property
    def embeddings(self) -> Path:
        """Embeddings that the protocols share; not an output of any stage."""
        return (self.scratch or self.root) / ".embeddings" / self.root.name

    def unfinished(self, digest: str) -> Path:
        """Return the directory of a training until it has finished; `digest` is its run key."""
        return (self.scratch or self.root) / UNFINISHED / digest[:16]

    @property
    def is_free(self) -> bool:
        """Whether the folder is new, empty, or one of a run already."""
        known = (
            *(self.targets, self.features, self.checkpoints, self.logs, self.curves),
            *(self.metrics, self.scores, self.predictions, self.exports, self.times),
        )
        return _is_free(self.root, {place.name for place in known})

    @property
    def report(self) -> Path:
        """The HTML page about the run."""
        return self.root / "report.html"

    @property
    def record(self) -> Path:
        """The contents of the page as JSON, for pages that compare runs."""
        return self.root / "report.json"


def dataset_layout(name: str, data: str = "data") -> DatasetLayout:
    """Return the paths of a data set below `data`, a path or a URL."""
    return DatasetLayout(location(data) / name)


def name_of(path: str) -> str:
    """Return the last part of a path as a name that an experiment may have."""
    last = Path(path.rstrip("/")).absolute().name if "://" not in path else path.rsplit("/", 1)[-1]
    plain = "".join(c for c in unicodedata.normalize("NFKD", last) if not unicodedata.combining(c))
    return re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-_") or "images"


def _is_free(root: Location, known: set[str]) -> bool:
    """Return whether a folder has nothing in it, but for hidden files, or something known."""
    found = names_in(root)
    return not found.isdisjoint(known) or all(name.startswith(".") for name in found)


def other_stores(layout: DatasetLayout) -> list[Location]:
    """Return the feature stores of the other data sets beside this one."""
    beside = sorted(names_in(layout.root.parent) - {layout.root.name})
    places = [DatasetLayout(layout.root.parent / name).features for name in beside]
    return [place for place in places if place.is_dir()]


def run_layout(name: str) -> RunLayout:
    """Return the paths of an experiment, relative to the working directory."""
    return RunLayout(RUNS / name, RUNS)


def comparison_page() -> Path:
    """Return the path of the page that compares runs."""
    return RUNS / "comparison.html"


def starting_weights(weights: str) -> Path:
    """Return the checkpoint that `student.weights` names: a file, or a run's best one."""
    from pipeline.models.checkpoint import BEST  # with torch

    best = run_layout(weights).checkpoints / BEST
    return best if best.exists() and not Path(weights).is_file() else Path(weights)


def unfinished_runs() -> Path:
    """Return the directory of all unfinished training runs."""
    return RUNS / UNFINISHED


def finished_results() -> Path:
    """Return the directory in which finished results are kept, by what determines them."""
    return RUNS / FINISHED


def last_used() -> Path:
    """Return the path of the copy that `mvmr use` keeps of the config it last made active."""
    return RUNS / ".used.yaml"
