"""Folders of images: names of any kind, splits, chosen classes."""

from pathlib import Path

from replicas import OPTIONS, labels_of, opened, picture


def test_names_of_any_kind_in_nested_and_linked_folders(tmp_path: Path) -> None:
    picture(tmp_path / "outside" / "Straße 1.PNG", 0)
    picture(tmp_path / "images" / "猫" / "a b" / "Ünï côdé.JPEG", 1)
    picture(tmp_path / "images" / "猫" / "x.JpG", 2)
    (tmp_path / "images" / "two words").symlink_to(tmp_path / "outside")
    (tmp_path / "images" / "猫" / "linked.png").symlink_to(tmp_path / "outside" / "Straße 1.PNG")
    (tmp_path / "images" / "猫" / "notes.txt").write_text("not an image")
    (tmp_path / "images" / ".cache").mkdir()
    source = opened(kind="image_folder", root=str(tmp_path / "images"))
    assert source.classes == ("two words", "猫")
    assert [item.name for item in source.splits["train"]] == [
        "two words/Straße 1.PNG",
        "猫/a b/Ünï côdé.JPEG",
        "猫/linked.png",
        "猫/x.JpG",
    ]
    assert [source.read(item).extension for item in source.splits["train"]] == [
        "png",
        "jpg",
        "png",
        "jpg",
    ]


def test_split_folders_without_classes_and_chosen_classes(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "flat" / "train" / f"{i}.png", i)
        picture(tmp_path / "flat" / "test" / f"{i}.png", i)
        picture(tmp_path / "classes" / f"c{i}" / "x.png", i)
    flat = opened(kind="image_folder", root=str(tmp_path / "flat"))
    assert flat.classes is None
    assert labels_of(flat, "test") == [None] * 3
    (tmp_path / "list.txt").write_text("c2\nc0\n")
    chosen = {"root": str(tmp_path / "classes"), "classes": str(tmp_path / "list.txt")}
    assert opened(kind="image_folder", **chosen).classes == ("c0", "c2")
    unlabelled = opened(kind="image_folder", labels="none", **chosen)
    assert [item.name for item in unlabelled.splits["train"]] == ["c0/x.png", "c2/x.png"]
    assert labels_of(unlabelled, "train") == [None] * 2


def test_how_files_got_there_is_not_what_they_are(tmp_path: Path) -> None:
    dumps = [
        OPTIONS.validate_python({"kind": kind, "root": "x", "download": download}).model_dump()
        for kind in ("cifar10", "cifar100", "cifar20", "stl10", "voc07")
        for download in (False, True)
    ]
    assert dumps[::2] == dumps[1::2]
