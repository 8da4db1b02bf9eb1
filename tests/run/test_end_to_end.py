"""One whole run, from pictures to a registered model, and what may never be in it."""

import json
import math
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from skinml.config import Config
from skinml.data.images import decode_image
from skinml.data.isic2017 import CLASSES
from skinml.data.prepare import open_data
from skinml.data.prepared import PreparedSet
from skinml.data.protocols import assign_parts, split_of
from skinml.evaluation.answering import Chosen, read_chosen
from skinml.evaluation.figures import FIGURES
from skinml.evaluation.metrics import headline, metrics_of, point_metrics
from skinml.evaluation.operating_point import RULES
from skinml.evaluation.predictions import Predictions, read_predictions
from skinml.evaluation.results import PREFIXES, evaluate_tables
from skinml.evaluation.statistics import LEAST_OF_A_CLASS, carriers_of
from skinml.export.made import export_run
from skinml.models.exported import read_about
from skinml.run.description import describe_run, split_name
from skinml.run.end_to_end import run
from skinml.run.messages import features_teller, tell_results
from skinml.run.note import make_note
from skinml.run.results import Costs
from skinml.run.tracked import FEATURES_DONE, Tracked
from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.folder import RunFolder
from skinml.training.backend import Device
from tests.conftest import surroundings

pytestmark = pytest.mark.slow

# What a clock measured: the same command gives other values.
MEASURED = {
    *("latency_ms", "latency_ms_q25", "latency_ms_q75", "training_seconds"),
    "export_litert_float32_ms",
}

COST = {
    *Costs._fields,
    "export_litert_float32_mb",
    "export_litert_float32_ms",
    "export_litert_float32_largest_difference",
}


def toy_config(toy_files: Path, **options: Any) -> Config:
    values: dict[str, Any] = {
        "model": "tiny",
        "data": "demo",
        "data_dir": str(toy_files),
        "protocol": "challenge",
        "weights": "none",
        "dense_units": "16,8,8",
        "batch_size": 8,
        "epochs_frozen": 2,
        "epochs_finetune": 2,
        "learning_rate_finetune": 0.01,
        # So whatever answers here, Keras, an export or a server, averages them.
        "test_views": 8,
        "device": "cpu",
    }
    return Config(**values | options)


@dataclass
class Finished:
    """A finished run and where it was tracked."""

    folder: RunFolder
    config: Config
    store: Path
    rows_read: set[int]

    @property
    def id(self) -> str:
        return (self.folder.path / "mlflow_run_id").read_text().strip()


@pytest.fixture(scope="module")
def finished(
    tiny_backbone: str,
    toy_files: Path,
    empty_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Finished:
    """One run, tracked in a SQLite store; the rows of the set that its training read."""
    from skinml.training import loop as training

    store = tmp_path_factory.mktemp("run")
    shutil.copy(empty_store, store / "mlflow.db")
    config = toy_config(toy_files)
    rows_read: set[int] = set()

    class Watched:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __getitem__(self, rows: Any) -> np.ndarray:
            rows_read.update(np.arange(len(self.array))[rows].ravel().tolist())
            return self.array[rows]

    original = training.train

    def watched(classifier: Any, config: Config, data: Any, *others: Any) -> Any:
        data = replace(data, images=Watched(data.images), labels=Watched(data.labels))
        return original(classifier, config, data, *others)

    with surroundings(store) as monkeypatch:
        monkeypatch.setattr(training, "train", watched)
        folder = run(config)
    return Finished(folder, config, store, rows_read)


@pytest.fixture(scope="module")
def repeated(
    finished: Finished, toy_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    """The same command again, without MLflow: it cannot be imported."""
    with surroundings(tmp_path_factory.mktemp("repeated")) as monkeypatch:
        for name in [name for name in sys.modules if name.split(".")[0] == "mlflow"]:
            monkeypatch.setitem(sys.modules, name, None)
        return run(finished.config, offline=True)


@pytest.fixture
def client(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's client for the store of the finished run."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished.store}/mlflow.db")
    monkeypatch.chdir(finished.store)
    return MlflowClient()


# The run folder


def test_the_run_folder_is_complete(finished: Finished) -> None:
    names = {
        p.relative_to(finished.folder.path).as_posix() for p in finished.folder.path.rglob("*")
    }
    assert names == {
        "journal.log",
        "forward.json",
        "forward.log",
        "forward.lock",
        "run.json",
        "history.csv",
        "predictions_validation.csv",
        "predictions_test.csv",
        "metrics.json",
        "figures",
        *(f"figures/{name}.{form}" for name in FIGURES for form in ("png", "pdf")),
        "classification_report.txt",
        "model_summary.txt",
        "note.md",
        "report.html",
        "pictures.html",
        "model_card.md",
        "subgroups.csv",
        "model.keras",
        "model.tflite",
        "mlflow_run_id",
        "FINISHED",
    }


def test_every_text_for_a_person_says_that_it_is_not_for_clinical_use(finished: Finished) -> None:
    for name in ("classification_report.txt", "note.md"):
        assert "not for clinical use" in finished.folder.read_text(name)
    assert "say nothing about skin lesions" in finished.folder.read_text("note.md")


def test_the_predictions_are_of_the_parts_images_and_give_the_metrics(
    finished: Finished, toy_files: Path
) -> None:
    metrics = finished.folder.read_metrics()
    data = open_data("demo", str(toy_files))
    for part, prefix in (("validation", "val"), ("test", "test")):
        table = read_predictions(finished.folder.predictions(part))
        of_part = data.official_parts == part
        assert table.image_ids.tolist() == data.image_ids[of_part].tolist()
        assert table.labels.tolist() == data.labels[of_part].tolist()
        np.testing.assert_allclose(table.scores.sum(axis=1), 1, atol=1e-6)
        for name, value in point_metrics(table).items():
            assert metrics[f"{prefix}_{name}"] == pytest.approx(value, abs=1e-8, nan_ok=True)


def with_intervals(finished: Finished) -> dict[str, set[str]]:
    """The headline metrics of each part that enough images carry: few of a toy set do."""
    tables = {
        prefix: read_predictions(finished.folder.predictions(part))
        for part, prefix in PREFIXES.items()
    }
    return {
        prefix: {name for name in headline(CLASSES) if carriers_of(name, table) >= LEAST_OF_A_CLASS}
        for prefix, table in tables.items()
    }


def test_every_headline_metric_lies_within_its_interval(finished: Finished) -> None:
    metrics = finished.folder.read_metrics()
    for prefix, told in with_intervals(finished).items():
        assert {name for name in headline(CLASSES) if f"{prefix}_{name}_ci_low" in metrics} == told
        for name in told:
            low, value, high = (
                metrics[f"{prefix}_{name}{end}"] for end in ("_ci_low", "", "_ci_high")
            )
            assert low <= value <= high, f"{prefix}_{name}"


# What a person reads of it


def note_of(finished: Finished, test: Predictions, **metrics: float) -> str:
    """The note of the finished run, had it ended with other predictions."""
    tables = {"validation": read_predictions(finished.folder.predictions("validation"))}
    measured = finished.folder.read_metrics() | evaluate_tables(tables | {"test": test})
    description = finished.folder.read_description()
    return make_note(finished.config.resolved(), description, measured | metrics, test)


def answering(*labels: str) -> Predictions:
    """A table of twelve images, six of them nevi, to which these classes are answered."""
    true = ["nevus"] * 6 + ["melanoma"] * 4 + ["seborrheic_keratosis"] * 2
    scores = 0.1 + 0.7 * np.eye(3)[[CLASSES.index(label) for label in labels]]
    indices = np.array([CLASSES.index(label) for label in true])
    return Predictions(np.arange(12).astype(str), indices, scores, CLASSES)


def row(note: str, begins: str) -> list[str]:
    """The cells of a table's row."""
    [line] = [line for line in note.splitlines() if line.startswith(f"| {begins}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_note_says_what_decides_whether_the_network_is_of_use(finished: Finished) -> None:
    """Five of six nevi, one of four melanomas and both keratoses are called what they are."""
    answers = ["nevus"] * 5 + ["melanoma"] * 2 + ["nevus"] * 3 + ["seborrheic_keratosis"] * 2
    note = note_of(finished, answering(*answers), melanoma_threshold=0.0625)
    assert row(note, "accuracy")[1] == f"{8 / 12:.4f}"
    assert row(note, "melanoma_auc")[2] == "too few images"
    assert row(note, "… of always answering “nevus”")[1] == "0.5000"
    assert row(note, "nevus | its score")[2:] == [f"{5 / 6:.4f}", "0.5000"]
    assert row(note, "melanoma | its score is the highest")[2:] == ["0.2500", "0.8750"]
    assert row(note, "seborrheic keratosis | its score")[2:] == ["1.0000", "1.0000"]
    assert row(note, "melanoma | its score is 0.0625 or more")
    assert "finds at least 82 % of the melanomas among the validation images" in note
    assert "tells nothing apart" not in note
    assert "epochs, recipe paper" in note
    assert "ms an image in 8 views on " in note


@pytest.mark.parametrize(
    ("point", "told"),
    [
        ("sensitivity:0.9", "finds at least 90 % of the melanomas among the validation images."),
        ("specificity:0.75", "leaves at least 75 % of the other validation images."),
        ("youden", "the threshold of the highest sum of both among the validation images."),
    ],
)
def test_the_note_says_by_what_its_threshold_was_chosen(
    finished: Finished, point: str, told: str
) -> None:
    metrics = finished.folder.read_metrics() | {"melanoma_threshold": 0.0625}
    test = read_predictions(finished.folder.predictions("test"))
    config = replace(finished.config.resolved(), operating_point=point)
    assert told in make_note(config, finished.folder.read_description(), metrics, test)


def test_the_note_has_the_thresholds_rates_on_the_test_images(finished: Finished) -> None:
    note, metrics = finished.folder.read_text("note.md"), finished.folder.read_metrics()
    rates = (metrics[f"test_{r}_melanoma_at_threshold"] for r in ("sensitivity", "specificity"))
    cells = row(note, f"melanoma | its score is {metrics['melanoma_threshold']:.4f} or more")
    assert cells[2:] == [f"{rate:.4f}" for rate in rates]


def test_without_a_melanoma_in_validation_there_is_no_threshold(finished: Finished) -> None:
    note = note_of(finished, answering(*["melanoma"] * 12), melanoma_threshold=math.nan)
    assert "or more" not in note
    assert row(note, "melanoma | its score is the highest")[2:] == ["1.0000", "0.0000"]


def test_a_network_that_gives_one_answer_is_called_so_first(finished: Finished) -> None:
    note = note_of(finished, answering(*["nevus"] * 12))
    assert "**This network answers “nevus” to every image: it tells nothing apart.**" in note
    assert note.index("tells nothing apart") < note.index("accuracy")


@pytest.mark.parametrize(
    ("data", "variable", "command"),
    [
        ("isic2017", "", "python -m skinml.compare --grid none"),
        ("demo", "", "python -m skinml.compare --grid none --experiment skinml-demo"),
        (
            "demo",
            "MLFLOW_EXPERIMENT_NAME",
            "python -m skinml.compare --grid none --experiment mine",
        ),
    ],
)
def test_the_end_of_a_run_names_its_models_and_the_next_commands(
    finished: Finished,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: str,
    variable: str,
    command: str,
) -> None:
    if variable:
        monkeypatch.setenv(variable, "mine")
    description = finished.folder.read_description()
    told = replace(description, tags=description.tags | {"data": data})
    monkeypatch.setattr(RunFolder, "read_description", lambda folder: told)
    uris = {"model": "models:/skinml-tiny/3", "serving": "models:/skinml-tiny-serving/2"}
    uris |= {"results": "http://127.0.0.1:5000/#/experiments/1"}

    class Forwarder:
        def state(self) -> Acknowledged:
            return Acknowledged("here", finished.id, uris=uris)

    tell_results(finished.folder, Tracked(finished.folder, None, Forwarder(), None))  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert out.startswith(finished.folder.read_text("note.md"))
    assert [line.split(maxsplit=1) for line in out.splitlines()[-6:]] == [
        ["run", finished.id],
        ["model", uris["model"]],
        ["serving", f"model  {uris['serving']}"],
        ["try", f"it         python -m skinml.predict {uris['model']} PICTURE.jpg"],
        ["compare", command],
        ["results", uris["results"]],
    ]


def test_the_end_of_an_offline_run_says_how_to_publish_it(
    repeated: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_results(repeated, Tracked(repeated, None, None, None))  # type: ignore[arg-type]
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"publish        python -m skinml.sync {repeated.path}"


def test_the_models_that_a_run_names_are_its_registered_versions(
    finished: Finished, client: Any
) -> None:
    uris = Acknowledged.load(finished.folder.path / "forward.json").uris
    uris.pop("results")
    assert uris == {
        "model": "models:/skinml-demo-tiny/1",
        "serving": "models:/skinml-demo-tiny-serving/1",
    }
    for uri in uris.values():
        _, name, version = uri.split("/")
        assert client.get_model_version(name, version).run_id == finished.id


def test_the_features_are_followed_in_mlflow(finished: Finished, client: Any) -> None:
    points = client.get_metric_history(finished.id, FEATURES_DONE)
    assert max(point.step for point in points) == points[-1].value == 24 + 9


def test_a_log_without_a_bar_is_told_of_the_features_twice_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From 40 images that were there before on: two seconds for each of the others."""
    noted: list[int] = []
    tracked = SimpleNamespace(log_features=noted.append)
    tell = features_teller(tracked)  # type: ignore[arg-type]
    for done in range(42, 101, 2):
        monkeypatch.setattr("skinml.run.messages.time.monotonic", lambda: 1000.0 + 2 * done)  # noqa: B023
        tell(done, 100)
    assert noted == [42, 58, 74, 90, 100]
    assert capsys.readouterr().err.splitlines() == [
        "features: 58 of 100 images, 1 min left",
        "features: 74 of 100 images, 52 s left",
        "features: 90 of 100 images, 20 s left",
        "features: 100 of 100 images, 0 s left",
    ]


def test_the_cost_of_the_network_is_measured(finished: Finished) -> None:
    metrics = finished.folder.read_metrics()
    assert set(metrics) >= COST
    assert metrics["model_size_mb"] == finished.folder.model.stat().st_size / 1e6
    # Convolution, normalisation and four dense layers.
    expected = (147 * 8 + 8) + 4 * 8 + (8 * 16 + 16) + (16 * 8 + 8) + (8 * 8 + 8) + (8 * 3 + 3)
    assert metrics["parameters_millions"] == expected / 1e6
    assert 0 < metrics["latency_ms_q25"] <= metrics["latency_ms"] <= metrics["latency_ms_q75"]


# What is known before


@pytest.mark.parametrize(
    ("choice", "name", "some_seen"),
    [
        ("together", "paper test=0.15 val=0.2 near=together seed=0", False),
        # The name and the split of runs that were made before there was a choice.
        ("identical", "paper test=0.15 val=0.2 seed=0", True),
        ("ignore", "paper test=0.15 val=0.2 near=ignore seed=0", True),
    ],
)
def test_a_run_tells_how_it_split_near_duplicates(
    choice: str, name: str, some_seen: bool, toy_set: PreparedSet
) -> None:
    """The nevi are made pairs here: drawn one by one, some lie on both sides."""
    nevi = np.flatnonzero(toy_set.labels == CLASSES.index("nevus"))
    groups = toy_set.image_ids.copy()
    groups[nevi[1::2]] = groups[nevi[: len(nevi) // 2 * 2 : 2]]
    data = replace(toy_set, near_duplicate_group=groups)
    config = Config(data="demo", near_duplicates=choice)
    parts = assign_parts(data, *split_of(config))
    description = describe_run(config, data, parts, Device("none", "cpu", "none", 1))
    assert description.tags["split"] == split_name(config) == name
    assert description.params["near_duplicates"] == choice
    assert description.params["near_duplicate_groups"] == str(len(nevi) // 2)
    assert (int(description.params["test_images_seen_in_training"]) > 0) == some_seen


# What training may see


def test_nothing_of_the_test_part_reaches_training(finished: Finished, toy_files: Path) -> None:
    data = open_data("demo", str(toy_files))
    parts = assign_parts(data, "challenge")
    assert finished.rows_read == set(np.flatnonzero(parts != "test").tolist())


# Repeatability


def test_the_same_command_gives_the_same_scores_to_the_last_digit(
    finished: Finished, repeated: RunFolder
) -> None:
    for part in ("validation", "test"):
        first = finished.folder.predictions(part).read_bytes()
        assert repeated.predictions(part).read_bytes() == first


def test_the_same_command_gives_the_same_metrics_to_the_last_digit(
    finished: Finished, repeated: RunFolder
) -> None:
    first, second = (
        {
            name: value
            for name, value in folder.read_metrics().items()
            # Sizes of files: in model.keras are compressed time stamps, in the exported one the
            # names of layers, which Keras numbers through a process.
            if name not in MEASURED | {"model_size_mb", "export_litert_float32_mb"}
        }
        for folder in (finished.folder, repeated)
    )
    assert second.keys() == first.keys()
    np.testing.assert_equal(second, first)


def test_the_same_command_gives_the_same_figures(finished: Finished, repeated: RunFolder) -> None:
    for name in FIGURES:
        first = (finished.folder.figures / f"{name}.png").read_bytes()
        assert (repeated.figures / f"{name}.png").read_bytes() == first, name


# In MLflow


def test_the_run_is_finished_with_every_parameter(finished: Finished, client: Any) -> None:
    tracked = client.get_run(finished.id)
    assert tracked.info.status == "FINISHED"
    assert client.get_experiment(tracked.info.experiment_id).name == "skinml-demo"
    params = tracked.data.params
    for option in fields(Config):
        assert params[option.name] == str(getattr(finished.config, option.name))
    assert params["effective_batch_norm"] == "trained"
    for name in ("training_digest", "config_digest", "data_digest", "version_keras", "device_name"):
        assert params[name]
    assert tracked.data.tags["model"] == "tiny"
    assert tracked.data.tags["demo"] == "true"
    assert tracked.data.tags["challenge_score"] == "unofficial"
    assert "not for clinical use" in tracked.data.tags["mlflow.note.content"]
    [dataset] = tracked.inputs.dataset_inputs
    assert dataset.dataset.digest == params["data_digest"]


def test_the_run_has_every_metric_of_both_parts(finished: Finished, client: Any) -> None:
    metrics = finished.folder.read_metrics()
    names = {f"{prefix}_{name}" for prefix in ("val", "test") for name in metrics_of(CLASSES)}
    names |= {
        f"{prefix}_{name}_ci_{end}"
        for prefix, told in with_intervals(finished).items()
        for name in told
        for end in ("low", "high")
    }
    names |= {
        f"{prefix}_{rate}_melanoma_at_threshold"
        for prefix in ("val", "test")
        for rate in ("sensitivity", "specificity")
    }
    chosen = {name for name in metrics if name.startswith(("operating_point/", "temperature"))}
    # Of so few images a nevus may have the highest score of all: no threshold spares 90 %.
    always = [rule for rule in RULES if rule.kind != "specificity"]
    assert {f"operating_point/{rule.key}/threshold" for rule in always} <= chosen
    assert set(metrics) - chosen == names | COST | {"melanoma_threshold"}
    tracked = client.get_run(finished.id).data.metrics
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    assert len(finite) > 0.9 * len(metrics)
    assert {name: tracked.get(name) for name in finite} == finite


def test_the_run_has_its_curves(finished: Finished, client: Any) -> None:
    for name in ("train_loss", "val_loss", "val_auc_macro", "learning_rate"):
        points = client.get_metric_history(finished.id, f"epoch/{name}")
        rows = finished.folder.read_history()
        # Logged as they came and once more at the end: still one point an epoch.
        assert [(p.step, p.value) for p in points] == [(r["epoch"], r[name]) for r in rows]


def test_the_run_has_every_figure_as_file_and_as_image(finished: Finished, client: Any) -> None:
    files = {item.path for item in client.list_artifacts(finished.id, "figures")}
    assert files == {f"figures/{name}.{form}" for name in FIGURES for form in ("png", "pdf")}
    images = {item.path for item in client.list_artifacts(finished.id, "images")}
    for name in FIGURES:
        # What the image grid of MLflow's page reads.
        assert any(re.match(rf"images/{name}[%+]step[%+]0[%+].*\.png$", path) for path in images), (
            name
        )


def test_the_tracked_files_are_those_of_the_folder(
    finished: Finished, client: Any, tmp_path: Path
) -> None:
    for name in (
        "predictions_validation.csv",
        "predictions_test.csv",
        "history.csv",
        "run.json",
        "metrics.json",
        "classification_report.txt",
        "model_summary.txt",
    ):
        path = Path(client.download_artifacts(finished.id, name, str(tmp_path)))
        assert path.read_bytes() == (finished.folder.path / name).read_bytes()


# The models


NAMES = ("skinml-demo-tiny", "skinml-demo-tiny-serving")


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_registered_as_champion_with_its_figures(
    finished: Finished, client: Any, name: str
) -> None:
    version = client.get_model_version_by_alias(name, "champion")
    assert str(version.version) == "1"
    metrics = finished.folder.read_metrics()
    assert version.tags["val_auc_macro"] == f"{metrics['val_auc_macro']:.4f}"
    assert version.tags["test_accuracy"] == f"{metrics['test_accuracy']:.4f}"
    assert version.tags["split"] == "challenge"
    assert version.tags["data"] == "demo"
    assert "not for clinical use" in version.tags["notice"]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_carries_the_operating_points_that_its_run_chose(
    finished: Finished, client: Any, name: str
) -> None:
    import mlflow

    metadata = mlflow.models.get_model_info(f"models:/{name}@champion").metadata
    chosen = read_chosen(metadata or {}, CLASSES)
    metrics = finished.folder.read_metrics()
    assert {rule: point.threshold for rule, point in chosen.points.items()} == {
        rule.name: metrics[key]
        for rule in RULES
        if (key := f"operating_point/{rule.key}/threshold") in metrics
    }
    assert chosen.temperature == metrics.get("temperature")
    assert read_chosen(read_about(finished.folder.exported), CLASSES) == chosen


@pytest.mark.parametrize("name", NAMES)
def test_a_model_holds_no_pickle_and_pins_what_it_needs(
    client: Any, finished: Finished, name: str, tmp_path: Path
) -> None:
    import mlflow

    folder = Path(
        mlflow.artifacts.download_artifacts(f"models:/{name}@champion", dst_path=str(tmp_path))
    )
    files = [path for path in folder.rglob("*") if path.is_file()]
    networks = {path.name for path in files if path.suffix in (".keras", ".tflite")}
    serving = name.endswith("-serving")
    assert networks == ({"model.tflite"} if serving else {"model.keras", "model.tflite"})
    for path in files:
        assert path.suffix not in (".pkl", ".pickle", ".joblib"), path
        # A pickle of protocol 2 or later begins so, whatever it is called.
        assert not re.match(rb"\x80[\x02-\x05]", path.read_bytes()[:2]), path
    assert ".pkl" not in (folder / "MLmodel").read_text()
    requirements = (folder / "requirements.txt").read_text().splitlines()
    named = {line.partition("==")[0] for line in requirements}
    assert ("ai-edge-litert" if serving else "keras") in named
    # An environment without TensorFlow is made in seconds.
    assert not (serving and named & {"keras", "tensorflow", "tensorflow-cpu"})
    for line in requirements:
        assert re.fullmatch(r"[\w.\[\],-]+==[\w.]+", line), line


@pytest.mark.parametrize("name", NAMES)
def test_a_model_names_no_file_of_the_machine_that_trained_it(
    client: Any, finished: Finished, name: str, tmp_path: Path
) -> None:
    import mlflow

    folder = Path(
        mlflow.artifacts.download_artifacts(f"models:/{name}@champion", dst_path=str(tmp_path))
    )
    assert not list(folder.rglob("__pycache__"))
    if name == "skinml-demo-tiny":
        assert not list(folder.rglob("code"))


def test_the_keras_file_has_no_optimizer(finished: Finished, tmp_path: Path) -> None:
    import h5py

    with zipfile.ZipFile(finished.folder.model) as archive:
        assert json.loads(archive.read("config.json")).get("compile_config") in (None, {})
        archive.extract("model.weights.h5", tmp_path)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        assert "optimizer" not in file


def test_the_keras_model_gives_the_scores_of_the_table(
    finished: Finished, client: Any, toy_files: Path
) -> None:
    import mlflow

    model = mlflow.keras.load_model("models:/skinml-demo-tiny@champion")
    table = read_predictions(finished.folder.predictions("test"))
    data = open_data("demo", str(toy_files))
    pixels = np.asarray(data.images[np.isin(data.image_ids, table.image_ids)])
    # A batch of another size may differ in the last bit.
    np.testing.assert_allclose(model.predict_on_batch(pixels), table.scores, atol=1e-6)


def picture_files(toy_files: Path, image_ids: np.ndarray) -> list[Path]:
    by_name = {path.stem: path for path in toy_files.rglob("*.jpg")}
    return [by_name[name] for name in image_ids]


# MLflow says so of its own types, to whoever imports mlflow.pyfunc first.
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")
def test_the_serving_model_gives_the_scores_of_the_table(
    finished: Finished, client: Any, toy_files: Path
) -> None:
    import base64

    import mlflow
    import pandas as pd

    model = mlflow.pyfunc.load_model("models:/skinml-demo-tiny-serving@champion")
    table = read_predictions(finished.folder.predictions("test"))
    files = picture_files(toy_files, table.image_ids)
    answer = model.predict(
        pd.DataFrame({"image": [base64.b64encode(path.read_bytes()).decode() for path in files]})
    )
    assert list(answer.columns) == ["label", *CLASSES, "notice"]
    # The exported file here, Keras there.
    np.testing.assert_allclose(answer[list(CLASSES)].to_numpy(), table.scores, atol=1e-4)
    assert answer["label"].tolist() == [CLASSES[index] for index in table.predicted]
    [notice] = set(answer["notice"])
    asked = model.predict(
        pd.DataFrame({"image": [base64.b64encode(files[0].read_bytes()).decode()]}),
        params={"operating_point": "youden"},
    )
    threshold = finished.folder.read_metrics()["operating_point/youden/threshold"]
    assert asked["threshold"][0] == threshold
    assert asked["margin"][0] == pytest.approx(table.scores[0, 0] - threshold, abs=1e-4)
    with pytest.raises(mlflow.MlflowException, match=r"this model has sensitivity:0\.82, "):
        model.predict(
            pd.DataFrame({"image": ["unread"]}), params={"operating_point": "sensitivity:0.5"}
        )
    assert notice.startswith("Research software, not for clinical use. Trained on generated demo")


def test_predict_answers_from_the_registry(
    finished: Finished, client: Any, toy_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from skinml import predict

    table = read_predictions(finished.folder.predictions("test"))
    [path] = picture_files(toy_files, table.image_ids[:1])
    uri = "models:/skinml-demo-tiny@champion"
    code = predict.main([uri, str(path), "--format", "json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert "Trained on generated demo images" in json.loads(captured.out)["notice"]
    [answer] = json.loads(captured.out)["predictions"]
    assert [answer[name] for name in CLASSES] == pytest.approx(table.scores[0].tolist(), abs=1e-4)
    assert decode_image(path.read_bytes()).shape == (224, 224, 3)
    # Also by an address that does not name the demo.
    version = client.get_model_version_by_alias("skinml-demo-tiny", "champion")
    assert predict.load(version.source).of_the_demo


def test_both_runtimes_of_predict_give_the_same_scores(
    finished: Finished, client: Any, toy_files: Path
) -> None:
    from skinml.predict import load, predict_files

    files = sorted(toy_files.rglob("*.jpg"))[:8]
    uri = "models:/skinml-demo-tiny@champion"
    exported, keras = (
        predict_files(load(uri, runtime, 2).network, CLASSES, files)
        for runtime in ("litert", "keras")
    )
    for one, other in zip(exported, keras, strict=True):
        assert one["file"] == other["file"] and one["label"] == other["label"]
        for name in CLASSES:
            assert one[name] == pytest.approx(other[name], abs=1e-4)


def test_predict_loads_neither_tensorflow_nor_keras_nor_mlflow(
    finished: Finished, client: Any, toy_files: Path
) -> None:
    """The reason why it answers at once."""
    probe = (
        "import sys; from skinml import predict; code = predict.main(sys.argv[1:]); "
        "heavy = {'tensorflow', 'keras', 'mlflow', 'pandas', 'scipy', 'sklearn', 'onnx'}; "
        "print(code, sorted(heavy & sys.modules.keys()))"
    )
    picture = min(toy_files.rglob("*.jpg"))
    command = [sys.executable, "-c", probe, "models:/skinml-demo-tiny@champion", str(picture)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[-1] == "0 []", ended.stderr


def test_an_export_that_fails_leaves_the_run_its_keras_model(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Hours of training are not lost for it; nor is there half a file, or one that answers else."""

    def fail(*given: object) -> bytes:
        raise RuntimeError("no such operation")

    folder = RunFolder(tmp_path)
    shutil.copy(finished.folder.model, folder.model)
    images, expected = np.zeros((1, 224, 224, 3), np.uint8), np.zeros((1, 3))
    params = finished.folder.read_description().params
    monkeypatch.setattr("skinml.export.made.convert", fail)
    assert export_run(folder, params, Chosen(), None, images, expected) == {}
    with zipfile.ZipFile(finished.folder.exported) as archive:  # what it says stands at its end
        start = min(member.header_offset for member in archive.infolist())
    content = finished.folder.exported.read_bytes()[:start]
    monkeypatch.setattr("skinml.export.made.convert", lambda *given: content)
    assert export_run(folder, params, Chosen(), None, images, expected) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    told = capsys.readouterr().err.splitlines()
    assert "no exported file" in told[0] and "no such operation" in told[0]
    assert "its scores differ by up to" in told[1] and len(told) == 2


# Without MLflow


def test_an_offline_run_does_not_need_mlflow(repeated: RunFolder) -> None:
    assert repeated.finished
    assert not (repeated.path / "mlflow_run_id").exists()


def test_an_offline_run_is_synced_later_as_if_it_had_been_tracked(
    finished: Finished, repeated: RunFolder, client: Any
) -> None:
    from skinml.sync import sync

    run_id = sync(repeated.path)
    assert sync(repeated.path) == run_id, "published twice"
    first, second = client.get_run(finished.id), client.get_run(run_id)
    assert second.info.status == "FINISHED"
    assert second.data.params == first.data.params
    assert second.info.experiment_id == first.info.experiment_id
    system = {name for run in (first, second) for name in run.data.metrics if "system/" in name}
    assert second.data.metrics.keys() - system == first.data.metrics.keys() - system
    # No better than the first: the champion stays.
    for name in NAMES:
        assert len(client.search_model_versions(f"name = '{name}'")) == 2
        assert str(client.get_model_version_by_alias(name, "champion").version) == "1"
