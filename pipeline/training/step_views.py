"""Which views of an image a step encodes, and which random ones its loader must draw for it."""

from collections.abc import Mapping

from pipeline.base.errors import ConfigError
from pipeline.features.store import StoredFeature
from pipeline.images.random_views import POLICIES
from pipeline.images.stored_views import StoredViewOptions
from pipeline.loading.batch_pixels import RandomViews
from pipeline.objective.terms import View
from pipeline.training.train_options import TrainOptions

TRAINING, VALIDATION = 0, 1  # streams of random draws


def random_views(
    views: frozenset[View],
    options: TrainOptions,
    *,
    stream: int,
    stored: StoredViewOptions | None = None,
    live: bool = False,
) -> RandomViews:
    """Return the random views that stand for `views` of an objective in training or validation.

    In training, original views are only needed if the objective has them, or representations are
    computed `live`; validation needs them for probes. Training shows `stored` views if there are
    any.
    """
    drawn = drawn_views(views, options, stream)
    return RandomViews(
        options.augmentation,
        count=len(drawn),
        stream=stream,
        original=stream == VALIDATION or live or bool(views - set(drawn)),
        stored=stored if stream == TRAINING else None,
    )


def stored_views_of(
    features: Mapping[str, StoredFeature], options: TrainOptions
) -> StoredViewOptions | None:
    """Return the stored views that training shows: those of its targets, unless it is told not to.

    Targets may be stored for different numbers of views, of which the first ones are then used.
    Raises ConfigError if they are not of the same views, or if the policy cannot follow them.
    """
    found = {name: feature.views for name, feature in features.items() if feature.views}
    if not found or not options.stored_views:
        return None
    (first, views), *others = found.items()
    for name, other in others:
        if other.recipe() != views.recipe():
            raise ConfigError(
                f"{first} and {name} are stored of different views: {_told(views)}, and "
                f"{_told(other)}. Give both the same, or set train.stored_views: false: then views "
                "are random, and their targets those of original ones."
            )
    policy = options.augmentation
    if POLICIES[policy.policy].min_scale is None:
        raise ConfigError(
            f"Policy {policy.policy} has a padded crop, but {first} is stored of boxes: choose "
            "another policy, or set train.stored_views: false."
        )
    if policy.min_scale is not None and policy.min_scale < views.min_scale:
        raise ConfigError(
            f"train.augmentation.min_scale: {policy.min_scale} asks for smaller boxes than "
            f"{first} is stored of ({views.min_scale}): leave it out, or store other views."
        )
    return views.model_copy(update={"count": min(found[name].count for name in found)})


def _told(views: StoredViewOptions) -> str:
    return f"min_scale {views.min_scale}, flip_p {views.flip_p}, seed {views.seed}"


def drawn_views(views: frozenset[View], options: TrainOptions, stream: int) -> tuple[View, ...]:
    """Return the views of an objective that are random ones, in the order of their draws."""
    if stream == VALIDATION and options.validate_on == "original":
        return ()
    both: tuple[View, ...] = ("original", "augmented") if options.augment_both else ("augmented",)
    return tuple(view for view in both if view in views)
