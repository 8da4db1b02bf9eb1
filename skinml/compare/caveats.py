"""What a reader must know to believe a comparison no more than it deserves."""

from collections import Counter
from collections.abc import Container, Sequence

from skinml.compare.comparison import ONE_CLASS_MARK, Comparison
from skinml.compare.document import Block, Code, Text
from skinml.compare.repeats import LEAST_SEEDS
from skinml.compare.runs import CellName
from skinml.compare.selection import Selection, command_for
from skinml.compare.tables import is_papers
from skinml.evaluation.predictions import ONE_CLASS_SHARE


def one_class(comparison: Comparison) -> list[Block]:
    """Which configurations have no more than one answer, said before anyone reads their figures."""
    cells: dict[str, list[CellName]] = {}
    for row in comparison.rows:
        if row.one_answer:
            cells.setdefault(row.one_answer, []).append(row.cell)
    if not cells:
        return []
    count, of = sum(map(len, cells.values())), len(comparison.rows)
    whole = "The one configuration" if of == 1 else f"{count} of {of} configurations"
    verb, they, are = ("answers", "It", "is") if count == 1 else ("answer", "They", "are")
    told = "; ".join(f"{name_cells(own)}: {answer}" for answer, own in cells.items())
    return [
        Text(
            f"{whole} {verb} one class for more than {100 * ONE_CLASS_SHARE:.0f} % of the images "
            f"({told}). {they} {are} marked {ONE_CLASS_MARK} and never set in bold.",
            strong=True,
        )
    ]


def missing_cells(comparison: Comparison) -> list[Block]:
    missing = comparison.selection.missing
    if not missing:
        return []
    runs = comparison.selection.runs
    commands = []
    for model in dict.fromkeys(cell.model for cell in missing):
        own = [run for run in runs if run.tags["model"] == model]
        pattern = (own or runs)[-1]
        commands.append(
            command_for(
                model,
                [cell.batch_size for cell in missing if cell.model == model],
                [run for run in runs if run.cell == pattern.cell],
            )
        )
    return [
        Text(f"{len(missing)} cell{'s are' if len(missing) > 1 else ' is'} missing. To fill:"),
        Code(tuple(commands)),
    ]


def caveats(comparison: Comparison) -> list[str]:
    """What a reader must know to believe the table no more than it deserves."""
    selection = comparison.selection
    runs = selection.runs
    first = runs[0]
    lines = []
    seeds = comparison.seeds
    uneven = len({len(row.runs) for row in comparison.rows}) > 1
    lines.append(
        f"{len(runs)} run{'s' if len(runs) > 1 else ''}, {'at least ' if uneven else ''}{seeds} "
        f"seed{'s' if seeds > 1 else ''} of each configuration. Intervals and p-values over images "
        "are about these networks as trained."
    )
    lines += _on_tests(comparison)
    spread = [row.values["accuracy"].sd_seeds for row in comparison.rows]
    known = [sd for sd in spread if sd is not None]
    if known:
        lines.append(
            f"Spread of the accuracy over seeds: standard deviation {_range(known)} "
            "points within a cell."
        )
    between = [sd for row in comparison.rows if (sd := row.values["accuracy"].sd_splits)]
    if between:
        lines.append(
            f"Spread of the accuracy over splits: standard deviation {_range(between)} points."
        )
    lines += _settings_that_differ(selection)
    lines += _weights_files(selection)
    if not is_papers(comparison):
        pass  # The paper has nothing to do with other images.
    elif first.tags["protocol"] == "challenge":
        lines.append("The paper tested on a pooled split, not on the official parts used here.")
    elif (images := len(first.predictions.labels)) != 550:
        are = "is" if images == 1 else "are"
        lines.append(f"The paper's figures allow a test of 550 images; here there {are} {images}.")
    else:
        lines.append("As many test images as the paper's figures imply, but not the same ones.")
    dirty = sorted({str(run.cell) for run in runs if run.params.get("git_clean") == "false"})
    if dirty:
        lines.append(f"Trained from a source tree with uncommitted changes: {', '.join(dirty)}.")
    across = sorted({run.params.get("duplicate_groups_across_parts", "0") for run in runs})
    if across not in ([], ["0"]):
        lines.append(
            f"{'/'.join(across)} groups of identical images lie in more than one part of the split."
        )
    seen = sorted({run.params.get("test_images_seen_in_training", "0") for run in runs}, key=int)
    if seen not in ([], ["0"]):
        lines.append(f"{'/'.join(seen)} test images have a near-duplicate in the training part.")
    if selection.left_out:
        lines.append(f"Left out: {'; '.join(selection.left_out)}.")
    lines += [f"{sentence}." for sentence in selection.code]
    return lines


def _on_tests(comparison: Comparison) -> list[str]:
    """What the tests over images and runs take, and which runs they are of."""
    lines = []
    if comparison.pairs:
        lines.append(
            "P-values over images and runs are about the configurations, trained anew and tested "
            f"on other images. They take {LEAST_SEEDS} repetitions: pairs of runs with the same "
            "seed, less one for every split after the first; a pooled question has as many pairs "
            "of a seed as it has networks or batch sizes. The difference is then the mean over the "
            "pairs. Holm's correction is over all tests of one metric and question; cells that "
            "answer alike are tested once."
        )
    if len({frozenset(run.repetition for run in row.runs) for row in comparison.rows}) > 1:
        lines.append(
            "Not all cells have the same seeds: a test uses only the runs whose seeds both sides "
            "have, where they share any, so that its difference need not be that of the table."
        )
    return lines


def _settings_that_differ(selection: Selection) -> list[str]:
    """One sentence for all settings that divide the cells in the same way."""
    by_division: dict[tuple[tuple[CellName, ...], ...], dict[str, list[str]]] = {}
    for setting, values in selection.differences.items():
        settings = by_division.setdefault(tuple(values.values()), {})
        settings[setting] = list(values)
    lines = []
    for division, settings in by_division.items():
        # The seeds of one cell may differ as well.
        often = Counter(cell for cells in division for cell in cells)
        split = {cell for cell, count in often.items() if count > 1}
        told = "; ".join(
            f"{name_cells(cells, split)} with "
            + ", ".join(f"{name} {values[number]}" for name, values in settings.items())
            for number, cells in enumerate(division)
        )
        lines.append(
            f"Not all runs were trained alike: {told}. A difference between them may come from "
            "that."
        )
    return lines


def _weights_files(selection: Selection) -> list[str]:
    """What a comparison cannot see: whether the weights files of its networks were made alike."""
    files: dict[str, str] = {}
    for run in selection.runs:
        for digest in run.weights_files:
            files[run.cell.model] = digest
    if len(files) < 2 or "weights" in selection.differences:
        return []  # One network's, or it is told already.
    told = ", ".join(f"{model} {digest}" for model, digest in files.items())
    return [
        f"Each network began with a weights file of its own ({told}). They count as alike; what "
        "each was trained on is not known here."
    ]


def name_cells(cells: Sequence[CellName], in_part: Container[CellName] = ()) -> str:
    """Cells in few words, a network's batch sizes together; `in_part` are those meant so."""
    models: dict[tuple[str, bool], list[str]] = {}
    for cell in cells:
        models.setdefault((cell.model, cell in in_part), []).append(str(cell.batch_size))
    return ", ".join(
        f"{'some runs of ' if part else ''}{model}-{'/'.join(sizes)}"
        for (model, part), sizes in models.items()
    )


def _range(values: Sequence[float]) -> str:
    ends = dict.fromkeys(f"{100 * end:.2f}" for end in (min(values), max(values)))
    return " to ".join(ends)
