"""Age and sex of ISIC 2017: read where they are, and brought into sets that were made without."""

from pathlib import Path

import pytest

from skinml.base.errors import UserError
from skinml.data import making as module
from skinml.data.isic2017 import METADATA_COLUMNS
from skinml.data.prepare import open_data, prepare, prepared_folder
from skinml.data.prepared import open_prepared
from tests.data.conftest import TRAIN, VALIDATION, write_table
from tests.data.test_archives import pack


def write_metadata(folder: Path) -> None:
    """The training part's metadata: of two images of three; the other parts have none."""
    rows: list[tuple[str, ...]] = [("ISIC_0000001", "55", "female"), ("ISIC_0000000", "30", "male")]
    write_table(folder / TRAIN.metadata, rows, METADATA_COLUMNS)


def facts_of(folder: Path) -> dict[str, list[str]]:
    return {k: v.tolist() for k, v in open_prepared(folder).subgroups.items()}


EXPECTED = {
    "age_approximate": ["30", "55", *[""] * 7],
    "sex": ["male", "female", *[""] * 7],
}


@pytest.mark.parametrize("place", ["beside", "among", "archive"])
def test_metadata_are_read_wherever_the_official_files_have_them(
    place: str, official: Path, out: Path
) -> None:
    without = prepare(official, out.with_name("without"))
    assert without.subgroups == {}
    write_metadata(official if place == "beside" else official / TRAIN.image_folder)
    if place == "archive":
        pack(official)
        assert not (official / TRAIN.image_folder).exists()
    data = prepare(official, out)
    assert facts_of(out) == EXPECTED
    assert data.digest == without.digest


def test_a_set_of_before_gets_them_without_an_image_being_read(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_data("isic2017", str(official))
    out = prepared_folder("isic2017", official.resolve())
    digest, pixels = before.digest, (out / "images.npy").stat().st_mtime_ns
    manifest = (out / "manifest.csv").read_text()
    write_metadata(official)

    def no_decoding(*_: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(module, "decode_image", no_decoding)
    after = open_data("isic2017", str(official))
    assert facts_of(out) == EXPECTED
    assert after.digest == digest
    assert (out / "images.npy").stat().st_mtime_ns == pixels
    lines = zip(manifest.splitlines(), (out / "manifest.csv").read_text().splitlines(), strict=True)
    assert all(new.startswith(old) for old, new in lines)
    # Nothing is written where nothing has changed.
    written = (out / "manifest.csv").stat().st_ino
    open_data("isic2017", str(official))
    assert (out / "manifest.csv").stat().st_ino == written


def test_metadata_that_cannot_be_used_are_told_with_all_else(official: Path, out: Path) -> None:
    write_table(official / TRAIN.metadata, [], ("image_id", "age", "sex"))
    write_table(official / VALIDATION.metadata, [("ISIC_0000003", "30")], METADATA_COLUMNS)
    with pytest.raises(UserError) as raised:
        prepare(official, out)
    assert "image_id,age,sex, expected image_id,age_approximate,sex" in str(raised.value)
    assert f"{VALIDATION.metadata}, line 2: ISIC_0000003,30" in str(raised.value)
    assert not out.exists()


def test_a_set_that_nobody_may_write_to_is_used_as_it_is(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_data("isic2017", str(official))
    write_metadata(official)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("skinml.data.prepared._write_rows", refuse)
    assert open_data("isic2017", str(official)).subgroups == {}
