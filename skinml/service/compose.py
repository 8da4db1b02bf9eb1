"""docker-compose.yml as Compose reads it: variables filled in, nothing else changed."""

import re
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from skinml.base.errors import UserError, run_command

# https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATORS = (":-", ":?", ":+", "-", "?", "+")


def interpolate(text: str, variables: Mapping[str, str], asked: set[str] | None = None) -> str:
    """A text with $NAME, ${NAME}, ${NAME:-default}, ${NAME:?message} and ${NAME:+other} filled in.

    `$$` is a dollar; defaults may hold variables themselves. The names that are met go to `asked`.
    A required variable that is missing is a `UserError`.
    """
    done, _ = _interpolate(text, 0, variables, asked if asked is not None else set(), nested=False)
    return done


def _interpolate(
    text: str, start: int, variables: Mapping[str, str], asked: set[str], nested: bool
) -> tuple[str, int]:
    """The text from `start` on, and where it ended: at the brace that closes a nested one."""
    out: list[str] = []
    at = start
    while at < len(text):
        if nested and text[at] == "}":
            return "".join(out), at
        if text[at] != "$":
            out.append(text[at])
            at += 1
        elif text.startswith("$$", at):
            out.append("$")
            at += 2
        elif text.startswith("${", at):
            value, at = _braced(text, at + 2, variables, asked)
            out.append(value)
        elif name := _NAME.match(text, at + 1):
            asked.add(name[0])
            out.append(variables.get(name[0], ""))
            at = name.end()
        else:
            raise UserError(f"{text!r}: a lone $; write $$ for a dollar")
    if nested:
        raise UserError(f"{text!r}: a brace is not closed")
    return "".join(out), at


def _braced(text: str, at: int, variables: Mapping[str, str], asked: set[str]) -> tuple[str, int]:
    name = _NAME.match(text, at)
    if not name:
        raise UserError(f"{text!r}: no name of a variable after ${{")
    asked.add(name[0])
    value = variables.get(name[0])
    at = name.end()
    operator = next((sign for sign in _OPERATORS if text.startswith(sign, at)), "")
    argument, at = _interpolate(text, at + len(operator), variables, asked, nested=True)
    if argument and not operator:
        raise UserError(f"{text!r}: expected one of {' '.join(_OPERATORS)} after {name[0]}")
    given = bool(value) if operator.startswith(":") else value is not None
    match operator[-1:]:
        case "-":
            result = value if given else argument
        case "+":
            result = argument if given else ""
        case "?" if not given:
            raise UserError(f"{name[0]} {argument or 'is not set'}")
        case _:
            result = value
    return result or "", at + 1


def read_compose(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with every variable filled in; a required one that is missing is a `UserError`."""
    return _map_texts(_parse(path), lambda text: interpolate(text, variables))


def _parse(path: Path) -> Any:
    import yaml

    # The one in C, of the same result, is ten times as fast.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(), Loader=loader)


def asked_variables(path: Path) -> tuple[set[str], set[str]]:
    """The names of the variables that the file reads, and of those that it requires."""
    content = _parse(path)
    asked: set[str] = set()
    required: set[str] = set()

    def look(text: str) -> str:
        try:
            return interpolate(text, {}, asked)
        except UserError as error:
            required.add(str(error).split()[0])
            return text

    _map_texts(content, look)
    return asked, required


def _map_texts(node: Any, change: Callable[[str], str]) -> Any:
    if isinstance(node, dict):
        return {key: _map_texts(value, change) for key, value in node.items()}
    if isinstance(node, list):
        return [_map_texts(value, change) for value in node]
    return change(node) if isinstance(node, str) else node


def read_env(path: Path) -> dict[str, str]:
    """The variables of a .env file: NAME=value lines, with or without quotes."""
    variables = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name, value = name.removeprefix("export ").strip(), value.strip()
        if not equals or not _NAME.fullmatch(name):
            raise UserError(f"{path}, line {number}: {line!r} is not NAME=value; mend or remove it")
        if value[:1] in ("'", '"') and value.endswith(value[0]) and len(value) > 1:
            value = value[1:-1]
        else:
            value = re.split(r"\s#", value)[0].rstrip()
        variables[name] = value
    return variables


def make_env(path: Path, example: Path, required: set[str]) -> list[str]:
    """Fill a .env file's empty secrets with random values; make it from the example if need be.

    Nobody but its owner may read it, from its first byte on. What is set already stays. Returns
    the names of the secrets that were written.
    """
    text = (path if path.exists() else example).read_text()
    present = read_env(path) if path.exists() else {}
    written = []
    for name in sorted(required):
        if present.get(name):
            continue
        line = f"{name}={secrets.token_urlsafe(32)}"
        text, found = re.subn(rf"^{name}=.*$", line, text, flags=re.MULTILINE)
        if not found:
            text = f"{text.rstrip()}\n{line}\n"
        written.append(name)
    if written or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.partial")
        temporary.unlink(missing_ok=True)
        temporary.touch(mode=0o600)
        temporary.write_text(text)
        temporary.replace(path)
    return written


def main() -> int:
    """Make .env beside docker-compose.yml, or fill what is empty in it."""
    _, required = asked_variables(Path("docker-compose.yml"))
    written = make_env(Path(".env"), Path(".env.example"), required)
    print(f"wrote {len(written)} secrets to .env" if written else ".env has every secret")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
