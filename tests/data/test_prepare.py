"""What preparation promises: all problems at once, all or nothing, never other data than asked."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skinml.base.cache import cache_dir
from skinml.base.errors import UserError
from skinml.data import demo
from skinml.data import making as module
from skinml.data.images import decode_image, pixel_digest
from skinml.data.isic2017 import CLASSES, OFFICIAL_PARTS, PARTS
from skinml.data.prepare import data_folder, describe, main, open_data, prepare, prepared_folder
from skinml.data.prepared import PreparedSet, is_prepared, open_prepared
from tests.data.conftest import (
    TEST,
    TRAIN,
    VALIDATION,
    contents,
    picture,
    write_official,
    write_table,
)


def test_official_layout_becomes_a_prepared_set(official: Path, out: Path) -> None:
    data = prepare(official, out)
    assert data.image_ids.tolist() == [f"ISIC_{number:07}" for number in range(9)]
    assert [CLASSES[label] for label in data.labels] == list(CLASSES) * 3
    assert data.official_parts.tolist() == [part for part in PARTS for _ in CLASSES]
    assert isinstance(data.images, np.memmap)
    assert (data.images.dtype, data.images.shape) == (np.uint8, (9, 224, 224, 3))
    for number in range(9):
        pixels = decode_image(picture(number))
        np.testing.assert_array_equal(data.images[number], pixels)
        assert data.pixels_sha256[number] == pixel_digest(pixels)
    assert data.folder == out and is_prepared(out)
    assert [path.name for path in out.parent.iterdir()] == ["prepared"]


def test_toy_set_has_its_parts(toy_set: PreparedSet) -> None:
    assert {part: int((toy_set.official_parts == part).sum()) for part in PARTS} == {
        "train": 24, "validation": 9, "test": 12,
    }  # fmt: skip
    assert toy_set.image_ids.tolist() == sorted(toy_set.image_ids)


def test_number_of_jobs_changes_nothing(official: Path, out: Path) -> None:
    one = prepare(official, out, jobs=1)
    four = prepare(official, out.with_name("four"), jobs=4)
    assert contents(one.folder) == contents(four.folder)
    assert one.digest == four.digest


def test_digest_follows_pixels_and_labels(official: Path, out: Path) -> None:
    before = prepare(official, out).digest
    table = official / TEST.ground_truth
    table.write_text(table.read_text().replace("1.0,0.0", "0.0,0.0"))
    relabelled = prepare(official, out).digest
    (official / TRAIN.image_folder / "ISIC_0000000.jpg").write_bytes(picture(99))
    assert len({before, relabelled, prepare(official, out).digest}) == 3


def test_files_that_are_no_images_of_the_set_are_ignored(official: Path, out: Path) -> None:
    """The official folders hold superpixel masks, metadata and what systems leave behind."""
    before = prepare(official, out).digest
    folder = official / TRAIN.image_folder
    (folder / "ISIC_0000000_superpixels.png").write_bytes(picture(1, kind="PNG"))
    for name in ("metadata.csv", ".DS_Store", "._ISIC_0000000.jpg"):
        (folder / name).write_bytes(b"x")
    assert prepare(official, out).digest == before


def test_table_of_a_spreadsheet_is_read(official: Path, out: Path) -> None:
    """A byte order mark, CRLF, whole numbers and empty lines at the end do no harm."""
    before = prepare(official, out).digest
    for part in OFFICIAL_PARTS:
        table = official / part.ground_truth
        text = table.read_text().replace("1.0", "1").replace("0.0", "0")
        table.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    assert prepare(official, out).digest == before


def test_all_problems_are_told_at_once_and_nothing_is_left(official: Path, out: Path) -> None:
    train, validation = official / TRAIN.image_folder, official / VALIDATION.image_folder
    rows = [
        ("ISIC_0000000", "0.0", "0.0"),
        ("ISIC_0000001", "2.0", "0.0"),
        ("ISIC_0000002", "1.0", "1.0"),
        ("ISIC_0000002", "0.0", "0.0"),
        ("ISIC_0000003", "0.0", "0.0"),  # Also in the validation part.
        ("ISIC_0000010", "0.0", "0.0"),
        ("ISIC_0000011", "0.0", "0.0"),
        ("ISIC_0000012", "0.0", "0.0"),
        ("ISIC_0000013", "0.0"),
        ("../ISIC_0000014", "0.0", "0.0"),
    ]
    write_table(official / TRAIN.ground_truth, rows)
    (train / "ISIC_0000000.jpg").write_bytes(picture(0)[:-200])
    (train / "ISIC_0000003.jpg").write_bytes(picture(3))
    (train / "ISIC_0000010.jpg").write_bytes(b"<html>404</html>")
    (train / "ISIC_0000011.jpg").write_bytes(picture(11, "CMYK"))
    (train / "ISIC_0000011.png").write_bytes(picture(11, kind="PNG"))
    (train / "ISIC_0000015.jpg").write_bytes(picture(15))
    (validation / "ISIC_0000004.jpg").unlink()
    write_table(official / TEST.ground_truth, [], header=("image", "label"))
    with pytest.raises(UserError) as caught:
        prepare(official, out)
    message = str(caught.value)
    for kind, example in {
        "missing images (2)": "ISIC_0000012.jpg",
        "unexpected images (no line in the ground truth) (1)": "ISIC_0000015.jpg",
        "wrong CSV columns (1)": "image,label, expected image_id,melanoma",
        "wrong number of CSV fields (1)": "line 10: ISIC_0000013,0.0",
        "labels that are not 0 or 1 (1)": "line 3: ISIC_0000001,2.0",
        "labels that are both 1 (1)": "line 4: ISIC_0000002,1.0,1.0",
        "duplicate ids (1)": "line 5: ISIC_0000002",
        "ids in two parts (1)": "ISIC_0000003 in train and validation",
        "ids that are no file name (1)": "../ISIC_0000014",
        "one image in two files (1)": "ISIC_0000011.png",
        "unusable images (2)": "ISIC_0000010.jpg: not a JPEG or PNG picture",
    }.items():
        assert kind in message
        assert example in message
    assert "ISIC_0000000.jpg: damaged or truncated" in message
    assert message.startswith(f"{official}: 13 problems")
    assert "remedy: " in message
    assert not list(out.parent.iterdir())


def test_colour_mode_is_told(official: Path, out: Path) -> None:
    path = official / TRAIN.image_folder / "ISIC_0000001.jpg"
    path.write_bytes(picture(1, "CMYK", "TIFF"))
    with pytest.raises(UserError, match=r"1 problem[\s\S]*ISIC_0000001.jpg: .*CMYK"):
        prepare(official, out)
    assert not list(out.parent.iterdir())


def empty_table(folder: Path) -> None:
    write_table(folder / TEST.ground_truth, [])


def empty_file(folder: Path) -> None:
    (folder / TEST.ground_truth).write_bytes(b"")


def binary_table(folder: Path) -> None:
    (folder / TEST.ground_truth).write_bytes(b"\xff\xd8\xff\xe0")


def no_table(folder: Path) -> None:
    (folder / TEST.ground_truth).unlink()


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder / VALIDATION.image_folder)


def broken_link(folder: Path) -> None:
    path = folder / TRAIN.image_folder / "ISIC_0000000.jpg"
    path.unlink()
    path.symlink_to(folder / "gone.jpg")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (empty_table, f"empty ground truth (1):\n    {TEST.ground_truth}"),
        (empty_file, f"wrong CSV columns (1):\n    {TEST.ground_truth}: empty file"),
        (binary_table, f"unreadable ground truth (1):\n    {TEST.ground_truth}"),
        (no_table, f"missing ground truth (1):\n    {TEST.ground_truth}"),
        (no_folder, f"missing folders (1):\n    {VALIDATION.image_folder}"),
        (broken_link, f"missing images (1):\n    {TRAIN.image_folder}/ISIC_0000000.jpg"),
    ],
)
def test_missing_or_empty_piece_is_named(
    damage: Callable[[Path], None], told: str, official: Path, out: Path
) -> None:
    damage(official)
    with pytest.raises(UserError) as caught:
        prepare(official, out)
    assert ": 1 problem" in str(caught.value)
    assert told in str(caught.value)
    assert not is_prepared(out)


def test_long_list_of_problems_is_cut_in_order(official: Path, out: Path) -> None:
    for number in range(30):
        (official / TRAIN.image_folder / f"extra{number:02}.jpg").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        prepare(official, out)
    lines = [line for line in str(caught.value).splitlines() if "extra" in line]
    assert [line[-11:-4] for line in lines] == [f"extra{number:02}" for number in range(10)]
    assert "… and 20 more" in str(caught.value)


def test_failure_keeps_the_set_that_was_there(official: Path, out: Path) -> None:
    prepare(official, out)
    before = contents(out)
    (official / TRAIN.image_folder / "ISIC_0000000.jpg").write_bytes(b"")
    with pytest.raises(UserError):
        prepare(official, out)
    assert contents(out) == before


def test_full_disk_and_impossible_place_are_told_beforehand(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="cannot be created"):
        prepare(official, official / TEST.ground_truth / "prepared")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="MB are free"):
        prepare(official, tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_identical_images_are_a_warning_and_one_group(official: Path, out: Path) -> None:
    (official / TEST.image_folder / "ISIC_0000008.jpg").write_bytes(picture(1))
    data = prepare(official, out)
    assert data.duplicates == [["ISIC_0000001", "ISIC_0000008"]]
    assert data.groups.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 1]
    text = describe(data)
    assert "warning: 1 groups" in text
    assert "ISIC_0000001 (train) = ISIC_0000008 (test)" in text
    assert "9 images" in text and data.digest in text


def test_similar_images_are_one_group_in_the_manifest(official: Path, out: Path) -> None:
    """Saved again at another quality, under another id and in another part."""
    with Image.open(io.BytesIO(picture(1))) as image:
        image.save(official / TEST.image_folder / "ISIC_0000008.jpg", quality=90)
    data = prepare(official, out)
    assert data.duplicates == []
    assert data.near_duplicates == [["ISIC_0000001", "ISIC_0000008"]]
    rows = [line.split(",") for line in (out / "manifest.csv").read_text().splitlines()]
    assert rows[0][-1] == "near_duplicate_group"
    assert rows[9][-1] == rows[2][-1] == "ISIC_0000001"
    assert "2 images in 1 groups of near-duplicates" in describe(data)


def test_set_of_before_there_were_groups_finds_the_same(
    official: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest and its splits are those of a set that is prepared today."""
    (official / TEST.image_folder / "ISIC_0000008.jpg").write_bytes(picture(1))
    today = prepare(official, out)
    lines = (out / "manifest.csv").read_text().splitlines()
    older = "".join(f"{line.rpartition(',')[0]}\n" for line in lines)
    (out / "manifest.csv").write_text(older)
    before = open_prepared(out)
    assert before.near_duplicate_group is None
    assert before.digest == today.digest
    np.testing.assert_array_equal(before.near_groups, today.near_groups)
    # Kept: another process computes nothing.
    monkeypatch.setattr("skinml.data.prepared.perceptual_hash", None)
    np.testing.assert_array_equal(open_prepared(out).near_groups, today.near_groups)


def test_description_without_duplicates_warns_of_nothing(official: Path, out: Path) -> None:
    assert "warning" not in describe(prepare(official, out))


def test_prepared_folder_itself_is_opened(official: Path, out: Path) -> None:
    data = prepare(official, out)
    assert open_data("isic2017", str(out)).folder == out
    assert open_data("isic2017", str(out)).digest == data.digest
    assert not cache_dir().exists()


def test_official_files_are_prepared_on_first_use_only(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_data("isic2017", str(official))
    assert first.folder == prepared_folder("isic2017", official.resolve())
    assert first.folder.is_relative_to(cache_dir().resolve())
    monkeypatch.delattr(module, "decode_image")
    assert open_data("isic2017", str(official)).digest == first.digest


def test_what_was_prepared_outlives_its_originals(official: Path) -> None:
    first = open_data("isic2017", str(official))
    shutil.rmtree(official)
    assert open_data("isic2017", str(official)).digest == first.digest


@pytest.mark.parametrize("where", ["auto", "empty", "not there"])
def test_no_data_is_an_error_and_never_other_data(where: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = where if where == "auto" else str(tmp_path / where)
    with pytest.raises(UserError) as caught:
        open_data("isic2017", folder)
    for remedy in ("data=isic2017", "skinml.data.prepare", "data=demo", "data_dir"):
        assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not cache_dir().exists()


def test_environment_variable_names_the_folder(
    official: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SKINML_DATA_DIR", str(official))
    assert data_folder("isic2017") == official.resolve()
    assert len(open_data("isic2017")) == 9
    # What is named on the command line wins, and the demo set has its own place.
    assert data_folder("isic2017", str(tmp_path)) == tmp_path.resolve()
    assert data_folder("demo") != official.resolve()


def test_changed_files_are_detected_and_force_prepares_them(
    official: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_data("isic2017", str(official)).digest
    (official / TRAIN.image_folder / "ISIC_0000000.jpg").write_bytes(picture(77) + b"\0")
    for use in (
        lambda: open_data("isic2017", str(official)),
        lambda: main(["--data_dir", str(official)]),
    ):
        with pytest.raises(UserError, match=r"changed.*--force"):
            use()
    assert main(["--data-dir", str(official), "--force"]) == 0
    after = open_data("isic2017", str(official)).digest
    assert after != before
    assert after in capsys.readouterr().out


def test_generated_and_real_images_are_never_taken_for_each_other(
    official: Path, tmp_path: Path
) -> None:
    demo_like = write_official(tmp_path / "generated", first_id=9_000_000)
    with pytest.raises(UserError, match=r"data=isic2017: .* holds generated demo images"):
        open_data("isic2017", str(demo_like))
    with pytest.raises(UserError, match=r"data=demo: .* holds real images"):
        open_data("demo", str(official))
    # Nor the second time, when both are prepared.
    with pytest.raises(UserError, match="generated"):
        open_data("isic2017", str(demo_like))
    assert len(open_data("demo", str(demo_like))) == 9


def test_demo_is_generated_on_first_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Path] = []

    def generate(folder: Path) -> None:
        made.append(folder)
        write_official(folder, first_id=9_000_000)

    monkeypatch.setattr(demo, "generate", generate)
    assert open_data("demo").digest == open_data("demo").digest
    assert made == [data_folder("demo")]
    assert made[0].is_relative_to(cache_dir().resolve())
    assert "generating" in capsys.readouterr().err


def cut_images(out: Path) -> None:
    os.truncate(out / "images.npy", 1000)


def empty_images(out: Path) -> None:
    (out / "images.npy").write_bytes(b"")


def garble_header(out: Path) -> None:
    content = (out / "images.npy").read_bytes()
    (out / "images.npy").write_bytes(content[:10] + b"((" + content[12:])


def drop_row(out: Path) -> None:
    text = (out / "manifest.csv").read_text()
    (out / "manifest.csv").write_text("".join(text.splitlines(keepends=True)[:-1]))


def empty_manifest(out: Path) -> None:
    (out / "manifest.csv").write_bytes(b"")


def other_columns(out: Path) -> None:
    text = (out / "manifest.csv").read_text()
    (out / "manifest.csv").write_text(text.replace("label", "class", 1))


def other_class(out: Path) -> None:
    text = (out / "manifest.csv").read_text()
    (out / "manifest.csv").write_text(text.replace("nevus", "naevus"))


def other_part(out: Path) -> None:
    text = (out / "manifest.csv").read_text()
    (out / "manifest.csv").write_text(text.replace("test", "holdout"))


def unknown_group(out: Path) -> None:
    text = (out / "manifest.csv").read_text()
    (out / "manifest.csv").write_text(text.replace(",ISIC_0000000\n", ",ISIC_9999999\n"))


def long_field(out: Path) -> None:
    with (out / "manifest.csv").open("a") as file:
        file.write("x" * 200_000)


@pytest.mark.parametrize(
    "damage",
    [
        cut_images, empty_images, garble_header, drop_row, empty_manifest, other_columns,
        other_class, other_part, unknown_group, long_field,
    ],
)  # fmt: skip
def test_damaged_prepared_set_is_refused_with_the_remedy(
    damage: Callable[[Path], None], official: Path, out: Path
) -> None:
    prepare(official, out)
    damage(out)
    for use in (lambda: open_prepared(out), lambda: open_data("isic2017", str(out))):
        with pytest.raises(UserError, match=r"not a usable prepared set.*delete the folder") as e:
            use()
        assert str(out) in str(e.value)


def test_a_mount_point_is_refused_before_an_image_is_read(
    official: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's `-v disk:/out`: the last rename failed, after all the work."""
    out.mkdir(parents=True)
    monkeypatch.setattr(Path, "is_mount", lambda path: path == out)
    monkeypatch.setattr(module, "_convert_all", lambda *given: pytest.fail("images were read"))
    with pytest.raises(UserError, match=rf"a folder within it, such as {out}/prepared"):
        prepare(official, out)
    assert not list(out.iterdir()) and list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("name", ["manifest.csv", "images.npy"])
def test_half_a_prepared_set_is_none(name: str, official: Path, out: Path) -> None:
    prepare(official, out)
    (out / name).unlink()
    assert not is_prepared(out)


def test_command_prepares_and_describes(
    official: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data_dir", str(official), "--out", str(out), "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "9 images" in printed
    assert "1 melanoma, 1 nevus, 1 seborrheic_keratosis" in printed
    assert len(open_prepared(out)) == 9
    # Again: nothing to do.
    before = (out / "images.npy").stat().st_mtime_ns
    assert main(["--data_dir", str(official), "--out", str(out)]) == 0
    assert (out / "images.npy").stat().st_mtime_ns == before
    assert main(["--data_dir", str(official), "--out", str(out), "--force"]) == 0
    assert (out / "images.npy").stat().st_mtime_ns != before


def test_out_that_holds_something_else_is_refused_untouched(official: Path, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    for force in ([], ["--force"]):
        for target in (folder, folder / "thesis.txt"):
            with pytest.raises(UserError, match="nothing of yours is overwritten"):
                main(["--data_dir", str(official), "--out", str(target), *force])
    assert contents(folder) == {"thesis.txt": b"precious"}


def test_set_of_other_files_is_replaced_only_by_force(
    official: Path, out: Path, tmp_path: Path
) -> None:
    before = prepare(official, out).digest
    other = write_official(tmp_path / "other", first_id=100)
    with pytest.raises(UserError, match="--force"):
        main(["--data_dir", str(other), "--out", str(out)])
    assert open_prepared(out).digest == before
    assert main(["--data_dir", str(other), "--out", str(out), "--force"]) == 0
    assert open_prepared(out).digest != before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--jobs", "0"], "jobs='0'"),
        (["--jobs", "²"], "jobs='²'"),
        (["--jobs", "many"], "jobs='many'"),
        (["--data", "ham10000"], "ham10000"),
        (["--out", "new", "--data_dir", "nowhere"], "neither a prepared set nor its files"),
        (["--force", "--data_dir", "nowhere"], "neither a prepared set nor its files"),
    ],
)
def test_bad_arguments_are_one_line(arguments: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        main(arguments)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
