"""`python -m skinml.export`: a file that answers as the Keras model does, or none at all."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.data.images import IMAGE_SIZE
from skinml.data.isic2017 import CLASSES
from skinml.data.prepared import PreparedSet
from skinml.export import __main__ as command
from skinml.export import made
from skinml.export.__main__ import main
from skinml.export.convert import convert
from skinml.export.source import open_pictures, open_source
from skinml.models.classifier import with_views
from skinml.models.exported import FILES, open_exported, read_about
from skinml.models.saved import load_saved

pytestmark = pytest.mark.slow


def scores(path: Path, images: np.ndarray) -> np.ndarray:
    return open_exported(path, len(CLASSES)).predict_on_batch(images)


def check(path: Path, run_folder: Path, toy_set: PreparedSet) -> None:
    """A file that answers as its Keras model does, and says what it is."""
    expected = load_saved(run_folder / "model.keras").predict(toy_set.images[:], verbose=0)
    assert expected.std(axis=0).min() > 0.05, "the network looks at its pictures"
    np.testing.assert_allclose(scores(path, toy_set.images), expected, atol=1e-4)
    about = read_about(path)
    assert about["classes"] == list(CLASSES)
    assert "not for clinical use" in about["notice"]
    assert about["verified"]["images"] == 9 and about["precision"] == "float32"


def test_a_litert_file_answers_as_the_keras_model_does(
    exported: Path, run_folder: Path, toy_set: PreparedSet
) -> None:
    check(exported, run_folder, toy_set)
    assert [path.name for path in exported.parent.iterdir()] == ["model.tflite"]
    assert len(list(exported.parents[1].iterdir())) <= 2, "nothing but the cache lies beside it"


def test_an_onnx_file_does_so_too(
    run_folder: Path, toy_set: PreparedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tf2onnx")
    assert main([str(run_folder), "--to", "onnx", "--out", str(tmp_path / "out")]) == 0
    check(tmp_path / "out" / FILES["onnx"], run_folder, toy_set)
    shown = capsys.readouterr().out
    assert "9 validation images" in shown and "same answer to 100.0% of them" in shown


def test_what_a_layer_was_given_becomes_no_input_of_an_onnx_file(
    toy_set: PreparedSet, tmp_path: Path
) -> None:
    """EfficientNet has the mean and the variance of its pixels so, and not as weights."""
    pytest.importorskip("tf2onnx")
    import keras

    pixels = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8")
    scaled = keras.layers.Normalization(mean=[90.0, 120.0, 150.0], variance=[9.0, 16.0, 25.0])
    pooled = keras.layers.GlobalAveragePooling2D()(scaled(keras.ops.cast(pixels, "float32")))
    network = keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(pooled))
    path = tmp_path / FILES["onnx"]
    path.write_bytes(convert(network, "onnx", "float32"))
    images = toy_set.images[:4]
    np.testing.assert_allclose(scores(path, images), network.predict(images, verbose=0), atol=1e-5)


def test_a_litert_file_says_what_it_is_to_any_program(exported: Path, run_folder: Path) -> None:
    """TensorFlow Lite's own convention: a ZIP archive at the end of the file."""
    with zipfile.ZipFile(exported) as archive:
        assert archive.read("labels.txt").decode().split() == list(CLASSES)
        assert json.loads(archive.read("skinml.json"))["model"] == run_folder.name


def test_eight_bits_are_found_on_training_pictures_alone(
    run_folder: Path, exported: Path, toy_set: PreparedSet, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    given = []

    def watched(model: object, to: str, precision: str, calibration: np.ndarray) -> bytes:
        given.append(calibration)
        return convert(model, to, precision, calibration)

    monkeypatch.setattr(made, "convert", watched)
    out = tmp_path / "out"
    main([str(run_folder), "--precision", "int8", "--out", str(out), "--allow-loss"])
    seen = {image.tobytes() for image in given[0]}
    training = {image.tobytes() for image in toy_set.images[toy_set.official_parts == "train"]}
    assert seen == training
    answers = [scores(path, toy_set.images) for path in (out / "model.tflite", exported)]
    off = np.abs(answers[0] - answers[1])
    assert 0 < off.max() < 0.2
    steps = 256 * answers[0]
    assert np.abs(steps - steps.round()).max() > 0.01, "the softmax is none of 8 bits"


def test_of_eight_views_the_mean_is_none_of_8_bits(
    run_folder: Path, toy_set: PreparedSet, tmp_path: Path
) -> None:
    """In steps of 1/256 pictures tie, and what is rare is exactly 0."""
    network = with_views(load_saved(run_folder / "model.keras"), 8)
    path = tmp_path / FILES["litert"]
    path.write_bytes(convert(network, "litert", "int8", toy_set.images[:]))
    found = scores(path, toy_set.images)
    assert np.abs(found - network.predict(toy_set.images[:], verbose=0)).max() < 0.2
    steps = 256 * found
    assert np.abs(steps - steps.round()).max() > 0.01


def test_a_loss_is_refused_with_its_figures_and_nothing_is_written(
    run_folder: Path, converted: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made.Verification, "loses_more_than", lambda self, loss: True)
    out = tmp_path / "out"
    arguments = [str(run_folder), "--precision", "float16", "--out", str(out)]
    few = "9 validation images are too few .* use --precision float32, or --allow"
    with pytest.raises(UserError, match=few):
        main(arguments)
    assert list(tmp_path.iterdir()) == []
    assert main([*arguments, "--allow-loss"]) == 0
    warning = read_about(out / "model.tflite")["warning"]
    assert "--allow-loss: too few validation images" in warning


def test_a_place_that_is_taken_is_refused_before_anything_is_done(
    run_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(UserError, match="expected a new folder, or an empty one"):
        main([str(run_folder), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "mine").read_text() == "kept"


def test_a_place_that_cannot_be_looked_at_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "open_source", lambda uri: pytest.fail("the model is fetched"))
    with pytest.raises(UserError, match="File name too long; expected a new folder"):
        main(["models:/tiny/1", "--out", "a" * 300])


def test_other_pictures_than_the_run_s_are_refused(run_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run_folder, other)
    said = json.loads((other / "run.json").read_text())
    said["params"]["data_digest"] = "0123456789abcdef"
    (other / "run.json").write_text(json.dumps(said))
    with open_source(str(other)) as source, pytest.raises(UserError, match="expected the same"):
        open_pictures(source)
