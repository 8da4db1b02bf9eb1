"""An external test: what is refused before a network has looked at a picture."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skinml import evaluate
from skinml.base.errors import UserError
from skinml.data.prepared import PreparedSet
from skinml.export.source import Source


@pytest.fixture
def asked(toy_set: PreparedSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The command's arguments: a model of no store, tested on pictures that it has not seen."""
    other = replace(toy_set, pixels_sha256=toy_set.pixels_sha256[::-1])
    params = {"data": "demo", "data_digest": toy_set.digest, "model": "tiny"}
    source = Source("runs/tiny", tmp_path / "model.keras", params, "")

    def never(*given: Any) -> None:
        raise AssertionError("a network was asked")

    monkeypatch.setattr(evaluate, "open_data", lambda *given: other)
    monkeypatch.setattr(evaluate, "open_source", lambda uri: nullcontext(source))
    monkeypatch.setattr(evaluate, "evaluate", never)
    return ["runs/tiny", "--data", "demo"]


@pytest.mark.parametrize("taken", ["file", "full"])
def test_a_place_that_is_taken_is_refused_before_a_network_is_asked(
    taken: str, asked: list[str], tmp_path: Path
) -> None:
    """What was predicted for an hour went down with a traceback of the folder's."""
    (tmp_path / "full").mkdir()
    for name in ("file", "full/mine"):
        (tmp_path / name).write_text("kept")
    with pytest.raises(UserError, match="is there already; expected a new folder, or an empty one"):
        evaluate.main([*asked, "--out", str(tmp_path / taken)])
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "mine").read_text() == "kept"


def test_a_model_of_no_store_needs_a_folder_for_its_test(asked: list[str]) -> None:
    with pytest.raises(UserError, match="runs/tiny: no model of a store; expected --out FOLDER"):
        evaluate.main(asked)
