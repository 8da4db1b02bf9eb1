"""What is behind a tracking URI: told at once where no waiting helps, else within a limit.

Servers of these tests are sockets of this machine: one that takes connections and never answers, a
port where nobody listens.
"""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from skinml.base.errors import NoAnswer, UserError
from skinml.base.processes import free_port
from skinml.store.access import ask, check_address, check_store, store_is_needed
from skinml.store.read import experiment_to_read

pytestmark = pytest.mark.usefixtures("no_question_outlives_its_test")


@pytest.fixture
def silent() -> Iterator[str]:
    """The host and port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("localhost:5000", "localhost:5000: no scheme; expected http://HOST:PORT"),
        ("127.0.0.1:5000", "127.0.0.1:5000: no scheme"),
        ("me:secret@server:5000/mlflow", "=server:5000/mlflow: no scheme"),
        ("mlflow.example.org", "mlflow.example.org: no scheme"),
        ("http:/server:5000", "http:/server:5000: no scheme"),
        ("mlruns", "mlruns: no scheme; expected http://HOST:PORT of a tracking server, or sqlite"),
        ("http://", "http://: no host"),
        ("htp://me:secret@server:5000", "unknown scheme htp (did you mean http?); expected"),
        ("postgres+psycopg://me:secret@h/db", "unknown scheme postgres (did you mean postgresql?)"),
        ("gopher://h/db", "gopher://h/db: unknown scheme gopher; expected http://HOST:PORT"),
        ("http://me:secret@server:port", "http://server:port: Port could not be cast"),
        ("postgresql://me:secret@server:port/db", "postgresql://server:port/db: Port could not"),
        ("http://me:secret@[server", "http://[server: Invalid IPv6 URL"),
        # A password with signs of addresses, which Python's own words quote in part.
        ("https://me:secret/et@h", "=https://h: its name or password holds a sign to be esc"),
        ("http://me:secret#et@h:5000", "=http://h:5000: its name or password holds a sign"),
        ("http://me:secret?et@h", "=http://h: its name or password"),
        ("http://me:[secret]@h", "=http://h: its name or password"),
        ("http://me:secret@et@h:port", "=http://h:port: Port could not be cast"),
        ("http://me:secret et/@h", "=http://h: its name or password"),
        ("htps://me:secret/et@h", "=htps://h: its name or password"),
        ("htps://secret/et@h", "=htps://h: unknown scheme htps (did you mean http"),
    ],
)
def test_an_address_that_is_none(address: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        check_address(address)
    assert text in str(caught.value) and "secret" not in str(caught.value)
    assert "sqlite:///FILE.db" in str(caught.value), "no remedy"


@pytest.mark.parametrize(
    "address",
    [
        *("", "http://h", "https://me:secret@h:5000/x", "sqlite:///mlflow.db", "databricks://x"),
        *("postgresql+psycopg://me:p%40ss@h/db", "databricks", "folder", "file:folder"),
    ],
)
def test_an_address_that_may_be_one(address: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    check_address(address)


def test_a_database_that_refuses_connections_is_told_at_once() -> None:
    """MLflow tries it ten times, for 100 s."""
    port = free_port()
    with pytest.raises(UserError) as caught:
        check_store(f"postgresql+psycopg://me:secret@127.0.0.1:{port}/db")
    assert "onnection refused" in str(caught.value) and "secret" not in str(caught.value)


def test_a_database_without_its_driver_names_the_remedy() -> None:
    with pytest.raises(UserError, match=r"mysql://h/db: No module named .*; expected the data"):
        check_store("mysql://me:secret@h/db")


@pytest.mark.parametrize("kind", ["http://me:secret@{}", "postgresql+psycopg://me:secret@{}/db"])
def test_a_server_that_never_answers_is_told_and_given_up(
    kind: str,
    silent: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = kind.format(silent)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")
    clean = address.replace("me:secret@", "")
    begun = time.monotonic()
    with pytest.raises(NoAnswer, match=f"{clean.replace('+', '.')}: no answer within 4 s; expec"):
        experiment_to_read()
    assert 4 <= time.monotonic() - begun < 30, "MLflow's own retries take 100 s and more"
    assert capsys.readouterr().err == f"skinml: waiting for {clean}: 4 s at most\n"


def test_a_server_that_refuses_connections_is_told_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    with pytest.raises(UserError, match=r"cannot use http.*Connection refused.*; expected a"):
        experiment_to_read()


@pytest.mark.parametrize("text", ["60s", "0", "-1", "nan", "soon"])
def test_a_limit_that_is_no_number_of_seconds_is_the_users_error(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", text)
    with pytest.raises(UserError, match=f"MLFLOW_HTTP_REQUEST_TIMEOUT='{text}': expected seconds"):
        ask(lambda: pytest.fail("asked"))


@pytest.mark.parametrize(("text", "limit"), [("", "60"), ("2.5", "3"), ("1e1", "10")])
def test_mlflow_is_told_a_limit_in_its_own_whole_seconds(
    text: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an empty variable, or a fraction, it raises a ValueError; of that of its retries too."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", text)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "")
    assert ask(lambda: os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == limit
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "2"


def test_a_quick_answer_is_given_and_an_error_raised_without_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ask(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        ask(lambda: 1 // 0)
    assert capsys.readouterr().err == ""


def test_what_goes_on_is_not_given_up() -> None:
    begun, seen = time.monotonic(), list[int]()

    def download() -> str:
        while time.monotonic() - begun < 2.5:
            seen.append(1)
            time.sleep(0.05)
        return "all of it"

    assert ask(download, limit=1, progress=lambda: len(seen)) == "all of it"
    with pytest.raises(NoAnswer):
        ask(lambda: time.sleep(2), limit=1)


def test_a_missing_store_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such database"):
        check_store(f"sqlite:///{tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists()


def _set(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_{name}", value)


def test_compare_reads_where_runs_go(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {name: store.create_experiment(name) for name in ("mine", "other", "skinml")}
    assert experiment_to_read() == "skinml"
    _set(monkeypatch, EXPERIMENT_ID=ids["mine"])
    assert experiment_to_read() == "mine"
    _set(monkeypatch, EXPERIMENT_NAME="mine")
    assert experiment_to_read() == "mine"
    _set(monkeypatch, EXPERIMENT_NAME="other")
    with pytest.raises(UserError, match="is the experiment 'mine', MLFLOW_EXPERIMENT_NAME='other'"):
        experiment_to_read()
    # `mlflow run` sets the id; that of Default where nobody has chosen one.
    _set(monkeypatch, RUN_ID="f" * 32)
    assert experiment_to_read() == "mine"
    _set(monkeypatch, EXPERIMENT_ID="0")
    assert experiment_to_read() == "other"
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert experiment_to_read() == "skinml"


def test_an_error_of_the_store_is_one_line_without_a_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowException

    def fail() -> Any:
        raise MlflowException("API request to http://me:secret@h/api failed\nwith more")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@h")
    with pytest.raises(UserError) as caught, store_is_needed():
        ask(fail)
    assert str(caught.value).startswith("cannot use http://h (API request to http://h/api failed);")
