"""The checks of maps can fail: for maps that look at edges alone, or mark what does not count."""

import csv
from pathlib import Path

import keras
import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.explain import check
from skinml.explain.__main__ import main
from skinml.explain.check import CENTRE, OCCLUSION, RANDOM, STAGES, correlations, deletions
from skinml.explain.maps import METHODS, Explainer, Method
from tests.explain.conftest import Judged

# What the map of `blind` is: where a channel is, whatever the class and what was learned.
BLIND = Method(False, lambda features, gradient: features.sum(axis=-1))


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "NETWORKS", 3)
    monkeypatch.setattr(check, "SHARES", (0.0, 0.1, 0.3, 1.0))


def test_a_map_that_knows_nothing_of_the_head_fails(
    judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "blind", BLIND)
    before = [keras.ops.convert_to_numpy(weight) for weight in judged.explainer.network.weights]
    found = correlations(judged.explainer, judged.images[:16])
    assert found[STAGES[0], "blind"].mean == pytest.approx(1)
    assert not found[STAGES[0], "blind"].passes
    own = found[STAGES[0], "log-odds"]
    assert own.mean == pytest.approx(own.of_networks.mean()) and own.mean < 0.9
    # Whatever was shuffled is back.
    for weight, value in zip(judged.explainer.network.weights, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), value)


def test_what_the_network_looks_at_falls_first(judged: Judged) -> None:
    """A network of one filter, which answers to white, and pictures with a white corner.

    Whoever paints that over has done all there is to do: at once with its map or by asking, late
    from the middle outwards.
    """
    explainer: Explainer = judged.explainer
    before = explainer.network.get_weights()
    kernel, bias = np.zeros((7, 7, 3, 8), np.float32), np.zeros(8, np.float32)
    kernel[..., 0] = 1 / 147
    dense = np.zeros((8, 3), np.float32)
    dense[0, 1] = 200
    pixels = np.zeros((4, 224, 224, 3), np.uint8)
    pixels[:, :32, :32] = 255
    try:
        backbone = next(layer for layer in explainer.network.layers if hasattr(layer, "layers"))
        backbone.get_layer("conv").set_weights([kernel, bias])
        explainer.network.layers[-1].set_weights([dense, np.zeros(3, np.float32)])
        found = deletions(explainer, pixels)
    finally:
        explainer.network.set_weights(before)
    for order in ("log-odds", "grad-cam", OCCLUSION):
        assert found[order].low > 0.1, order
    assert found[CENTRE].gain < 0 and found[RANDOM].gain == 0
    curve = found["log-odds"].scores
    assert curve[0] > 0.9 and max(curve[1:]) < 0.4
    assert found["log-odds"].area == pytest.approx(np.trapezoid(curve, check.SHARES))


def test_a_command_without_a_place_for_its_results_is_refused() -> None:
    with pytest.raises(UserError, match="nothing asked for"):
        main(["models:/a/1"])
    with pytest.raises(UserError, match="expected a place in a folder that exists"):
        main(["models:/a/1", "--out", "nowhere/at/all"])


def test_the_command_writes_numbers_figures_and_the_page(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "check", tmp_path / "pictures.html"
    assert main([str(run_folder), "--out", str(out), "--page", str(page), "--count", "6"]) == 0
    told = capsys.readouterr().out
    assert told == (out / "report.md").read_text() and "not for clinical use" in told
    assert {path.name for path in out.iterdir()} == {
        "report.md", "randomisation.csv", "deletion.csv",
        *(f"{name}.{form}" for name in ("randomisation", "deletion") for form in ("png", "pdf")),
    }  # fmt: skip
    with (out / "randomisation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for method in METHODS:
        own = [float(row["rank_correlation"]) for row in rows
               if (row["stage"], row["method"]) == ("all weights", method)]  # fmt: skip
        assert f"{np.mean(own):+.2f}" in told
    assert page.read_text().count('"jpeg"') == 12
