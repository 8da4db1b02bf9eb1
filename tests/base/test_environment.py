"""Variables of the environment: set for a time, and read as seconds."""

import os

import pytest

from skinml.base.environment import environment, seconds_in
from skinml.base.errors import UserError

NAME = "SKINML_TEST_SECONDS"


def test_variables_are_set_for_a_time_and_then_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(NAME, "1")
    monkeypatch.delenv(NAME + "_TOO", raising=False)
    with pytest.raises(KeyError), environment({NAME: "2", NAME + "_TOO": "3"}):
        assert (os.environ[NAME], os.environ[NAME + "_TOO"]) == ("2", "3")
        raise KeyError
    assert os.environ[NAME] == "1" and NAME + "_TOO" not in os.environ


@pytest.mark.parametrize(("text", "expected"), [("", 7.0), ("0.25", 0.25), ("1e2", 100.0)])
def test_seconds_are_what_a_variable_says_or_the_default(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: float
) -> None:
    monkeypatch.setenv(NAME, text)
    assert seconds_in(NAME, 7) == expected


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "2s"])
def test_what_is_no_time_is_told_with_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(NAME, text)
    with pytest.raises(UserError, match=f"{NAME}='{text}': expected seconds.* more than 0"):
        seconds_in(NAME, 7)


def test_less_than_the_least_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "0.01")
    with pytest.raises(UserError, match=r"expected seconds as a number, 0\.1 or more"):
        seconds_in(NAME, 7, least=0.1)
