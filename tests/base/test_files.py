"""What may name a file, and how files of somebody else are read."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinml.base.errors import UserError
from skinml.base.files import (
    check_inside,
    file_name,
    read_file,
    read_json,
    write_out,
    write_whole,
)

HOSTILE = [
    "", ".", "..", "../..", "/", "/etc/x", "\\", "..\\x", "a/b", "a\0b", "x" * 5000, "ü" * 5000,
    "con", "NUL", "lpt1.txt", "COM9", "a.", "...", " ", "a\nb", "\x1b[31m", "\u202egpj.exe",
    "C:x", "~", "*", "e\u0301", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", ["mobilenet-16-seed0-splitofficial", "a.b_c+d=e,f", "Größe-1"])
def test_a_good_name_is_its_own(name: str) -> None:
    assert file_name(name) == name


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_any_text_names_one_file_in_its_folder(tmp_path: Path, text: str) -> None:
    path = tmp_path / "folder" / file_name(text)
    path.parent.mkdir()
    path.write_text("harmless")
    assert list(path.parent.iterdir()) == [path] == list(tmp_path.rglob("*"))[1:]


def test_two_texts_never_share_a_name() -> None:
    names = [file_name(text).casefold() for text in [*HOSTILE, "a_b", "a:b"]]
    assert len(set(names)) == len(names)


@given(st.text())
def test_no_name_means_anything_to_a_system(text: str) -> None:
    name = file_name(text)
    assert (
        name not in ("", ".", "..") and not set(name) & set('/\\:*?"<>|\0') and name.isprintable()
    )
    assert len(name.encode()) < 200 and not name.endswith((".", " "))
    assert file_name(name) == name


def test_only_a_regular_file_in_the_folder_is_given_out(tmp_path: Path) -> None:
    folder, secret = tmp_path / "run", tmp_path / "secret"
    (folder / "figures").mkdir(parents=True)
    secret.mkdir()
    (secret / "key").write_text("harmless")
    (folder / "figures" / "a.png").write_text("own")
    (folder / "link").symlink_to(secret / "key")
    (folder / "below").symlink_to(secret)
    os.mkfifo(folder / "pipe")
    assert check_inside(folder, "figures/a.png").read_text() == "own"
    outside = [
        "link",
        "below/key",
        "../secret/key",
        str(secret / "key"),
        "",
        ".",
        "figures",
        "pipe",
    ]
    for name in [*outside, "gone", "a\0b"]:
        with pytest.raises(OSError):
            check_inside(folder, name)


def test_json_that_is_none_is_a_value_error(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"a": [1]}))
    assert read_json(path) == {"a": [1]}
    for content in (b"", b"{", b"\xff", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(ValueError):
            read_json(path)
    with path.open("wb") as file:
        file.truncate(2**30)  # A gigabyte that is not on the disk.
    with pytest.raises(ValueError, match="at most"):
        read_json(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="not a regular file"):
        read_json(path)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_a_pipe_is_not_waited_for(pipe: Path) -> None:
    with pytest.raises(OSError, match="pipe or device"):
        read_file(pipe, 10)


def test_a_device_is_not_read_for_ever() -> None:
    with pytest.raises(OSError, match="pipe or device"):
        read_file(Path("/dev/zero"), 10)


def test_a_larger_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(11)
    with pytest.raises(OSError, match="11 bytes, expected at most 10"):
        read_file(path, 10)
    assert read_file(path, 11) == bytes(11)


def test_a_name_that_utf_8_has_no_place_for_costs_no_file(tmp_path: Path) -> None:
    """As a name in Latin-1, of an old archive, is read from a disk; among many answers."""
    write_whole(tmp_path / "answers.csv", "caf\udce9.jpg,0.5\nnævus\n")
    assert (tmp_path / "answers.csv").read_text(encoding="utf-8") == "caf?.jpg,0.5\nnævus\n"


def test_what_is_no_file_is_written_to_and_stays(pipe: Path) -> None:
    """A rename onto it would replace it: as root `--out /dev/null` took that from the machine."""
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_out(pipe, "answers")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    reader.join(10)
    assert read == ["answers"]


def test_a_link_means_the_file_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    target, link = tmp_path / "below" / "target.csv", tmp_path / "link.csv"
    link.symlink_to("below/target.csv")
    for text in ("of a file that is not there yet", "of one that is"):
        write_out(link, text)
        assert link.is_symlink() and target.read_text() == text
    assert list(target.parent.iterdir()) == [target]


def test_a_link_in_a_folder_of_somebody_else_is_not_followed(tmp_path: Path) -> None:
    """`write_whole` writes into folders of runs, which may have come from anywhere."""
    (tmp_path / "own").write_text("mine")
    (tmp_path / "report.html").symlink_to("own")
    write_whole(tmp_path / "report.html", "new")
    assert (tmp_path / "own").read_text() == "mine"


@pytest.mark.parametrize("name", ["nowhere/x.html", "file/x.html", "."])
def test_a_place_that_cannot_be_written_is_the_users_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out .*: cannot be written \(.*\); .*another file"):
        write_out(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
