"""`mvmr init`: set a project up in this folder, with proportions that suit the photographs."""

import os
import shlex
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from pipeline.base.errors import ConfigError, DataError, WeightsMissingError
from pipeline.base.text import counted
from pipeline.datasets.image_files import ENDINGS
from pipeline.models.encoder import outlined
from pipeline.models.student import student_section
from pipeline.planning.proportions import MOST_EPOCHS, is_enough, sizes_for, steps_for
from pipeline.planning.survey import Survey, survey
from pipeline.representations.teachers.frozen import TeacherOptions
from pipeline.representations.teachers.teacher_names import teacher_section
from pipeline.training.start import initial_encoder
from stages.experiment.new_project import require_new, set_up
from stages.experiment.own_params import OwnParams
from stages.experiment.paths import RUNS, name_of, run_layout
from stages.experiment.requirements import require_weights
from stages.experiment.run_identity import given_weights
from stages.experiment.schema import Experiment, from_sections
from stages.experiment.shipped import config_path
from stages.steps.fit_proportions import Choice, Splits, choose, fit_to_folder
from stages.terminal.console import Screen, table
from stages.terminal.result import Result, everyday_time, unlisted_lines

WITH_TEACHER, ALONE = "folder_clip", "folder_self_supervised"
WITHOUT_PHOTOGRAPHS = "robust_digits"  # the quick start
VIRTUAL_ENVIRONMENT = "pyvenv.cfg"
OWN_ROOT = "data/raw/images"  # of the configs for photographs of one's own


def init(
    screen: Screen,
    *,
    photos: Path | None,
    teacher: str | None,
    student: str | None,
    begin_from: str | None,
    minutes: float,
) -> Result:
    """Write the files of a project; `minutes` is what its whole run may take on this machine."""
    require_new()
    if photos is not None:
        _require_apart(photos)
    elif begin_from is None:
        _require_no_photographs(teacher)
    named = teacher_section(teacher) if teacher else None
    own = WITH_TEACHER if teacher else ALONE
    params = OwnParams(config_path(begin_from or (own if photos else WITHOUT_PHOTOGRAPHS)))
    if named is not None:
        params.set_teacher(named)
    if student is not None:
        params.set_student(student_section(student))
        _require_student(screen, from_sections(params.sections))
    if photos is None:
        return _as_it_is(screen, params, teacher, changed=bool(teacher or student))
    return _for_photographs(screen, params, photos, teacher, minutes)


def _require_apart(photos: Path) -> None:
    """Raise an error if the project would lie among the photographs, or they do not exist."""
    if not photos.is_dir():
        what = "is not a folder" if photos.exists() else "does not exist"
        raise DataError(
            f"{str(photos)!r} {what} (looked for it in {Path.cwd()}). Name the folder that holds "
            "your photographs."
        )
    here = Path.cwd()
    if any((here / own).resolve().is_relative_to(photos.resolve()) for own in ("", "data", RUNS)):
        raise ConfigError(
            f"{str(photos)!r} is where this project, {here}, keeps files of its own. Make an empty "
            "folder elsewhere, and name the photographs from there: `mvmr init PHOTOS`."
        )


def _name_for(photos: Path) -> str:
    """Return the name of the experiment and its data, which do not lie among the images."""
    name = name_of(str(photos))
    taken = photos.resolve().is_relative_to(Path("data", name).resolve())
    return f"{name}-project" if taken else name


def _require_no_photographs(teacher: str | None) -> None:
    if teacher is not None:
        raise ConfigError("A teacher needs photographs: `mvmr init PHOTOS --teacher TEACHER`.")
    for folder, inner, files in os.walk("."):
        inner[:] = [name for name in sorted(inner) if not name.startswith(".")]
        if VIRTUAL_ENVIRONMENT in files:  # it has images of libraries
            inner.clear()
        images = [name for name in files if Path(name).suffix.lower() in ENDINGS]
        if images:
            found = Path(folder, images[0])
            if len(found.parts) == 1:
                _require_apart(Path())
            raise ConfigError(
                f"There are images here, such as {str(found)!r}. Name their folder: `mvmr init "
                f"{shlex.quote(found.parts[0])}`; or take the digits: `mvmr init --from "
                f"{WITHOUT_PHOTOGRAPHS}`."
            )


def _as_it_is(screen: Screen, params: OwnParams, teacher: str | None, *, changed: bool) -> Result:
    """Set up a config with its own images."""
    experiment = from_sections(params.sections)
    if teacher is not None:
        _require_teacher(screen, experiment, teacher)
    name = experiment.name
    text = params.text() if changed else params.path.read_text(encoding="utf-8")
    written = set_up(text, _readme(experiment, "its own images", None), None)
    lines = [_written(written)]
    root = getattr(experiment.dataset.source, "root", None)
    if root is not None and not Path(root).exists():
        lines.append(f"Put the images into {root} first, or set dataset.source.root.")
    values = {"experiment": name, "config": params.config, "written": [*map(str, written)]}
    return Result(values, lines, ["dvc", "repro"], afterwards=["mvmr", "export"])


def _for_photographs(
    screen: Screen, params: OwnParams, photos: Path, teacher: str | None, minutes: float
) -> Result:
    if params.sections["dataset"]["source"].get("root") != OWN_ROOT:
        raise ConfigError(
            f"The config {params.config!r} brings its own images. For photographs of your own "
            f"start from {WITH_TEACHER} or {ALONE}, or name no photographs."
        )
    screen.progress.start("look at the photographs", 0, "")
    found = survey(str(photos))
    splits = fit_to_folder(params, found, _name_for(photos))
    _require_teacher(screen, from_sections(params.sections), teacher)
    choice = choose(params, found, splits, seconds=60 * minutes, progress=screen.progress)
    rows = _reasons(found, splits, choice, minutes)
    head = [f"{choice.experiment.name}: from the config {params.config}, {_origin()}", ""]
    head += [f"{name}: {value}, {why}" if why else f"{name}: {value}" for name, value, why in rows]
    head += ["", f"Cost: {everyday_time(choice.seconds)} on the machine of `mvmr init` (estimate)"]
    written = set_up(params.text(head), _readme(choice.experiment, str(photos), photos), photos)
    values = {
        "experiment": choice.experiment.name,
        "config": params.config,
        "images": {split: len(items) for split, items in splits.items()},
        "classes": found.classes,
        "size": choice.size,
        "batch_size": choice.extent.batch,
        "epochs": choice.extent.epochs,
        "steps": choice.extent.steps,
        "seconds": choice.seconds,
        "written": [*map(str, written)],
    }
    return Result(
        values,
        [
            table(f"{choice.experiment.name}: chosen", ["", "", ""], rows, text_columns=3),
            *unlisted_lines(found.source.unlisted),
            *_advice(choice),
            _written(written),
        ],
        ["dvc", "repro"],
        afterwards=["mvmr", "embed", str(photos), "-o", f"runs/{choice.experiment.name}.npz"],
    )


def _require_student(screen: Screen, experiment: Experiment) -> None:
    """Build the student, with weights if it has any, which says what is wrong with a name."""
    screen.progress.start("build the student", 0, "")
    student, image = experiment.student, experiment.dataset.image
    if student.weights is None:
        outlined(student, channels=image.channels, size=image.size)
    else:
        require_weights(experiment)
        weights = given_weights(experiment)
        initial_encoder(student, image, weights, seed=0, progress=screen.progress)


def _require_teacher(screen: Screen, experiment: Experiment, teacher: str | None) -> None:
    """Load the teachers, which says what is wrong with a name or a file before anything else."""
    for options in experiment.features.values():
        if isinstance(options, TeacherOptions):
            screen.progress.start("load the teacher", 0, "")
            try:
                options.build(experiment.dataset.image)
            except WeightsMissingError as error:
                if options.files():
                    raise
                named = teacher or "open_clip:MODEL/TAG"
                raise WeightsMissingError(f"{error} Here: --teacher {named}:FILE.") from error


def _reasons(found: Survey, splits: Splits, choice: Choice, minutes: float) -> list[list[str]]:
    """Return rows of what was chosen: a name, a value, and why."""
    cut = choice.experiment.dataset.split
    about = "about " if cut.validation or cut.test else ""  # they are cut by what files contain
    counts = about + ", ".join(f"{len(items):,} {split}" for split, items in splits.items())
    brought = f"{' and '.join(found.brought)} as the folder has it" if found.brought else ""
    extent, sizes = choice.extent, sizes_for(found.side)
    steps = steps_for(choice.experiment.student.weights)
    if choice.size == sizes[-1]:
        why = f"the shorter side of your images is {found.side} px (median)"
    elif is_enough(extent, steps):
        why = f"the largest that leaves time for {steps.enough:,} steps or {MOST_EPOCHS} epochs"
    else:
        why = "the smallest, as time is short"
    few = "" if is_enough(extent, steps) else f", of which {steps.enough:,} would be enough"
    within = choice.seconds <= 60 * minutes
    limit = "within" if within else "no run is shorter than this, but over"
    return [
        ["photographs", counts, brought],
        ["labels", counted(found.classes, "classes") if found.classes else "none", found.labels],
        ["size", f"{choice.size} px", why],
        ["batch", f"{extent.batch}", "by the number of training images"],
        ["epochs", f"{extent.epochs}", f"{about}{counted(extent.steps, 'steps')}{few}"],
        [
            "time",
            everyday_time(choice.seconds),
            f"{limit} {minutes:g} min (--minutes), by measurement",
        ],
    ]


def _advice(choice: Choice) -> Iterator[str]:
    """Say what helps where the time does not suffice for enough steps."""
    weights = choice.experiment.student.weights
    if not is_enough(choice.extent, steps_for(weights)):
        known = (
            ""
            if weights
            else ", or let the student start from known weights (--student "
            "timm:NAME:FILE or timm:NAME:pretrained), which needs fewer steps"
        )
        yield (f"{counted(choice.extent.steps, 'steps')} teach little: give more --minutes{known}.")


def _written(paths: Sequence[Path]) -> str:
    return f"Written: {', '.join(map(str, paths))}."


def _origin() -> str:
    return f"by `mvmr init` of mvmr {version('mvmr')}"


def _readme(experiment: Experiment, images: str, photos: Path | None) -> str:
    """Return ten lines on what is here and how to go on."""
    name = experiment.name
    use = f"mvmr embed {shlex.quote(str(photos))} -o runs/{name}.npz" if photos else "mvmr export"
    return f"""# {name}

A small image encoder, trained by mvmr on {images}.

- `dvc repro` runs what is not done yet, and ends with the page `{run_layout(name).report}`.
- `{use}` uses the encoder afterwards.
- `params.yaml` is the experiment: edit it, and run `mvmr plan` and `dvc repro` again.
- `dvc.yaml` are the stages; `mvmr doctor` says what each has done, and what to mend.
- `data/` holds packed images and stored features, `runs/` results; git ignores both.
- `git add --all`, `git commit` keep the experiment, and `dvc.lock` its record.
"""
