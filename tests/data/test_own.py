"""A person's own pictures: what is read of a folder or a table, and all that is wrong with them."""

import dataclasses
import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.base.files import read_table
from skinml.data.datasets import find_dataset
from skinml.data.layout import Source
from skinml.data.prepare import describe, main, open_data, prepared_folder
from skinml.data.prepared import (
    GROUP,
    IMAGES,
    MANIFEST,
    SUBGROUP,
    PreparedSet,
    open_prepared,
    write_about,
    write_manifest,
)
from skinml.data.protocols import assign_parts
from tests.data.conftest import picture, write_csv

# Letters of other scripts, signs of CSV, Markdown, LaTeX and formulas; a word like a formula's.
CLASSES = ("Basalzellkarzinom, groß", 'nævus "atypical" & 100 %', "νευρίνωμα_$x$", "μ|melanoma")


def write_folder(folder: Path, names: tuple[str, ...] = CLASSES, each: int = 3) -> Path:
    """So many pictures of each class in a folder of its own."""
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            (folder / name / f"{number}.jpg").write_bytes(picture(100 * index + number))
    return folder


def test_a_folder_of_classes_is_a_data_set(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "clinic")
    data = open_data(str(folder))
    assert data.classes == tuple(sorted(CLASSES))
    assert data.name == "own-clinic"
    assert [data.classes[label] for label in data.labels] == [
        image_id.rpartition("/")[0] for image_id in data.image_ids
    ]
    assert set(data.official_parts) == {""} and data.named_group is None
    # Opened again it is the prepared set; what it was made from may be gone then.
    assert open_prepared(prepared_folder(str(folder), folder)).digest == data.digest
    folder.rename(tmp_path / "away")
    assert open_data(str(folder)).digest == data.digest
    assert "3 μ|melanoma" in describe(data)


@pytest.mark.parametrize("parts", [("train", "validation", "test"), ("Training", "val", "TEST")])
def test_folders_of_parts_are_the_official_parts(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for number, part in enumerate(parts):
        for index, name in enumerate(("a", "b")):
            (tmp_path / "set" / part / name / "deep").mkdir(parents=True)
            path = tmp_path / "set" / part / name / "deep" / "1.png"
            path.write_bytes(picture(10 * number + index, kind="PNG"))
    data = open_data(str(tmp_path / "set"))
    assert data.part_counts(assign_parts(data, "challenge")) == {
        part: {"a": 1, "b": 1} for part in ("train", "validation", "test")
    }


def test_a_table_has_groups_parts_and_further_columns(tmp_path: Path) -> None:
    table = write_csv(
        tmp_path / "set" / "table.csv",
        "Image,LABEL,group,part,skin type",
        ("a.jpg", "nevus", "L1", "train", "II"),
        ("b.jpg", "nevus", "L1", "training", "II"),
        ("c.jpg", "melanoma", "L2", "Test", "IV"),
        ("d.jpg", "melanoma", "", "val", ""),
    )
    data = open_data(str(table))
    assert data.image_ids.tolist() == ["a", "b", "c", "d"]
    assert data.official_parts.tolist() == ["train", "train", "test", "validation"]
    assert data.named_group is not None and data.named_group.tolist() == ["L1", "L1", "L2", ""]
    assert {name: values.tolist() for name, values in data.subgroups.items()} == {
        "skin type": ["II", "II", "IV", ""]
    }
    # Other groups are another split, and so other data.
    assert dataclasses.replace(data, named_group=None).digest != data.digest


def test_a_table_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """With a byte order mark, semicolons, and spaces where people leave them."""
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(picture(len(name) + ord(name[0])))
    text = "\ufeffimage; label\r\na.jpg; nevus\r\nb.jpg; other, rare\r\n;\r\n"
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    assert open_data(str(tmp_path / "t.csv")).classes == ("nevus", "other, rare")


@pytest.mark.parametrize("near", ["together", "identical", "ignore"])
@pytest.mark.parametrize("seed", range(3))
def test_a_group_is_never_split(groups: Path, near: str, seed: int) -> None:
    data = open_data(str(groups))
    assert data.named_group is not None
    parts = assign_parts(data, "paper", 0.25, 0.34, seed, near)
    for group in set(data.named_group):
        assert len(set(parts[data.named_group == group])) == 1, group
    # Stratified: of four lesions of each class one is for the test, one for validation.
    assert data.part_counts(parts) == {
        "train": {"benign": 6, "malignant": 6},
        "validation": {"benign": 3, "malignant": 3},
        "test": {"benign": 3, "malignant": 3},
    }


def test_near_duplicates_join_groups(groups: Path) -> None:
    """The last picture of one lesion is the first of another: both stay together."""
    (groups.parent / "3.jpg").write_bytes((groups.parent / "2.jpg").read_bytes())
    data = open_data(str(groups))
    together = data.together(data.near_groups)
    assert len(set(together[data.image_ids.astype(int) < 6])) == 1
    assert len(set(together)) == 7


def test_own_pictures_without_parts_have_no_official_ones(groups: Path) -> None:
    with pytest.raises(UserError, match="no official parts; use protocol=paper"):
        assign_parts(open_data(str(groups)), "challenge")


def test_thumbnails_that_a_system_keeps_are_no_pictures(tmp_path: Path) -> None:
    """Copies of pictures in hidden folders would be counted, and split, as further pictures."""
    folder = write_folder(tmp_path / "set", ("a", "b"))
    for hidden in ("a/.thumbnails", "a/deep/@eaDir/0.jpg", "@eaDir", "lost+found"):
        (folder / hidden).mkdir(parents=True)
        (folder / hidden / "9.jpg").write_bytes(picture(9))
    assert len(open_data(str(folder))) == 6


# What is wrong with a folder → what is done to a sound one, and what is told.
FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a picture beside the classes": (
        lambda f: (f / "x.jpg").write_bytes(picture(1)), "pictures outside the folder of a class"
    ),
    "an empty class": (lambda f: (f / "empty").mkdir(), "classes without a picture (1):"),
    "a class beside the parts": (
        lambda f: (f / "train" / "a").mkdir(parents=True), "folders beside those of the parts"
    ),
    "one picture in two formats": (
        lambda f: (f / "a" / "0.png").write_bytes(picture(9)), "one image twice"
    ),
    "no picture": (lambda f: (f / "a" / "1.jpg").write_bytes(b"text"), "unusable images"),
    "a name that metrics use": (lambda f: (f / "a").rename(f / "macro"), "class 'macro': a word"),
    "two names alike": (lambda f: (f / "a").rename(f / "b!"), "classes 'b' and 'b!': metrics of"),
    "signs alone": (lambda f: (f / "a").rename(f / "++"), "class '++': expected letters"),
    "a long name": (lambda f: (f / "a").rename(f / ("x" * 81)), "81 letters, expected up to 80"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_what_is_wrong_with_a_folder_is_told(case: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", ("a", "b"))
    spoil, expected = FOLDERS[case]
    spoil(folder)
    with pytest.raises(UserError) as caught:
        open_data(str(folder))
    assert expected in str(caught.value)
    assert "nothing was prepared" in str(caught.value)


@pytest.mark.parametrize("count", [1, 51])
def test_one_class_and_too_many_are_one_clear_line(count: int, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", tuple(f"c{n:02}" for n in range(count)), each=1)
    with pytest.raises(UserError, match=rf"{count} class.*, expected at (least 2|most 50)"):
        open_data(str(folder))


TABLES: dict[str, tuple[str, list[tuple[str, ...]], str]] = {
    "no label": ("image,lable", [("a.jpg", "x")], "label, of image, lable (did you mean lable?)"),
    "a column twice": ("image,label,label", [("a.jpg", "x", "x")], "'label', 2 of them"),
    "a short line": ("image,label", [("a.jpg",)], "line 2: a.jpg, expected 2"),
    "no class": ("image,label", [("a.jpg", " ")], "lines without an image or a label"),
    "an unknown part": ("image,label,part", [("a.jpg", "x", "dev")], "dev, expected train"),
    "some without a part": (
        "image,label,part",
        [("a.jpg", "x", "test"), ("b.jpg", "y", "")],
        "b.jpg and 0 more of 2",
    ),
    "a group in two parts": (
        "image,label,part,group",
        [("a.jpg", "x", "test", "L"), ("b.jpg", "y", "train", "L")],
        "L: test, train",
    ),
    "no line": ("image,label", [], "empty table (1):"),
}


@pytest.mark.parametrize("case", TABLES)
def test_what_is_wrong_with_a_table_is_told(case: str, tmp_path: Path) -> None:
    header, rows, expected = TABLES[case]
    table = write_csv(tmp_path / "set" / "t.csv", header, *rows)
    with pytest.raises(UserError) as caught:
        open_data(str(table))
    assert expected in str(caught.value)


def test_a_cell_that_no_file_can_be_called_is_one_of_the_problems(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", "image,label", ("a.jpg", "x"), ("b.jpg", "y"))
    table.write_text(table.read_text() + f"{'long' * 99}.jpg,x\n")
    with pytest.raises(UserError, match=r"cannot be looked for \(File name too long\) \(1\)"):
        open_data(str(table))


@pytest.mark.parametrize("asked", [["--dry-run"], []])
@pytest.mark.parametrize("closed", ["set", "set/a", "set/a/deep"])
def test_a_folder_that_is_closed_is_told_in_one_line(
    closed: str, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a traceback, and not a data set without the pictures in it."""
    folder = write_folder(tmp_path / "set", ("a", "b"))
    (folder / "a" / "deep").mkdir()
    (folder / "a" / "deep" / "9.jpg").write_bytes(picture(9))
    close(tmp_path / closed, monkeypatch)
    with pytest.raises(UserError) as caught:
        main(["--data", str(folder), *asked])
    told = str(caught.value)
    assert f"{tmp_path / closed} cannot be opened (Permission denied)" in told
    assert "\n" not in told


def close(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says of a folder without rights: root, whom tests may run as, has them."""
    scandir, listdir = os.scandir, os.listdir

    def closed(ask: Callable[..., Any], path: Any = ".") -> Any:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return ask(path)

    monkeypatch.setattr(os, "scandir", partial(closed, scandir))
    monkeypatch.setattr(os, "listdir", partial(closed, listdir))


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", "image,label", ("a.jpg", "x"), ("b.jpg", "x"))
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError) as caught:
        open_data(str(table))
    for kind in ("missing images (1)", "classes (1)", "unusable images (1)"):
        assert kind in str(caught.value)


@pytest.mark.parametrize("path", ["nowhere/at/all", "nothing.csv", "./isic2017"])
def test_a_path_without_pictures_says_what_belongs_there(path: str) -> None:
    with pytest.raises(UserError, match="expected a folder with a subfolder"):
        open_data(path)


def test_a_name_that_is_none_is_told_with_what_there_is() -> None:
    with pytest.raises(UserError, match=r"isic2017, .*did you mean isic2019\?.*\./isic2091"):
        find_dataset("isic2091")


def test_a_class_with_too_few_pictures_names_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", ("a", "b"), each=8)
    for path in sorted((folder / "a").iterdir())[1:]:
        path.unlink()
    with pytest.raises(UserError, match=r"part has no image of a; every part needs every class"):
        assign_parts(open_data(str(folder)), "paper")


def test_classes_travel_with_the_prepared_set(tmp_path: Path) -> None:
    """Moved to another machine it is opened by its own path, with its classes and groups."""
    data = open_data(str(write_folder(tmp_path / "set")))
    moved = data.folder.rename(tmp_path / "moved")
    again = open_data("demo/../own", str(moved))
    assert (again.classes, again.digest) == (data.classes, data.digest)
    assert isinstance(again, PreparedSet)
    np.testing.assert_array_equal(again.labels, data.labels)


def test_other_pictures_than_those_of_the_path_are_refused(tmp_path: Path) -> None:
    """With data_dir the pictures of the path were left aside without a word, under its name."""
    one, other = (write_folder(tmp_path / name, ("a", "b")) for name in ("one", "other"))
    with pytest.raises(UserError, match="expected one of the two") as caught:
        open_data(str(one), str(other))
    assert "\n" not in str(caught.value)
    assert open_data(str(one), str(one)).name == "own-one"


def test_versions_of_a_folder_are_data_sets_of_their_own() -> None:
    """They shared an experiment and a registered model, where each is a rival of the other."""
    assert find_dataset("./clinic.v1").name == "own-clinic_v1"
    assert find_dataset("./clinic.v2").name == "own-clinic_v2"
    assert find_dataset("some/clinic.v1.CSV").name == "own-clinic_v1"


def test_a_picture_replaced_by_another_of_its_size_is_noticed(tmp_path: Path) -> None:
    """All BMPs of a camera have one size: the earlier picture would be trained on for ever."""
    folder = write_folder(tmp_path / "set", ("a", "b"))
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        path.with_suffix(".bmp").write_bytes(picture(number, kind="BMP"))
        path.unlink()
    before = open_data(str(folder))
    changed = folder / "a" / "1.bmp"
    kept = changed.read_bytes()
    changed.write_bytes(picture(99, kind="BMP"))
    os.utime(changed, ns=(1, 1))
    with pytest.raises(UserError, match=r"a/1.bmp is not the picture .*--force"):
        open_data(str(folder))
    changed.write_bytes(kept)
    assert open_data(str(folder)).digest == before.digest, "brought back"


def test_files_that_were_copied_are_compared_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have other times; reading all of them at each start would take minutes."""
    folder = write_folder(tmp_path / "set", ("a", "b"))
    before = open_data(str(folder))
    for path in folder.rglob("*.jpg"):
        os.utime(path, ns=(1, 1))
    assert open_data(str(folder)).digest == before.digest
    monkeypatch.setattr(Source, "read", lambda source: pytest.fail("read again"))
    assert open_data(str(folder)).digest == before.digest


def test_a_manifest_larger_than_other_tables_may_be_is_read_again(tmp_path: Path) -> None:
    """What is prepared can be opened: the limits of a table from elsewhere are not its own."""
    facts = [f"{SUBGROUP}{number}" for number in range(330)]
    row = ("a", "x", "", "0" * 64, "0" * 64, "a", "L1", *("1" * 120_000 for _ in facts))
    write_manifest(tmp_path, [row], [GROUP, *facts])
    write_about(tmp_path, "own-set", ("x", "y"))
    np.save(tmp_path / IMAGES, np.zeros((1, 224, 224, 3), dtype=np.uint8))
    with pytest.raises(OSError, match="expected at most 33554432"):
        read_table(tmp_path / MANIFEST)
    assert len(open_prepared(tmp_path).subgroups) == 330
