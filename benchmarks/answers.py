"""What one network says of a few pictures, by each of the ways in which it can be asked.

    python -m benchmarks.answers MODEL SERVING ONNX PAGE PICTURES… [--json] [--out FOLDER]

MODEL and SERVING are the URIs of a run's two models, ONNX a file and PAGE a folder that
`skinml.export` wrote of it. Asked are Keras and LiteRT through `skinml.predict`, the ONNX file, the
page in a browser and `mlflow models serve`.
"""

from pathlib import Path

import numpy as np

from benchmarks.harness import parser, report, surroundings, table
from benchmarks.page import browser_scores
from benchmarks.serving import ask, request, served
from skinml.predict import load, read_picture


def main() -> None:
    made = parser(__doc__, repeats=1)
    for name in ("model", "serving", "onnx"):
        made.add_argument(name)
    made.add_argument("page", type=Path)
    made.add_argument("pictures", type=Path, nargs="+")
    made.add_argument("--browser", default="chromium", help="a program (default: chromium)")
    options = made.parse_args()
    around = surroundings()
    pixels = [read_picture(picture)[None] for picture in options.pictures]
    answers: dict[str, np.ndarray] = {}
    classes: tuple[str, ...] = ()
    for way, uri, runtime in (
        ("Keras", options.model, "keras"),
        ("LiteRT", options.model, "litert"),
        ("ONNX", options.onnx, "onnx"),
    ):
        loaded = load(uri, runtime)
        classes = loaded.classes
        answers[way] = np.concatenate([loaded.network.predict_on_batch(image) for image in pixels])
    answers["page"], browser = browser_scores(options.browser, options.page, options.pictures)
    with served(options.serving) as server:
        told = [ask(server.port, request(picture))[0] for picture in options.pictures]
    rows = [answer["predictions"][0] for answer in told]
    answers["model server"] = np.array([[row[name] for name in classes] for row in rows])
    lines = [
        [picture.name, way, *(f"{score:.6f}" for score in scores[number])]
        for number, picture in enumerate(options.pictures)
        for way, scores in answers.items()
    ]
    largest = max(float(np.abs(scores - answers["Keras"]).max()) for scores in answers.values())
    text = table(["picture", "asked", *classes], lines)
    text += f"\n\nLargest difference of a score from Keras: {largest:.2g}"
    scores = {way: given.tolist() for way, given in answers.items()}
    names = [picture.name for picture in options.pictures]
    report(
        options,
        {**around, "browser": browser, "pictures": names, "scores": scores, "largest": largest},
        text,
    )


if __name__ == "__main__":
    main()
