"""Check a network's maps, or draw a page of them: `python -m skinml.explain MODEL`."""

import argparse
import csv
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from skinml.base.errors import UserError, run_command
from skinml.base.files import why_no_place, write_whole
from skinml.base.progress import progress_bar, status_line
from skinml.config import AUTO, Parser
from skinml.data.isic2017 import NOTICE
from skinml.evaluation.drawing import CAVEAT
from skinml.evaluation.scoring import predict_part
from skinml.explain.browser import make_page
from skinml.explain.check import (
    SAME,
    STAGES,
    Correlations,
    Deletion,
    correlations,
    deletions,
    steps,
)
from skinml.explain.drawing import draw_check
from skinml.explain.maps import METHODS, Explainer
from skinml.export.source import Pictures, Source, open_pictures, open_source
from skinml.models.saved import load_saved

# By what the maps of one network are checked.
_Found = tuple[Mapping[tuple[str, str], Correlations], Mapping[str, Deletion]]


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if options.out is None and options.page is None:
        raise UserError("nothing asked for: expected --out FOLDER, --page FILE, or both")
    # Before minutes of computation.
    if options.out is not None:
        _require_place("--out", options.out, folder=True)
    if options.page is not None:
        _require_place("--page", options.page, folder=False)
    with open_source(options.model) as source:
        pictures = open_pictures(source, options.data_dir)
        with status_line(f"loading {source.uri}"):
            model = load_saved(source.file)
        if options.page is not None:
            write_page(options.page, source, pictures, model)
        if options.out is not None:
            explainer = Explainer(model)
            told = check(options.out, source, pictures, explainer, options.count, options.seed)
            print(told, end="")
    return 0


def _require_place(option: str, place: Path, folder: bool) -> None:
    """Refuse where no folder, else no file, can be written; of a link what it leads to counts."""
    if reason := why_no_place(place):
        raise UserError(f"{option} {place}: {reason}; expected a place that may be written")
    found = Path(os.path.realpath(place))
    if found.exists() and found.is_dir() != folder:
        expected, is_there = ("folder", "file") if folder else ("file", "folder")
        raise UserError(f"{option} {place}: is a {is_there}; expected a {expected}, or a new name")
    # A file is replaced by a new one of its folder.
    written = found if folder and found.exists() else found.parent
    if not written.is_dir() or not os.access(written, os.W_OK):
        raise UserError(
            f"{option} {place}: cannot be written in {written}; expected a place in a folder that "
            "exists and may be written"
        )


def check(
    out: Path, source: Source, pictures: Pictures, explainer: Explainer, count: int, seed: int
) -> str:
    """Check the maps of some test pictures; numbers and figures go into `out`, its text is told."""
    rows = np.random.default_rng(seed).permutation(pictures.rows("test"))[:count]
    pixels = pictures.data.images[np.sort(rows)]
    with progress_bar("checking maps", steps(explainer)) as advance:
        alike = correlations(explainer, pixels, seed, advance)
        fallen = deletions(explainer, pixels, seed, advance)
    out.mkdir(exist_ok=True)
    _write_table(
        out / "randomisation.csv",
        ("stage", "method", "network", "rank_correlation"),
        (
            (stage, method, number, f"{value:.4f}")
            for (stage, method), found in alike.items()
            for number, value in enumerate(found.of_networks, start=1)
        ),
    )
    _write_table(
        out / "deletion.csv",
        ("order", "share", "score"),
        (
            (order, f"{share:g}", f"{value:.4f}")
            for order, found in fallen.items()
            for share, value in zip(found.shares, found.scores, strict=True)
        ),
    )
    draw_check(alike, fallen, f"{source.uri}, {len(rows)} test pictures", out)
    text = "\n".join(_report(source, len(rows), seed, (alike, fallen)))
    write_whole(out / "report.md", text)
    return text


def write_page(path: Path, source: Source, pictures: Pictures, model: object) -> None:
    """Write the page of a run's test pictures."""
    from skinml.config import test_views_of

    rows = pictures.rows("test")
    table = predict_part(model, pictures.data, rows, "test", test_views_of(source.params))
    with progress_bar("drawing maps", len(rows)) as advance:
        maps = Explainer(model).maps(pictures.data.images, rows, advance)
    write_whole(path, make_page(source.uri, table, pictures.data.images, rows, maps))
    print(f"wrote {path}", file=sys.stderr)


def _report(source: Source, pictures: int, seed: int, found: _Found) -> Iterator[str]:
    alike, fallen = found
    networks = len(next(iter(alike.values())).of_networks)
    params = source.params
    yield from (f"# Maps of {source.uri}", "")
    yield (
        f"{params['model']}, batch size {params.get('batch_size')}, seed {params.get('seed')}, "
        f"data digest {params['data_digest']}; {pictures} test pictures, drawn with seed {seed}."
    )
    yield from ("", "## Do they depend on what was learned?", "")
    yield (
        f"Rank correlation of the trained network's maps with those of networks whose weights are "
        f"shuffled: mean of {networks} networks, and the upper end of its 95 % interval. A method "
        f"passes where that is below {SAME:g} at every stage. “Other pictures”: maps of which each "
        "is of another picture, by the trained network."
    )
    yield from ("", f"| method | other pictures | {' | '.join(STAGES)} | |")
    yield "| --- " + "| ---: " * (1 + len(STAGES)) + "| --- |"
    for method in METHODS:
        rows = [alike[stage, method] for stage in STAGES]
        cells = [f"{row.mean:+.2f} (≤ {row.high:+.2f})" for row in rows]
        verdict = "passes" if all(row.passes for row in rows) else "**fails**"
        yield (
            f"| {method} | {alike['other pictures', method].mean:+.2f} | {' | '.join(cells)} | "
            f"{verdict} |"
        )
    yield from ("", "## Do they point at what counts?", "")
    yield (
        "The score of the answer as the cells of a picture are painted over with its mean colour: "
        "the area under that curve (lower is better), and how much smaller it is than in a random "
        "order, with its 95 % interval over pictures."
    )
    yield from ("", "| order of the cells | area | below random |", "| --- | ---: | ---: |")
    for order, row in fallen.items():
        gain = f"{row.gain:+.3f} ({row.low:+.3f} to {row.high:+.3f})" if row.gain else ""
        yield f"| {order} | {row.area:.3f} | {gain} |"
    yield from ("", f"> {CAVEAT} {NOTICE}", "")


def _write_table(path: Path, header: tuple[str, ...], rows: Iterator[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m skinml.explain",
        description="Check what the class activation maps of a network are worth, or write the "
        "page of its test pictures. It loads the Keras model.",
        epilog=f"{CAVEAT} {NOTICE}",
    )
    parser.add_argument(
        "model", help="URI, such as models:/skinml-mobilenetv2@champion, or a finished run's folder"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER",
        help="check the maps by randomised weights and by deletion; numbers and curves go here",
    )  # fmt: skip
    parser.add_argument(
        "--page", type=Path, metavar="FILE",
        help="write the page of the test pictures with their maps (a run leaves its own)",
    )  # fmt: skip
    parser.add_argument(
        "--count", type=_count, default=64, help="test pictures that the maps are checked on (64)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of their choice and the shuffling (0)")
    parser.add_argument(
        "--data-dir", default=AUTO,
        help="where the run's data is (default: where the run found it)",
    )  # fmt: skip
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of pictures, 2 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(run_command(main))
