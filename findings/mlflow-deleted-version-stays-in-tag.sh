#!/usr/bin/env bash
# Guess: once a version of a registered model is deleted, nothing names it any more, or asking for it
# by what still does says so.
# MLflow 3.17.2: its alias goes without a word, so that models:/NAME@ALIAS fails although nobody took
# the alias away; and the tag mlflow.modelVersions of the logged model still lists the version.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2 2>&1
cd "$folder"
MLFLOW_TRACKING_URI=sqlite:///mlflow.db venv/bin/python - <<'PYTHON' 2> log.txt || { cat log.txt >&2; exit 1; }
import json
from pathlib import Path

import mlflow

client = mlflow.MlflowClient()
with mlflow.start_run():
    model = mlflow.initialize_logged_model(name="model")
    Path("weights.bin").write_bytes(bytes(4))
    client.log_model_artifact(model.model_id, "weights.bin")
    mlflow.finalize_logged_model(model.model_id, "READY")
version = mlflow.register_model(f"models:/{model.model_id}", "lesions")
client.set_registered_model_alias("lesions", "champion", version.version)


def state():
    tag = client.get_logged_model(model.model_id).tags.get("mlflow.modelVersions", "[]")
    aliases = client.get_registered_model("lesions").aliases
    return len(client.search_model_versions("name = 'lesions'")), dict(aliases), json.loads(tag)


before = state()
client.delete_model_version("lesions", version.version)
after = state()
print(f"MLflow {mlflow.__version__}")
for when, (count, aliases, tag) in (("before", before), ("after", after)):
    print(f"{when:<7} versions {count}  aliases {aliases}  mlflow.modelVersions {tag}")
assert before[:2] == (1, {"champion": version.version}), "this has changed"
assert after[:2] == (0, {}) and after[2] == before[2] != [], "this has changed"
PYTHON
