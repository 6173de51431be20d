"""Train small image encoders from frozen teachers or without labels, from Python.

    import mvmr
    run = mvmr.distil("photos/", teacher="timm:vit_small_patch14_dinov2", out="runs/photos")
    print(run.scores)

Train
    distil              a student learns a teacher's embedding of a folder of images
    pretrain            a student learns from images alone
    run_experiment      an experiment file, a name of `configs()`, or its sections
    open_run            a finished run: scores, encoder, embed(), report(), export()
    configs             the experiments that come with the library

Images and features
    Image               how the student sees an image: size, channels, mean, std
    pack                images into shards, once
    open_dataset        shards and stored features: samples, and batches of both
    extract             features into the store, computed once an image
    FeatureStore        stored features as arrays, and rows of your own: put()

Parts for a training script of your own
    representation      wavelet scattering, oriented gradients, ... as a module
    distance_correlation, Objective
    linear_probe, knn_probe
    load_encoder        a trained encoder, and the preparation of its images

Code of your own
    teacher             a network as a teacher; a student is just handed over
    register_student, register_representation, register_term, register_protocol

MvmrError is the base of all errors, __version__ the version. Paths are strings or `pathlib.Path`;
arrays are NumPy's or torch's. Everything is silent unless `progress=True`. Each name's own help
says the rest: `help(mvmr.distil)`. Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mvmr import clashes

if TYPE_CHECKING:
    from mvmr.batch_objective import Objective as Objective
    from mvmr.batch_objective import distance_correlation as distance_correlation
    from mvmr.handed_over import register_protocol as register_protocol
    from mvmr.handed_over import register_representation as register_representation
    from mvmr.handed_over import register_student as register_student
    from mvmr.handed_over import register_term as register_term
    from mvmr.handed_over import representation as representation
    from mvmr.handed_over import teacher as teacher
    from mvmr.loaded_encoder import load_encoder as load_encoder
    from mvmr.opened_data import Dataset as Dataset
    from mvmr.opened_data import DatasetSplit as DatasetSplit
    from mvmr.opened_data import Image as Image
    from mvmr.opened_data import LabelledImage as LabelledImage
    from mvmr.opened_data import extract as extract
    from mvmr.opened_data import open_dataset as open_dataset
    from mvmr.opened_data import pack as pack
    from mvmr.opened_run import Run as Run
    from mvmr.opened_run import open_run as open_run
    from mvmr.opened_store import FeatureStore as FeatureStore
    from mvmr.probes import Probe as Probe
    from mvmr.probes import knn_probe as knn_probe
    from mvmr.probes import linear_probe as linear_probe
    from mvmr.recipe_list import configs as configs
    from mvmr.whole_runs import distil as distil
    from mvmr.whole_runs import pretrain as pretrain
    from mvmr.whole_runs import run_experiment as run_experiment
    from pipeline.base.errors import MvmrError as MvmrError

    __version__: str

_PLACES = {
    "mvmr.batch_objective": ("Objective", "distance_correlation"),
    "mvmr.loaded_encoder": ("load_encoder",),
    "mvmr.opened_data": (
        *("Dataset", "DatasetSplit", "Image", "LabelledImage"),
        *("extract", "open_dataset", "pack"),
    ),
    "mvmr.opened_run": ("Run", "open_run"),
    "mvmr.opened_store": ("FeatureStore",),
    "mvmr.handed_over": (
        *("register_protocol", "register_representation", "register_student", "register_term"),
        *("representation", "teacher"),
    ),
    "mvmr.probes": ("Probe", "knn_probe", "linear_probe"),
    "mvmr.recipe_list": ("configs",),
    "mvmr.whole_runs": ("distil", "pretrain", "run_experiment"),
    "pipeline.base.errors": ("MvmrError",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [  # as in `_PLACES`, which a test compares
    "Dataset",
    "DatasetSplit",
    "FeatureStore",
    "Image",
    "LabelledImage",
    "MvmrError",
    "Objective",
    "Probe",
    "Run",
    "__version__",
    "configs",
    "distance_correlation",
    "distil",
    "extract",
    "knn_probe",
    "linear_probe",
    "load_encoder",
    "open_dataset",
    "open_run",
    "pack",
    "pretrain",
    "register_protocol",
    "register_representation",
    "register_student",
    "register_term",
    "representation",
    "run_experiment",
    "teacher",
]

clashes.require_own_packages()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("mvmr")
    if name not in _MODULES:
        raise AttributeError(f"module 'mvmr' has no attribute {name!r}; help(mvmr) lists all.")
    return getattr(import_module(_MODULES[name]), name)
