"""Times as a person reads them."""

import pytest

from skinml.base.progress import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.4, "0 s"),
        (59, "59 s"),
        (59.6, "1 min"),
        (3569, "59 min"),
        (3900, "1 h 05"),
        (47 * 3600, "47 h 00"),
        (55 * 3600, "2 d 7 h"),
    ],
)
def test_durations_are_for_a_person(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
