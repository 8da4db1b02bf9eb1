"""The data sets of other publishers, each on a small generated set in its published layout."""

import csv
import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from skinml.base.errors import UserError
from skinml.config import Config
from skinml.data.archive_sets import HAM10000_CODES, ISIC2019_CODES, PAD_UFES_20_CODES
from skinml.data.datasets import DATASETS
from skinml.data.prepare import main, open_data
from skinml.data.prepared import PreparedSet
from skinml.data.protocols import assign_parts
from tests.data.conftest import picture

Row = dict[str, str]


def write(path: Path, rows: list[Row], sign: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=sign)
        writer.writeheader()
        writer.writerows(rows)


def one_hot(ids: list[tuple[str, str]], codes: tuple[str, ...]) -> list[Row]:
    return [{"image": i} | {c: "1.0" if c == code else "0.0" for c in codes} for i, code in ids]


def pictures(folder: Path, ids: list[str], kind: str = "JPEG") -> None:
    folder.mkdir(parents=True)
    for image_id in ids:
        number = int("".join(c for c in image_id if c.isdecimal())[-6:])
        path = folder / f"{image_id}.{'jpg' if kind == 'JPEG' else 'png'}"
        path.write_bytes(picture(number, kind=kind))


def zipped(folder: Path) -> None:
    """A folder as the archive that it comes from, which has it within."""
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{folder.name}/{path.name}")
            path.unlink()
    folder.rmdir()


# Nine pictures of a class, of lesions of three.
IDS = [(f"ISIC_{1000 * k + n:07}", code) for k, code in enumerate(HAM10000_CODES) for n in range(9)]


def ham10000(folder: Path) -> None:
    """As the Harvard Dataverse has it: two folders, a table with tabs."""
    for part, ids in enumerate((IDS[:30], IDS[30:]), 1):
        pictures(folder / f"HAM10000_images_part_{part}", [image_id for image_id, _ in ids])
    rows = [
        {"lesion_id": f"HAM_{n // 3:07}", "image_id": image_id, "dx": code, "dx_type": "histo",
         "age": "55.0", "sex": "female", "localization": "back"}
        for n, (image_id, code) in enumerate(IDS)
    ]  # fmt: skip
    write(folder / "HAM10000_metadata.tab", rows, "\t")


def isic2018(folder: Path) -> None:
    """As the challenge has it: an archive, one-hot labels in a folder, lesions beside them."""
    pictures(folder / "ISIC2018_Task3_Training_Input", [image_id for image_id, _ in IDS])
    zipped(folder / "ISIC2018_Task3_Training_Input")
    own = folder / "ISIC2018_Task3_Training_GroundTruth"
    own.mkdir()
    codes = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
    labels = [(image_id, code.upper()) for image_id, code in IDS]
    write(own / "ISIC2018_Task3_Training_GroundTruth.csv", one_hot(labels, codes))
    rows = [
        {"image": image_id, "lesion_id": f"HAM_{n // 3:07}", "diagnosis_confirm_type": "histo"}
        for n, (image_id, _) in enumerate(IDS)
    ]
    write(folder / "ISIC2018_Task3_Training_LesionGroupings.csv", rows)


def isic2018_as_downloaded(folder: Path) -> None:
    """With its ground truth in the archive that it comes in."""
    isic2018(folder)
    zipped(folder / "ISIC2018_Task3_Training_GroundTruth")


def isic2019(folder: Path) -> None:
    codes = (*ISIC2019_CODES, "UNK")
    ids = [
        (f"ISIC_{1000 * k + n:07}{'_downsampled' if n < 2 else ''}", code)
        for k, code in enumerate(ISIC2019_CODES)
        for n in range(9)
    ]
    inside = folder / "ISIC_2019_Training_Input" / "ISIC_2019_Training_Input"
    pictures(inside, [image_id for image_id, _ in ids])
    write(folder / "ISIC_2019_Training_GroundTruth.csv", one_hot(ids, codes))
    rows = [
        {"image": image_id, "age_approx": "55.0", "anatom_site_general": "anterior torso",
         "lesion_id": f"MSK4_{n // 3:07}" if n % 9 > 2 else "", "sex": "male"}
        for n, (image_id, _) in enumerate(ids)
    ]  # fmt: skip
    write(folder / "ISIC_2019_Training_Metadata.csv", rows)


def pad_ufes_20(folder: Path) -> None:
    rows: list[Row] = []
    for k, code in enumerate(PAD_UFES_20_CODES):
        ids = [f"PAT_{10 * k + n}_{n}_{100 * k + n}" for n in range(9)]
        part = folder / "images" / f"imgs_part_{k // 2 + 1}"
        if not part.exists():
            pictures(part, [], "PNG")
        for image_id in ids:
            (part / f"{image_id}.png").write_bytes(picture(100 * k + len(rows), kind="PNG"))
            rows.append(
                {"patient_id": image_id.rpartition("_")[0].rpartition("_")[0], "lesion_id": "1",
                 "age": "55", "gender": "", "fitspatrick": "3.0", "region": "ARM",
                 "diagnostic": code, "img_id": f"{image_id}.png", "biopsed": "True"}
            )  # fmt: skip
    write(folder / "metadata.csv", rows)


def pad_ufes_20_as_downloaded(folder: Path) -> None:
    """The archives in the folder that the download of everything unpacks them into."""
    pad_ufes_20(folder)
    for part in sorted((folder / "images").iterdir()):
        zipped(part)


LAYOUTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "ham10000": ("ham10000", ham10000),
    "ham10000 of ISIC 2018": ("ham10000", isic2018),
    "ham10000 of ISIC 2018 as downloaded": ("ham10000", isic2018_as_downloaded),
    "isic2019": ("isic2019", isic2019),
    "pad-ufes-20": ("pad-ufes-20", pad_ufes_20),
    "pad-ufes-20 as downloaded": ("pad-ufes-20", pad_ufes_20_as_downloaded),
}


# Data sets that say of no picture which lesion or patient it is of.
WITHOUT_GROUPS: tuple[str, ...] = ()


@pytest.fixture(params=LAYOUTS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    name, make = LAYOUTS[request.param]
    make(tmp_path / "files")
    return name, tmp_path / "files"


def test_a_published_layout_is_prepared_and_split_by_groups(written: tuple[str, Path]) -> None:
    name, folder = written
    data = open_data(name, str(folder))
    classes = DATASETS[name].classes
    assert data.classes == classes and data.name == name
    assert [int((data.labels == k).sum()) for k in range(len(classes))] == [9] * len(classes)
    assert (data.named_group is None) == (name in WITHOUT_GROUPS)
    parts = assign_parts(data, "paper", 0.34, 0.5)
    groups = data.named_group if data.named_group is not None else data.image_ids
    for group in set(groups) - {""}:
        assert len(set(parts[groups == group])) == 1
    assert open_data(name, str(folder)).digest == data.digest


def test_both_layouts_of_ham10000_are_the_same_data(tmp_path: Path) -> None:
    sets: list[PreparedSet] = []
    for make in (ham10000, isic2018):
        make(tmp_path / make.__name__)
        sets.append(open_data("ham10000", str(tmp_path / make.__name__)))
    assert sets[0].digest == sets[1].digest
    assert sets[0].subgroups.keys() == {"age", "sex", "localization", "dx_type"}


def test_the_folder_of_another_data_set_is_refused(written: tuple[str, Path]) -> None:
    """A folder of ISIC 2017 for HAM10000, and the other way round, in one clear line."""
    name, folder = written
    other = "isic2019" if name == "ham10000" else "ham10000"
    for asked in (other, "isic2017"):
        with pytest.raises(UserError, match=f"data={asked}: neither a prepared set nor its files"):
            open_data(asked, str(folder))
    prepared = open_data(name, str(folder))
    with pytest.raises(UserError, match=f"use data={name}"):
        open_data(other, str(prepared.folder))


def test_a_prepared_set_of_the_same_classes_is_not_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal classes do not make HAM10000 of its challenge's test pictures."""
    ham10000(tmp_path / "files")
    monkeypatch.setitem(DATASETS, "twin", replace(DATASETS["ham10000"], name="twin"))
    prepared = open_data("ham10000", str(tmp_path / "files"))
    with pytest.raises(UserError, match=r"real images of ham10000 in 7 classes; use data=ham10000"):
        open_data("twin", str(prepared.folder))


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no metadata": (lambda f: (f / "HAM10000_metadata.tab").unlink(), "missing tables (1)"),
    "a picture less": (
        lambda f: (f / "HAM10000_images_part_1/ISIC_0000000.jpg").unlink(),
        "missing images (1):\n    ISIC_0000000",
    ),
    "a picture more": (
        lambda f: (f / "HAM10000_images_part_2/ISIC_7.jpg").write_bytes(picture(7)),
        "unexpected images (no line in the table) (1)",
    ),
    "another class": (
        lambda f: (f / "HAM10000_metadata.tab").write_text(
            (f / "HAM10000_metadata.tab").read_text().replace("\tvasc\t", "\tscc\t")
        ),
        "unknown classes (9)",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_wrong_is_told(case: str, tmp_path: Path) -> None:
    ham10000(tmp_path / "files")
    spoil, expected = SPOILT[case]
    spoil(tmp_path / "files")
    with pytest.raises(UserError) as caught:
        open_data("ham10000", str(tmp_path / "files"))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("kept", "told"),
    [(-1, "images without a line in the metadata (1)"), (1, "empty tables (1)")],
    ids=["a line is missing", "all are"],
)
def test_an_image_of_isic2019_without_its_metadata_is_told(
    kept: int, told: str, tmp_path: Path
) -> None:
    """A table cut short would take the lesions of its images: these would stand in two parts."""
    folder = tmp_path / "files"
    isic2019(folder)
    table = folder / "ISIC_2019_Training_Metadata.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:kept]))
    with pytest.raises(UserError) as caught:
        open_data("isic2019", str(folder))
    assert told in str(caught.value)


@pytest.mark.parametrize("name", ["ham10000", "isic2019", "pad-ufes-20"])
def test_where_to_get_a_set_that_is_not_there_is_said_in_one_line(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        open_data(name, str(tmp_path))
    told = str(caught.value)
    assert "\n" not in told
    assert f"get these at {DATASETS[name].homepage} (CC BY" in told


@pytest.mark.parametrize("name", ["ham10000", "isic2019", "pad-ufes-20"])
def test_the_facts_of_a_published_set_hold_together(name: str) -> None:
    """Numbers by class against the number of pictures of the papers; checksums of their length."""
    row = DATASETS[name]
    assert len(row.counts) == len(row.classes)
    assert sum(row.counts) == {"ham10000": 10015, "isic2019": 25331, "pad-ufes-20": 2298}[name]
    for file in row.files:
        kind, _, digest = file.checksum.partition(":")
        assert len(digest) == {"md5": 32, "sha256": 64, "": 0}[kind]
        assert file.address.startswith("https://") and (file.size or digest)
    assert len({file.name for file in row.files}) == len(row.files)
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    told = [f"[{file.name}]({file.address}) | {file.size:,}" for file in row.files if file.size]
    assert all(line in page for line in told)
    assert all(file.checksum.partition(":")[2] in page for file in row.files)


def test_the_preview_compares_with_what_was_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pad_ufes_20_as_downloaded(tmp_path / "files")
    table = (tmp_path / "files" / "metadata.csv").read_bytes()
    first, second, *_, published = DATASETS["pad-ufes-20"].files
    sums = hashlib.sha256(table).hexdigest()
    files = (first, second._replace(size=0), published._replace(size=0, checksum=f"sha256:{sums}"))
    monkeypatch.setitem(DATASETS, "pad-ufes-20", replace(DATASETS["pad-ufes-20"], files=files))
    assert main(["--data", "pad-ufes-20", "--data_dir", str(tmp_path / "files"), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "metadata.csv: as published" in told
    assert "warning: imgs_part_1.zip is not the published file: " in told
    assert "bytes, expected 1,245,184,680" in told
    assert f"not {second.checksum.removeprefix('sha256:')}" in told
    assert "warning: not the published numbers: 9 of actinic_keratosis (730)" in told


def test_the_help_names_every_data_set() -> None:
    told = Config.__dataclass_fields__["data"].metadata["help"]
    assert all(name in told for name in DATASETS)
