"""Pictures as they come from phones and clinics; what is expected is not of Pillow's decoders.

Files are put together from bytes here, or written by Pillow and compared with what their formats'
definitions say of the pixels that went in.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from skinml.data.datasets import DATASETS
from skinml.data.images import IMAGE_SIZE, ImageProblem, decode_image
from skinml.data.prepare import open_data, prepare
from tests.data.conftest import picture
from tests.data.profiles import display_p3

SIZE = (IMAGE_SIZE, IMAGE_SIZE, 3)


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    """Of the very size that a network sees: nothing is scaled."""
    coarse = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.asarray(coarse.repeat(32, axis=0).repeat(32, axis=1))


def saved(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def test_a_bmp_of_hand_made_bytes(pixels: np.ndarray) -> None:
    """24 bits, bottom row first, blue before red (Windows' BITMAPINFOHEADER)."""
    body = pixels[::-1, :, ::-1].tobytes()
    header = struct.pack("<2sIHHI", b"BM", 54 + len(body), 0, 0, 54)
    header += struct.pack(
        "<IiiHHIIiiII", 40, IMAGE_SIZE, IMAGE_SIZE, 1, 24, 0, len(body), 1, 1, 0, 0
    )
    np.testing.assert_array_equal(decode_image(header + body), pixels)


def tiff(body: bytes, bits: int = 8, following: int = 0) -> bytes:
    """Little-endian, uncompressed RGB in one strip (TIFF 6.0, section 6)."""
    entries = [
        *[(256, 4, 1, IMAGE_SIZE), (257, 4, 1, IMAGE_SIZE), (258, 3, 3, 8), (259, 3, 1, 1)],
        *[(262, 3, 1, 2), (273, 4, 1, 14), (277, 3, 1, 3), (278, 4, 1, IMAGE_SIZE)],
        (279, 4, 1, len(body)),
    ]
    place = 14 + len(body)
    folder = struct.pack("<H", len(entries))
    folder += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<I", place) + struct.pack("<HHH", bits, bits, bits)
    return head + body + folder + struct.pack("<I", place if following else 0)


def test_a_tiff_of_hand_made_bytes(pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_image(tiff(pixels.tobytes())), pixels)


def test_a_tiff_of_16_bits_or_several_pages_is_refused(pixels: np.ndarray) -> None:
    deep = tiff(np.asarray(pixels, np.uint16).tobytes(), bits=16)
    with pytest.raises(ImageProblem, match="16 bits a channel"):
        decode_image(deep)
    stream = io.BytesIO()
    page = Image.fromarray(pixels)
    page.save(stream, "TIFF", save_all=True, append_images=[page])
    with pytest.raises(ImageProblem, match="2 pages or frames, expected one"):
        decode_image(stream.getvalue())


def test_an_avif_is_read(pixels: np.ndarray) -> None:
    """A lossy format: of a picture of large squares next to nothing is lost."""
    content = saved(pixels, "AVIF", quality=100, subsampling="4:4:4")
    assert np.abs(decode_image(content).astype(int) - pixels).mean() < 2


# EXIF's orientation (CIPA DC-008, tag 0x0112) → what brings the stored rows and columns upright.
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_picture_is_turned_the_way_up_that_exif_says(
    pixels: np.ndarray, orientation: int, kind: str
) -> None:
    """Once: Pillow turns TIFFs by itself."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    stored = decode_image(saved(pixels, kind, **options))
    content = saved(pixels, kind, exif=exif, **options)
    np.testing.assert_array_equal(decode_image(content, as_stored=True), stored)
    np.testing.assert_array_equal(decode_image(content), UPRIGHT[orientation](stored))


# An EXIF of two fields (TIFF 6.0, section 2): turned to the right; a resolution that is a text.
MISTYPED = b"II*\0" + struct.pack(
    "<IHHHIHHHHI4sI", 8, 2, 0x0112, 3, 1, 6, 0, 0x011A, 2, 4, b"abc\0", 0
)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_of_exif_nothing_but_the_way_up_is_looked_at(pixels: np.ndarray, kind: str) -> None:
    """Pillow, turning a picture, writes its EXIF anew, and fails where a field is mistyped."""
    content = saved(pixels, kind, exif=b"Exif\0\0" + MISTYPED)
    expected = UPRIGHT[6](decode_image(content, as_stored=True))
    np.testing.assert_array_equal(decode_image(content), expected)


# The same of one field, of four bytes, the first of them first; and of one that is a byte.
LONG = b"MM\0*" + struct.pack(">IHHHIII", 8, 1, 0x0112, 4, 1, 6, 0)
A_BYTE = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 1, 1, 6, 0)


def test_the_way_up_is_a_number_of_two_or_four_bytes(pixels: np.ndarray) -> None:
    long, byte = (saved(pixels, "PNG", exif=exif) for exif in (LONG, A_BYTE))
    np.testing.assert_array_equal(decode_image(long), UPRIGHT[6](pixels))
    np.testing.assert_array_equal(decode_image(byte), pixels)


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG (ISO/IEC 15948, 5.3)."""
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


# What says a way up, and is no EXIF: XMP, and ImageMagick's text of EXIF.
NOT_EXIF = {
    "XMP": chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
    "a text": chunk(
        b"tEXt",
        b"Raw profile type exif\0\nexif\n%8d\n%s" % (len(MISTYPED), MISTYPED.hex().encode()),
    ),
}


@pytest.mark.parametrize("what", NOT_EXIF)
def test_nothing_but_exif_turns_a_picture(pixels: np.ndarray, what: str) -> None:
    """Browsers, and so the exported page, believe nothing else."""
    plain = saved(pixels, "PNG")
    content = plain[:33] + NOT_EXIF[what] + plain[33:]
    np.testing.assert_array_equal(decode_image(content), pixels)


def test_exif_behind_the_pixels_turns_a_picture_too(pixels: np.ndarray) -> None:
    plain = saved(pixels, "PNG")
    content = plain[:-12] + chunk(b"eXIf", MISTYPED) + plain[-12:]
    np.testing.assert_array_equal(decode_image(content), UPRIGHT[6](pixels))


def test_exif_that_says_nonsense_turns_nothing(pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    np.testing.assert_array_equal(decode_image(saved(pixels, "PNG", exif=exif)), pixels)


def in_srgb(pixels: np.ndarray) -> np.ndarray:
    """What these colours are in sRGB, by the definitions alone (IEC 61966-2-1, adapted to D50)."""
    to_xyz = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657],
                       [-0.00105, 0.04189, 0.78407]])  # fmt: skip
    srgb = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061],
                     [0.01392, 0.09708, 0.71410]])  # fmt: skip
    linear = (pixels / 255) ** 2.2 @ to_xyz.T @ np.linalg.inv(srgb).T
    linear = linear.clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(255 * encoded)


def test_colours_of_another_profile_become_those_of_srgb(pixels: np.ndarray) -> None:
    content = saved(pixels, "PNG", icc_profile=display_p3())
    expected = in_srgb(pixels)
    assert np.abs(expected - pixels).mean() > 3, "the profile is meant to matter"
    assert np.abs(decode_image(content) - expected).max() < 3
    np.testing.assert_array_equal(decode_image(content, as_stored=True), pixels)


@pytest.mark.parametrize("profile", [b"damaged", ImageCms.ImageCmsProfile(
    ImageCms.createProfile("sRGB")).tobytes()], ids=["damaged", "sRGB"])  # fmt: skip
def test_a_damaged_profile_and_that_of_srgb_change_nothing(
    pixels: np.ndarray, profile: bytes
) -> None:
    content = saved(pixels, "PNG", icc_profile=profile)
    np.testing.assert_array_equal(decode_image(content), pixels)


def lossless_jpeg(side: int) -> bytes:
    """Grey 128 everywhere: each sample is its neighbour's, a bit of 0 (ITU-T T.81, annex H)."""
    huffman = b"\xff\xc4" + struct.pack(">HB", 20, 0) + b"\x01" + bytes(15) + b"\x00"
    frame = b"\xff\xc3" + struct.pack(">HBHHBBBB", 11, 8, side, side, 1, 1, 0x11, 0)
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8" + huffman + frame + scan + bytes(side * side // 8 + 1) + b"\xff\xd9"


@pytest.mark.parametrize("padding", [b"", b"\xff", b"\xff\xd0", b"\xff\xfe\x00\x04ab"])
def test_a_large_lossless_jpeg_is_read_in_full(padding: bytes) -> None:
    """Asked to scale one down, libjpeg-turbo 3 ends the process: no exception, no message."""
    content = lossless_jpeg(1800)
    content = content[:2] + padding + content[2:]
    try:
        assert (decode_image(content) == 128).all()
    except ImageProblem as problem:
        assert padding == b"\xff\xd0", str(problem)


def test_a_cmyk_jpeg_of_adobe_is_read_by_its_marker(pixels: np.ndarray) -> None:
    """Adobe stores ink upside down: 255 is none (its Technical Note 5116)."""
    ink = np.dstack([255 - pixels, np.zeros(pixels.shape[:2], np.uint8)])
    stream = io.BytesIO()
    Image.fromarray(ink, "CMYK").save(stream, "JPEG", quality=100, subsampling=0)
    content = stream.getvalue()
    assert b"Adobe" in content
    assert np.abs(decode_image(content).astype(int) - pixels).mean() < 2


def test_a_cmyk_jpeg_that_does_not_say_what_it_means_is_refused(pixels: np.ndarray) -> None:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(stream, "JPEG")
    content = stream.getvalue()
    start = content.index(b"\xff\xee")
    without = (
        content[:start] + content[start + 2 + int.from_bytes(content[start + 2 : start + 4]) :]
    )
    with pytest.raises(ImageProblem, match="colour mode CMYK"):
        decode_image(without)


def test_isic_2017_is_taken_as_stored_and_own_pictures_are_not(
    official: Path, tmp_path: Path, pixels: np.ndarray
) -> None:
    """Some originals of ISIC 2017 have a camera's profile: the digest of its pixels must stay."""
    assert DATASETS["isic2017"].as_stored and DATASETS["demo"].as_stored
    wide = saved(pixels, "PNG", icc_profile=display_p3())
    [first] = official.glob("ISIC-2017_Training_Data/ISIC_0000000.jpg")
    first.with_suffix(".png").write_bytes(wide)
    first.unlink()
    np.testing.assert_array_equal(prepare(official, tmp_path / "out").images[0], pixels)
    for name in ("a", "b"):
        (tmp_path / "own" / name).mkdir(parents=True)
        (tmp_path / "own" / name / "1.png").write_bytes(picture(1, kind="PNG"))
    (tmp_path / "own" / "a" / "1.png").write_bytes(wide)
    own = open_data(str(tmp_path / "own"))
    np.testing.assert_array_equal(own.images[0], decode_image(wide))
    assert zlib.crc32(own.images[0].tobytes()) != zlib.crc32(pixels.tobytes())
