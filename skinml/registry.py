"""Logged and registered models: log, register, choose the champion, load."""

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from skinml.config import Parser
from skinml.data.images import IMAGE_SIZE
from skinml.data.isic2017 import CLASSES, NOTICE
from skinml.errors import UserError, run_command
from skinml.provenance import PACKAGE, model_requirements
from skinml.tracking.folder import Description, RunFolder

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


def log_models(folder: RunFolder, register: bool = True) -> dict[str, str]:
    """Log a run's two models to the active MLflow run, register them, settle the champion.

    The Keras model takes uint8 pixels (n, 224, 224, 3); the serving model a column `image` of
    base64 JPEGs or PNGs. Neither holds a pickle or the optimizer's state. Returns the URI of each
    by its name: "model", "serving".
    """
    import keras
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    description = folder.read_description()
    metrics = {k: v for k, v in folder.read_metrics().items() if np.isfinite(v)}
    tags = {name: f"{metrics[name]:.4f}" for name in _TAGGED_METRICS if name in metrics}
    tags |= {name: description.tags[name] for name in COMPARABLE}
    tags |= {"data": description.tags["data"], "notice": NOTICE}
    requirements = model_requirements(description.params["keras_backend"])
    pixels = TensorSpec(np.dtype("uint8"), (-1, IMAGE_SIZE, IMAGE_SIZE, 3), "image")
    scores = TensorSpec(np.dtype("float32"), (-1, len(CLASSES)), "scores")
    answer: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "label")]
    answer += [ColSpec(DataType.double, name) for name in CLASSES]
    answer += [ColSpec(DataType.string, "notice")]
    common: dict[str, Any] = {
        "pip_requirements": requirements,
        "metadata": {"classes": list(CLASSES), "notice": NOTICE},
        "tags": tags,
        "params": {"model": description.tags["model"]},
    }
    with _quiet_mlflow():
        keras_model = mlflow.keras.log_model(
            keras.models.load_model(folder.model, compile=False),
            name="model",
            signature=ModelSignature(Schema([pixels]), Schema([scores])),
            **common,
        )
        serving_model = mlflow.pyfunc.log_model(
            name="serving",
            # Models from code: a file instead of a pickle, with the package it imports beside it.
            python_model=str(PACKAGE / "serving_model.py"),
            code_paths=[str(PACKAGE)],
            artifacts={"model": str(folder.model)},
            signature=ModelSignature(Schema([ColSpec(DataType.string, "image")]), Schema(answer)),
            **common,
        )
        for info in (keras_model, serving_model):
            mlflow.log_metrics(metrics, model_id=info.model_id)
        if register:
            for info, serving in ((keras_model, False), (serving_model, True)):
                name = model_name(description, serving)
                version = mlflow.register_model(info.model_uri, name, tags=tags)
                settle_champion(name, version.version)
    return {"model": keras_model.model_uri, "serving": serving_model.model_uri}


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
