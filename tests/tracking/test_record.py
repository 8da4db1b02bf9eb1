"""What a run's journal says of it."""

import sys
from pathlib import Path

import pytest

from skinml.tracking.folder import Description
from skinml.tracking.journal import Journal, read_journal
from skinml.tracking.record import record_start

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
