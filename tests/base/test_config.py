"""The experiment file: reading it, overriding values, and messages about mistakes."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.base.digests import digest
from pipeline.base.errors import ConfigError
from pipeline.base.yaml_file import override, read_yaml
from stages.experiment.schema import load

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    path = tmp_path / "digits.yaml"
    path.write_bytes((CONFIGS / "digits.yaml").read_bytes())
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_valid_and_named_as_its_file(path: Path) -> None:
    assert load(path).name == path.stem


def test_params_yaml_is_the_quick_start() -> None:
    root = CONFIGS.parent
    assert (root / "params.yaml").read_bytes() == (CONFIGS / "robust_digits.yaml").read_bytes()


def test_numbers_are_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 1e-4\nb: 010\nc: yes\n")
    assert read_yaml(path) == {"a": 1e-4, "b": 10, "c": "yes"}


def test_yaml_cannot_construct_objects(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_yaml(path)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "", "a: 1\na: 2\n"])
def test_what_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_yaml(path)


def test_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mvmr init"):
        load(tmp_path / "none.yaml")


def test_override_sets_nested_values_and_leaves_the_original_alone() -> None:
    data: dict[str, Any] = {"train": {"lr": 1.0}}
    changed = override(data, ["train.lr=1e-3", "train.schedule.kind=cosine", "name=x"])
    assert changed == {"train": {"lr": 1e-3, "schedule": {"kind": "cosine"}}, "name": "x"}
    assert data == {"train": {"lr": 1.0}}


def test_a_mapping_without_spaces_is_told_from_a_name(digits: Path) -> None:
    written = "features.x={kind:dct, size: 4}"
    message = r"'kind:dct' has no value; write a space after the colon, \{kind: dct\}"
    with pytest.raises(ConfigError, match=message):
        load(digits, [written])
    digits.write_text(digits.read_text() + "\nmore: [{kind:dct}]\n")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(digits))}: {message}"):
        load(digits)


@pytest.mark.parametrize("assignment", ["train.lr", "=3", "train.lr.x=3", "a=[1"])
def test_bad_overrides_are_refused(assignment: str) -> None:
    with pytest.raises(ConfigError):
        override({"train": {"lr": 1.0}}, [assignment])


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("train.learning_rate=1", "train.learning_rate: Unknown key"),
        ("train.epoch=1", "Did you mean 'epochs'"),
        ("train.epochs=many", "train.epochs: Input should be a valid integer"),
        ("train.lr=-1", "train.lr: "),
        ("dataset.source.kind=digit", "Did you mean 'digits'"),
        ("dataset.source={root: x}", "dataset.source.kind: this key is required."),
        ("features.scattering.JJ=2", "features.scattering.JJ: Unknown key"),
        ("student.architecture=resnet19", "Did you mean 'resnet1"),
        ("objective.scatterin={kind: dependence}", "Did you mean 'scattering'"),
        ("features.augmented={}", "features.augmented: 'augmented' is random"),
        ("evaluate.linear.kind=linea", "Did you mean 'linear'"),
        ("dataset.image.mean=[1, 2]", "mean and std need one number per channel"),
        ("name=a/b", "name: "),
        ("name=2024-05-01", "name: "),
        ("train.epochs=0", "train.epochs: "),
        ("train.schedule.warmup_epochs=50", "the schedule needs 50 epochs, but epochs is 20."),
        ("seed=99999999999999999999", "seed: Input should be less than"),
        ("train.precision=64", "train.precision: Unknown value '64'. Valid: 16, 32, bf16."),
        ("train.batch_size=1", "train.batch_size: "),
    ],
)
def test_a_mistake_is_named_with_its_path_and_remedy(
    digits: Path, assignment: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(digits, [assignment])
    assert expected in str(caught.value)


def test_keys_that_do_not_go_together_are_named_without_their_section(digits: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(digits, ["train.schedule.warmup_epochs=50"])
    assert "found" not in str(caught.value)


def test_a_batch_is_as_large_as_the_objective_needs(digits: Path) -> None:
    small = ["train.batch_size=3"]
    assert load(digits, small).train
    unbiased = "objective.hog.statistic=dcor_squared_unbiased"
    with pytest.raises(ConfigError, match=r"train\.batch_size: .* at least 4 images; found 3\."):
        load(digits, [*small, unbiased])
    assert load(digits, [*small, unbiased, "objective.hog.weight=0"]).train


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("kind: affinity", "affinity"),
        ("kind: regression, relative: true", "relative"),
        ("kind: dependence, whiten: 1", "whiten"),
    ],
)
def test_a_term_that_must_know_its_targets_beforehand_needs_a_stored_one(
    digits: Path, options: str, why: str
) -> None:
    term = f"objective.pixels={{{options}}}"
    with pytest.raises(ConfigError, match=rf"objective\.pixels: {why} needs stored targets"):
        load(digits, [term])
    assert load(digits, [term, "features.pixels={}"])
    assert load(digits, [f"objective.pixels={{{options}, weight: 0}}"])


def test_views_that_are_compared_are_not_both_the_original_one(digits: Path) -> None:
    changed = ["train.validate_on=original"]
    with pytest.raises(ConfigError, match=r"validate_on: invariance, view_dependence of the"):
        load(digits, changed)
    off = [f"objective.{name}.weight=0" for name in ("invariance", "view_dependence")]
    assert load(digits, [*changed, *off])


LOCAL = "train.views={global: 2, local: {count: 4, size: 6, scale: [0.05, 0.3]}}"


def test_local_views_are_options_of_training(digits: Path) -> None:
    train = load(digits, [LOCAL]).train
    assert train is not None
    assert train.views.local_count == 4
    written = train.model_dump(mode="json")["views"]
    assert written == {"global": 2, "local": {"count": 4, "size": 6, "scale": [0.05, 0.3]}}
    assert type(train).model_validate(train.model_dump(mode="json")) == train
    assert load(digits, ["train.views={global: 2}"]).digest() == load(digits).digest()
    assert load(digits, [LOCAL]).digest() != load(digits).digest()
    assert train.views.in_global_ones(8) == 2 + 4 * (6 / 8) ** 2


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["train.views={global: 3}"], "train.views.global: the original and the augmented view"),
        (["train.views.local={count: 4}"], "train.views.local.size: this key is required."),
        (["train.views.local={count: 0, size: 6}"], "train.views.local.count: "),
        (["train.views.local={count: 4, size: 6, scale: [0.3, 0.1]}"], "found 0.3, 0.1"),
        (["train.views.local={count: 4, size: 9}"], "found 9"),
        (["objective.hog.view=local"], "objective.hog.view: local needs local views"),
        (["objective.invariance.view=original"], "objective.invariance.view: Unknown value"),
        (
            [LOCAL, "dataset.views={count: 2}", "features.hog.views=true"],
            "train.views.local: hog is stored of views",
        ),
        (
            [LOCAL, "student={architecture: timm:vit_tiny_patch16_224}"],
            "train.views.local.size: timm:vit_tiny_patch16_224 takes images of one size",
        ),
    ],
)
def test_local_views_that_cannot_be_are_refused(
    digits: Path, assignments: list[str], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(digits, assignments)
    assert said in str(caught.value)


def test_a_changing_weight_survives_a_record(digits: Path) -> None:
    weight = "objective.hog.weight={from: 5, to: 1, schedule: linear}"
    changed = load(digits, [weight])
    recorded = changed.model_dump(mode="json")["objective"]["hog"]
    assert recorded["weight"] == {"from": 5.0, "to": 1.0, "schedule": "linear"}
    assert changed.digest() != load(digits).digest()


def test_a_precision_may_be_written_as_a_number(digits: Path) -> None:
    for written in ("16", "32"):
        train = load(digits, [f"train.precision={written}"]).train
        assert train is not None
        assert train.precision == written


def test_all_mistakes_are_reported_at_once(digits: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            digits,
            ["train.lr=fast", "seed=-1", "dataset.nam=x", "objective.hogg={kind: dependence}"],
        )
    message = str(caught.value)
    for part in ("train.lr", "seed", "dataset.nam", "objective.hogg", "4 problems"):
        assert part in message


def test_a_missing_section_is_named(digits: Path) -> None:
    data = YAML(typ="safe", pure=True).load(digits.read_text())
    del data["train"]
    with digits.open("w") as file:
        YAML().dump(data, file)
    with pytest.raises(ConfigError, match="train: this key is required"):
        load(digits)


def test_digest_ignores_the_order_of_keys_only() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})
