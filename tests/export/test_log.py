"""`python -m skinml.export --log`: the file and its figures at the model's run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from skinml.base.errors import UserError
from skinml.export.__main__ import main
from skinml.export.source import Source, open_source
from skinml.models.exported import read_about

pytestmark = pytest.mark.slow


def test_the_file_and_its_figures_are_logged(
    run_folder: Path,
    converted: None,
    store: MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = store.create_run(store.create_experiment("here")).info.run_id
    store.log_metric(run_id, "export_litert_float16_mb", 77.0, timestamp=1)
    store.set_terminated(run_id, end_time=5)

    @contextmanager
    def of_that_run(uri: str) -> Iterator[Source]:
        with open_source(uri) as source:
            yield source._replace(run_id=run_id)

    monkeypatch.setattr("skinml.export.__main__.open_source", of_that_run)
    out = tmp_path / "out"
    assert main([str(run_folder), "--precision", "float16", "--out", str(out), "--log"]) == 0
    name = "export/litert-float16/model.tflite"
    logged = Path(store.download_artifacts(run_id, name, str(tmp_path)))
    file = out / "model.tflite"
    assert logged.read_bytes() == file.read_bytes()
    run = store.get_run(run_id)
    metrics = {
        key.removeprefix("export_litert_float16_"): value for key, value in run.data.metrics.items()
    }
    verified = read_about(file)["verified"]
    macro = verified["figures"]["auc_macro"]
    assert metrics["mb"] == pytest.approx(file.stat().st_size / 1e6, rel=0.2)
    assert metrics["ms"] > 0
    assert metrics["auc_macro"] == macro["exported"]
    assert metrics["auc_macro_difference"] == macro["exported"] - macro["keras"]
    assert metrics["same_answers"] == verified["same"]
    assert metrics["largest_difference"] == verified["largest"]
    assert run.info.status == "FINISHED" and run.info.end_time == 5, "the run stays as it was"


def test_a_folder_has_no_run_to_log_to_and_is_refused_at_once(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skinml.export.__main__.make", lambda *given: pytest.fail("converted"))
    with pytest.raises(UserError, match=r"is a folder, not a model of a store; expected a URI"):
        main([str(run_folder), "--out", str(tmp_path / "out"), "--log"])
    assert list(tmp_path.iterdir()) == []
