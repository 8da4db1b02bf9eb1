"""Every page of docs/first-hour.md opens behind the guard, and asks for nothing that it needs."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from skinml.service.native import Native
from skinml.tracking.publish import prepare_experiment
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


class Watched:
    """A browser that notes what the server refuses to its pages."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self.refused: list[str] = []

    def new_page(self, **options: Any) -> Any:
        page = self._browser.new_page(**options)
        page.on("response", self._note)
        return page

    def _note(self, response: Any) -> None:
        path = "/" + response.url.split("/", 3)[3]
        if response.status >= 400 and not path.startswith(DONE_WITHOUT):
            self.refused.append(f"{response.request.method} {path}: {response.status}")


def test_the_pages_of_the_first_hour_ask_for_nothing_that_is_refused(
    walk: tuple[Any, Team], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_hour, team = walk
    team.sign_in(monkeypatch, "ann")
    seen = []

    def save(reader: Any, page: Any, name: str) -> None:
        seen.append(name)
        page.close()

    reader_of = type("Reader", (first_hour.Reader,), {"save": save})
    people = [{"username": name, "password": team.passwords[name]} for name in ("ann", "bea")]
    with browsing.chromium() as browser:
        watched = Watched(browser)
        reader = reader_of(watched, team.native.address, tmp_path)
        first_hour.take_pictures(reader, *people)
    # The first page is that of a wrong password.
    closed = [asked for asked in watched.refused if asked.endswith(": 401")]
    assert closed == ["GET /: 401"]
    assert watched.refused == closed
    pictures = {path.stem for path in (DOCS / "images" / "first-hour").glob("*.png")}
    assert set(seen) == pictures
