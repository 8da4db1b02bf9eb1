"""`python -m skinml.explain`: what cannot be written is told before anything is computed."""

from pathlib import Path

import pytest

from skinml.base.errors import UserError
from skinml.explain import __main__ as command


@pytest.fixture(autouse=True)
def computing_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_source", lambda uri: pytest.fail("the model is fetched"))


@pytest.mark.parametrize(
    ("option", "place", "told"),
    [
        ("--page", "folder", "is a folder; expected a file, or a new name"),
        ("--page", "a" * 300, "File name too long; expected a place that may be written"),
        ("--page", "nowhere/page.html", "expected a place in a folder that exists"),
        ("--page", "to the folder", "is a folder; expected a file"),
        ("--out", "file", "is a file; expected a folder, or a new name"),
        ("--out", "a" * 300, "File name too long; expected a place that may be written"),
        ("--out", "nowhere/maps", "expected a place in a folder that exists"),
        ("--out", "file/maps", "Not a directory; expected a place that may be written"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_at_once(
    option: str, place: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "to the folder").symlink_to(tmp_path / "folder")
    with pytest.raises(UserError, match=told) as caught:
        command.main(["models:/tiny/1", option, str(tmp_path / place)])
    assert str(caught.value).startswith(f"{option} ")


@pytest.mark.parametrize("option", ["--page", "--out"])
def test_a_folder_without_the_right_to_write_is_refused_at_once(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of the system, as a test of root may write anywhere."""
    monkeypatch.setattr("os.access", lambda place, right: False)
    with pytest.raises(UserError, match=f"cannot be written in {tmp_path}; expected a place in a"):
        command.main(["models:/tiny/1", option, str(tmp_path / "new")])
