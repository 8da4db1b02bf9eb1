"""One picture file to the pixels that a network sees: the same way in preparation and serving."""

import hashlib
import io
import struct
from contextlib import suppress
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image, ImageCms

# The paper scales every image to 224×224×3 (section III); the backbones were pre-trained at it.
IMAGE_SIZE = 224

# The largest original of ISIC 2017 has 30 million pixels; far beyond it lies a decompression bomb.
# Just below the size at which Pillow itself begins to warn.
MAX_PIXELS = 89_000_000

_FORMATS = ("JPEG", "PNG", "AVIF", "TIFF", "BMP")
_EXPECTED = "a JPEG or PNG picture, nor AVIF, TIFF, BMP, HEIC or DICOM"

# What a HEIC file of a phone begins with, after four bytes of its length (ISO/IEC 23008-12).
_HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc", b"ftypheif")

# Where EXIF has which way up the camera was held, and what brings each of these upright. Pillow's
# own way to turn a picture writes its EXIF anew, which fails where another field is mistyped.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, in a third of the time. The decoder's own
# scaling averages blocks; with twice the target left, what decides the result is still the filter
# below. Measured on 27 originals of 722×542 to 3872×2592: the pixels differ from those of the full
# decode by 0.14 grey levels on average, by 0.61 in the worst image. Lanczos instead of bicubic
# would change 0.30: so it is the same picture. At once the target it would be 0.73 and 1.95.
# Pictures whose shorter side is under four times the target are decoded in full as ever: a change
# here would change the digest of every prepared set, and with it what results are compared with.
_DRAFT_SIZE = (2 * IMAGE_SIZE, 2 * IMAGE_SIZE)


# The warnings of libjpeg (its jerror.h) that are not of damage: headers that some cameras and
# programs write in a way of their own.
_HARMLESS = (
    "Invalid SOS parameters",
    "Unknown Adobe color transform",
    "Warning: unknown JFIF revision",
)


class ImageProblem(ValueError):
    """A file that is not a usable picture; the text says why."""


def decode_image(file: BinaryIO | bytes, as_stored: bool = False) -> np.ndarray:
    """Decode a picture of any size and format to uint8 (224, 224, 3), RGB 0-255.

    JPEG, PNG, AVIF, TIFF and BMP; HEIC and DICOM with the extras heif and dicom.

    The whole picture is scaled, without cropping, as the paper does. JPEGs are decoded at the
    smallest reduced scale that still holds twice the target (`_DRAFT_SIZE`). Grayscale and palette
    pictures are converted, since nothing is lost, and JPEGs in CMYK that say by Adobe's marker what
    they mean. A picture is turned the way up that its EXIF says, and its colours are converted to
    sRGB from the ICC profile in it; with `as_stored` neither. Transparent, 16-bit, damaged,
    truncated and foreign files, and those of several pages, raise `ImageProblem`.
    """
    content = _content(file if isinstance(file, bytes) else file.read())
    try:
        with _opened(content) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageProblem(
                    f"{image.width}×{image.height} pixels, expected at most {MAX_PIXELS:,}"
                )
            # Pillow would drop the lower half of 16-bit samples without a word.
            if ";16" in str(getattr(image, "tile", "")):
                raise ImageProblem("16 bits a channel, expected 8; convert it to 8-bit RGB")
            # A phone's JPEG may have a second picture behind it (MPO), such as a map of depth.
            is_jpeg = image.format in ("JPEG", "MPO")
            if not is_jpeg and getattr(image, "n_frames", 1) > 1:
                raise ImageProblem(f"{image.n_frames} pages or frames, expected one")  # type: ignore[attr-defined]
            orientation = 1 if as_stored else _orientation(image)
            _let_nothing_turn(image)
            profile = None if as_stored else _profile(image)
            if is_jpeg and image.mode in ("RGB", "L") and _can_be_reduced(content):
                image.draft(image.mode, _DRAFT_SIZE)
                rgb = _decode_jpeg(content, image.size)
            elif is_jpeg and image.mode == "CMYK" and "adobe" in image.info:
                rgb = image if profile else image.convert("RGB")
            else:
                rgb = _as_rgb(image)
            if profile:
                rgb = _in_srgb(rgb, profile)
            if orientation != 1:
                rgb = rgb.transpose(_UPRIGHT[orientation])
    except ImageProblem:
        raise
    except Image.UnidentifiedImageError:
        raise ImageProblem(f"not {_EXPECTED}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageProblem(f"more than the {MAX_PIXELS:,} pixels expected at most") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        # A broken file is reported with any of these, and with the reason as the text.
        raise ImageProblem(f"damaged or truncated: {_line(error)}") from None
    # Pillow widens its filters by the scale: no pixel is passed over, nothing aliases.
    scaled = rgb.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(scaled, dtype=np.uint8)


def _content(file: bytes) -> bytes:
    """A picture file, out of the DICOM file that may be around it."""
    from skinml.data.foreign import is_dicom, unwrap_dicom

    return unwrap_dicom(file) if is_dicom(file) else file


def _opened(content: bytes) -> Image.Image:
    from skinml.data.foreign import open_heic

    if content[4:12] in _HEIC:
        return open_heic(content)
    return Image.open(io.BytesIO(content), formats=_FORMATS)


def _decode_jpeg(content: bytes, size: tuple[int, int]) -> Image.Image:
    """Decode a JPEG at the reduced scale that gives `size`; `ValueError` where its data is damaged.

    Pillow passes over libjpeg's warnings, and so over damage: what cannot be decoded becomes gray
    or shifted pixels. simplejpeg has the same decoder, gives the same pixels, and tells.
    """
    width, height = size
    try:
        pixels = simplejpeg.decode_jpeg(content, min_height=height, min_width=width)
    except ValueError as error:
        if not str(error).startswith(_HARMLESS):
            raise
        # Not with strict=False: it would pass over damage too, and not over all of these.
        mended = _with_usual_headers(content)
        pixels = simplejpeg.decode_jpeg(mended, min_height=height, min_width=width)
    return Image.fromarray(pixels)


def _with_usual_headers(content: bytes) -> bytes:
    """A JPEG whose headers say what libjpeg takes them for with a warning: the same pixels.

    A version of JFIF that is not 1 is taken for 1, a transform of Adobe's that is none of three
    channels for YCbCr, and a scan of a sequential JPEG for one of all coefficients. The exported
    page does the same (`readSegments`, skinml/export/web/formats.js).
    """
    usual = bytearray(content)
    place, channels, transform, sequential = 2, 0, 0, False
    while place + 4 <= len(usual):
        marker = usual[place + 1]
        start, end = place + 4, place + 2 + int.from_bytes(usual[place + 2 : place + 4])
        # Another picture may follow behind the end; of damage the decoder tells.
        if usual[place] != 0xFF or marker == 0xD9 or end > len(usual):
            break
        if marker == 0xE0 and end - start >= 14 and usual[start : start + 5] == b"JFIF\0":
            usual[start + 5] = 1
        elif marker == 0xEE and end - start >= 12 and usual[start : start + 5] == b"Adobe":
            transform = start + 11
        elif marker in _OF_FREQUENCIES:
            channels, sequential = usual[start + 5], marker in _SEQUENTIAL
        elif marker == 0xDA:
            if sequential:
                usual[end - 3 : end] = b"\x00\x3f\x00"
            end = _next_header(usual, end)
        place = end
    if transform and channels == 3 and usual[transform] > 1:
        usual[transform] = 1
    return bytes(usual)


def _next_header(content: bytearray, place: int) -> int:
    """Where the data of a JPEG's scan ends: at a marker that is neither a byte nor a restart."""
    while (place := content.find(b"\xff", place)) >= 0:
        if content[place + 1 : place + 2] not in _WITHIN_DATA:
            return place
        place += 2
    return len(content)


_WITHIN_DATA = (b"\x00", *(bytes([0xD0 + number]) for number in range(8)))

# The JPEGs whose blocks are of frequencies, by the marker that their frame begins with: baseline,
# extended and progressive, the last two with arithmetic coding too (ITU-T T.81, table B.1).
_OF_FREQUENCIES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)

# Those of them whose scans hold all coefficients of a block.
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)


def _can_be_reduced(content: bytes) -> bool:
    """Whether a JPEG is known to be one that a decoder can scale down: not a lossless one.

    libjpeg-turbo 3 reads those, and dies of a scale: no exception, the process ends. So the frame's
    marker has to be found where it belongs; behind anything unusual it is not looked for.
    """
    place = 2
    while content[place : place + 1] == b"\xff" and place + 1 < len(content):
        marker = content[place + 1]
        if marker in _OF_FREQUENCIES:
            return True
        # Application data, comments, quantisation, Huffman tables, the interval of restarts.
        if not (0xE0 <= marker <= 0xEF or marker in (0xFE, 0xDB, 0xC4, 0xDD)):
            return False
        place += 2 + int.from_bytes(content[place + 2 : place + 4])
    return False


def _line(error: Exception) -> str:
    """What an error says, in one line: libheif's end in an empty one."""
    return " ".join(str(error).split())


def _orientation(image: Image.Image) -> int:
    """Which way up EXIF has a picture, from 1 (as it is) to 8; damaged EXIF says nothing.

    EXIF alone, as browsers have it, of a TIFF its own tag: Pillow would believe XMP, and a text of
    ImageMagick's, too, and the exported page would show what was judged another way up.
    """
    try:
        if image.format == "PNG" and "exif" not in image.info:
            image.load()  # It may stand behind the pixels.
        if image.format == "TIFF":
            found = image.tag_v2.get(_ORIENTATION, 1)  # type: ignore[attr-defined]
        else:
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
            found = exif.get(_ORIENTATION, 1)
    except _DAMAGED_EXIF:
        return 1
    return found if found in range(1, 9) else 1


def _let_nothing_turn(image: Image.Image) -> None:
    """Take from a TIFF what Pillow turns it by as it reads it: it would be turned twice."""
    if image.format != "TIFF":
        return
    # What it cannot read it does not turn by.
    with suppress(*_DAMAGED_EXIF):
        exif = image.getexif()
        if _ORIENTATION in exif:
            del exif[_ORIENTATION]


# What Pillow raises for EXIF that is damaged, or has fields of another type than theirs.
_DAMAGED_EXIF = (
    OSError,
    SyntaxError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    struct.error,
)


_SRGB = ImageCms.createProfile("sRGB")

# What a profile is for → the modes of pictures that it may stand in.
_SPACES = {"RGB ": ("RGB", "RGBA", "P"), "CMYK": ("CMYK",)}


def _profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The ICC profile of a picture; None where it has none, sRGB's, or one that is not its own."""
    content = image.info.get("icc_profile")
    if not content:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        description = ImageCms.getProfileDescription(profile)
    except (ImageCms.PyCMSError, OSError):
        # As browsers do: a damaged profile is none.
        return None
    own = image.mode in _SPACES.get(profile.profile.xcolor_space, ())
    return profile if own and "srgb" not in description.lower() else None


def _in_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """A picture in the colours of `profile`, in those of sRGB."""
    try:
        converted = ImageCms.profileToProfile(
            image, profile, _SRGB, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB"
        )
    except ImageCms.PyCMSError as error:
        raise ImageProblem(f"its colour profile cannot be used ({error})") from None
    assert converted is not None
    return converted


def _as_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB where the conversion loses nothing, else `ImageProblem`."""
    plain = image.mode in ("RGB", "L", "1", "P")
    if plain and "transparency" not in image.info:
        return image.convert("RGB")
    if plain or image.mode in ("RGBA", "LA"):
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() == (255, 255):
            return rgba.convert("RGB")
        raise ImageProblem("has transparent pixels; save it as plain RGB")
    raise ImageProblem(
        f"colour mode {image.mode}, which RGB cannot hold without loss; convert it to 8-bit RGB"
    )


def size_of(content: bytes) -> tuple[int, int]:
    """Width and height of a picture by its header; `ImageProblem` where it has none."""
    try:
        with _opened(_content(content)) as image:
            return image.width, image.height
    except ImageProblem:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageProblem(f"damaged or truncated: {_line(error)}") from None


def pixel_digest(pixels: np.ndarray) -> str:
    """SHA-256 of a decoded picture's pixels."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
