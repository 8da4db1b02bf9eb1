"""What a published table can carry: the paper's own, and any CSV of accuracies."""

import json
import math
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rcParams
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from skinml.base.errors import UserError
from skinml.compare.formats.html import to_html
from skinml.compare.formats.latex import to_latex
from skinml.compare.formats.markdown import to_markdown
from skinml.compare.formats.terminal import to_terminal
from skinml.compare.published.arithmetic import (
    SPLITS,
    correct_counts,
    detectable_difference,
    mcnemar_range,
    possible_test_sizes,
    two_proportions,
)
from skinml.compare.published.check import CheckedTable, check_published
from skinml.compare.published.figure import draw_intervals
from skinml.compare.published.report import make_document
from skinml.compare.published.table import PAPER_TABLE, PublishedRow, read_published
from skinml.data.isic2017 import NOTICE

# From the paper's Table III by hand: images right of 550, in its order.
PAPER_COUNTS = [442, 444, 427, 448, 432, 445, 451, 438, 426]


@pytest.fixture(scope="module")
def paper() -> CheckedTable:
    return check_published(PAPER_TABLE)


def table(*accuracies: str, size: int | None = None) -> list[PublishedRow]:
    return [
        PublishedRow(f"net{index}", None, Decimal(text), test_size=size)
        for index, text in enumerate(accuracies)
    ]


def printed(right: int, n: int, decimals: int, rounding: str) -> Decimal:
    """A share in % as a program prints it."""
    exact = Fraction(100 * right, n)
    unit = Decimal(1).scaleb(-decimals)
    # 40 digits hold every share of fewer than a million images and tell a tie from its neighbours.
    with localcontext(prec=40):
        return (Decimal(exact.numerator) / exact.denominator).quantize(unit, rounding)


# The size of the test


def test_the_paper_tested_on_550_images_and_on_none_of_its_other_sizes() -> None:
    accuracies = [row.accuracy for row in PAPER_TABLE]
    assert possible_test_sizes(accuracies, 2, 2750) == [550, 1100, 1650, 2200, 2750]
    assert {split.images for split in SPLITS} == {550, 412, 413, 600, 150}


def test_the_paper_s_counts(paper: CheckedTable) -> None:
    assert (paper.n, paper.inferred) == (550, True)
    assert [counted.right for counted in paper.counted] == PAPER_COUNTS
    assert all(c.fewest == c.right == c.most for c in paper.counted)


COUNTS = st.integers(1, 700).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), min_size=1, max_size=5))
)


@settings(deadline=None)
@given(COUNTS, st.integers(0, 4), st.sampled_from([ROUND_HALF_UP, ROUND_HALF_EVEN]))
def test_the_true_size_is_always_possible(
    counts: tuple[int, list[int]], decimals: int, rounding: str
) -> None:
    """Whichever way ties are rounded; and the true count is among those that are allowed."""
    n, rights = counts
    accuracies = [printed(right, n, decimals, rounding) for right in rights]
    assert n in possible_test_sizes(accuracies, decimals, 700)
    for right, accuracy in zip(rights, accuracies, strict=True):
        fewest, most = correct_counts(accuracy, decimals, n)
        assert fewest <= right <= most


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=3), st.integers(1, 60))
def test_a_size_is_possible_only_if_counts_print_as_the_figures(
    tenths: list[int], up_to: int
) -> None:
    """Against trying every count of every size and printing it."""
    accuracies = [Decimal(tenth).scaleb(-1) for tenth in tenths]
    expected = [
        n
        for n in range(1, up_to + 1)
        if all(
            any(
                accuracy in (printed(k, n, 1, ROUND_HALF_UP), printed(k, n, 1, ROUND_HALF_EVEN))
                for k in range(n + 1)
            )
            for accuracy in accuracies
        )
    ]
    assert possible_test_sizes(accuracies, 1, up_to) == expected


@pytest.mark.parametrize(
    ("accuracy", "n", "possible"),
    # 1/8 = 12.5 and 3/8 = 37.5: half up gives 13 and 38, half to even 12 and 38.
    [("13", 8, True), ("12", 8, True), ("38", 8, True), ("37", 8, False)],
)
def test_a_tie_may_have_been_rounded_up_or_to_even(accuracy: str, n: int, possible: bool) -> None:
    assert (n in possible_test_sizes([Decimal(accuracy)], 0, n)) is possible


def test_a_size_that_the_figures_do_not_allow_is_refused_with_the_rows_that_say_so() -> None:
    with pytest.raises(UserError) as caught:
        check_published(PAPER_TABLE, 600)
    message = str(caught.value)
    assert message.startswith("n=600: no whole number of 600 images makes 80.36 (MobileNet-16)")
    # 451/550 is 82 % exactly, which 600 images allow too.
    assert "82.00" not in message and "\n" not in message
    assert "5 sizes that allow all accuracies (550, 1100" in message


def test_a_size_that_is_not_told_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"do not tell the size.*one of the 2700 sizes.*--n"):
        check_published(table("50", "100"))
    of_a_prime = f"{100 * 1601 / 2003:.6f}"
    with pytest.raises(UserError, match=r"n=600: .* expected 2003, the only size"):
        check_published(table(of_a_prime), 600)
    # 0.01 of 550 images: a mean over runs, say.
    with pytest.raises(UserError, match="up to 2750 there is none"):
        check_published(table("0.01", "0.02", "0.03", "33.34", "80.37", "91.19", "17.77", "5.55"))


def test_a_size_comes_from_the_table_or_from_the_caller_but_not_two() -> None:
    assert check_published(table("80.00", "82.00", size=1000)).n == 1000
    report = check_published(table("80.00", "82.00"), 1000)
    assert (report.n, report.inferred) == (1000, False)
    with pytest.raises(UserError, match="n=500, 1000: expected one test size"):
        check_published(table("80.00", "82.00", size=500), 1000)
    with pytest.raises(UserError, match="no rows"):
        check_published([])


def test_what_few_decimals_leave_open_is_said() -> None:
    report = check_published(table("80", "82"), 1000)
    # 79.5 to 80.5 %, both ties rounding to 80.
    assert [(c.fewest, c.right, c.most) for c in report.counted] == [
        (795, 800, 805),
        (815, 820, 825),
    ]
    assert "800 (795–805)" in to_markdown(make_document(report))
    assert "decimals leave the images in brackets open" in to_markdown(make_document(report))


# Intervals, differences


def test_intervals_are_wilson_s(paper: CheckedTable) -> None:
    for counted in paper.counted:
        expected = stats.binomtest(counted.right, 550).proportion_ci(method="wilson")
        assert (counted.low, counted.high) == pytest.approx((expected.low, expected.high))
    best = paper.ranked[0]
    assert (round(100 * best.low, 1), round(100 * best.high, 1)) == (78.6, 85.0)


def test_no_two_rows_of_the_paper_differ(paper: CheckedTable) -> None:
    """Each p-value is that of Pearson's chi-squared test without continuity correction."""
    assert len(paper.pairs) == 36
    for pair, (first, second) in zip(paper.pairs, combinations(PAPER_COUNTS, 2), strict=True):
        cells = [[first, 550 - first], [second, 550 - second]]
        assert pair.p == pytest.approx(stats.chi2_contingency(cells, correction=False).pvalue)
        assert pair.points == pytest.approx((first - second) / 5.5)
        assert math.copysign(1, pair.z) == math.copysign(1, first - second)
        assert pair.p > 0.05


def test_the_batch_sizes_pooled(paper: CheckedTable) -> None:
    """The paper's claim of batch 16 over 64: p = .061 by the test of two proportions."""
    planned = {(d.first, d.second): d for d in paper.planned}
    assert len(planned) == 6
    assert planned["batch size 16", "batch size 64"].p == pytest.approx(0.061, abs=5e-4)
    sums = {size: sum(PAPER_COUNTS[column::3]) for column, size in enumerate((16, 32, 64))}
    for (first, second), difference in planned.items():
        if first.startswith("batch size"):
            one, two = (sums[int(name.split()[-1])] for name in (first, second))
            cells = [[one, 1650 - one], [two, 1650 - two]]
            expected = stats.chi2_contingency(cells, correction=False).pvalue
            assert difference.p == pytest.approx(expected)
            assert difference.points == pytest.approx((one - two) / 16.5)
    assert ("MobileNet", "NASNetMobile") in planned


def test_only_levels_that_share_levels_of_the_other_factor_are_pooled() -> None:
    """A model that was run with a batch size of its own says nothing of that batch size."""
    rows = [
        PublishedRow(model, size, Decimal(accuracy))
        for model, size, accuracy in (
            ("a", 16, "80.0"), ("a", 32, "70.0"), ("a", 64, "75.0"),
            ("b", 16, "82.0"), ("b", 32, "74.0"), ("c", 128, "60.0"),
        )
    ]  # fmt: skip
    planned = check_published(rows, 1000).planned
    assert {(d.first, d.second) for d in planned} == {
        ("batch size 16", "batch size 32"),
        ("a", "b"),
    }
    by_name = {d.first: d for d in planned}
    assert by_name["batch size 16"].points == pytest.approx((80 + 82 - 70 - 74) / 2)
    assert by_name["a"].points == pytest.approx((80 + 70 - 82 - 74) / 2)


def test_holm_s_correction_is_holm_s(paper: CheckedTable) -> None:
    """Against the definition: the running maximum of (m - rank) p, at most 1 (Holm 1979)."""
    for differences in (paper.pairs, paper.planned):
        highest = 0.0
        for rank, d in enumerate(sorted(differences, key=lambda d: d.p)):
            highest = max(highest, min(1, (len(differences) - rank) * d.p))
            assert d.p_holm == pytest.approx(highest)


def test_equal_counts_do_not_differ_even_without_variance() -> None:
    assert two_proportions(20, 20, 20) == two_proportions(0, 0, 20) == (0, 1)


def test_averages_are_the_paper_s(paper: CheckedTable) -> None:
    """Which prints 79.60, 80.30 and 79.70, rounded to one decimal."""
    means = {name: round(mean, 1) for name, mean in paper.averages["model"].items()}
    assert means == {"MobileNet": 79.6, "MobileNetV2": 80.3, "NASNetMobile": 79.7}
    sixteen = np.mean([80.36, 81.45, 82.00])
    assert paper.averages["batch size"]["16"] == pytest.approx(sixteen)
    assert check_published(table("80.0", "82.0"), 500).averages == {}


def test_averages_of_a_printed_table_are_over_what_all_have(paper: CheckedTable) -> None:
    """A network that one batch size alone has would be taken for that batch size."""
    rows = [c.row for c in paper.counted if c.row.batch_size != 64]
    fewer = [row for row in rows if (row.model, row.batch_size) != ("NASNetMobile", 32)]
    found = check_published(fewer, 550)
    assert found.averaged_over["batch size"] == ["MobileNet", "MobileNetV2"]
    assert found.averages["batch size"]["16"] == pytest.approx(np.mean([80.36, 81.45]))
    assert found.averaged_over["model"] == ["16"]


def test_the_detectable_difference_is_found_in_four_of_five_repetitions(
    rng: np.random.Generator,
) -> None:
    """By drawing such tests: 80 % of them reject."""
    drop = detectable_difference(0.82, 550)
    assert drop is not None and drop == pytest.approx(0.069, abs=0.001)
    one = rng.binomial(550, 0.82, 40_000) / 550
    two = rng.binomial(550, 0.82 - drop, 40_000) / 550
    pooled = (one + two) / 2
    z = (one - two) / np.sqrt(pooled * (1 - pooled) * 2 / 550)
    assert np.mean(np.abs(z) > stats.norm.ppf(0.975)) == pytest.approx(0.8, abs=0.012)


def test_more_images_detect_less_and_too_few_nothing() -> None:
    drops = [detectable_difference(0.82, n) for n in (50, 550, 5500)]
    assert drops == sorted([d for d in drops if d is not None], reverse=True)
    assert detectable_difference(0.82, 3) is None
    assert detectable_difference(0, 550) is None
    perfect = detectable_difference(1.0, 550)
    assert perfect is not None and 0 < perfect < 0.05


# What a paired test could have said


def test_three_images_of_550_cannot_be_significant(paper: CheckedTable) -> None:
    least, greatest = paper.paired_range(paper.ranked[1])
    assert least == 0.25
    assert 0.05 < greatest < 1


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40).flatmap(lambda n: st.tuples(*[st.integers(0, n)] * 2, st.just(n))))
def test_the_range_is_that_of_all_tables_with_the_two_counts(case: tuple[int, int, int]) -> None:
    """Against McNemar's test of every 2x2 table that has the margins."""
    first, second, n = case
    p_values = []
    for both in range(max(0, first + second - n), min(first, second) + 1):
        cells = [[both, first - both], [second - both, n - first - second + both]]
        p_values.append(mcnemar(cells, exact=True).pvalue if first + second > 2 * both else 1.0)
    assert mcnemar_range(first, second, n) == pytest.approx((min(p_values), max(p_values)))


def test_the_figures_leave_most_pairs_open_and_the_report_says_so(paper: CheckedTable) -> None:
    """A lead of 6 images or more may be significant if paired: 2 / 2^6 = .031."""
    text = to_markdown(make_document(paper))
    assert "Of 8 pairs, 1 cannot be significant whatever the answers were, 7 may be" in text
    assert "not shown here may be there all the same" in text and ".031 to " in text
    far = to_markdown(make_document(check_published(table("95.0", "80.0", "70.0"), 1000)))
    assert "Of 2 pairs, 2 must be significant." in far and "all the same" not in far


# The verdict


def test_the_paper_has_no_winner(paper: CheckedTable) -> None:
    assert not paper.has_winner
    assert paper.verdict() == (
        "No winner: NASNetMobile-16 leads MobileNetV2-16 by 3 images of 550 (p = .815), and none "
        "of the 8 other rows is beaten after Holm's correction over 36 pairs (unpaired)."
    )


@pytest.mark.parametrize(
    ("accuracies", "winner", "told"),
    [
        (("95.0", "80.0", "70.0"), True, "net0 is the winner of this test"),
        (("70.0", "80.0", "95.0"), True, "net2 is the winner of this test"),
        (("95.0", "94.0", "70.0"), False, "1 of the 2 other rows is beaten"),
        (("95.0", "95.0", "70.0"), False, "net0 and net1 share the first place"),
        (("95.0", "94.9"), False, "net0 leads net1 by 1 image of 1000"),
        (("95.0",), False, "a single row"),
    ],
)
def test_a_winner_beats_every_other_row(
    accuracies: tuple[str, ...], winner: bool, told: str
) -> None:
    report = check_published(table(*accuracies), 1000)
    assert report.has_winner is winner is report.as_dict()["has_winner"]
    assert told in report.verdict() and report.verdict() in to_markdown(make_document(report))
    assert report.verdict().startswith("No winner") is not winner
    json.dumps(report.as_dict(), allow_nan=False)


def test_a_lead_that_only_holds_before_the_correction_wins_nothing() -> None:
    """Of ten rows, the second is .03 away: one of 45 such pairs is expected by chance."""
    report = check_published(table("80.0", "76.0", *["70.0"] * 8), 1000)
    assert report.leads[0][1].p < 0.05 < report.leads[0][1].p_holm
    assert not report.has_winner and report.beaten == 8


# The report


def test_the_sections_and_the_baseline(paper: CheckedTable) -> None:
    text = to_markdown(make_document(paper))
    sections = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert sections == ["What the figures say of the test", "Intervals", "Differences", "Verdict"]
    assert "always answering “nevus” would score 67.0 %: 9 of the 9 intervals lie above" in text
    assert "6.9 points (38 images) below NASNetMobile-16" in text
    assert "| the official test part | 600 | no |" in text
    assert NOTICE in text
    official = to_markdown(make_document(check_published(table("80.0", "82.0"), 600)))
    assert "would score 65.5 %" in official and "| the official test part | 600 | yes |" in official
    assert "nevus" not in to_markdown(make_document(check_published(table("80.0", "82.0"), 1000)))


def test_json_holds_what_the_markdown_says(paper: CheckedTable) -> None:
    document = json.loads(json.dumps(paper.as_dict(), allow_nan=False))
    assert [row["right"] for row in document["rows"]] == PAPER_COUNTS
    assert document["rows"][0] == document["rows"][0] | {
        "name": "MobileNet-16",
        "accuracy_percent": 80.36,
        "precision_percent": 79.38,
        "f1": 0.7934,
        "auc": 0.905,
    }
    assert document["leader"] == "NASNetMobile-16"
    assert document["leader_paired"][0]["p_least"] == 0.25
    assert len(document["pairs"]) == 36 and len(document["planned"]) == 6
    assert document["majority_class"] == pytest.approx((1372 + 78 + 393) / 2750)
    assert document["notice"] == NOTICE and document["verdict"] == paper.verdict()
    fits = {split["images"]: split["fits"] for split in document["splits"]}
    assert fits == {550: True, 412: False, 413: False, 600: False, 150: False}


@pytest.mark.parametrize("write", [to_terminal, to_html, to_latex])
def test_every_format_carries_the_verdict(write: Callable[..., str], paper: CheckedTable) -> None:
    text = " ".join(write(make_document(paper)).split())
    assert "NASNetMobile-16 leads MobileNetV2-16 by 3 images of 550" in text


@pytest.mark.parametrize("accuracies", [(), ("80.0",), ("80.0", "100.0", "0.0"), ("80.0",) * 40])
def test_the_figure_shows_every_row_from_the_best_on(
    accuracies: tuple[str, ...],
    paper: CheckedTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    write = Figure.savefig

    def savefig(figure: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(figure)
        write(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    report = check_published(table(*accuracies), 1000) if accuracies else paper
    before = dict(rcParams)
    png = draw_intervals(report, tmp_path / "made" / "forest")
    assert png == tmp_path / "made" / "forest.png" and dict(rcParams) == before
    assert png.read_bytes().startswith(b"\x89PNG")
    assert png.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        counted.row.name for counted in report.ranked
    ]
    [points] = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(
        np.asarray(points.get_xdata(), float), [100 * c.right / report.n for c in report.ranked]
    )
    # The best is on top, nothing is cut off.
    assert axes.yaxis_inverted()
    texts = [*drawn[0].texts, axes.xaxis.label, *([axes.get_legend()] if axes.get_legend() else [])]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) >= 3 and not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    box, (width, height) = drawn[0].get_tightbbox(), drawn[0].get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_the_figure_is_the_same_each_time(paper: CheckedTable, tmp_path: Path) -> None:
    pngs = [draw_intervals(paper, tmp_path / f"{name}.png") for name in "ab"]
    assert pngs[0].read_bytes() == pngs[1].read_bytes()
    pdfs = [png.with_suffix(".pdf").read_bytes() for png in pngs]
    assert pdfs[0] == pdfs[1]


# Reading a table


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def written(text: str) -> Path:
        path = tmp_path / "published.csv"
        path.write_text(text)
        return path

    return written


def test_the_paper_s_table_as_a_csv_gives_the_same_report(
    file: Callable[[str], Path], paper: CheckedTable
) -> None:
    for header, shift in (("accuracy_percent", 0), ("accuracy", 0), ("accuracy", -2)):
        lines = [f"{r.model},{r.batch_size},{r.accuracy.scaleb(shift)}" for r in PAPER_TABLE]
        rows = read_published(file("\n".join([f"model,batch_size,{header}", *lines])))
        report = check_published(rows)
        assert report.pairs == paper.pairs and report.planned == paper.planned
        assert [row.accuracy for row in rows] == [row.accuracy for row in PAPER_TABLE]


def test_a_last_zero_that_a_spreadsheet_dropped_is_put_back(file: Callable[[str], Path]) -> None:
    """82.0 beside 80.36 was 82.00, which fewer sizes allow."""
    rows = read_published(file("name,accuracy\na,80.36\nb,82\nc,82.0\n"))
    assert [str(row.accuracy) for row in rows] == ["80.36", "82.00", "82.00"]


def test_accuracies_of_a_computer_s_full_length_are_read(file: Callable[[str], Path]) -> None:
    """2/3 prints as 0.6666666666666666: its last digits are no evidence."""
    text = "".join(f"net{right},{right / 600!r}\n" for right in (400, 401, 433))
    report = check_published(read_published(file("name,accuracy\n" + text)))
    assert (report.n, [c.right for c in report.counted]) == (600, [400, 401, 433])


def test_columns_of_any_order_names_and_sizes(file: Callable[[str], Path]) -> None:
    rows = read_published(
        file("\ufeffN, AUC ,Accuracy_Percent,Name\n\n600,.9, 80.5 ,a\n 600 ,,81.0,b\n")
    )
    assert [(row.name, row.test_size, str(row.accuracy)) for row in rows] == [
        ("a", 600, "80.5"),
        ("b", 600, "81.0"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no row of figures"),
        ("name,accuracy\n", "no row of figures"),
        ("\n \n", "no row of figures"),
        ("name,precision\na,80\n", "no column accuracy in its first line (name,precision)"),
        ("accuracy\n80\n", "no column name in its first line"),
        ("net;accuracy\na;80\n", "no column name and no column accuracy"),
        ("name,accuracy,name\na,80,b\n", "column name twice"),
        ("name,accuracy\na,80,1\nb,81\n", "line 2: expected 2 columns"),
        ("name,accuracy\na,eighty\n", "line 2: accuracy 'eighty', expected a number"),
        ("name,accuracy\na,\n", "line 2: accuracy '', expected a number"),
        ("name,accuracy\na,nan\n", "line 2: accuracy 'nan', expected a number"),
        ("name,accuracy\na,8e1\n", "line 2: accuracy '8e1', expected a number"),
        ("name,accuracy\na,8_0\n", "line 2: accuracy '8_0', expected a number"),
        ("name,accuracy\na,80.5 %\n", "line 2: accuracy '80.5 %', expected a number"),
        ("name,accuracy\na,100.1\n", "line 2: accuracy 100.1, expected 0 to 100 % or 0 to 1"),
        ("name,accuracy\na,-1\n", "line 2: accuracy -1, expected 0 to 100 % or 0 to 1"),
        ("name,accuracy\na,80.1\nb,0.801\n", "line 3: accuracy 0.801 looks like a fraction"),
        ("name,accuracy_percent\na,0.801\n", "line 2: accuracy_percent 0.801 looks like a"),
        ("name,accuracy\na,80\nb,81\na,82\n", "line 4: a is in line 2 too"),
        ("model,batch_size,accuracy\na,16,80\na,16,81\n", "line 3: a-16 is in line 2 too"),
        ("model,batch_size,accuracy\na,16.5,80\n", "line 2: batch_size '16.5', expected a whole"),
        ("name,accuracy,n\na,80,0\n", "line 2: n '0', expected a whole number of at least 1"),
        ("name,accuracy,n\na,80,²\n", "line 2: n '²', expected a whole number"),
        ("name,accuracy\n ,80\n", "line 2: no name"),
    ],
)
def test_a_mistake_in_the_csv_is_refused_by_its_name(
    text: str, told: str, file: Callable[[str], Path]
) -> None:
    path = file(text)
    with pytest.raises(UserError) as caught:
        read_published(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and told in message
    assert "\n" not in message and ("expected" in message or "no name" in message)


def test_all_mistakes_are_told_at_once_and_the_first_few_in_full(
    file: Callable[[str], Path],
) -> None:
    text = "name,accuracy,n\na,x,1\na,101,one\n" + "b,y,\n" * 9
    with pytest.raises(UserError) as caught:
        read_published(file(text))
    assert "accuracy 'x'" in str(caught.value) and "accuracy 101" in str(caught.value)
    assert str(caught.value).endswith("; … and 7 more")


def test_files_that_are_no_csv_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"name,accuracy\nn\xe4vus,80\n")
    with pytest.raises(UserError, match="expected UTF-8 text"):
        read_published(tmp_path / "latin.csv")
    with pytest.raises(UserError, match="No such file"):
        read_published(tmp_path / "none.csv")
    with pytest.raises(UserError, match="Is a directory"):
        read_published(tmp_path)
