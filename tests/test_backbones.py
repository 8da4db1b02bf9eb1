"""The table of backbones says the truth about `keras.applications`. No network is built here."""

import sys

import keras
import numpy as np
import pytest

from skinml.backbones import BACKBONES, PAPER_BACKBONES

every_backbone = pytest.mark.parametrize("name", BACKBONES)


@every_backbone
def test_the_constructor_exists(name: str) -> None:
    assert callable(getattr(keras.applications, BACKBONES[name].application, None))


@every_backbone
def test_scale_and_offset_are_the_preprocessing_that_the_weights_were_trained_with(
    name: str,
) -> None:
    row = BACKBONES[name]
    module = sys.modules[getattr(keras.applications, row.application).__module__]
    pixels = np.linspace(0, 255, 4 * 4 * 3, dtype=np.float32).reshape(1, 4, 4, 3)
    expected = np.asarray(module.preprocess_input(pixels.copy()))
    if row.scale is None or row.offset is None:
        assert row.scale is row.offset
        np.testing.assert_array_equal(expected, pixels)
    else:
        given = pixels * np.asarray(row.scale) + np.asarray(row.offset)
        np.testing.assert_allclose(given, expected, atol=1e-5)


def test_the_paper_s_three_networks_have_a_row() -> None:
    assert PAPER_BACKBONES == ("mobilenet", "mobilenetv2", "nasnetmobile")
    assert set(PAPER_BACKBONES) <= set(BACKBONES)


@every_backbone
def test_published_cost_is_in_millions_and_megabytes(name: str) -> None:
    row = BACKBONES[name]
    # float32 weights take 4 MB a million parameters, and a file somewhat more.
    assert 3.5 <= row.published_size / row.published_parameters <= 6
