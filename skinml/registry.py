"""Logged and registered models: log, register, choose the champion, load."""

import argparse
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skinml.config import Parser
from skinml.data.images import IMAGE_SIZE
from skinml.data.isic2017 import CLASSES, NOTICE
from skinml.errors import UserError, run_command
from skinml.provenance import PACKAGE, model_requirements
from skinml.tracking.folder import Description, RunFolder

if TYPE_CHECKING:
    from mlflow.entities import Run

CHAMPION = "champion"

# What champions are compared by, and what must be equal for a comparison to mean anything.
CHAMPION_METRIC = "val_auc_macro"
COMPARABLE = ("data_digest", "split")

# The figures that a model carries as tags, beside those of COMPARABLE.
_TAGGED_METRICS = (
    CHAMPION_METRIC,
    "test_accuracy",
    "test_auc_macro",
    "test_f1_weighted",
    "test_melanoma_auc",
    "test_keratosis_auc",
    "test_challenge_auc",
)


def model_name(description: Description, serving: bool = False) -> str:
    """The registered name: skinml-<model>, skinml-demo-<model> on generated data; …-serving."""
    demo = "demo-" if description.tags["data"] == "demo" else ""
    return f"skinml-{demo}{description.tags['model']}{'-serving' if serving else ''}"


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
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    description = folder.read_description()
    metrics = {k: v for k, v in folder.read_metrics().items() if np.isfinite(v)}
    tags = {name: f"{metrics[name]:.4f}" for name in _TAGGED_METRICS if name in metrics}
    tags |= {name: description.tags[name] for name in COMPARABLE}
    tags |= {"data": description.tags["data"], "notice": NOTICE}
    pixels = TensorSpec(np.dtype("uint8"), (-1, IMAGE_SIZE, IMAGE_SIZE, 3), "image")
    scores = TensorSpec(np.dtype("float32"), (-1, len(CLASSES)), "scores")
    answer: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "label")]
    answer += [ColSpec(DataType.double, name) for name in CLASSES]
    answer += [ColSpec(DataType.string, "notice")]
    common: dict[str, Any] = {
        "pip_requirements": model_requirements(description.params["keras_backend"]),
        "metadata": {"classes": list(CLASSES), "notice": NOTICE},
    }
    uris = {}
    with _quiet_mlflow():
        import mlflow.pyfunc

        for name, flavor, given in (
            (
                "model",
                _KerasFlavor(),
                {
                    "model": folder.model,
                    "keras_version": description.params["version_keras"],
                    "keras_backend": description.params["keras_backend"],
                    "signature": ModelSignature(Schema([pixels]), Schema([scores])),
                },
            ),
            (
                "serving",
                mlflow.pyfunc,
                {
                    # Models from code: a file instead of a pickle, with the package it imports.
                    "python_model": str(PACKAGE / "serving_model.py"),
                    "code_paths": [str(PACKAGE)],
                    "artifacts": {"model": str(folder.model)},
                    "signature": ModelSignature(
                        Schema([ColSpec(DataType.string, "image")]), Schema(answer)
                    ),
                },
            ),
        ):
            model_id = _log_once(run, name, flavor, tags, common | given)
            _log_model_metrics(run, model_id, metrics)
            uris[name] = f"models:/{model_id}"
            if register:
                registered = model_name(description, serving=name == "serving")
                version = _register_once(model_id, registered, tags)
                _describe(registered, version, description, _about_version(folder, run))
                settle_champion(registered, version)
                uris[name] = f"models:/{registered}/{version}"
    return uris


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


def _register_once(model_id: str, name: str, tags: dict[str, str]) -> str:
    """The number of the version that a logged model has under a name, registered if it is not."""
    import mlflow

    for version in mlflow.MlflowClient().search_model_versions(f"name = '{name}'"):
        if version.model_id == model_id or version.source == f"models:/{model_id}":
            return str(version.version)
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
    network, serving = description.tags["model"], name.endswith("-serving")
    takes = f"RGB pixels from 0 to 255, uint8 (n, {IMAGE_SIZE}, {IMAGE_SIZE}, 3), and gives (n, 3)"
    if serving:
        takes = "a column `image` of base64 JPEGs or PNGs of any size, and gives a label and"
    lines = [
        f"**{network}** for skin lesions in dermoscopic images: {', '.join(CLASSES)}.",
        f"It takes {takes} scores that add up to 1.",
        f"`models:/{name}@{CHAMPION}` is the version with the best validation macro AUC of its "
        "data and split. Each version says what it was trained on and how it did on the test part.",
    ]
    if description.tags["data"] == "demo":
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


def settle_champion(name: str, version: str) -> bool:
    """Give a new version the alias `champion` if it is the best comparable one; whether it did.

    Best by validation macro AUC among versions of the same data digest and split. A champion of
    another digest or split is never replaced silently: a line on stderr says how to do it.
    """
    from mlflow import MlflowClient

    client = MlflowClient()
    holder = client.get_registered_model(name).aliases.get(CHAMPION)
    if holder is None:
        client.set_registered_model_alias(name, CHAMPION, version)
        return True
    new, champion = (client.get_model_version(name, number) for number in (version, holder))
    different = [key for key in COMPARABLE if champion.tags.get(key) != new.tags.get(key)]
    if different:
        changes = ", ".join(
            f"{key} {champion.tags.get(key)} there, {new.tags.get(key)} here" for key in different
        )
        print(
            f"skinml: {name}@{CHAMPION} stays version {champion.version}: version {version} is not "
            f"comparable with it ({changes}); to hand over all the same: python -m "
            f"skinml.registry promote {name} {version}",
            file=sys.stderr,
        )
        return False
    if _score(new) <= _score(champion):
        return False
    client.set_registered_model_alias(name, CHAMPION, version)
    return True


def _score(version: Any) -> float:
    return float(version.tags.get(CHAMPION_METRIC, "-inf"))


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


def list_versions() -> str:
    """All registered versions of skinml's models with their headline figures, as text."""
    from mlflow import MlflowClient

    client = MlflowClient()
    lines = []
    for model in client.search_registered_models("name LIKE 'skinml-%'"):
        champion = model.aliases.get(CHAMPION)
        for version in client.search_model_versions(f"name = '{model.name}'"):
            mark = " champion" if str(version.version) == str(champion) else ""
            lines.append(
                f"{model.name} {version.version}{mark}: {CHAMPION_METRIC} "
                f"{version.tags.get(CHAMPION_METRIC, '?')}, test_accuracy "
                f"{version.tags.get('test_accuracy', '?')}, split {version.tags.get('split', '?')},"
                f" data {version.tags.get('data_digest', '?')}"
            )
    return "\n".join(lines) or "no model of skinml is registered here"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m skinml.registry", description="Registered models of skinml.")
    commands = parser.add_subparsers(required=True, metavar="list|promote", dest="command")
    commands.add_parser("list", help="list all versions and which is the champion")
    promote = commands.add_parser("promote", help="make a version the champion, whatever it is")
    promote.add_argument("name")
    promote.add_argument("version")
    return _run(parser.parse_args(argv))


def _run(options: argparse.Namespace) -> int:
    from mlflow import MlflowClient, MlflowException, get_registry_uri

    try:
        if options.command == "list":
            print(list_versions())
            return 0
        MlflowClient().set_registered_model_alias(options.name, CHAMPION, options.version)
    except MlflowException as error:
        what = f"{options.name} {options.version}" if options.command == "promote" else "list"
        raise UserError(
            f"{what}: {str(error).splitlines()[0]}; `python -m skinml.registry list` shows what "
            f"there is at {get_registry_uri()} (MLFLOW_TRACKING_URI)"
        ) from None
    print(f"{options.name}@{CHAMPION} is now version {options.version}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
