"""The files of other publishers' data sets as they are downloaded: address, size, checksum.

Found in public documents, which docs/data.md names; the pictures themselves were not at hand.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from skinml.base.progress import status_line


class PublishedFile(NamedTuple):
    """A file as its publisher has it: `size` in bytes, `checksum` such as "md5:4639…" or ""."""

    name: str
    address: str
    size: int
    checksum: str = ""


_DATAVERSE = "https://dataverse.harvard.edu/api/access/datafile"
_ISIC = "https://isic-archive.s3.amazonaws.com/challenges"
_MENDELEY = "https://data.mendeley.com/public-files/datasets/zr7vgbcyr2/files"

# The Harvard Dataverse's version 4.0; its own checksums are MD5. `format=original`: without it the
# table comes converted, with another checksum.
HAM10000 = (
    PublishedFile(
        "HAM10000_images_part_1.zip", f"{_DATAVERSE}/3172585", 1_366_522_108,
        "md5:4639bfa73ab251610530a97c898e6e46",
    ),
    PublishedFile(
        "HAM10000_images_part_2.zip", f"{_DATAVERSE}/3172584", 1_403_566_547,
        "md5:da43d6cc50f6613013be07e8986b384b",
    ),
    PublishedFile(
        "HAM10000_metadata.csv", f"{_DATAVERSE}/4338392?format=original", 690_218,
        "md5:8f85fb1aa29d80a2797247e434deb79d",
    ),
)  # fmt: skip

# The same pictures by the challenge. No public checksum of the first was found, nor the sizes of
# the tables (0: not known).
ISIC_2018 = (
    PublishedFile(
        "ISIC2018_Task3_Training_Input.zip", f"{_ISIC}/2018/ISIC2018_Task3_Training_Input.zip",
        2_771_732_744,
    ),
    PublishedFile(
        "ISIC2018_Task3_Training_GroundTruth.zip",
        f"{_ISIC}/2018/ISIC2018_Task3_Training_GroundTruth.zip", 0,
        "md5:8302427e4ce0c107559531b9f444abe9",
    ),
    PublishedFile(
        "ISIC2018_Task3_Training_LesionGroupings.csv",
        f"{_ISIC}/2018/ISIC2018_Task3_Training_LesionGroupings.csv", 0,
        "md5:9517b6aa6902d6c27e234bac8279a64a",
    ),
)  # fmt: skip

ISIC_2019 = (
    PublishedFile(
        "ISIC_2019_Training_Input.zip", f"{_ISIC}/2019/ISIC_2019_Training_Input.zip",
        9_771_618_190,
        "sha256:5075020b720c8f1b9b7f3ff85326c55ce0435e5906c41fbd338994feef886df1",
    ),
    PublishedFile(
        "ISIC_2019_Training_GroundTruth.csv", f"{_ISIC}/2019/ISIC_2019_Training_GroundTruth.csv",
        1_291_479,
        "sha256:aa88e9638fe4df9ef330dc4ba22fa4bd475c44af692fffb870c73091ab25cdcd",
    ),
    PublishedFile(
        "ISIC_2019_Training_Metadata.csv", f"{_ISIC}/2019/ISIC_2019_Training_Metadata.csv",
        1_214_351,
        "sha256:d93994a8ed201d474de9a7af7e17ec30929cbc4a5220659ecbde17cbe83e9316",
    ),
)  # fmt: skip

PAD_UFES_20 = (
    PublishedFile(
        "imgs_part_1.zip", f"{_MENDELEY}/1cc2f71f-20a2-412d-b746-a9b9bc20c966/file_downloaded",
        1_245_184_680,
        "sha256:0ab44f60938bf57445e12f518a8878954cc734e6b0aec6d01194e2d26b4b2dca",
    ),
    PublishedFile(
        "imgs_part_2.zip", f"{_MENDELEY}/559a60ed-5504-475d-996c-6a8bc253b5e7/file_downloaded",
        1_126_646_990,
        "sha256:e2d9a3cbd58e823f5ae33163c48643e7d1b54ae3f9e145f01f8e9f16a363a60b",
    ),
    PublishedFile(
        "imgs_part_3.zip", f"{_MENDELEY}/34dcdf8e-e5f1-4b35-aa0b-5135051ff852/file_downloaded",
        1_220_565_093,
        "sha256:ecc4ef10143a43e1d01cb736773148607a78b530417eb76f2c38ad24bf5d0d2c",
    ),
    PublishedFile(
        "metadata.csv", f"{_MENDELEY}/fa850265-57da-48f0-ba3e-998b3e44b1f6/file_downloaded",
        316_209,
        "sha256:14d145235cedb022548257acb0d84dcd949e2c916f65d2baa7c38ed5339e9527",
    ),
)  # fmt: skip


def compare_files(folder: Path, files: tuple[PublishedFile, ...]) -> list[str]:
    """A line for each published file that is in a folder, which says whether it is that very one.

    A table that somebody corrected is another file and no error, so these are warnings.
    """
    lines = []
    for file in files:
        # PAD-UFES-20 comes with its archives in a folder of their own.
        paths = (folder / file.name, folder / "images" / file.name)
        for path in filter(Path.is_file, paths):
            other = _difference(path, file)
            known = "as published" if file.checksum else "of the published size, no checksum known"
            lines.append(
                f"warning: {file.name} is not the published file: {other}"
                if other
                else f"{file.name}: {known}"
            )
    return lines


def _difference(path: Path, file: PublishedFile) -> str:
    """How a file differs from the published one; empty where it does not."""
    size = path.stat().st_size
    if file.size and size != file.size:
        return f"{size:,} bytes, expected {file.size:,}"
    kind, _, expected = file.checksum.partition(":")
    if not expected:
        return ""
    with status_line(f"verifying {file.name}"), path.open("rb") as content:
        found = hashlib.file_digest(content, lambda: hashlib.new(kind, usedforsecurity=False))
    return "" if found.hexdigest() == expected else f"{kind} {found.hexdigest()}, not {expected}"
