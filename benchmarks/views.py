"""What the mean over an image's eight symmetric views costs, beside one view.

    python -m benchmarks.views [--models mobilenet,mobilenetv2,nasnetmobile] [--repeats 5]

One image at a time, as `latency_ms` of a run: the network as it is trained, in Keras's compiled
call, and as the exported LiteRT file, each with one view and with eight, in turn. And pictures a
second in the batches that `predict_part` gives a network.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import in_turn, parser, ratio, report, shown, spread, surroundings, table
from skinml.base.progress import status_line

VIEWS = (1, 8)
# How many images the batches have: what they say is a rate.
IMAGES = 64


def main() -> None:
    made = parser(__doc__, repeats=5)
    made.add_argument("--models", default="mobilenet,mobilenetv2,nasnetmobile")
    options = made.parse_args()
    around = surroundings()
    rows, measured = [], {}
    for model in options.models.split(","):
        with tempfile.TemporaryDirectory() as scratch, status_line(f"building {model}"):
            ways = calls(model, Path(scratch))
        sides = {side: call for way in ways.values() for side, call in way.items()}
        values = in_turn(model, sides, options.repeats)
        for way, both in ways.items():
            one, eight = (values[side] for side in both)
            # A rate falls as a latency rises.
            times = ratio(one, eight) if way == "images a second" else ratio(eight, one)
            rows.append([model, way, shown(spread(one), 1), shown(spread(eight), 1), shown(times)])
            measured[f"{model}, {way}"] = {"one": one, "eight": eight, "times": times}
    text = table(["network", "", "1 view", "8 views", "times"], rows)
    report(options, {**around, "measured": measured}, text)


def calls(model: str, folder: Path) -> dict[str, dict[str, Callable[[], float]]]:
    """What is measured of a network: way → side → a measurement; all are warm."""
    from skinml.config import Config
    from skinml.evaluation.scoring import measure_latency
    from skinml.export.convert import convert
    from skinml.models.classifier import build_classifier, with_views
    from skinml.models.exported import open_exported
    from skinml.models.inference import INFERENCE_BATCH
    from skinml.training.backend import compiled_call

    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 224, 224, 3), dtype=np.uint8)
    config = Config(model=model, weights="none", data="demo").resolved()
    network = build_classifier(config, classes=3).model
    ways: dict[str, dict[str, Callable[[], float]]] = {
        "Keras, ms": {}, "LiteRT, ms": {}, "images a second": {},
    }  # fmt: skip

    def latency(call: Callable[[np.ndarray], np.ndarray]) -> Callable[[], float]:
        return lambda: measure_latency(call, images[:1], calls=20, warm_up=3).median

    def rate(call: Callable[[np.ndarray], np.ndarray], batch: int) -> Callable[[], float]:
        def measure() -> float:
            call(images[:batch])
            started = time.perf_counter()
            for first in range(0, IMAGES, batch):
                call(images[first : first + batch])
            return IMAGES / (time.perf_counter() - started)

        return measure

    for views in VIEWS:
        seen = with_views(network, views)
        path = folder / f"{views}.tflite"
        path.write_bytes(convert(seen, "litert", "float32"))
        exported: Any = open_exported(path, classes=3)
        in_batches = compiled_call(seen)
        ways["Keras, ms"][f"Keras, {views}"] = latency(compiled_call(seen))
        ways["LiteRT, ms"][f"LiteRT, {views}"] = latency(exported.predict_on_batch)
        ways["images a second"][f"batches, {views}"] = rate(in_batches, INFERENCE_BATCH // views)
    return ways


if __name__ == "__main__":
    main()
