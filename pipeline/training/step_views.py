"""Which views of an image a step encodes, and which random ones its loader must draw for it."""

from pipeline.loading.batch_pixels import RandomViews
from pipeline.objective.terms import View
from pipeline.training.train_options import TrainOptions

TRAINING, VALIDATION = 0, 1  # streams of random draws


def random_views(
    views: frozenset[View], options: TrainOptions, *, stream: int, live: bool = False
) -> RandomViews:
    """Return the random views that stand for `views` of an objective in training or validation.

    In training, original views are only needed if the objective has them, or representations are
    computed `live`; validation needs them for probes.
    """
    drawn = drawn_views(views, options, stream)
    return RandomViews(
        options.augmentation,
        count=len(drawn),
        stream=stream,
        original=stream == VALIDATION or live or bool(views - set(drawn)),
    )


def drawn_views(views: frozenset[View], options: TrainOptions, stream: int) -> tuple[View, ...]:
    """Return the views of an objective that are random ones, in the order of their draws."""
    if stream == VALIDATION and options.validate_on == "original":
        return ()
    both: tuple[View, ...] = ("original", "augmented") if options.augment_both else ("augmented",)
    return tuple(view for view in both if view in views)
