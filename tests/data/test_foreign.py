"""HEIC and DICOM: pictures that other programs have written, and what is said of the rest.

tests/data/pictures was written by heif-enc (libheif 1.15.1) and by img2dcm and dcmcjpeg (DCMTK
3.6.7) from the squares below.
"""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skinml.data import foreign
from skinml.data.images import ImageProblem, decode_image, size_of
from skinml.data.prepare import main, open_data
from tests.data.conftest import picture

PICTURES = Path(__file__).parent / "pictures"
HEIC, LOSSLESS, YBR = (PICTURES / name for name in ("phone.heic", "jpeg_lossless.dcm",
                                                    "jpeg_ybr.dcm"))  # fmt: skip
COLOURS = np.random.default_rng(0).integers(0, 256, (7, 7, 3), dtype=np.uint8)
SQUARES = COLOURS.repeat(32, axis=0).repeat(32, axis=1)


def middles(pixels: np.ndarray) -> np.ndarray:
    """The colour of each square, away from the edges that a lossy format blurs."""
    return pixels[16::32, 16::32].astype(int)


def test_a_heic_of_another_encoder_is_read() -> None:
    content = HEIC.read_bytes()
    assert size_of(content) == (224, 224)
    assert np.abs(middles(decode_image(content)) - COLOURS).max() <= 3


def test_a_lossless_dicom_has_the_very_pixels() -> None:
    np.testing.assert_array_equal(decode_image(LOSSLESS.read_bytes()), SQUARES)


def test_a_dicom_whose_label_says_ybr_is_converted_once() -> None:
    content = YBR.read_bytes()
    assert b"YBR_FULL_422" in content
    assert np.abs(middles(decode_image(content)) - COLOURS).max() <= 3


def uncompressed(colours: str, planar: int) -> bytes:
    """A DICOM file put together here, of samples as they are."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    samples = SQUARES.transpose(2, 0, 1) if planar else SQUARES
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.4", "1.2.3"
    dataset.Rows = dataset.Columns = 224
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, planar
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = colours, 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelData = 7, samples.tobytes()
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.mark.parametrize("planar", [0, 1])
def test_an_uncompressed_dicom_has_its_samples(planar: int) -> None:
    np.testing.assert_array_equal(decode_image(uncompressed("RGB", planar)), SQUARES)


def test_a_jpeg_without_a_marker_has_the_colours_that_its_dicom_says() -> None:
    """Without one a decoder takes three components for YCbCr."""
    stream = io.BytesIO()
    Image.fromarray(SQUARES).save(stream, "JPEG", quality=100, subsampling=0, keep_rgb=True)
    jpeg = stream.getvalue()
    start = jpeg.index(b"\xff\xee")
    bare = jpeg[:start] + jpeg[start + 16 :]
    assert b"Adobe" in jpeg and b"Adobe" not in bare and b"JFIF" not in bare
    from pydicom.encaps import encapsulate

    content = changed(YBR, PhotometricInterpretation="RGB", PixelData=encapsulate([bare]))
    assert np.abs(middles(decode_image(content)) - COLOURS).max() <= 2


def changed(path: Path, **values: Any) -> bytes:
    from pydicom import dcmread

    dataset = dcmread(path)
    for name, value in values.items():
        setattr(dataset, name, value)
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"NumberOfFrames": 3}, "DICOM of 3 frames, expected one"),
        ({"BitsStored": 12}, "DICOM of 12 bits a sample, expected 8"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "DICOM of the colours PALETTE COLOR"),
        ({"Rows": 60000, "Columns": 60000}, "60000×60000 pixels, expected at most 89,000,000"),
        ({"Rows": None}, "DICOM without a picture"),
    ],
)
def test_dicoms_that_are_not_read_say_why(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ImageProblem, match=said):
        decode_image(changed(YBR, **values))


@pytest.mark.parametrize("path", [HEIC, LOSSLESS, YBR], ids=lambda path: path.name)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_half_a_file_is_one_line(path: Path, share: float) -> None:
    content = path.read_bytes()
    with pytest.raises(ImageProblem) as raised:
        decode_image(content[: int(share * len(content))])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "package", "extra"), [(HEIC, "pillow_heif", "heif"), (YBR, "pydicom", "dicom")]
)
def test_without_the_extra_it_is_named(
    path: Path, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign._register_heif.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImageProblem, match=rf"extra {extra}: pip install 'skinml\[{extra}\]'"):
        decode_image(path.read_bytes())


def test_a_folder_of_them_is_a_data_set_and_text_on_a_picture_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / "own" / name).mkdir(parents=True)
        (tmp_path / "own" / name / "1.jpg").write_bytes(picture(ord(name)))
    (tmp_path / "own" / "a" / "2.heic").write_bytes(HEIC.read_bytes())
    (tmp_path / "own" / "a" / "3.dcm").write_bytes(LOSSLESS.read_bytes())
    (tmp_path / "own" / "b" / "2.dcm").write_bytes(changed(YBR, BurnedInAnnotation="YES"))
    assert main(["--data", str(tmp_path / "own"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "text is burnt into pictures" in printed and "own/b/2.dcm" in printed
    data = open_data(str(tmp_path / "own"))
    assert data.image_ids.tolist() == ["a/1", "a/2", "a/3", "b/1", "b/2"]
    np.testing.assert_array_equal(data.images[2], SQUARES)
