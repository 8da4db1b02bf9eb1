"""Where a logged model's files are, asked of a store without loading MLflow where that can be.

Importing MLflow takes longer than an exported network needs for its first answer. What is not
found here (another database, artifacts elsewhere than on this machine or behind the server, a
store that refuses) is None: MLflow itself is asked then, and tells what is wrong.
"""

import http.client
import json
import os
import re
import sqlite3
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from skinml.base.address import PASSWORD_VARIABLE, URI_VARIABLE, USER_VARIABLE
from skinml.base.errors import UserError, first_line
from skinml.base.files import read_file
from skinml.data.datasets import class_problems
from skinml.store.access import ask, check_store
from skinml.store.read import size_of

# What describes a logged model, and where it has its network for LiteRT, if it has one.
DESCRIPTION, EXPORTED = "MLmodel", "data/model.tflite"
# The largest that is read, in bytes, as YAML takes its time: that of a run has 2 kB.
_LARGEST_DESCRIPTION = 2**16

_VERSION = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_LOGGED = re.compile(r"models:/(?P<model_id>m-[0-9a-f]+)")

# What MLflow's client would see to and this module does not.
_ELSE = (
    "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH", "MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_AWS_SIGV4",
)  # fmt: skip

# Seconds in which a server that is there answers; another one is MLflow's to wait for.
_PATIENCE = 3.0


def fetch(uri: str, names: tuple[str, ...], into: Path) -> Path | None:
    """A folder with the named files of a logged model; None where MLflow has to be asked.

    `names` are relative to the model's folder, and all of them are there. It is the folder itself
    where that lies on this machine, else `into`, which receives them.
    """
    if not uri.startswith(("models:", "runs:", "mlflow-artifacts:")):
        return _with_all(Path(uri.removeprefix("file://")), names)
    store = os.environ.get(URI_VARIABLE, "")
    if any(os.environ.get(name) for name in _ELSE):
        return None
    # No port but a word is an HTTPException, as is an answer that is none of HTTP.
    with suppress(OSError, ValueError, LookupError, sqlite3.Error, http.client.HTTPException):
        if store.startswith("sqlite:///"):
            place = _in_database(Path(store.removeprefix("sqlite:///")), uri)
        elif store.startswith(("http://", "https://")):
            place = _on_server(store.rstrip("/"), uri)
        else:
            return None
        parts = urlsplit(place)
        if parts.scheme in ("", "file"):
            return _with_all(Path(unquote(parts.path)), names)
        if parts.scheme == "mlflow-artifacts" and not parts.netloc and store.startswith("http"):
            root = f"{store.rstrip('/')}/api/2.0/mlflow-artifacts/artifacts{quote(parts.path)}"
            for name in names:
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                (into / name).write_bytes(_get(f"{root}/{quote(name)}"))
            return into
    return None


def download(uri: str, into: Path) -> Path:
    """Bring all files of a logged model into a folder by MLflow; a `UserError` where that fails."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # there is a status line
    import mlflow

    if uri.startswith(("models:", "runs:", "mlflow-artifacts:")):
        check_store(mlflow.get_tracking_uri())
    try:
        return Path(
            ask(
                lambda: mlflow.artifacts.download_artifacts(uri, dst_path=str(into)),
                progress=lambda: size_of(into),
            )
        )
    except (mlflow.MlflowException, OSError, ValueError) as error:
        raise UserError(
            f"{uri}: cannot load this model from {mlflow.get_tracking_uri()} "
            f"({first_line(error)}); expected a URI such as "
            "models:/skinml-mobilenetv2@champion, see `python -m skinml.registry list`"
        ) from None


def read_description(folder: Path) -> dict[str, Any]:
    """What the file MLmodel in a logged model's folder says, empty where that is nothing of use."""
    import yaml

    try:
        said = yaml.safe_load(read_file(folder / DESCRIPTION, _LARGEST_DESCRIPTION))
    except (yaml.YAMLError, OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def keras_file(uri: str, folder: Path, description: Mapping[str, Any]) -> Path:
    """The `.keras` file of a logged model's folder, which nothing but Keras would load.

    Whoever may register a model chooses what is in it: a pickle, a loader, code of its own, which
    MLflow would run. So only what skinml logs itself is loaded; else a `UserError`.
    """
    try:
        flavors = dict(description["flavors"])
        keras, python = flavors.pop("keras"), flavors.pop("python_function")
        loader, code = python["loader_module"], python.get("code")
        where, exported = keras["data"], keras.get("save_exported_model")
    except (LookupError, TypeError, ValueError, AttributeError):
        raise foreign(uri, "its MLmodel has not the flavors keras and python_function") from None
    if flavors:
        raise foreign(uri, f"it has the flavors {', '.join(map(str, flavors))} beside keras")
    if loader != "mlflow.keras":
        # Not what is no text: a short YAML may be endless when it is written out.
        shown = loader if isinstance(loader, str) else f"a {type(loader).__name__}"
        raise foreign(uri, f"it is loaded by {shown[:100]}, expected mlflow.keras")
    if code or where != "data" or exported:
        raise foreign(uri, "it brings code or another format; expected data/model.keras alone")
    return folder / "data" / "model.keras"


def metadata_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """What an MLmodel says of its model beyond how that is loaded."""
    metadata = description.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def is_of_the_demo(description: Mapping[str, Any]) -> bool:
    """Whether a logged model was trained on generated pictures."""
    return metadata_of(description).get("data") == "demo"


def run_id_of(description: Mapping[str, Any]) -> str:
    """The id of the run that a logged model came from; empty where its MLmodel says none."""
    return str(description.get("run_id") or "")


def classes_of(description: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes of a logged model; a `UserError` where its MLmodel says none."""
    said = metadata_of(description).get("classes")
    names = [str(name) for name in said] if isinstance(said, list) else []
    if problems := class_problems(names):
        raise UserError(f"its MLmodel names no classes that it may have: {'; '.join(problems)}")
    return tuple(names)


def foreign(uri: str, why: str) -> UserError:
    """The error for a model that is not loaded, since it is none that skinml logs."""
    return UserError(f"{uri}: not a Keras model as skinml logs it, and so not loaded: {why}")


def _with_all(folder: Path, names: tuple[str, ...]) -> Path | None:
    return folder if all((folder / name).is_file() for name in names) else None


def _in_database(path: Path, uri: str) -> str:
    """Where the files of a model lie, by MLflow's own tables in a SQLite store."""
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:

        def one(query: str, *values: str) -> str:
            [[value]] = database.execute(query, values).fetchall()
            return str(value)

        if found := _VERSION.fullmatch(uri):
            name, version = (
                found["name"],
                found["version"]
                or one(
                    "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?",
                    found["name"],
                    found["alias"],
                ),
            )
            uri = one(
                "SELECT source FROM model_versions WHERE name = ? AND version = ?"
                " AND current_stage != 'Deleted_Internal'",
                name,
                version,
            )
        if found := _LOGGED.fullmatch(uri):
            return one(
                "SELECT artifact_location FROM logged_models WHERE model_id = ?"
                " AND lifecycle_stage = 'active'",
                found["model_id"],
            )
    return uri


def _on_server(address: str, uri: str) -> str:
    """The same by the REST interface of a tracking server."""
    api = f"{address}/api/2.0/mlflow"
    if found := _VERSION.fullmatch(uri):
        what = "registered-models/alias" if found["alias"] else "model-versions/get"
        asked = {key: value for key, value in found.groupdict().items() if value}
        uri = _json(f"{api}/{what}?{urlencode(asked)}")["model_version"]["source"]
    if found := _LOGGED.fullmatch(uri):
        info = _json(f"{api}/logged-models/{found['model_id']}")["model"]["info"]
        return str(info["artifact_uri"])
    return uri


def _json(address: str) -> Mapping[str, Any]:
    answer = json.loads(_get(address))
    if not isinstance(answer, dict):
        raise ValueError(f"{address}: no object")
    return answer


def _get(address: str) -> bytes:
    request = urllib.request.Request(address)
    user, password = os.environ.get(USER_VARIABLE), os.environ.get(PASSWORD_VARIABLE)
    if user and password:
        token = b64encode(f"{user}:{password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    with urllib.request.urlopen(request, timeout=_PATIENCE) as response:
        return bytes(response.read())


def with_version(uri: str) -> str:
    """The URI of a model with the number of the version that its alias means now."""
    if "@" not in uri:
        return uri
    from mlflow import MlflowClient

    name, _, alias = uri.removeprefix("models:/").partition("@")
    return f"models:/{name}/{MlflowClient().get_model_version_by_alias(name, alias).version}"


def params_of(uri: str, run_id: str) -> dict[str, str]:
    """The parameters of the run that a model came from, else `UserError`."""
    from mlflow import MlflowClient, MlflowException

    try:
        return dict(MlflowClient().get_run(run_id).data.params)
    except MlflowException as error:
        raise UserError(
            f"{uri}: its run {run_id or '(none)'} cannot be read ({first_line(error)[:200]}); "
            "expected the store that the run was logged to (MLFLOW_TRACKING_URI)"
        ) from None
