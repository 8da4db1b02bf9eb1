"""The run folder: what a run leaves behind reads back, also when the run was cut short."""

from pathlib import Path

import pytest

from skinml.base.errors import UserError
from skinml.config import Config
from skinml.tracking.folder import Description, RunFolder
from skinml.training.history import Row

ROW: Row = {
    "epoch": 1,
    "step": "frozen",
    "train_loss": 0.1 + 0.2,
    "val_auc_macro": float("inf"),
    "learning_rate": 1e-3,
    "seconds": 2.0,
    "time": 1_700_000_000_123,
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "deeper", Config(model="nasnetmobile", seed=7))


def test_a_new_folder_is_empty_and_named_by_its_configuration(folder: RunFolder) -> None:
    assert "-nasnetmobile-16-s7-" in folder.path.name
    assert folder.path.is_absolute() and folder.figures.is_dir()
    assert not folder.finished and folder.read_history() == []


def test_two_runs_of_one_configuration_and_second_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where chance gives them the same digits."""
    digits = iter(["aaaa", "aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("skinml.tracking.folder.time.strftime", lambda form: "20260102-030405")
    monkeypatch.setattr("skinml.tracking.folder.secrets.token_hex", lambda count: next(digits))
    made = [RunFolder.create(tmp_path, Config()).path.name for _ in range(2)]
    assert [name[-4:] for name in made] == ["aaaa", "bbbb"]


def test_a_relative_folder_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.create(Path("runs"), Config())
    folder.write_text("run.json", "{}")
    relative = RunFolder.open(Path("runs") / folder.path.name)
    monkeypatch.chdir(tmp_path.parent)
    assert relative.path == folder.path and relative.path.is_dir()


def test_everything_written_reads_back(folder: RunFolder) -> None:
    description = Description(
        "a name", {"seed": "7"}, {"data": "demo"}, {"counts": {"train": {"nevus": 3}}}
    )
    metrics = {"test_accuracy": 0.1 + 0.2, "best_epoch": 3}
    folder.write_description(description)
    folder.write_metrics(metrics)
    folder.write_text("note.md", "Größe 224×224 – ┌─┐\n")
    again = RunFolder.open(folder.path)
    assert again.read_description() == description
    assert again.read_metrics() == metrics
    assert again.read_text("note.md") == "Größe 224×224 – ┌─┐\n"


def test_texts_do_not_depend_on_the_systems_encoding(folder: RunFolder) -> None:
    """Keras draws its summary with lines that Windows's own encoding lacks."""
    folder.write_text("model_summary.txt", "┌─┐\n")
    assert (folder.path / "model_summary.txt").read_bytes() == "┌─┐\n".encode()


def test_an_undefined_metric_reads_back_as_one(folder: RunFolder) -> None:
    folder.write_metrics({"test_auc_macro": float("nan")})
    assert str(folder.read_metrics()["test_auc_macro"]) == "nan"


def test_the_history_goes_on_after_reopening(folder: RunFolder) -> None:
    folder.write_text("run.json", "{}")
    folder.append_epoch(ROW)
    second: Row = {**ROW, "epoch": 2, "step": "finetune", "train_loss": 1e-17}
    RunFolder.open(folder.path).append_epoch(second)
    history = RunFolder.open(folder.path).read_history()
    assert history == [ROW, second]
    assert [[type(value) for value in row.values()] for row in history] == [
        [int, str, float, float, float, float, int]
    ] * 2


def test_only_a_run_that_ended_is_finished(folder: RunFolder) -> None:
    folder.append_epoch(ROW)
    folder.write_metrics({})
    assert not folder.finished
    folder.finish()
    assert folder.finished


def test_a_failed_write_leaves_the_description_as_it_was(folder: RunFolder) -> None:
    folder.write_metrics({"test_accuracy": 0.5})
    with pytest.raises(TypeError):
        folder.write_metrics({"test_accuracy": object()})  # type: ignore[dict-item]
    assert folder.read_metrics() == {"test_accuracy": 0.5}


def test_another_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"run\.json") as caught:
            RunFolder.open(path)
        assert str(path) in str(caught.value)


def test_a_parent_that_cannot_be_written_to_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Not a directory") as caught:
        RunFolder.create(tmp_path / "file" / "runs", Config())
    assert f"output_dir={tmp_path}/file/runs" in str(caught.value)
