"""The cells of a sweep: a grid of configurations, what each repeats, and how far it is."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skinml.base.errors import UserError, did_you_mean
from skinml.base.files import at_home
from skinml.config import Config, config_from_strings
from skinml.models.weights import check_weights
from skinml.training.history import Row

if TYPE_CHECKING:
    from skinml.data.prepared import PreparedSet

# The fields of `Config` that a sweep varies, and its options for them.
AXES = {
    "model": "models",
    "batch_size": "batch_sizes",
    "seed": "seeds",
    "split_seed": "split_seeds",
}

# One for a whole sweep: what it varies, and where its cells lie.
_SHARED = (*AXES, "data", "data_dir", "output_dir")

Status = Literal["waiting", "running", "done", "done before", "failed", "stopped"]


@dataclass(frozen=True)
class Cell:
    """One configuration of a sweep; `identity` are the tags that its runs share."""

    config: Config
    identity: dict[str, str]

    @property
    def name(self) -> str:
        row = self.config
        return f"{row.model}-{row.batch_size}-seed{row.seed}-split{row.split_seed}"

    @property
    def folder(self) -> Path:
        return at_home(self.config.output_dir, "output_dir=")

    @property
    def epochs(self) -> int:
        chosen = self.config.resolved()
        return int(chosen.epochs_frozen) + int(chosen.epochs_finetune)


@dataclass
class CellState:
    """How far a cell is; `seconds` so far or in all, `left` where that can be told."""

    cell: Cell
    status: Status = "waiting"
    run_id: str = ""
    reason: str = ""
    """Why the cell failed, now or (while it waits) before."""
    note: str = ""
    """What finished runs of the cell by other code are taken for."""
    outdated: bool = False
    """Whether other code than today's has computed the figures of a cell done before."""
    log: Path | None = None
    seconds: float = 0.0
    left: float | None = None
    begun: bool = False
    """Whether the run has its folder: data, device and configuration are in order."""
    row: Row | None = None
    """The last epoch of a running cell."""
    accuracy: float | None = None
    auc: float | None = None
    queued: bool = False
    """Whether a cluster has taken the cell, and not begun with it."""
    waits: bool = False
    """Whether a process of an earlier attempt at the cell has not ended yet."""
    host: str = ""
    """The machine of a cluster that trains it."""
    losses: int = 0
    """How often a machine or process of it was lost."""
    reached: int = 0
    """The epoch that it was at when it was lost last."""
    in_vain: int = 0
    """How often, since then, what may be its own fault has ended it before one more epoch."""
    retry_at: float = 0.0
    """When a lost cell may be tried again, in seconds of the monotonic clock."""

    @property
    def is_done(self) -> bool:
        return self.status in ("done", "done before")


def values_of(option: str, text: str) -> list[str]:
    """The values of an axis, given as a list with commas."""
    values = [value.strip() for value in text.split(",")]
    if not all(values):
        raise UserError(f"{option}={text!r}: expected values with commas between them")
    return values


def settings_of(texts: Sequence[str], models: Sequence[str]) -> dict[str, dict[str, str]]:
    """What applies to single models, from texts of "model.option=value": model → option → value.

    A text may hold several, with spaces or commas between them: `mlflow run` passes one text.
    """
    allowed = [option.name for option in fields(Config) if option.name not in _SHARED]
    settings: dict[str, dict[str, str]] = {}
    problems = []
    # A comma or space parts two settings only before the next "model.option=": values have both.
    for text in (part for whole in texts for part in re.split(r"[\s,]+(?=\w+\.\w+=)", whole)):
        setting = text.strip().rstrip(",")
        if not setting:
            continue
        target, equals, value = setting.partition("=")
        model, _, name = target.partition(".")
        if not equals or model not in models:
            expected = f"model.option=value with a model of the sweep ({', '.join(models)})"
            near = did_you_mean(model, models) if equals else ""
            problems.append(f"set={setting!r}: expected {expected}{near}")
        elif name not in allowed:
            near = did_you_mean(name, allowed)
            expected = f"one of the options {', '.join(allowed)}"
            problems.append(f"set={setting!r}: expected {expected}{near}")
        else:
            settings.setdefault(model, {})[name] = value
    if problems:
        raise UserError("; ".join(problems))
    return settings


def grid_configs(
    axes: dict[str, list[str]], common: dict[str, str], settings: dict[str, dict[str, str]]
) -> list[Config]:
    """The configurations of a grid, models slowest; every bad value is named once.

    `axes`: field → values; `common`: field → value of all; `settings`: model → field → value of
    its own, before that of all. All as they are spelled on a command line.
    """
    from skinml.evaluation.operating_point import read_rule

    single = [{name: value} for name, values in axes.items() for value in values]
    _all([partial(config_from_strings, given) for given in [*single, common, *settings.values()]])
    configs = [
        config_from_strings(
            common
            | settings.get(values[list(axes).index("model")], {})
            | dict(zip(axes, values, strict=True))
        )
        for values in product(*axes.values())
    ]
    _all([config.resolved for config in configs])
    _all([partial(check_weights, config.weights) for config in configs])
    _all([partial(read_rule, config.operating_point) for config in configs])
    return configs


def _all(attempts: Sequence[Callable[[], object]]) -> None:
    """Try everything; what is wrong is told in one line, each mistake once."""
    problems: dict[str, None] = {}
    for attempt in attempts:
        try:
            attempt()
        except UserError as error:
            problems[str(error)] = None
    if problems:
        raise UserError("; ".join(problems))


def make_cells(configs: Sequence[Config], data: "PreparedSet") -> list[Cell]:
    """The cells of a grid on its data; a split that cannot be, or two equal cells, `UserError`."""
    # What answers `--help` and a mistyped option does without these.
    from skinml.data.protocols import assign_parts, split_of
    from skinml.run.description import identity

    splits = {split_of(config) for config in configs}
    _all([partial(assign_parts, data, *split) for split in sorted(splits)])
    cells = [Cell(config, identity(config, data.digest)) for config in configs]
    seen: dict[str, Cell] = {}
    for cell in cells:
        twin = seen.setdefault(cell.identity["config_digest"], cell)
        if twin is not cell:
            raise UserError(
                f"{twin.name} and {cell.name} are one configuration (protocol="
                f"{cell.config.protocol}); expected each once: leave one of them out"
            )
    key = sweep_key(cells)
    return [
        replace(
            cell,
            config=replace(
                cell.config,
                output_dir=str(Path(cell.config.output_dir) / f"sweep-{key}" / cell.name),
            ),
        )
        for cell in cells
    ]


def sweep_key(cells: Sequence[Cell]) -> str:
    """A digest of what a sweep is, its configurations and data: 16 hexadecimal digits.

    Not of the code, nor of how many cells train at a time: a sweep goes on under another of these.
    """
    parts = sorted(f"{c.identity['config_digest']} {c.identity['data_digest']}" for c in cells)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def time_left(history: Sequence[Row], started: float, now: float, config: Config) -> float | None:
    """Seconds until the last epoch ends, from the times of the epochs so far; None: not known yet.

    `history` are the epochs of a cell, `started` and `now` are seconds since 1970. An epoch of the
    frozen step says nothing of one of fine-tuning: before the first of these nothing is known. Nor
    does one of before `started`, which an earlier process trained.
    """
    chosen = config.resolved()
    epochs = {"frozen": int(chosen.epochs_frozen), "finetune": int(chosen.epochs_finetune)}
    ours = [row for row in history if float(row["time"]) / 1000 >= started]
    ends = [started, *(float(row["time"]) / 1000 for row in ours)]
    left = 0.0
    for step, count in epochs.items():
        spans = [
            end - begin
            for begin, end, row in zip(ends, ends[1:], ours, strict=False)
            if row["step"] == step
        ]
        count -= sum(row["step"] == step for row in history) - len(spans)
        if len(spans) >= count:
            continue
        # A step's first epoch also holds its start (tracing; computing features).
        known = spans[1:] or spans
        if not known:
            return None
        left += (count - len(spans)) * sum(known) / len(known)
    return max(0.0, left - (now - ends[-1]))


def sweep_left(states: Sequence[CellState], jobs: int) -> float | None:
    """Seconds until a whole sweep ends, from its finished cells; None before the first of them."""
    finished = [state for state in states if state.is_done and state.seconds]
    if not finished:
        return None

    def expected(state: CellState) -> float:
        same = [s.seconds for s in finished if s.cell.config.model == state.cell.config.model]
        spans = same or [s.seconds for s in finished]
        return sum(spans) / len(spans)

    rest = [
        state.left
        if state.left is not None
        else max(0.0, expected(state) - (state.seconds if state.status == "running" else 0.0))
        for state in states
        if state.status in ("waiting", "running")
    ]
    if not rest:
        return 0.0
    return max(sum(rest) / jobs, max(rest))
