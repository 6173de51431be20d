"""A trained encoder in a file: its weights, its online probe, and a description of both.

The file is a dictionary in the layout of the released MV-MR weights (`encoder`,
`online_finetuner`), with one more entry, `about`, of plain values. It holds no code and no
teacher, and is read with `weights_only=True`. Released files have no `about`, but can be read
too: see `pipeline/models/released.py`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.base.atomic import atomic_path
from pipeline.base.errors import ConfigError, WeightsError
from pipeline.base.options import Options
from pipeline.base.trial_vectors import agree, trial_vectors
from pipeline.images.original_view import ImageOptions
from pipeline.models.encoder import Encoder, build_encoder, load_weights
from pipeline.models.released import IMAGENET, ReleasedWeights, infer_student, read_released
from pipeline.models.student import StudentOptions

FORMAT = 1
BEST, LAST = "best.pt", "last.pt"
TRIAL = "trial"  # what the encoder makes of trial images, if it is code of the user's own
WITHIN = 1e-3


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file. `about` holds the epoch, the selection rule, its score, and more.

    A student of the user's own code is built from a copy of `network`, if there is one.
    """

    student: StudentOptions
    image: ImageOptions
    encoder: Mapping[str, Tensor]
    probe: Mapping[str, Tensor] | None
    about: Mapping[str, Any]
    network: nn.Module | None = None

    def build(self) -> Encoder:
        """Return the encoder with these weights, in evaluation mode.

        Raises WeightsError if they do not fit, or if the student's own code is not known here, or
        is not what it was when the weights were trained.
        """
        encoder = self._built()
        if self.student.is_own and TRIAL in self.about:
            found = trial_vectors(_embedded_trial(encoder, self.image))
            if not agree(found, self.about[TRIAL], within=WITHIN):
                raise WeightsError(
                    f"The weights of {self.student.architecture!r} fit this network by their "
                    "names and shapes, but it gives other embeddings than the one they were "
                    "trained in: a stride, an activation, or its forward pass differs. Hand over "
                    "the network as it was then."
                )
        return encoder

    def _built(self) -> Encoder:
        try:
            encoder = build_encoder(
                self.student,
                channels=self.image.channels,
                size=self.image.size,
                seed=0,
                network=None if self.network is None else copy.deepcopy(self.network).cpu(),
            )
        except ConfigError as error:
            if not self.student.is_own or self.network is not None:
                raise
            raise WeightsError(
                f"The weights are of {self.student.architecture!r}, a network of somebody's own, "
                f"which a checkpoint cannot bring along ({error}) Hand the network over as "
                "`backbone`: mvmr.open_run(path, backbone=network) for a run, "
                "mvmr.load_encoder(path, backbone=network) for a file."
            ) from error
        load_weights(encoder, self.encoder)
        return encoder.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically; of a user's own network with what it makes of trial images."""
    about = {name: value for name, value in checkpoint.about.items() if name != TRIAL}
    if checkpoint.student.is_own:
        encoder = replace(checkpoint, about=about).build()
        about[TRIAL] = trial_vectors(_embedded_trial(encoder, checkpoint.image))
    content = {
        "format": FORMAT,
        "encoder": dict(checkpoint.encoder),
        "about": {
            **about,
            "student": checkpoint.student.model_dump(mode="json"),
            "image": checkpoint.image.model_dump(mode="json"),
        },
    }
    if checkpoint.probe is not None:
        content["online_finetuner"] = dict(checkpoint.probe)
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


@torch.no_grad()
def _embedded_trial(encoder: Encoder, image: ImageOptions) -> Tensor:
    """Return the embeddings (2, D) of two pictures of noise, as if they were normalised."""
    draws = np.random.RandomState(0)  # NumPy never changes its numbers
    pictures = draws.standard_normal((2, image.channels, image.size, image.size))
    embedded: Tensor = encoder.backbone(torch.from_numpy(pictures.astype(np.float32)))
    return embedded


def load_checkpoint(
    path: Path,
    *,
    student: StudentOptions | None = None,
    image: ImageOptions | None = None,
    network: nn.Module | None = None,
    strict: bool = True,
    remedy: str = "Name another file, or run `mvmr train`.",
) -> Checkpoint:
    """Read a checkpoint, or a released MV-MR file.

    A released file does not record the images or the strides: these come from `image` and
    `student` if given, else from ImageNet's 224 pixels and the names and shapes of the weights.
    A student of the user's own code needs its `network`, or a `student` that names the code and
    trusts it: the file alone is never trusted.
    Raises WeightsError if the file does not exist or is damaged; with `strict`, also if its
    backbone is not that of `student`, or its images are not prepared as in `image`. The messages
    of the first two errors advise `remedy`.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except IsADirectoryError:
        raise WeightsError(
            f"{str(path)!r} is a folder; a checkpoint is a file in it, such as "
            f"{str(path / 'checkpoints' / BEST)!r} of a run. {remedy}"
        ) from None
    except FileNotFoundError:
        raise WeightsError(f"There is no checkpoint {str(path)!r}. {remedy}") from None
    except Exception as error:  # a file that is none fails in many ways
        raise WeightsError(
            f"{path} is not a readable checkpoint ({type(error).__name__}). {remedy}"
        ) from error
    if not isinstance(content, dict) or content.get("format", FORMAT) != FORMAT:
        raise WeightsError(
            f"{path} is neither a checkpoint of this program (format {FORMAT}) nor a released "
            "MV-MR file: name a file that `mvmr train` wrote, or a released one."
        )
    if "about" in content:
        checkpoint = replace(_own(content), network=network)
        if strict and image is not None:
            _check("dataset.image", path, checkpoint.image, image)
    else:
        weights = read_released(content, path)
        checkpoint = Checkpoint(
            student=_with_projector(student, weights) if student else infer_student(weights, path),
            image=image or IMAGENET,
            encoder=weights.encoder,
            probe=weights.classifier,
            about={"released": path.name, "preprocessing": "assumed" if image is None else "given"},
            network=network,
        )
        checkpoint.build()  # raises an error that names what does not fit
    if strict and student is not None:
        _check("student", path, checkpoint.student, student)
    if student is not None and student.architecture == checkpoint.student.architecture:
        trusted = checkpoint.student.model_copy(update={"trust": student.trust})
        checkpoint = replace(checkpoint, student=trusted)
    return checkpoint


def _own(content: Mapping[str, Any]) -> Checkpoint:
    about = dict(content["about"])
    return Checkpoint(
        student=StudentOptions.model_validate({**about.pop("student"), "trust": False}),
        image=ImageOptions.model_validate(about.pop("image")),
        encoder=content["encoder"],
        probe=content.get("online_finetuner"),
        about=about,
    )


def _with_projector(student: StudentOptions, weights: ReleasedWeights) -> StudentOptions:
    return student.model_copy(update={"projector": weights.projector, "weights": None})


# These options make no difference to the features of a trained backbone.
_IMMATERIAL = {"weights", "projector", "zero_init_residual", "trust"}


def _check(section: str, path: Path, found: Options, expected: Options) -> None:
    wanted, had = (o.model_dump(exclude=_IMMATERIAL, mode="json") for o in (expected, found))
    differing = [f"{k} is {had[k]} in the file" for k in wanted if wanted[k] != had[k]]
    if differing:
        raise WeightsError(
            f"{path} was trained with another {section} than the experiment names: "
            f"{'; '.join(differing)}. Change `{section}` to that, or train again."
        )
