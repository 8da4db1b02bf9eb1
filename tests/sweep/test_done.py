"""What of a sweep is done already, where a server has runs of whatever origin."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from skinml.config import Config
from skinml.sweep import done
from skinml.sweep.cells import Cell
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
