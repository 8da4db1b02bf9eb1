"""What a run leaves of its maps; a trained network is never lost for want of them."""

from pathlib import Path

import keras
import numpy as np
import pytest

from skinml.explain.of_run import explain_run
from skinml.tracking.folder import RunFolder
from tests.explain.conftest import Judged


def test_the_maps_are_of_what_was_predicted(judged: Judged, finished_folder: RunFolder) -> None:
    description = finished_folder.read_description()
    table, images, explainer, maps = judged
    maps_of = explain_run(
        finished_folder, description, table, images, judged.rows, explainer.network
    )
    assert maps_of is not None
    some = np.array([7, 3])
    np.testing.assert_array_equal(maps_of(some), maps[some, table.predicted[some]])
    assert (finished_folder.path / "pictures.html").read_text().count('"jpeg"') == len(images)


def test_what_fails_is_told_and_leaves_nothing(
    judged: Judged, finished_folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(finished_folder.path, "pictures.html")
    page.write_text("of an earlier process")
    layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    other = keras.Sequential([keras.Input((224, 224, 3)), *layers])
    description = finished_folder.read_description()
    table, images = judged.table, judged.images
    assert explain_run(finished_folder, description, table, images, judged.rows, other) is None
    assert not page.exists()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("skinml: warning: the run has no maps: ")
