"""What an experiment needs before a stage computes anything: enough images, and its files."""

from collections.abc import Mapping

from pipeline.base.errors import WeightsMissingError
from pipeline.loading.loaders import require_a_batch
from pipeline.representations.representation import RepresentationOptions
from stages.experiment.run_identity import given_weights
from stages.experiment.schema import Experiment


def require_enough(experiment: Experiment, images: int) -> None:
    """Raise DataError if this number of training images is too small to train on.

    Stages check this first, before they compute anything in vain.
    """
    if experiment.train is not None:
        parallel = experiment.train.parallel
        require_a_batch(images, experiment.train.batch_size, parallel.devices * parallel.nodes)


def missing_files(features: Mapping[str, RepresentationOptions]) -> list[str]:
    """Return one sentence for each file that a feature needs and that is missing."""
    return [
        f"features.{name}.{key}: there is no file {str(path)!r}."
        for name, options in features.items()
        for key, path in options.files().items()
        if not path.is_file()
    ]


def missing_weights(experiment: Experiment) -> list[str]:
    """Return one sentence if the weights that training starts from are missing."""
    weights = given_weights(experiment)
    if weights is None or weights.exists():
        return []
    return [
        f"student.weights: there is no file and no finished run {experiment.student.weights!r}."
    ]


def require_weights(experiment: Experiment) -> None:
    """Raise WeightsMissingError if the weights that training starts from are missing."""
    if missing := missing_weights(experiment):
        raise WeightsMissingError(*missing)


def require_files(features: Mapping[str, RepresentationOptions]) -> None:
    """Raise WeightsMissingError that names every missing file."""
    if missing := missing_files(features):
        raise WeightsMissingError(
            f"{' '.join(missing)} Put the missing file there, or name another one."
        )
