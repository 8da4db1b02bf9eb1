"""Of JPEGs that are damaged on purpose, how many are refused, and how wrong the others are.

    python -m benchmarks.damage --images FOLDER [--repeats 8] [--json] [--out FOLDER]

Each JPEG of FOLDER and the folders in it is broken `--repeats` times in each way, at places of its
image data drawn with seed 0: a byte flipped (all its bits), 100 bytes lost, the rest lost and an
end marker put on. *Wrong by*: the mean difference to the sound picture's 224×224 pixels in grey
levels of 255, of those that Pillow decodes and skinml does not refuse; a flipped byte that changes
no pixel is not counted. *False alarms*: sound files that are refused, *other pixels*: sound files
whose pixels are not those that Pillow alone decodes.
"""

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness import parser, report, surroundings, table
from skinml.data.images import IMAGE_SIZE, ImageProblem, decode_image

DAMAGES: dict[str, Callable[[bytes, int], bytes]] = {
    "a flipped byte": lambda jpeg, place: (
        jpeg[:place] + bytes([jpeg[place] ^ 0xFF]) + jpeg[place + 1 :]
    ),
    "100 bytes lost": lambda jpeg, place: jpeg[:place] + jpeg[place + 100 :],
    "cut, an end put on": lambda jpeg, place: jpeg[:place] + b"\xff\xd9",
}


def pillow_alone(jpeg: bytes) -> np.ndarray:
    """The same picture as `decode_image` gives, without its checks."""
    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (2 * IMAGE_SIZE, 2 * IMAGE_SIZE))
        small = image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(small).astype(int)


def data_begin(jpeg: bytes) -> int:
    """Where the image data begins: after the header of the first scan."""
    place = 2
    while jpeg[place + 1] != 0xDA:
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")


def main() -> None:
    options_parser = parser(__doc__, repeats=8)
    options_parser.add_argument("--images", type=Path, required=True, help="folder of sound JPEGs")
    options = options_parser.parse_args()
    around = surroundings()
    rng = random.Random(0)
    refused = dict.fromkeys(DAMAGES, 0)
    wrong: dict[str, list[float]] = {damage: [] for damage in DAMAGES}
    alarms = other_pixels = 0
    files = sorted(options.images.rglob("*.jpg"))
    for file in files:
        jpeg = file.read_bytes()
        sound = pillow_alone(jpeg)
        try:
            other_pixels += bool((decode_image(jpeg) != sound).any())
        except ImageProblem:
            alarms += 1
        for _ in range(options.repeats):
            place = rng.randrange(data_begin(jpeg), len(jpeg) - 102)
            for damage, apply in DAMAGES.items():
                try:
                    pixels = decode_image(apply(jpeg, place))
                except ImageProblem:
                    refused[damage] += 1
                    continue
                if difference := float(np.abs(pixels - sound).mean()):
                    wrong[damage].append(difference)
    rows, result = [], {}
    for damage, found in wrong.items():
        median = float(np.median(found)) if found else 0.0
        counts = refused[damage], len(found), sum(difference > 4 for difference in found)
        rows.append([damage, *(f"{count:,}" for count in counts), f"{median:.2f}"])
        names = "refused", "accepted", "wrong_by_more_than_4"
        result[damage] = {**dict(zip(names, counts, strict=True)), "wrong_by_median": median}
    text = table(["damage", "refused", "accepted", "wrong by more than 4", "median"], rows)
    text += (
        f"\n\n{len(files):,} sound files: {alarms} false alarms, {other_pixels} with other pixels"
    )
    counted = {"files": len(files), "false_alarms": alarms, "other_pixels": other_pixels}
    report(options, {**around, **counted, "damages": result}, text)


if __name__ == "__main__":
    main()
