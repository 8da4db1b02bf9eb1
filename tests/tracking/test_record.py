"""What a run's journal says of it."""

import shutil
import sys
from pathlib import Path

import pytest

from skinml.base.errors import UserError
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.journal import Journal, read_journal
from skinml.tracking.record import read_records, record_folder, record_start

RUN = Description("a run", {}, {"data": "demo"}, {"name": "demo", "digest": "0", "counts": {}})


@pytest.mark.parametrize(
    ("started_as", "told"),
    [
        ("/anywhere/skinml/run/__main__.py", "skinml.run"),
        ("/anywhere/skinml/sync.py", "skinml.sync"),
        ("/anywhere/train.py", "train.py"),
    ],
)
def test_the_source_is_the_program_without_where_it_lies(
    started_as: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [started_as])
    journal = Journal(tmp_path / "journal.log")
    record_start(journal, RUN)
    journal.close()
    first, *_ = read_journal(tmp_path / "journal.log")
    assert first.fields["source"]["mlflow.source.name"] == told


@pytest.mark.parametrize(
    ("part", "text", "told"),
    [
        ("note.md", None, "note.md: cannot be read"),
        ("metrics.json", None, "metrics.json: cannot be read"),
        ("figures", None, "figures: cannot be read"),
        (
            "history.csv",
            "epoch,step,time,seconds\n1,frozen,5,2\n",
            "no column train_loss, train_ac",
        ),
        ("note.md", "caf\udce9", "note.md: is no text in UTF-8"),
    ],
)
def test_a_folder_in_which_something_lacks_is_one_line_and_stays_as_it_is(
    finished_folder: RunFolder, part: str, text: str | None, told: str
) -> None:
    """A copy may be cut short; half a journal would be taken for the whole run."""
    path = finished_folder.path / part
    if text is not None:
        path.write_text(text, errors="surrogateescape")
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    before = sorted(finished_folder.path.rglob("*"))
    with pytest.raises(UserError, match=f"{told}.*; expected a whole folder") as caught:
        record_folder(finished_folder)
    assert "\n" not in str(caught.value)
    assert sorted(finished_folder.path.rglob("*")) == before


def test_a_whole_folder_has_a_journal_afterwards(finished_folder: RunFolder) -> None:
    before = set(finished_folder.path.rglob("*"))
    record_folder(finished_folder)
    assert set(finished_folder.path.rglob("*")) - before == {finished_folder.journal}
    assert [r.kind for r in read_records(finished_folder.journal)][-1] == "end"
