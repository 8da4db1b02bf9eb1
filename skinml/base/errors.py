"""The one exception that stands for a user's mistake, and how it is collected and reported.

With it: how text of whatever origin is written to a terminal, for which some letters are commands.
"""

import codecs
import difflib
import io
import os
import reprlib
import sys
import traceback
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, TextIO, cast

from skinml.base.address import move_user_info, without_user_info

# The control characters (C0 and C1) but newline and tab, each as a letter that stands for it.
_CONTROLS = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
}


# What stands in plain ASCII for the signs that we print.
_PLAIN = str.maketrans(
    {
        **dict(zip("−–—×·•“”„‘’†│┃║", '---x.*"""\'\'+|||', strict=True)),
        "→": "->",
        "…": "...",
        "±": "+/-",
        "°": " deg",
        "≤": "<=",
        "≥": ">=",
        "α": "alpha",
        **dict.fromkeys("─━═", "-"),
    }
)


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """A handler of codecs: ASCII for what an encoding does not know, letters without accents."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if c.isascii() else "?" for c in letters), error.end


codecs.register_error("skinml.plain", _in_plain_letters)


def shown(text: str) -> str:
    """Text with its control characters made visible: no terminal takes any of it for a command."""
    return text.translate(_CONTROLS)


class Shown:
    """A stream that writes text as `shown` has it; `stream` is the one below, for our own colours.

    A carriage return that begins or ends what is written stays: so a progress bar of a library
    renews its line.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        middle = text.strip("\r")
        start = text[: len(text) - len(text.lstrip("\r"))]
        end = text[len(start) + len(middle) :]
        self.stream.write(f"{start}{shown(middle)}{end}")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def styled(stream: TextIO) -> TextIO:
    """The stream below a `Shown` one, for text that holds our own commands to a terminal."""
    return stream.stream if isinstance(stream, Shown) else stream


class UserError(Exception):
    """A mistake that the user can mend: its text gives the value, what was expected, the remedy.

    An address within it loses its user's name and password, and its control characters become
    visible: the text is printed, noted and sent.
    """

    def __init__(self, text: str) -> None:
        super().__init__(shown(without_user_info(text)))


class NoAnswer(UserError):
    """A store did not answer in time."""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line, without the name and password in an address."""
    text = str(error).strip() or type(error).__name__
    line = shown(without_user_info(text.splitlines()[0]))
    if "(Caused by " in line:  # urllib3's, which begins with all that is known already.
        line = line.rpartition("(Caused by ")[2].rpartition("): ")[2].rstrip(")\"'")
    return line


# Of millions of lists within each other it writes out the first ones alone.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 70, 70


def excerpt(value: Any) -> str:
    """A value of whatever origin as a message quotes it: at most 60 letters."""
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to add to a message about an unknown word: " (did you mean …?)", or nothing.

    The nearest of the `known` words, whatever the case, dashes and underscores.
    """

    def plain(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "")

    # The first of several spellings of one word.
    by_plain = {plain(name): name for name in reversed(list(known))}
    near = difflib.get_close_matches(plain(word), by_plain, n=1)
    return f" (did you mean {by_plain[near[0]]}?)" if near else ""


class Problems:
    """What is wrong with files, collected by kind and told all at once."""

    def __init__(self, listed: int = 10, letters: int = 400) -> None:
        """At most `listed` items of each kind are told, each in at most so many letters."""
        self._found: dict[str, list[str]] = defaultdict(list)
        self._listed = listed
        self._letters = letters

    def add(self, kind: str, item: str) -> None:
        """Note one thing that is wrong."""
        self._found[kind].append(item)

    def __bool__(self) -> bool:
        return bool(self._found)

    def in_one_line(self) -> str:
        """The first thing of each kind, for a message of one line."""
        return "; ".join(f"{kind}: {items[0]}" for kind, items in self._found.items())

    def raise_if_any(self, subject: str, remedy: str) -> None:
        """Raise a `UserError` that lists everything noted; nothing where there is nothing."""
        if not self._found:
            return
        count = sum(len(items) for items in self._found.values())
        lines = [f"{subject}: {count} problem{'s' * (count > 1)}"]
        for kind, items in self._found.items():
            lines.append(f"  {kind} ({len(items)}):")
            for item in items[: self._listed]:
                short = len(item) <= self._letters
                lines.append(f"    {item if short else item[: self._letters - 1] + '…'}")
            if len(items) > self._listed:
                lines.append(f"    … and {len(items) - self._listed} more")
        raise UserError("\n".join([*lines, f"  {remedy}"]))


def say_stopped(error: KeyboardInterrupt) -> None:
    """Say that Ctrl-C was seen, once: at the end of a command, or before what it still does."""
    if not error.args:
        error.args = ("said",)
        print("skinml: stopped by Ctrl-C", file=sys.stderr, flush=True)


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command-line program and turn a `UserError` into one line on stderr.

    Returns the exit code: the command's own (None counts as 0), 2 after a `UserError`,
    130 after Ctrl-C, 141 where the output's reader is gone. Any other exception is a defect of
    skinml and keeps its traceback. What the output's encoding does not know is printed in plain
    letters, or as "?"; what a terminal would obey as a letter that stands for it.
    """
    sys.excepthook = _tell_defect
    move_user_info()
    for stream in (sys.stdout, sys.stderr):
        # Latin-1, a Windows console, a file's name that is no UTF-8: rather a "-" than no answer.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="skinml.plain")
    streams = sys.stdout, sys.stderr
    # Names, tags and ids come from files and servers of other people.
    sys.stdout, sys.stderr = (cast(TextIO, Shown(styled(stream))) for stream in streams)
    try:
        return _run(command)
    finally:
        sys.stdout, sys.stderr = streams


def _run(command: Callable[[], int | None]) -> int:
    try:
        status = command() or 0
        # What waits in the buffer meets a closed pipe here, not after us.
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"skinml: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        say_stopped(error)
        return 130
    except BrokenPipeError:
        # The reader of our output is gone (`skinml … | head`): nobody is left to tell,
        # and Python's own last flush needs a place that takes the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _tell_defect(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a traceback as Python does, without the name and password in an address."""
    text = "".join(traceback.format_exception(kind, error, trace))
    print(shown(without_user_info(text)), end="", file=sys.stderr)
