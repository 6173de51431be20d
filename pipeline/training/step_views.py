"""Which views of an image a step encodes, and which random ones its loader must draw for it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from pipeline.base.errors import ConfigError
from pipeline.features.store import StoredFeature
from pipeline.images.original_view import ImageOptions
from pipeline.images.random_views import POLICIES
from pipeline.images.stored_views import StoredViewOptions
from pipeline.images.view_options import GLOBAL, ViewForm
from pipeline.loading.batch_pixels import RandomViews
from pipeline.objective.terms import AnyTerm, local_alone, views_of
from pipeline.objective.view_names import GLOBAL_VIEWS, View, local_views
from pipeline.training.train_options import TrainOptions

TRAINING, VALIDATION = 0, 1  # streams of random draws


@dataclass(frozen=True)
class ViewPlan:
    """The views of an image that a step encodes.

    `passes` are the views that go through the network together; statistics of batch norms are those
    of a pass. Local views share one, each global view has its own. `drawn` maps the random views,
    in the order of their draws, to their forms; the others are the original view.
    """

    passes: tuple[tuple[View, ...], ...]
    drawn: Mapping[View, ViewForm]

    @property
    def encoded(self) -> tuple[View, ...]:
        """All views that are encoded, in order."""
        return tuple(view for views in self.passes for view in views)

    @property
    def shows_originals(self) -> bool:
        """Whether one of the views is the original one, without augmentation."""
        return any(view not in self.drawn for view in self.encoded)

    @property
    def begins_with_original(self) -> bool:
        """Whether the first of the views is the original one, without augmentation."""
        return self.encoded[0] not in self.drawn


def view_plan(terms: Mapping[str, AnyTerm], options: TrainOptions, stream: int) -> ViewPlan:
    """Return the views that training or validation encodes for these terms.

    Local views are for training alone.
    """
    local = options.views.local if stream == TRAINING else None
    count = local.count if local else 0
    needed = views_of(terms, count)
    small = tuple(view for view in local_views(count) if view in needed)
    passes = [(view,) for view in GLOBAL_VIEWS if view in needed] + ([small] if small else [])
    drawn = {view: GLOBAL for view in _random_globals(options, stream) if view in needed}
    return ViewPlan(tuple(passes), drawn | (dict.fromkeys(small, local.form) if local else {}))


def _random_globals(options: TrainOptions, stream: int) -> tuple[View, ...]:
    if stream == VALIDATION and options.validate_on == "original":
        return ()
    return GLOBAL_VIEWS if options.augment_both else ("augmented",)


def random_views(
    plan: ViewPlan,
    options: TrainOptions,
    *,
    stream: int,
    stored: StoredViewOptions | None = None,
    live: bool = False,
) -> RandomViews:
    """Return what a loader draws for a plan of training or validation.

    In training, original views are only needed if the objective has them, or representations are
    computed `live`; validation needs them for probes. Training shows `stored` views if there are
    any.
    """
    return RandomViews(
        options.augmentation,
        forms=tuple(plan.drawn.values()),
        stream=stream,
        original=stream == VALIDATION or live or plan.shows_originals,
        stored=stored if stream == TRAINING else None,
    )


def view_complaints(
    terms: Mapping[str, AnyTerm], options: TrainOptions, image: ImageOptions
) -> Iterator[str]:
    """Yield why terms and views do not go together, each with its dotted path."""
    local = options.views.local
    if local is None:
        for name in local_alone(terms):
            yield (
                f"objective.{name}.view: local needs local views, and train.views has none; set "
                f"train.views: {{local: {{count: 4, size: {max(4, image.size // 2)}}}}}, for "
                "example, or choose another view."
            )
        return
    if local.size > image.size:
        yield (
            f"train.views.local.size: a local view is at most as large as a global one, whose size "
            f"is {image.size} (dataset.image.size); found {local.size}."
        )
    if not views_of(terms, local.count) & {*local_views(local.count)}:
        yield (
            "train.views.local: no term of the objective acts on local views; set view: all or "
            "view: local for one of them, or leave them out."
        )


def without_a_target(options: TrainOptions, viewed: Collection[str]) -> str | None:
    """Return why local views cannot be shown beside targets stored of views, if there are both."""
    if options.views.local is None or not options.stored_views or not viewed:
        return None
    return (
        f"train.views.local: {', '.join(viewed)} is stored of views, each with a target of its "
        "own, and local views have none; set train.stored_views: false, so that all views take the "
        "target of the original one, or leave local views out."
    )


def stored_views_of(
    features: Mapping[str, StoredFeature], options: TrainOptions
) -> StoredViewOptions | None:
    """Return the stored views that training shows: those of its targets, unless it is told not to.

    Targets may be stored for different numbers of views, of which the first ones are then used.
    Raises ConfigError if they are not of the same views, if the policy cannot follow them, or if
    there are local views as well.
    """
    found = {name: feature.views for name, feature in features.items() if feature.views}
    if not found or not options.stored_views:
        return None
    if complaint := without_a_target(options, found):
        raise ConfigError(complaint)
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
