"""Zero-shot classification, against open_clip and scikit-learn."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shades import CLASSES, IMAGE, setting
from sklearn.linear_model import Ridge
from torchvision.transforms.functional import to_pil_image
from watched import Watched

from pipeline.base.errors import ConfigError
from pipeline.datasets.source import Split
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.subjects import Subject
from pipeline.evaluation.zero_shot import RidgeMap, ZeroShotOptions, class_names
from pipeline.representations.kinds import KINDS
from pipeline.representations.teachers.open_clip import OpenClipOptions

TEACHER = Path(__file__).parents[3] / "shared/data/teacher"


def test_a_ridge_map_is_scikit_learns() -> None:
    source = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 7, generator=source), torch.randn(200, 4, generator=source)
    fitted = RidgeMap(x, y)
    found = fitted.apply(fitted.solve(0.1), x)
    centred = x - x.mean(dim=0)
    alpha = 0.1 * centred.square().mean().item() * len(x)
    expected = Ridge(alpha=alpha).fit(x.numpy(), y.numpy()).predict(x.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_class_names_come_from_folders_or_a_file(tmp_path: Path) -> None:
    options = ZeroShotOptions(teacher="clip")
    assert class_names(options, ("hot_dog", "cat")) == ["hot dog", "cat"]
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"n01": "tench", "n02": "goldfish"}))
    options = ZeroShotOptions(teacher="clip", names=path)
    assert class_names(options, ("n01", "n02")) == ["tench", "goldfish"]
    with pytest.raises(ConfigError, match="1 are missing, such as 'n03'"):
        class_names(options, ("n01", "n03"))


@pytest.mark.skipif(not TEACHER.is_dir(), reason="the trained teacher in shared/data is missing")
def test_the_teachers_own_zero_shot_is_open_clips(labelled: Images, tmp_path: Path) -> None:
    import open_clip

    config, weights = TEACHER / "tiny-clip-rn64.json", TEACHER / "tiny-clip-rn64-cifar10.pt"
    given = {"model": "tiny-clip-rn64", "config": config, "pretrained": str(weights)}
    specification = OpenClipOptions.model_validate(given)
    teacher = specification.build(IMAGE)

    def of(split: Split) -> torch.Tensor:
        pictures = [to_pil_image(x) for batch in labelled.batches(split) for x in batch]
        embedded: torch.Tensor = teacher(torch.stack([teacher.preparation(x) for x in pictures]))
        return embedded

    templates = ("a {} picture.", "a photo of something {}.")
    made, student, _ = setting(
        labelled,
        tmp_path,
        specifications={"clip": specification},
        references={"clip": Subject("clip", of)},
    )
    options = ZeroShotOptions(teacher="clip", templates=templates)
    outcome = options.score(made.references["clip"], made)
    model, _, _ = open_clip.create_model_and_transforms("tiny-clip-rn64", pretrained=str(weights))
    tokenize = open_clip.get_tokenizer("tiny-clip-rn64")
    known = labelled.known("test")
    with torch.no_grad():
        words = []
        for name in CLASSES:
            text = model.eval().encode_text(tokenize([t.format(name) for t in templates]))
            words.append(torch.nn.functional.normalize(text, dim=1).mean(dim=0))
        unit = torch.nn.functional.normalize(torch.stack(words), dim=1)
        guesses = (of("test")[known] @ unit.T).argmax(dim=1)
    assert outcome.predictions is not None
    assert torch.equal(outcome.predictions.predicted, guesses)
    assert outcome.images == {"test": int(known.sum())}
    watched = Watched()
    mapped = options.score(student, replace(made, progress=watched))
    assert [(phase.what, phase.done, phase.total) for phase in watched.phases] == [
        ("map student to clip", 5, 5),
        ("read prompts", 6, 6),
    ]
    assert mapped.values["ridge"] in options.ridges
    assert 0 < mapped.values["validation_cosine"] <= 1


def test_zero_shot_asks_for_a_teacher_that_reads(labelled: Images, tmp_path: Path) -> None:
    specifications = {"hog": KINDS["hog"].model_validate({"kind": "hog"})}
    made, student, _ = setting(labelled, tmp_path, specifications=specifications)
    with pytest.raises(ConfigError, match="Did you mean 'hog'"):
        ZeroShotOptions(teacher="hogg").score(student, made)
    with pytest.raises(ConfigError, match="of kind hog, not open_clip"):
        ZeroShotOptions(teacher="hog").score(student, made)
