"""What reads files of somebody else answers, or says in one line why not, whatever they hold.

Bytes and JSON are made up by hypothesis; nothing is left beside the folder that is read.
"""

import hashlib
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skinml.checkpoint import load_checkpoint
from skinml.comparison.runs import IDENTITY, runs_in_folder, select_readable
from skinml.data.official import read_ground_truth
from skinml.errors import Problems, UserError, shown
from skinml.evaluation.predictions import read_predictions
from skinml.files import file_name
from skinml.tracking.folder import RunFolder
from skinml.tracking.journal import read_journal
from skinml.tracking.state import State

fuzzed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

numbers = st.integers() | st.floats() | st.just(10**400)
VALUES = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)
OBJECTS = st.dictionaries(st.text(max_size=12), VALUES, max_size=5)
CELLS = st.sampled_from(["image_id", "label", "melanoma", "nevus", "ISIC_1", "0.5", "1", "="])
TABLES = st.lists(st.lists(CELLS | st.text(max_size=9), max_size=6), max_size=5).map(
    lambda rows: "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")
)


def answers(folder: Path, read: Callable[[], Any]) -> None:
    """Read, which may be refused as a user's mistake, and look that nothing else has changed."""
    beside = sorted(folder.parent.iterdir())
    try:
        read()
    except UserError as error:
        assert shown(str(error)) == str(error)
    assert sorted(folder.parent.iterdir()) == beside


@fuzzed
@given(content=st.binary() | TABLES)
@pytest.mark.parametrize(
    "read",
    [read_predictions, lambda path: read_ground_truth(path, Problems())],
    ids=["predictions", "ground truth"],
)
def test_tables(tmp_path: Path, read: Callable[[Path], Any], content: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    answers(tmp_path, lambda: read(path))


@fuzzed
@given(texts=st.lists(VALUES.map(json.dumps).map(str.encode) | st.binary(), max_size=4))
def test_journal(tmp_path: Path, texts: list[bytes]) -> None:
    path = tmp_path / "journal.log"
    bodies = [b"%d %s" % (number, text) for number, text in enumerate(texts, 1)]
    path.write_bytes(b"".join(b"%08x %s\n" % (zlib.crc32(body), body) for body in bodies))
    answers(tmp_path, lambda: list(read_journal(path, complete=True)))
    answers(tmp_path, lambda: State.load(path))


@fuzzed
@given(facts=VALUES | OBJECTS.map(lambda o: {"lengths": {"weights": 1}, "history": [o], **o}))
def test_checkpoint(tmp_path: Path, facts: Any) -> None:
    body = io.BytesIO()
    text = np.frombuffer(json.dumps(facts).encode() or b" ", np.uint8)
    np.savez(body, allow_pickle=False, facts=text)
    digest = hashlib.sha256(body.getvalue()).digest()
    (tmp_path / "checkpoint-000001").write_bytes(body.getvalue() + digest)
    answers(tmp_path, lambda: load_checkpoint(tmp_path))


@fuzzed
@given(tags=st.dictionaries(st.sampled_from(IDENTITY), VALUES), more=OBJECTS, metrics=VALUES)
def test_run_folder(tmp_path: Path, tags: dict[str, Any], more: Any, metrics: Any) -> None:
    own = tmp_path / "run"
    own.mkdir(exist_ok=True)
    usual = dict.fromkeys(IDENTITY, "1") | {"model": "mobilenet"}
    description = {"run_id": "a", "params": {}, "tags": usual | tags, **more}
    (own / "run.json").write_text(json.dumps(description))
    (own / "metrics.json").write_text(json.dumps(metrics))
    (own / "predictions_test.csv").write_text(
        "image_id,label,melanoma,nevus,seborrheic_keratosis\nISIC_1,nevus,0,1,0\n"
    )
    answers(own, lambda: select_readable(runs_in_folder(tmp_path)))
    answers(own, lambda: RunFolder.open(own).read_description())
    answers(own, lambda: RunFolder.open(own).read_metrics())
    assert (own / file_name(str(tags.get("model", "")))).parent == own
