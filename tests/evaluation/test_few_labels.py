"""Few labels: which images are labelled, and what fine-tuning learns from them."""

from pathlib import Path

import pytest
import torch
from shades import setting

from pipeline.base.errors import DataError
from pipeline.evaluation.few_labels import labelled_rows
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.semi_supervised import SemiSupervisedOptions


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_few_labels_are_stratified_and_drawn_once(labelled: Images, share: float) -> None:
    options = SemiSupervisedOptions(share=share)
    rows = labelled_rows(labelled, share=options.share, files=options.files, seed=3)
    assert len(rows.unique()) == len(rows)  # type: ignore[no-untyped-call]
    assert torch.equal(
        rows, labelled_rows(labelled, share=options.share, files=options.files, seed=3)
    )
    labels = labelled.labels("train")
    for label in range(3):
        group = int((labels == label).sum())
        assert int((labels[rows] == label).sum()) == max(1, round(share * group))
    if share == 0.1:
        assert not torch.equal(
            rows, labelled_rows(labelled, share=options.share, files=options.files, seed=4)
        )


def test_a_given_list_of_images_is_used_as_it_is(labelled: Images, tmp_path: Path) -> None:
    known = labelled.known("train").nonzero().flatten().tolist()
    names = [labelled.names("train")[row] for row in known[:20]]
    (tmp_path / "list.txt").write_text("\n".join([names[0], *(Path(n).name for n in names[1:])]))
    options = SemiSupervisedOptions(files=tmp_path / "list.txt", epochs=1)
    assert (
        labelled_rows(labelled, share=options.share, files=options.files, seed=0).tolist()
        == known[:20]
    )
    made, student, pixels = setting(labelled, tmp_path)
    for subject in (student, pixels):
        outcome = options.score(subject, made)
        assert outcome.details["labelled_images"] == sorted(names)
        assert outcome.images["train"] == 20
    (tmp_path / "list.txt").write_text("nowhere.png\n")
    with pytest.raises(DataError, match=r"1 of 1 are not, such as 'nowhere.png'"):
        labelled_rows(labelled, share=options.share, files=options.files, seed=0)


def test_fine_tuning_learns_from_few_labels(labelled: Images, tmp_path: Path) -> None:
    made, student, _ = setting(labelled, tmp_path)
    options = SemiSupervisedOptions.model_validate(
        {
            "share": 0.3,
            "epochs": 30,
            "batch_size": 16,
            "encoder_lr": 3e-3,
            "head_lr": 1e-2,
            "augmentation": {"policy": "custom", "jitter": 0.0, "grey_p": 0.0},
        }
    )
    outcome = options.score(student, made)
    assert outcome.values["top1"] > 80
    assert options.score(student, made).values == outcome.values
