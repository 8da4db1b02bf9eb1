"""Near-duplicates: a lesion photographed, cropped or coloured twice, by a perceptual hash."""

from collections.abc import Sequence

import numpy as np

# Of the 64 bits of a hash, how many may differ. Looked at in ISIC 2017 (the prepared images): of 22
# pairs within 2 bits 20 show the same lesion, of 13 at 4 bits about half, at 6 bits hardly any. So
# this finds most near-duplicates and not all, and joins hardly any lesions that are two.
NEAR_BITS = 2

# A hash is cut into one more band than bits may differ: of two near ones a band is the same. Every
# third bit, as the lowest frequencies of many lesions are alike.
_BANDS = [
    np.uint64(sum(1 << bit for bit in range(band, 64, NEAR_BITS + 1)))
    for band in range(NEAR_BITS + 1)
]

# The groups that `near_duplicate_groups` finds in all 2,750 images of ISIC 2017, for whoever has a
# predictions table and no images.
NEAR_DUPLICATES = (
    ("ISIC_0000162", "ISIC_0014826"),
    ("ISIC_0000165", "ISIC_0014788"),
    ("ISIC_0000171", "ISIC_0015124"),
    ("ISIC_0000174", "ISIC_0015071"),
    ("ISIC_0000179", "ISIC_0014765"),
    ("ISIC_0000185", "ISIC_0015155"),
    ("ISIC_0000206", "ISIC_0014739"),
    ("ISIC_0000222", "ISIC_0014846"),
    ("ISIC_0012175", "ISIC_0015982"),
    ("ISIC_0012271", "ISIC_0016018"),
    ("ISIC_0012290", "ISIC_0013594"),
    ("ISIC_0012672", "ISIC_0012673"),
    ("ISIC_0012735", "ISIC_0013257"),
    ("ISIC_0012756", "ISIC_0013184"),
    ("ISIC_0012887", "ISIC_0012989"),
    ("ISIC_0012970", "ISIC_0012127"),
    ("ISIC_0013163", "ISIC_0013109"),
    ("ISIC_0012221", "ISIC_0016002"),
    ("ISIC_0014945", "ISIC_0015273"),
    ("ISIC_0012152", "ISIC_0015979"),
    ("ISIC_0012216", "ISIC_0016001"),
    ("ISIC_0015986", "ISIC_0015987"),
)


def perceptual_hash(pixels: np.ndarray) -> str:
    """The 64-bit perceptual hash of an image, uint8 (H, W, 3): 16 hexadecimal digits.

    The signs of the lowest 8×8 frequencies of the gray image about their median (pHash).
    """
    import imagehash
    from PIL import Image

    return str(imagehash.phash(Image.fromarray(pixels)))


def near_duplicate_groups(hashes: Sequence[str]) -> np.ndarray:
    """(N,) int64: images joined by pairs within NEAR_BITS share a number, that of their first.

    Only hashes with an equal band are compared: N log N for the sorting, and few pairs beyond it.
    Equal hashes are taken as one, so that the worst case, which is quadratic, takes many thousand
    that differ in one band and agree in another.
    """
    if not len(hashes):
        return np.arange(0)
    numbers = np.array([int(text, 16) for text in hashes], dtype=np.uint64)
    bits, place = np.unique(numbers, return_inverse=True)
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for band in _BANDS:
        key = bits & band
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        # Each with the next, then with the one after that, for as long as the band is the same.
        same = np.arange(len(order))
        for step in range(1, len(order)):
            same = same[same + step < len(order)]
            same = same[ordered[same] == ordered[same + step]]
            if not len(same):
                break
            one, other = order[same], order[same + step]
            near = np.bitwise_count(bits[one] ^ bits[other]) <= NEAR_BITS
            pairs.append(np.stack([one[near], other[near]], axis=1))
    components = _components(len(bits), np.concatenate(pairs))
    return _numbered(components[place])


def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) int64: what shares a group in either of two (N,) int64, however far; numbered anew.

    The number of a group is that of the first image in it.
    """
    count = len(first)
    rows = np.arange(count)
    # Each image hangs on the node of its group in each of the two.
    pairs = np.concatenate([np.stack([rows, g + count * k], axis=1)
                            for k, g in enumerate((first, second), 1)])  # fmt: skip
    return _numbered(_components(3 * count, pairs)[:count])


def _components(count: int, pairs: np.ndarray) -> np.ndarray:
    """The connected component of each of `count` nodes, (count,), by their `pairs` (P, 2)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(pairs), dtype=bool), pairs.T), shape=(count, count))
    found: np.ndarray = connected_components(edges, directed=False)[1]
    return found


def _numbered(components: np.ndarray) -> np.ndarray:
    """Components by the number of their first member: (N,) int64."""
    _, first, inverse = np.unique(components, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)
