"""The same pictures by several networks: the right ones are chosen, and no odd page is believed."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.compare.__main__ import main
from skinml.compare.analysis import analyse
from skinml.compare.comparison import Comparison
from skinml.compare.pictures import same_pictures
from skinml.compare.reading import runs_in_folder
from skinml.compare.selection import select
from skinml.evaluation.predictions import Predictions
from skinml.explain.browser import make_page
from skinml.explain.reading import read_page
from tests.compare.conftest import made_up, write_run

MODELS = ("mobilenet", "mobilenetv2", "nasnetmobile")
IMAGES = (
    np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8).repeat(28, 1).repeat(28, 2)
)
ROWS = np.array([0, 1, 0, 2])


def page_of(table: Predictions, seed: int) -> str:
    """A page of four of the table's pictures: the first two and the last two."""
    some = np.array([0, 1, -2, -1])
    part = Predictions(table.image_ids[some], table.labels[some], table.scores[some], table.classes)
    maps = np.random.default_rng(seed).integers(0, 256, (4, 3, 7, 7), np.uint8)
    return make_page("a run", part, IMAGES, np.arange(4), maps)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: about the first picture all are right, the second divides them most."""
    path = tmp_path_factory.mktemp("runs")
    for number, model in enumerate(MODELS):
        table = made_up(1, [number])
        table.scores[[0, 1, -2, -1]] = (
            [0.8, 0.1, 0.1],
            [0.3, 0.4, 0.3],
            [0.1, 0.1, 0.8],
            [0.6, 0.3, 0.1],
        )
        if number == 0:
            table.scores[[1, -1]] = [0.9, 0.05, 0.05], [0.3, 0.3, 0.4]
        own = write_run(path, table, model=model)
        (own / "pictures.html").write_text(page_of(table, number))
    return path


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    return analyse(select(runs_in_folder(folder)), 50)


def test_the_pictures_are_those_that_divide_the_networks_most(comparison: Comparison) -> None:
    ids = comparison.rows[0].runs[0].predictions.image_ids
    shown = same_pictures(comparison, 3)
    # One of three is right about both; the scores of the second lie further apart.
    assert [one.image_id for one in shown] == [ids[1], ids[-1], ids[0]]
    answers = {cell.model: answer for cell, answer in shown[0].answers.items()}
    assert {model: answer.label for model, answer in answers.items()} == {
        "mobilenet": "melanoma", "mobilenetv2": "nevus", "nasnetmobile": "nevus",
    }  # fmt: skip
    assert answers["mobilenet"].score == 0.9 and shown[0].label == "melanoma"
    maps = np.random.default_rng(0).integers(0, 256, (4, 3, 7, 7), np.uint8)
    np.testing.assert_array_equal(answers["mobilenet"].map, maps[1, 0])
    # A JPEG of plain squares is nearly the picture itself.
    assert np.abs(shown[0].pixels.astype(int) - IMAGES[1]).mean() < 12


def test_the_command_draws_them_without_tensorflow(folder: Path, tmp_path: Path) -> None:
    """Each network's name and answers stand there, in the report and its figure."""
    code = (
        "import sys; from skinml.compare.__main__ import main; "
        "main(sys.argv[1:]); assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, f"--from={folder}", "--grid=none", "--pictures=2"]
    done = subprocess.run([*command, f"--out={tmp_path}/out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "out/report.md").read_text()
    assert "## Where they look" in report and "figures/pictures.png" in report
    assert (tmp_path / "out/figures/pictures.png").stat().st_size > 20_000


def test_without_being_asked_there_is_no_picture_of_a_person(folder: Path, tmp_path: Path) -> None:
    assert main([f"--from={folder}", "--grid=none", f"--out={tmp_path}/out"]) == 0
    assert not (tmp_path / "out/figures/pictures.png").exists()
    assert not list((tmp_path / "out").rglob("pictures.html"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pictures=0", "--out=x"], "pictures=0: expected 1 to 8"),
        (["--pictures"], "of effect on HTML and on a folder alone"),
        (["--pictures", "--format=csv"], "of effect on HTML and on a folder alone"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    folder: Path, options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        main([f"--from={folder}", "--grid=none", *options])


def test_runs_without_pages_are_named(tmp_path: Path) -> None:
    for number, model in enumerate(MODELS[:2]):
        write_run(tmp_path, made_up(1, [number]), model=model)
    with pytest.raises(UserError, match="0 of 2 cells have a page of pictures; expected two"):
        main([f"--from={tmp_path}", "--grid=none", "--pictures", "--format=html"])


def changed(page: str, entry: dict[str, object] | None = None, **frame: object) -> str:
    """A page whose first picture, or whose frame, has other values."""
    head, begin, rest = page.partition('id="data">')
    data, end, tail = rest.partition("</script>")
    found = json.loads(data)
    found = found | frame
    found["pictures"][0] |= entry or {}
    found["pictures"] = found.pop("pictures")  # Last, as in a page.
    return head + begin + json.dumps(found, separators=(",", ":")) + end + tail


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda page: "", "no pictures in it"),
        (lambda page: page[: len(page) // 2], "no pictures in it"),
        (lambda page: changed(page, {"true": 3}), "true: expected the number of a class, up to 2"),
        (lambda page: changed(page, {"true": True}), "true: expected the number of a class"),
        (lambda page: changed(page, {"scores": [0.5, 0.5]}), "scores: expected 3 numbers"),
        (lambda page: changed(page, {"scores": [0.5, 0.5, float("nan")]}), "scores: expected 3"),
        (lambda page: changed(page, {"scores": 7}), "TypeError"),
        (lambda page: changed(page, {"maps": "AAAA"}), "reshape"),
        (lambda page: changed(page, {"jpeg": "?"}), "Error"),
        (lambda page: changed(page, {"id": "x" * 2000}), "id: expected the name of a picture"),
        (lambda page: changed(page, {"id": "x" * 500_000}), "JSONDecodeError"),
        (lambda page: changed(page, shape=[7, 10**9]), "shape: expected two numbers"),
        (lambda page: changed(page, classes=["a"]), "classes: expected two names"),
        (lambda page: changed(page, classes="x" * 300_000), "letters before its pictures"),
        (lambda page: page.replace('"pictures":[', '"pictures":[' + "[" * 50_000), "Error"),
    ],
)  # fmt: skip
def test_what_is_no_page_is_one_line(make: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "pictures.html"
    assert callable(make)
    path.write_text(make(page_of(made_up(1, [0]), 0)))
    with pytest.raises(UserError, match=f"not the page of a run's pictures .*{message}"):
        read_page(path)


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    page = page_of(made_up(1, [0]), 0)
    path = tmp_path / "pictures.html"
    path.write_text(changed(page, {"jpeg": base64.b64encode(b"GIF89a").decode()}))
    first = next(iter(read_page(path).pictures.values()))
    with pytest.raises(UserError, match="a picture of a page cannot be read"):
        _ = first.pixels
