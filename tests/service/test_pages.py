"""Every page of docs/first-hour.md opens behind the guard, and asks for nothing that it needs."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from skinml.service.native import Native
from skinml.store.publish import prepare_experiment
from tests.conftest import surroundings
from tests.service.conftest import browsing, needs_chromium, needs_service
from tests.service.test_service import Team

pytestmark = [pytest.mark.slow, needs_service, needs_chromium, pytest.mark.timeout(1800)]

DOCS = Path(__file__).parents[2] / "docs"

# What MLflow's pages ask for and do without: its assistant, its gateway, a picture for the tab.
DONE_WITHOUT = (
    "/ajax-api/3.0/mlflow/assistant/", "/ajax-api/2.0/mlflow/gateway-proxy", "/favicon.ico",
)  # fmt: skip


@pytest.fixture(scope="module")
def walk(place: Path) -> Iterator[tuple[Any, Team]]:
    """docs/first_hour.py, and a service with what its pages show: ann's run and model."""
    with surroundings(place) as monkeypatch:
        monkeypatch.syspath_prepend(str(DOCS))
        monkeypatch.setenv("MLFLOW_WORKERS", "1")
        first_hour = importlib.import_module("first_hour")
        with Native(place / "data").up() as native:
            team = Team(native)
            for name in ("ann", "bea"):
                team.add(name)
            team.sign_in(monkeypatch, "ann")
            log_run(place, first_hour.EXPERIMENT, first_hour.MODEL)
            yield first_hour, team


def log_run(folder: Path, experiment: str, model: str) -> None:
    """A run with what the pages look for: curves, figures, and a version that is the champion."""
    import mlflow

    client = mlflow.MlflowClient()
    experiment_id = client.create_experiment(experiment)
    # Some views come with the second training.
    client.create_run(experiment_id, tags={"kind": "training", "model": "mobilenet"})
    client.create_run(experiment_id, tags={"kind": "training", "model": "nasnetmobile"})
    prepare_experiment(mlflow.get_tracking_uri(), experiment_id)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", experiment_id)
        with mlflow.start_run(run_name="mobilenetv2-16-seed0") as run:
            mlflow.set_tags({"kind": "training", "model": "mobilenetv2", "data": "demo"})
            mlflow.log_params({"model": "mobilenetv2", "batch_size": 16})
            for epoch in range(3):
                mlflow.log_metrics({"epoch/train_loss": 1.0 / (epoch + 1)}, step=epoch)
            mlflow.log_metrics({"test_accuracy": 0.66, "val_auc_macro": 0.7})
            for figure in ("confusion_matrix", "roc"):
                Image.new("RGB", (60, 40), "teal").save(folder / f"{figure}.png")
                mlflow.log_artifact(str(folder / f"{figure}.png"), "figures")
            mlflow.log_text("flavors: {}\n", "model/MLmodel")
        client.create_registered_model(model)
        source = f"{run.info.artifact_uri}/model"
        version = client.create_model_version(model, source, run.info.run_id)
        client.set_registered_model_alias(model, "champion", version.version)


def test_the_pages_of_the_first_hour_ask_for_nothing_that_is_refused(
    walk: tuple[Any, Team], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_hour, team = walk
    team.sign_in(monkeypatch, "ann")
    seen, refused = [], []

    def note(response: Any) -> None:
        path = "/" + response.url.split("/", 3)[3]
        if response.status >= 400 and not path.startswith(DONE_WITHOUT):
            refused.append(f"{response.request.method} {path}: {response.status}")

    class Watched(first_hour.Reader):  # type: ignore[name-defined]
        def profile(self, user: Any) -> Any:
            profile = super().profile(user)
            profile.on("response", note)
            return profile

        def save(self, page: Any, name: str) -> None:
            seen.append(name)
            page.close()

    people = [{"username": name, "password": team.passwords[name]} for name in ("ann", "bea")]
    with browsing.chromium() as browser:
        first_hour.take_pictures(Watched(browser, team.native.address, tmp_path), *people)
    # The first page is that of a wrong password.
    assert refused == ["GET /: 401"]
    pictures = {path.stem for path in (DOCS / "images" / "first-hour").glob("*.png")}
    # Two views have a picture in docs/images alone: they need a second training.
    assert set(seen) - pictures == {"06-parallel-coordinates", "07-by-model"}
    assert pictures < set(seen)
