"""From images to a scored encoder in one call."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from torch import nn

from mvmr.arrays import Bar, Count, Folder, PathText, watched
from mvmr.opened_data import Dataset, is_within, pack
from mvmr.opened_run import EXPERIMENT, Run, note_places, opened
from mvmr.public_calls import resumable
from mvmr.recipe_list import Configs
from mvmr.student_copies import register_copies
from pipeline.base.atomic import atomic_path
from pipeline.base.code_digest import source_digest
from pipeline.base.digests import digest, state_digest
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.locations import location
from pipeline.base.options import Options, checked_by
from pipeline.base.own_code import OWN
from pipeline.base.progress import Progress
from pipeline.base.yaml_file import override, read_yaml
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.images.original_view import ImageOptions
from pipeline.models.encoder import build_encoder
from pipeline.models.student import OWN_PREFIX, student_section
from pipeline.objective.terms import ObjectiveOptions, compares_views, representations_of
from pipeline.representations.representation import RepresentationOptions
from pipeline.representations.teachers.teacher_names import teacher_section
from stages.experiment.for_student import for_student
from stages.experiment.paths import DatasetLayout, RunLayout, name_of
from stages.experiment.requirements import require_enough
from stages.experiment.schema import Experiment, from_sections
from stages.steps.pack_images import pack_images
from stages.steps.score_student import score_student
from stages.steps.store_features import store_features
from stages.steps.train_student import train_student

Sections = Mapping[str, Any]
Images: TypeAlias = "PathText | Sections | Dataset"
Student: TypeAlias = "str | Sections | nn.Module"
Teacher: TypeAlias = "str | Sections | RepresentationOptions"
TEACHER = "teacher"


@resumable()
def distil(
    images: Images,
    *,
    teacher: Teacher,
    out: Folder,
    student: Student = "resnet18",
    image: ImageOptions | None = None,
    features: Mapping[str, RepresentationOptions | Sections] | None = None,
    objective: Sections | None = None,
    train: Sections | None = None,
    evaluate: Sections | None = None,
    data: Folder | None = None,
    seed: int = 0,
    workers: Count | None = None,
    progress: Bar = None,
) -> Run:
    """Train a student to embed images as a frozen teacher does, score it, and return the run.

    The images are packed, the teacher's embeddings computed once and stored, the student trained
    and scored beside controls. Whatever is done already, by this call or another one with the same
    `data`, is not done again, and an interrupted call continues where it was.

    `images` is a folder, a source as in an experiment file, or a data set (`pack`, `open_dataset`).
    `teacher` is "open_clip:MODEL/TAG" or "timm:MODEL", with ":FILE" for weights in a file, the
    options of a feature, or a network handed over by `mvmr.teacher`. `student` is an architecture
    or "timm:NAME", with ":FILE" or, for timm, ":pretrained" for known weights to start from, a
    section of options, or any module: a copy of it is trained. The recipe is
    `configs()["folder_clip"]`; `train` and `student` change single options of it, `objective` and
    `evaluate` replace it, and `features` adds stored features that the objective may name. Its own
    is named "teacher". Images with one class each are scored by linear and k-NN probes on test
    images, others by retrieval. `image` says how the student sees images; without it, they are as
    the data set was packed or opened for, or else as in the recipe, in the colours that known
    weights were trained with.

    Results are in the folder `out`. Shards and features are in `data`, by default the folder
    `data/NAME` beside `out`, where NAME is that of the folder of images.
    """
    if TEACHER in (features or {}):
        raise ConfigError(
            f"{TEACHER!r} names what the teacher of `distil` gives: name the feature otherwise."
        )
    recipe = read_yaml(Configs()["folder_clip"])
    recipe["features"] = {
        TEACHER: teacher_section(teacher) if isinstance(teacher, str) else teacher
    }
    recipe["objective"] = {
        TEACHER if name == "clip" else name: {**term, "representation": TEACHER}
        for name, term in recipe["objective"].items()
    }
    changes = _Changes(student, image, features or {}, objective, train or {}, evaluate, seed)
    layout = _run_layout(out, images)
    with watched(progress) as bar:
        packed = _packed(images, layout, data, bar)
        return _run(recipe, packed, changes, layout, workers, bar)


@resumable()
def pretrain(
    images: Images,
    *,
    out: Folder,
    student: Student = "resnet18",
    image: ImageOptions | None = None,
    features: Mapping[str, RepresentationOptions | Sections] | None = None,
    objective: Sections | None = None,
    train: Sections | None = None,
    evaluate: Sections | None = None,
    data: Folder | None = None,
    seed: int = 0,
    workers: Count | None = None,
    progress: Bar = None,
) -> Run:
    """Train a student on images alone, without labels or a teacher, score it, and return the run.

    The recipe is `configs()["folder_self_supervised"]`: VICReg's terms, and a linear map of the
    features that predicts cached oriented gradients. Otherwise as `distil`.
    """
    recipe = read_yaml(Configs()["folder_self_supervised"])
    changes = _Changes(student, image, features or {}, objective, train or {}, evaluate, seed)
    layout = _run_layout(out, images)
    with watched(progress) as bar:
        packed = _packed(images, layout, data, bar)
        return _run(recipe, packed, changes, layout, workers, bar)


@resumable()
def run_experiment(
    experiment: PathText | Sections,
    *,
    out: Folder,
    data: Folder | None = None,
    override_with: Sequence[str] = (),
    workers: Count | None = None,
    progress: Bar = None,
) -> Run:
    """Run all stages of an experiment that are not done yet, and return the run.

    `experiment` is a file, a name of `configs()`, or a dictionary of sections; `override_with` are
    changes as after `mvmr -s`, such as "train.lr=1e-3". The results are those of the commands, bit
    for bit, in the folder `out`; shards and features are in `data`, by default `data/NAME` beside
    `out`, where NAME is that of the data set. Raises ConfigError that lists every problem.
    """
    sections = override(_sections(experiment), override_with)
    found, layout = from_sections(sections), _run_layout(out)
    stored = _stored_beside(layout, data, found.dataset.name)
    with watched(progress) as bar:
        enough = partial(require_enough, found)
        pack_images(found.dataset, stored, bar, require_enough=enough)
        return _finish(found, sections, stored, layout, workers, bar)


@dataclass(frozen=True)
class _Changes:
    """What a call changes of a recipe."""

    student: Student
    image: ImageOptions | None
    features: Mapping[str, Any]
    objective: Sections | None
    train: Sections
    evaluate: Sections | None
    seed: int


def _run(
    recipe: dict[str, Any],
    packed: Dataset,
    changes: _Changes,
    layout: RunLayout,
    workers: int | None,
    bar: Progress,
) -> Run:
    student = _student(recipe["student"], changes.student)
    image = _image(changes.image, packed)
    own_image = recipe["dataset"]["image"]
    channels = own_image["channels"] if image is None else image.channels
    taught = TEACHER in recipe["features"]
    suited = for_student(student, recipe["train"], taught=taught, channels=channels)
    objective = recipe["objective"] if changes.objective is None else changes.objective
    terms = checked_by(ObjectiveOptions, dict(objective), "objective")
    named = representations_of(terms)
    train = _training({**recipe["train"], **suited.train}, changes.train)
    if "validate_on" not in changes.train and any(map(compares_views, terms.values())):
        train.pop("validate_on", None)  # of the recipe: the views of an image would be the same one
    own = {name: options for name, options in recipe["features"].items() if name in named}
    sections = {
        "name": name_of(str(layout.root)),
        "seed": changes.seed,
        "dataset": {**_as_packed(packed), "image": image or {**own_image, **suited.image}},
        "features": {**own, **_opened(packed, recipe), **changes.features},
        "student": student,
        "objective": objective,
        "train": train,
        "evaluate": _protocols(packed) if changes.evaluate is None else changes.evaluate,
    }
    plain = _plain(sections)
    experiment = from_sections(plain)
    require_enough(experiment, packed.manifests["train"].valid)
    return _finish(experiment, plain, packed.layout, layout, workers, bar)


def _run_layout(out: Folder, images: Any = None) -> RunLayout:
    """Return the places of a run; raises DataError if it would be mixed with other files."""
    layout = RunLayout(Path(fspath(out)))
    if isinstance(images, str | PathLike) and is_within(layout.root, fspath(images)):
        raise DataError(
            f"{layout.root} lies within the folder of images {fspath(images)}: choose an `out` "
            "outside of it, such as runs/photos."
        )
    if not layout.is_free:
        raise DataError(
            f"The folder {layout.root} holds files that are not of a run: choose a new or an empty "
            "folder as `out`, such as runs/photos."
        )
    return layout


def _opened(packed: Dataset, recipe: Sections) -> dict[str, RepresentationOptions]:
    """Return the features that a data set was opened with, but for one in the teacher's place."""
    taken = TEACHER in recipe["features"]
    return {n: o for n, o in packed.specifications.items() if not (taken and n == TEACHER)}


def _image(wanted: ImageOptions | None, packed: Dataset) -> ImageOptions | None:
    """Return how the student sees images; raises ConfigError for two statements that differ."""
    if None not in (wanted, packed.image) and wanted != packed.image:
        raise ConfigError(
            f"The data set at {packed.path} is opened or packed for other images (now {wanted!r}, "
            f"there {packed.image!r}): leave `image` out, or hand over "
            f"mvmr.open_dataset({str(packed.path)!r}, image=...)."
        )
    return wanted or packed.image


def _finish(
    experiment: Experiment,
    sections: Sections,
    stored: DatasetLayout,
    layout: RunLayout,
    workers: int | None,
    bar: Progress,
) -> Run:
    """Do what remains after packing, and leave the experiment file beside the results."""
    if experiment.student.is_own:  # refused before anything is computed
        image = experiment.dataset.image
        build_encoder(experiment.student, channels=image.channels, size=image.size, seed=0)
    if experiment.features:
        store_features(
            experiment.features,
            experiment.dataset.image,
            stored,
            bar,
            cluster=ClusterOptions(workers),
        )
    if train_student(experiment, stored, layout, bar) is None:
        raise SystemExit(0)  # of several processes, the first goes on alone
    score_student(experiment, experiment.evaluate, stored, layout, bar, tell=bar.note)
    layout.root.mkdir(parents=True, exist_ok=True)
    with atomic_path(layout.root / EXPERIMENT) as temporary, temporary.open("w") as file:
        YAML().dump(_naming_code(sections, experiment), file)
    note_places(layout, stored)
    return opened(layout, stored, experiment)


def _naming_code(sections: Sections, experiment: Experiment) -> dict[str, Any]:
    """Return sections that are read without the code of the user's own, which they name.

    They are in the order given, since sums of terms follow it.
    """
    plain: dict[str, Any] = _plain(sections)
    for section in ("features", "objective", "evaluate"):
        for name, options in (getattr(experiment, section) or {}).items():
            if options.kind == OWN:
                plain[section][name] = {
                    **(plain[section][name] or {}),
                    "kind": OWN,
                    "code": options.code,
                }
    return plain


def _sections(experiment: PathText | Sections) -> dict[str, Any]:
    if isinstance(experiment, Mapping):
        plain: dict[str, Any] = _plain(experiment)
        return plain
    path = Path(fspath(experiment))
    return read_yaml(path if path.suffix in (".yaml", ".yml") else Configs()[str(experiment)])


def _packed(images: Images, layout: RunLayout, data: PathText | None, bar: Progress) -> Dataset:
    if isinstance(images, Dataset):
        images.require_current()
        if data is not None:
            raise ConfigError(
                "`data` says where images are packed to, and these are packed: leave it out."
            )
        return images
    named = images.get("root", images["kind"]) if isinstance(images, Mapping) else fspath(images)
    place = _stored_beside(layout, data, name_of(str(named)))
    return pack(images, str(place.root), progress=bar)


def _stored_beside(layout: RunLayout, data: PathText | None, name: str) -> DatasetLayout:
    beside = layout.root.absolute().parent / "data" / name
    return DatasetLayout(beside if data is None else location(fspath(data)))


def _as_packed(data: Dataset) -> dict[str, Any]:
    """Return the section `dataset` of packed images, from what their manifests record."""
    manifest = data.manifests["train"]
    recorded = {key: deepcopy(manifest.options[key]) for key in ("source", "split", "shards")}
    recorded["split"].get("groups", {}).pop("sha256", None)
    return {"name": manifest.dataset, **recorded}


def _student(recipe: Sections, student: Student) -> dict[str, Any]:
    if isinstance(student, nn.Module):
        student = _handed_over(student)
    own = student_section(student) if isinstance(student, str) else dict(student)
    return {**recipe, **own}


def _handed_over(network: nn.Module) -> str:
    """Register a network under a name that follows from its code, its layers and its weights."""
    network = deepcopy(network).cpu()
    identity = digest([source_digest(network), repr(network), state_digest(network)])
    name = f"{type(network).__name__}-{identity[:8]}"
    register_copies(name, network)
    return OWN_PREFIX + name


def _training(recipe: Sections, changes: Sections) -> dict[str, Any]:
    """Return the recipe with changes; its warm-up keeps its share of the epochs."""
    schedule = dict(recipe["schedule"])
    if isinstance(changes.get("epochs"), int):
        schedule["warmup_epochs"] *= changes["epochs"] / recipe["epochs"]
    return {**recipe, "schedule": schedule, **changes}


def _protocols(data: Dataset) -> dict[str, Any]:
    """Return protocols that the images have what it takes for."""
    test = data.manifests.get("test")
    single = test is not None and test.labelled and not test.multi_label
    return {**({"linear": {}, "knn": {}} if single else {}), "retrieval": {}}


def _plain(value: Any) -> Any:
    """Return sections as an experiment file holds them: mappings, lists, texts and numbers."""
    if isinstance(value, Options):
        required = {"kind": value.kind} if hasattr(value, "kind") else {}
        return {**required, **value.model_dump(mode="json", exclude_defaults=True)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
