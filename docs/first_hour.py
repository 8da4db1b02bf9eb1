"""Picture a person's first hour with the tracking service: `python docs/first_hour.py [DIR]`.

Starts the service natively (docs/service.md) on a folder that is gone afterwards, makes the users
ann and bea, logs `make demo`'s run with `mlflow run` as ann, and drives Chromium as both, for the
pictures of docs/first-hour.md. Takes some minutes.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
from playwright.sync_api import Browser, BrowserContext, HttpCredentials, Page
from screenshots import chromium, open_page, save_picture

from skinml.service.native import ROOT, Native
from skinml.service.user import make_user
from skinml.store.views import install_views

FOLDER = ROOT / "docs" / "images" / "first-hour"
EXPERIMENT = "skinml-demo"
MODEL = "skinml-demo-mobilenetv3small"
# As the text shows them; some come with the second training.
VIEWS = (
    "results-table",
    "curves",
    "parallel-coordinates",
    "by-model",
    "roc-grid",
    "confusion-grid",
)
DEMO = "model=mobilenetv3small data=demo weights=none epochs_finetune=8"


@dataclass
class Reader:
    """Who looks at the service, and where the pictures go."""

    browser: Browser
    address: str
    folder: Path
    profiles: dict[str, BrowserContext] = field(default_factory=dict)

    def open(self, url: str, ready: str, user: HttpCredentials, height: int = 800) -> Page:
        """A page of the UI as a user sees it in a browser of their own; see `open_page`.

        `user` is what a person would type into the browser's dialog.
        """
        key = f"{user['username']} {user['password']}"
        if key not in self.profiles:
            self.profiles[key] = self.profile(user)
        return open_page(self.profiles[key], f"{self.address}/{url}", ready, height)

    def profile(self, user: HttpCredentials) -> BrowserContext:
        """A browser's profile that has been nowhere yet."""
        return self.browser.new_context(http_credentials=user)

    def save(self, page: Page, name: str) -> None:
        """Write the picture of a page, and close it."""
        save_picture(page, self.folder / f"{name}.png")
        page.close()


def log_demo(user: str, folder: Path) -> None:
    """Train the demo as a client of three variables does, with `mlflow run` in a checkout."""
    # The names of its folder and of who is logged in are on the run's page.
    checkout = folder / "skinml"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    words = [word for value in DEMO.split() for word in ("-P", value)]
    subprocess.run(
        ["mlflow", "run", ".", "--env-manager", "local", "--experiment-name", EXPERIMENT, *words],
        cwd=checkout,
        env=os.environ | {"LOGNAME": user},
        check=True,
    )


def take_pictures(reader: Reader, ann: HttpCredentials, bea: HttpCredentials) -> None:
    """From the closed door to the champion, and what another user sees of all that."""
    found = mlflow.get_experiment_by_name(EXPERIMENT)
    assert found is not None
    # The run of the champion, whatever else is there.
    champion = mlflow.MlflowClient().get_model_version_by_alias(MODEL, "champion")
    run = mlflow.get_run(champion.run_id)
    here = "workflowType=machine_learning"
    runs = f"#/experiments/{found.experiment_id}/runs"
    page = f"{runs}/{run.info.run_id}"

    stranger: HttpCredentials = {"username": "ann", "password": "a guess"}
    reader.save(reader.open("", "text=You are not authenticated", stranger, 120), "01-closed")
    reader.save(reader.open(f"#/experiments?{here}", f"text={EXPERIMENT}", ann), "02-experiments")
    opened = reader.open(f"{runs}?{here}", f"text={run.info.run_name}", ann)
    arrow = "[data-component-id='mlflow.experiment.metadata_editor.expand_button']"
    opened.locator(arrow).click()
    reader.save(opened, "03-experiment")

    views = install_views(found.experiment_id)
    for number, name in enumerate(VIEWS, 4):
        if name in views:
            view = reader.open(views[name], "[data-testid=saved-views-trigger]", ann)
            reader.save(view, f"{number:02}-{name}")

    reader.save(reader.open(f"{page}?{here}", "text=About this run", ann), "10-run")
    metrics = f"{page}/model-metrics?{here}"
    reader.save(reader.open(metrics, "text=train_loss", ann), "11-metrics")
    for number, figure, height in ((12, "confusion_matrix", 960), (13, "roc", 1240)):
        # What stands above the image, which follows.
        url = f"{page}/artifacts/figures/{figure}.png?{here}"
        artifact = reader.open(url, "text=Path:", ann, height)
        reader.save(artifact, f"{number}-{figure.replace('_', '-')}")

    model = f"#/models/{MODEL}"
    reader.save(reader.open(f"{model}?{here}", "text=champion", ann), "14-model")
    reader.save(reader.open(f"{model}/versions/1?{here}", "text=champion", ann), "15-champion")
    empty = "text=Create your first experiment"
    reader.save(reader.open(f"#/experiments?{here}", empty, bea), "16-another-user")


def main(folder: str = str(FOLDER)) -> None:
    """Write the pictures, PNGs 1280 pixels wide."""
    pictures = Path(folder).resolve()
    pictures.mkdir(parents=True, exist_ok=True)
    # PostgreSQL, which refuses to run as root, passes through the folder as another user.
    with tempfile.TemporaryDirectory(prefix="skinml-first-hour-") as name:
        Path(name).chmod(0o711)
        with Native(Path(name) / "data").up() as service:
            admin = service.variables["MLFLOW_AUTH_ADMIN_PASSWORD"]
            ann, bea = (
                HttpCredentials(username=user, password=make_user(service.address, admin, user))
                for user in ("ann", "bea")
            )
            os.environ["MLFLOW_TRACKING_URI"] = service.address
            os.environ["MLFLOW_TRACKING_USERNAME"] = ann["username"]
            os.environ["MLFLOW_TRACKING_PASSWORD"] = ann["password"]
            log_demo("ann", Path(name))
            with chromium() as browser:
                take_pictures(Reader(browser, service.address, pictures), ann, bea)


if __name__ == "__main__":
    main(*sys.argv[1:])
