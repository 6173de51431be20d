"""One self-contained HTML page: panels in, a string out. The page loads no other file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.base.progress import Progress
from pipeline.reporting import formats
from pipeline.reporting.cached import cache, trained_on
from pipeline.reporting.confusion import Prediction, confusion, mistakes
from pipeline.reporting.curves import curves
from pipeline.reporting.dependence_map import dependence
from pipeline.reporting.health import health
from pipeline.reporting.int8_panel import exported_int8
from pipeline.reporting.maps import maps
from pipeline.reporting.neighbours_panel import searches
from pipeline.reporting.provenance import provenance
from pipeline.reporting.representations_panel import representations
from pipeline.reporting.run_facts import RunFacts
from pipeline.reporting.sample import STUDENT, Absent, ImageSample
from pipeline.reporting.scores import protocols
from pipeline.reporting.summary import summary
from pipeline.representations.representation import RepresentationOptions

TEMPLATES = Path(__file__).parent / "templates"
GUIDES = {
    "scores": (
        "Look for a student that is ahead of the encoder before training, and of controls without "
        "training, by the protocol nearest to your use. Bad: behind, or not settled."
    ),
    "cached": (
        "Look for an error far smaller than the change of a dependence term during training. Bad: "
        "an error of that size, since the term then follows the rounding, not the images; store "
        "more numbers. (A regression term predicts the stored numbers as they are.)"
    ),
    "curves": (
        "Look for an objective that falls on validation as on training, and probes that rise. Bad: "
        "validation rises while training falls (overfitting), or a jump."
    ),
    "representations": (
        "Look for the shapes of the images: a representation can teach what you recognise in its "
        "drawing. Bad: a drawing that is empty, or the same for every image."
    ),
    "dependence": (
        "Look for a student that depends on the spaces in its objective more than the encoder did "
        "before training. Bad: no more than before, or a row of zeros."
    ),
    "neighbours": (
        "Look for neighbours with the same content, not just the same colour or background. Bad: "
        "the encoder did as well before training, or one image is near every query."
    ),
    "confusion": (
        "Look for errors between classes that resemble each other. Bad: a class that is rarely "
        "right, or a class for which images of all others are mistaken."
    ),
    "mistakes": (
        "Look for wrong labels, and for what the images have in common. Bad: mistakes that nobody "
        "would make."
    ),
    "int8": (
        "Look for scores within each other's intervals, and for a file that is smaller and faster. "
        "Bad: a score that falls out of the float file's interval, or a file that is not faster; "
        "then use the float file."
    ),
    "provenance": (
        "Look here to repeat this run. Bad: images you need were left out, or digests and versions "
        "differ from those of the run you compare with."
    ),
}


@dataclass(frozen=True)
class Panel:
    """One part of the page: `content` is what its template shows, or why it is left out.

    `guide` says what to look for and what is a bad sign; empty where the template says so itself.
    """

    name: str
    title: str
    content: Any
    guide: str = ""

    @property
    def shown(self) -> bool:
        """Whether there is something to show."""
        return not isinstance(self.content, Absent)

    @property
    def template(self) -> str:
        """The template file that shows the panel."""
        return f"{self.name}.html.j2"


@dataclass(frozen=True)
class Report:
    """What the page of one run is made from.

    `file` is the text of the experiment file, `assignments` are the overrides. `features` are
    those that the run stores. `predictions` are those of `protocol`, empty where no protocol
    predicts a class.
    """

    run: RunFacts
    sample: ImageSample
    features: Mapping[str, RepresentationOptions]
    file: str
    assignments: Sequence[str]
    protocol: str
    predictions: Sequence[Prediction]


def render_report(report: Report, progress: Progress) -> str:
    """Return the page about one run."""
    return render(
        f"{report.run.name}: report",
        report.run.name,
        "report of a run",
        panels_of(report, progress),
    )


def panels_of(report: Report, progress: Progress) -> list[Panel]:
    """Return the panels of a run's page in order."""
    recipes = _recipes(report)
    progress.start("draw the page", len(recipes), "panels")
    panels = []
    for name, (title, content) in recipes.items():
        panels.append(Panel(name, title, content(), GUIDES.get(name, "")))
        progress.advance(1)
    return panels


def _recipes(report: Report) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Return the title of each panel, and a function that makes its content."""
    run, sample = report.run, report.sample
    protocol, predictions = report.protocol, report.predictions
    predicted = {p.image: p.predicted for p in predictions}
    teachers = [feature.name for feature in run.cached if feature.teacher]
    compared = [STUDENT, sample.before, *teachers[:1]]
    return {
        "summary": ("Summary", lambda: summary(run, report.assignments)),
        "scores": ("Scores", lambda: protocols(run) or Absent("nothing has been evaluated")),
        "cached": ("What was cached", lambda: cache(run)),
        "curves": ("Training", lambda: curves(run)),
        "representations": ("Representations", lambda: representations(sample, report.features)),
        "dependence": ("Dependence between spaces", lambda: dependence(sample, trained_on(run))),
        "maps": ("Maps of the embedding", lambda: maps(sample, predicted)),
        "neighbours": ("Nearest neighbours", lambda: searches(sample, compared)),
        "confusion": ("Errors by class", lambda: confusion(protocol, predictions, run.classes)),
        "mistakes": ("Most confident mistakes", lambda: mistakes(protocol, predictions, sample)),
        "health": ("Health of the embedding", lambda: health(sample)),
        "int8": ("Exported as int8", lambda: exported_int8(run)),
        "provenance": ("Provenance", lambda: provenance(run, report.file, report.assignments)),
    }


def render(title: str, heading: str, kind: str, panels: Sequence[Panel]) -> str:
    """Return a page of panels."""
    page: str = (
        _environment()
        .get_template("page.html.j2")
        .render(title=title, heading=heading, kind=kind, panels=panels)
    )
    return page


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: Mapping[str, Callable[..., str]] = {
        "number": formats.number,
        "percent": formats.percent,
        "count": formats.count,
        "size": formats.size,
        "duration": formats.duration,
        "times": formats.times,
        "unbroken": formats.unbroken,
    }
    environment.filters.update(filters)
    return environment
