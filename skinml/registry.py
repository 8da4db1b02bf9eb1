"""Logged and registered models: log, register, choose the champion, load."""

import argparse
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skinml.config import Parser
from skinml.data import demo
from skinml.data.images import IMAGE_SIZE
from skinml.data.isic2017 import CLASSES, NOTICE
from skinml.errors import UserError, first_line, run_command
from skinml.provenance import PACKAGE, model_requirements
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.store import ask, check_store

if TYPE_CHECKING:
    from mlflow.entities import Run

CHAMPION = "champion"

# What the name of a serving model ends with.
SERVING = "-serving"

# What champions are compared by, and what must be equal for a comparison to mean anything.
CHAMPION_METRIC = "val_auc_macro"
COMPARABLE = ("data_digest", "split")

# Tags of a registered model: COMPARABLE of its champion, which outlive that version, and the newest
# version that was there when a person promoted one: those up to it were passed over.
_CHAMPIONS = "skinml.champion."
_PASSED_OVER = "skinml.passed_over"

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
    return f"skinml-{demo}{description.tags['model']}{SERVING if serving else ''}"


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
    data = description.tags["data"]
    notice = f"{NOTICE} {demo.MODEL_NOTICE}" if data == "demo" else NOTICE
    tags |= {"data": data, "notice": notice}
    pixels = TensorSpec(np.dtype("uint8"), (-1, IMAGE_SIZE, IMAGE_SIZE, 3), "image")
    scores = TensorSpec(np.dtype("float32"), (-1, len(CLASSES)), "scores")
    answer: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "label")]
    answer += [ColSpec(DataType.double, name) for name in CLASSES]
    answer += [ColSpec(DataType.string, "notice")]
    common: dict[str, Any] = {
        "pip_requirements": model_requirements(description.params["keras_backend"]),
        "metadata": {"classes": list(CLASSES), "notice": notice, "data": data},
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
                    "model_config": {"notice": notice},
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
                if version := _register_once(model_id, registered, tags):
                    _describe(registered, version, description, _about_version(folder, run))
                    uris[name] = f"models:/{registered}/{version}"
    if register:
        settle_champion(model_name(description), run.info.run_id)
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


class _Pair(NamedTuple):
    """The versions that one run has of a model and of its serving model."""

    model: Any
    serving: Any

    @property
    def score(self) -> float:
        return float(self.model.tags.get(CHAMPION_METRIC, "-inf"))

    @property
    def group(self) -> dict[str, str]:
        """What it must share with another one to be compared with it."""
        return {key: self.model.tags.get(key, "?") for key in COMPARABLE}


class _Registered:
    """What the registry holds under a name now."""

    def __init__(self, name: str) -> None:
        from mlflow import MlflowClient

        client = MlflowClient()
        found: list[Any] = list(client.search_model_versions(f"name = '{name}'"))
        self.versions = sorted(found, key=lambda version: int(version.version))
        # Of a name without versions it may know nothing.
        model = client.get_registered_model(name) if found else None
        self.tags: dict[str, str] = model.tags if model else {}
        holder = str(model.aliases.get(CHAMPION)) if model else ""
        self.champion = next((v for v in found if str(v.version) == holder), None)

    def by_run(self) -> dict[str, Any]:
        """The oldest version of each run."""
        found: dict[str, Any] = {}
        for version in self.versions:
            found.setdefault(version.run_id, version)
        return found


class _Pairs:
    """A model and its serving model in the registry, run by run, as they are now."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._model, self._serving = _Registered(name), _Registered(name + SERVING)
        servings = self._serving.by_run()
        # The oldest first. A version alone is none that could be champion.
        self.by_run = {
            run_id: _Pair(version, servings[run_id])
            for run_id, version in self._model.by_run().items()
            if run_id and run_id in servings
        }

    @property
    def champion(self) -> _Pair | None:
        """The pair of the run that an alias names; None where a version of it is deleted."""
        for holder in (self._model.champion, self._serving.champion):
            if holder and holder.run_id in self.by_run:
                return self.by_run[holder.run_id]
        return None

    @property
    def is_settled(self) -> bool:
        """Whether both aliases are there, and of one run."""
        champion = self.champion
        return champion is not None and not self._lacking(champion)

    def best(self) -> _Pair | None:
        """The best of those comparable with the last champion, else with the newest one."""
        pairs = list(self.by_run.values())
        if not pairs:
            return None
        last = {key: self._model.tags.get(_CHAMPIONS + key) for key in COMPARABLE}
        comparable = [pair for pair in pairs if pair.group == last]
        comparable = comparable or [pair for pair in pairs if pair.group == pairs[-1].group]
        return max(comparable, key=lambda pair: pair.score)

    def was_passed_over(self, pair: _Pair) -> bool:
        """Whether it was there already when a person promoted another one."""
        return int(pair.model.version) <= int(self._model.tags.get(_PASSED_OVER, 0))

    def crown(self, pair: _Pair, promoted: bool = False) -> bool:
        """Give a pair both aliases; whether that changed anything."""
        from mlflow import MlflowClient

        client = MlflowClient()
        tags = {_CHAMPIONS + key: value for key, value in pair.group.items()}
        if promoted:
            tags[_PASSED_OVER] = str(self._model.versions[-1].version)
        for key, value in tags.items():
            if self._model.tags.get(key) != value:
                client.set_registered_model_tag(self._name, key, value)
        lacking = self._lacking(pair)
        for version in lacking:
            client.set_registered_model_alias(version.name, CHAMPION, version.version)
        return bool(lacking)

    def _lacking(self, pair: _Pair) -> list[Any]:
        """Those of a pair's versions that are to get the alias; another of that run may have it."""
        return [
            version
            for registered, version in zip((self._model, self._serving), pair, strict=True)
            if registered.champion is None or registered.champion.run_id != version.run_id
        ]


def _crown(name: str, choose: Callable[[_Pairs], _Pair | None], promoted: bool = False) -> _Pairs:
    """Give both aliases of a model to the pair that `choose` says, until they stay there.

    MLflow sets one alias at a time: of two runs that end together each may set one.
    """
    while True:
        pairs = _Pairs(name)
        pair = choose(pairs)
        if pair is None or not pairs.crown(pair, promoted):
            return pairs


def settle_champion(name: str, run_id: str) -> None:
    """See to it that the best comparable run has both aliases `champion`, after one was registered.

    Best by validation macro AUC among the runs of the same data digest and split of which `name`
    and its serving model both have a version. Where a version of the champion was deleted that is
    the best of those that remain. A champion of another digest or split is never replaced
    silently: a line on stderr says how to do it.
    """

    def choose(pairs: _Pairs) -> _Pair | None:
        champion, new = pairs.champion, pairs.by_run.get(run_id)
        if champion is None:
            return pairs.best()
        if new is None or new.group != champion.group or pairs.was_passed_over(new):
            return champion
        return new if new.score > champion.score else champion

    pairs = _crown(name, choose)
    champion, new = pairs.champion, pairs.by_run.get(run_id)
    if champion and new and new.group != champion.group:
        changes = ", ".join(
            f"{key} {there} there, {new.group[key]} here"
            for key, there in champion.group.items()
            if new.group[key] != there
        )
        number = new.model.version
        print(
            f"skinml: {name}@{CHAMPION} stays version {champion.model.version}: version {number} "
            f"is not comparable with it ({changes}); to hand over all the same: python -m "
            f"skinml.registry promote {name} {number}",
            file=sys.stderr,
        )


def promote(name: str, version: str) -> tuple[Any, Any]:
    """Make a version the champion, and with it that of the same run under the other name."""
    from mlflow import MlflowClient

    given = MlflowClient().get_model_version(name, version)
    model = name.removesuffix(SERVING)

    def choose(pairs: _Pairs) -> _Pair:
        if given.run_id not in pairs.by_run:
            other = model if name != model else model + SERVING
            raise UserError(
                f"{name} {version}: its run has no version of {other}, and both champions are of "
                "one run; expected a version whose run has both: `python -m skinml.registry list`"
            )
        return pairs.by_run[given.run_id]

    return choose(_crown(model, choose, promoted=True))


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
    models = client.search_registered_models("name LIKE 'skinml-%'")
    names = {model.name for model in models}
    for model in models:
        champion = model.aliases.get(CHAMPION)
        for version in client.search_model_versions(f"name = '{model.name}'"):
            mark = " champion" if str(version.version) == str(champion) else ""
            lines.append(
                f"{model.name} {version.version}{mark}: {CHAMPION_METRIC} "
                f"{version.tags.get(CHAMPION_METRIC, '?')}, test_accuracy "
                f"{version.tags.get('test_accuracy', '?')}, split {version.tags.get('split', '?')},"
                f" data {version.tags.get('data_digest', '?')}"
            )
        if model.name + SERVING in names and not (pairs := _Pairs(model.name)).is_settled:
            pair = pairs.champion or pairs.best()
            number = pair.model.version if pair else "VERSION"
            lines.append(
                f"{model.name}: no run is champion here and in {model.name}{SERVING}; to make one: "
                f"python -m skinml.registry promote {model.name} {number}"
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
    from mlflow import MlflowException, get_registry_uri

    try:
        check_store(get_registry_uri())
        if options.command == "list":
            print(ask(list_versions))
            return 0
        pair = ask(lambda: promote(options.name, options.version))
    except MlflowException as error:
        what = f"{options.name} {options.version}" if options.command == "promote" else "list"
        raise UserError(
            f"{what}: {first_line(error)}; `python -m skinml.registry list` shows what "
            f"there is at {get_registry_uri()} (MLFLOW_TRACKING_URI)"
        ) from None
    for version in pair:
        print(f"{version.name}@{CHAMPION} is now version {version.version}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
