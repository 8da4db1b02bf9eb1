"""A published table of accuracies: the paper's own, or one from a CSV file."""

import csv
import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from skinml.base.errors import UserError
from skinml.base.files import read_table
from skinml.compare.runs import CellName

# Further decimals come from a computer's memory, not from rounding: the last ones are its noise.
_MOST_DECIMALS = 8


_NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)", re.ASCII)


LISTED = 5


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    `accuracy` is in % as printed: its exponent is the number of decimals. `precision` is in %,
    `f1` and `auc` are from 0 to 1. `test_size` is the number of test images, where it was stated.
    """

    model: str
    batch_size: int | None
    accuracy: Decimal
    precision: float | None = None
    f1: float | None = None
    auc: float | None = None
    test_size: int | None = None

    @property
    def name(self) -> str:
        return self.model if self.batch_size is None else f"{self.model}-{self.batch_size}"

    @property
    def decimals(self) -> int:
        return -int(self.accuracy.as_tuple().exponent)


# Table III of arXiv 2110.12270.
PAPER_TABLE = tuple(
    PublishedRow(model, batch_size, Decimal(accuracy), precision, f1, auc)
    for model, batch_size, accuracy, precision, f1, auc in (
        ("MobileNet", 16, "80.36", 79.38, 0.7934, 0.9050),
        ("MobileNet", 32, "80.73", 80.72, 0.8057, 0.8936),
        ("MobileNet", 64, "77.64", 76.26, 0.7567, 0.8883),
        ("MobileNetV2", 16, "81.45", 81.28, 0.8114, 0.9035),
        ("MobileNetV2", 32, "78.55", 78.85, 0.7806, 0.8977),
        ("MobileNetV2", 64, "80.91", 80.19, 0.8035, 0.9023),
        ("NASNetMobile", 16, "82.00", 81.77, 0.8038, 0.8832),
        ("NASNetMobile", 32, "79.64", 79.38, 0.7823, 0.8816),
        ("NASNetMobile", 64, "77.45", 77.94, 0.7510, 0.8684),
    )
)


def paper_values() -> dict[CellName, dict[str, float]]:
    """The paper's Table III by cell: accuracy and precision in %, f1 and auc from 0 to 1."""
    values = {}
    for row in PAPER_TABLE:
        assert row.batch_size is not None
        figures = {"accuracy": row.accuracy, "precision": row.precision, "f1": row.f1,
                   "auc": row.auc}  # fmt: skip
        values[CellName(row.model.lower(), row.batch_size)] = {
            name: float(figure) for name, figure in figures.items() if figure is not None
        }
    return values


def read_published(path: Path) -> list[PublishedRow]:
    """Read a published table from a CSV; everything wrong with it is told in one `UserError`.

    Columns: `name`, or `model` with or without `batch_size`; `accuracy_percent`, or `accuracy`,
    which is in % if all its values are above 1 and a fraction if none is; optionally `n`, the
    number of test images. Others are ignored. Write the accuracies as they were printed: their
    decimals are evidence. All of a column count as printed with as many as its longest, since
    spreadsheets drop a last 0.
    """
    header, lines = _read_csv(path)
    identity = "model" if "model" in header else "name"
    column = "accuracy_percent" if "accuracy_percent" in header else "accuracy"
    if missing := [name for name in (identity, column) if name not in header]:
        raise UserError(
            f"{path}: no column {' and no column '.join(missing)} in its first line "
            f"({','.join(header)}); expected name (or model, batch_size), accuracy_percent (or "
            "accuracy) and, where it is known, n"
        )
    problems: list[str] = []
    rows: list[PublishedRow] = []
    line_of: dict[str, int] = {}
    accuracies = _accuracies(lines, column, problems)
    for line, cells in lines:
        if not cells[identity]:
            problems.append(f"line {line}: no {identity}")
        batch_size = _whole(cells.get("batch_size", ""), f"line {line}: batch_size", problems)
        test_size = _whole(cells.get("n", ""), f"line {line}: n", problems)
        if line not in accuracies:
            continue
        batch_size = batch_size if identity == "model" else None
        row = PublishedRow(cells[identity], batch_size, accuracies[line], test_size=test_size)
        if row.name in line_of:
            problems.append(
                f"line {line}: {row.name} is in line {line_of[row.name]} too, expected a name or "
                "a batch_size of its own"
            )
        line_of.setdefault(row.name, line)
        rows.append(row)
    if problems:
        more = f"; … and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise UserError(f"{path}: {'; '.join(problems[:LISTED])}{more}")
    return rows


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header of a CSV, and of each line that is not empty its number and cells by name."""
    try:
        rows = [
            (line, [cell.strip() for cell in row]) for line, row in read_table(path) if any(row)
        ]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {error}; expected UTF-8 text") from None
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: {reason}; expected a CSV of published accuracies") from None
    if len(rows) < 2:
        raise UserError(f"{path}: no row of figures in it, expected a header and a line a model")
    header = [name.casefold() for name in rows[0][1]]
    if doubled := sorted({name for name in header if name and header.count(name) > 1}):
        raise UserError(f"{path}: column {', '.join(doubled)} twice, expected each once")
    if uneven := [line for line, row in rows if len(row) != len(header)]:
        raise UserError(
            f"{path}: line {', '.join(map(str, uneven[:LISTED]))}"
            f"{', …' * (len(uneven) > LISTED)}: expected {len(header)} columns as in its first "
            "line, separated by commas"
        )
    return header, [(line, dict(zip(header, row, strict=True))) for line, row in rows[1:]]


def _accuracies(
    lines: list[tuple[int, dict[str, str]]], column: str, problems: list[str]
) -> dict[int, Decimal]:
    """The accuracy of each line in %, all with the decimals of the longest."""
    values: dict[int, Decimal] = {}
    for line, cells in lines:
        text = cells[column]
        if not _NUMBER.fullmatch(text):
            problems.append(f"line {line}: {column} {text!r}, expected a number such as 80.36")
        elif not 0 <= Decimal(text) <= 100:
            problems.append(f"line {line}: {column} {text}, expected 0 to 100 % or 0 to 1")
        else:
            values[line] = Decimal(text)
    small = [line for line, value in values.items() if 0 < value <= 1]
    if column == "accuracy_percent" or len(small) < sum(value > 0 for value in values.values()):
        problems += [
            f"line {line}: {column} {values[line]} looks like a fraction, expected % as elsewhere"
            for line in small
        ]
    elif small:
        values = {line: value.scaleb(2) for line, value in values.items()}
    longest = max((-int(v.as_tuple().exponent) for v in values.values()), default=0)
    unit = Decimal(1).scaleb(-min(longest, _MOST_DECIMALS))
    return {line: value.quantize(unit) for line, value in values.items()}


def _whole(text: str, where: str, problems: list[str]) -> int | None:
    """A whole number of at least 1, None where there is no text."""
    if text and not (text.isascii() and text.isdecimal() and int(text)):
        problems.append(f"{where} {text!r}, expected a whole number of at least 1")
        return None
    return int(text) if text else None
