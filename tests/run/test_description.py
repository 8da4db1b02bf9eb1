"""What a run says of itself before it trains."""

from pathlib import Path
from typing import Any

import pytest

from skinml.config import Config
from skinml.run.description import describe_run, display_name, set_up
from skinml.training import backend


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


@pytest.mark.parametrize(
    ("given", "there"),
    [({}, "True"), ({"augmentation": "crops"}, "False"), ({"mixup": 0.2}, "False")],
)
def test_where_the_images_lay_is_told_as_it_was(
    given: dict[str, Any], there: str, toy_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, which makes symmetries in its memory, but neither crops nor mixtures."""
    import keras

    gpu = backend.Device("tensorflow", "gpu", "NVIDIA H100", 16, 9.0, 80_000_000_000)
    monkeypatch.setattr(backend, "configure", lambda *_: gpu)
    config = Config(data="demo", data_dir=str(toy_files), protocol="challenge", **given)
    try:
        setup = set_up(config, yes=True)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    told = describe_run(config, setup.data, setup.parts, setup.device, setup.execution)
    assert told.tags["recipe"] == "paper"  # `compare --tag recipe=paper`
    assert (
        told.params["effective_images_on_device"] == there == str(setup.execution.images_on_device)
    )
