"""Archives are read in place: the same set as from folders, and every damage is told."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.data import making as module
from skinml.data import official as official_module
from skinml.data.isic2017 import METADATA_COLUMNS, OFFICIAL_PARTS
from skinml.data.prepare import main, open_data, prepare
from tests.data.conftest import TEST, TRAIN, contents, picture


def pack(folder: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Replace each image folder by its archive, as it is published: other files lie in it too."""
    for official in OFFICIAL_PARTS:
        images = folder / official.image_folder
        with zipfile.ZipFile(folder / official.archive, "w", compression) as archive:
            archive.mkdir(official.image_folder)
            for path in images.iterdir():
                archive.write(path, f"{official.image_folder}/{path.name}")
                mask = path.with_name(f"{path.stem}_superpixels.png").name
                archive.writestr(f"{official.image_folder}/{mask}", b"mask")
                archive.writestr(f"__MACOSX/{official.image_folder}/._{path.name}", b"fork")
            name = f"{official.image_folder}/{official.metadata}"
            if not (images / official.metadata).exists():
                archive.writestr(name, ",".join(METADATA_COLUMNS))
        shutil.rmtree(images)
    return folder


def rewrite(path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> None:
    """Write an archive anew, each entry as `change` returns it; None leaves it out."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            if (changed := change(name, content)) is not None:
                archive.writestr(*changed)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_give_the_set_of_their_folders_and_nothing_is_unpacked(
    compression: int, official: Path, out: Path
) -> None:
    from_folders = contents(prepare(official, out.with_name("folders")).folder)
    pack(official, compression)
    before = sorted(path.name for path in official.rglob("*"))
    from_archives = contents(prepare(official, out).folder)
    assert sorted(path.name for path in official.rglob("*")) == before
    assert not any(path.is_dir() for path in official.iterdir())
    for name in ("images.npy", "manifest.csv"):
        assert from_archives[name] == from_folders[name]


def test_folder_wins_over_the_archive_beside_it(official: Path, out: Path) -> None:
    """It was unpacked from it, and perhaps mended since; half unpacked, the error tells both."""
    images = shutil.copytree(official / TRAIN.image_folder, official / "kept")
    pack(official)
    images.rename(official / TRAIN.image_folder)
    (official / TRAIN.image_folder / "ISIC_0000000.jpg").write_bytes(picture(50))
    data = prepare(official, out)
    np.testing.assert_array_equal(data.images[0], module.decode_image(picture(50)))
    (official / TRAIN.image_folder / "ISIC_0000001.jpg").unlink()
    with pytest.raises(UserError, match=f"delete it, and {TRAIN.archive} is read instead") as told:
        prepare(official, out)
    # What is there is not downloaded: nothing is lacking.
    assert "GB" not in str(told.value)


def test_second_call_reads_no_image_and_a_copy_is_the_same_archive(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(official)
    first = open_data("isic2017", str(official)).digest
    monkeypatch.delattr(module, "decode_image")
    for path in official.glob("*.zip"):
        os.utime(path, (0, 0))
    assert open_data("isic2017", str(official)).digest == first


def test_archive_whose_images_changed_is_detected(official: Path) -> None:
    """By their checksums: the sizes are the same."""
    archive = pack(official) / TRAIN.archive
    rewrite(archive, lambda name, content: (name, content))
    open_data("isic2017", str(official))
    size = archive.stat().st_size

    def flip(name: str, content: bytes) -> tuple[str, bytes]:
        if name.endswith(".csv"):
            return name, content
        # In a JPEG the density, which no pixel depends on.
        return name, content[:15] + bytes(byte ^ 1 for byte in content[15:16]) + content[16:]

    rewrite(archive, flip)
    assert archive.stat().st_size == size
    with pytest.raises(UserError, match=r"changed.*--force"):
        open_data("isic2017", str(official))
    assert main(["--data_dir", str(official), "--force"]) == 0


def test_what_was_prepared_outlives_its_archives(official: Path) -> None:
    """12 GB may be deleted, and the small tables stay behind."""
    pack(official)
    first = open_data("isic2017", str(official)).digest
    for path in official.glob("*.zip"):
        path.unlink()
    assert open_data("isic2017", str(official)).digest == first


def test_an_archive_made_on_windows_gives_the_same_set(official: Path, out: Path) -> None:
    """Its names have backslashes, folders too."""
    from_folders = contents(prepare(official, out.with_name("folders")).folder)
    pack(official)
    for path in official.glob("*.zip"):
        rewrite(path, lambda name, content: (name.replace("/", "\\"), content))
    from_archives = contents(prepare(official, out).folder)
    for name in ("images.npy", "manifest.csv"):
        assert from_archives[name] == from_folders[name]


def test_folders_that_are_nested_twice_give_the_same_set(official: Path, out: Path) -> None:
    """As Windows unpacks: ISIC-2017_Training_Data/ISIC-2017_Training_Data/….jpg."""
    flat = contents(prepare(official, out.with_name("flat")).folder)
    for part in OFFICIAL_PARTS:
        images = (official / part.image_folder).rename(official / "moved")
        (official / part.image_folder).mkdir()
        images.rename(official / part.image_folder / part.image_folder)
    nested = contents(prepare(official, out).folder)
    for name in ("images.npy", "manifest.csv"):
        assert nested[name] == flat[name]


@pytest.mark.parametrize("step", ["open_data", "command"])
def test_files_a_folder_further_in_are_named_not_downloaded(
    official: Path, tmp_path: Path, step: str
) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    right = official.rename(outer / "isic2017")
    for wrong in (outer, right / TRAIN.image_folder):
        with pytest.raises(UserError) as caught:
            if step == "open_data":
                open_data("isic2017", str(wrong), yes=True)
            else:
                main(["--data_dir", str(wrong), "--out", str(tmp_path / "out"), "--yes"])
        assert f"use data_dir={right} " in str(caught.value)
        assert "GB" not in str(caught.value)


def test_a_closed_folder_beside_the_files_is_passed_over(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every disk of its own has a lost+found that only root may look into."""
    disk = tmp_path / "disk"
    (disk / "lost+found").mkdir(parents=True)
    official.rename(disk / "pictures")
    ask = Path.is_dir

    def closed(path: Path) -> bool:
        if path.parent.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return ask(path)

    monkeypatch.setattr(Path, "is_dir", closed)
    assert official_module.official_files_nearby(disk) == disk / "pictures"


def damaged_image(path: Path) -> None:
    """A byte of an image, not of the central directory: only its CRC can tell."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        [entry] = [e for e in archive.infolist() if e.filename.endswith("ISIC_0000001.jpg")][:1]
    content[entry.header_offset + 200] ^= 255
    path.write_bytes(content)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def no_archive(path: Path) -> None:
    path.write_bytes(b"<html>404 Not Found</html>")


def lacking(path: Path) -> None:
    rewrite(path, lambda name, content: None if "ISIC_0000001.jpg" in name else (name, content))


def renamed(path: Path) -> None:
    rewrite(path, lambda name, content: (name.replace("ISIC_0000001", "ISIC_0000077"), content))


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("elsewhere/ISIC_0000001.jpg", picture(1))


def bomb(path: Path) -> None:
    def inflate(name: str, content: bytes) -> tuple[str, bytes]:
        return name, bytes(2000) if name.endswith("ISIC_0000001.jpg") else content

    rewrite(path, inflate)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damaged_image, f"{TRAIN.archive}/{TRAIN.image_folder}/ISIC_0000001.jpg: unreadable in"),
        (truncated, f"unusable archives (1):\n    {TRAIN.archive}: File is not a zip file"),
        (no_archive, f"unusable archives (1):\n    {TRAIN.archive}: File is not a zip file"),
        (lacking, f"missing images (1):\n    {TRAIN.archive}/ISIC_0000001.jpg"),
        (renamed, f"{TRAIN.archive}/{TRAIN.image_folder}/ISIC_0000077.jpg"),
        (twice, f"one image in two files (1):\n    {TRAIN.archive}/elsewhere/ISIC_0000001.jpg"),
        (bomb, "ISIC_0000001.jpg: 2,000 bytes, expected at most 1,000"),
        (Path.unlink, f"missing folders (1):\n    {TRAIN.image_folder} or {TRAIN.archive}"),
    ],
)
def test_damaged_archive_is_told_and_nothing_is_left(
    damage: Callable[[Path], None],
    told: str,
    official: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pack(official)
    monkeypatch.setattr(official_module, "MAX_ENTRY_BYTES", 1000)
    damage(official / TRAIN.archive)
    with pytest.raises(UserError) as caught:
        prepare(official, out)
    assert told in str(caught.value)
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_archive_that_breaks_later_is_changed_files(official: Path) -> None:
    pack(official)
    open_data("isic2017", str(official))
    truncated(official / TEST.archive)
    with pytest.raises(UserError, match="changed"):
        open_data("isic2017", str(official))
