"""A user's name and password in an address: taken out of every text, kept for the server."""

import os

import pytest

from skinml.base.address import move_user_info, without_user_info


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://me:secret@h:5000/x", "http://h:5000/x"),
        ("HTTPS://me:secret@h", "HTTPS://h"),
        ("http://token@h", "http://h"),
        ("http://:secret@h", "http://h"),
        ("postgresql://me:secret@h/db", "postgresql://h/db"),
        ("postgresql+psycopg2://me:s/e?c#r@et@h/db", "postgresql+psycopg2://h/db"),
        ("mysql+pymysql://me:secret@h/db", "mysql+pymysql://h/db"),
        ("redis://me:secret@h/0", "redis://h/0"),
        ("htps://me:s3cr/e?t#@x@h/y", "htps://h/y"),
        ("a 'http://a:b@h', a (https://c:d@i)", "a 'http://h', a (https://i)"),
        # What is none.
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("file:///C:/me@work/mlruns", "file:///C:/me@work/mlruns"),
        ("models:/skinml@champion of http://h", "models:/skinml@champion of http://h"),
        ("http://h:5000/#/experiments/1", "http://h:5000/#/experiments/1"),
    ],
)
def test_texts_lose_user_information_and_nothing_else(text: str, clean: str) -> None:
    assert without_user_info(text) == clean


def _moved(address: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str | None, ...]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "before")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    move_user_info()
    names = ("URI", "USERNAME", "PASSWORD")
    return tuple(os.environ.get(f"MLFLOW_TRACKING_{name}") for name in names)


def test_a_servers_user_goes_where_mlflow_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")  # undone after the test
    moved = _moved("https://me:s%40cret@h:5000/mlflow", monkeypatch)
    assert moved == ("https://h:5000/mlflow", "me", "s@cret")


@pytest.mark.parametrize(
    "address", ["http://h:5000", "http://token@h", "postgresql://me:secret@h/db", "http://[x", ""]
)
def test_other_addresses_stay(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _moved(address, monkeypatch) == (address, "before", None)
