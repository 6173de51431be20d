"""One self-contained HTML page: panels in, a string out. Nothing on it is fetched."""

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
from pipeline.reporting.drawings import representations
from pipeline.reporting.health import health
from pipeline.reporting.maps import maps
from pipeline.reporting.provenance import provenance
from pipeline.reporting.run_facts import Run
from pipeline.reporting.sample import STUDENT, UNTRAINED, Absent, Sample
from pipeline.reporting.scores import protocols
from pipeline.reporting.searches import searches
from pipeline.reporting.summary import summary
from pipeline.representations.representation import RepresentationOptions

TEMPLATES = Path(__file__).parent / "templates"
GUIDES = {
    "scores": (
        "Look for a student that is ahead of the untrained encoder, and of what needs no training, "
        "by the protocol nearest to your use. Bad: behind, or not settled."
    ),
    "cached": (
        "Look for an error far below what a term of dependence changes by in training. Bad: one of "
        "that size: the term then follows the storing, not the images; store more numbers. (A term "
        "of regression predicts the stored numbers as they are.)"
    ),
    "curves": (
        "Look for an objective that falls on validation as on training, and probes that rise. Bad: "
        "validation rises while training falls (it learns the images by heart), or a jump."
    ),
    "representations": (
        "Look for the shapes of the images: what you recognise in a drawing, the representation "
        "can teach. Bad: a drawing that is empty, or the same for every image."
    ),
    "dependence": (
        "Look for a student that depends more than the untrained encoder on what its objective "
        "names. Bad: no more than untrained, or a row of zeros."
    ),
    "neighbours": (
        "Look for neighbours of the same content, not of the same colour or background alone. Bad: "
        "the untrained encoder finds as much, or one image is near to every query."
    ),
    "confusion": (
        "Look for errors between classes that resemble each other. Bad: a class that is hardly "
        "ever right, or one that images of all others are taken for."
    ),
    "mistakes": (
        "Look for wrong labels, and for what the images have in common. Bad: images that anybody "
        "would tell apart."
    ),
    "provenance": (
        "Look here for what makes this run again. Bad: images left out that you need, or digests "
        "and versions other than those of the run that you compare it with."
    ),
}


@dataclass(frozen=True)
class Panel:
    """One part of the page: `content` is what its template shows, or why it is left out.

    `guide` says what to look for, and what would be a bad sign; empty where the panel says it.
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
        """The file that shows it."""
        return f"{self.name}.html.j2"


@dataclass(frozen=True)
class Report:
    """What the page of one run is made from.

    `file` is the experiment file as it was written, `assignments` what was set on top of it,
    `features` what the run stores, `predictions` those of `protocol`; none where no protocol
    predicts a class.
    """

    run: Run
    sample: Sample
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
    """Return the panels of a run's page, in their order."""
    recipes = _recipes(report)
    progress.start("draw the page", len(recipes), "panels")
    panels = []
    for name, (title, content) in recipes.items():
        panels.append(Panel(name, title, content(), GUIDES.get(name, "")))
        progress.advance(1)
    return panels


def _recipes(report: Report) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Return the title of each panel, and what makes its content."""
    run, sample = report.run, report.sample
    protocol, predictions = report.protocol, report.predictions
    predicted = {p.image: p.predicted for p in predictions}
    teachers = [feature.name for feature in run.cached if feature.teacher]
    compared = [STUDENT, UNTRAINED, *teachers[:1]]
    return {
        "summary": ("Summary", lambda: summary(run)),
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
