"""A name and a password in the tracking URI: they work, and no byte of them is left anywhere."""

import base64
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

from docs.screenshots import mlflow_server
from skinml import doctor, predict, registry, sync
from skinml.base.errors import run_command
from skinml.base.processes import free_port
from skinml.compare import __main__ as compare
from skinml.data.prepared import PreparedSet
from skinml.run.tracked import track
from skinml.store import views
from skinml.sweep import __main__ as sweep
from skinml.tracking.folder import RunFolder
from tests.conftest import noted, surroundings
from tests.tracking.proxy import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_question_outlives_its_test")]

NINE_RUNS = Path(__file__).parents[2] / "results" / "nine-runs"

# In no other word, and in the address with an escaped letter.
USER, PASSWORD = "wolfgang", "trazom@1756"
INFO = "wolfgang:trazom%401756@"


class Guarded(Proxy):
    """Asks for the user's name and password, as the service does."""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        given = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if request.headers.get("Authorization") == f"Basic {given}":
            super().answer(request)
            return
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self._reply(request, 401, b"not you", "text/plain")


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The host and port of a real server that asks who one is, and the folder of its store."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    with surroundings(folder), mlflow_server(f"sqlite:///{folder}/mlflow.db") as address:
        proxy = Guarded(address)
        yield proxy.address.removeprefix("http://"), folder, address
        proxy.close()


Commands = dict[str, Callable[[], int | None]]


@pytest.fixture
def commands(finished_folder: RunFolder, tmp_path: Path, toy_set: PreparedSet) -> Commands:
    """Every command that asks a tracking server, by what a person would call it."""
    picture = tmp_path / "lesion.png"
    Image.new("RGB", (300, 200), "brown").save(picture)
    offline = RunFolder(shutil.copytree(finished_folder.path, tmp_path / "runs" / "offline"))
    noted(offline)
    folder = RunFolder(shutil.copytree(finished_folder.path, tmp_path / "runs" / "live"))

    def run() -> int:
        with track(folder, folder.read_description(), load=False) as tracked:
            tracked.raise_if_refused()
            tracked.log_results()
        return 0 if folder.published else 75

    data = ["--data", "demo", "--data_dir", str(toy_set.folder), "--weights", "none"]
    return {
        "run": run,
        "sync": lambda: sync.main([str(offline.path), "--drain-limit", "1"]),
        "compare": lambda: compare.main(["--format", "json"]),
        "compare --log": lambda: compare.main(
            ["--from", str(NINE_RUNS), "--log", "--format", "csv"]
        ),
        "predict": lambda: predict.main(["models:/skinml-mobilenetv2@champion", str(picture)]),
        "registry": lambda: registry.main(["list"]),
        "promote": lambda: registry.main(["promote", "skinml-mobilenetv2", "1"]),
        "doctor": lambda: doctor.main(["--fix"]),
        "sweep": lambda: sweep.main([*data, "--dry-run"]),
        "views": lambda: views.main(["--experiment", "skinml"]),
    }


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the tracking URI as a user does, and undoes what a command makes of it."""

    def use(address: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)

    return use


def _assert_absent(*folders: Path, **texts: str) -> None:
    """Neither the user's name nor the password, escaped or not, in any file or text."""
    contents = {name: text.encode() for name, text in texts.items()}
    for folder in folders:
        contents |= {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert len(contents) > 10, "nothing is looked at"
    for name, content in contents.items():
        for secret in (USER, "trazom"):
            assert secret.encode() not in content, f"{secret} in {name}"


def test_they_work_and_no_command_leaves_them_anywhere(
    server: Any,
    commands: Commands,
    use: Callable[[str], None],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    host, folder, inside = server
    codes = {}
    for name, command in commands.items():
        use(f"http://{INFO}{host}")
        codes[name] = run_command(command)
    out, err = capfd.readouterr()
    _assert_absent(folder, tmp_path, out=out, err=err)
    # Nothing there to read for the others: no network is in the folder of these tests.
    assert codes == dict.fromkeys(codes, 0) | {"compare": 2, "predict": 2, "promote": 2}, err
    client = MlflowClient(inside)
    found = client.get_experiment_by_name("skinml")
    assert found is not None
    runs = client.search_runs([found.experiment_id])
    assert sorted(run.data.tags.get("kind", "") for run in runs) == ["", "", "comparison"]
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.parametrize(
    "address",
    [
        "http://{info}{nobody}",
        "http://{other}{server}",
        "http://{info}127.0.0.1:port",
        "postgresql+psycopg://{info}{nobody}/db",
        "postgresql+psycopg://{info}{closing}/db",
        "mysql://{info}{nobody}/db",
        "htp://{info}{nobody}",
        "{info}{nobody}",
    ],
)
def test_what_goes_wrong_does_not_tell_them(
    address: str,
    server: Any,
    commands: Commands,
    use: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SKINML_DRAIN_LIMIT", "0.5")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_hang_up, args=(listening,), daemon=True).start()
        uri = address.format(
            info=INFO,
            other=INFO.replace("trazom", "trazom-not"),
            server=server[0],
            nobody=f"127.0.0.1:{free_port()}",
            closing=f"127.0.0.1:{listening.getsockname()[1]}",
        )
        for name, command in commands.items():
            use(uri)
            code = run_command(command)
            out, err = capfd.readouterr()
            assert code in (2, 75), f"{name}: {err}"
            last = err.strip().splitlines()[-1]
            assert last.startswith("skinml: "), (name, err)
            _assert_absent(tmp_path, out=out, err=err)
        listening.shutdown(socket.SHUT_RDWR)


def _hang_up(listening: socket.socket) -> None:
    """Take connections and end them at once."""
    while True:
        try:
            listening.accept()[0].close()
        except OSError:
            return
