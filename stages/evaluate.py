"""`mvmr evaluate`: score the student by each protocol, beside controls obtained the same way."""

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from pipeline.base.text import spoken
from pipeline.evaluation.protocol import Values
from pipeline.models.checkpoint import BEST
from pipeline.training.trial import Wanted
from stages.experiment.chosen import Chosen
from stages.experiment.dvc_lock import changed_by_hand, record_fingerprints
from stages.experiment.paths import dataset_layout, run_layout
from stages.steps.score_student import score_student
from stages.terminal.announcement import announce
from stages.terminal.console import Screen, table
from stages.terminal.result import Result


def evaluate(
    screen: Screen,
    *,
    chosen: Chosen,
    data: str,
    only: tuple[str, ...],
    checkpoint: Path | None,
    auto_lr: bool,
    auto_batch_size: bool,
    force: bool,
) -> Result:
    """Score the trained student, the untrained one, pixels and every stored feature alike."""
    experiment = chosen.experiment
    layout, stored = run_layout(experiment.name), dataset_layout(experiment.dataset.name, data)
    protocols = {n: p for n, p in experiment.evaluate.items() if not only or n in only}
    announce(
        screen,
        f"evaluate {', '.join(protocols)}",
        experiment,
        data=stored,
        reads=[checkpoint or layout.checkpoints / BEST, stored.shards, stored.features],
        writes=[layout.metrics, layout.scores, layout.predictions] if checkpoint is None else [],
        student=True,
        device=True,
    )

    def tell(line: str) -> None:
        screen.progress.finish()
        screen.progress.note(line)

    found = score_student(
        experiment,
        protocols,
        stored,
        layout,
        screen.progress,
        tell=tell,
        wanted=Wanted(lr=auto_lr, batch_size=auto_batch_size),
        checkpoint=checkpoint,
        force=force,
    )
    if checkpoint is None:  # with the fingerprints that `dvc.yaml` puts before it
        record_fingerprints(layout.features, found.features)
        made = ["select", *(f"evaluate@{name}" for name in protocols)]
        changed_by_hand(experiment, made, screen.progress, data=data)
    titles = {name: f"{experiment.name}: {name}" for name in protocols}
    tables = [_result_table(titles[name], record) for name, record in found.records.items()]
    following = ["mvmr", "report"] if checkpoint is None else ()
    return Result({"protocols": dict(found.records)}, tables, following)


def _result_table(title: str, record: Values) -> Table:
    """Return a table with one column per subject and one row per number."""
    subjects = {"student": record, **record["controls"]}
    flat = {name: dict(_numbers(values, record["main"])) for name, values in subjects.items()}
    names = list(dict.fromkeys(number for numbers in flat.values() for number in numbers))
    rows = [[n, *(flat[subject].get(n, "") for subject in flat)] for n in names]
    return table(title, ["", *flat], rows)


def _numbers(values: Values, main: str) -> Iterator[tuple[str, str]]:
    """Yield the named numbers of a subject, with those of its `with_<reference>` sections."""
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "seed":
            of_what = f" ({spoken(main)})" if name == "chance" else ""
            yield spoken(name, main=main) + of_what, f"{value:.4g}"
        elif name.startswith("with_"):
            for inner, number in value.items():
                yield spoken(f"{inner}_{name}"), f"{number:.3g}"
