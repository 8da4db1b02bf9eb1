"""What `decode_image` promises: 224×224 RGB of every sound picture, a reason for every other."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from skinml.data.images import IMAGE_SIZE, ImageProblem, decode_image, pixel_digest


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def photograph(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth random colours with a little grain, as a camera's picture has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)) // 16 * 15
    return Image.fromarray(smooth + rng.integers(0, 16, smooth.shape, dtype=np.uint8))


def resized(image: Image.Image) -> np.ndarray:
    target = (IMAGE_SIZE, IMAGE_SIZE)
    return np.asarray(image.convert("RGB").resize(target, Image.Resampling.BICUBIC))


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG that Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    "size", [(224, 224), (1, 1), (3, 700), (700, 3), (100, 75), (1022, 767), (449, 448)], ids=str
)
def test_any_size_becomes_224_by_224(size: tuple[int, int], kind: str) -> None:
    pixels = decode_image(encoded(photograph(size), kind))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (224, 224, 3)


def test_png_of_the_target_size_keeps_every_pixel() -> None:
    image = photograph((224, 224))
    np.testing.assert_array_equal(decode_image(encoded(image, "PNG")), np.asarray(image))


def test_whole_picture_is_scaled_not_cropped() -> None:
    """A wide picture's left and right edges survive."""
    pixels = np.zeros((100, 400, 3), dtype=np.uint8)
    pixels[:, :40], pixels[:, -40:] = (255, 0, 0), (0, 0, 255)
    scaled = decode_image(encoded(Image.fromarray(pixels), "PNG"))
    assert (scaled[:, :18] == (255, 0, 0)).all()
    assert (scaled[:, -18:] == (0, 0, 255)).all()
    assert (scaled[:, 30:-30] == 0).all()


@pytest.mark.parametrize("size", [(1400, 1000), (1022, 767), (500, 900)], ids=str)
def test_jpeg_at_reduced_scale_is_nearly_the_full_decode(size: tuple[int, int]) -> None:
    content = encoded(photograph(size).filter(ImageFilter.GaussianBlur(1)), "JPEG", quality=92)
    with Image.open(io.BytesIO(content)) as image:
        full = resized(image).astype(int)
    difference = np.abs(decode_image(content).astype(int) - full)
    assert difference.mean() < 1.5


@pytest.mark.parametrize("size", [(256, 256), (722, 542), (1100, 895)], ids=str)
def test_jpeg_below_four_times_the_target_is_decoded_in_full(size: tuple[int, int]) -> None:
    """Sets prepared from small copies keep their digest to the last bit."""
    content = encoded(photograph(size), "JPEG", quality=92)
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(decode_image(content), resized(image))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_fine_pattern_becomes_gray_not_another_pattern(kind: str) -> None:
    """A checkerboard of single pixels is gray from afar; a filter that aliases draws moiré."""
    board = (np.indices((1008, 1200)).sum(0) % 2 * 255).astype(np.uint8)
    options = {"quality": 95} if kind == "JPEG" else {}
    pixels = decode_image(encoded(Image.fromarray(board), kind, **options)).astype(int)
    assert np.ptp(pixels) <= 8
    assert abs(pixels.mean() - 127.5) < 2


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options",
    [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}],
    ids=["4:4:4", "4:2:2", "4:2:0", "progressive"],
)
@pytest.mark.parametrize("size", [(1847, 901), (3601, 1793), (500, 333)], ids=str)
def test_a_jpeg_s_pixels_are_those_that_pillow_decodes(
    size: tuple[int, int], options: dict[str, int], mode: str
) -> None:
    """Sets that were prepared by Pillow alone keep their digest to the last bit."""
    content = encoded(photograph(size).convert(mode), "JPEG", quality=90, **options)
    with Image.open(io.BytesIO(content)) as image:
        image.draft(mode, (2 * IMAGE_SIZE, 2 * IMAGE_SIZE))
        np.testing.assert_array_equal(decode_image(content), resized(image))


def test_large_jpeg_is_decoded_at_a_reduced_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """The half of the preparation's time that the reduced scale saves is saved."""
    sizes = []
    resize = Image.Image.resize

    def note_size(image: Image.Image, *args: object, **options: object) -> Image.Image:
        sizes.append(image.size)
        return resize(image, *args, **options)  # type: ignore[arg-type]

    content = encoded(photograph((1200, 1000)), "JPEG")
    monkeypatch.setattr(Image.Image, "resize", note_size)
    decode_image(content)
    (size,) = sizes
    # At least twice the target, and far fewer than the original's pixels.
    assert 2 * IMAGE_SIZE <= min(size) <= max(size) <= 600


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grayscale_becomes_three_equal_channels(kind: str) -> None:
    gray = photograph((300, 250)).convert("L")
    pixels = decode_image(encoded(gray, kind, **({"quality": 100} if kind == "JPEG" else {})))
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 1])
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])
    if kind == "PNG":
        np.testing.assert_array_equal(pixels, resized(gray))


def opaque(image: Image.Image) -> Image.Image:
    image.putalpha(255)
    return image


@pytest.mark.parametrize(
    "convert",
    [
        lambda image: image.quantize(64),
        lambda image: image.convert("1"),
        lambda image: opaque(image),
        lambda image: opaque(image.convert("L")),
    ],
    ids=["palette", "black and white", "opaque RGBA", "opaque LA"],
)
def test_lossless_modes_are_converted_exactly(
    convert: Callable[[Image.Image], Image.Image],
) -> None:
    image = convert(photograph((300, 250)))
    assert image.mode != "RGB"
    np.testing.assert_array_equal(decode_image(encoded(image, "PNG")), resized(image))


def refusals() -> dict[str, tuple[bytes, str]]:
    """Files that are no usable pictures, and a word of the reason."""
    image = photograph((120, 90))
    half = image.convert("RGBA")
    half.putalpha(128)
    spot = image.convert("RGBA")
    spot.putpixel((5, 5), (0, 0, 0, 254))
    jpeg, whole_png = encoded(image, "JPEG"), encoded(image, "PNG")
    return {
        "transparent": (encoded(half, "PNG"), "transparent"),
        "one translucent pixel": (encoded(spot, "PNG"), "transparent"),
        "transparent palette": (
            encoded(image.quantize(16), "PNG", transparency=bytes(16)),
            "transparent",
        ),
        "16 bit": (encoded(Image.fromarray(np.full((9, 9), 999, np.uint16)), "PNG"), "16 bits"),
        "16 bit RGB": (png(2, 1, 16, 2, zlib.compress(bytes(13))), "16 bits"),
        "RGB with a transparent colour": (
            encoded(image, "PNG", transparency=image.getpixel((3, 3))),
            "transparent",
        ),
        "gray with a transparent level": (
            encoded(image.convert("L"), "PNG", transparency=image.convert("L").getpixel((3, 3))),
            "transparent",
        ),
        "truncated JPEG": (jpeg[: len(jpeg) // 2], "truncated"),
        "truncated PNG": (whole_png[: len(whole_png) // 2], "truncated"),
        "JPEG header alone": (jpeg[:30], ""),
        "text": (b"<html>404 Not Found</html>", "not a JPEG or PNG picture"),
        "empty": (b"", "not a JPEG or PNG picture"),
        "GIF": (encoded(image, "GIF"), "not a JPEG or PNG picture"),
        "WebP": (encoded(image, "WEBP"), "not a JPEG or PNG picture"),
        "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "damaged or truncated"),
        # 200 million pixels in some hundred bytes.
        "bomb": (png(20_000, 10_000, 1, 0, b""), "89,000,000"),
    }


@pytest.mark.parametrize("as_file", [False, True], ids=["bytes", "file"])
@pytest.mark.parametrize("kind", refusals())
def test_unusable_file_is_refused_with_its_reason(kind: str, as_file: bool) -> None:
    content, reason = refusals()[kind]
    with pytest.raises(ImageProblem) as caught:
        decode_image(io.BytesIO(content) if as_file else content)
    assert reason in str(caught.value)
    assert str(caught.value).strip()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_more_pixels_than_allowed_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pillow alone lets up to 179 million pixels pass with a warning."""

    def fail(image: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(ImageProblem, match="expected at most 89,000,000"):
        decode_image(png(12_000, 10_000, 1, 0, b""))


def test_damage_anywhere_is_a_problem_or_a_picture_never_another_error() -> None:
    """200 files with random bytes changed: whatever Pillow makes of them, it is reported as one."""
    rng = np.random.default_rng(0)
    image = photograph((40, 30))
    problems = 0
    for content in (encoded(image, "JPEG"), encoded(image.quantize(8), "PNG")):
        for _ in range(100):
            damaged = bytearray(content)
            for place in rng.integers(0, min(len(content), 200), 3):
                damaged[place] = rng.integers(256)
            try:
                assert decode_image(bytes(damaged)).shape == (224, 224, 3)
            except ImageProblem:
                problems += 1
    assert problems > 50


def damaged(content: bytes, kind: str, place: int) -> bytes:
    """A JPEG that is broken at a place of its image data, as disks and networks do it."""
    if kind == "cut, with an end put on":
        return content[:place] + b"\xff\xd9"
    if kind == "100 bytes lost":
        return content[:place] + content[place + 100 :]
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def places(content: bytes, count: int) -> list[int]:
    """Places in the image data of a JPEG, from its beginning to its end."""
    begin = content.index(b"\xff\xda") + 14
    return np.linspace(begin, len(content) - 110, count).astype(int).tolist()


@pytest.mark.parametrize("kind", ["cut, with an end put on", "100 bytes lost"])
@pytest.mark.parametrize("size", [(256, 256), (1800, 1200)], ids=str)
def test_a_jpeg_with_lost_data_is_refused(size: tuple[int, int], kind: str) -> None:
    """Pillow gives gray or shifted pixels for all of these, without a word."""
    content = encoded(photograph(size).filter(ImageFilter.GaussianBlur(2)), "JPEG")
    for place in places(content, 16):
        with pytest.raises(ImageProblem, match=r"damaged or truncated: Corrupt JPEG data: \w+"):
            decode_image(damaged(content, kind, place))


def test_a_flipped_byte_is_refused_where_the_decoder_stumbles_over_it() -> None:
    """Huffman codes have no checksum: a flipped byte can also give another sound picture."""
    content = encoded(photograph((1800, 1200)).filter(ImageFilter.GaussianBlur(2)), "JPEG")
    refused = 0
    for place in places(content, 32):
        try:
            decode_image(damaged(content, "flipped", place))
        except ImageProblem:
            refused += 1
    assert refused >= 16


def test_a_marker_that_damage_has_made_is_refused() -> None:
    """The decoder gives up there, and what it was to fill stays as it was."""
    content = encoded(photograph((300, 200)), "JPEG")
    middle = len(content) // 2
    with pytest.raises(ImageProblem, match="damaged or truncated: "):
        decode_image(content[:middle] + b"\xff\xa3" + content[middle:])


def scan_of_its_own(content: bytes) -> bytes:
    """Not said to be sequential: Se, the last coefficient, is not 63."""
    end = content.index(b"\xff\xda") + 2
    end += int.from_bytes(content[end : end + 2])
    return content[: end - 2] + b"\x3e" + content[end - 1 :]


def another_jfif(content: bytes) -> bytes:
    """Version 2.01, which there never was."""
    return content.replace(b"JFIF\0\1\1", b"JFIF\0\2\1", 1)


def adobe_without_jfif(content: bytes) -> bytes:
    """Adobe's marker with a transform that is not one of three channels, in the place of JFIF's."""
    end = 4 + int.from_bytes(content[4:6])
    return content[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x02" + content[end:]


OWN_HEADERS = [scan_of_its_own, another_jfif, adobe_without_jfif]


@pytest.mark.parametrize("size", [(300, 200), (1800, 1200)], ids=str)
@pytest.mark.parametrize("change", OWN_HEADERS)
def test_a_header_of_a_kind_of_its_own_is_no_damage(
    change: Callable[[bytes], bytes], size: tuple[int, int]
) -> None:
    """Libjpeg warns of these, as some cameras and programs write them, and knows what they mean."""
    content = encoded(photograph(size), "JPEG")
    changed = change(content)
    assert changed != content
    np.testing.assert_array_equal(decode_image(changed), decode_image(content))


@pytest.mark.parametrize("change", OWN_HEADERS)
def test_damage_behind_such_a_header_is_still_refused(change: Callable[[bytes], bytes]) -> None:
    content = change(encoded(photograph((300, 200)), "JPEG"))
    with pytest.raises(ImageProblem, match=r"damaged or truncated: Corrupt JPEG data: \w+"):
        decode_image(damaged(content, "100 bytes lost", len(content) // 2))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_bytes_stream_and_file_give_the_same_pixels(kind: str, tmp_path: Path) -> None:
    content = encoded(photograph((500, 400)), kind)
    path = tmp_path / "picture"
    path.write_bytes(content)
    expected = decode_image(content)
    np.testing.assert_array_equal(decode_image(io.BytesIO(content)), expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(decode_image(file), expected)


def test_pixel_digest_follows_the_pixels_not_their_layout() -> None:
    pixels = decode_image(encoded(photograph((224, 224)), "PNG"))
    assert pixel_digest(pixels) == pixel_digest(np.asfortranarray(pixels))
    other = pixels.copy()
    other[100, 100, 1] ^= 1
    assert pixel_digest(other) != pixel_digest(pixels)
