"""The search for a way to fine-tune: what is cut off and kept is the network's own."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import finetuning
from benchmarks.finetuning import (
    ALL,
    Task,
    Trial,
    config_of,
    fine_tune,
    folds_of,
    kept_maps,
    network_of,
    scores_of,
    summary,
)
from benchmarks.recipe import known_rows
from skinml.config import Config
from skinml.data.pipeline import SYMMETRIES, transform
from skinml.data.prepare import open_data


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: the demo set is generated once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config(tiny_backbone: str, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    import keras

    monkeypatch.setenv("SKINML_CACHE_DIR", str(cache_dir))
    plain = Config(model=tiny_backbone, weights=str(cache_dir / "w.weights.h5"), data="demo")
    # A network of random weights is another one each time that it is built.
    keras.utils.set_random_seed(0)
    keras.applications.Tiny(None, False, (224, 224, 3)).save_weights(plain.weights)
    return plain


def a_head(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return rng.normal(0, 20, (8, 3)).astype(np.float32), np.zeros(3, np.float32)


def test_the_part_behind_a_layer_answers_as_the_whole_network(
    config: Config, rng: np.random.Generator
) -> None:
    chosen, head = config_of(Trial(after="conv"), config), a_head(rng)
    maps, data = kept_maps(chosen, "conv"), open_data("demo", "auto")
    rows = known_rows(data)
    places = np.arange(3)
    of_maps = scores_of(
        network_of(chosen, "conv", head).model,
        lambda n, symmetries: np.asarray(maps[n * SYMMETRIES + symmetries], np.float32),
        places,
    )
    of_pixels = scores_of(
        network_of(chosen, ALL, head).model,
        lambda n, symmetries: transform(data.images[rows[n]], symmetries),
        places,
    )
    assert of_maps.shape == (3, SYMMETRIES, 3)
    # What half precision changes is small beside what another view of the picture does.
    assert np.abs(of_maps - of_pixels).max() < 0.1 * np.ptp(of_pixels, axis=1).max()


@pytest.mark.parametrize("after", ["conv", ALL])
def test_a_trial_begins_with_the_head_and_moves_on(
    config: Config, rng: np.random.Generator, after: str
) -> None:
    head = a_head(rng)

    def rows(trial: Trial) -> list[dict[str, str]]:
        return fine_tune(Task(trial, 1, head, config))

    [alone] = rows(Trial(epochs=0))
    still, _ = rows(Trial(after=after, epochs=1, learning_rate=1e-12))
    moved, half = rows(Trial(after=after, epochs=1, learning_rate=1e-2))
    assert alone["challenge_auc"] == still["challenge_auc"] != moved["challenge_auc"]
    assert half["trial"] == f"{moved['trial']} blend=0.5"
    assert {row["fold"] for row in (alone, still, moved, half)} == {"1"}


def test_no_image_of_the_test_part_is_in_a_fold_and_none_is_left_out(config: Config) -> None:
    data = open_data("demo", "auto")
    assert not (data.official_parts[known_rows(data)] == "test").any()
    validated = np.concatenate([validation for _, validation in folds_of(data)])
    assert sorted(validated) == list(range(len(known_rows(data))))


def test_a_trial_is_compared_with_the_head_on_the_same_folds() -> None:
    def row(trial: Trial, fold: int, auc: float) -> dict[str, str]:
        figures = dict.fromkeys((*finetuning.FIGURES, "one_view", "seconds"), f"{auc:.4f}")
        return {"trial": str(trial), "fold": str(fold), **figures}

    alone, other = Trial(epochs=0), Trial.of("after=conv,epochs=3,learning_rate=3e-4")
    rows = [row(alone, fold, 0.5 + fold / 10) for fold in range(5)]
    *_, line = summary([*rows, row(other, 3, 0.9)]).splitlines()
    assert "after=conv epochs=3 learning_rate=0.0003" in line
    assert "+0.1000" in line and "±" not in line
