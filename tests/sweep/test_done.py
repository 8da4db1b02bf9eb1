"""What of a sweep is done already, where a server has runs of whatever origin."""

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from skinml.config import Config
from skinml.sweep import done
from skinml.sweep.cells import Cell, CellState
from skinml.tracking.folder import RunFolder
from skinml.training.code_digest import evaluation_digest, training_digest

CELL = Cell(Config(), {"data_digest": "d", "config_digest": "c"})


def finished(run_id: str, metrics: dict[str, Any] | None = None, **tags: Any) -> Any:
    model = CELL.config.model
    usual = {
        "config_digest": "c",
        "training_digest": training_digest(model),
        "evaluation_digest": evaluation_digest(),
    }
    info = SimpleNamespace(run_id=run_id, status="FINISHED", start_time=1000, end_time=3000)
    return SimpleNamespace(
        info=info,
        data=SimpleNamespace(tags=usual | tags, metrics={"test_accuracy": 0.5, **(metrics or {})}),
    )


@pytest.mark.parametrize(
    ("odd", "named"),
    [
        (finished("odd", training_digest="x" * 200_000), "training_digest"),
        (finished("odd", config_digest=["c"]), "config_digest"),
        (finished("odd", evaluation_digest="\x1b[2J"), "evaluation_digest"),
        (finished("odd", {"test_accuracy": "high"}), "test_accuracy"),
        (finished("odd", {"test_auc_macro": [0.5]}), "test_auc_macro"),
    ],
    ids=["long", "list", "controls", "text", "list of numbers"],
)
def test_an_odd_run_is_left_out_and_named(
    odd: Any, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(done, "runs_with", lambda *given: [odd, finished("good")])
    [state] = done.known_states([CELL], "1")
    assert (state.run_id, state.status, state.seconds) == ("good", "done before", 2)
    told = capsys.readouterr().err
    assert f"left out run odd: {named}=" in told and len(told) < 300 and "\x1b" not in told


def test_a_reason_of_somebody_else_is_one_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = finished("odd")
    odd.data.tags["skinml.reason"] = "a\nb " * 100_000
    odd.info.status = "FAILED"
    monkeypatch.setattr(done, "runs_with", lambda *given: [odd])
    [state] = done.known_states([replace(CELL)], "1")
    assert state.reason.startswith("a b a b") and len(state.reason) <= 500


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import time; time.sleep(600)", "is not published: python -m skinml.sync has not ended "),
        (
            "import sys; print('skinml: it waits\\nnoise', file=sys.stderr); "
            "sys.exit('skinml: error: a: expected b')",
            "is not published: a: expected b",
        ),
        ("pass", "is not published: no reason given"),
    ],
    ids=["hangs", "fails", "does nothing"],
)
def test_a_publishing_that_hangs_or_fails_costs_its_cell_alone_and_is_told(
    code: str,
    told: str,
    finished_folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A sweep waited without a word for a process that another one kept from the folder."""
    monkeypatch.setattr(done, "sync_arguments", lambda path: ["-c", code])
    monkeypatch.setattr(done, "is_run_of", lambda *given: True)
    monkeypatch.setattr(done, "PUBLISH_LIMIT", 1.0 if "600" in code else 300.0)
    orders: Any = SimpleNamespace(
        make=lambda state: SimpleNamespace(folder=finished_folder.path.parent, variables={})
    )
    state = CellState(CELL)
    begun = time.monotonic()
    done.publish_finished([state], orders)
    assert time.monotonic() - begun < 300 and not state.is_done
    first, *others = capsys.readouterr().err.splitlines()
    assert first == f"skinml: {CELL.name}: publishing {finished_folder.path}"
    waits = ["skinml: it waits"] if "waits" in code else []
    assert others[:-1] == waits and told in others[-1]
    assert others[-1].startswith(f"skinml: warning: {finished_folder.path} is not published: ")
