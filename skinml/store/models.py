"""Log and register the two models of a run: the Keras model and the serving model."""

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skinml.base.errors import UserError
from skinml.base.files import file_sha256
from skinml.base.provenance import PACKAGE, model_requirements, serving_requirements
from skinml.config import test_views_of
from skinml.data.datasets import DATASETS, challenge_tasks, classes_said
from skinml.data.images import IMAGE_SIZE
from skinml.data.isic2017 import NOTICE
from skinml.evaluation.answering import Chosen
from skinml.evaluation.results import chosen_on_validation
from skinml.models.exported import read_about
from skinml.store.champion import CHAMPION, CHAMPION_METRIC, COMPARABLE, SERVING, settle_champion
from skinml.store.model_files import EXPORTED
from skinml.tracking.folder import CARD, Description, RunFolder

if TYPE_CHECKING:
    from mlflow.entities import Run

# The figures that a model carries as tags, beside those of COMPARABLE.
_TAGGED_METRICS = (
    CHAMPION_METRIC,
    "test_accuracy",
    "test_auc_macro",
    "test_f1_weighted",
)


def model_name(description: Description, serving: bool = False) -> str:
    """The registered name: skinml-<model>, of other data than ISIC 2017 skinml-<data>-<model>.

    With `serving` it ends with -serving.
    """
    data = description.tags["data"]
    of = "" if data == "isic2017" else f"{data}-"
    return f"skinml-{of}{description.tags['model']}{SERVING if serving else ''}"


# MLflow's store takes a repeated request of a model's metrics for done, but fails where it has more
# of them: it looks for 100 at a time among those that are there, and adds the rest once more
# (SqlAlchemyStore._log_model_metrics, 3.17.2). A forwarder that was killed repeats its request.
_METRICS_AT_ONCE = 100


def log_models(folder: RunFolder, run: "Run", register: bool = True) -> dict[str, str]:
    """Log a run's two models to an MLflow run, register them, settle the champion.

    The Keras model takes uint8 pixels (n, 224, 224, 3); the serving model a column `image` of
    base64 JPEGs or PNGs. Neither holds a pickle or the optimizer's state. What an earlier call has
    logged or registered is found and left. Neither Keras nor TensorFlow is loaded. Returns the URI
    of each by its name: "model", "serving"; of a registered one that of its version.
    """
    description = folder.read_description()
    metrics = {k: v for k, v in folder.read_metrics().items() if np.isfinite(v)}
    classes = classes_said(description.params)
    of_challenge = [f"test_{name}" for name in (*challenge_tasks(classes), "challenge_auc")]
    tagged = (*_TAGGED_METRICS, *of_challenge)
    tags = {name: f"{metrics[name]:.4f}" for name in tagged if name in metrics}
    tags |= {name: description.tags[name] for name in COMPARABLE}
    tags |= {"data": description.tags["data"], "notice": _notice(description)}
    chosen = chosen_on_validation(metrics, classes, description.params)
    exported = _exported(folder)
    uris = {}
    with _quiet_mlflow():
        import mlflow.pyfunc

        for name, flavor, given in (
            ("model", _KerasFlavor(), _keras_model(folder, description, exported)),
            ("serving", mlflow.pyfunc, _serving_model(folder, description, exported, chosen)),
        ):
            given["metadata"] = _metadata(description) | chosen.metadata()
            model_id = _log_once(run, name, flavor, tags, given)
            _log_model_metrics(run, model_id, metrics)
            uris[name] = f"models:/{model_id}"
            if register:
                registered = model_name(description, serving=name == "serving")
                if version := _register_once(model_id, registered, tags):
                    _describe(registered, version, description, _about_version(folder, run))
                    uris[name] = f"models:/{registered}/{version}"
    if register:
        settle_champion(model_name(description), run.info.run_id)
    return uris


def _notice(description: Description) -> str:
    data = description.tags["data"]
    further = DATASETS[data].notice if data in DATASETS else ""
    return f"{NOTICE} {further}".rstrip()


def _metadata(description: Description) -> dict[str, Any]:
    params = description.params
    return {
        "classes": list(classes_said(params)),
        "notice": _notice(description),
        "data": description.tags["data"],
        # Averaged in the network itself: whoever asks it need not know.
        "views": test_views_of(params),
    }


def _keras_model(
    folder: RunFolder, description: Description, exported: Path | None
) -> dict[str, Any]:
    """What MLflow's Keras flavor is given."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    params = description.params
    pixels = TensorSpec(np.dtype("uint8"), (-1, IMAGE_SIZE, IMAGE_SIZE, 3), "image")
    scores = TensorSpec(np.dtype("float32"), (-1, len(classes_said(params))), "scores")
    return {
        "model": folder.model,
        "card": folder.path / CARD,
        "exported": exported,
        "pip_requirements": model_requirements(params["keras_backend"]),
        "keras_version": params["version_keras"],
        "keras_backend": params["keras_backend"],
        "signature": ModelSignature(Schema([pixels]), Schema([scores])),
    }


def _serving_model(
    folder: RunFolder, description: Description, exported: Path | None, chosen: Chosen
) -> dict[str, Any]:
    """What MLflow's Python flavor is given: base64 pictures in, a label and scores out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    classes = classes_said(description.params)
    answer: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "label")]
    answer += [ColSpec(DataType.double, name) for name in classes]
    answer += [ColSpec(DataType.string, "notice")]
    # Without TensorFlow where it can do without: in a quarter of the memory.
    artifacts = {"exported": str(exported)} if exported else {"model": str(folder.model)}
    requirements = model_requirements(description.params["keras_backend"])
    asked = ParamSchema(
        [
            ParamSpec("operating_point", DataType.string, ""),
            ParamSpec("calibrated", DataType.boolean, False),
        ]
    )
    said = {"notice": _notice(description), "classes": list(classes), **chosen.metadata()}
    return {
        # Models from code: a file instead of a pickle, with the package it imports.
        "python_model": str(Path(__file__).with_name("serving_model.py")),
        "code_paths": [str(PACKAGE)],
        "artifacts": artifacts,
        "pip_requirements": serving_requirements() if exported else requirements,
        "model_config": said,
        "signature": ModelSignature(
            Schema([ColSpec(DataType.string, "image")]), Schema(answer), asked
        ),
    }


def _exported(folder: RunFolder) -> Path | None:
    """The exported file of a run's network; None where there is none, or it is of another one."""
    try:
        about = read_about(folder.exported) if folder.exported.is_file() else {}
    except UserError:
        return None
    return folder.exported if about.get("keras_sha256") == file_sha256(folder.model) else None


def _log_once(
    run: "Run", name: str, flavor: Any, tags: dict[str, str], given: dict[str, Any]
) -> str:
    """Log a model of a run, unless that is done; one that was begun is gone on with. Its id.

    `Model.log` makes a new one each time, and cannot go on: the same output of a run is an error
    the second time.
    """
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    client, run_id = MlflowClient(), run.info.run_id
    found = client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run_id}' AND name = '{name}'"
    )
    if found:
        model = found[0]
    else:
        params = {"model": run.data.tags.get("model", ""), **run.data.params}
        model = client.create_logged_model(
            run.info.experiment_id, name, source_run_id=run_id, tags=tags, params=params
        )
    if model.status == "READY":
        return str(model.model_id)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "model")
        about = Model(
            artifact_path=model.artifact_location,
            model_uuid=model.model_id,
            model_id=model.model_id,
            run_id=run_id,
        )
        flavor.save_model(path=str(folder), mlflow_model=about, **given)
        for cache in list(folder.rglob("__pycache__")):
            shutil.rmtree(cache)
        outputs = client.get_run(run_id).outputs
        there = outputs.model_outputs if outputs else []
        if model.model_id not in [output.model_id for output in there]:
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        client.log_model_artifacts(model.model_id, str(folder))
    # It is ready once all of its files are there.
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


class _KerasFlavor:
    """A `.keras` file as a model of MLflow's Keras flavor, laid out as `mlflow.keras` does.

    Importing that takes TensorFlow, half a gigabyte and a dozen seconds, to write the same file.
    """

    def save_model(
        self,
        path: str,
        mlflow_model: Any,
        model: Path,
        card: Path,
        exported: Path | None,
        keras_version: str,
        keras_backend: str,
        signature: Any,
        pip_requirements: list[str],
        metadata: dict[str, Any],
    ) -> None:
        import yaml
        from mlflow import pyfunc
        from mlflow.utils.environment import _process_pip_requirements, _PythonEnv

        folder = Path(path)
        data = folder / "data"
        data.mkdir(parents=True)
        shutil.copyfile(model, data / "model.keras")
        # A folder of before there were cards has none.
        if card.is_file():
            shutil.copyfile(card, folder / "README.md")
        if exported:
            shutil.copyfile(exported, folder / EXPORTED)
        (data / "keras_module.txt").write_text("keras")
        mlflow_model.signature = signature
        mlflow_model.metadata = metadata
        mlflow_model.add_flavor(
            "keras",
            data="data",
            keras_version=keras_version,
            keras_backend=keras_backend,
            save_exported_model=False,
        )
        pyfunc.add_to_model(
            mlflow_model,
            loader_module="mlflow.keras",
            conda_env="conda.yaml",
            python_env="python_env.yaml",
        )
        mlflow_model.model_size_bytes = sum(
            file.stat().st_size for file in folder.rglob("*") if file.is_file()
        )
        mlflow_model.save(str(folder / "MLmodel"))
        conda, requirements, _ = _process_pip_requirements(None, pip_requirements)
        (folder / "conda.yaml").write_text(yaml.safe_dump(conda, default_flow_style=False))
        (folder / "requirements.txt").write_text("\n".join(requirements))
        _PythonEnv.current().to_yaml(str(folder / "python_env.yaml"))


def _log_model_metrics(run: "Run", model_id: str, metrics: dict[str, float]) -> None:
    """Give a model the numbers of its run, at the time of the run's own: no further row there."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient()
    noted = client.get_run(run.info.run_id).data._metric_objs
    times = {metric.key: metric.timestamp for metric in noted}
    points = [
        Metric(key, value, times[key], 0, model_id=model_id)
        for key, value in metrics.items()
        if key in times
    ]
    for start in range(0, len(points), _METRICS_AT_ONCE):
        client.log_batch(run.info.run_id, points[start : start + _METRICS_AT_ONCE])


def _register_once(model_id: str, name: str, tags: dict[str, str]) -> str | None:
    """The number of the version that a logged model has under a name, registered if it never was.

    None where that version is deleted. MLflow notes in a tag of the logged model which versions
    were made of it.
    """
    import mlflow
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    client = mlflow.MlflowClient()
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.model_id == model_id or version.source == f"models:/{model_id}":
            return str(version.version)
    made = json.loads(client.get_logged_model(model_id).tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    if name in [version["name"] for version in made]:
        return None
    return str(mlflow.register_model(f"models:/{model_id}", name, tags=tags).version)


# MLflow's limit on a description, in characters.
_DESCRIPTION_LENGTH = 5000


def _describe(name: str, version: str, description: Description, about_version: str) -> None:
    """Describe a registered model and a version of it, unless somebody has."""
    from mlflow import MlflowClient

    client = MlflowClient()
    if not client.get_registered_model(name).description:
        client.update_registered_model(name, _about_model(name, description))
    if not client.get_model_version(name, version).description:
        client.update_model_version(name, version, about_version)


def _about_model(name: str, description: Description) -> str:
    """What a registered model is and takes, in Markdown."""
    network, serving = description.tags["model"], name.endswith(SERVING)
    classes = classes_said(description.params)
    pixels = f"uint8 (n, {IMAGE_SIZE}, {IMAGE_SIZE}, 3)"
    takes = f"RGB pixels from 0 to 255, {pixels}, and gives (n, {len(classes)})"
    if serving:
        takes = "a column `image` of base64 JPEGs or PNGs of any size, and gives a label and"
    demo = description.tags["data"] == "demo"
    dermoscopic = description.tags["data"] in ("isic2017", "isic2019", "ham10000")
    pictures = "skin lesions in dermoscopic images" if dermoscopic else "pictures of skin lesions"
    if demo:
        pictures = "generated pictures that imitate skin lesions"
    lines = [
        f"**{network}** for {pictures}: {', '.join(classes)}.",
        f"It takes {takes} scores that add up to 1.",
        f"`models:/{name}@{CHAMPION}` is the version with the best validation macro AUC of its "
        "data and split. Each version says what it was trained on and how it did on the test part.",
    ]
    if demo:
        lines.append("**Trained on generated images: it says nothing about skin lesions.**")
    return "\n\n".join([*lines, f"**{NOTICE}**"])


def _about_version(folder: RunFolder, run: "Run") -> str:
    """The report of a version's run, in Markdown, below a link to the run and its two figures.

    A list of versions shows how that begins.
    """
    metrics = folder.read_metrics()
    page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    text = (
        f"Test accuracy {metrics['test_accuracy']:.3f}, macro AUC {metrics['test_auc_macro']:.3f}: "
        f"[run {run.info.run_name}]({page})\n\n{folder.read_text('note.md')}"
    )
    return text[:_DESCRIPTION_LENGTH]


@contextmanager
def _quiet_mlflow() -> Iterator[None]:
    """Without MLflow's advice on inputs it cannot take here (an input example of uint8 images)."""
    import logging

    loggers = [logging.getLogger(f"mlflow.{name}") for name in ("models.model", "pyfunc")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
