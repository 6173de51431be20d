"""A finished run: its scores, its encoder, and what can be made of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from mvmr.arrays import Bar, PathText, watched
from mvmr.opened_data import Dataset, open_dataset
from mvmr.public_calls import public
from mvmr.student_copies import register_copies
from mvmr.text_tables import html_table, text_table
from pipeline.base.atomic import write_json
from pipeline.base.devices import device_from
from pipeline.base.digests import sha256_of
from pipeline.base.errors import ConfigError, DataError, unknown_name
from pipeline.base.locations import location
from pipeline.base.text import spoken
from pipeline.models.checkpoint import BEST
from pipeline.models.embedding import embedded_batches, find_images
from pipeline.models.exporting import FORMATS
from pipeline.models.own_backbone import STUDENTS
from pipeline.models.ready_encoder import ReadyEncoder, load_encoder
from pipeline.models.student import OWN_PREFIX
from stages.experiment.paths import DatasetLayout, RunLayout
from stages.experiment.schema import Experiment, load
from stages.steps.export_backbone import export_backbone
from stages.steps.export_int8 import export_int8
from stages.steps.write_report import write_report

EXPERIMENT, PLACES = "experiment.yaml", "places.json"


@dataclass(frozen=True)
class Score:
    """The main figure of one protocol, with its 95 % interval if it has one, and of controls.

    `figure` says what it is, such as top1, in percent. `record` is all that is known of it.
    """

    protocol: str
    figure: str
    value: float
    interval: tuple[float, float] | None
    controls: Mapping[str, float]
    images: int
    record: Mapping[str, Any] = field(repr=False, compare=False)


class Scores(Mapping[str, Score]):
    """The scores of a run by protocol; shown, they are a table beside those of the controls."""

    def __init__(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        self._found = {name: _score(name, record) for name, record in records.items()}

    def __getitem__(self, protocol: str) -> Score:
        if protocol not in self._found:
            raise DataError(unknown_name("protocol", protocol, self._found))
        return self._found[protocol]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return text_table(self._rows())

    def _repr_html_(self) -> str:
        return html_table(self._rows())

    def _rows(self) -> list[list[str]]:
        controls = list(dict.fromkeys(name for s in self._found.values() for name in s.controls))
        rows = [["protocol", "figure", "student", "95 % interval", "images", *controls]]
        for name, score in self._found.items():
            between = "" if score.interval is None else "{:.1f} to {:.1f}".format(*score.interval)
            others = [f"{score.controls[c]:.1f}" if c in score.controls else "" for c in controls]
            figure = spoken(score.figure)
            rows.append([name, figure, f"{score.value:.1f}", between, f"{score.images:,}", *others])
        return rows


@dataclass(frozen=True)
class Embeddings:
    """Embeddings (N, D), float32, of named images; `left_out` says why others have none."""

    names: Sequence[str]
    rows: npt.NDArray[np.float32] = field(repr=False, compare=False)
    left_out: Mapping[str, str]


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run in the folder `path`; `data` is what it was trained on.

    `scores` are those of the protocols of the experiment, on images that chose nothing. A student
    of the user's own code is built from `backbone`, or from the code that is registered in this
    process. Raises DataError where something is asked for that is no longer in the folder, because
    another run has taken its place.
    """

    layout: RunLayout
    places: DatasetLayout
    experiment: Experiment
    file: str
    scores: Scores
    best: "Content"
    backbone: nn.Module | None = field(default=None, repr=False)

    @property
    def path(self) -> Path:
        """The folder of the results."""
        return self.layout.root

    @property
    def checkpoint(self) -> Path:
        """The file of the best checkpoint."""
        self._require_current()
        return self.layout.checkpoints / BEST

    @cached_property
    @public
    def data(self) -> Dataset:
        """The data set, with the features of the experiment."""
        return open_dataset(
            str(self.places.root),
            features=self.experiment.features,
            image=self.experiment.dataset.image,
        )

    @cached_property
    @public
    def encoder(self) -> ReadyEncoder:
        """The trained backbone in evaluation mode, and the preparation of its images."""
        student, image = self.experiment.student, self.experiment.dataset.image
        return load_encoder(self.checkpoint, student=student, image=image, backbone=self.backbone)

    @public
    def embed(
        self,
        images: PathText | Sequence[PathText],
        *,
        skip_unreadable: bool = False,
        device: str = "auto",
        progress: Bar = None,
    ) -> Embeddings:
        """Embed the images in folders and files. Raises DataError for one that cannot be read."""
        paths = [images] if isinstance(images, str | PathLike) else list(images)
        found = find_images([Path(fspath(path)) for path in paths])
        names, parts, left_out = list[str](), [], dict[str, str]()
        with watched(progress) as bar:
            bar.start("embed", len(found.images), "images")
            skipped = left_out if skip_unreadable else None
            for batch, rows in embedded_batches(
                found.images, self.encoder, device_from(device), bar, skipped
            ):
                names += batch
                parts.append(rows)
        if not parts:
            raise DataError(f"None of the {len(found.images)} images can be read: {left_out}.")
        return Embeddings(names, np.concatenate(parts), left_out)

    @public
    def report(self, *, progress: Bar = None) -> Path:
        """Write one HTML page about the run, and return its path."""
        self._require_current()
        path = self.layout.report
        with watched(progress) as bar:
            write_report(self.experiment, self.file, (), self.places, self.layout, bar, path=path)
        return path

    @public
    def export(
        self,
        form: str = "safetensors",
        *,
        int8: bool = False,
        path: PathText | None = None,
        progress: Bar = None,
    ) -> Path:
        """Write the backbone for other programs, with a card beside it, and return its path.

        `form` is safetensors, torchvision, timm, onnx or released. With `int8`, which is for onnx,
        the int8 form of the file is written beside it, both are compared in their cards, and the
        path is that of the int8 file.
        """
        if form not in FORMATS:
            raise ConfigError(unknown_name("format", form, FORMATS))
        if int8 and form != "onnx":
            raise ConfigError(f"int8 is for the format onnx; found {form!r}.")
        self._require_current()
        ending = FORMATS[form].ending
        target = self.layout.export(self.experiment.name, ending) if path is None else Path(path)
        if int8:
            with watched(progress) as bar:
                target, _ = export_int8(
                    self.experiment,
                    self.places,
                    self.layout,
                    bar,
                    path=target,
                    network=self.backbone,
                )
            return target
        export_backbone(self.experiment, self.layout, form=form, path=target, network=self.backbone)
        return target

    def _require_current(self) -> None:
        """Raise DataError unless the folder holds the weights that it held."""
        if not self.best.is_in(self.layout.checkpoints / BEST):
            raise DataError(
                f"{self.path} now holds another run than the one that this object is of. The call "
                "that made it puts its results back; give each run an `out` of its own to have "
                "both."
            )

    def __repr__(self) -> str:
        return f"Run {self.path}\n{self.scores!r}"

    def _repr_html_(self) -> str:
        return f"<p>Run {self.path}</p>{self.scores._repr_html_()}"


@public
def open_run(path: PathText, *, backbone: nn.Module | None = None) -> Run:
    """Open a run that `distil`, `pretrain` or `run_experiment` finished in the folder `path`.

    A student of the user's own needs its network as `backbone`, unless it is registered under the
    same name in this process. Raises DataError if there is no finished run, WeightsError if the
    weights are not of `backbone`.
    """
    root = Path(fspath(path))
    layout = RunLayout(root)
    if not (layout.checkpoints / BEST).exists() or not (root / PLACES).exists():
        raise DataError(f"There is no finished run of this library in {str(root)!r}.")
    places = json.loads((root / PLACES).read_text(encoding="utf-8"))
    data = DatasetLayout(location(places["data"]))
    return opened(layout, data, load(root / EXPERIMENT), backbone)


def opened(
    layout: RunLayout,
    data: DatasetLayout,
    experiment: Experiment,
    backbone: nn.Module | None = None,
) -> Run:
    """Return a finished run, with its scores as they are now."""
    text = (layout.root / EXPERIMENT).read_text(encoding="utf-8")
    files = {name: layout.metrics / f"{name}.json" for name in experiment.evaluate}
    scores = Scores(
        {n: json.loads(f.read_text(encoding="utf-8")) for n, f in files.items() if f.exists()}
    )
    best = Content.of(layout.checkpoints / BEST)
    run = Run(layout, data, experiment, text, scores, best, backbone)
    if backbone is not None and experiment.student.is_own:
        load_encoder(run.checkpoint, backbone=backbone)  # raises if it is another network
        name = experiment.student.architecture.removeprefix(OWN_PREFIX)
        if name not in STUDENTS:
            register_copies(name, backbone)
    return run


@dataclass
class Content:
    """The content of a file: it is read again only if the file was written again."""

    stamp: tuple[int, int]
    sha256: str

    @classmethod
    def of(cls, file: Path) -> "Content":
        """Return that of a file."""
        return cls(_stamp(file), sha256_of(file))

    def is_in(self, file: Path) -> bool:
        """Return whether the file has the same content now."""
        if not file.exists():
            return False
        stamp = _stamp(file)
        if stamp != self.stamp and sha256_of(file) == self.sha256:
            self.stamp = stamp
        return stamp == self.stamp


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size


def note_places(layout: RunLayout, data: DatasetLayout) -> None:
    """Record where the data of a run are."""
    write_json(layout.root / PLACES, {"data": str(data.root.absolute())})


def _score(name: str, record: Mapping[str, Any]) -> Score:
    main = record["main"]
    low, high = record.get(f"{main}_low"), record.get(f"{main}_high")
    return Score(
        protocol=name,
        figure=main,
        value=record[main],
        interval=None if low is None or high is None else (low, high),
        controls={n: values[main] for n, values in record["controls"].items() if main in values},
        images=record["images"][record["split"]],
        record=record,
    )
