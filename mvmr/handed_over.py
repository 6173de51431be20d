"""Code of the user's own, in the places of the library's: teachers, students, terms, ..."""

from collections.abc import Callable
from typing import Any, Literal

from PIL import Image as Pillow
from torch import Tensor, nn

from mvmr.opened_data import feature_options
from mvmr.public_calls import public
from pipeline.evaluation.own_protocol import PROTOCOLS
from pipeline.evaluation.protocols import KINDS as PROTOCOL_KINDS
from pipeline.images.original_view import ImageOptions
from pipeline.models.own_backbone import STUDENTS
from pipeline.models.student import ARCHITECTURES, OWN_PREFIX
from pipeline.objective.terms import KINDS as TERM_KINDS
from pipeline.objective.terms import OWN_TERMS
from pipeline.representations.kinds import KINDS as REPRESENTATION_KINDS
from pipeline.representations.own_representation import REPRESENTATIONS
from pipeline.representations.representation import Representation
from pipeline.representations.teachers.own_teacher import OwnTeacherOptions, hand_over


@public
def representation(kind: str, image: ImageOptions, **options: Any) -> Representation:
    """Build a fixed representation for images as `image` describes them.

    It is a module without learnable state: it maps normalised original views (B, C, H, W) to
    (B, D), and its `preparation` makes such a view of a PIL image. Gradients flow to images that
    require them through pixels, scattering, hog, local_std, dct and patch_scattering; through
    teachers and random representations none flows. `options` are as in an experiment file.

    >>> scattering = mvmr.representation("scattering", mvmr.Image(32), J=2)
    >>> scattering(torch.zeros(4, 3, 32, 32)).shape
    torch.Size([4, 15552])
    """
    name = kind if kind.isidentifier() else "feature"
    return feature_options({name: {"kind": kind, **options}})[name].build(image)


@public
def teacher(
    network: nn.Module | Callable[[Tensor], Tensor],
    prepare: Callable[[Pillow.Image], Tensor] | None = None,
    *,
    name: str,
    dtype: Literal["float32", "float16", "bfloat16"] = "float16",
) -> OwnTeacherOptions:
    """Hand a frozen network over as a teacher, for `extract`, `distil` and experiments.

    `network` maps a batch of what `prepare` makes of PIL images, (C, H, W) each, to (B, D); without
    `prepare`, it gets normalised original views. Its stored rows are known by the digest of its
    weights and by `name`, which stands for its code and its preparation: change it with them. If it
    gives other vectors than those that are stored under its name, this is noticed and refused. An
    image must get the same vector in any batch; this is checked before anything is stored. `dtype`
    is what its vectors are stored in.

    >>> quarters = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    >>> pooled = mvmr.teacher(quarters, name="means of quarters")
    >>> pooled.kind
    'own_teacher'
    """
    return hand_over(network, prepare, name).model_copy(update={"dtype": dtype})


@public
def register_student(name: str, build: Callable[..., nn.Module]) -> str:
    """Register a function that builds a student, and return the architecture's name.

    `build` is called with the keywords `channels` and `size` of images if it takes them. Unlike a
    network that is handed over, it gets initial weights from the seed of each run.

    >>> mvmr.register_student("tiny", lambda channels: nn.Conv2d(channels, 8, 3, stride=2))
    'own:tiny'
    """
    STUDENTS.add(name, build, taken=ARCHITECTURES)
    return OWN_PREFIX + name


@public
def register_representation(name: str, function: Callable[[Tensor], Tensor]) -> str:
    """Register a function of normalised original views (B, C, H, W) that returns (B, D).

    It is then a kind of feature: `features: {mine: {kind: name, version: 1}}`. Raise `version` when
    its values change. An image must get the same vector in any batch.

    >>> mvmr.register_representation("brightness", lambda images: images.mean((2, 3)))
    'brightness'
    """
    REPRESENTATIONS.add(name, function, taken=REPRESENTATION_KINDS)
    return name


@public
def register_term(name: str, function: Callable[..., Tensor]) -> str:
    """Register a loss as a kind of term: `objective: {name: {weight: 1, on: h}}`.

    The function takes embeddings (B, D) of the original and the augmented view, or of those that
    the term's `needs` lists, and the rows (B, width) of the term's `representation` if it names
    one. It returns a scalar, or one number for each image.

    >>> mvmr.register_term("shrink", lambda original, augmented: original.square().mean(1))
    'shrink'
    """
    OWN_TERMS.add(name, function, taken=TERM_KINDS)
    return name


@public
def register_protocol(name: str, function: Callable[..., Any]) -> str:
    """Register a score as a kind of protocol: `evaluate: {name: {}}`.

    The function takes train, validation and test, each with `features` (N, D) and `labels` (N,).
    It returns one number in [0, 1] for each test image, whose mean in percent is the score, with an
    interval; or a single number, which is the score.

    >>> mvmr.register_protocol("spread", lambda train, validation, test: float(test.features.std()))
    'spread'
    """
    PROTOCOLS.add(name, function, taken=PROTOCOL_KINDS)
    return name
