"""What tests share: a cache of their own, a small demo set, a network that trains in seconds."""

import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from skinml.data import demo
from skinml.data.prepare import prepare
from skinml.data.prepared import PreparedSet
from skinml.tracking.folder import RunFolder
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Where .ci/run has installed every component, a test that skips itself hides a missing one.
NOTHING_IS_SKIPPED = os.environ.get("SKINML_CI") == "1"

TOY_COUNTS = {"train": 24, "validation": 9, "test": 12}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI a skipped test fails, with its own reason."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and NOTHING_IS_SKIPPED and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be: {report.longrepr}"


# Files of many tests that are not slow one by one: as many slow ones as they last.
LONG_FILES = {"test_loop.py": 10, "test_figures.py": 3, "test_sync.py": 3, "test_code_digest.py": 3}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that last longest come first: at the end no worker is left alone with one."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path] - LONG_FILES.get(item.path.name, 0))


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, data or tracking store."""
    monkeypatch.setenv("SKINML_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_ARTIFACT_ROOT", str(tmp_path / "artifacts"))
    # Nobody is there: whoever asks a test's terminal must not begin to download 12 GB.
    monkeypatch.setenv("SKINML_DOWNLOAD_URL", "http://127.0.0.1:9/")
    for name in (
        "SKINML_DATA_DIR",
        "MLFLOW_RUN_ID",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_EXPERIMENT_ID",
    ):
        monkeypatch.delenv(name, raising=False)
    # MLflow puts artifacts beside where it is called from.
    monkeypatch.chdir(tmp_path)


@contextmanager
def surroundings(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """What `own_surroundings` does, for longer than a test."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SKINML_CACHE_DIR", str(folder / "cache"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
            # Set first, so that what MLflow sets meanwhile is undone as well.
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        monkeypatch.chdir(folder)
        yield monkeypatch


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 generated images in the official layout. Read only: copy before changing anything."""
    folder = tmp_path_factory.mktemp("toy") / "official"
    demo.generate(folder, seed=1, counts=TOY_COUNTS, size=(144, 108))
    return folder


@pytest.fixture(scope="session")
def toy_set(toy_files: Path) -> PreparedSet:
    """The prepared set of `toy_files`: 24 training, 9 validation and 12 test images."""
    return prepare(toy_files, toy_files.parent / "prepared")


def add_tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a backbone of a few hundred parameters a row in BACKBONES; returns its name."""
    import keras

    from skinml.backbones import BACKBONES, Backbone, WeightsFile

    def tiny(
        weights: str | None, include_top: bool, input_shape: tuple[int, int, int]
    ) -> keras.Model:
        pixels = keras.Input(input_shape)
        x = keras.layers.Conv2D(8, 7, strides=16, padding="same", name="conv")(pixels)
        x = keras.layers.BatchNormalization(momentum=0.999, name="norm")(x)
        x = keras.layers.ReLU()(x)
        return keras.Model(pixels, x, name="tiny")

    monkeypatch.setattr(keras.applications, "Tiny", tiny, raising=False)
    row = Backbone("Tiny", 1 / 127.5, -1.0, 0.0, 0.0, WeightsFile("tiny.h5"))
    monkeypatch.setitem(BACKBONES, "tiny", row)
    # Config's choices were read from the table when it was defined.
    from skinml.config import Config

    field = Config.__dataclass_fields__["model"]
    monkeypatch.setattr(
        field, "metadata", {**field.metadata, "choices": (*field.metadata["choices"], "tiny")}
    )
    return "tiny"


@pytest.fixture(scope="module")
def tiny_backbone() -> Iterator[str]:
    """A backbone that trains in seconds, for the time of a test module."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield add_tiny_backbone(monkeypatch)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database that holds nothing. Making one takes seconds, copying it none."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator["MlflowClient"]:
    """An MLflow store of the test's own, which everything in the test writes to."""
    import mlflow

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    yield mlflow.MlflowClient()
    mlflow.end_run()


@pytest.fixture
def no_question_outlives_its_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For tests of servers that do not answer, whose questions are left behind (`ask`).

    MLflow opens a store under a lock of the process: while a thread waits for the 100 s of a
    database's retries, or for an answer, every later test of a store would wait with it.
    """
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    yield
    for thread in threading.enumerate():
        if thread.name == "ask":
            thread.join(PATIENCE)


@pytest.fixture
def finished_folder(tmp_path: Path) -> RunFolder:
    """The folder of a finished run of two epochs, written by hand: no network is in it."""
    from PIL import Image

    path = tmp_path / "runs" / "20260102-030405-mobilenetv2-16-s3-abcd"
    (path / "figures").mkdir(parents=True)
    (path / "run.json").write_text(
        json.dumps(
            {
                "name": "mobilenetv2-16-seed3",
                "params": {"model": "mobilenetv2", "learning_rate_frozen": "0.001", "seed": "3"},
                "tags": {
                    "model": "mobilenetv2",
                    "data": "isic2017",
                    "data_digest": "0123456789abcdef",
                    "split": "challenge",
                },
                "dataset": {
                    "name": "isic2017",
                    "digest": "0123456789abcdef",
                    "source": "prepared-isic2017",
                    "counts": {"train": {"melanoma": 374, "nevus": 1372}},
                },
            }
        )
    )
    folder = RunFolder.open(path)
    for epoch, step in ((1, "frozen"), (2, "finetune")):
        numbers = {
            f"{part}_{name}": epoch / 7
            for part in ("train", "val")
            for name in ("loss", "accuracy", "auc_macro")
        }
        folder.append_epoch(
            {
                "epoch": epoch,
                "step": step,
                **numbers,
                "learning_rate": 1e-3,
                "seconds": 2.5,
                "images_per_second": 40.0,
                "time": 1_700_000_000_000 + 60_000 * epoch,
            }
        )
    folder.write_metrics({"val_auc_macro": 0.8125, "test_accuracy": 0.75, "test_auc": float("nan")})
    for name in ("confusion_matrix", "roc_curves"):
        Image.new("RGBA", (40, 30), "white").save(folder.figures / f"{name}.png")
        (folder.figures / f"{name}.pdf").write_bytes(b"%PDF-1.4")
    for part in ("validation", "test"):
        folder.predictions(part).write_text("image_id,label,melanoma,nevus\na,nevus,0.25,0.75\n")
    folder.write_text("classification_report.txt", "a report\n")
    folder.write_text("model_summary.txt", "┌── a summary\n")
    folder.write_text("note.md", "**mobilenetv2**, 16 × 3\n")
    folder.finish()
    return folder


@pytest.fixture(scope="session")
def run_folder(toy_set: PreparedSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run of the demo set with a network that nobody has trained, and its data."""
    import keras

    from skinml.config import Config
    from skinml.models.classifier import build_classifier

    path = tmp_path_factory.mktemp("run") / "20260102-030405-tiny-16-s0-abcd"
    (path / "figures").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        config = Config(data="demo", data_dir=str(toy_set.folder), protocol="challenge")
        tiny = replace(config, model=add_tiny_backbone(monkeypatch), weights="none")
        keras.utils.set_random_seed(1)
        network = build_classifier(tiny, 3).model
        # Initial weights say nearly the same of everything; these tell pictures apart.
        logits = np.log(network.predict(toy_set.images[:], verbose=0))
        logits -= logits.mean(axis=1, keepdims=True)
        *others, kernel, bias = network.get_weights()
        scale = 1 / logits.std(axis=0).mean()
        network.set_weights([*others, kernel * scale, bias - scale * logits.mean(axis=0)])
        network.save(path / "model.keras")
        params = {name: str(value) for name, value in tiny.as_dict().items()}
        params |= {
            f"effective_{name}": str(value)
            for name, value in tiny.resolved().as_dict().items()
            if str(value) != params[name]
        }
        description = {
            "name": "tiny-16-seed0",
            "params": params | {"data_digest": toy_set.digest},
            "tags": {"model": "tiny", "data": "demo"},
            "dataset": {},
        }
        (path / "run.json").write_text(json.dumps(description))
        RunFolder.open(path).finish()
        yield path


def noted(folder: RunFolder, error: BaseException | None = None) -> RunFolder:
    """A finished folder with the journal of a run without a server, which an error may end."""
    from skinml.run.tracked import track

    try:
        with track(folder, folder.read_description(), offline=True, load=False) as run:
            for row in folder.read_history():
                run.log_epoch(row)
            if error:
                raise error
            run.log_results()
    except BaseException as raised:
        if raised is not error:
            raise
    return folder
