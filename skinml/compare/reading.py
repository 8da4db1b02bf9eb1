"""Where the runs of a comparison are read: MLflow, newest first, or a folder of their tables."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from skinml.base.errors import NoAnswer, UserError, first_line
from skinml.base.files import file_name, read_json
from skinml.compare.runs import IDENTITY, CellName, RunRecord, make_record, paper_grid
from skinml.compare.selection import Selection, select_readable
from skinml.evaluation.predictions import Predictions, read_predictions

if TYPE_CHECKING:
    from skinml.store.read import Run

Found = TypeVar("Found")


def from_tracking(
    experiment: str,
    filters: dict[str, str],
    folder: Path,
    grid: Sequence[CellName] | None = None,
    sweep: str = "",
) -> Selection:
    """Choose the runs to compare among those of an experiment; their tables go to `folder`.

    `sweep` is the id of a sweep's run: its cells alone, those that it found done among them.
    Reads from the newest run backwards, until a whole page of older runs has added nothing and no
    cell that is still missing has a run that could.
    """
    from skinml.store.external import external_tests
    from skinml.store.read import PAGE, experiment_id, finished_runs

    where = experiment_id(experiment)
    records: list[RunRecord] = []
    wanted = paper_grid() if grid is None else grid
    seen, foreign = _Seen(where, filters, sweep, wanted), 0
    for number, run in enumerate(finished_runs(where, filters, sweep), 1):
        if all(name in run.data.tags for name in IDENTITY):
            try:
                record = _record(run, folder)
            except ValueError as error:
                print(f"skinml: left out run {run.info.run_id}: {error}", file=sys.stderr)
                continue
            records.append(record)
            seen.add(record)
        else:
            foreign += 1
        if number % PAGE == 0 and records and seen.enough():
            break
    if foreign:
        noun = "run" if foreign == 1 else "runs"
        print(
            f"skinml: left out {foreign} {noun} of another program (a training by skinml has "
            f"the tags {', '.join(IDENTITY)})",
            file=sys.stderr,
        )
    filters = filters | ({"sweep": sweep} if sweep else {})
    if filters and not records:
        told = ", ".join(f"{name}={value}" for name, value in filters.items())
        raise UserError(
            f"no finished run with {told} in experiment {experiment!r}; expected one at least: "
            "leave a filter out, or look for the values there are in the UI"
        )
    return replace(select_readable(records, grid), external=tuple(external_tests(where)))


class _Seen:
    """What has been read of an experiment, newest first, and whether older runs can add to it."""

    def __init__(
        self, experiment: str, filters: dict[str, str], sweep: str, grid: Sequence[CellName]
    ) -> None:
        self._experiment, self._filters, self._sweep = experiment, filters, sweep
        self._grid = set(grid)
        # By test set, the newest first: its cells, and whatever tells two of its runs apart.
        self._cells: dict[tuple[str, ...], set[CellName]] = {}
        self._kinds: dict[tuple[str, ...], set[Any]] = {}
        self._before: Any = None
        self._there: dict[tuple[str, ...], bool] = {}

    def add(self, run: RunRecord) -> None:
        self._cells.setdefault(run.test_set, set()).add(run.cell)
        kind = (run.cell, run.repetition, run.recipe)
        self._kinds.setdefault(run.test_set, set()).add(kind)

    def enough(self) -> bool:
        """Asked once a page: it added nothing to the test set chosen, and no older run can."""
        complete = [found for found, cells in self._cells.items() if self._grid <= cells]
        chosen = (complete or list(self._cells))[0]
        now = (chosen, len(self._kinds[chosen]))
        same, self._before = now == self._before, now
        if complete or not same:
            return same
        # The runs of one sweep are few, and asked for by more than tags.
        return not self._sweep and self._never_complete(chosen)

    def _never_complete(self, chosen: tuple[str, ...]) -> bool:
        """Whether no test set at all has the whole grid, nor the chosen one more of it."""
        missing = self._grid - self._cells[chosen]
        if all(self._exists(cell) for cell in missing):
            return False
        digest, protocol, *_ = chosen
        return not any(
            self._exists(cell) and self._exists(cell, data_digest=digest, protocol=protocol)
            for cell in missing
        )

    def _exists(self, cell: CellName, **tags: str) -> bool:
        """Whether the store has a run of a cell; asked once, as each page would ask again."""
        from skinml.store.read import is_finished_run

        wanted = {"model": cell.model, "batch_size": str(cell.batch_size), **tags}
        key = tuple(wanted.values())
        if key not in self._there:
            # A filter of the user's for the same tag holds as well: none has both values.
            other = any(self._filters.get(name, value) != value for name, value in wanted.items())
            self._there[key] = not other and is_finished_run(
                self._experiment, self._filters | wanted
            )
        return self._there[key]


def _record(run: "Run", folder: Path) -> RunRecord:
    from skinml.store.read import download

    def bring(name: str) -> Path:
        return download(run.info.run_id, name, folder / file_name(run.info.run_id))

    def load(part: str) -> Predictions:
        return read_predictions(bring(f"predictions_{part}.csv"))

    return make_record(
        run.info.run_id,
        run.info.start_time,
        run.data.params,
        run.data.tags,
        run.data.metrics,
        partial(load, "test"),
        partial(_if_there, partial(load, "validation")),
        lambda name: _if_there(partial(bring, name)),
    )


def _if_there(load: Callable[[], Found]) -> Found | None:
    """What a run need not have; a store that does not answer is an error all the same."""
    try:
        return load()
    except NoAnswer:
        raise
    except UserError:
        return None


def _file_in(folder: Path, name: str) -> Path | None:
    path = folder / name
    return path if path.is_file() else None


def _stamp(name: str) -> int:
    """When a run folder of skinml.run was made, by its name, in ms since 1970; else 0."""
    try:
        when = datetime.strptime(name[:15], "%Y%m%d-%H%M%S")
    except ValueError:
        return 0
    return int(when.replace(tzinfo=UTC).timestamp() * 1000)


def runs_in_folder(folder: Path) -> list[RunRecord]:
    """The runs whose predictions tables were committed or exported to a folder.

    Each lies in a folder of its own, anywhere below, with run.json, metrics.json and
    predictions_test.csv; predictions_validation.csv may be missing. A broken one is left out and
    named on stderr; nothing but broken ones is a `UserError`. Folders of skinml.run itself are left
    out where their run did not finish.
    """
    found, odd = [], []
    for path in sorted(folder.rglob("run.json")):
        own = path.parent
        try:
            description = read_json(path)
            if "run_id" not in description and not (own / "metrics.json").exists():
                continue
            found.append(
                make_record(
                    description.get("run_id", own.name),
                    description.get("started", _stamp(own.name)),
                    description["params"],
                    description["tags"],
                    read_json(own / "metrics.json"),
                    partial(read_predictions, own / "predictions_test.csv"),
                    partial(
                        _if_there, partial(read_predictions, own / "predictions_validation.csv")
                    ),
                    partial(_file_in, own),
                )
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            odd.append(
                f"{own}: not a run that `compare --out` or skinml.run wrote "
                f"({type(error).__name__}: {first_line(error)}); expected run.json, metrics.json "
                "and predictions_test.csv"
            )
    if odd and not found:
        raise UserError(odd[0])
    for text in odd:
        print(f"skinml: left out {text}", file=sys.stderr)
    if not found:
        raise UserError(
            f"{folder}: no run in it; expected folders with run.json, metrics.json and "
            "predictions_test.csv, as `python -m skinml.compare --out FOLDER` writes them"
        )
    return found
