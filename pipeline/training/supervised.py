"""The control trained with labels: the student's own run, with cross-entropy as its objective.

Everything else is the student's: architecture and starting weights, seed, images and their order,
views and augmentation, optimiser, schedule, batch, steps, and the rule that selects an epoch. So
the difference of their scores is that of what they learnt from. It is a second run of the ordinary
training and not a part of evaluation, because it resumes, is distributed and is kept as any run is,
and because all protocols score the same one.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from pipeline.features.store import StoredFeature
from pipeline.loading.batch import SplitData
from pipeline.objective.terms import AnyTerm, LabelsTerm, views_of
from pipeline.objective.view_names import ViewChoice, chosen_views
from pipeline.training.run import Run
from pipeline.training.train_options import TrainOptions


def supervised(run: Run, about: Mapping[str, Any]) -> Run:
    """Return the control's run; `about` is written to its checkpoints."""
    train, validation = (_without_targets(d, run.options) for d in (run.train, run.validation))
    return replace(
        run,
        train=train,
        validation=validation,
        objective=supervised_objective(run.objective, run.options),
        live={},
        about=about,
    )


def supervised_objective(terms: Mapping[str, AnyTerm], options: TrainOptions) -> dict[str, AnyTerm]:
    """Return the objective that classifies the views on which these terms act.

    Where these are one global view and local ones, it classifies all views.
    """
    local = options.views.local_count
    shown = views_of(terms, local)
    choices: tuple[ViewChoice, ...] = get_args(ViewChoice)
    view = next(choice for choice in choices if shown <= {*chosen_views(choice, local)})
    return {"labels": LabelsTerm(view=view)}


def shown_targets(
    targets: Mapping[str, StoredFeature], options: TrainOptions
) -> dict[str, StoredFeature]:
    """Return the targets that decide what the student is shown: those stored of views."""
    return {name: f for name, f in targets.items() if f.views and options.stored_views}


def _without_targets(data: SplitData, options: TrainOptions) -> SplitData:
    return replace(data, features=shown_targets(data.features, options))
