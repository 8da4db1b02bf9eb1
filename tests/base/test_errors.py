"""What a command promises its caller: the exit code, one line for a mistake."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.text import Text

from skinml.base.errors import UserError, first_line, run_command
from skinml.base.progress import make_console
from tests.waiting import PATIENCE


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_exit_code_is_the_commands_own(
    returned: int | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(lambda: returned) == code
    assert capsys.readouterr() == ("", "")


def test_users_mistake_is_told_on_stderr_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def mistaken() -> None:
        raise UserError("seed=-1: expected at least 0")

    assert run_command(mistaken) == 2
    assert capsys.readouterr() == ("", "skinml: error: seed=-1: expected at least 0\n")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo", "one"),
        ("", "ValueError"),
        ("API request to http://me:secret@h/api failed", "API request to http://h/api failed"),
        (
            "API request to http://h/api failed with exception HTTPConnectionPool(host='h', "
            'port=80): Max retries exceeded with url: /api (Caused by NewConnectionError("'
            "HTTPConnection(host='h', port=80): Failed to establish a new connection: [Errno 111] "
            'Connection refused"))',
            "Failed to establish a new connection: [Errno 111] Connection refused",
        ),
    ],
)
def test_an_exception_in_one_line(text: str, line: str) -> None:
    assert first_line(ValueError(text)) == line


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    assert run_command(stopped) == 130
    assert capsys.readouterr() == ("", "skinml: stopped by Ctrl-C\n")


def test_defect_keeps_its_traceback() -> None:
    def defective() -> None:
        raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError, match="a defect"):
        run_command(defective)


@pytest.mark.parametrize("length", [1, 1_000_000], ids=["in the buffer", "beyond the buffer"])
def test_reader_that_left_is_no_error(length: int) -> None:
    """`skinml … | head` ends quietly, whether the pipe breaks while printing or at the end."""
    read, write = os.pipe()
    os.close(read)
    program = (
        "import sys; from skinml.base.errors import run_command; "
        f"sys.exit(run_command(lambda: print('x' * {length})))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program],
            stdout=write,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=PATIENCE,
        )
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")


ROOT = Path(__file__).parents[2]


def in_encoding(
    encoding: str, *arguments: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """A command whose output is not UTF-8, as on a Windows console."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=os.environ | {"PYTHONIOENCODING": encoding} | variables,
        cwd=cwd,
        capture_output=True,
        timeout=PATIENCE,
    )


def commands() -> list[str]:
    """Every module that is a command."""
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "skinml").rglob("*.py"))
        if "    sys.exit(run_command(main))" in path.read_text(encoding="utf-8")
    ]


# They do their work whatever follows.
WITHOUT_OPTIONS = {"skinml.service.compose", "skinml.service.docker", "skinml.service.pin"}


@pytest.mark.parametrize("command", sorted({*commands()} - WITHOUT_OPTIONS))
def test_every_command_s_help_is_printed_where_the_output_is_ascii(
    command: str, tmp_path: Path
) -> None:
    ended = in_encoding("ascii", command, "--help", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.startswith(b"usage: ")


# What ASCII cannot show is more than what Latin-1 cannot.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["skinml.compare", "--from", str(ROOT / "results" / "nine-runs")], 0),
        (["skinml.compare", "--from", str(ROOT / "results" / "nine-runs"), "--format", "html"], 0),
        (["skinml.compare", "--paper"], 0),
        (["skinml.score", "SCORES", "--labels", "LABELS"], 0),
        (["skinml.predict", "models:/ü…@champion", "PICTURE", "is ﬁne … not.jpg"], 2),
        (["skinml.registry", "list"], 2),
        (["skinml.doctor"], 2),
        (["skinml.sync", "runs/… nothing"], 2),
        (["skinml.sweep", "--seeds", "1,2,…"], 2),
        (["skinml.run", "--model", "résnet→50"], 2),
        (["skinml.data.prepare", "--data_dir", "BROKEN", "--out", "out"], 2),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, list) else None,
)
def test_no_output_is_too_poor_for_an_answer(
    arguments: list[str], code: int, toy_files: Path, tmp_path: Path
) -> None:
    """An answer or one line for a mistake, in the letters that there are; no traceback."""
    labels = toy_files / "ISIC-2017_Test_v2_Part3_GroundTruth.csv"
    ids = [line.split(",")[0] for line in labels.read_text().splitlines()[1:]]
    scores = "image_id,melanoma,seborrheic_keratosis\n" + "".join(f"{i},.5,.5\n" for i in ids)
    (tmp_path / "scores.csv").write_text(scores)
    Image.new("RGB", (50, 40)).save(tmp_path / "lésion ….png")
    broken = tmp_path / "… official"
    broken.mkdir()
    (broken / labels.name).write_text("…\n", encoding="utf-8")
    given = {
        "SCORES": str(tmp_path / "scores.csv"),
        "LABELS": str(labels),
        "PICTURE": str(tmp_path / "lésion ….png"),
        "BROKEN": str(broken),
    }
    ended = in_encoding(
        "ascii",
        *(given.get(argument, argument) for argument in arguments),
        cwd=tmp_path,
        MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/store.db",
        SKINML_CACHE_DIR=str(tmp_path / "cache"),
    )
    told = (ended.stdout + ended.stderr).decode("ascii")
    assert ended.returncode == code, told
    assert "Traceback" not in told and "UnicodeEncodeError" not in told
    assert told.strip()


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("ascii", '-0.3 +/- .1 | 4 x 4 -> e + "nevus" <= 5 ... -- ?'),
        ("latin-1", '-0.3 ± .1 | 4 × 4 -> é + "nevus" <= 5 ... -- ?'),
        ("utf-8", "−0.3 ± .1 │ 4 × 4 → é † “nevus” ≤ 5 … ── 漢"),
    ],
)
def test_signs_are_printed_in_plain_letters_where_there_are_no_others(
    encoding: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    text = "−0.3 ± .1 │ 4 × 4 → é † “nevus” ≤ 5 … ── 漢"
    assert run_command(lambda: print(text, end="")) == 0
    stream.seek(0)
    assert stream.read() == told


def test_a_name_that_is_no_text_can_be_told(tmp_path: Path) -> None:
    """The bytes of a file's name need not be UTF-8, also where the output is."""
    program = (
        "import os; from skinml.base.errors import run_command; "
        "run_command(lambda: print(os.fsdecode(b'lesion-\\xff.jpg')))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.startswith(b"lesion-?.jpg")


CONTROLS = "a\x1b]0;title\x07b\x9b2Jc\rd\x08\x7fe"


def test_a_command_writes_no_control_character_of_somebody_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command() -> int:
        print(CONTROLS)
        print(CONTROLS, file=sys.stderr)
        make_console(sys.stdout).print(Text(CONTROLS))
        raise UserError(CONTROLS)

    streams = sys.stdout, sys.stderr
    assert run_command(command) == 2
    assert (sys.stdout, sys.stderr) == streams
    out, err = capsys.readouterr()
    # rich itself drops some of them.
    assert out.count("a␛]0;title") == 2 and err.count("a␛]0;title␇b") == 2
    assert not [letter for letter in out + err if not letter.isprintable() and letter != "\n"]


def test_our_own_colours_and_the_line_of_a_bar_stay(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        make_console(sys.stdout, force_terminal=True, color_system="standard").print(
            Text("a\x1bb", style="red")
        )
        sys.stderr.write("\r50 %")

    assert run_command(command) == 0
    out, err = capsys.readouterr()
    assert "\x1b[31ma␛b\x1b[0m" in out and err == "\r50 %"
