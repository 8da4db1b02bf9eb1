"""What reads files of somebody else answers, or says in one line why not, whatever they hold.

The readers and the rules are those of `python -m benchmarks.fuzz`; here hypothesis makes up a few
inputs of each. They are read in a process that does nothing else: where the peak of a process
cannot be forgotten (a container without /proc/self/clear_refs), that of the other tests would hide
what a reader takes.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import targets
from benchmarks.fuzz.targets import PART, TARGETS, Target, Violation, check
from skinml.base.errors import UserError
from skinml.data.images import ImageProblem

each_target = pytest.mark.parametrize("name", TARGETS)

# Calls a function of this module in another process: its result, or what it raises.
Elsewhere = Callable[..., Any]


@contextmanager
def _another_process() -> Iterator[Elsewhere]:
    # By a server that forks: a program that is started by this process would have its peak, as
    # getrusage(2) counts it.
    with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
        yield lambda *called: pool.submit(*called).result()


@pytest.fixture(scope="module")
def small() -> Iterator[Elsewhere]:
    """A process that only reads inputs: as long as all keep the rule, its peak hides nothing."""
    with _another_process() as elsewhere:
        yield elsewhere


@each_target
def test_sound_files_are_read(tmp_path: Path, small: Elsewhere, name: str) -> None:
    """Else what is made up from them would end at the first line of every reader."""
    small(_read_seeds, name, tmp_path)


def _read_seeds(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    for seed in target.seeds():
        own = tmp_path / "sound"
        own.mkdir(exist_ok=True)
        for old in own.iterdir():
            old.unlink() if old.is_file() else None
        target.write(own, seed)
        if target is not TARGETS["backup"]:  # Its dump and its files are not there.
            target.read(own)
        check(target, tmp_path, seed)


@each_target
@pytest.mark.parametrize("structure", [True, False], ids=["structure", "bytes"])
def test_made_up(tmp_path: Path, small: Elsewhere, name: str, structure: bool) -> None:
    small(_read_made_up, name, structure, tmp_path)


def _read_made_up(name: str, structure: bool, folder: Path) -> None:
    target = TARGETS[name]

    @settings(max_examples=20, deadline=None)
    @given(content=target.shapes if structure else st.binary())
    def run(content: bytes) -> None:
        check(target, folder, content)

    run()


@each_target
def test_no_pipe_is_waited_for(tmp_path: Path, name: str) -> None:
    """Each file in turn is one that nobody ever writes to."""
    target = TARGETS[name]
    own = tmp_path / "own"
    own.mkdir()
    target.write(own, target.seeds()[0])
    for path in [path for path in own.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        with suppress(UserError, OSError, ImageProblem):
            target.read(own)
        path.unlink()
        path.write_bytes(content)


RULES: dict[str, tuple[Callable[[Path], object], str]] = {
    "file": (lambda folder: (folder.parent / "beside").write_text(""), "touched open"),
    "folder": (lambda folder: sorted(Path("/").iterdir()), "touched os.listdir"),
    "program": (lambda folder: os.system("true"), "touched os.system"),
    "memory": (lambda folder: b"x" * 600_000_000, "MB more than before"),
}


def _break(rule: str, folder: Path, missing: tuple[str, ...] = ()) -> None:
    for place in missing:
        setattr(targets, place, Path("/proc/self/none"))
    check(Target("", lambda folder, content: None, RULES[rule][0], list, st.binary()), folder, b"")


@pytest.mark.parametrize("rule", ["file", "folder", "program"])
def test_rules_are_watched(tmp_path: Path, small: Elsewhere, rule: str) -> None:
    """A reader that breaks one is told."""
    with pytest.raises(Violation, match=RULES[rule][1]):
        small(_break, rule, tmp_path)


@pytest.mark.parametrize(
    "missing",
    [(), ("_CLEAR",), ("_CLEAR", "_STATUS")],
    ids=["nothing-missing", "no-clear_refs", "no-status"],
)
def test_memory_is_watched(tmp_path: Path, missing: tuple[str, ...]) -> None:
    """Whatever memory the tests had before, and whatever of /proc a container lacks."""
    had = b"x" * 900_000_000
    del had
    with _another_process() as elsewhere, pytest.raises(Violation, match=RULES["memory"][1]):
        elsewhere(_break, "memory", tmp_path, missing)


# Of 9 letters 9 times each: written out it has 10^9.
_ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
_LOADER = (
    f"{_ALIASES}flavors:\n  keras: {{data: data}}\n  python_function: {{loader_module: *a8}}\n"
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("journal", json.dumps({"kind": "end", "status": 1, "reason": "", "time": 0}).encode()),
        ("model", _LOADER.encode()),
        ("model", b"[" + b"[]," * 300_000 + b"]"),
        ("predictions", b"\n" * (32 * 2**20 - 1)),
        ("ground-truth", b"a,\n" * (10 * 2**20)),
        ("run-folder", b'{"a": [' + b"[]," * (2**21) + b"1]}"),
        ("checkpoint", b'{"a": [' + b"[]," * (3 * 2**20) + b"1]}"),
    ],
    ids=["types", "aliases", "yaml", "lines", "cells", "json", "facts"],
)
def test_found_before(tmp_path: Path, small: Elsewhere, name: str, content: bytes) -> None:
    """What the fuzzer, or a person, found is answered in time and without much memory."""
    small(_read, name, tmp_path, content + PART)


def _read(name: str, folder: Path, content: bytes) -> None:
    check(TARGETS[name], folder, content)
