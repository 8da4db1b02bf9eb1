"""Near-duplicates: a lesion photographed, cropped or coloured twice, by a perceptual hash."""

from collections.abc import Sequence

import numpy as np

# Of the 64 bits of a hash, how many may differ. Looked at in ISIC 2017 (the prepared images): of 22
# pairs within 2 bits 20 show the same lesion, of 13 at 4 bits about half, at 6 bits hardly any. So
# this finds most near-duplicates and not all, and joins hardly any lesions that are two.
NEAR_BITS = 2

# Pairs compared at once: 8 MB whatever the number of images.
_BLOCK = 2**20


def perceptual_hash(pixels: np.ndarray) -> str:
    """The 64-bit perceptual hash of an image, uint8 (H, W, 3): 16 hexadecimal digits.

    The signs of the lowest 8×8 frequencies of the gray image about their median (pHash).
    """
    import imagehash
    from PIL import Image

    return str(imagehash.phash(Image.fromarray(pixels)))


def near_duplicate_groups(hashes: Sequence[str]) -> np.ndarray:
    """(N,) int64: images joined by pairs within NEAR_BITS share a number, that of their first."""
    bits = np.array([int(text, 16) for text in hashes], dtype=np.uint64)
    group = np.arange(len(bits))
    rows = max(1, _BLOCK // max(1, len(bits)))
    for start in range(0, len(bits), rows):
        block = bits[start : start + rows, None] ^ bits[None]
        for first, second in np.argwhere(np.bitwise_count(block) <= NEAR_BITS):
            one, other = group[start + first], group[second]
            if one != other:
                group[group == max(one, other)] = min(one, other)
    return group
