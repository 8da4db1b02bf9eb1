"""Artifacts on an S3 store, as the settings of the compose file keep them there."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from skinml.service.native import Native
from skinml.service.user import make_user
from tests.conftest import surroundings
from tests.service.conftest import needs_service

pytestmark = [
    pytest.mark.slow,
    needs_service,
    # Of moto and botocore, neither of which is ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

BUCKET, KEY, SECRET = "artifacts", "key-of-the-test", "secret-of-the-test"


@pytest.fixture
def store() -> Iterator[str]:
    """The address of an S3 store with the bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def test_artifacts_go_to_the_store_and_come_back_through_the_service(
    place: Path, store: str
) -> None:
    s3 = boto3.client(
        "s3", endpoint_url=store, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )  # fmt: skip
    s3.create_bucket(Bucket=BUCKET)
    settings = {
        "MLFLOW_ARTIFACTS": f"s3://{BUCKET}",
        "MLFLOW_S3_ENDPOINT_URL": store,
        "S3_ACCESS_KEY": KEY,
        "S3_SECRET_KEY": SECRET,
        "MLFLOW_WORKERS": "1",
    }
    with surroundings(place) as monkeypatch:
        for variable, value in settings.items():
            monkeypatch.setenv(variable, value)
        with Native(place / "data").up() as native:
            admin = native.variables["MLFLOW_AUTH_ADMIN_PASSWORD"]
            monkeypatch.setenv("MLFLOW_TRACKING_URI", native.address)
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
            monkeypatch.setenv(
                "MLFLOW_TRACKING_PASSWORD", make_user(native.address, admin, "alice")
            )
            _log_and_read(place, s3)
        kept = native.data / "volumes" / "artifacts"
        assert not [path for path in kept.rglob("*") if path.is_file()]


def _log_and_read(folder: Path, s3: object) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.create_run(client.create_experiment("on-s3"))
    # Larger than boto3's first part: it goes in several.
    content = os.urandom(20_000_000)
    (folder / "weights.bin").write_bytes(content)
    client.log_artifact(run.info.run_id, str(folder / "weights.bin"), "model")
    listed = s3.list_objects_v2(Bucket=BUCKET)["Contents"]  # type: ignore[attr-defined]
    assert [(item["Key"].endswith("/model/weights.bin"), item["Size"]) for item in listed] == [
        (True, len(content))
    ]
    (folder / "back").mkdir()
    back = client.download_artifacts(run.info.run_id, "model/weights.bin", str(folder / "back"))
    digest = hashlib.sha256(Path(back).read_bytes()).hexdigest()
    assert digest == hashlib.sha256(content).hexdigest()
    client.delete_run(run.info.run_id)
