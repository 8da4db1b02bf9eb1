"""The serving model behind MLflow's real server: what it answers, and what it refuses."""

import base64
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skinml.base.processes import free_port
from skinml.config import Config
from skinml.data.isic2017 import CLASSES, NOTICE
from skinml.run.end_to_end import run
from tests.conftest import surroundings
from tests.waiting import PATIENCE, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="the server is stopped by its process group"),
]

ROOT = Path(__file__).parents[2]


def post(port: int, body: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode()


def healthy(port: int) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def store(
    tiny_backbone: str,
    toy_files: Path,
    empty_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with the store in which one run with a tiny network registered its models."""
    store = tmp_path_factory.mktemp("serving")
    shutil.copy(empty_store, store / "mlflow.db")
    with surroundings(store):
        run(
            Config(
                model=tiny_backbone,
                data="demo",
                data_dir=str(toy_files),
                protocol="challenge",
                weights="none",
                epochs_finetune=1,
                device="cpu",
            )
        )
    return store


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[int]:
    """The port of a server of the champion."""
    port = free_port()
    with surroundings(store):
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        # The model brings its own copy of the package: the checkout stays out of sight.
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        variables["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # as in docker-compose.yml
        log = store / "server.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "models", "serve"),
                    *("-m", "models:/skinml-demo-tiny-serving@champion"),
                    *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)),
                ],
                env={**variables, "PATH": path},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
    try:
        wait_for(lambda: healthy(port), log.read_text, process, pause=0.5)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def picture(toy_files: Path) -> bytes:
    return min(toy_files.rglob("*.jpg")).read_bytes()


def split(*rows: object, column: str = "image") -> str:
    """The body of a request with one picture a row."""
    return json.dumps({"dataframe_split": {"columns": [column], "data": [[row] for row in rows]}})


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_a_picture_gets_a_label_scores_and_a_notice(server: int, picture: bytes) -> None:
    status, body = post(server, split(encoded(picture), encoded(picture)))
    assert status == 200, body
    answers: list[dict[str, Any]] = json.loads(body)["predictions"]
    assert len(answers) == 2
    assert answers[0] == answers[1]
    assert list(answers[0]) == ["label", *CLASSES, "notice"]
    scores = {name: answers[0][name] for name in CLASSES}
    assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
    assert answers[0]["label"] == max(scores, key=lambda name: scores[name])
    assert answers[0]["notice"] == (
        "Research software, not for clinical use. "
        "Trained on generated demo images: knows nothing about skin."
    )


def test_a_request_may_ask_for_an_operating_point(server: int, picture: bytes) -> None:
    body = json.loads(split(encoded(picture)))
    status, text = post(server, json.dumps({**body, "params": {"operating_point": "youden"}}))
    assert status == 200, text
    [answer] = json.loads(text)["predictions"]
    assert list(answer) == ["label", *CLASSES, "threshold", "margin", "near", "notice"]
    assert answer["margin"] == pytest.approx(answer["melanoma"] - answer["threshold"])
    assert (answer["label"] == "melanoma") == (answer["margin"] >= 0)
    status, text = post(server, json.dumps({**body, "params": {"operating_point": "recall"}}))
    assert status == 400 and "expected sensitivity:NUMBER" in text


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("not base64", "image 0: not base64"),
        ("no picture", "image 0: not a JPEG or PNG picture, nor AVIF, TIFF, BMP, HEIC or DICOM"),
        ("truncated", "image 0: damaged or truncated"),
        ("empty text", "image 0: not a JPEG or PNG picture, nor AVIF, TIFF, BMP, HEIC or DICOM"),
        ("second row", "image 1: not a JPEG or PNG picture, nor AVIF, TIFF, BMP, HEIC or DICOM"),
        ("no row", "no image in the request"),
        ("wrong column", "image"),
        ("number", "image"),
        ("null", "image"),
        ("no JSON", "JSON"),
        ("no table", "dataframe_split"),
    ],
)
def test_garbage_is_refused_with_the_reason_and_the_server_lives_on(
    server: int, picture: bytes, kind: str, reason: str
) -> None:
    body = {
        "not base64": split("§§§ no base64 §§§"),
        "no picture": split(encoded(b"no picture at all")),
        "truncated": split(encoded(picture[:1500])),
        "empty text": split(""),
        "second row": split(encoded(picture), encoded(b"no picture")),
        "no row": split(),
        "wrong column": split(encoded(picture), column="photo"),
        "number": split(7),
        "null": split(None),
        "no JSON": "{this is no JSON",
        "no table": "{}",
    }[kind]
    status, answer = post(server, body)
    assert 400 <= status < 500, f"{status}: {answer}"
    assert reason in answer
    assert "Traceback" not in json.loads(answer)["message"]
    assert healthy(server)
    assert post(server, split(encoded(picture)))[0] == 200


def documented(language: str, first: str) -> str:
    """The block of code in docs/ that begins with some words, for the model of the test."""
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    [block] = re.findall(rf"^```{language}\n({re.escape(first)}.*?)^```$", text, re.DOTALL | re.M)
    return str(block).replace("skinml-mobilenetv2", "skinml-demo-tiny")


def write_photo(folder: Path, size: tuple[int, int]) -> Path:
    """A picture named as in docs/models.md, of noise: a large file for its size."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "lesion.jpg", quality=95)
    return folder / "lesion.jpg"


def test_the_documented_request_takes_a_photo_of_7_mb(server: int, tmp_path: Path) -> None:
    """The largest original has as many; one argument of a command ends at 128 kB."""
    photo = write_photo(tmp_path, (2800, 2200))
    assert photo.stat().st_size > 7_000_000
    command = documented("", "printf").replace(":8080", f":{server}")
    ended = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 0, ended.stderr
    [answer] = json.loads(ended.stdout)["predictions"]
    assert answer["label"] in CLASSES


def test_the_documented_code_gives_both_models_answers(store: Path, tmp_path: Path) -> None:
    write_photo(tmp_path, (600, 450))
    shown = "print(*scores[0], *answers.loc[0, ['melanoma', 'nevus', 'seborrheic_keratosis']])"
    ended = subprocess.run(
        [sys.executable, "-c", documented("python", "import base64") + shown],
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"},
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    values = np.array(ended.stdout.splitlines()[-1].split(), float).reshape(2, len(CLASSES))
    np.testing.assert_allclose(values[0], values[1], atol=1e-6)
    assert values[0].sum() == pytest.approx(1, abs=1e-5)


def test_a_damaged_jpeg_is_refused(server: int, picture: bytes) -> None:
    """Cut with an end put on: Pillow alone gives gray pixels for what is lost."""
    content = picture[: len(picture) // 2] + b"\xff\xd9"
    status, answer = post(server, split(encoded(content)))
    assert status == 400
    assert "image 0: damaged or truncated: Corrupt JPEG data" in answer


# MLflow says so of its own types, to whoever imports mlflow.pyfunc first.
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")
def test_the_network_has_answered_before_the_first_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its first answer compiles it for that shape: seconds, which the first caller waited."""
    from mlflow.pyfunc.model import PythonModelContext

    from skinml.store.serving_model import ServingModel

    shapes = []

    class Network:
        def predict_on_batch(self, batch: np.ndarray) -> np.ndarray:
            shapes.append(batch.shape)
            return np.full((len(batch), len(CLASSES)), 1 / len(CLASSES))

    monkeypatch.setattr("skinml.store.serving_model.load_saved", lambda path: Network())
    given = {"notice": NOTICE, "classes": list(CLASSES)}
    model, context = ServingModel(), PythonModelContext({"model": "model.keras"}, given)
    model.load_context(context)
    [warm] = shapes
    photo = write_photo(tmp_path, (300, 200)).read_bytes()
    model.predict(context, pd.DataFrame({"image": [encoded(photo)]}))
    assert shapes == [warm, warm]
