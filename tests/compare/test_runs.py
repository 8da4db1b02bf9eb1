"""Which runs stand in one table, and which never do."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.compare.analysis import analyse
from skinml.compare.caveats import caveats
from skinml.compare.reading import runs_in_folder
from skinml.compare.runs import CellName, RunRecord, paper_grid, portable_params
from skinml.compare.selection import command_for, select, select_readable
from skinml.config import Config
from skinml.training import code_digest
from skinml.training.code_digest import training_digest
from tests.compare.conftest import made_up, write_grid, write_run


def test_the_grid_of_the_paper_is_in_the_order_of_its_table() -> None:
    assert [str(cell) for cell in paper_grid()] == [
        "mobilenet-16", "mobilenet-32", "mobilenet-64",
        "mobilenetv2-16", "mobilenetv2-32", "mobilenetv2-64",
        "nasnetmobile-16", "nasnetmobile-32", "nasnetmobile-64",
    ]  # fmt: skip


def test_a_full_grid_is_selected_in_that_order(nine: Path) -> None:
    selection = select(runs_in_folder(nine))
    assert list(selection.cells) == paper_grid()
    assert (selection.missing, selection.left_out, selection.differences) == ((), (), {})


def test_missing_cells_are_named(tmp_path: Path, nine: Path) -> None:
    shutil.copytree(nine, tmp_path / "eight")
    [gone] = (tmp_path / "eight").glob("nasnetmobile-32-*")
    shutil.rmtree(gone)
    assert select(runs_in_folder(tmp_path / "eight")).missing == (CellName("nasnetmobile", 32),)


def test_a_cell_beyond_the_grid_is_kept_at_the_end(tmp_path: Path, nine: Path) -> None:
    shutil.copytree(nine, tmp_path / "ten")
    write_run(tmp_path / "ten", made_up(1, [1]), model="efficientnetb0", test_fraction=0.2)
    assert list(select(runs_in_folder(tmp_path / "ten")).cells)[-1].model == "efficientnetb0"


@pytest.mark.parametrize(
    "other",
    [{"data_digest": "another"}, {"protocol": "challenge"}, {"test_fraction": 0.15}],
    ids=str,
)
def test_runs_of_another_test_set_never_stand_in_the_same_table(
    tmp_path: Path, nine: Path, other: dict[str, object]
) -> None:
    """The newest run is of another test set, but its grid is not complete."""
    shutil.copytree(nine, tmp_path / "runs")
    options = {"test_fraction": 0.2, **other}
    write_run(tmp_path / "runs", made_up(3, [1]), started=1000, model="mobilenet", **options)
    selection = select(runs_in_folder(tmp_path / "runs"))
    assert len(selection.runs) == 9
    assert "1 of another test set" in selection.left_out[0]


def test_the_newest_test_set_is_taken_where_none_is_complete(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]), started=1, protocol="challenge")
    write_run(tmp_path, made_up(1, [1]), started=2)
    [run] = select(runs_in_folder(tmp_path)).runs
    assert run.tags["protocol"] == "paper"


def test_of_repeated_runs_the_newest_counts_once(tmp_path: Path) -> None:
    for started in (5, 9, 7):
        write_run(tmp_path, made_up(1, [1]), started=started)
    selection = select(runs_in_folder(tmp_path))
    assert [run.started for run in selection.runs] == [9]
    assert "2 older ones" in selection.left_out[0]


def test_seeds_of_other_settings_are_not_averaged_with_it(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]), started=1, seed=1, epochs_finetune=100)
    write_run(tmp_path, made_up(1, [2]), started=2, seed=2, epochs_finetune=3)
    write_run(tmp_path, made_up(1, [3]), started=3, seed=3, epochs_finetune=3)
    selection = select(runs_in_folder(tmp_path))
    assert [run.tags["seed"] for run in selection.runs] == ["2", "3"]
    assert selection.left_out


def test_settings_that_differ_between_cells_are_told(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]), model="mobilenet", epochs_finetune=3)
    write_run(tmp_path, made_up(1, [2]), model="mobilenetv2", epochs_finetune=9)
    assert select(runs_in_folder(tmp_path)).differences == {
        "epochs_finetune": {
            "3": (CellName("mobilenet", 16),),
            "9": (CellName("mobilenetv2", 16),),
        }
    }


def test_a_weights_file_a_network_is_no_difference_and_two_of_one_network_are(
    tmp_path: Path,
) -> None:
    """A file is one network's, so that by their digests no two networks would be alike."""
    files = {("mobilenet", 16): "a.h5", ("mobilenet", 32): "a.h5", ("mobilenetv2", 16): "b.h5"}
    for (model, size), name in files.items():
        began = {"weights": name, "weights_kind": "file"}
        write_run(tmp_path, made_up(1, [size]), 0, model=model, batch_size=size, **began)
    [told] = [line for line in told_of(tmp_path) if "weights file" in line]
    assert "(mobilenet a.h5, mobilenetv2 b.h5)" in told
    assert select(runs_in_folder(tmp_path)).differences == {}
    began = {"weights": "c.h5", "weights_kind": "file"}
    write_run(tmp_path, made_up(1, [64]), 0, model="mobilenet", batch_size=64, **began)
    assert select(runs_in_folder(tmp_path)).differences["weights"] == {
        "file a.h5": (CellName("mobilenet", 16), CellName("mobilenet", 32)),
        "file c.h5": (CellName("mobilenet", 64),),
        "file": (CellName("mobilenetv2", 16),),
    }
    # Told once, with the cells of each.
    assert not [line for line in told_of(tmp_path) if "of its own" in line]
    write_run(tmp_path, made_up(1, [5]), model="nasnetmobile")
    assert "random" in select(runs_in_folder(tmp_path)).differences["weights"]


def told_of(folder: Path) -> list[str]:
    return caveats(analyse(select(runs_in_folder(folder)), resamples=50))


def test_runs_of_other_training_code_are_told_for_what_they_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = training_digest("mobilenet").partition("-")[0]
    same = code_digest.SameTrainings(now, {"aaaa": "a variable was renamed"})
    monkeypatch.setattr(code_digest, "SAME_TRAININGS", same)
    codes = {16: training_digest("mobilenet"), 32: "aaaa", 64: "bbbb-0000"}
    for size, code in codes.items():
        table = made_up(1, [size])
        write_run(tmp_path, table, model="mobilenet", batch_size=size, training_digest=code)
    found = select(runs_in_folder(tmp_path))
    assert found.code == (
        "1 of 3 runs: trained by code aaaa, which counts as today's: a variable was renamed",
        "1 of 3 runs: trained by other code than today's (bbbb), and compared as they are: all "
        "figures here are computed by today's code, from their predictions tables",
    )
    assert list(found.differences["training_digest"]) == [now, "bbbb"]


def test_a_split_that_one_cell_lacks_is_left_out_for_all(tmp_path: Path) -> None:
    write_grid(tmp_path, splits=(0, 1), models=("mobilenet",), sizes=(16,))
    write_grid(tmp_path, splits=(1,), models=("mobilenetv2",), sizes=(16,))
    selection = select(runs_in_folder(tmp_path))
    assert {run.setting("split_seed") for run in selection.runs} == {"1"}
    assert "split" in selection.left_out[-1]


def test_cells_without_a_common_split_are_refused(tmp_path: Path) -> None:
    write_grid(tmp_path, splits=(0,), models=("mobilenet",), sizes=(16,))
    write_grid(tmp_path, splits=(1,), models=("mobilenetv2",), sizes=(16,))
    with pytest.raises(UserError, match="no split in common"):
        select(runs_in_folder(tmp_path))


def test_nothing_to_compare_is_said() -> None:
    with pytest.raises(UserError, match="no finished run"):
        select([])


def test_the_command_for_a_missing_cell_repeats_the_settings_of_the_others(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]), model="mobilenet", epochs_finetune=3, seed=4)
    [run] = runs_in_folder(tmp_path)
    assert command_for("mobilenet", [32, 64], [run]) == (
        "python -m skinml.sweep --models mobilenet --batch_sizes 32,64 --seeds 4 --weights none "
        "--epochs_finetune 3"
    )


def test_runs_of_before_near_duplicates_were_a_choice_kept_identical_images_together(
    tmp_path: Path,
) -> None:
    """Their missing cells are trained on their split, which is no longer that of the default."""
    older = write_run(tmp_path, made_up(1, [9], 5), protocol="paper", near_duplicates="identical")
    description = json.loads((older / "run.json").read_text())
    del description["params"]["near_duplicates"]
    (older / "run.json").write_text(json.dumps(description))
    write_run(tmp_path, made_up(1, [9], 5), started=9, protocol="paper", batch_size=32)
    first, second = runs_in_folder(tmp_path)
    assert "--near_duplicates identical" in command_for("mobilenet", [64], [first])
    assert "near_duplicates" not in command_for("mobilenet", [64], [second])
    assert (first.setting("near_duplicates"), second.setting("near_duplicates")) == (
        "identical", "together",
    )  # fmt: skip
    assert first.test_set != second.test_set


def test_a_command_does_not_hand_one_network_the_weights_of_another(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]), model="mobilenet")
    [run] = runs_in_folder(tmp_path)
    ours = {**run.params, "weights": "my mobilenet.weights.h5", "output_dir": "runs/a-cell"}
    of_file = RunRecord("a", 0, ours, {**run.tags, "weights_kind": "file"}, {}, run.load)
    assert "--weights 'my mobilenet.weights.h5'" in command_for("mobilenet", [64], [of_file])
    assert "--weights WEIGHTS_OF_nasnetmobile" in command_for("nasnetmobile", [64], [of_file])
    # Nor the folder of one cell of a sweep to another.
    assert "a-cell" not in command_for("mobilenet", [64], [of_file])


def test_published_parameters_name_no_folder_of_this_machine() -> None:
    config = Config(data_dir="/data/me/isic", output_dir="/scratch/me", weights="/data/me/w.h5")
    kept = portable_params({name: str(value) for name, value in config.as_dict().items()})
    assert not [value for value in kept.values() if "/" in value]
    assert kept["weights"] == "w.h5" and kept["model"] == config.model


@pytest.mark.parametrize("damage", ["metrics.json", "run.json"])
def test_a_damaged_folder_is_named(tmp_path: Path, damage: str) -> None:
    own = write_run(tmp_path, made_up(1, [1]))
    (own / damage).write_text("{")
    with pytest.raises(UserError, match=own.name):
        runs_in_folder(tmp_path)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="no run in it"):
        runs_in_folder(tmp_path)


def test_a_later_trial_of_one_cell_does_not_replace_a_sweep(tmp_path: Path) -> None:
    write_grid(tmp_path, models=("mobilenet",))
    write_run(tmp_path, made_up(1, [9]), started=99, model="mobilenet", epochs_finetune=1,
              test_fraction=0.2)  # fmt: skip
    found = select(runs_in_folder(tmp_path))
    assert {run.params["epochs_finetune"] for run in found.runs} == {"auto"}
    assert any("settings that fewer cells have" in words for words in found.left_out)


def test_a_recipe_that_all_networks_have_comes_before_that_of_one(tmp_path: Path) -> None:
    """Else one network by the newer recipe stands against another by the older one."""
    sizes, number = (16, 32), 0
    for model in ("mobilenet", "mobilenetv2"):
        for size in sizes:
            write_run(tmp_path, made_up(1, [size]), number, model=model, batch_size=size)
            number += 1
    cells = [CellName(model, size) for model in ("mobilenet", "mobilenetv2") for size in sizes]
    for cell in cells[:3]:
        number += 1
        given = {"model": cell.model, "batch_size": cell.batch_size, "recipe": "ours"}
        write_run(tmp_path, made_up(1, [number]), number, **given)
    runs = select(runs_in_folder(tmp_path), cells).runs
    assert {run.params["recipe"] for run in runs} == {"paper"}
    # Complete, the newer one is taken for both.
    write_run(tmp_path, made_up(1, [9]), 9, model="mobilenetv2", batch_size=32, recipe="ours")
    runs = select(runs_in_folder(tmp_path), cells).runs
    assert {run.params["recipe"] for run in runs} == {"ours"}


def test_a_cell_beyond_the_grid_has_no_say_in_the_splits(tmp_path: Path) -> None:
    write_grid(tmp_path)
    write_run(tmp_path, made_up(1, [9], 5), started=99, model="efficientnetb0", split_seed=5,
              test_fraction=0.2)  # fmt: skip
    found = select(runs_in_folder(tmp_path))
    assert len(found.cells) == 9
    assert "efficientnetb0-16, of another split" in found.left_out


def test_the_newest_run_folder_of_a_training_is_known_by_its_name(tmp_path: Path) -> None:
    """Folders of skinml.run, which say nothing of when they started, and one that was killed."""
    for stamp, skill in (("20261123-120000", 1), ("20261122-120000", 2), ("20261124-120000", 3)):
        own = write_run(tmp_path / stamp, made_up(skill, [1]))
        described = json.loads((own / "run.json").read_text())
        kept = {name: described[name] for name in ("params", "tags")}
        (own / "run.json").write_text(json.dumps(kept))
        moved = own.rename(tmp_path / f"{stamp}-mobilenetv2-16-s0")
        if skill == 3:
            (moved / "metrics.json").unlink()
    [run] = select(runs_in_folder(tmp_path)).runs
    assert run.run_id.startswith("20261123")


def write_own_and_odd(folder: Path, section: str, name: str, value: object) -> tuple[Path, Path]:
    """A run, and one beside it that has another value in a section of its description."""
    own = write_run(folder, made_up(1, [1]))
    odd = write_run(folder, made_up(1, [2]), started=1)
    described = json.loads((odd / "run.json").read_text())
    described[section][name] = value
    (odd / "run.json").write_text(json.dumps(described))
    return own, odd


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("batch_size", "many"),
        ("batch_size", ["16"]),
        ("seed", None),
        ("model", "x" * 200_000),
        ("model", "\x1b[2J"),
        ("split", {"a": 1}),
    ],
    ids=["text", "list", "null", "long", "controls", "object"],
)
def test_an_odd_run_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, value: object
) -> None:
    own, odd = write_own_and_odd(tmp_path, "tags", place, value)
    assert [run.run_id for run in runs_in_folder(tmp_path)] == [own.name]
    told = capsys.readouterr().err
    assert odd.name in told and place in told and len(told) < 1000 and "\x1b" not in told


@pytest.mark.parametrize(
    ("name", "value"), [("test_images_seen_in_training", "many"), ("split_seed", "x")]
)
def test_a_parameter_that_is_no_number_leaves_out_its_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    """The report, or the command for missing cells, reads it as a number later."""
    own, _ = write_own_and_odd(tmp_path, "params", name, value)
    assert [run.run_id for run in runs_in_folder(tmp_path)] == [own.name]
    assert f"{name}='{value}': expected a whole number" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", '{"best_epoch": "two"}', '{"a": 1e999}'])
def test_odd_metrics_leave_out_their_run_alone(tmp_path: Path, content: str) -> None:
    own = write_run(tmp_path, made_up(1, [1]))
    odd = write_run(tmp_path, made_up(1, [2]), started=1)
    (odd / "metrics.json").write_text(content)
    kept = [run.run_id for run in runs_in_folder(tmp_path)]
    assert own.name in kept and (len(kept) == 1) == ("1e999" not in content)


@pytest.mark.parametrize("table", ["", "x" * 200_000, None], ids=["empty", "long", "pipe"])
def test_a_run_without_a_readable_table_makes_room_for_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str | None
) -> None:
    own = write_run(tmp_path, made_up(1, [1]))
    odd = write_run(tmp_path, made_up(1, [2]), started=1)
    path = odd / "predictions_test.csv"
    path.unlink()
    if table is None:
        os.mkfifo(path)
    else:
        path.write_text(table)
    selection = select_readable(runs_in_folder(tmp_path))
    assert [run.run_id for run in selection.runs] == [own.name]
    assert f"left out run {odd.name}" in capsys.readouterr().err
    assert any(odd.name in text for text in selection.left_out)


def test_tables_none_of_which_can_be_read_are_told(tmp_path: Path) -> None:
    (write_run(tmp_path, made_up(1, [1])) / "predictions_test.csv").unlink()
    with pytest.raises(UserError, match=r"predictions_test\.csv: cannot be read"):
        select_readable(runs_in_folder(tmp_path))


@pytest.mark.parametrize("odd", ["images", "labels"])
def test_a_run_of_other_images_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], odd: str
) -> None:
    """The tags may say what they like: what most runs of a split were tested on counts."""
    table = made_up(1, [1])
    for seed in (1, 2):
        write_run(tmp_path, made_up(1, [seed]), seed=seed)
    ids = np.array([f"other-{number}" for number in range(len(table.labels))])
    other = {
        "images": replace(table, image_ids=ids),
        "labels": replace(table, labels=(table.labels + 1) % 3),
    }[odd]
    alone = write_run(tmp_path, other, started=9, seed=3)
    selection = select_readable(runs_in_folder(tmp_path))
    assert sorted(run.tags["seed"] for run in selection.runs) == ["1", "2"]
    assert f"left out run {alone.name}: tested on other images" in capsys.readouterr().err
    assert any(alone.name in text for text in selection.left_out)
    assert analyse(selection).images == len(table.labels)


def test_two_runs_of_different_images_leave_the_newest(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]), seed=1)
    other = made_up(1, [2], split=7)
    newest = write_run(tmp_path, other, started=9, seed=2)
    selection = select_readable(runs_in_folder(tmp_path))
    assert [run.run_id for run in selection.runs] == [newest.name]
