"""Where things lie: what a data set shares, and what belongs to one experiment."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.base.locations import Location, location
from pipeline.models.checkpoint import BEST


@dataclass(frozen=True)
class DatasetLayout:
    """`data/<dataset>/`: computed once, shared by every experiment of the data set."""

    root: Location

    @property
    def shards(self) -> Location:
        """Tars and manifests, one directory a split."""
        return self.root / "shards"

    @property
    def features(self) -> Location:
        """The feature store."""
        return self.root / "features.zarr"

    @property
    def fidelity(self) -> Location:
        """What compression costs, one JSON file a feature."""
        return self.root / "fidelity"

    @property
    def times(self) -> Location:
        """How long shards and features took to make; not an output of any stage."""
        return self.root / "times"

    @property
    def work(self) -> Location:
        """Unfinished extractions; not an output of any stage."""
        return self.root / "work"


@dataclass(frozen=True)
class RunLayout:
    """`runs/<name>/`: the results of one experiment."""

    root: Path

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
    def logs(self) -> Path:
        """TensorBoard's files."""
        return self.root / "logs"

    @property
    def curves(self) -> Path:
        """One row an epoch."""
        return self.root / "curves.csv"

    @property
    def metrics(self) -> Path:
        """One JSON file a protocol, with everything that a reader needs to believe it."""
        return self.root / "metrics"

    def per_image(self, protocol: str) -> Path:
        """Return the table of what student and controls got, a row a scored image."""
        return self.metrics / f"{protocol}.csv"

    @property
    def scores(self) -> Path:
        """One small JSON file a protocol: the main figure of student and controls."""
        return self.root / "scores"

    @property
    def predictions(self) -> Path:
        """One directory a protocol: a row a test image, where there is one class an image."""
        return self.root / "predictions"

    @property
    def exports(self) -> Path:
        """The backbone for other programs, each file with its card; gone when trained again."""
        return self.root / "exports"

    @property
    def training_metrics(self) -> Path:
        """Which checkpoint is the best, and by what."""
        return self.metrics / "training.json"

    @property
    def times(self) -> Path:
        """How long training and each protocol took; not an output of any stage."""
        return self.root / "times"

    @property
    def report(self) -> Path:
        """The page that tells it all."""
        return self.root / "report.html"

    @property
    def record(self) -> Path:
        """What the page says of the run, for pages that compare runs."""
        return self.root / "report.json"


def dataset_layout(name: str, data: str = "data") -> DatasetLayout:
    """Return the places of a data set below `data`, a path or a URL."""
    return DatasetLayout(location(data) / name)


def run_layout(name: str) -> RunLayout:
    """Return the places of an experiment, relative to the working directory."""
    return RunLayout(Path("runs") / name)


def comparison_page() -> Path:
    """Return where the page that compares runs goes."""
    return Path("runs") / "comparison.html"


def starting_weights(weights: str) -> Path:
    """Return the checkpoint that `student.weights` means: a file, or a run's best one."""
    best = run_layout(weights).checkpoints / BEST
    return best if best.exists() and not Path(weights).is_file() else Path(weights)


def unfinished_run(digest: str) -> Path:
    """Return where a training run lives until it has ended, known by its experiment's digest."""
    return unfinished_runs() / digest[:16]


def unfinished_runs() -> Path:
    """Return the directory of all unfinished training runs."""
    return Path("runs") / ".unfinished"


def last_used() -> Path:
    """Return where `mvmr use` keeps a copy of the config that it made the active one."""
    return Path("runs") / ".used.yaml"


def evaluation_work(name: str) -> Path:
    """Return where embeddings of an experiment's checkpoints are kept between protocols."""
    return Path("runs") / ".embeddings" / name
