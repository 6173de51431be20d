"""Rates and batch sizes that protocols find by trying."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shades import AUGMENTED, setting
from watched import Watched

from pipeline.base.errors import TrainingError
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.linear import LinearOptions
from pipeline.evaluation.semi_supervised import SemiSupervisedOptions
from pipeline.evaluation.subjects import Subject
from pipeline.evaluation.voc07_protocol import MultiLabelOptions
from pipeline.training import tuning
from pipeline.training.trial import Wanted
from pipeline.training.tuning import taken_by


def by_hand(protocol: Any, found: dict[str, Any]) -> Any:
    """Return the options with the found values set."""
    if isinstance(protocol, SemiSupervisedOptions):
        return protocol.model_copy(update=found)
    fit = {"lrs": (found["lr"],), "batch_size": found["batch_size"]}
    return protocol.model_copy(update={"fit": protocol.fit.model_copy(update=fit)})


@pytest.mark.parametrize(
    "protocol",
    [
        SemiSupervisedOptions(share=0.5, epochs=2, encoder_lr=1e-4, head_lr=5e-4),
        LinearOptions.model_validate(AUGMENTED),
        pytest.param(MultiLabelOptions.model_validate(AUGMENTED), marks=pytest.mark.slow),
    ],
    ids=lambda protocol: protocol.kind,
)
def test_rate_and_batch_size_found_by_trying_are_recorded_said_and_used(
    labelled: Images, multi: Images, tmp_path: Path, protocol: Any
) -> None:
    made, student, _ = setting(multi if protocol.kind == "voc07" else labelled, tmp_path)
    notes = Watched()
    trying = replace(made, wanted=Wanted(lr=True, batch_size=True), progress=notes)
    outcome = protocol.score(student, trying)
    found = outcome.values["tuned"]
    # The largest power of two within 147 images, or within the labelled half of them.
    assert found["batch_size"] == (32 if protocol.kind == "semi_supervised" else 128)
    rate = found.get("lr", found.get("encoder_lr"))
    assert 1e-7 < rate < 1
    if "head_lr" in found:
        assert found["head_lr"] == pytest.approx(5 * rate)
    assert f"student: found lr {rate:.4g}" in notes.notes
    assert f"student: found batch_size {found['batch_size']}" in notes.notes
    again = by_hand(protocol, found).score(student, made)
    assert again.values == {k: v for k, v in outcome.values.items() if k != "tuned"}


@pytest.mark.parametrize(
    "protocol",
    [
        SemiSupervisedOptions(share=1.0, epochs=1),
        pytest.param(MultiLabelOptions.model_validate(AUGMENTED), marks=pytest.mark.slow),
    ],
    ids=lambda protocol: protocol.kind,
)
def test_a_batch_is_bounded_by_what_the_memory_can_hold(
    labelled: Images, multi: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: Any
) -> None:
    made, student, _ = setting(multi if protocol.kind == "voc07" else labelled, tmp_path)
    made = replace(made, wanted=Wanted(batch_size=True))
    seen: list[int] = []

    def free(size: float) -> None:
        monkeypatch.setattr(tuning, "free_memory", lambda _: int(size))

    def noted(step: Any) -> int:
        seen.append(taken_by(step))
        return seen[-1]

    monkeypatch.setattr(tuning, "taken_by", noted)
    free(1e5)
    with pytest.raises(TrainingError, match=r"A batch of 16 does not fit into 0\.0 GB"):
        protocol.score(student, made)
    assert student.encoder is not None
    weights = 16 * sum(p.numel() for p in student.encoder.backbone.parameters())
    fixed = weights if protocol.kind == "semi_supervised" else 0  # and some more for the head
    free(2 * (1.2 * fixed + 1.2 * seen[1]))  # for a batch of 32; 16 and 32 were measured
    assert protocol.score(student, made).values["tuned"]["batch_size"] == 32


def test_a_control_without_a_network_has_nothing_to_find(labelled: Images, tmp_path: Path) -> None:
    made, _, pixels = setting(labelled, tmp_path)
    trying = replace(made, wanted=Wanted(lr=True, batch_size=True))
    outcome = SemiSupervisedOptions(share=0.5).score(pixels, trying)
    assert "tuned" not in outcome.values
    stored = Subject("stored", pixels.of)  # a fit on augmented views learns from its features
    options = LinearOptions.model_validate(AUGMENTED)
    assert options.score(stored, trying).values["tuned"]["batch_size"] == 64
