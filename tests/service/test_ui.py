"""MLflow's page with the script of skinml; what it does is in tests/store/test_views.py."""

from importlib.metadata import entry_points
from pathlib import Path

import pytest
from flask import Flask

from skinml.service import ui


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    """An application as MLflow's is, with a page of its own."""
    (tmp_path / "index.html").write_text("<html><head><script src=a.js></script></head></html>")
    app = Flask("mlflow.server", static_folder=str(tmp_path))
    app.add_url_rule("/", "serve", lambda: "MLflow's own")
    ui.add_script(app)
    return app


def test_the_script_runs_before_mlflows_own(app: Flask) -> None:
    answer = app.test_client().get("/")
    assert answer.mimetype == "text/html"
    assert answer.text.index(ui.SCRIPT.read_text()) < answer.text.index("<script src=a.js>")
    assert ui.STYLE.read_text() in answer.text


def test_a_page_that_a_browser_kept_of_mlflow_is_not_shown(app: Flask) -> None:
    """The two have one address: `mlflow server` and `make ui` listen at the same port."""
    answer = app.test_client().get("/", headers={"If-Modified-Since": "Fri, 1 Jan 2100 00:00:00"})
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"


def test_mlflow_finds_the_application() -> None:
    [found] = entry_points(group="mlflow.app", name="skinml")
    assert found.load() is ui.create_app
