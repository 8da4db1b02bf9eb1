"""One picture file to the pixels that a network sees: the same way in preparation and serving."""

import hashlib
import io
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image

# The paper scales every image to 224×224×3 (section III); the backbones were pre-trained at it.
IMAGE_SIZE = 224

# The largest original of ISIC 2017 has 30 million pixels; far beyond it lies a decompression bomb.
# Just below the size at which Pillow itself begins to warn.
MAX_PIXELS = 89_000_000

_FORMATS = ("JPEG", "PNG")

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


def decode_image(file: BinaryIO | bytes) -> np.ndarray:
    """Decode a JPEG or PNG of any size to uint8 (224, 224, 3), raw RGB 0-255.

    The whole picture is scaled, without cropping, as the paper does. JPEGs are decoded at the
    smallest reduced scale that still holds twice the target (`_DRAFT_SIZE`). Grayscale and palette
    pictures are converted, since nothing is lost; CMYK, transparent, 16-bit, damaged, truncated and
    foreign files raise `ImageProblem`.
    """
    content = file if isinstance(file, bytes) else file.read()
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageProblem(
                    f"{image.width}×{image.height} pixels, expected at most {MAX_PIXELS:,}"
                )
            # Pillow would drop the lower half of 16-bit samples without a word.
            if ";16" in str(image.tile):
                raise ImageProblem("16 bits a channel, expected 8; convert it to 8-bit RGB")
            if image.format != "PNG" and image.mode in ("RGB", "L"):
                image.draft(image.mode, _DRAFT_SIZE)
                rgb = _decode_jpeg(content, image.size)
            else:
                rgb = _as_rgb(image)
    except ImageProblem:
        raise
    except Image.UnidentifiedImageError:
        raise ImageProblem("not a JPEG or PNG picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageProblem(f"more than the {MAX_PIXELS:,} pixels expected at most") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # A broken file is reported with any of these, and with the reason as the text.
        raise ImageProblem(f"damaged or truncated: {error}") from None
    # Pillow widens its filters by the scale: no pixel is passed over, nothing aliases.
    scaled = rgb.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(scaled, dtype=np.uint8)


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
        pixels = simplejpeg.decode_jpeg(content, min_height=height, min_width=width, strict=False)
    return Image.fromarray(pixels)


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


def pixel_digest(pixels: np.ndarray) -> str:
    """SHA-256 of a decoded picture's pixels."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
