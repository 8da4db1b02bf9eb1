"""A run's folder with a network that nobody has trained, and its data: what an export takes."""

import zipfile
from pathlib import Path

import pytest

from tests.conftest import surroundings


@pytest.fixture(scope="session")
def exported(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LiteRT file of that network: converting takes seconds, copying it none."""
    from skinml.export.__main__ import main

    folder = tmp_path_factory.mktemp("exported")
    with surroundings(folder):
        assert main([str(run_folder), "--out", str(folder / "out")]) == 0
    return folder / "out" / "model.tflite"


@pytest.fixture(scope="session")
def network(exported: Path) -> bytes:
    """What a conversion gives: the file without what it says of itself."""
    with zipfile.ZipFile(exported) as archive:
        start = min(member.header_offset for member in archive.infolist())
    return exported.read_bytes()[:start]


@pytest.fixture
def converted(network: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is converted becomes that network."""
    monkeypatch.setattr("skinml.export.made.convert", lambda *given: network)
