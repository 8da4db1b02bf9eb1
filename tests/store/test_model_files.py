"""A model's files are found without MLflow where MLflow would find them, and nowhere else."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from skinml.store.model_files import fetch

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAMES = ("MLmodel", "data/model.tflite")


@pytest.fixture
def logged(store: "MlflowClient", tmp_path: Path) -> str:
    """The id of a logged model that is version 1 and champion of `lesions`."""
    import mlflow

    with mlflow.start_run():
        model = mlflow.initialize_logged_model(name="model")
        for name in (*NAMES, "data/model.keras"):
            file = tmp_path / "files" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(name)
        store.log_model_artifacts(model.model_id, str(tmp_path / "files"))
        mlflow.finalize_logged_model(model.model_id, "READY")
    version = mlflow.register_model(f"models:/{model.model_id}", "lesions")
    store.set_registered_model_alias("lesions", "champion", version.version)
    return str(model.model_id)


def test_every_uri_of_a_model_leads_to_its_files(logged: str, tmp_path: Path) -> None:
    for uri in ("models:/lesions@champion", "models:/lesions/1", f"models:/{logged}"):
        folder = fetch(uri, NAMES, tmp_path / "into")
        assert folder is not None, uri
        assert [(folder / name).read_text() for name in NAMES] == list(NAMES)
        assert not (tmp_path / "into").exists(), "nothing is copied that lies here"


@pytest.mark.parametrize(
    "uri",
    ["models:/lesions/2", "models:/lesions@nobody", "models:/nothing/1", "models:/m-00",
     "runs:/a/b", "models:/x' OR '1'='1/1"],
)  # fmt: skip
def test_what_is_not_there_is_left_to_mlflow_to_tell(logged: str, uri: str, tmp_path: Path) -> None:
    assert fetch(uri, NAMES, tmp_path) is None


def test_a_model_without_the_file_is_left_to_mlflow(logged: str, tmp_path: Path) -> None:
    assert fetch("models:/lesions/1", ("MLmodel", "data/other"), tmp_path) is None


def test_a_deleted_version_is_not_there(logged: str, store: "MlflowClient", tmp_path: Path) -> None:
    store.delete_model_version("lesions", "1")
    assert fetch("models:/lesions/1", NAMES, tmp_path) is None


def test_a_store_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "none.db"
    for address in (f"sqlite:///{path}", "http://127.0.0.1:9", "postgresql://u:p@127.0.0.1:9/x"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert fetch("models:/lesions/1", NAMES, tmp_path) is None
    assert not path.exists()


def test_settings_of_mlflow_s_client_are_left_to_it(
    logged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token")
    assert fetch("models:/lesions/1", NAMES, tmp_path) is None
