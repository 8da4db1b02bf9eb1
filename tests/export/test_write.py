"""Where an export's files go: a new folder, or one that is there and empty."""

from pathlib import Path

import pytest

from skinml.base.errors import UserError
from skinml.base.files import require_place
from skinml.export import __main__ as export
from skinml.export.made import Made
from skinml.export.verify import Verification


def made() -> Made:
    """An export that nobody has converted."""
    return Made(
        "litert",
        "float32",
        b"a network",
        Verification("validation", 9, {}, 1.0, 0.0, 0.5, None),
        1.0,
    )


@pytest.mark.parametrize("out", ["new", "below/new", "empty", "link", "to_nothing", "."])
def test_a_folder_may_be_new_or_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    """It is not replaced: somebody may stand in it, or a disk be mounted there.

    What was refused by the system came after the whole conversion, of which nothing was kept.
    """
    here = tmp_path / "here"
    target = {".": here, "link": tmp_path / "target", "to_nothing": tmp_path / "nothing"}
    here.mkdir()
    if out != ".":
        (here / "link").symlink_to(tmp_path / "target")
        (here / "to_nothing").symlink_to(tmp_path / "nothing")
        for folder in (tmp_path / "target", here / "empty"):
            folder.mkdir()
    monkeypatch.chdir(here)
    folder = target.get(out, here / out)
    before = folder.stat().st_ino if folder.exists() else None
    require_place(Path(out))
    path = export.write(made(), Path(out))
    assert path.read_bytes() == b"a network"
    assert [path.name for path in folder.iterdir()] == ["model.tflite"]
    assert before in (None, folder.stat().st_ino), "another folder stands in its place"
    assert not list(tmp_path.rglob(".partial-*"))


def test_a_page_is_there_when_all_that_it_needs_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is, where one of its files cannot be moved."""
    names = ["a.js", "index.html", "litert", "model.tflite"]
    seen: list[str] = []
    rename = Path.rename

    def watched(path: Path, target: Path) -> Path:
        if target.parent == tmp_path:
            seen.append(target.name)
            if target.name == failing:
                raise OSError(28, "No space left on device")
        return rename(path, target)

    def page(file: Path, folder: Path) -> None:
        for name in names:
            (folder / name).write_text(name)

    monkeypatch.setattr(export, "write_page", page)
    monkeypatch.setattr(Path, "rename", watched)
    failing = "index.html"
    with pytest.raises(OSError, match="No space left"):
        export.write(made(), tmp_path, page=True)
    assert not list(tmp_path.iterdir())
    failing = ""
    export.write(made(), tmp_path, page=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == names and seen[-1] == "index.html"


def test_what_lies_in_a_folder_is_left_as_it_is(tmp_path: Path) -> None:
    """It may have come there while the network was converted."""
    (tmp_path / "model.tflite").write_bytes(b"somebody else's")
    with pytest.raises(UserError, match="is there already; expected a new folder, or an empty"):
        export.write(made(), tmp_path)
    assert (tmp_path / "model.tflite").read_bytes() == b"somebody else's"
