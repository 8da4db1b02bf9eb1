"""What a run tells a person to type is what helps, wherever its folder lies."""

import errno
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from skinml import doctor
from skinml.base.errors import UserError
from skinml.config import Config
from skinml.run.__main__ import main as run_main
from skinml.run.end_to_end import _begin_folder
from skinml.run.messages import tell_how_to_go_on
from skinml.run.tracked import Tracked, _say_what_is_left
from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.journal import Journal
from skinml.tracking.record import Noted, record_start


@pytest.fixture
def folder(finished_folder: RunFolder, tmp_path: Path) -> RunFolder:
    """The folder of a run below one whose name a shell takes apart."""
    path = tmp_path / "Ann's runs; all" / "run"
    path.parent.mkdir()
    finished_folder.path.rename(path)
    return RunFolder(path)


@pytest.mark.parametrize("offline", [True, False])
def test_how_to_go_on_is_as_the_run_was_started(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], offline: bool
) -> None:
    """Without --offline what was to stay here would have been sent."""
    tell_how_to_go_on(folder, offline)
    words = shlex.split(capsys.readouterr().err.partition("go on with: ")[2])
    assert words[:4] == ["python", "-m", "skinml.run", "--resume"]
    assert Path(words[4]).resolve() == folder.path
    assert words[5:] == ["--offline"] * offline


def test_a_path_is_typed_as_a_shell_takes_it(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(folder.journal)
    record_start(journal, folder.read_description())
    tracked = Tracked(folder, journal, None, Noted())
    _say_what_is_left(tracked, Acknowledged("", left_out="its models"), "")
    journal.close()
    told = [line.partition(" with: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert [shlex.split(line)[3:] for line in told] == [[str(folder.path)]] * 2
    (folder.path / "FINISHED").unlink()
    (folder.path / "checkpoint-000002").touch()
    left = doctor.Left.of(folder)
    for item in (left, replace(left, state=Acknowledged("", sequence=9, left_out="its models"))):
        item.state.offset = folder.journal.stat().st_size if item.state.left_out else 0
        item.state.save(folder.path / "forward.json")
        found = doctor._in_folder(item, closed=False)
        assert len(found) == 2
        assert [shlex.split(finding.remedy)[-1] for finding in found] == [str(folder.path)] * 2


def test_an_empty_name_is_no_run_to_go_on_with() -> None:
    """`--resume "$RUN"` of a variable that is not set began a new training."""
    with pytest.raises(UserError, match=r"--resume: '': expected the MLflow id of a run, or its"):
        run_main(["--resume", ""])


def test_a_disk_that_is_full_at_the_start_is_one_line_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunFolder, "_write_json", full)
    config = Config(output_dir=str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"output_dir=.*out: .*\(No space left on device\); exp"):
        _begin_folder(config, Description("a-run", {}, {}, {}))
    assert list((tmp_path / "out").iterdir()) == []
