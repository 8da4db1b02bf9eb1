"""A person's own pictures, from a table to a served model, and that model on other pictures."""

import base64
import csv
import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.config import Config, config_from_strings
from skinml.data import demo
from skinml.data.prepare import open_data
from skinml.data.protocols import assign_parts, split_of
from skinml.evaluation.predictions import read_predictions
from skinml.tracking.folder import RunFolder
from tests.conftest import surroundings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

# A comma, a quote, letters of two alphabets: they go through every table, model and page.
# The commands of docs/data.md, in their order.
COMMANDS = [
    line[2:]
    for block in re.findall(r"```console\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.S)
    for line in block.splitlines()
]

CLASSES = ("Basaliom, groß", 'nævus "rare"', "νεύρωμα", "melanoma")
LOOKS = ("melanoma", "nevus", "seborrheic_keratosis")


def write_pictures(folder: Path, classes: tuple[str, ...], each: int, seed: int = 0) -> Path:
    """A table of generated pictures, two of each lesion; returns its path."""
    (folder / "new").mkdir(parents=True)
    rows = []
    for index, label in enumerate(classes):
        for number in range(each):
            rng = np.random.default_rng([seed, index, number])
            name = f"new/{index}-{number}.jpg"
            demo.draw_picture(LOOKS[index % 3], rng, (72, 54)).save(folder / name)
            rows.append([name, label, f"L{index}-{number // 2}", str(20 + number)])
    table = folder / "pictures.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "label", "group", "age"], *rows])
    return table


@dataclass
class Own:
    """A finished run on a table of pictures, in a SQLite store."""

    table: Path
    folder: RunFolder
    store: Path
    config: Config


@pytest.fixture(scope="module")
def own(tiny_backbone: str, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Own:
    from skinml.data.prepare import main as prepare
    from skinml.run.__main__ import main as run

    store = tmp_path_factory.mktemp("own")
    shutil.copy(empty_store, store / "mlflow.db")
    table = write_pictures(store / "clinic", CLASSES, 16)
    looked, trained, *_ = COMMANDS
    with surroundings(store):
        assert prepare(arguments("skinml.data.prepare", looked)) == 0
        assert not run([*arguments("skinml.run", trained), *FAST])
    [folder] = (store / "runs").iterdir()
    config = config_from_strings(
        {"data": str(table), "test_fraction": "0.25", "validation_fraction": "0.3"}
    )
    return Own(table, RunFolder.open(folder), store, config)


# What makes a run of seconds of the documented one.
FAST = [
    *("--weights", "none", "--dense_units", "16,8,8", "--batch_size", "8", "--device", "cpu"),
    *("--epochs_frozen", "0", "--epochs_finetune", "1"),
    *("--test_fraction", "0.25", "--validation_fraction", "0.3"),
]


def arguments(module: str, command: str) -> list[str]:
    """What a documented command gives a module, of the network that trains in seconds."""
    python, m, name, *given = shlex.split(command.replace("mobilenetv2", "tiny"))
    assert (python, m, name) == ("python", "-m", module)
    return given


@pytest.fixture
def there(own: Own, monkeypatch: pytest.MonkeyPatch) -> Own:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{own.store}/mlflow.db")
    monkeypatch.setenv("SKINML_CACHE_DIR", str(own.store / "cache"))
    monkeypatch.chdir(own.store)
    return own


MODEL = "models:/skinml-own-pictures-tiny@champion"


def test_the_run_knows_its_classes_and_keeps_lesions_together(there: Own) -> None:
    description = there.folder.read_description()
    assert description.tags["data"] == "own-pictures"
    assert json.loads(description.params["classes"]) == sorted(CLASSES)
    data = open_data(str(there.table))
    parts = assign_parts(data, *split_of(there.config))
    table = read_predictions(there.folder.predictions("test"))
    assert table.classes == tuple(sorted(CLASSES))
    assert set(table.image_ids) == set(data.image_ids[parts == "test"])
    assert table.subgroups["age"].tolist() == data.subgroups["age"][parts == "test"].tolist()
    assert data.named_group is not None
    assert all(len(set(parts[data.named_group == g])) == 1 for g in set(data.named_group))
    note = there.folder.read_text("note.md")
    assert "own-pictures" in note and "The AUCs of the challenge" not in note
    assert "of the melanomas among the validation images" in note


def test_its_models_are_registered_under_a_name_of_their_own(there: Own) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    assert client.get_experiment_by_name("skinml-own-pictures") is not None
    version = client.get_model_version_by_alias("skinml-own-pictures-tiny", "champion")
    assert version.tags["data"] == "own-pictures"
    about = client.get_registered_model("skinml-own-pictures-tiny").description
    assert 'nævus "rare"' in about


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")
def test_predict_and_serving_answer_with_its_classes(
    there: Own, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow
    import pandas as pd

    from skinml import predict

    picture = there.table.parent / "new" / "0-0.jpg"
    for form in ("json", "csv", "table"):
        assert predict.main([MODEL, str(picture), "--format", form]) == 0
        told = capsys.readouterr().out
        if form == "json":
            [answer] = json.loads(told)["predictions"]
            assert list(answer)[2:] == sorted(CLASSES)
            assert sum(answer[name] for name in CLASSES) == pytest.approx(1, abs=1e-5)
        if form == "csv":
            [row] = csv.DictReader(told.splitlines())
            assert set(CLASSES) < row.keys()
    serving = mlflow.pyfunc.load_model("models:/skinml-own-pictures-tiny-serving@champion")
    image = base64.b64encode(picture.read_bytes()).decode()
    answers = serving.predict(pd.DataFrame({"image": [image]}))
    assert list(answers.columns) == ["label", *sorted(CLASSES), "notice"]


def test_an_external_test_is_a_run_of_its_own_and_stands_apart(
    there: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from skinml import evaluate, predict
    from skinml.compare.__main__ import main as compare

    *_, comparing, asking, testing = COMMANDS
    other = write_pictures(there.store / "elsewhere", ("Basaliom", "melanoma", "wart"), 6, seed=1)
    with pytest.raises(UserError, match="fewer than two with pictures are classes of the model"):
        evaluate.main([MODEL, "--data", str(other)])
    mapping = other.with_name("map.csv")
    mapping.write_text("data,model\nBasaliom,Basalioma\nWart,melanoma\n", encoding="utf-8")
    with pytest.raises(UserError, match="2 problems"):
        evaluate.main(arguments("skinml.evaluate", testing))
    mapping.write_text('data,model\nBasaliom,"Basaliom, groß"\nmelanoma,melanoma\n', "utf-8")
    assert predict.main(arguments("skinml.predict", asking)) == 0
    capsys.readouterr()
    assert evaluate.main(arguments("skinml.evaluate", testing)) == 0
    told = capsys.readouterr().out
    assert "12 images (6 Basaliom, groß, 6 melanoma)" in told
    assert "Left out, as the model has no such class: 6 wart" in told
    compare([*arguments("skinml.compare", comparing), "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    [test] = found["external"]
    assert test["tags"]["trained_by"] == there.folder.published
    assert test["tags"]["model_version"] == "skinml-own-pictures-tiny version 1"
    assert test["tags"]["left_out"] == '{"wart": 6}'
    # Against scikit-learn's figure of the table that was logged.
    table: Any = logged_table(test["run_id"], tmp_path)
    right = float((table.predicted == table.labels).mean())
    assert test["metrics"]["external_accuracy"] == pytest.approx(right)
    assert len(found["cells"]) == 1
    compare(arguments("skinml.compare", comparing))
    assert "External tests" in capsys.readouterr().out


def logged_table(run_id: str, folder: Path) -> Any:
    from skinml.store.read import download

    return read_predictions(download(run_id, "predictions_external.csv", folder / "logged"))


def test_the_models_own_pictures_are_no_external_test(there: Own) -> None:
    from skinml import evaluate

    with pytest.raises(UserError, match="was trained on these very pictures"):
        evaluate.main([MODEL, "--data", str(there.table)])
