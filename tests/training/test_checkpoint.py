"""A checkpoint is read back as it was written, or not at all, whatever happens to its file."""

import errno
import hashlib
import io
import json
import math
import os
import random
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.training.checkpoint import (
    Checkpoint,
    has_checkpoint,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from skinml.training.history import Row

ROOT = Path(__file__).parents[2]


def at(epoch: int) -> Checkpoint:
    """A checkpoint with all that may be in one: other shapes and types, numbers that are none."""
    rng = np.random.default_rng(epoch)
    history: list[Row] = [
        {"epoch": n, "step": "frozen", "val_loss": 1 / (n + 6), "val_auc_macro": math.nan}
        for n in range(1, epoch + 1)
    ]
    return Checkpoint(
        history,
        backbone_images=57,
        best_epoch=1,
        best_score=-math.inf,
        weights=[
            rng.normal(size=(3, 2)).astype(np.float32),
            np.zeros(0),
            np.array(epoch, np.float32),
        ],
        optimizer=[np.array(2**40 + epoch), rng.normal(size=12).astype(np.float32)],
        best_weights=[np.array([True, False])],
        seconds=0.1 + epoch,
        config={"batch_size": 16, "dropout": 0.2, "register": True, "weights": "läsion.h5"},
        surroundings={"device_threads": "2"},
    )


def assert_same(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None
    for name, value in vars(expected).items():
        read = getattr(found, name)
        if name in ("weights", "optimizer", "best_weights"):
            assert [(np.asarray(a).dtype, np.shape(a)) for a in read] == [
                (np.asarray(a).dtype, np.shape(a)) for a in value
            ]
        np.testing.assert_equal(read, value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None and not has_checkpoint(tmp_path)
    save_checkpoint(tmp_path, at(1))
    assert has_checkpoint(tmp_path)
    assert_same(load_checkpoint(tmp_path), at(1))


def test_best_weights_that_are_those_of_now_are_written_once(tmp_path: Path) -> None:
    """A frozen backbone's are; what only looks equal (-0.0, another type) is not taken for it."""
    now = [np.arange(5000.0), np.array([0.0, math.nan]), np.ones(3, np.float32), np.zeros(2)]
    best = [now[0].copy(), np.array([-0.0, math.nan]), np.ones(3), np.zeros(2), np.zeros(1)]
    save_checkpoint(tmp_path, replace(at(1), weights=now, best_weights=best))
    assert (tmp_path / "checkpoint-000001").stat().st_size < 1.5 * now[0].nbytes
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert [a.tobytes() for a in found.best_weights] == [a.tobytes() for a in best]
    assert_same(found, replace(at(1), weights=now, best_weights=best))


def test_two_generations_are_kept_until_the_run_is_done(tmp_path: Path) -> None:
    for epoch in range(1, 5):
        save_checkpoint(tmp_path, at(epoch))
    assert names(tmp_path) == ["checkpoint-000003", "checkpoint-000004"]
    (tmp_path / ".checkpoint-000005.part").touch()
    (tmp_path / "history.csv").touch()
    remove_checkpoints(tmp_path)
    assert names(tmp_path) == ["history.csv"]


def test_any_damage_falls_back_to_the_generation_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every length that a file may be cut to, every byte flipped, ranges overwritten."""
    for epoch in (1, 2):
        save_checkpoint(tmp_path, at(epoch))
    newest = tmp_path / "checkpoint-000002"
    whole = newest.read_bytes()
    chance = random.Random(1)
    damaged = [whole[:size] for size in range(0, len(whole), 23)] + [whole[:-1]]
    damaged += [
        whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :]
        for place in range(0, len(whole), 11)
    ]
    for _ in range(50):
        start, end = sorted(chance.sample(range(len(whole) + 1), 2))
        damaged.append(whole[:start] + bytes(end - start) + whole[end:])
        damaged.append(whole[:start] + whole[end:])
    damaged.append(whole + b"\0")
    for content in damaged:
        if content == whole:
            continue
        newest.write_bytes(content)
        assert_same(load_checkpoint(tmp_path), at(1))
        assert f"{newest} is damaged" in capsys.readouterr().err
    (tmp_path / "checkpoint-000001").write_bytes(b"")
    assert load_checkpoint(tmp_path) is None
    assert capsys.readouterr().err.count("is damaged") == 2


def test_after_damage_the_epoch_trained_again_takes_its_place(tmp_path: Path) -> None:
    for epoch in (7, 8):
        save_checkpoint(tmp_path, at(epoch))
    (tmp_path / "checkpoint-000008").write_bytes(b"x")
    save_checkpoint(tmp_path, at(8))
    assert_same(load_checkpoint(tmp_path), at(8))
    # All were damaged: a run that starts over does not lose its first ones to those.
    for name in names(tmp_path):
        (tmp_path / name).write_bytes(b"x")
    save_checkpoint(tmp_path, at(1))
    assert names(tmp_path) == ["checkpoint-000001"]


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    """Whoever can write a digest can write a pickle; neither is one written."""
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        save_checkpoint(tmp_path, replace(at(1), weights=[np.array([{}], dtype=object)]))
    assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
def test_a_full_disk_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for epoch in (1, 2):
        save_checkpoint(tmp_path, at(epoch))
    if call == "fsync":
        monkeypatch.setattr("os.fsync", full)
    elif call == "replace":
        monkeypatch.setattr("pathlib.Path.replace", full)
    else:
        resource = pytest.importorskip("resource")
        signal = pytest.importorskip("signal")
        # A real one: the system takes no more than a part of the file.
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError) as caught:
            save_checkpoint(tmp_path, at(3))
    finally:
        if call == "write":
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
    monkeypatch.undo()
    assert f"{tmp_path / 'checkpoint-000003'}: the checkpoint cannot be written" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["checkpoint-000001", "checkpoint-000002"]
    assert_same(load_checkpoint(tmp_path), at(2))


WRITER = """
import sys
import zipfile
from pathlib import Path
from dataclasses import replace
import numpy as np
from skinml.training.checkpoint import Checkpoint, save_checkpoint

print("ready", flush=True)
for epoch in range(1, 10_000):
    row = {"epoch": epoch}
    arrays = [np.full(100_000, epoch, np.float32)]
    save_checkpoint(Path(sys.argv[1]), Checkpoint([row], 0, epoch, 0.0, arrays, arrays, arrays))
"""


def test_a_writer_that_is_killed_leaves_one_that_is_whole(tmp_path: Path) -> None:
    """At random moments: once there is one, there always is one, never older than what was."""
    chance, reached = random.Random(3), 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.05, 0.3))
        process.kill()
        process.wait()
        process.stdout.close()
        found = load_checkpoint(tmp_path)
        if found is None:
            assert not has_checkpoint(tmp_path)
            continue
        reached += 1
        for array in (*found.weights, *found.optimizer, *found.best_weights):
            np.testing.assert_array_equal(array, np.full(100_000, found.epoch, np.float32))
        assert len([name for name in names(tmp_path) if name.startswith("checkpoint")]) <= 3
    assert reached >= 3, "no writer lived long enough"


def _signed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def _archive(facts: Any, **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, facts=text, **arrays)
    return buffer.getvalue()


def _claims_a_terabyte() -> bytes:
    """An array whose header says that it has 2**40 numbers, and which has none."""
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (2**40,)}
    np.lib.format.write_array_header_1_0(header, shape)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("facts.npy", header.getvalue())
    return archive.getvalue()


def _says_it_is_encrypted() -> bytes:
    """The flag of a part that takes a password, in both of its headers."""
    body = bytearray(_archive({}))
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        body[body.index(header) + flags] |= 1
    return bytes(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no archive",
        _archive([]),
        _archive({"lengths": {"weights": 10**12}}),
        _archive({"lengths": {"weights": "many"}}),
        _archive({"lengths": {"history": 1}}),
        _archive({"lengths": {"weights": 1}, "history": 3}, **{"weights/00000": np.zeros(2)}),
        _archive({"lengths": {}, "history": ["x"], "backbone_images": [], "weights": 1}),
        _claims_a_terabyte(),
        _says_it_is_encrypted(),
    ],
    ids=[
        "empty", "text", "list", "length", "type", "unknown", "history", "types", "header",
        "encrypted",
    ],
)  # fmt: skip
def test_what_somebody_else_wrote_is_damaged_whatever_its_digest(
    tmp_path: Path, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path, at(1))
    (tmp_path / "checkpoint-000002").write_bytes(_signed(body))
    assert_same(load_checkpoint(tmp_path), at(1))
    assert "checkpoint-000002 is damaged: the checkpoint before it" in capsys.readouterr().err
