"""Splits by hashing: images keep theirs, whatever happens to others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import DataError
from pipeline.datasets.digits import DigitsOptions
from pipeline.datasets.identity import identify
from pipeline.datasets.source import Encoded, Item, Source, Split
from pipeline.datasets.split import (
    GroupOptions,
    SplitOptions,
    cut,
    groups_told,
    shares_of,
    split_of,
)


class Words(Source):
    """Images that are only words: the content of an image is its word."""

    def __init__(self, words: dict[str, str], labels: dict[str, int] | None = None) -> None:
        labels = labels or {}
        self.classes = ("a", "b", "c") if labels else None
        self._words = words
        self.splits = {"train": [Item(name, labels.get(name)) for name in words]}

    def read(self, item: Item) -> Encoded:
        """Return the word."""
        return Encoded(self._words[item.name].encode(), "png")


OPTIONS = SplitOptions(seed=1, validation=0.2, test=0.3)


def where(source: Source, options: SplitOptions = OPTIONS) -> dict[str, Split]:
    return {i.name: split for split, items in cut(source, options).items() for i in items}


def words(count: int) -> dict[str, str]:
    return {f"{i:04d}": f"content {i}" for i in range(count)}


@given(st.sets(st.integers(0, 199), max_size=150), st.integers(0, 50))
def test_images_keep_their_split_when_others_go_and_come(gone: set[int], new: int) -> None:
    before = where(Words(words(200)))
    left = {name: word for name, word in words(200).items() if int(name) not in gone}
    after = where(Words(left | {f"new {i}": f"new content {i}" for i in range(new)}))
    assert {name: after[name] for name in left} == {name: before[name] for name in left}


def test_names_and_order_do_not_matter() -> None:
    before = where(Words(words(200)))
    renamed = {f"other/{name}.png": word for name, word in reversed(words(200).items())}
    after = where(Words(renamed))
    assert {name[6:10]: split for name, split in after.items()} == before


def test_all_images_of_one_class_may_go() -> None:
    labels = {name: int(name) % 3 for name in words(300)}
    before = where(Words(words(300), labels))
    left = {name: word for name, word in words(300).items() if labels[name] != 1}
    after = where(Words(left, {name: labels[name] for name in left}))
    assert after == {name: before[name] for name in left}


def test_exact_duplicates_are_never_divided() -> None:
    twice = words(300) | {f"copy {name}": word for name, word in words(300).items()}
    found = where(Words(twice))
    assert all(found[name] == found[f"copy {name}"] for name in words(300))


def test_another_share_of_one_split_leaves_the_other() -> None:
    fewer, more = (
        where(Words(words(500)), OPTIONS.model_copy(update={"validation": share}))
        for share in (0.1, 0.4)
    )
    assert all(more[n] == split for n, split in fewer.items() if split != "train")
    assert {n for n, split in fewer.items() if split == "test"} == {
        n for n, split in more.items() if split == "test"
    }


def test_shares_are_met_within_sampling_error() -> None:
    source = DigitsOptions().open()
    identities = identify(source, source.splits["train"])
    deviations = []
    for seed in range(40):
        options = SplitOptions(seed=seed, validation=0.1, test=0.2)
        splits = cut(source, options, identities)
        for share in shares_of(splits, options):
            assert share.images == len(splits[share.split])
            deviations.append((share.share - share.wanted) / share.deviation)
            least, most = share.least, share.most
            assert least is not None
            assert most is not None
            assert 0 < least[1] < share.share < most[1] < 0.5
    # Exact duplicates are few among the digits, so the draws are binomial.
    assert abs(np.mean(deviations)) < 4 / np.sqrt(len(deviations))
    assert 0.75 < np.std(deviations) < 1.25


@pytest.mark.parametrize("shape", ["pattern", "file"])
def test_groups_stay_together(shape: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    patients = {f"patient{i % 40}/scan{i}": f"content {i}" for i in range(400)}
    if shape == "pattern":
        groups = GroupOptions(pattern=r"patient(\d+)/")
    else:
        listed = tmp_path_factory.mktemp("groups") / "groups.tsv"
        lines = [f"{name}\t{name.partition('/')[0]}" for name in patients]
        listed.write_text("\n".join(lines))
        groups = GroupOptions(file=str(listed))
    options = OPTIONS.model_copy(update={"groups": groups})
    found = where(Words(patients), options)
    by_patient: dict[str, set[str]] = {}
    for name, split in found.items():
        by_patient.setdefault(name.partition("/")[0], set()).add(split)
    assert {len(splits) for splits in by_patient.values()} == {1}
    assert set(found.values()) == {"train", "validation", "test"}


def test_a_changed_file_of_groups_is_noticed(tmp_path_factory: pytest.TempPathFactory) -> None:
    listed = tmp_path_factory.mktemp("groups") / "groups.tsv"
    listed.write_text("a\t1")
    options = OPTIONS.model_copy(update={"groups": GroupOptions(file=str(listed))})
    before = options.provenance()
    listed.write_text("a\t2")
    assert options.provenance() != before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pattern": "(a)(b)"}, "one parenthesis"),
        ({"pattern": "("}, "not a regular expression"),
        ({}, "either pattern or file"),
        ({"pattern": "(a)", "file": "b"}, "either pattern or file"),
    ],
)
def test_wrong_groups_are_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroupOptions(**values)


def test_a_line_without_a_tab_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    listed = tmp_path_factory.mktemp("groups") / "groups.tsv"
    listed.write_text("a 1")
    options = OPTIONS.model_copy(update={"groups": GroupOptions(file=str(listed))})
    with pytest.raises(DataError, match="line 1: expected a name, a tab and a group"):
        cut(Words(words(50)), options)


def test_groups_that_name_no_image_are_refused() -> None:
    options = OPTIONS.model_copy(update={"groups": GroupOptions(pattern=r"patient(\d+)/")})
    with pytest.raises(DataError, match="Not one image is in a group"):
        cut(Words(words(50)), options)
    mixed = Words(words(50) | {"patient1/a": "a", "patient1/b": "b", "patient2/c": "c"})
    told = groups_told(mixed.splits["train"], options)
    assert told == "2 groups of images; 50 images are in none."
    options = OPTIONS.model_copy(update={"groups": GroupOptions(file="nowhere.tsv")})
    with pytest.raises(DataError, match=r"groups\.file: 'nowhere\.tsv' cannot be read"):
        options.provenance()


def test_what_is_kept_stays_whatever_its_hash() -> None:
    kept: dict[str, Split] = dict.fromkeys(list(words(200))[:100], "test")
    splits = cut(Words(words(200)), OPTIONS, kept=kept)
    assert kept.keys() <= {item.name for item in splits["test"]}


def test_the_split_of_an_identity_is_fixed_for_ever() -> None:
    """A change would turn the test images of every collection into training images."""
    keys = ("0" * 64, "a" * 64, "group 7", "f" * 64, "group x")
    expected = ["train", "train", "test", "train", "validation"]
    assert [split_of(key, OPTIONS) for key in keys] == expected
