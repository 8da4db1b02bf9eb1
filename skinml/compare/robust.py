"""Whether a verdict holds however it is asked: `python -m skinml.compare --robust`.

The same runs, by other metrics, without the test images that have a near-duplicate, and with the
epoch kept by another rule (a multiverse analysis; Steegen, Tuerlinckx, Gelman & Vanpaemel,
Perspectives on Psychological Science 2016, 11:702-712). Each analysis tests as the report does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from skinml.base.errors import UserError
from skinml.compare.analysis import Finding, find_verdicts
from skinml.compare.comparison import Comparison
from skinml.compare.document import Block, Cell, Heading, Items, Table, Text
from skinml.compare.paired import tested
from skinml.compare.runs import RECIPE, RunRecord
from skinml.compare.selection import Selection, select_readable
from skinml.config import AUTO, Config
from skinml.data.duplicates import NEAR_DUPLICATES
from skinml.evaluation.metrics import metric_title
from skinml.evaluation.predictions import Predictions

# What verdicts are asked of, each beside the report's verdict that it is held against.
METRICS = {
    "accuracy": "accuracy",
    "sensitivity_macro": "accuracy",
    "auc_weighted": "auc_weighted",
    "auc_macro": "auc_weighted",
    "challenge_auc": "auc_weighted",
}

# The rules by which a run may keep an epoch: the best by a validation metric, or the last.
RULES: tuple[str, ...] = next(
    tuple(choice for choice in option.metadata["choices"] if choice != AUTO)
    for option in fields(Config)
    if option.name == "monitor"
)

HOLDS, DIFFERS, REVERSED = "holds", "does not hold", "reversed"

# What is no support of a verdict: the report's own analysis, and one that could not name a winner.
OWN, CANNOT = "this one", "could name none"


@dataclass(frozen=True)
class Analysis:
    """One way to ask: the metric, the rule of the kept epoch, the test images, and the answer.

    `against` says how the report's verdict stands beside it: one of HOLDS, DIFFERS and REVERSED
    (another configuration wins than the report's winner), or OWN or CANNOT. `own` is what the
    report's own analysis found, `own_rule` its rule of the kept epoch.
    """

    rule: str
    images: str
    finding: Finding
    against: str
    own: Finding
    own_rule: str


@dataclass(frozen=True)
class Robustness:
    """All analyses, and in words which could not be made."""

    analyses: tuple[Analysis, ...]
    left_out: tuple[str, ...]


def check_robustness(comparison: Comparison) -> Robustness:
    """Ask for a verdict in every way that the tables allow."""
    by_rule, left_out = _by_rule(comparison.selection)
    found: list[Analysis] = []
    own: dict[str, Finding] = {}
    for rule, selection in by_rule.items():
        for images, part, missing in _test_parts(selection):
            left_out += [text for text in missing if text not in left_out]
            if part is None:
                continue
            classes = part.runs[0].predictions.classes
            findings = find_verdicts(part, [name for name in METRICS if name in tested(classes)])
            # The report's runs on all its images come first.
            own = own or {finding.metric: finding for finding in findings}
            for finding in findings:
                before = own[METRICS[finding.metric]]
                against = _against(finding, before)
                own_rule = next(iter(by_rule))
                found.append(Analysis(rule, images, finding, against, before, own_rule))
    return Robustness(tuple(found), tuple(left_out))


def _against(finding: Finding, own: Finding) -> str:
    """How the report's verdict stands beside a finding."""
    if finding is own:
        return OWN
    if finding.cannot:
        return CANNOT
    if finding.winner == own.winner:
        return HOLDS
    return REVERSED if finding.winner and own.winner else DIFFERS


def _by_rule(selection: Selection) -> tuple[dict[str, Selection], list[str]]:
    """The runs of each rule of the kept epoch, by which there are any; what is said of the rest."""
    own = "/".join(sorted({run.setting("monitor") for run in selection.runs}))
    alike = {(run.cell, _but_for_the_rule(run)) for run in selection.runs}
    found, left_out = {own: selection}, []
    for rule in RULES:
        if rule == own:
            continue
        runs = [
            run
            for run in selection.same_test_set
            if run.setting("monitor") == rule and (run.cell, _but_for_the_rule(run)) in alike
        ]
        try:
            other = select_readable(runs, list(selection.cells)) if runs else None
        except UserError:
            other = None
        if other and not other.missing:
            found[rule] = other
        else:
            left_out.append(
                f"{_kept(rule)}: no such runs of every configuration; a predictions table holds "
                f"the epoch that its run kept, here {_rule(own)}"
            )
    return found, left_out


def _but_for_the_rule(run: RunRecord) -> tuple[str, ...]:
    """All that decides a run's result beside its cell, seed, split and rule of the kept epoch."""
    return tuple(run.setting(name) for name in RECIPE if name != "monitor")


def _test_parts(selection: Selection) -> list[tuple[str, Selection | None, list[str]]]:
    """The test images as they are, and without near-duplicates: a name and the runs on these."""
    images = {str(image) for run in selection.runs for image in run.predictions.image_ids}
    parts: list[tuple[str, Selection | None, list[str]]] = [(f"all {len(images)}", selection, [])]
    if selection.runs[0].tags["data"] != "isic2017":
        told = "without near-duplicates: they are known of ISIC 2017 alone"
        return [*parts, ("", None, [told])]
    near = images & {image for group in NEAR_DUPLICATES for image in group}
    if not near:
        told = "without near-duplicates: no test image has one that is known"
        return [*parts, ("", None, [told])]
    cells = {
        cell: tuple(_without(run, near) for run in runs) for cell, runs in selection.cells.items()
    }
    name = f"{len(images) - len(near)}, no near-duplicates"
    return [*parts, (name, replace(selection, cells=cells), [])]


def _without(run: RunRecord, images: set[str]) -> RunRecord:
    """A run whose table lacks some images."""

    def load() -> Predictions:
        table = run.predictions
        kept = np.array([str(image) not in images for image in table.image_ids], dtype=bool)
        return replace(
            table, image_ids=table.image_ids[kept], labels=table.labels[kept],
            scores=table.scores[kept],
        )  # fmt: skip

    return replace(run, load=load)


_BY = {"auc_macro": "macro AUC", "accuracy": "accuracy", "loss": "loss"}


def _rule(name: str) -> str:
    return f"by {_BY[name]}" if name in _BY else name


def _kept(rule: str) -> str:
    """Such as "kept epoch by validation loss"."""
    return f"kept epoch by validation {_BY[rule]}" if rule in _BY else f"kept epoch the {rule}"


def robustness(comparison: Comparison, found: Robustness) -> list[Block]:
    """What a report says of it: a sentence a verdict, the table, and what is not in it."""
    rows = [
        [
            Cell(metric_title(each.finding.metric)),
            Cell(each.images),
            Cell(_rule(each.rule)),
            Cell(each.finding.highest),
            Cell(f"{each.finding.winner} wins" if each.finding.winner else "no winner"),
            Cell(each.against, bold=each.against in (DIFFERS, REVERSED)),
        ]
        for each in found.analyses
    ]
    columns = ("metric", "test images", "epoch kept", "highest", "verdict", "report's verdict")
    blocks: list[Block] = [
        Heading("Does the verdict hold?"),
        *(Text(text, strong=True) for text in summaries(comparison, found)),
        Table("The verdict by other metrics, test images and kept epochs", columns, rows, labels=3),
        Text(
            "Balanced accuracy is held against the verdict by accuracy, the AUCs against that by "
            "weighted AUC. Near-duplicates are test images to which another image of ISIC 2017, in "
            "whatever part, is nearly identical. Each analysis makes the same tests, with Holm's "
            "correction within it. They share their runs: agreement is no further evidence, "
            "disagreement is a warning."
        ),
    ]
    missing = tuple(f"Not done, {text}." for text in found.left_out)
    return [*blocks, Items(missing)] if missing else blocks


def summaries(comparison: Comparison, found: Robustness) -> list[str]:
    """In how many other analyses each verdict of the report holds, and where it does not.

    Only those that could have named a winner are counted. Where none could, "no winner" is no
    finding: it is told instead whether the order of the networks as trained stays the same.
    """
    texts = []
    for metric, standing in comparison.standings.items():
        title = metric_title(metric)
        others = [
            each
            for each in found.analyses
            if METRICS[each.finding.metric] == metric and each.against != OWN
        ]
        able = [each for each in others if each.against != CANNOT]
        if not able:
            texts.append(f"{title}: {_as_trained(others)}")
            continue
        told = f"{standing.winner} wins" if standing.winner else "no winner"
        holding = [each for each in able if each.against == HOLDS]
        text = f"{title}, {told}: holds in {len(holding)} of {len(able)} other analyses"
        disagreeing = [_disagreement(each) for each in able if each.against != HOLDS]
        text += f"{': not ' if disagreeing else ''}{'; '.join(disagreeing)}."
        if unable := [each for each in others if each.against == CANNOT]:
            text += f" {len(unable)} more could name none, as {unable[0].finding.cannot}."
        texts.append(text)
    return texts


def _as_trained(others: Sequence[Analysis]) -> str:
    """What stays the same of the networks as trained, where no configuration could have won."""
    if not others:
        return "there is no other analysis."
    own, why = others[0].own, others[0].finding.cannot
    who = "no analysis" if own.cannot else "no other analysis than the report's"
    highest = [each for each in others if each.finding.best == own.best]
    shown = [each for each in others if each.finding.shown == own.shown]
    differing = [_change(each) for each in others if each not in highest or each not in shown]
    return (
        f"{who} could have named a winner, as {why}. The highest value is of the same cell "
        f"({'/'.join(map(str, sorted(own.best)))}) in {len(highest) or 'none'} of the "
        f"{len(others)} analyses beside the report's, and the same differences are shown over "
        f"images in {len(shown) or 'none'}{': not ' if differing else ''}{'; '.join(differing)}."
    )


def _change(each: Analysis) -> str:
    """What an analysis says otherwise than the report's own of the networks as trained."""
    told = []
    if each.finding.best != each.own.best:
        told.append(f"highest {each.finding.highest}")
    if lost := len(each.own.shown - each.finding.shown):
        told.append(f"{lost} of {len(each.own.shown)} not shown")
    if more := len(each.finding.shown - each.own.shown):
        told.append(f"{more} more shown")
    return f"{_name(each)} ({', '.join(told)})"


def _disagreement(each: Analysis) -> str:
    winner = f"{each.finding.winner} wins" if each.finding.winner else "no winner"
    return f"{_name(each)} ({winner})"


def _name(each: Analysis) -> str:
    name = f"by {metric_title(each.finding.metric)}, test images {each.images}"
    return name if each.rule == each.own_rule else f"{name}, epoch kept {_rule(each.rule)}"


def as_rows(found: Robustness) -> list[dict[str, str | None]]:
    """The analyses as JSON holds them."""
    return [
        {
            "metric": each.finding.metric,
            "images": each.images,
            "kept_epoch_by": each.rule,
            "highest": each.finding.highest,
            "winner": str(each.finding.winner) if each.finding.winner else None,
            "verdict": each.finding.verdict,
            "against_the_report": each.against,
        }
        for each in found.analyses
    ]
