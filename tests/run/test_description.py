"""What a run says of itself before it trains."""

import pytest

from skinml.config import Config
from skinml.run.description import display_name


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": 32, "seed": 1}, "mobilenetv2-32-seed1"),
        ({"test_fraction": 0.2}, "mobilenetv2-16-seed0"),
        ({"protocol": "challenge"}, "challenge-mobilenetv2-16-seed0"),
        ({"data": "ham10000"}, "ham10000-mobilenetv2-16-seed0"),
        ({"data": "demo", "protocol": "challenge"}, "demo-challenge-mobilenetv2-16-seed0"),
        ({"data": "./clinic/Our Lesions"}, "own-Our_Lesions-mobilenetv2-16-seed0"),
    ],
)
def test_a_name_begins_with_what_is_not_the_papers(
    options: dict[str, object], expected: str
) -> None:
    """Else runs of both protocols have one name in a table whose columns cut its end."""
    assert display_name(Config(model="mobilenetv2", **options)) == expected  # type: ignore[arg-type]
