"""What is said of pictures before anything is made of them: `--dry-run`, and its warnings."""

import re
from pathlib import Path

import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.data.datasets import thresholds_note
from skinml.data.images import decode_image
from skinml.data.prepare import main, open_data
from skinml.data.protocols import assign_parts, own_parts_warning
from skinml.evaluation.classes import sought
from tests.data.conftest import picture, write_csv
from tests.data.test_own import write_folder


@pytest.mark.parametrize("asked", [["--dry-run"], []])
def test_that_parts_of_ones_own_are_drawn_anew_is_said(
    asked: list[str], groups: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever made a test part would else report a score on pictures that were trained on."""
    assert main(["--data", str(groups), *asked]) == 0
    assert "drawn anew" not in capsys.readouterr().err, "it has no parts"
    header, *rows = groups.read_text().splitlines()
    parts = [("train", "validation", "test")[n // 3 % 3] for n in range(len(rows))]
    own = groups.with_name("parts.csv")
    lines = [f"{header},part", *(f"{r},{p}" for r, p in zip(rows, parts, strict=True))]
    own.write_text("\n".join(lines))
    assert main(["--data", str(own), *asked]) == 0
    told = capsys.readouterr().err
    assert "your own train/validation/test parts are pooled and drawn anew" in told
    assert "--protocol challenge keeps them" in told


def test_the_parts_of_a_data_set_by_name_are_no_warning() -> None:
    assert own_parts_warning("isic2017", ["train", "test"]) == []


def test_files_that_are_left_out_are_told_by_ending(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of WebP with three JPEGs must not become a data set of three without a word."""
    folder = write_folder(tmp_path / "set", ("a", "b"))
    for name in ("a/3.jfif", "b/3.JPE"):
        (folder / name).write_bytes(picture(ord(name[0])))
    for name in ("a/4.webp", "b/deep/5.WEBP", "b/notes", ".webp", "notes.webp", "a/.DS_Store"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    told = "left out, as their names are not those of pictures: 2 .webp, 1 without an ending;"
    assert main(["--data", str(folder), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "8 pictures of 2 classes" in out and told in out
    assert len(open_data(str(folder))) == 8
    assert told in capsys.readouterr().err


def test_the_preview_counts_and_writes_nothing(
    groups: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (groups.parent / "3.jpg").write_bytes((groups.parent / "2.jpg").read_bytes())
    with groups.open("a") as file:
        file.write("5.jpg,benign,L9,1\n")
    before = sorted(groups.parent.rglob("*"))
    with pytest.raises(UserError, match="one image twice"):
        main(["--data", str(groups), "--dry-run"])
    told = capsys.readouterr().out
    assert "25 pictures of 2 classes" in told
    assert "benign" in told and "13" in told
    assert "9 groups of up to 3 pictures" in told
    assert "smallest, median, largest 40×30, 40×30, 40×30" in told
    assert sorted(groups.parent.rglob("*")) == before


def test_the_preview_warns_of_groups_with_two_labels_and_of_near_duplicates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_csv(
        tmp_path / "t.csv",
        "image,label,group,part",
        *[("a.jpg", "x", "P1", "train"), ("b.jpg", "y", "P1", "train")],
        *[("c.jpg", "x", "P2", "test"), ("d.jpg", "y", "P3", "validation")],
    )
    (tmp_path / "c.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    assert main(["--data", str(table), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "1 group has pictures of several classes" in told and "P1: x, y" in told
    assert "1 group of these in more than one part" in told
    assert "a (train) = c (test)" in told
    assert "the test part has no picture of y" in told


@pytest.mark.parametrize(("each", "few"), [(4, True), (7, False)])
def test_the_preview_tries_the_split(
    each: int, few: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What passes it is trained on: a class that no part can spare is told before the hours."""
    folder = write_folder(tmp_path / "set", ("a", "b"), each=12)
    for path in sorted((folder / "a").iterdir())[each:]:
        path.unlink()
    assert main(["--data", str(folder), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert ("a training would refuse them" in told) == few
    data = open_data(str(folder))
    if few:
        with pytest.raises(UserError, match=r"part has no image of a; .* seven of about one size"):
            assign_parts(data, "paper")
    else:
        assign_parts(data, "paper")


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (("melanoma", "nevus"), ""),
        (("Melanoma", "nevus"), "chosen for nevus, .*: rename Melanoma to melanoma"),
        (("benign", "malignant"), "note: thresholds are chosen for malignant"),
        (("MELANOMA", "a", "b"), "not chosen for any class, .*: rename MELANOMA to melanoma"),
        (("a", "b", "c"), "note: thresholds are not chosen for any class"),
    ],
)
def test_the_class_that_thresholds_are_for_is_said_where_it_is_no_melanoma(
    classes: tuple[str, ...], told: str
) -> None:
    """With folders Melanoma and Nevus they were for nevus, without a word."""
    lines = thresholds_note(classes)
    assert len(lines) == bool(told)
    assert all(re.search(told, line) for line in lines)
    chosen = sought(classes)
    assert all((f"chosen for {chosen}" if chosen else "not chosen") in line for line in lines)
    assert lines or chosen == "melanoma"


def test_the_preview_says_what_thresholds_are_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "set", ("Melanoma", "Nevus"), each=7)
    assert main(["--data", str(folder), "--dry-run"]) == 0
    assert "thresholds are chosen for Nevus" in capsys.readouterr().out


def test_a_part_without_a_class_asks_for_pictures_in_that_part(tmp_path: Path) -> None:
    parts = ("train", "validation", "test")
    rows = [(f"{n}.jpg", "ab"[n % 2], parts[n % 3]) for n in range(5)]
    data = open_data(str(write_csv(tmp_path / "t.csv", "image,label,part", *rows)))
    with pytest.raises(UserError, match=r"the test part has no image of b; .* to that part"):
        assign_parts(data, "challenge")


def test_the_preview_judges_the_pixels_that_are_prepared(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ISIC 2017 is taken as stored: turned by its EXIF a picture has other near-duplicates."""
    given = []

    def watched(content: bytes, as_stored: bool = False) -> np.ndarray:
        given.append(as_stored)
        return decode_image(content, as_stored)

    monkeypatch.setattr("skinml.data.preview.decode_image", watched)
    assert main(["--data_dir", str(official), "--dry-run"]) == 0
    assert given == [True] * 9
