"""A sweep's plan: which configurations, what they repeat, how long they take. No process starts."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from skinml.base.errors import UserError
from skinml.config import Config
from skinml.data.prepare import data_folder
from skinml.data.prepared import PreparedSet
from skinml.doctor import examine
from skinml.models.weights import check_weights
from skinml.run.description import identity
from skinml.sweep.cells import (
    Cell,
    CellState,
    grid_configs,
    make_cells,
    settings_of,
    sweep_key,
    sweep_left,
    time_left,
    values_of,
)
from skinml.training.history import Row

AXES = {
    "model": ["mobilenet", "mobilenetv2"],
    "batch_size": ["16", "32"],
    "seed": ["0", "1"],
    "split_seed": ["5"],
}
COMMON = {"weights": "none", "protocol": "challenge", "data": "demo"}


# The grid


def test_the_grid_has_every_combination_once_models_slowest() -> None:
    configs = grid_configs(AXES, COMMON, {})
    expected = list(product(["mobilenet", "mobilenetv2"], [16, 32], [0, 1], [5]))
    assert [(c.model, c.batch_size, c.seed, c.split_seed) for c in configs] == expected
    assert {c.weights for c in configs} == {"none"}


def test_a_setting_is_for_its_model_alone_and_wins() -> None:
    """MobileNetV2 from a file with 30 + 3 epochs, the others from random weights with 0 + 3."""
    weights = Path("v2.weights.h5")
    weights.write_bytes(b"weights")
    settings = settings_of(
        [f"mobilenetv2.weights={weights} mobilenetv2.epochs_frozen=30"], AXES["model"]
    )
    common = COMMON | {"epochs_frozen": "auto", "epochs_finetune": "3"}
    resolved = [config.resolved() for config in grid_configs(AXES, common, settings)]
    assert {(c.model, c.weights, c.epochs_frozen, c.epochs_finetune) for c in resolved} == {
        ("mobilenet", "none", 0, 3),
        ("mobilenetv2", str(weights), 30, 3),
    }


def test_an_operating_point_that_is_none_is_told_once() -> None:
    with pytest.raises(UserError, match=r"^operating_point='recall': expected sensitivity:NUMBER"):
        grid_configs(AXES, COMMON | {"operating_point": "recall"}, {})


@pytest.mark.parametrize(
    "texts",
    [
        ["mobilenet.dropout=0.5", "mobilenetv2.dense_units=64,32,16", "mobilenetv2.seed_file=a b"],
        ["mobilenet.dropout=0.5 mobilenetv2.dense_units=64,32,16 mobilenetv2.seed_file=a b"],
        [" mobilenet.dropout=0.5,mobilenetv2.dense_units=64,32,16, mobilenetv2.seed_file=a b "],
    ],
)
def test_settings_in_one_text_or_several_keep_commas_and_spaces_of_values(texts: list[str]) -> None:
    texts = [text.replace("seed_file", "weights") for text in texts]
    assert settings_of(texts, AXES["model"]) == {
        "mobilenet": {"dropout": "0.5"},
        "mobilenetv2": {"dense_units": "64,32,16", "weights": "a b"},
    }


def test_no_setting_is_an_empty_text() -> None:
    """As `mlflow run` passes it."""
    assert settings_of([""], AXES["model"]) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nasnetmobile.dropout=0", "a model of the sweep (mobilenet, mobilenetv2)"),
        ("mobilenet.dropout", "expected model.option=value"),
        ("dropout=0.5", "expected model.option=value"),
        ("mobilenet.batch_size=8", "expected one of the options recipe"),
        ("mobilenet.data=demo", "expected one of the options"),
        ("mobilenet.output_dir=x", "expected one of the options"),
        ("mobilenet.drop=0.5", "expected one of the options"),
    ],
)
def test_a_setting_that_cannot_be_says_what_can(text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        settings_of([text], AXES["model"])
    assert f"set={text!r}" in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["", "16,", "16,,32"])
def test_an_axis_with_a_gap_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="batch_sizes="):
        values_of("batch_sizes", text)


def test_every_bad_value_is_named_once_in_one_line() -> None:
    axes = AXES | {"model": ["mobilenet", "resnet"], "batch_size": ["0", "x", "16"]}
    with pytest.raises(UserError) as caught:
        grid_configs(axes, COMMON | {"dropout": "2"}, {"mobilenet": {"monitor": "luck"}})
    message = str(caught.value)
    assert "\n" not in message
    for bad in ("model='resnet'", "batch_size=0", "batch_size='x'", "dropout=2", "monitor='luck'"):
        assert message.count(bad) == 1, message


def test_weights_and_epochs_of_every_model_are_checked() -> None:
    settings = {
        "mobilenet": {"weights": "missing.weights.h5"},
        "mobilenetv2": {"epochs_frozen": "0", "epochs_finetune": "0"},
    }
    with pytest.raises(UserError, match="at least one epoch"):
        grid_configs(AXES, COMMON, settings)
    del settings["mobilenetv2"]
    with pytest.raises(UserError, match="missing") as caught:
        grid_configs(AXES, COMMON, settings)
    assert str(caught.value).count("missing") == 1


# Cells


@pytest.fixture
def cells(toy_set: PreparedSet) -> list[Cell]:
    return make_cells(grid_configs(AXES, COMMON, {}), toy_set)


def test_a_cell_is_what_a_run_of_its_configuration_will_be_tagged(
    cells: list[Cell], toy_set: PreparedSet
) -> None:
    for cell, config in zip(cells, grid_configs(AXES, COMMON, {}), strict=True):
        assert cell.identity == identity(config, toy_set.digest)
        assert cell.config == replace(config, output_dir=cell.config.output_dir)


def test_every_cell_has_a_folder_of_its_own_below_the_sweeps(cells: list[Cell]) -> None:
    root = Path("runs") / f"sweep-{sweep_key(cells)}"
    assert {cell.folder.parent for cell in cells} == {root}
    assert len({cell.folder for cell in cells}) == len(cells) == 8


def test_the_key_is_of_the_grid_and_the_data_not_of_their_order(
    toy_set: PreparedSet, cells: list[Cell]
) -> None:
    backwards = {name: values[::-1] for name, values in AXES.items()}
    same = make_cells(grid_configs(backwards, COMMON | {"output_dir": "elsewhere"}, {}), toy_set)
    assert sweep_key(same) == sweep_key(cells)
    other_code = [replace(c, identity=c.identity | {"training_digest": "0"}) for c in cells]
    assert sweep_key(other_code) == sweep_key(cells)
    other_data = [replace(c, identity=c.identity | {"data_digest": "0"}) for c in cells]
    keys = {
        sweep_key(cells),
        sweep_key(other_data),
        sweep_key(cells[1:]),
        sweep_key(make_cells(grid_configs(AXES, COMMON | {"dropout": "0.1"}, {}), toy_set)),
    }
    assert len(keys) == 4


@pytest.mark.parametrize("axis", [{"seed": ["1", "01"]}, {"split_seed": ["0", "1"]}])
def test_one_configuration_twice_is_refused(
    axis: dict[str, list[str]], toy_set: PreparedSet
) -> None:
    """The challenge's parts are official: there, another split seed is the same configuration."""
    with pytest.raises(UserError, match="are one configuration"):
        make_cells(grid_configs(AXES | axis, COMMON, {}), toy_set)


def test_a_split_that_cannot_be_is_found_before_anything_starts(toy_set: PreparedSet) -> None:
    common = COMMON | {"protocol": "paper", "test_fraction": "0.03"}
    with pytest.raises(UserError, match="the test part has no image of"):
        make_cells(grid_configs(AXES, common, {}), toy_set)


# Time left


def history(*rows: tuple[str, float]) -> list[Row]:
    """Epochs by step and end, in seconds."""
    return [{"step": step, "time": 1000 * end} for step, end in rows]


TWO_STEPS = Config(weights="none", epochs_frozen=4, epochs_finetune=3)
ONE_STEP = Config(weights="none", epochs_frozen=0, epochs_finetune=4)


def test_nothing_is_known_before_the_first_epoch_of_fine_tuning() -> None:
    assert time_left([], 0, 5, ONE_STEP) is None
    assert time_left(history(("frozen", 10), ("frozen", 11)), 0, 11, TWO_STEPS) is None


def test_the_time_left_is_of_the_epochs_of_each_step() -> None:
    """The first epoch of a step holds its start, so it counts only while it is the only one."""
    assert time_left(history(("finetune", 20)), 0, 20, ONE_STEP) == 60
    assert time_left(history(("finetune", 20), ("finetune", 25)), 0, 27, ONE_STEP) == 8
    done = [("frozen", 30.0), ("frozen", 31.0), ("frozen", 32.0), ("frozen", 33.0)]
    assert time_left(history(*done, ("finetune", 45)), 0, 45, TWO_STEPS) == 24
    assert time_left(history(*done, ("finetune", 45), ("finetune", 50)), 0, 50, TWO_STEPS) == 5


def test_epochs_of_an_earlier_process_count_but_say_nothing_of_the_time() -> None:
    before = [("frozen", 30.0), ("frozen", 31.0), ("frozen", 32.0), ("frozen", 33.0)]
    assert time_left(history(*before, ("finetune", 45)), 1000, 1010, TWO_STEPS) is None
    rows = history(*before, ("finetune", 45), ("finetune", 1020))
    assert time_left(rows, 1000, 1020, TWO_STEPS) == 20


def test_the_time_left_is_never_negative() -> None:
    assert time_left(history(("finetune", 20)), 0, 900, ONE_STEP) == 0


def states(cells: list[Cell], *rows: tuple[str, float, float | None]) -> list[CellState]:
    return [
        CellState(cell, status, seconds=seconds, left=left)  # type: ignore[arg-type]
        for cell, (status, seconds, left) in zip(cells, rows, strict=False)
    ]


def test_the_time_a_sweep_takes_is_told_by_finished_cells_of_the_same_model(
    cells: list[Cell],
) -> None:
    """Cells 0 to 3 are MobileNet, 4 and later MobileNetV2."""
    some = states(
        cells, ("done", 100, None), ("running", 30, None), ("waiting", 0, None), ("failed", 5, None)
    )
    assert sweep_left(some, jobs=1) == 70 + 100
    assert sweep_left(some, jobs=2) == 100
    rest = states(cells[4:], ("done before", 40, None), ("waiting", 0, None))
    assert sweep_left([*some, *rest], jobs=1) == 70 + 100 + 40


def test_a_cell_that_knows_its_time_left_is_believed(cells: list[Cell]) -> None:
    assert sweep_left(states(cells, ("done", 100, None), ("running", 30, 400)), jobs=2) == 400


def test_before_the_first_finished_cell_the_time_is_not_known(cells: list[Cell]) -> None:
    assert sweep_left(states(cells, ("running", 30, 5), ("waiting", 0, None)), 1) is None
    assert sweep_left(states(cells, ("done", 30, None)), 1) == 0


@pytest.mark.parametrize(
    ("ask", "given"),
    [
        (lambda path: Cell(Config(output_dir=path), {}).folder, "output_dir="),
        (check_weights, "weights="),
        (lambda path: examine(Path(path), list), "--output-dir "),
        (lambda path: data_folder("isic2017", path), "data_dir="),
        (lambda path: data_folder(path), "data="),
    ],
)
def test_the_home_folder_of_nobody_is_one_line(ask: Callable[[str], object], given: str) -> None:
    with pytest.raises(UserError, match=f"^{given}~nosuchuser/x: ~nosuchuser is nobody's home"):
        ask("~nosuchuser/x")
