"""What a person sees of a sweep: the same states as table, lines and note."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skinml.config import Config
from skinml.sweep.cells import Cell, CellState
from skinml.sweep.table import (
    display,
    in_view,
    markdown,
    picture,
    print_closing,
    stage,
    summary,
    words,
)
from skinml.training.history import Row
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


def cell(model: str = "mobilenet", batch_size: int = 16, **options: int) -> Cell:
    return Cell(Config(model=model, batch_size=batch_size, weights="none", **options), {})  # type: ignore[arg-type]


def row(epoch: int, auc: float = 0.8125) -> Row:
    return {"epoch": epoch, "val_auc_macro": auc}


def example() -> list[CellState]:
    """A cell of each status."""
    return [
        CellState(cell(), "done", run_id="0123456789", seconds=3840, accuracy=0.7891, auc=0.8611),
        CellState(
            cell(batch_size=32), "done before", "abcdef012345", seconds=50, accuracy=0.5, auc=0.5
        ),
        CellState(cell(batch_size=64), "running", seconds=700, left=3900, begun=True, row=row(31)),
        CellState(cell("mobilenetv2"), "running", seconds=3),
        CellState(
            cell("mobilenetv2", 32),
            "failed",
            reason="ValueError: no [bold]memory[/bold] | left",
            log=Path("runs/log-1.txt"),
            seconds=9,
        ),
        CellState(cell("mobilenetv2", 64), "stopped", reason="after epoch 3/150", seconds=9),
        CellState(cell("nasnetmobile"), "waiting"),
    ]


def as_text(states: list[CellState], width: int, height: int = 40) -> list[str]:
    from rich.console import Console

    console = Console(width=width, height=height, record=True, file=io.StringIO())
    console.print(picture(states, 2, width, height))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (CellState(cell(), "running"), "starting"),
        (CellState(cell(), "running", begun=True), "first epoch"),
        (CellState(cell(epochs_frozen=5), "running", begun=True), "computing features"),
        (CellState(cell(epochs_frozen=5), "running", begun=True, row=row(4)), "frozen 4/155"),
        (CellState(cell(epochs_frozen=5), "running", begun=True, row=row(5)), "fine-tuning 5/155"),
        (CellState(cell(), "running", begun=True, row=row(150)), "testing, logging"),
    ],
)
def test_a_running_cell_says_what_it_does(state: CellState, text: str) -> None:
    assert stage(state) == text


def test_the_live_table_has_a_line_a_cell_with_its_numbers() -> None:
    lines = as_text(example(), 100)
    assert " ".join(lines[0].split()) == "model batch state val AUC test acc test AUC time left"
    assert [" ".join(line.split()) for line in lines[1:8]] == [
        "mobilenet 16 done 0.789 0.861 1 h 04",
        "mobilenet 32 done before 0.500 0.500 50 s",
        "mobilenet 64 fine-tuning 31/150 0.812 12 min 1 h 05",
        "mobilenetv2 16 starting 3 s",
        "mobilenetv2 32 failed: ValueError: no [bold]me… 9 s",
        "mobilenetv2 64 stopped: after epoch 3/150 9 s",
        "nasnetmobile 16 waiting",
    ]
    assert lines[8] == ""
    assert lines[9].startswith("2 of 7 done (1 before), 2 running, 1 failed, 1 stopped, about ")


@pytest.mark.parametrize("width", [80, 100, 200])
def test_numbers_are_never_cut_however_long_a_reason_is(width: int) -> None:
    states = example()
    states[4].reason = "x" * 500
    lines = as_text(states, width)
    assert len(lines) == 10
    assert all(len(line) <= width for line in lines)
    for line, number in ((1, "0.861"), (1, "1 h 04"), (3, "1 h 05"), (3, "31/150")):
        assert number in lines[line]


def test_seeds_have_a_column_where_there_are_several() -> None:
    states = [CellState(cell(seed=seed, split_seed=3)) for seed in (0, 1)]
    header = as_text(states, 100)[0].split()
    assert "seed" in header
    assert "split" not in header


def test_of_more_cells_than_lines_those_that_move_are_shown() -> None:
    states = [CellState(cell(seed=seed), "done", "r", seconds=9) for seed in range(40)]
    states += [
        CellState(cell(seed=40), "failed", reason="why"),
        CellState(cell(seed=41), "running"),
    ]
    states += [CellState(cell(seed=seed)) for seed in range(42, 90)]
    shown = [state.cell.config.seed for state in in_view(states, 6)]
    assert shown == [40, 41, 42, 43, 44, 45]
    lines = as_text(states, 100, height=10)
    assert len(lines) == 10
    assert "… and 84 more cells" in lines
    ended = [*states[:42]]
    assert [s.cell.config.seed for s in in_view(ended, 4)] == [38, 39, 40, 41]


def test_in_a_log_every_change_of_state_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    [done, _, running, _, failed, *_] = example()
    states = [CellState(cell()), CellState(cell(batch_size=64)), CellState(cell("mobilenetv2", 32))]
    running.queued, running.log = True, Path("runs/log-9.txt")
    with display(jobs=2) as show:
        show(states)
        show([states[0], running, states[2]])
        assert capsys.readouterr().err == "", "a cluster has taken it, and not begun with it"
        running.queued, running.host = False, "node2"
        show([states[0], running, states[2]])
        running.row = row(32)
        show([states[0], running, states[2]])
        show([done, running, failed])
        show([done, running, failed])
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" [")[0] for line in lines] == [
        "skinml: mobilenet-64-seed0-split0 started on node2; its log: runs/log-9.txt",
        "skinml: mobilenet-16-seed0-split0 done; run 0123456789; test accuracy 0.789; "
        "macro AUC 0.861; 1 h 04",
        "skinml: mobilenetv2-32-seed0-split0 failed: ValueError: no",
    ]
    assert "left; its log: runs/log-1.txt [1 of 3 done, 1 running, 1 failed" in lines[2]


def test_a_lost_cell_is_told_again_when_another_machine_has_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = CellState(cell(), "running", log=Path("log-1.txt"), host="node1")
    with display(jobs=1) as show:
        show([state])
        state.status, state.losses, state.reason = "waiting", 1, "its node died"
        show([state])
        assert words(state) == "waiting (lost once: its node died)"
        state.losses = 3
        assert words(state) == "waiting (lost 3 times: its node died)"
        state.status, state.host = "running", "node2"
        assert words(state).endswith(" on node2")
        show([state])
        state.queued = True
        assert summary([state], 1) == "0 of 1 done, 1 queued"
    lines = capsys.readouterr().err.splitlines()
    assert ["node1" in lines[0], "node2" in lines[1]] == [True, True] and len(lines) == 2


ON_A_TERMINAL = """
import time
from pathlib import Path
from skinml.config import Config
from skinml.sweep.cells import Cell, CellState
from skinml.sweep.table import display

state = CellState(Cell(Config(weights="none"), {}), "running")
with display(1) as show:
    show([state])
    time.sleep(0.5)  # It is drawn four times a second.
    state.status, state.reason, state.log = "failed", "killed by SIGKILL", Path("a/log")
    show([state])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
def test_on_a_terminal_a_failure_stays_above_the_table() -> None:
    import pty

    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", ON_A_TERMINAL],
        stderr=theirs,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "90"},
        timeout=PATIENCE,
    )
    os.close(theirs)
    shown = b""
    # Linux tells the end of a terminal by an error.
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:
        pass
    os.close(ours)
    text = " ".join(shown.decode().split())
    assert "mobilenetv2-16-seed0-split0 failed: killed by SIGKILL; its log: a/log" in text
    assert "starting" in text
    assert "0 of 1 done, 1 failed" in text


def test_the_closing_table_says_every_reason_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    states = example()
    states[4].reason = "because " * 40
    print_closing(states)
    text = capsys.readouterr().out
    assert text.count("because") == 40
    assert "01234567" in text
    assert max(map(len, text.splitlines())) <= 160


def test_the_note_is_a_table_in_markdown_with_a_link_to_every_run() -> None:
    note = markdown(example(), 1, lambda run_id: f"[{run_id}](#{run_id})", 8000)
    first, empty, header, rule, *rows = note.splitlines()
    assert first == summary(example(), 1) + "."
    assert empty == ""
    columns = header.count("|")
    assert rule.count("|") == columns
    assert len(rows) == 7
    # A bar in a reason would be a column of its own.
    assert all(line.replace(r"\|", "").count("|") == columns for line in rows)
    assert "| 0.7891 | 0.8611 | 1 h 04 | [0123456789](#0123456789) |" in rows[0]
    assert "| failed: ValueError" in rows[4]
    assert "| running |" in rows[2]


def test_a_note_that_is_too_long_for_mlflow_ends_with_how_many_are_missing() -> None:
    states = [CellState(cell(seed=seed), "failed", reason="y" * 300) for seed in range(90)]
    note = markdown(states, 1, str, 3000)
    assert len(note) <= 3000
    rows = sum(line.startswith("| mobilenet") for line in note.splitlines())
    assert 5 < rows < 20
    assert note.splitlines()[-1] == f"… and {90 - rows} more cells."


def test_the_note_takes_neither_tags_nor_lines_from_a_reason() -> None:
    odd = CellState(cell(seed=1), "failed", reason="<img src=x>\n| a [b](c)")
    [row] = [row for row in markdown([odd], 1, str, 8000).splitlines() if "failed:" in row]
    assert "failed: &lt;img src=x> \\| a [b]\\(c)" in row
