"""Which settings, and what else decides a result, are not the same: in all cells, in a contrast."""

from collections.abc import Mapping, Sequence

from skinml.compare.runs import RECIPE, CellName, RunRecord

_COMPARED = (*RECIPE, "training_digest", "device_kind")


def differences_of(
    cells: Mapping[CellName, Sequence[RunRecord]],
) -> dict[str, dict[str, tuple[CellName, ...]]]:
    """Settings that are not the same in every cell: setting → value → cells.

    A weights file is one network's: those of two networks do not count as a difference, two of one
    network do.
    """
    files = _files(cells)
    found = {}
    for name in _COMPARED:
        values: dict[str, list[CellName]] = {}
        for cell, runs in cells.items():
            for run in runs:
                value = _value(run, name, files)
                if cell not in values.setdefault(value, []):
                    values[value].append(cell)
        if len(values) > 1:
            found[name] = {value: tuple(names) for value, names in values.items()}
    return found


Side = Sequence[RunRecord]


def unlike(contrast: Sequence[tuple[Side, Side]]) -> tuple[str, ...]:
    """Settings in which the two sides of a contrast, pairs of cells by their runs, differ.

    What one pair of cells has and another has not is on both sides, and no reason against their
    difference; nor is what one seed has, where the other side's run of that seed has it too.
    """
    return tuple(name for name in _COMPARED if any(_apart(name, *pair) for pair in contrast))


def _apart(name: str, first: Side, second: Side) -> bool:
    first, second = runs_compared(first, second)
    files = _files({first[0].cell: first, second[0].cell: second})
    own, other = ([_value(run, name, files) for run in side] for side in (first, second))
    paired = [run.repetition for run in first] == [run.repetition for run in second]
    return own != other if paired else set(own) != set(other)


def runs_compared(first: Side, second: Side) -> tuple[Side, Side]:
    """The runs of two cells that their difference is made of.

    Those with the same seed and split, in the same order; all where there is no such pair.
    """
    others = {run.repetition: run for run in second}
    both = [run for run in first if run.repetition in others]
    return (both, [others[run.repetition] for run in both]) if both else (first, second)


def _files(cells: Mapping[CellName, Sequence[RunRecord]]) -> dict[str, set[str]]:
    """The weights files that each network began with."""
    files: dict[str, set[str]] = {}
    for run in (run for runs in cells.values() for run in runs):
        files.setdefault(run.cell.model, set()).update(run.weights_files)
    return files


def _value(run: RunRecord, name: str, files: Mapping[str, set[str]]) -> str:
    if name == "training_digest":
        return run.training_code
    if name == "weights":
        several = len(files[run.cell.model]) > 1
        return " ".join((run.weights_kind, *(run.weights_files if several else ())))
    return run.setting(name)
