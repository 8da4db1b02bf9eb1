"""A model file is code unless proven otherwise: what others registered runs nothing of theirs here.

Each model writes a file if its code runs; that it would is shown with the loader it was made for.
"""

import json
import pickle
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from skinml import predict
from skinml.base.errors import UserError
from skinml.data.isic2017 import CLASSES
from skinml.models.saved import load_saved
from skinml.store import model_files
from tests.waiting import PATIENCE

mlflow: Any = pytest.importorskip("mlflow")


class Evil:
    """Whoever unpickles it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.marker, "ran")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def code(tmp_path: Path, marker: Path) -> Path:
    """A module that writes the marker when it is imported, and is a model of MLflow's."""
    path = tmp_path / "evil_module.py"
    path.write_text(
        f"from pathlib import Path\nimport mlflow\nPath({str(marker)!r}).write_text('ran')\n\n\n"
        "class Model(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input: list[str]) -> list[str]:\n"
        "        return model_input\n\n\n"
        "def _load_pyfunc(path):\n    return Model()\n\n\nmlflow.models.set_model(Model())\n"
    )
    return path


def tiny() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((224, 224, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as skinml logs it."""
    folder = tmp_path_factory.mktemp("honest") / "model"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        about = {"classes": list(CLASSES), "data": "isic2017"}
        mlflow.keras.save_model(tiny(), str(folder), pip_requirements=["keras"], metadata=about)
    return folder


@pytest.fixture
def tampered(honest: Path, tmp_path: Path) -> Path:
    """A copy of the honest model, to be changed."""
    folder = tmp_path / "model"
    shutil.copytree(honest, folder)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None], **added: str) -> None:
    """Change the recipe of a model's archive, and add members to it."""
    path = folder / "data" / "model.keras"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {k: v.encode() for k, v in added.items()}).items():
            archive.writestr(name, content)


def add_layer(module: str, name: str, config: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    entry = {"module": module, "class_name": name, "config": config, "registered_name": None}
    return lambda recipe: recipe["config"]["layers"].append(entry)


def refused(folder: Path, marker: Path) -> str:
    with pytest.raises(UserError) as caught:
        predict.load(str(folder))
    assert not marker.exists(), "code of the model ran"
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{folder}: not a Keras model as skinml logs it, and so not loaded: ")
    return text


def test_what_skinml_logs_is_loaded(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its MLmodel is read once: what is checked is what is used, whatever is written meanwhile."""
    read, reads = model_files.read_file, list[str]()

    def read_noted(path: Path, most: int) -> bytes:
        reads.append(path.name)
        return read(path, most)

    monkeypatch.setattr(model_files, "read_file", read_noted)
    network: Any = predict.load(str(honest)).network
    assert network.output_shape == (None, 3)
    assert reads == [model_files.DESCRIPTION]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["pickle", "loader", "code"])
def test_a_model_of_another_kind_is_refused_before_its_code_runs(
    kind: str, tmp_path: Path, marker: Path, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    monkeypatch.setattr(sys, "path", list(sys.path))
    if kind == "pickle":
        mlflow.pyfunc.save_model(
            str(folder), python_model=_class(code)(), pip_requirements=["mlflow"]
        )
        (folder / "python_model.pkl").write_bytes(pickle.dumps(Evil(marker)))
    elif kind == "loader":
        mlflow.pyfunc.save_model(
            str(folder),
            loader_module="evil_module",
            code_paths=[str(code)],
            pip_requirements=["mlflow"],
        )
    else:
        mlflow.pyfunc.save_model(str(folder), python_model=str(code), pip_requirements=["mlflow"])
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    marker.unlink(missing_ok=True)
    assert "has not the flavors keras and python_function" in refused(folder, marker)
    try:
        mlflow.pyfunc.load_model(str(folder))
    except Exception:
        assert kind == "pickle"  # it is no model, but that is found out too late
    assert marker.exists(), "this model is harmless: the test shows nothing"


def _class(code: Path) -> Any:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(code.read_text(), names)
    return names["Model"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("loader_module: mlflow.keras", "loader_module: evil_module", "it is loaded by evil_mod"),
        ("loader_module: mlflow.keras", "loader_module: mlflow.keras\n    code: .", "brings code"),
        ("data: data", "data: ../../elsewhere", "brings code or another format"),
        ("save_exported_model: false", "save_exported_model: true", "brings code or another"),
        ("flavors:", "flavors:\n  sklearn: {}", "it has the flavors sklearn beside keras"),
        ("flavors:", "flavors: !!python/object/apply:os.system [x]\nx:", "has not the flavors"),
        ("flavors:", "flavors: 7\nx:", "has not the flavors"),
    ],
)
def test_a_description_that_leads_elsewhere_is_refused(
    old: str, new: str, reason: str, tampered: Path, marker: Path, code: Path
) -> None:
    shutil.copy(code, tampered)
    description = tampered / "MLmodel"
    text = description.read_text()
    assert old in text
    description.write_text(text.replace(old, new))
    assert reason in refused(tampered, marker)


def test_a_lambda_layer_does_not_run(tampered: Path, marker: Path) -> None:
    path = tampered / "data" / "model.keras"
    written = str(marker)
    function = eval(f"lambda x: (open({written!r}, 'w').close(), x)[1]")
    pixels = keras.Input((224, 224, 3))
    keras.Model(pixels, keras.layers.Lambda(function, output_shape=(224, 224, 3))(pixels)).save(
        path
    )
    marker.unlink(missing_ok=True)
    assert "names keras.layers.Lambda, which may run code" in refused(tampered, marker)
    keras.saving.load_model(path, safe_mode=False)(np.zeros((1, 224, 224, 3)))
    assert marker.exists(), "this model is harmless: the test shows nothing"


@pytest.mark.parametrize(
    ("module", "name", "config"),
    [
        ("keras.layers", "TFSMLayer", {"filepath": "/tmp/evil", "call_endpoint": "x"}),
        ("keras.layers", "TorchModuleWrapper", {"module": "x"}),
        ("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}),
        ("keras.utils", "get_file", {"origin": "http://127.0.0.1:9/"}),
        ("keras.config", "enable_unsafe_deserialization", {}),
        ("builtins", "eval", {}),
        ("os", "system", {}),
        ("evil_module", "Model", {}),
        ("keras.src.models.functional", "functional_from_config", {}),
        ("keras.src.ops.numpy", "Vectorize", {"pyfunc": "os.system"}),
    ],
)
def test_a_recipe_names_nothing_but_plain_layers(
    module: str, name: str, config: dict[str, Any], tampered: Path, marker: Path
) -> None:
    rewrite(tampered, add_layer(module, name, config))
    assert f"names {module}.{name}, which may run code" in refused(tampered, marker)


def test_a_class_registered_under_another_name_is_refused(tampered: Path, marker: Path) -> None:
    def change(recipe: dict[str, Any]) -> None:
        recipe["config"]["layers"][-1]["registered_name"] = "custom>Evil"

    rewrite(tampered, change)
    assert "which may run code" in refused(tampered, marker)


@pytest.mark.parametrize("member", ["../evil.py", "/tmp/evil.py", "assets/evil.txt"])
def test_an_archive_holds_three_members_and_no_more(
    member: str, tampered: Path, marker: Path
) -> None:
    rewrite(tampered, lambda recipe: None, **{member: "evil"})
    text = refused(tampered, marker)
    assert "holds " in text and member in text
    assert not (tampered.parent / "evil.py").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x89HDF\r\n\x1a\n" + bytes(100), pickle.dumps([1]), b"PK\x03\x04" + bytes(9)]
)
def test_what_is_no_archive_is_refused(content: bytes, tampered: Path, marker: Path) -> None:
    (tampered / "data" / "model.keras").write_bytes(content)
    assert "not a .keras file that can be read" in refused(tampered, marker)


def test_a_recipe_without_bottom_is_refused(tampered: Path, marker: Path) -> None:
    path = tampered / "data" / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("config.json", "metadata.json", "model.weights.h5"):
            archive.writestr(name, "[" * 100_000 if name == "config.json" else "{}")
    assert "not a .keras file that can be read" in refused(tampered, marker)


def test_the_serving_model_refuses_an_archive_with_code(tampered: Path, marker: Path) -> None:
    from skinml.store.serving_model import ServingModel

    path = tampered / "data" / "model.keras"
    rewrite(tampered, add_layer("keras.layers", "Lambda", {"function": "x"}))
    about = {"notice": "", "classes": list(CLASSES)}
    context: Any = SimpleNamespace(artifacts={"model": str(path)}, model_config=about)
    with pytest.raises(UserError, match=r"names keras\.layers\.Lambda"):
        ServingModel().load_context(context)
    with pytest.raises(UserError, match=r"names keras\.layers\.Lambda"):
        load_saved(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_command_says_so_in_one_line(
    tmp_path: Path, marker: Path, code: Path, empty_store: Path, toy_files: Path
) -> None:
    """From the registry, as somebody who was told the name would."""
    store = tmp_path / "mlflow.db"
    shutil.copy(empty_store, store)
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", environment["MLFLOW_TRACKING_URI"])
        monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
        experiment = mlflow.MlflowClient().create_experiment("evil", str(tmp_path / "artifacts"))
        with mlflow.start_run(experiment_id=experiment):
            mlflow.pyfunc.log_model(
                name="model",
                python_model=str(code),
                pip_requirements=["mlflow"],
                registered_model_name="skinml-mobilenetv2",
            )
        marker.unlink()
        picture = min(toy_files.rglob("*.jpg"))
        done = subprocess.run(
            [sys.executable, "-m", "skinml.predict", "models:/skinml-mobilenetv2/1", str(picture)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert done.returncode == 2
    assert not marker.exists()
    # A store that is busy is waited for, with a line of its own.
    said = [line for line in done.stderr.splitlines() if line.startswith("skinml: ")]
    [line] = [line for line in said if not line.startswith("skinml: waiting for ")]
    assert line.startswith("skinml: error: ")
    assert "not a Keras model as skinml logs it, and so not loaded" in line
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
