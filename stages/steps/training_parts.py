"""The runs that training an experiment consists of: the student, and perhaps a control.

Each is trained, kept, put back and resumed in the same way, by its own key.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from pipeline.base.atomic import atomic_path, write_json
from pipeline.base.locations import remove_tree
from pipeline.base.progress import Progress
from pipeline.models.checkpoint import BEST, LAST, load_checkpoint
from pipeline.training.fit import CURVES, tune
from pipeline.training.run import Run
from pipeline.training.run_loggers import publish_logs
from pipeline.training.supervised import supervised
from pipeline.training.trial import Wanted
from stages.experiment.dvc_stages import control_outs, training_outs
from stages.experiment.paths import RunLayout
from stages.experiment.run_identity import (
    TRAIN,
    TRAIN_CONTROL,
    TUNED,
    is_control_finished,
    is_finished,
    tuned_values,
)


@dataclass(frozen=True)
class TrainedPart:
    """A run to train: what it is kept as, and where its results go.

    `run` returns what to train in a directory, with all options found. `publish` puts the results
    that a finished run left there where the experiment keeps them, and `clear` removes what belongs
    to other results.
    """

    key: str
    kept_as: str
    checkpoint: Path
    outs: tuple[Path, ...]
    is_finished: Callable[[], bool]
    run: Callable[[Path, Progress], Run]
    clear: Callable[[], None]
    publish: Callable[[Path], None]


def student_part(run: Run, key: str, layout: RunLayout, wanted: Wanted) -> TrainedPart:
    """Return the student's part."""
    own = replace(run, about={**run.about, "digest": key})
    return TrainedPart(
        key=key,
        kept_as=TRAIN,
        checkpoint=layout.checkpoints / BEST,
        outs=training_outs(layout),
        is_finished=partial(is_finished, layout, key),
        run=lambda work, progress: _tuned(own, wanted, work, progress) if wanted else own,
        clear=partial(remove_tree, layout.exports),  # they belong to another checkpoint
        publish=partial(_publish, layout),
    )


def control_part(run: Run, key: str, layout: RunLayout, wanted: Wanted) -> TrainedPart:
    """Return that of the same student trained with labels, with what was found for the student."""

    def control(work: Path, progress: Progress) -> Run:
        del work
        progress.note("The same student is trained with labels, as a control.")
        name = f"{run.about['experiment']} with labels"
        about = {**run.about, "experiment": name, "digest": key, "targets": {}}
        if not wanted:
            return supervised(run, about)
        found = load_checkpoint(layout.checkpoints / BEST).about["tuned"]
        options = run.options.model_copy(update=found)
        return supervised(replace(run, options=options), {**about, "tuned": found})

    return TrainedPart(
        key=key,
        kept_as=TRAIN_CONTROL,
        checkpoint=layout.supervised,
        outs=control_outs(layout),
        is_finished=partial(is_control_finished, layout, key),
        run=control,
        clear=partial(remove_control, layout),
        publish=partial(_publish_control, layout),
    )


def remove_control(layout: RunLayout) -> None:
    """Remove the results of a control trained with labels, if there are any."""
    layout.supervised.unlink(missing_ok=True)
    remove_tree(layout.supervised_logs)


def _tuned(run: Run, wanted: Wanted, work: Path, progress: Progress) -> Run:
    """Find the wanted options by trial, or read those found before an interruption."""
    found = tuned_values(work)
    if not found:
        options = tune(run, wanted, progress=progress)
        found = {name: getattr(options, name) for name, asked in asdict(wanted).items() if asked}
        write_json(work / TUNED, found)
    about = {**run.about, "tuned": found}
    return replace(run, options=run.options.model_copy(update=found), about=about)


def _publish(layout: RunLayout, work: Path) -> None:
    """Put the results of a finished run where the experiment keeps them."""
    remove_tree(layout.exports)  # they belong to the previous checkpoint
    for target in (layout.checkpoints, layout.logs):
        remove_tree(target)
        target.mkdir(parents=True)
    for name in (BEST, LAST):
        shutil.copy2(work / name, layout.checkpoints / name)
    # Replaced by renaming: the old file may be a link into DVC's cache, which must stay as it is.
    with atomic_path(layout.curves) as temporary:
        shutil.copyfile(work / CURVES, temporary)
    publish_logs(work, layout.logs)
    about = load_checkpoint(layout.checkpoints / BEST).about
    tuned = {"tuned": about["tuned"]} if "tuned" in about else {}
    write_json(layout.training_metrics, {**about["selection"], **tuned})


def _publish_control(layout: RunLayout, work: Path) -> None:
    remove_control(layout)
    publish_logs(work, layout.supervised_logs)
    layout.supervised_logs.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(work / CURVES, layout.supervised_logs / CURVES)
    shutil.copyfile(work / BEST, layout.supervised)
