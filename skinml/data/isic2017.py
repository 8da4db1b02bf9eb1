"""Facts about the ISIC 2017 challenge data set, part 3 (disease classification).

Source: Codella et al., "Skin Lesion Analysis Toward Melanoma Detection: A Challenge at the 2017
International Symposium on Biomedical Imaging", arXiv 1710.05006; https://challenge.isic-archive.com.
"""

from typing import NamedTuple

# Alphabetical, as every table, confusion matrix and saved model orders them.
CLASSES = ("melanoma", "nevus", "seborrheic_keratosis")

# The two binary tasks of the challenge (arXiv 1710.05006, part 3): one class against the rest.
CHALLENGE_TASKS = ("melanoma", "seborrheic_keratosis")

# The challenge's name for the metric of each → the class that it tells from the rest.
TASKS = {"melanoma_auc": "melanoma", "keratosis_auc": "seborrheic_keratosis"}

PARTS = ("train", "validation", "test")

CSV_COLUMNS = ("image_id", "melanoma", "seborrheic_keratosis")

# What is known of the patients, for training and validation (`OfficialPart.metadata`).
FACTS = ("age_approximate", "sex")
METADATA_COLUMNS = ("image_id", *FACTS)

# Dedicated to the public domain by the International Skin Imaging Collaboration.
LICENSE = "CC0-1.0"
# The challenge's public storage: the files of OFFICIAL_PARTS, about 12 GB.
DOWNLOADS = "https://isic-challenge-data.s3.amazonaws.com/2017/"
HOMEPAGE = "https://challenge.isic-archive.com/data/#2017"

# Said wherever an answer or a figure of a model is shown.
NOTICE = "Research software, not for clinical use."


class OfficialPart(NamedTuple):
    """Where one official part of the data set lies, and what it must hold."""

    part: str
    image_folder: str
    ground_truth: str
    # Images of each class in CLASSES' order, as published.
    counts: tuple[int, int, int]

    @property
    def archive(self) -> str:
        """The file that holds the image folder, as it is published."""
        return f"{self.image_folder}.zip"

    @property
    def metadata(self) -> str:
        """The table of the patients' age and sex, which is among the images in the archive."""
        return f"{self.image_folder}_metadata.csv"


OFFICIAL_PARTS = (
    OfficialPart(
        "train",
        "ISIC-2017_Training_Data",
        "ISIC-2017_Training_Part3_GroundTruth.csv",
        (374, 1372, 254),
    ),
    OfficialPart(
        "validation",
        "ISIC-2017_Validation_Data",
        "ISIC-2017_Validation_Part3_GroundTruth.csv",
        (30, 78, 42),
    ),
    OfficialPart(
        "test",
        "ISIC-2017_Test_v2_Data",
        "ISIC-2017_Test_v2_Part3_GroundTruth.csv",
        (117, 393, 90),
    ),
)
