"""Export a model to a file that runs without TensorFlow: `python -m skinml.export MODEL_URI`."""

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path

from skinml.base.errors import UserError, run_command
from skinml.base.files import why_no_place
from skinml.config import AUTO, Parser
from skinml.data.isic2017 import NOTICE
from skinml.evaluation.statistics import LEAST_OF_A_CLASS
from skinml.export.convert import PRECISIONS, TARGETS
from skinml.export.made import Made, make
from skinml.export.page import write_page
from skinml.export.source import log_export, open_pictures, open_source, require_run
from skinml.export.verify import LOSS
from skinml.models.exported import FILES

# What is proposed where a precision loses too much: the next that loses less.
_ALTERNATIVE = {"float16": "float32", "dynamic": "float16", "int8": "float16"}


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    _require_place(options.out)
    # Whatever the model was trained on: the converters take TensorFlow's graph.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with open_source(options.model) as source:
        if options.log:
            require_run(source)
        pictures = open_pictures(source, options.data_dir)
        page = options.to == "page"
        to = "litert" if page else options.to
        made = make(source, pictures, to, options.precision, options.allow_loss)
        print(*made.lines(), sep="\n")
        if made.verification.loses_more_than(LOSS) and not options.allow_loss:
            raise UserError(_refusal(made))
        path = write(made, options.out, page)
        if options.log:
            log_export(source, path, made.to, made.precision, made.metrics())
    print(f"wrote {path.parent if page else path}", file=sys.stderr)
    if page:
        print(
            f"look at it: python -m http.server --bind 127.0.0.1 --directory {path.parent}, then "
            "http://127.0.0.1:8000; for phones put the folder behind any web server with HTTPS",
            file=sys.stderr,
        )
    return 0


def write(made: Made, out: Path, page: bool = False) -> Path:
    """Write an export's folder, of which nothing is there before all of it is; the file's path.

    A folder that is there stays, as it may be mounted, or the current one: the files are written
    within it, on its own disk, and moved to their names.
    """
    _require_place(out)  # Again: it may have been filled in the meantime.
    place = _place(out)
    there = place.is_dir()
    near = place if there else place.parent
    near.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=near) as name:
        file, ready = Path(name, FILES[made.to]), Path(name, "ready")
        ready.mkdir()
        file.write_bytes(made.content)
        if page:
            write_page(file, ready)
        else:
            file.rename(ready / file.name)
        if there:
            _move_into(ready, place)
        else:
            ready.replace(place)
    return out / FILES[made.to]


def _move_into(ready: Path, place: Path) -> None:
    """Move what is ready into an empty folder: the page, if there is one, when all else is there.

    All, or nothing where that fails.
    """
    moved: list[Path] = []
    try:
        for path in sorted(ready.iterdir(), key=lambda path: path.name == "index.html"):
            moved.append(path.rename(place / path.name))
    except BaseException:
        for path in moved:
            path.rename(ready / path.name)
        raise


def _place(out: Path) -> Path:
    """Where an export goes: a link means what it leads to, a dot the folder itself."""
    return Path(os.path.realpath(out))


def _refusal(made: Made) -> str:
    macro = made.verification.figures["auc_macro"]
    other = _ALTERNATIVE.get(made.precision)
    remedy = f"--precision {other}, or " if other else ""
    if not math.isfinite(macro.low):
        return (
            f"--precision {made.precision}: {made.verification.images} validation images are too "
            f"few to say what it costs (an interval takes {LEAST_OF_A_CLASS} of each class), and "
            f"its scores differ by up to {made.verification.largest:.2g}: nothing was written; use "
            f"{remedy}--allow-loss, and the file says so"
        )
    return (
        f"--precision {made.precision}: on {made.verification.images} validation images the macro "
        f"AUC is {macro.exported:.4f} instead of {macro.keras:.4f}, a difference of "
        f"{macro.difference:+.4f} ({macro.low:+.4f} to {macro.high:+.4f}), and the answer the same "
        f"for {made.verification.same:.1%}; expected a lower end of -{LOSS:g} at least: nothing "
        f"was written; use {remedy}--allow-loss, and the file says so"
    )


def _require_place(out: Path) -> None:
    """Refuse a place where something lies: an export makes its folder, whole or not at all."""
    if reason := why_no_place(out):
        raise UserError(f"--out {out}: {reason}; expected a new folder where one may be made")
    place = _place(out)
    if os.path.lexists(place) and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"--out {out}: is there already; expected a new folder, or an empty one")
    near = next(path for path in (place, *place.parents) if path.exists())
    if not near.is_dir() or not os.access(near, os.W_OK):
        raise UserError(f"--out {out}: cannot be made in {near}; expected a folder to write to")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m skinml.export",
        description="Export a model to a file that runs without TensorFlow, and measure what that "
        "costs on the validation images of the model's own run.",
        epilog=NOTICE,
    )
    parser.add_argument(
        "model", help="URI, such as models:/skinml-mobilenetv2@champion, or a finished run's folder"
    )
    parser.add_argument(
        "--to", choices=(*TARGETS, "page"), default="litert",
        help="a LiteRT (TensorFlow Lite) file, an ONNX file, or a page that runs in a browser, "
        "without a server behind it (default: litert)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32",
        help="float16: half the size; dynamic: weights in 8 bits; int8: 8 bits but for the softmax "
        "and the first convolutions, with ranges found on training images (default: float32)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="a new folder, or an empty one"
    )
    parser.add_argument(
        "--data-dir", default=AUTO,
        help="where the run's data is (default: where the run found it)",
    )  # fmt: skip
    parser.add_argument(
        "--log", action="store_true", help="log the file and its figures to the model's run"
    )
    parser.add_argument(
        "--allow-loss", action="store_true",
        help=f"write it even if the macro AUC may have lost more than {LOSS:g}; the file says so",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
