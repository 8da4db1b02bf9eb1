"""A comparison → the document that a person reads."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from skinml.base.names import short_id
from skinml.compare.averages import averages_section
from skinml.compare.caveats import caveats, missing_cells, name_cells, one_class
from skinml.compare.claims import claims
from skinml.compare.comparison import VERDICT_METRICS, Comparison, Standing
from skinml.compare.differences import planned_contrasts
from skinml.compare.document import (
    Block,
    Cell,
    Details,
    Document,
    Heading,
    Items,
    Picture,
    Table,
    Text,
)
from skinml.compare.figures import captions
from skinml.compare.groups import groups_section
from skinml.compare.paired import ALPHA
from skinml.compare.points import points_section
from skinml.compare.repeats import LEAST_SEEDS
from skinml.compare.robust import Robustness, robustness
from skinml.compare.runs import CellName
from skinml.compare.settings import unlike
from skinml.compare.tables import (
    class_columns,
    common_device,
    cost_table,
    further_columns,
    is_papers,
    number,
    papers_values,
    plain_tables,
    runs_table,
    standings_table,
    table_iii,
    tests_table,
)
from skinml.compare.uncertainty import uncertainty
from skinml.compare.votes import gains_of_votes, how_votes
from skinml.data.datasets import challenge_tasks, title_of
from skinml.evaluation.metrics import metric_title
from skinml.evaluation.statistics import LEAST_OF_A_CLASS

if TYPE_CHECKING:
    from skinml.store.external import ExternalTest


_GLOSSARY = (
    "Network as trained: one run's weights. Configuration: network and batch size, trained anew "
    "with each seed.",
    "95 % interval over images: of intervals made so from many sets of test images of the same "
    "kind, 95 in 100 hold the figure that these networks have over all such images.",
    "p over images: how often a difference as large or larger would be seen on such images if the "
    "networks as trained were equally good.",
    "p over images and runs: the same if the configurations were equally good, with other images "
    f"and trained anew; by the spread of the runs. It takes {LEAST_SEEDS} repetitions: pairs of "
    "runs with the same seed, less one for every split after the first; a pooled question has "
    "pairs of several networks or batch sizes, and so repetitions from one seed of each.",
    "Holm: the p-value corrected for the number of tests of one metric and question.",
    "McNemar's test, exact swaps: exact tests of accuracy on the same images, of single runs and "
    "of means over runs. DeLong's test: of AUCs on the same images.",
    "No winner: the highest value is not shown to be higher than each other one. Shown means both "
    f"p-values below {ALPHA:g} after Holm's correction, in runs of the same seeds trained alike.",
    "Share of resamples: in how much of the redrawn test sets a cell has the highest value. Other "
    "seeds are not in it; it is no probability of being the better configuration.",
    "AUC: the probability that an image of the class gets a higher score than one of the others.",
    "{challenge}Calibration error: the mean gap of stated and observed frequency of being right.",
)


_DEMO = "Generated demo images: these figures say nothing about skin lesions."


def _glossary(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The terms of a report; a challenge's own where these classes have one."""
    of = [f"for {label.replace('_', ' ')}" for label in challenge_tasks(classes).values()]
    challenge = f"Challenge AUC: the mean of the AUCs {' and '.join(of)}. " if of else ""
    return tuple(text.replace("{challenge}", challenge) for text in _GLOSSARY)


def make_report(
    comparison: Comparison, all_pairs: bool = False, robust: Robustness | None = None
) -> Document:
    """The whole report of a comparison, with what was found of its robustness.

    The pairs that are not shown to differ are folded; formats that cannot fold have them only with
    `all_pairs`.
    """
    several = len(comparison.rows) > 1
    demo = comparison.selection.runs[0].tags["data"] == "demo"
    classes = tuple(comparison.class_counts)
    verdicts = [standing.verdict for standing in comparison.standings.values()]
    pictures = captions(comparison)

    def picture(name: str) -> list[Block]:
        return [Picture(name, pictures.pop(name))] if name in pictures else []

    blocks: list[Block] = [
        *([Text(_DEMO, strong=True)] if demo else []),
        *(Text(verdict, strong=True) for verdict in verdicts if several),
        *one_class(comparison),
        *([Items(tuple(told))] if (told := claims(comparison)) else ()),
        Text(_test_set(comparison)),
        table_iii(comparison),
        *picture("intervals"),
        Text(_how_to_read(comparison)),
        *gains_of_votes(comparison.votes),
        *missing_cells(comparison),
        Heading("What stands behind the table"),
        Items(tuple(caveats(comparison))),
        *_by_class(comparison, classes, picture),
        *points_section(comparison.rows, comparison.points, all_pairs),
        *groups_section(comparison.rows),
        *([Heading("Where they look"), *picture("pictures")] if comparison.pictures else ()),
        Heading("Cost"),
        cost_table(comparison),
        *picture("pareto"),
        *_how_latency(comparison),
        *(averages_section(comparison) if several else ()),
        *_planned(comparison),
        *([Heading("Who is best?"), standings_table(comparison)] if several else ()),
        *picture("ranks"),
        *([Items(tuple(lines))] if several and (lines := _detectable(comparison)) else ()),
        *(robustness(comparison, robust) if robust else ()),
        *uncertainty(comparison),
        *([Heading("All pairs"), *_pairs(comparison, all_pairs)] if several else ()),
        *_further(pictures),
        *_external(comparison),
        Heading("Runs"),
        Details(
            "Initial weights, epochs (frozen + fine-tuning) and the one kept, figures of each run"
            + (f"; all trained on a {kind.upper()}" if (kind := common_device(comparison)) else ""),
            (runs_table(comparison),),
        ),
        Details("Glossary", (Items(_glossary(classes)),), instead="--format html has it"),
    ]
    return Document(_title(comparison), blocks)


def _by_class(
    comparison: Comparison, classes: tuple[str, ...], picture: Callable[[str], list[Block]]
) -> list[Block]:
    return [
        Heading("By class"),
        *plain_tables(comparison, "Sensitivity and specificity", class_columns(classes)),
        *picture("confusion_matrices"),
        *plain_tables(
            comparison, "Areas under the ROC curve, calibration", further_columns(classes)
        ),
        *picture("roc_curves"),
    ]


def _title(comparison: Comparison) -> str:
    tags, count = comparison.selection.runs[0].tags, len(comparison.rows)
    what = f"Comparison of {count} configurations" if count > 1 else str(comparison.rows[0].cell)
    return f"{what} on {title_of(tags['data'])}, {tags['protocol']} protocol"


def _how_to_read(comparison: Comparison) -> str:
    """What stands in a cell of the first table."""
    sentences = [
        "Below each figure: its 95 % interval over the test images (bootstrap; Wilson's for a "
        f"figure of 0 or 1; none where fewer than {LEAST_OF_A_CLASS} images carry it)"
        + (", ± standard deviation over seeds." if _any_sd(comparison) else "."),
    ]
    if is_papers(comparison):
        sentences.append("Beside it the paper's, with the difference below.")
    if len(comparison.rows) > 1:
        sentences.append(
            "The best value of a column is in bold; whether it differs from the others is a "
            "question of the tests below."
        )
    if comparison.votes:
        sentences.append(how_votes(comparison.votes))
    return " ".join([*sentences, "Precision, F1 and AUC are averages weighted by class."])


def _further(pictures: dict[str, str]) -> list[Block]:
    """Figures that have no table to stand beside."""
    found = [Picture(name, caption) for name, caption in pictures.items()]
    return [Heading("Further figures"), *found] if found else []


def _external(comparison: Comparison) -> list[Block]:
    """Tests of models on other data sets, apart: nothing above is held against them."""
    tests = comparison.selection.external
    if not tests:
        return []

    def figure(test: "ExternalTest", name: str) -> Cell:
        value, low, high = (
            test.metrics.get(f"external_{name}{end}", math.nan)
            for end in ("", "_ci_low", "_ci_high")
        )
        ends = f"{number(low, 3)}–{number(high, 3)}" if math.isfinite(low) else ""
        return Cell(number(value, 3), ends)

    rows = [
        [
            Cell(test.tags.get("model_version", "?")),
            Cell(test.tags.get("trained_on", "?")),
            Cell(test.tags.get("data", "?")),
            Cell(test.tags.get("images", "?")),
            *(figure(test, name) for name in ("accuracy", "auc_macro")),
            Cell(short_id(test.run_id)),
        ]
        for test in tests
    ]
    columns = ("model", "trained on", "tested on", "images", "accuracy", "AUC macro", "run")
    return [
        Heading("External tests"),
        Table("Models on data sets that they were not trained on", columns, rows, labels=3),
        Text(
            "Of other images and perhaps other classes: no figure here can be held against one of "
            "the tables above."
        ),
    ]


def _planned(comparison: Comparison) -> list[Block]:
    """The paper's own questions, as far as there are cells to answer them."""
    sizes = {row.cell.batch_size for row in comparison.rows}
    models = {row.cell.model for row in comparison.rows}
    titles = {
        "batch size": "Batch size" + (", pooled over the networks" if len(models) > 1 else ""),
        "model": "Model" + (", pooled over the batch sizes" if len(sizes) > 1 else ""),
    }
    tables = [
        tests_table(titles[question], tests)
        for question, tests in comparison.planned.items()
        if tests
    ]
    if not tables:
        return []
    title = "The paper's own questions" if papers_values(comparison) else "Batch size and network"
    return [Heading(title), *tables, *_not_alike(comparison)]


def _not_alike(comparison: Comparison) -> list[Block]:
    """Which planned differences are of more than the batch size or network, and by what settings.

    Of each only its own cells are asked: what other cells were trained with is nothing to it.
    """
    found: dict[str, list[str]] = {}
    for contrasts in planned_contrasts(comparison.rows).values():
        for (first, second), cells in contrasts:
            if apart := unlike([(a.runs, b.runs) for a, b in cells]):
                found.setdefault(", ".join(apart), []).append(f"{first} minus {second}")
    return [
        Text(
            f"Not trained alike ({settings}): {'; '.join(names)}. Such a difference is not one of "
            "the batch size or of the network alone."
        )
        for settings, names in found.items()
    ]


def _any_sd(comparison: Comparison) -> bool:
    return any(row.values["accuracy"].sd_seeds is not None for row in comparison.rows)


def _test_set(comparison: Comparison) -> str:
    counts = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in comparison.class_counts.items()
    )
    most = max(comparison.class_counts.values()) / comparison.images
    splits = sorted({run.tags["split"] for run in comparison.selection.runs})
    return (
        f"Test part: {_images(comparison)} ({counts}) of split {', '.join(splits)}; always "
        f"answering the commonest class would be {100 * most:.1f} % right. Data digest "
        f"{comparison.selection.runs[0].tags['data_digest']}."
    )


def _images(comparison: Comparison) -> str:
    return "1 image" if comparison.images == 1 else f"{comparison.images} images"


def _how_latency(comparison: Comparison) -> list[Block]:
    if not comparison.device:
        return []
    return [
        Text(
            f"Latency: one image at a time on {comparison.device}. It does not depend on the batch "
            "size of the training, so each network has one: the median of what its runs "
            "measured; below it their smallest and largest."
        )
    ]


def _detectable(comparison: Comparison) -> list[str]:
    lines = []
    for metric, standing in comparison.standings.items():
        if not math.isfinite(standing.detectable):
            continue
        lines.append(
            f"{metric_title(metric)}: the smallest difference between two of these networks that "
            f"{_images(comparison)} show with 80 % power is {standing.detectable:.3f} in a "
            f"single test{_among_all(standing)} (for a pair whose standard error is the median of "
            "the pairs that differ)."
        )
    return lines


def _among_all(standing: Standing) -> str:
    """What it is beside other tests, of which there may be none."""
    if standing.detectable_all == standing.detectable:
        return ""
    return f", and {standing.detectable_all:.3f} among all pairs with Holm's correction"


def _pairs(comparison: Comparison, all_pairs: bool) -> list[Block]:
    """Every pair of cells: first those that are shown to differ, then the rest."""
    blocks: list[Block] = []
    for metric in VERDICT_METRICS:
        title = metric_title(metric)
        tests = sorted(
            (test for test in comparison.pairs if test.metric == metric),
            # What cannot be computed comes last.
            key=lambda test: (math.isnan(test.p_images_holm), test.p_images_holm),
        )
        shown = [test for test in tests if test.p_images_holm < ALPHA]
        rest = [test for test in tests if not test.p_images_holm < ALPHA]
        text = f"{title}: {len(shown)} of {len(tests)} differences are shown at 5 %"
        text += " after Holm's correction" if tests else ""
        for group in comparison.standings[metric].alike:
            blocks.append(Text(f"{title}: {_alike(metric, group)}"))
        found = tests_table(f"{title}: the differences shown", shown)
        blocks.append(Details(text, (found,)) if shown else Text(f"{text}."))
        if rest:
            blocks.append(
                Details(
                    f"{title}: {len(rest)} of {len(tests)} differences are not shown at 5 %",
                    (tests_table(f"{title}: the differences not shown", rest),),
                    instead="" if all_pairs else "--all-pairs lists them",
                )
            )
    return blocks


def _alike(metric: str, group: Sequence[CellName]) -> str:
    """That cells cannot be told apart by a metric, and why."""
    why = "they are right on the same images" if metric == "accuracy" else (
        "they put the images in the same order"
    )  # fmt: skip
    return (
        f"{name_cells(group)} cannot be told apart, as {why}; they are tested once, as {group[0]}."
    )
