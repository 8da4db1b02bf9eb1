"""deploy/kubernetes/values.yaml says of the server what docker-compose.yml says."""

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from skinml.service import app, compose

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
VALUES: dict[str, Any] = yaml.safe_load(
    (ROOT / "deploy" / "kubernetes" / "values.yaml").read_text()
)
SERVICES = compose.read_compose(FILE, dict.fromkeys(compose.asked_variables(FILE)[1], "secret"))[
    "services"
]
SERVER = SERVICES["mlflow"]


def test_the_chart_runs_our_application() -> None:
    [found] = entry_points(group="mlflow.app", name=VALUES["extraArgs"]["appName"])
    assert found.load() is app.create_app
    # In the image, where skinml is not installed.
    here = (ROOT / "deploy" / "mlflow" / "entry_points.txt").read_text()
    assert f"[mlflow.app]\n{found.name} = {found.value}\n" == here


def test_the_server_has_the_same_settings() -> None:
    for name, value in VALUES["extraEnvVars"].items():
        assert str(SERVER["environment"][name]) == value, name
    for name, value in VALUES["extraArgs"].items():
        option = "--" + "".join(f"-{c.lower()}" if c.isupper() else c for c in name)
        given = SERVER["command"][SERVER["command"].index(option) + 1]
        # The name of the service differs, and the way to the application.
        assert given == value or "example.org" in value or name == "appName"


def test_what_runs_beside_the_server_is_the_same() -> None:
    [migrate], [backup] = VALUES["initContainers"], VALUES["extraContainers"]
    image = f"{VALUES['image']['repository']}:{VALUES['image']['tag']}"
    assert image.endswith("/" + SERVER["image"])
    for theirs, ours in ((migrate, SERVICES["migrate"]), (backup, SERVICES["backup"])):
        assert theirs["image"] == image
        assert theirs["command"] == ours["command"]
        assert theirs["securityContext"] == VALUES["securityContext"]
        for variable in theirs["env"]:
            if "value" in variable:
                assert str(ours["environment"][variable["name"]]) == variable["value"]
    user = VALUES["podSecurityContext"]
    assert f"{user['runAsUser']}:{user['runAsGroup']}" == SERVER["user"]
