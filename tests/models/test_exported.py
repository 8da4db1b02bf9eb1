"""Exported files: how they are asked, and those that say they are some and are not."""

import json
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.data.isic2017 import CLASSES
from skinml.evaluation.answering import Chosen, Point
from skinml.models.exported import Pool, open_exported, read_about, with_about
from skinml.predict import load, main


@pytest.mark.parametrize("name", ["model.tflite", "model.onnx"])
def test_a_file_that_is_no_network_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    if name.endswith("onnx"):
        pytest.importorskip("onnxruntime")
    (tmp_path / name).write_bytes(b"no network at all")
    for what in (partial(open_exported, classes=3), read_about):
        with pytest.raises(UserError) as caught:
            what(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)


def test_without_what_reads_onnx_a_file_is_not_called_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "model.onnx").write_bytes(b"a network")
    with pytest.raises(UserError, match=r"onnx is not installed.* expected `pip install") as caught:
        read_about(tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)


def test_other_endings_are_no_exported_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected an exported file, model\.tflite or model\.onnx"):
        Pool(tmp_path / "model.keras", classes=3, callers=1)


def test_what_a_file_is_stands_behind_its_content(tmp_path: Path) -> None:
    """Written twice it is the same file: no date is in it."""
    about = {"classes": ["melanoma", "nevus", "seborrheic_keratosis"], "notice": "not for skin"}
    content = with_about(b"network", "litert", about)
    assert content.startswith(b"network") and content == with_about(b"network", "litert", about)
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    assert read_about(path) == about
    assert zipfile.ZipFile(path).testzip() is None


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        (["melanoma"], "expected at least 2"),
        (["nevus", "melanoma"], "expected each once, in alphabetical order"),
        (["melanoma", "nevus\x1b[2J"], "none unprintable"),
    ],
)
def test_classes_that_no_set_may_have_are_refused(
    classes: list[str], problem: str, tmp_path: Path
) -> None:
    """A file has the classes of the set that trained it, any that a set may have."""
    path = tmp_path / "model.tflite"
    path.write_bytes(with_about(b"network", "litert", {"classes": classes}))
    with pytest.raises(UserError, match=f"does not say what it is .*{problem}"):
        read_about(path)


def small_network(folder: Path, scores: int = 3, **about: object) -> Path:
    """An ONNX file that scores the mean colour, made without TensorFlow; its answer is `answer`."""
    onnx = pytest.importorskip("onnx")
    node, kind = onnx.helper.make_node, onnx.TensorProto
    weights = np.eye(3, scores, dtype=np.float32) / 64
    graph = onnx.helper.make_graph(
        [
            node("Cast", ["image"], ["pixels"], to=kind.FLOAT),
            node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
            node("MatMul", ["colour", "weights"], ["logits"]),
            node("Softmax", ["logits"], ["scores"]),
        ],
        "small",
        [onnx.helper.make_tensor_value_info("image", kind.UINT8, (1, 224, 224, 3))],
        [onnx.helper.make_tensor_value_info("scores", kind.FLOAT, (1, scores))],
        [
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(np.array([1, 2]), "axes"),
        ],
    )
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)
    said = {"classes": list(CLASSES), "data": "isic2017", **about}
    path = folder / "model.onnx"
    path.write_bytes(with_about(model.SerializeToString(), "onnx", said))
    return path


def answer(image: np.ndarray) -> np.ndarray:
    shares = np.exp(image.reshape(-1, 3).mean(axis=0) / 64)
    return shares / shares.sum()


def test_a_file_answers_several_callers_at_once(tmp_path: Path, rng: np.random.Generator) -> None:
    colours = rng.integers(0, 256, (24, 1, 1, 3), dtype=np.uint8)
    images = np.broadcast_to(colours, (24, 224, 224, 3))
    pool = Pool(small_network(tmp_path), classes=3, callers=3)
    with ThreadPoolExecutor(6) as callers:
        found = list(callers.map(lambda image: pool.predict_on_batch(image[None])[0], images))
    np.testing.assert_allclose(found, [answer(image) for image in images], rtol=1e-5)
    np.testing.assert_array_equal(pool.predict_on_batch(images), found)


def test_a_file_with_another_number_of_scores_than_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected one picture of 224×224 RGB pixels, uint8, and 3"):
        load(str(small_network(tmp_path, scores=2)))


def test_predict_asks_an_exported_file_by_its_path(
    tmp_path: Path, toy_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = sorted(map(str, toy_files.rglob("*.jpg")))[:3]
    path = small_network(tmp_path)
    assert main([str(path), *pictures, "--format", "json"]) == 0
    answers = json.loads(capsys.readouterr().out)["predictions"]
    assert [one["file"] for one in answers] == pictures
    assert all(sum(one[name] for name in CLASSES) == pytest.approx(1) for one in answers)
    with pytest.raises(UserError, match="is for onnx; expected onnx or auto"):
        main([str(path), *pictures, "--runtime", "litert"])


def test_a_file_of_the_demo_answers_about_generated_pictures_alone(
    tmp_path: Path, toy_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    photo = tmp_path / "lesion.png"
    Image.new("RGB", (300, 200), "teal").save(photo)
    generated = min(toy_files.rglob("*.jpg"))
    path = small_network(tmp_path, data="demo")
    assert main([str(path), str(photo), str(generated), "--format", "json"]) == 1
    refused, answered = json.loads(capsys.readouterr().out)["predictions"]
    assert "not a generated picture" in refused["error"] and answered["label"] in CLASSES


def test_an_exported_file_answers_by_its_operating_point(
    tmp_path: Path, toy_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(min(toy_files.rglob("*.jpg")))
    plain = Chosen("melanoma", {"youden": Point(0.01, 0.005, 0.02)})
    path = small_network(tmp_path, **plain.metadata())
    assert main([str(path), picture, "--format", "json", "--operating-point", "youden"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["operating_point"]["threshold"] == 0.01
    [answer] = said["predictions"]
    assert answer["label"] == "melanoma" and answer["near"] is False
    assert answer["margin"] == pytest.approx(answer["melanoma"] - 0.01)
    with pytest.raises(UserError, match="expected one of these, or a model that was trained with "):
        main([str(path), picture, "--operating-point", "sensitivity:0.5"])
    with pytest.raises(UserError, match=f"^{path}: has no temperature, .*leave out --calibrated$"):
        main([str(path), picture, "--calibrated"])
