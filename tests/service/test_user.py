"""A user is made through a service that others' guesses of passwords have closed for a while."""

from typing import Any

import pytest

from skinml.base.errors import UserError
from skinml.service import user

GUESSED = (429, {"message": "too many wrong passwords; try again in 60 s"})


def answering(monkeypatch: pytest.MonkeyPatch, *answers: tuple[int, Any]) -> list[str]:
    """Has a service give these answers, the last one for ever; returns the methods asked."""
    asked: list[str] = []

    def call(address: str, name: str, password: str, method: str, *_: Any) -> tuple[int, Any]:
        asked.append(method)
        return answers[min(len(asked), len(answers)) - 1]

    monkeypatch.setattr(user, "call", call)
    monkeypatch.setattr(user, "_PAUSE", 0.0)
    return asked


def test_others_guesses_are_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, GUESSED, GUESSED, (404, {}), GUESSED, (200, {}))
    assert len(user.make_user("http://service", "secret", "carol")) > 20
    assert asked == ["GET"] * 3 + ["POST"] * 2


def test_one_that_is_there_is_not_made_anew_after_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = answering(monkeypatch, GUESSED, (200, {}))
    with pytest.raises(UserError, match="carol: this user exists"):
        user.make_user("http://service", "secret", "carol")
    assert asked == ["GET"] * 2


@pytest.mark.parametrize("status", [429, 500])
def test_a_service_that_goes_on_refusing_is_asked_to_make_nobody(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(user, "WINDOW", 0.0)
    asked = answering(monkeypatch, (status, "no"))
    with pytest.raises(UserError, match=f"carol: MLflow refused, status {status}: no"):
        user.make_user("http://service", "secret", "carol")
    assert "POST" not in asked
