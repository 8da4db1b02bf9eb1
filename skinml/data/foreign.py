"""Pictures that take an extra of skinml: HEIC of phones (`heif`), DICOM of clinics (`dicom`)."""

import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from skinml.data.images import MAX_PIXELS, ImageProblem

# How a DICOM file may hold the colours of its samples (PS3.3, C.7.6.3.1.2).
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "MONOCHROME2")

# The transfer syntaxes (PS3.5, annex A) of JPEG, baseline and lossless twice, and of run lengths.
_JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 57, 70))
_RLE = "1.2.840.10008.1.2.5"

# Where a DICOM file's magic word stands, behind what a program may use as it likes (PS3.10, 7.1).
_PREAMBLE = 128


def is_dicom(content: bytes) -> bool:
    return content[_PREAMBLE : _PREAMBLE + 4] == b"DICM"


def open_heic(content: bytes) -> Image.Image:
    """Open a HEIC or HEIF picture of 8 bits a channel, turned the way up that it says."""
    _register_heif()
    try:
        image = Image.open(io.BytesIO(content), formats=("HEIF",))
    except Image.UnidentifiedImageError:
        raise ImageProblem("damaged or truncated HEIC") from None
    bits = image.info.get("bit_depth", 8)
    if bits != 8:
        raise ImageProblem(f"HEIC of {bits} bits a channel, expected 8; save it as JPEG or PNG")
    return image


@cache
def _register_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise _lacking("HEIC", "heif") from None
    register_heif_opener(thumbnails=False)


def unwrap_dicom(content: bytes) -> bytes:
    """The picture in a DICOM file, of one frame of 8 bits a sample: as its JPEG, else as BMP.

    Uncompressed, RLE, or JPEG, baseline or lossless. Nothing else of the file is kept.
    """
    try:
        return _picture(_read_dicom(content))
    except ImageProblem:
        raise
    except Exception as error:  # A field that is damaged fails where it is looked at, in many ways.
        raise ImageProblem(f"damaged or truncated: {' '.join(str(error).split())}") from None


def _picture(dataset: Any) -> bytes:
    from pydicom.encaps import get_frame

    frames, bits = int(dataset.get("NumberOfFrames") or 1), dataset.get("BitsStored")
    colours, height, width = (
        dataset.get(name) for name in ("PhotometricInterpretation", "Rows", "Columns")
    )
    if not height or not width:
        raise ImageProblem("DICOM without a picture")
    if frames != 1:
        raise ImageProblem(f"DICOM of {frames} frames, expected one")
    if bits != 8:
        raise ImageProblem(f"DICOM of {bits} bits a sample, expected 8")
    if colours not in _COLOURS:
        raise ImageProblem(f"DICOM of the colours {colours}, expected {', '.join(_COLOURS)}")
    if width * height > MAX_PIXELS:
        raise ImageProblem(f"{width}×{height} pixels, expected at most {MAX_PIXELS:,}")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in _JPEG:
        jpeg: bytes = get_frame(dataset.PixelData, 0, number_of_frames=1)
        return _with_colours(jpeg, colours)
    if syntax.is_compressed and syntax != _RLE:
        raise ImageProblem(f"DICOM compressed by {syntax.name}, expected JPEG or none")
    stream = io.BytesIO()
    # In RGB, though the field still says what it was before: not converted once more.
    Image.fromarray(np.asarray(dataset.pixel_array)).save(stream, "BMP")
    return stream.getvalue()


def _with_colours(jpeg: bytes, colours: str) -> bytes:
    """A JPEG that says whether it is in RGB or YCbCr, as only the file around it did.

    By Adobe's marker (ITU-T T.872, 6.5.3), unless it has that, or JFIF's, which mean YCbCr.
    """
    head = jpeg[: jpeg.find(b"\xff\xda")]
    if b"\xff\xe0" in head or b"\xff\xee" in head or colours == "MONOCHROME2":
        return jpeg
    transform = 0 if colours == "RGB" else 1
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    return jpeg[:2] + marker + jpeg[2:]


def says_burnt_in(content: bytes) -> bool:
    """Whether a DICOM file says that there is text on its picture, which may name the patient."""
    try:
        return is_dicom(content) and _read_dicom(content).get("BurnedInAnnotation") == "YES"
    except ImageProblem:
        return False


def _read_dicom(content: bytes) -> Any:
    try:
        from pydicom import config, dcmread
    except ImportError:
        raise _lacking("DICOM", "dicom") from None
    # Other fields, such as names, are none of our business: pydicom would warn of each.
    config.settings.reading_validation_mode = config.IGNORE
    return dcmread(io.BytesIO(content))


def _lacking(kind: str, extra: str) -> ImageProblem:
    return ImageProblem(
        f"{kind}, which takes skinml's extra {extra}: pip install 'skinml[{extra}]'; or save it as "
        "JPEG or PNG"
    )
