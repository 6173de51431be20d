"""Protocols end to end on small shards: what they use, what they leave alone, what they refuse."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from torchvision.transforms.functional import to_pil_image

from pipeline.checkpoints import Checkpoint
from pipeline.datasets.base import Encoded, Item, Label, MultiLabel, Source, Split
from pipeline.encoders import StudentOptions, build_encoder
from pipeline.errors import ConfigError, DataError, TrainingError, WeightsError
from pipeline.evaluation import linear, online, semi_supervised, voc07, zero_shot
from pipeline.evaluation.augmented_fit import several_classes
from pipeline.evaluation.features import LabelledFeatures
from pipeline.evaluation.few_labels import labelled_rows
from pipeline.evaluation.images import Images
from pipeline.evaluation.linear import LinearOptions
from pipeline.evaluation.logistic import fit_binary
from pipeline.evaluation.online import OnlineOptions
from pipeline.evaluation.semi_supervised import SemiSupervisedOptions
from pipeline.evaluation.setting import Setting
from pipeline.evaluation.subjects import Subject, encoder_digest, encoder_subject, pixel_subject
from pipeline.evaluation.table import PROTOCOLS
from pipeline.evaluation.voc07 import Voc07Options
from pipeline.evaluation.zero_shot import RidgeMap, ZeroShotOptions, class_names
from pipeline.images import ImageOptions
from pipeline.loading.batch import SplitData
from pipeline.loading.resident import EvaluationLoader
from pipeline.representations.base import RepresentationOptions
from pipeline.representations.table import KINDS
from pipeline.runtime import Silent
from pipeline.shards import ShardOptions, write_split
from pipeline.teachers.open_clip import OpenClipOptions
from pipeline.training import tuning
from pipeline.training.tuning import Wanted, taken_by
from pipeline.views import AugmentationOptions

CPU = torch.device("cpu")
TEACHER = Path(__file__).parents[2] / "shared/data/teacher"
IMAGE = ImageOptions(size=12, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
STUDENT = StudentOptions(architecture="resnet8")
CLASSES = ("dark", "grey", "light")
COUNTS: dict[Split, int] = {"train": 150, "validation": 45, "test": 60}


class Shades(Source):
    """Noisy images whose brightness tells the class; three of each split cannot be decoded."""

    classes: Sequence[str] | None = CLASSES

    def __init__(self, split: Split, labels: Sequence[Label | None]) -> None:
        self.splits = {split: [Item(f"{split}/{i}.png", label) for i, label in enumerate(labels)]}
        self._shades = [_shade(label, i) for i, label in enumerate(labels)]

    def read(self, item: Item) -> Encoded:
        """Return one image, or nothing for a bad one."""
        number = int(Path(item.name).stem)
        if number in (1, 11, 30):
            return Encoded(b"", "png")
        rng = np.random.default_rng([number, len(item.name)])
        pixels = rng.normal(self._shades[number], 30, (12, 12, 3)).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="png")
        return Encoded(buffer.getvalue(), "png")


def _shade(label: Label | None, number: int) -> float:
    if isinstance(label, MultiLabel):
        return 40 + 80 * (0 in label.present) + 60 * (1 in label.present)
    return 60.0 + 60 * (number % 3 if label is None else label)


def images(root: Path, labels: dict[Split, list[Label | None]]) -> Images:
    splits = {}
    for split, own in labels.items():
        source = Shades(split, own)
        manifest = write_split(
            source,
            source.splits[split],
            root / split,
            dataset="shades",
            split=split,
            options=ShardOptions(samples=40, on_bad_image="skip"),
            provenance={},
            progress=Silent(),
        )
        splits[split] = SplitData(root / split, manifest, {}, IMAGE)
    return Images(splits)


def single(split: Split) -> list[Label | None]:
    """Classes in turn; every fifth image has no label."""
    return [None if i % 5 == 4 else i % 3 for i in range(COUNTS[split])]


def several(split: Split) -> list[Label | None]:
    rows = ((0,), (1,), (0, 2), (2,), (0, 1))
    return [
        MultiLabel(rows[i % 5], ignored=(2,) if i % 7 == 0 and 2 not in rows[i % 5] else ())
        for i in range(COUNTS[split])
    ]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return images(tmp_path_factory.mktemp("single"), {s: single(s) for s in COUNTS})


@pytest.fixture(scope="module")
def multi(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return images(tmp_path_factory.mktemp("several"), {s: several(s) for s in COUNTS})


def setting(
    of: Images,
    work: Path,
    *,
    probe: dict[str, torch.Tensor] | None = None,
    specifications: dict[str, RepresentationOptions] | None = None,
    references: dict[str, Subject] | None = None,
) -> tuple[Setting, Subject, Subject]:
    """Return a setting, an encoder as the subject, and pixels beside it."""
    encoder = build_encoder(STUDENT, channels=3, size=12, seed=0)
    checkpoint = Checkpoint(STUDENT, IMAGE, encoder.state_dict(), probe, {})
    made = Setting(
        images=of,
        references=references or {},
        specifications=specifications or {},
        checkpoint=checkpoint,
        device=CPU,
        seed=0,
        work=work,
        progress=Silent(),
    )
    student = encoder_subject("student", encoder, of, device=CPU, cache=work, progress=Silent())
    return made, student, pixel_subject(of, device=CPU, progress=Silent())


def test_streamed_images_are_those_that_a_resident_loader_gives(labelled: Images) -> None:
    for split in COUNTS:
        resident = EvaluationLoader(labelled.splits[split], 64)
        batches = list(resident)
        streamed = torch.cat(list(labelled.batches(split)))
        assert torch.equal(streamed, torch.cat([batch["images"] for batch in batches]))
        assert torch.equal(labelled.labels(split), torch.cat([b["labels"] for b in batches]))
        assert torch.equal(labelled.index(split), torch.cat([b["index"] for b in batches]))
        assert labelled.names(split)[1] == f"{split}/2.png"


def test_probes_count_the_images_that_they_used(labelled: Images, tmp_path: Path) -> None:
    made, student, _ = setting(labelled, tmp_path)
    outcome = linear.score(LinearOptions(), student, made)
    usable = {
        split: sum(
            label is not None for i, label in enumerate(single(split)) if i not in (1, 11, 30)
        )
        for split in COUNTS
    }
    assert outcome.images == usable
    assert outcome.predictions is not None
    assert len(outcome.predictions.rows) == usable["test"]
    hits = outcome.predictions.actual == outcome.predictions.predicted
    assert outcome.values["top1"] == pytest.approx(100 * hits.double().mean().item())
    assert outcome.values["top1_low"] <= outcome.values["top1"] <= outcome.values["top1_high"]
    assert set(outcome.details["top1_by_class"]) == set(CLASSES)


def test_scoring_leaves_the_encoder_and_its_batch_norm_alone(
    labelled: Images, tmp_path: Path
) -> None:
    made, student, _ = setting(labelled, tmp_path)
    assert student.encoder is not None
    before = encoder_digest(student.encoder)
    few = SemiSupervisedOptions(share=0.2, epochs=2, batch_size=8)
    augmented: Any = {"augmentation": {"policy": "cifar"}, "fit": {"epochs": 1, "batch_size": 32}}
    linear.score(LinearOptions.model_validate(augmented), student, made)
    semi_supervised.score(few, student, made)
    assert encoder_digest(student.encoder) == before
    assert not student.encoder.training


def test_the_augmented_fit_learns_what_the_optimum_does(labelled: Images, tmp_path: Path) -> None:
    made, _, pixels = setting(labelled, tmp_path)
    options = LinearOptions.model_validate(
        {
            "augmentation": {"policy": "custom", "jitter": 0.0, "grey_p": 0.0},
            "fit": {"epochs": 15, "batch_size": 32, "lrs": [1e-6, 1e-2]},
        }
    )
    outcome = linear.score(options, pixels, made)
    assert outcome.values["top1"] > 95
    assert outcome.values["lr"] == 1e-2
    assert [entry["lr"] for entry in outcome.details["tried"]] == [1e-6, 1e-2]
    again = linear.score(options, pixels, made)
    assert again.values == outcome.values


@pytest.mark.parametrize("augmented", [False, True])
def test_a_class_of_test_that_training_lacks_is_named(tmp_path: Path, augmented: bool) -> None:
    labels: dict[Split, list[Label | None]] = {
        "train": [i % 2 for i in range(60)],
        "validation": [i % 2 for i in range(40)],
        "test": [i % 3 for i in range(40)],
    }
    made, _, pixels = setting(images(tmp_path, labels), tmp_path)
    options = LinearOptions(augmentation=AugmentationOptions() if augmented else None)
    with pytest.raises(DataError, match=r"Labels \[2\] occur in evaluation but not among"):
        linear.score(options, pixels, made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": {"epochs": 3}}, "fit belongs to an augmentation"),
        ({"augmentation": {}, "l2": [1.0]}, "l2 belong to the fit without augmentation"),
    ],
)
def test_options_of_the_other_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LinearOptions.model_validate(options)


def test_ten_crops_without_a_larger_view_are_two_mirror_images(
    labelled: Images, tmp_path: Path
) -> None:
    _, student, _ = setting(labelled, tmp_path)
    train, validation, test = (
        student.labelled(labelled, split) for split in ("train", "validation", "test")
    )
    classifier = linear.linear_probe(
        train, validation, test, options=LinearOptions(), device=CPU
    ).classifier
    assert student.embed is not None
    found = linear.ten_crop_logits(classifier, student.embed, labelled)
    pictures = torch.cat(list(labelled.batches("test")))[labelled.known("test")]
    both = [classifier.logits(student.embed(x)) for x in (pictures, pictures.flip(-1))]
    torch.testing.assert_close(found, sum(both) / 2, rtol=1e-4, atol=1e-4)


def test_the_online_probe_is_the_checkpoints_own(labelled: Images, tmp_path: Path) -> None:
    made, student, _ = setting(labelled, tmp_path)
    fitted = LogisticRegression(max_iter=500)
    train, test = student.labelled(labelled, "train"), student.labelled(labelled, "test")
    fitted.fit(train.features.numpy(), train.labels.numpy())
    weights = {
        "weight": torch.from_numpy(fitted.coef_).float(),
        "bias": torch.from_numpy(fitted.intercept_).float(),
    }
    made, student, _ = setting(labelled, tmp_path, probe=weights)
    outcome = online.score(OnlineOptions(), student, made)
    expected = 100 * fitted.score(test.features.numpy(), test.labels.numpy())
    assert outcome.values["top1"] == pytest.approx(expected)
    assert outcome.images == {"test": len(test)}
    short = {"weight": weights["weight"][:2], "bias": weights["bias"][:2]}
    made, student, _ = setting(labelled, tmp_path, probe=short)
    with pytest.raises(WeightsError, match="maps 64 features to 2 classes"):
        online.score(OnlineOptions(), student, made)
    made, student, _ = setting(labelled, tmp_path)
    with pytest.raises(WeightsError, match="holds no online probe"):
        online.score(OnlineOptions(), student, made)


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
        outcome = semi_supervised.score(options, subject, made)
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
    outcome = semi_supervised.score(options, student, made)
    assert outcome.values["top1"] > 80
    assert semi_supervised.score(options, student, made).values == outcome.values


SPARSE: Any = {"policy": "custom", "jitter": 0.0, "grey_p": 0.0}
AUGMENTED: Any = {"augmentation": SPARSE, "fit": {"epochs": 2}}


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep a line."""
        self.notes.append(text)


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
        Voc07Options.model_validate(AUGMENTED),
    ],
    ids=lambda protocol: protocol.kind,
)
def test_rate_and_batch_size_found_by_trying_are_recorded_said_and_used(
    labelled: Images, multi: Images, tmp_path: Path, protocol: Any
) -> None:
    score = PROTOCOLS[type(protocol)].score
    made, student, _ = setting(multi if protocol.kind == "voc07" else labelled, tmp_path)
    notes = Notes()
    trying = replace(made, wanted=Wanted(lr=True, batch_size=True), progress=notes)
    outcome = score(protocol, student, trying)
    found = outcome.values["tuned"]
    # The largest power of two: of 147 images, or of the half of those with a label.
    assert found["batch_size"] == (32 if protocol.kind == "semi_supervised" else 128)
    rate = found.get("lr", found.get("encoder_lr"))
    assert 1e-7 < rate < 1
    if "head_lr" in found:
        assert found["head_lr"] == pytest.approx(5 * rate)
    assert f"student: found lr {rate:.4g}" in notes.notes
    assert f"student: found batch_size {found['batch_size']}" in notes.notes
    again = score(by_hand(protocol, found), student, made)
    assert again.values == {k: v for k, v in outcome.values.items() if k != "tuned"}


@pytest.mark.parametrize(
    "protocol",
    [SemiSupervisedOptions(share=1.0, epochs=1), Voc07Options.model_validate(AUGMENTED)],
    ids=lambda protocol: protocol.kind,
)
def test_a_batch_is_bounded_by_what_the_memory_can_hold(
    labelled: Images, multi: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: Any
) -> None:
    made, student, _ = setting(multi if protocol.kind == "voc07" else labelled, tmp_path)
    made = replace(made, wanted=Wanted(batch_size=True))
    score = PROTOCOLS[type(protocol)].score
    seen: list[int] = []

    def free(size: float) -> None:
        monkeypatch.setattr(tuning, "free_memory", lambda _: int(size))

    def noted(step: Any) -> int:
        seen.append(taken_by(step))
        return seen[-1]

    monkeypatch.setattr(tuning, "taken_by", noted)
    free(1e5)
    with pytest.raises(TrainingError, match=r"A batch of 16 does not fit into 0\.0 GB"):
        score(protocol, student, made)
    assert student.encoder is not None
    weights = 16 * sum(p.numel() for p in student.encoder.backbone.parameters())
    fixed = weights if protocol.kind == "semi_supervised" else 0  # and some for the head
    free(2 * (1.2 * fixed + 1.2 * seen[1]))  # a batch of 32, of 16 and 32 that were measured
    assert score(protocol, student, made).values["tuned"]["batch_size"] == 32


def test_a_control_without_a_network_has_nothing_to_find(labelled: Images, tmp_path: Path) -> None:
    made, _, pixels = setting(labelled, tmp_path)
    trying = replace(made, wanted=Wanted(lr=True, batch_size=True))
    outcome = semi_supervised.score(SemiSupervisedOptions(share=0.5), pixels, trying)
    assert "tuned" not in outcome.values
    stored = Subject("stored", pixels.of)  # a fit on augmented views learns from its features
    options = LinearOptions.model_validate(AUGMENTED)
    assert linear.score(options, stored, trying).values["tuned"]["batch_size"] == 64


def test_several_classes_are_learned_from_augmented_views(multi: Images, tmp_path: Path) -> None:
    made, _, pixels = setting(multi, tmp_path)
    augmented: Any = {
        "augmentation": SPARSE,
        "fit": {"epochs": 25, "batch_size": 32, "lrs": [1e-3]},
    }
    outcome = voc07.score(Voc07Options.model_validate(augmented), pixels, made)
    exact = voc07.score(Voc07Options(), pixels, made)
    assert outcome.values["map"] > exact.values["map"] - 10
    assert outcome.details["tried"] == [
        {"lr": 1e-3, "weight_decay": 0.0, "validation_map": outcome.values["validation_map"]}
    ]


def test_the_loss_of_several_classes_is_a_mean_over_images_that_count() -> None:
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 4, generator=source)
    labels = torch.randint(-1, 2, (9, 4), generator=source, dtype=torch.int8)
    labels[:, 3] = -1  # a class that no image of the batch counts for
    naive = []
    for column in range(4):
        own = [
            -torch.nn.functional.logsigmoid(x if y else -x)
            for x, y in zip(logits[:, column], labels[:, column].tolist(), strict=True)
            if y >= 0
        ]
        naive.append(sum(own) / len(own) if own else torch.tensor(0.0))
    torch.testing.assert_close(several_classes(4).loss(logits, labels), sum(naive) / 4)


def test_binary_fits_agree_with_scikit_learn_on_the_images_that_count() -> None:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=source)
    weight = torch.randn(6, 3, generator=source)
    present = (x @ weight + torch.randn(300, 3, generator=source) > 0).to(torch.int8)
    present[torch.rand(300, 3, generator=source) < 0.2] = -1
    [(found, converged)] = fit_binary(
        x, present, l2s=[1e-2], max_iterations=200, tolerance=1e-6, device=CPU
    )
    assert converged
    scaler = StandardScaler().fit(x)
    for label in range(3):
        kept = present[:, label] >= 0
        model = LogisticRegression(C=1 / (1e-2 * int(kept.sum())), tol=1e-9, max_iter=1000)
        model.fit(scaler.transform(x)[kept], present[kept, label])
        np.testing.assert_allclose(
            found.logits(x)[:, label], model.decision_function(scaler.transform(x)), atol=1e-3
        )


def test_several_classes_are_scored_by_mean_average_precision(
    multi: Images, tmp_path: Path
) -> None:
    made, _, pixels = setting(multi, tmp_path)
    outcome = voc07.score(Voc07Options(), pixels, made)
    assert outcome.main == "map"
    assert outcome.values["map_low"] <= outcome.values["map"] <= outcome.values["map_high"]
    assert outcome.values["map"] > 60
    assert outcome.images == {split: count - 3 for split, count in COUNTS.items()}
    assert set(outcome.details["area_by_class"]) == set(CLASSES)


def test_protocols_for_one_class_refuse_several_and_the_other_way_round(
    labelled: Images, multi: Images, tmp_path: Path
) -> None:
    made, student, _ = setting(multi, tmp_path)
    cases: list[tuple[Any, Any]] = [
        (linear.score, LinearOptions()),
        (online.score, OnlineOptions()),
        (semi_supervised.score, SemiSupervisedOptions(share=0.1)),
        (zero_shot.score, ZeroShotOptions(teacher="clip")),
    ]
    for score, options in cases:
        with pytest.raises(DataError, match=r"one (named )?class"):
            score(options, student, made)
    made, student, _ = setting(labelled, tmp_path)
    with pytest.raises(DataError, match="use linear"):
        voc07.score(Voc07Options(), student, made)


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
    outcome = zero_shot.score(options, made.references["clip"], made)
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
    mapped = zero_shot.score(options, student, made)
    assert mapped.values["ridge"] in options.ridges
    assert 0 < mapped.values["validation_cosine"] <= 1


def test_zero_shot_asks_for_a_teacher_that_reads(labelled: Images, tmp_path: Path) -> None:
    specifications = {"hog": KINDS["hog"].model_validate({"kind": "hog"})}
    made, student, _ = setting(labelled, tmp_path, specifications=specifications)
    with pytest.raises(ConfigError, match="Did you mean 'hog'"):
        zero_shot.score(ZeroShotOptions(teacher="hogg"), student, made)
    with pytest.raises(ConfigError, match="of kind hog, not open_clip"):
        zero_shot.score(ZeroShotOptions(teacher="hog"), student, made)


def test_missing_labels_and_splits_are_named(tmp_path: Path) -> None:
    bare = images(tmp_path / "a", {"train": single("train"), "test": single("test")})
    made, student, _ = setting(bare, tmp_path / "work")
    with pytest.raises(DataError, match=r"needs validation images.*dataset.split.validation"):
        linear.score(LinearOptions(), student, made)
    none = images(tmp_path / "b", {s: [None] * COUNTS[s] for s in COUNTS})
    made, student, _ = setting(none, tmp_path / "work")
    with pytest.raises(DataError, match="train images have none"):
        linear.score(LinearOptions(), student, made)


def test_labelled_features_need_one_label_each() -> None:
    with pytest.raises(DataError, match="one label for each of 4"):
        LabelledFeatures(torch.zeros(4, 2), torch.zeros(4, 3, dtype=torch.int8))
