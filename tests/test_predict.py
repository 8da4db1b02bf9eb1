"""Answers for picture files: every form says what it is, and no file stops the others."""

import csv
import io
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from skinml import predict
from skinml.base.errors import UserError
from skinml.config import Config
from skinml.data.images import ImageProblem, decode_image
from skinml.data.isic2017 import CLASSES
from skinml.evaluation.answering import Asked, Point, Way
from skinml.models.classifier import build_classifier
from skinml.predict import Loaded, predict_files, write_answers
from skinml.store import model_files

URI = "models:/skinml-demo-tiny@champion"


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A network of twelve weights that looks at the mean colour alone."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling2D()]
    dense = keras.layers.Dense(3, activation="softmax")
    return keras.Sequential([keras.Input((224, 224, 3), dtype="uint8"), *layers, dense])


@pytest.fixture
def pictures(toy_files: Path) -> list[Path]:
    return sorted(toy_files.rglob("*.jpg"))[:2]


@pytest.fixture
def broken(tmp_path: Path, pictures: list[Path]) -> dict[str, Path]:
    """Files that are no usable picture, by what is wrong with them."""
    paths = {
        "text": tmp_path / "text.jpg",
        "truncated": tmp_path / "truncated.jpg",
        "missing": tmp_path / "missing.jpg",
        "folder": tmp_path / "folder.jpg",
    }
    paths["text"].write_text("not a picture")
    paths["truncated"].write_bytes(pictures[0].read_bytes()[:1500])
    paths["folder"].mkdir()
    return paths


def written(answers: list[dict[str, Any]], form: str) -> str:
    out = io.StringIO()
    write_answers(answers, CLASSES, form, URI, out, of_the_demo=True)
    return out.getvalue()


def test_an_answer_has_the_label_and_the_score_of_each_class(
    model: keras.Model, pictures: list[Path]
) -> None:
    for answer, path in zip(predict_files(model, CLASSES, pictures), pictures, strict=True):
        expected = model.predict_on_batch(decode_image(path.read_bytes())[None])[0]
        assert answer["file"] == str(path)
        assert answer["label"] == CLASSES[int(np.argmax(expected))]
        assert [answer[name] for name in CLASSES] == pytest.approx(expected.tolist())


def test_unreadable_files_are_answered_with_the_reason_and_stop_nobody(
    model: keras.Model, pictures: list[Path], broken: dict[str, Path]
) -> None:
    paths = [*broken.values(), *pictures]
    answers = predict_files(model, CLASSES, paths)
    assert [answer["file"] for answer in answers] == [str(path) for path in paths]
    reasons = [answer["error"] for answer in answers[:4]]
    assert reasons[0] == "not a JPEG or PNG picture, nor AVIF, TIFF, BMP, HEIC or DICOM"
    assert reasons[1].startswith("damaged or truncated: ")
    assert reasons[2] == "No such file or directory"
    assert reasons[3].startswith("a folder without pictures; expected ")
    assert all("label" not in answer for answer in answers[:4])
    assert all("error" not in answer and answer["label"] for answer in answers[4:])


def test_every_unusable_file_is_told_before_a_model_is_loaded(
    pictures: list[Path], broken: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], model: keras.Model,
) -> None:  # fmt: skip
    told: list[str] = []

    def load(uri: str, *given: object) -> Loaded:
        told.extend(capsys.readouterr().err.splitlines())
        return Loaded(model, CLASSES)

    monkeypatch.setattr(predict, "load", load)
    assert predict.main([URI, *map(str, broken.values()), str(pictures[0])]) == 1
    assert [line.rpartition(": ")[0].partition(": ")[2].partition(": ")[0] for line in told] == [
        str(path) for path in broken.values()
    ]
    assert told[2].endswith("missing.jpg: No such file or directory")
    assert told[3].endswith("folder.jpg: a folder without pictures; expected pictures of skin "
                            "lesions, JPEG, PNG, AVIF, TIFF, BMP, HEIC or DICOM")  # fmt: skip
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setattr(predict, "load", lambda *given: pytest.fail("the model is loaded"))
    with pytest.raises(UserError, match=f"no picture to ask {URI} about; expected pictures"):
        predict.main([URI, *map(str, broken.values())])
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.splitlines() == told


def test_a_folder_stands_for_its_pictures_by_name(
    model: keras.Model, toy_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], pictures: list[Path],
) -> None:  # fmt: skip
    folder = tmp_path / "lesions"
    folder.mkdir()
    for name in ("b.jpg", "a.PNG", "c.jpeg"):
        (folder / name).write_bytes(pictures[0].read_bytes())
    (folder / "notes.txt").write_text("no picture")
    monkeypatch.setattr(predict, "load", lambda *given: Loaded(model, CLASSES))
    assert predict.main([URI, str(folder), str(pictures[1]), "--format", "json"]) == 0
    answers = json.loads(capsys.readouterr().out)["predictions"]
    expected = [*(str(folder / name) for name in ("a.PNG", "b.jpg", "c.jpeg")), str(pictures[1])]
    assert [answer["file"] for answer in answers] == expected


@pytest.mark.parametrize(
    ("uri", "instead"),
    [
        ("models:/skinml-mobilenet-serving@champion", "models:/skinml-mobilenet@champion"),
        ("models:/skinml-demo-tiny-serving/3", "models:/skinml-demo-tiny/3"),
        ("runs:/0123/serving", "runs:/0123/model"),
    ],
)
def test_the_serving_model_is_answered_with_the_name_to_use(uri: str, instead: str) -> None:
    with pytest.raises(UserError, match=f"Keras model of the same run: {instead}$"):
        predict.main([uri, "picture.jpg"])


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_out_is_a_file_with_what_would_have_been_printed(
    model: keras.Model, pictures: list[Path], form: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(predict, "load", lambda *given: Loaded(model, CLASSES))
    out = tmp_path / "answers"
    arguments = [URI, *map(str, pictures), "--format", form]
    assert predict.main(arguments) == predict.main([*arguments, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert out.read_text(encoding="utf-8") == captured.out
    assert captured.err == f"wrote {out}\n"


def test_out_is_whole_or_as_it_was(
    model: keras.Model, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before a model is loaded where it cannot be written; kept if writing fails."""
    monkeypatch.setattr(predict, "load", lambda *given: pytest.fail("the model is loaded"))
    for impossible in (tmp_path / "nowhere" / "answers", tmp_path):
        with pytest.raises(UserError, match="expected a file in a folder that exists"):
            predict.main([URI, str(pictures[0]), "--out", str(impossible)])
    out = tmp_path / "answers"
    out.write_text("earlier")

    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predict, "load", lambda *given: Loaded(model, CLASSES))
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        predict.main([URI, str(pictures[0]), "--out", str(out)])
    assert out.read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["answers"]


def test_on_a_terminal_something_is_shown_while_the_model_loads(
    model: keras.Model, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Terminal()
    loaded: list[str] = []

    def load(uri: str, *given: object) -> Loaded:
        while f"loading {URI}" not in shown.getvalue():
            time.sleep(0.01)
        loaded.append(uri)
        return Loaded(model, CLASSES)

    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(predict, "load", load)
    assert predict.main([URI, str(pictures[0])]) == 0
    assert loaded == [URI]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def with_maps(tiny_backbone: str) -> keras.Model:
    """A network that has a convolutional feature map."""
    keras.utils.set_random_seed(0)
    return build_classifier(Config(model=tiny_backbone, weights="none"), 3).model


def test_explain_draws_each_answer_and_changes_none(
    with_maps: keras.Model, pictures: list[Path], broken: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked: list[str] = []

    def load(uri: str, runtime: str, *given: object) -> Loaded:
        asked.append(runtime)
        return Loaded(with_maps, CLASSES)

    monkeypatch.setattr(predict, "load", load)
    twin = tmp_path / "twin" / pictures[0].name
    twin.parent.mkdir()
    twin.write_bytes(pictures[1].read_bytes())
    given = [URI, *map(str, [*pictures, twin, broken["text"]]), "--format", "json"]
    assert predict.main(given) == 1
    plain = capsys.readouterr().out
    folder = tmp_path / "maps"
    assert predict.main([*given, "--explain", str(folder)]) == 1
    captured = capsys.readouterr()
    assert captured.out == plain
    assert captured.err.splitlines()[-1] == f"skinml: maps of 3 answers are in {folder}"
    # Keras has the gradient, whatever files the model has.
    assert asked == ["auto", "keras"]
    first, second = (path.stem for path in pictures)
    assert {path.name for path in folder.iterdir()} == {
        f"{first}-map.png", f"{second}-map.png", f"{first}-map-2.png"
    }  # fmt: skip
    drawn = []
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert 1200 <= image.width <= 1600
            drawn.append(image.tobytes())
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model.tflite"], "an exported file has no gradient"),
        ([URI, "--runtime", "litert"], "expected a model's URI, and --runtime keras"),
        ([URI, "--explain", "no/such/place"], "expected a folder to write to"),
    ],
)
def test_maps_that_cannot_be_are_refused_before_a_model_is_loaded(
    words: list[str], told: str, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "load", lambda *given: pytest.fail("the model is loaded"))
    model, *options = words
    with pytest.raises(UserError, match=told):
        predict.main([model, str(pictures[0]), "--explain", "maps", *options])


def test_json_is_one_document_with_a_notice(model: keras.Model, pictures: list[Path]) -> None:
    answers = predict_files(model, CLASSES, pictures)
    document = json.loads(written(answers, "json"))
    assert document["model"] == URI
    assert "not for clinical use" in document["notice"]
    assert document["predictions"] == answers


def test_csv_has_one_row_a_file_each_with_the_notice(
    model: keras.Model, pictures: list[Path], broken: dict[str, Path]
) -> None:
    answers = predict_files(model, CLASSES, [broken["text"], *pictures])
    rows = list(csv.DictReader(io.StringIO(written(answers, "csv"))))
    assert list(rows[0]) == ["file", "label", *CLASSES, "error", "notice"]
    assert [row["file"] for row in rows] == [answer["file"] for answer in answers]
    assert all("not for clinical use" in row["notice"] for row in rows)
    assert rows[0]["error"] == "not a JPEG or PNG picture, nor AVIF, TIFF, BMP, HEIC or DICOM"
    assert rows[0]["label"] == rows[0]["melanoma"] == ""
    assert float(rows[1]["melanoma"]) == answers[1]["melanoma"]


def test_the_table_shows_scores_and_says_what_they_are(
    model: keras.Model, pictures: list[Path]
) -> None:
    answers = predict_files(model, CLASSES, pictures)
    text = " ".join(written(answers, "table").split())
    assert URI in text
    assert "not for clinical use" in text
    assert "Trained on generated demo images" in text
    for answer in answers:
        assert Path(answer["file"]).stem in re.sub(r"[^\w.]", "", text)
        assert f"{answer['melanoma']:.3f}" in text


def answer_of(scores: dict[str, float], way: Way) -> dict[str, Any]:
    classes = tuple(scores)
    file = {"file": f"{'a_name_without_any_place_to_break_it_' * 3}.jpg"}
    return file | way.answer(np.array(list(scores.values())), classes)


@pytest.mark.parametrize("by_point", [False, True], ids=["highest", "point"])
@pytest.mark.parametrize("count", [2, 4, 5, 8])
def test_in_80_columns_no_number_and_no_name_is_cut_off(
    count: int, by_point: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The width of a terminal, and of a pipe; up to eight classes, as ISIC 2019 has."""
    monkeypatch.setenv("COLUMNS", "80")
    names = ("actinic_keratosis", "basal_cell_carcinoma", "dermatofibroma", "melanoma", "nevus",
             "seborrheic_keratosis", "squamous_cell_carcinoma", "vascular_lesion")  # fmt: skip
    classes = (*names[: count - 1], "melanoma") if count < 5 else names[:count]
    scores = {name: (n + 1) / sum(range(1, count + 1)) for n, name in enumerate(classes)}
    way = BY_POINT if by_point else Way()
    answer = answer_of(scores, way)
    out = io.StringIO()
    write_answers([answer], classes, "table", URI, out, way=way)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    for score in scores.values():
        assert f"{score:.3f}" in text
    if by_point:
        assert f"{answer['margin']:+.3f}" in text
    # What folds is read cell by cell, from above.
    cells = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    file, label = ("".join(row[n].strip() for row in cells) for n in (0, 1))
    assert file == answer["file"]
    assert label.replace(" ", "") == answer["label"].replace("_", "")
    if count > 4:
        told = " ".join(row[2].strip() for row in cells).split(", ")
        assert [entry.split()[-1] for entry in told] == [
            f"{score:.3f}" for score in sorted(scores.values(), reverse=True)
        ]


@pytest.mark.parametrize("option", ["", "--out", "--explain"])
def test_a_name_that_is_too_long_is_one_line(
    option: str, pictures: list[Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """As is a place that one may not look into: the same calls fail."""
    monkeypatch.setattr(predict, "load", lambda *given: pytest.fail("the model is loaded"))
    long = "a" * 300
    given = [str(pictures[0]), option, long] if option else [long]
    with pytest.raises(UserError) as caught:
        predict.main([URI, *given])
    told = f"{caught.value}\n{capsys.readouterr().err}"
    assert f"{long}: File name too long" in told


def test_a_folder_that_nobody_may_look_into_is_told_as_such(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not one without pictures."""

    def closed(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", closed)
    assert predict.find_pictures([tmp_path, pictures[0]]) == [tmp_path, pictures[0]]
    with pytest.raises(ImageProblem, match=r"^Permission denied$"):
        predict.read_picture(tmp_path)


def test_a_model_of_the_demo_answers_about_generated_pictures_alone(
    model: keras.Model, pictures: list[Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A score for a patient's skin would be taken for an answer, whatever is written beside it."""
    photo = tmp_path / "lesion.jpg"
    Image.fromarray(decode_image(pictures[0].read_bytes())).save(photo)
    refused, answered = predict_files(model, CLASSES, [photo, pictures[0]], of_the_demo=True)
    assert set(refused) == {"file", "error"} and answered["label"] in CLASSES
    monkeypatch.setattr(predict, "load", lambda *given: pytest.fail("loaded"))
    with pytest.raises(UserError, match="no picture to ask"):
        predict.main([URI, str(photo)])
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line == f"skinml: {photo}: {refused['error']}"
    assert line.partition(": not ")[2].startswith("a generated picture, and this model has seen no")


@pytest.mark.parametrize(("data", "expected"), [("demo", True), ("isic2017", False)])
def test_whatever_its_address_a_model_says_what_it_was_trained_on(
    data: str, expected: bool, tmp_path: Path
) -> None:
    from mlflow.models import Model

    Model(metadata={"data": data}).save(str(tmp_path / "MLmodel"))
    said = model_files.read_description(tmp_path)
    assert model_files.is_of_the_demo(said) is expected


def test_a_file_s_name_is_not_taken_for_markup(
    model: keras.Model, pictures: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "[red]a[x].jpg"
    path.write_bytes(pictures[0].read_bytes())
    assert "[red]a[x].jpg" in written(predict_files(model, CLASSES, [path]), "table")


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_the_command_names_unreadable_files_and_exits_with_one(
    model: keras.Model,
    pictures: list[Path],
    broken: dict[str, Path],
    form: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(predict, "load", lambda *given: Loaded(model, CLASSES))
    arguments = [URI, str(broken["text"]), str(pictures[0]), "--format", form]
    assert predict.main(arguments) == 1
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert line.startswith(f"skinml: {broken['text']}: not a JPEG or PNG picture, nor AVIF, TIFF")
    assert "not for clinical use" in captured.out
    assert pictures[0].stem in captured.out
    assert predict.main([URI, str(pictures[0]), "--format", form]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("uri", [URI, "models:/nothing/1", "runs:/0123/model", "no/such/folder"])
def test_a_uri_that_leads_nowhere_is_one_line(store: object, uri: str) -> None:
    with pytest.raises(UserError) as caught:
        predict.load(uri)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{uri}: cannot load this model from sqlite:///")


def test_csv_holds_no_cell_that_a_spreadsheet_computes() -> None:
    answers: list[dict[str, Any]] = [
        {"file": "=1+1.png", "error": "@damaged"},
        {"file": "a.png", "melanoma": -0.0},
    ]
    odd, plain = csv.DictReader(io.StringIO(written(answers, "csv")))
    assert (odd["file"], odd["error"]) == ("'=1+1.png", "'@damaged")
    assert (plain["file"], plain["melanoma"]) == ("a.png", "-0.0")


BY_POINT = Way("youden", "melanoma", Point(0.2, 0.1, 0.6, 0.75, 0.8))


def test_by_an_operating_point_every_form_says_how_near_the_score_is(
    model: keras.Model, pictures: list[Path], broken: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given: list[Any] = []

    def load(*arguments: Any) -> Loaded:
        given.append(arguments[-1])
        return Loaded(model, CLASSES, way=BY_POINT)

    monkeypatch.setattr(predict, "load", load)
    said: dict[str, str] = {}
    for form in ("json", "csv", "table"):
        predict.main([URI, *map(str, [broken["text"], *pictures]), "--format", form,
                      "--operating_point", "youden", "--calibrated"])  # fmt: skip
        said[form] = capsys.readouterr().out
    assert given == [Asked("youden", calibrated=True)] * 3
    document = json.loads(said["json"])
    assert document["operating_point"] == {
        "name": "youden", "class": "melanoma", "threshold": 0.2, "low": 0.1, "high": 0.6,
        "test_sensitivity": 0.75, "test_specificity": 0.8,
    }  # fmt: skip
    refused, *answers = document["predictions"]
    assert set(refused) == {"file", "error"}
    rows = list(csv.DictReader(io.StringIO(said["csv"])))
    assert list(rows[0]) == ["file", "label", *CLASSES, *BY_POINT.columns, "error", "notice"]
    text = " ".join(said["table"].split())
    for answer, row in zip(answers, rows[1:], strict=True):
        assert answer["label"] == row["label"] == "melanoma"
        assert answer["margin"] == pytest.approx(answer["melanoma"] - 0.2)
        assert float(row["margin"]) == answer["margin"] and row["near"] == "True"
        assert f"near {answer['margin']:+.3f}" in text
    assert "On the test images: sensitivity 0.750" in text


def test_a_wrong_operating_point_is_told_before_a_model_is_loaded(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "load", lambda *given: pytest.fail("the model is loaded"))
    with pytest.raises(UserError, match=r"^operating_point=.recall:1.: expected sensitivity:"):
        predict.main([URI, str(pictures[0]), "--operating_point", "recall:1"])
