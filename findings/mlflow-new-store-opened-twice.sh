#!/usr/bin/env bash
# Guess: two programs may open a new store at one moment, such as a training that logs to
# sqlite:///mlflow.db and a script that asks for its runs: one makes the tables, the other waits.
# MLflow 3.17.2: both make them, and one of the two ends with an error of the database, such as
# "duplicate column name: step"; in eight of eight attempts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2 2>&1
cd "$folder"
cat > open.py <<'PYTHON'
import sys
import time
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store
from mlflow import MlflowClient

name = sys.argv[1]
Path(f"{name}.ready").touch()
while not Path("go").exists():
    time.sleep(0.001)
try:
    found = MlflowClient("sqlite:///mlflow.db").search_experiments()
    print("opened", len(found))
except Exception as error:
    print("error", str(error).splitlines()[0])
PYTHON
venv/bin/python - <<'PYTHON'
import subprocess
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

print(f"MLflow {version('mlflow')}")
outcomes = Counter()
for attempt in range(1, 9):
    for name in ("mlflow.db", "go", "a.ready", "b.ready"):
        Path(name).unlink(missing_ok=True)
    both = [
        subprocess.Popen([sys.executable, "open.py", name], text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL)
        for name in "ab"
    ]
    while not (Path("a.ready").exists() and Path("b.ready").exists()):
        time.sleep(0.01)
    Path("go").touch()
    said = [process.communicate()[0].strip() for process in both]
    print(f"attempt {attempt}: {said}")
    outcomes.update(line.partition(" ")[0] for line in said)
print(dict(outcomes))
assert outcomes["error"] > 0 and outcomes["opened"] > 0, "this has changed"
PYTHON
