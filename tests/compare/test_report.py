"""The report says of a comparison what its tables hold, and no more."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from skinml.compare.analysis import analyse
from skinml.compare.document import Cell, Details, Document, Picture, Table, Text
from skinml.compare.figures import FIGURES, draw_figures
from skinml.compare.formats.html import to_html
from skinml.compare.formats.latex import to_latex
from skinml.compare.formats.markdown import to_markdown
from skinml.compare.formats.terminal import to_terminal
from skinml.compare.reading import runs_in_folder
from skinml.compare.report import make_report
from skinml.compare.runs import paper_grid
from skinml.compare.selection import select
from tests.compare.conftest import made_up, write_grid, write_run
from tests.waiting import PATIENCE


def report_of(folder: Path) -> Document:
    return make_report(analyse(select(runs_in_folder(folder)), 200))


def table(document: Document, title: str) -> Table:
    return next(b for b in document.blocks if isinstance(b, Table) and b.title.startswith(title))


def row_of(found: Table, *names: str) -> dict[str, Cell]:
    """A table's row by its first cells; a heading that occurs again gets the one before it."""
    [row] = [row for row in found.rows if [cell.text for cell in row[: len(names)]] == list(names)]
    cells = {}
    for number, column in enumerate(found.columns):
        cells[column if column != "paper" else f"paper: {found.columns[number - 1]}"] = row[number]
    return cells


def test_the_table_is_the_papers_with_its_values_and_the_difference(nine: Path) -> None:
    own = row_of(table(report_of(nine), "Results"), "nasnetmobile", "16")
    assert own["paper: accuracy %"].text == "82.00" and own["paper: AUC"].text == "0.8832"
    difference = float(own["paper: accuracy %"].note.replace("−", "-"))
    assert difference == pytest.approx(float(own["accuracy %"].text) - 82, abs=0.06)


def test_the_best_of_each_column_is_bold(nine: Path) -> None:
    found = table(report_of(nine), "Results")
    for number, column in enumerate(found.columns):
        if column in ("accuracy %", "precision %", "F1", "AUC"):
            values = [float(row[number].text) for row in found.rows]
            bold = [float(row[number].text) for row in found.rows if row[number].bold]
            assert set(bold) == {max(values)}


def test_averages_hold_the_papers_cells_against_the_same_of_ours(tmp_path: Path) -> None:
    write_grid(tmp_path, models=("mobilenet",), sizes=(16, 32))
    found = row_of(table(report_of(tmp_path), "By model"), "mobilenet")
    # Table III: 80.36 % and 80.73 %; its third MobileNet, 77.64 %, has no counterpart here.
    assert found["cells"].text == "2" and found["paper: accuracy %"].text == "80.55"


def test_an_average_of_one_cell_is_not_shown_again(tmp_path: Path) -> None:
    write_grid(tmp_path, models=("mobilenet", "mobilenetv2"), sizes=(16,))
    titles = [b.title for b in report_of(tmp_path).blocks if isinstance(b, Table)]
    assert "By batch size, over the networks mobilenet, mobilenetv2" in titles
    assert not [title for title in titles if title.startswith("By model")]


def test_averages_are_over_the_cells_that_all_have(tmp_path: Path) -> None:
    """A poor network that one batch size alone has would be taken for that batch size."""
    write_grid(tmp_path, models=("mobilenet", "mobilenetv2"), sizes=(16, 64))
    write_run(tmp_path, made_up(0.1, [3]), model="nasnetmobile", test_fraction=0.2)
    write_run(tmp_path, made_up(0.1, [4]), model="efficientnetb0", batch_size=8, test_fraction=0.2)
    document = report_of(tmp_path)
    found = table(document, "By batch size, over the networks mobilenet, mobilenetv2")
    results = table(document, "Results")
    own = [float(row_of(results, model, "16")["accuracy %"].text)
           for model in ("mobilenet", "mobilenetv2")]  # fmt: skip
    assert row_of(found, "batch size 16")["accuracy %"].text == f"{sum(own) / 2:.2f}"
    assert [row[0].text for row in found.rows] == ["batch size 16", "batch size 64"]
    text = str(document.blocks)
    assert "with no network in common with the others: batch size 8." in text
    assert "By model: no averages, as batch size 16 is all that" in text


def test_the_papers_questions_say_what_they_are_pooled_over(tmp_path: Path) -> None:
    """One batch size alone is pooled over nothing; unlike trainings answer no such question."""
    write_grid(tmp_path / "alike", sizes=(16,))
    document = report_of(tmp_path / "alike")
    assert table(document, "Model").title == "Model"
    assert "Such a difference is not one of" not in str(document.blocks)
    write_run(tmp_path / "unlike", made_up(1, [1]), model="mobilenet")
    write_run(tmp_path / "unlike", made_up(1, [2]), model="mobilenetv2", epochs_finetune=4)
    unlike = str(report_of(tmp_path / "unlike").blocks)
    assert "alike (epochs_finetune): mobilenet minus mobilenetv2. Such a difference" in unlike


def test_settings_of_other_networks_are_no_reason_against_a_pooled_question(
    tmp_path: Path,
) -> None:
    """NASNetMobile's own epochs are on both sides of 16 against 32, and not in 16 against 64."""
    write_grid(tmp_path, models=("mobilenet", "mobilenetv2"))
    for size in (16, 32):
        write_run(tmp_path, made_up(1, [3, size]), model="nasnetmobile", batch_size=size,
                  test_fraction=0.2, epochs_finetune=4)  # fmt: skip
    told = [text for text in map(str, report_of(tmp_path).blocks) if "Not trained alike" in text]
    assert len(told) == 1 and "batch size" not in told[0].split("Such a")[0]
    assert "mobilenet minus nasnetmobile; mobilenetv2 minus nasnetmobile" in told[0]


def test_missing_cells_are_shown_with_one_command_a_network(tmp_path: Path) -> None:
    write_grid(tmp_path, models=("mobilenet",), sizes=(16,), seeds=(1, 2))
    document = report_of(tmp_path)
    assert row_of(table(document, "Results"), "nasnetmobile", "64")["AUC"].text == "missing"
    [commands] = [block.lines for block in document.blocks if hasattr(block, "lines")]
    assert [line.split(" --test_fraction")[0] for line in commands] == [
        "python -m skinml.sweep --models mobilenet --batch_sizes 32,64 --seeds 1,2",
        "python -m skinml.sweep --models mobilenetv2 --batch_sizes 16,32,64 --seeds 1,2",
        "python -m skinml.sweep --models nasnetmobile --batch_sizes 16,32,64 --seeds 1,2",
    ]


def test_one_configuration_is_compared_with_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]))
    document = make_report(analyse(select(runs_in_folder(tmp_path), []), 200))
    words = " ".join(str(block) for block in document.blocks)
    assert "no winner" not in words and "best" not in words and "nan" not in words
    tables = [block for block in document.blocks if isinstance(block, Table)]
    assert not any(cell.bold for found in tables for row in found.rows for cell in row)


def test_generated_images_are_not_held_against_the_paper(tmp_path: Path) -> None:
    write_grid(tmp_path, sizes=(16,))
    runs = runs_in_folder(tmp_path)
    for run in runs:
        run.tags["data"] = "demo"
    document = make_report(analyse(select(runs), 200))
    assert table(document, "Results").title == "Results"
    [first] = document.blocks[:1]
    assert isinstance(first, Text) and first.strong and "nothing about skin lesions" in first.text
    words = str([block for block in document.blocks if not isinstance(block, Details)])
    assert "Table III" not in words and "The paper" not in words
    # Nobody is asked to train the paper's nine cells on them.
    assert "missing" not in words
    assert len(select(runs, paper_grid()).missing) == 6


def pairs(details: Details) -> list[tuple[str, str]]:
    """What the table below a summary compares with what."""
    [found] = details.blocks
    assert isinstance(found, Table)
    return [(row[0].text, row[0].note) for row in found.rows]


def rewrite(path: Path, **values: object) -> None:
    """Change entries of a run's metrics.json, or of the parameters in its run.json."""
    content = json.loads(path.read_text())
    content.get("params", content).update(values)
    path.write_text(json.dumps(content))


def test_every_figure_is_in_the_report_once(nine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is added to `FIGURES` and to nothing else."""
    monkeypatch.setitem(FIGURES, "added", (FIGURES["ranks"][0], "What it shows"))
    names = [block.name for block in report_of(nine).blocks if isinstance(block, Picture)]
    # Pictures of people stand there where they were asked for: test_pictures.py.
    assert sorted(names) == sorted(FIGURES.keys() - {"pictures"})


COLLAPSED = ("mobilenetv2", 32)


@pytest.fixture
def collapsed(tmp_path: Path) -> Path:
    """Three cells whose best by accuracy answers “nevus” to every image, which most of them are."""
    for model, size, skill in (("mobilenet", 16, -0.4), ("mobilenetv2", 16, -0.2), (*COLLAPSED, 0)):
        found = made_up(skill, [len(model), size])
        if (model, size) == COLLAPSED:
            found.scores[:, found.classes.index("nevus")] += 1
        write_run(tmp_path, found, model=model, batch_size=size)
    return tmp_path


def test_a_network_of_one_answer_is_called_so_and_never_bold(collapsed: Path) -> None:
    """It has the highest accuracy, sensitivity for nevi and specificities, and wins nothing."""
    document = report_of(collapsed)
    said = [block.text for block in document.blocks if isinstance(block, Text) and block.strong]
    assert "1 of 3 configurations answers one class for more than 95 % of the images" in said[2]
    assert "(mobilenetv2-32: “nevus” to every image)" in said[2]
    assert "no winner. mobilenetv2-32 (0.545) has the highest value, and answers" in said[0]
    assert "answers “nevus” to every image" in said[0]
    tables = [block for block in document.blocks if isinstance(block, Table)]
    own = [row for found in tables for row in found.rows if row[1].text == "32 †"]
    assert len(own) >= 4 and not any(cell.bold for row in own for cell in row)
    # The best of the two others is, also where the third would have been better.
    accuracy = [row[2] for row in table(document, "Results").rows[:3]]
    assert max(float(cell.text) for cell in accuracy) == float(accuracy[2].text)
    assert [cell.bold for cell in accuracy].count(True) == 1


@pytest.mark.parametrize("write", [to_latex, to_html, to_markdown, to_terminal])
def test_every_format_calls_a_network_of_one_answer_so(
    collapsed: Path, write: Callable[[Document], str]
) -> None:
    text = " ".join(write(report_of(collapsed)).split())
    assert "1 of 3 configurations answers one class for more than 95" in text
    assert r"32 $\dagger$" in text if write is to_latex else "32 †" in text


def test_of_several_runs_those_of_one_answer_are_counted(tmp_path: Path) -> None:
    for seed in (0, 1):
        found = made_up(1, [seed])
        found.scores[:, 0] += seed
        write_run(tmp_path, found, seed=seed)
    write_run(tmp_path, made_up(1, [5]), batch_size=32)
    words = " ".join(str(block) for block in report_of(tmp_path).blocks)
    assert "mobilenetv2-16: one class to nearly every image in 1 of 2 runs" in words


def test_a_network_has_one_latency_whatever_its_batch_size(tmp_path: Path) -> None:
    """Three runs measured 30, 40 and 80 ms: noise, of which the median is shown and marked."""
    for batch_size, latency in ((16, 80), (32, 30), (64, 40)):
        run = write_run(tmp_path, made_up(1, [batch_size]), batch_size=batch_size)
        rewrite(run / "metrics.json", latency_ms=latency)
    run = write_run(tmp_path, made_up(1, [5]), model="mobilenet")
    rewrite(run / "metrics.json", latency_ms=50)
    found = table(report_of(tmp_path), "Cost")
    for size in ("16", "32", "64"):
        cell = row_of(found, "mobilenetv2", size)["latency ms"]
        assert cell == Cell("40.0", "30.0–80.0, 3 runs", bold=True)
    assert row_of(found, "mobilenet", "16")["latency ms"] == Cell("50.0", "1 run")


def test_an_exported_file_has_its_columns_where_a_run_has_one(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]))
    without = table(report_of(tmp_path), "Cost").columns
    assert not [column for column in without if "LiteRT" in column]
    exported = {"mb": 8.94, "ms": 13.6, "auc_macro_difference": -0.00123}
    run = write_run(tmp_path, made_up(1, [2]), batch_size=32)
    rewrite(
        run / "metrics.json",
        **{f"export_litert_float32_{name}": value for name, value in exported.items()},
    )
    found = table(report_of(tmp_path), "Cost")
    names = ("LiteRT MB", "LiteRT ms", "LiteRT AUC change")
    shown = {size: row_of(found, "mobilenetv2", size) for size in ("16", "32")}
    assert [shown["32"][name].text for name in names] == ["8.9", "13.6", "-0.0012"]
    assert {shown["16"][name].text for name in names} == {"–"}


def test_latencies_of_two_devices_are_neither_averaged_nor_held_against_each_other(
    tmp_path: Path,
) -> None:
    """Two networks on a CPU, a run of one of them and the whole third network on a GPU."""
    gpu = {"device_name": "a GPU", "device_threads": "8"}
    runs: list[tuple[str, int, int, dict[str, str]]] = [
        ("mobilenetv2", 16, 40, {}),
        ("mobilenetv2", 32, 2, gpu),
        ("mobilenetv2", 64, 42, {}),
        ("mobilenet", 16, 50, {}),
        ("nasnetmobile", 16, 3, gpu),
    ]
    for model, size, latency, device in runs:
        run = write_run(tmp_path, made_up(1, [size]), model=model, batch_size=size)
        rewrite(run / "metrics.json", latency_ms=latency)
        rewrite(run / "run.json", **device)
    document = report_of(tmp_path)
    found = table(document, "Cost")
    cells = {
        (model, size): row_of(found, model, size)["latency ms"]
        for model, size in (("mobilenetv2", "32"), ("mobilenet", "16"), ("nasnetmobile", "16"))
    }
    assert cells["mobilenetv2", "32"] == Cell("41.0", "40.0–42.0, 2 runs", bold=True)
    assert cells["mobilenet", "16"] == Cell("50.0", "1 run")
    assert cells["nasnetmobile", "16"] == Cell("3.0", "1 run, a GPU (8 threads, ?)")
    assert "one image at a time on a CPU (2 threads, ?)" in " ".join(map(str, document.blocks))


def test_the_pairs_that_differ_come_first(tmp_path: Path) -> None:
    write_grid(tmp_path, lambda model, _: 3.0 if model == "mobilenet" else 1.0, sizes=(16,))
    comparison = analyse(select(runs_in_folder(tmp_path)), 200)
    for every in (False, True):
        blocks = make_report(comparison, all_pairs=every).blocks
        folded = [block for block in blocks if isinstance(block, Details)]
        shown, rest = [block for block in folded if "differences" in block.summary][:2]
        assert shown.summary.startswith("Accuracy: 2 of 3 differences are shown") and rest.summary
        assert {names[0] for names in pairs(shown)} == {"mobilenet-16"} and not shown.instead
        assert pairs(rest) == [("mobilenetv2-16", "minus nasnetmobile-16")]
        assert ("--all-pairs" in rest.instead) is not every


def test_a_cell_whose_runs_differ_is_named_in_part(tmp_path: Path) -> None:
    """Two seeds by other code, one of them in a cell that is all of one kind."""
    for size, seed, code in ((16, 0, "a" * 16), (16, 1, "b" * 16), (32, 0, "a" * 16)):
        table = made_up(1, [size, seed])
        write_run(tmp_path, table, batch_size=size, seed=seed, training_digest=code)
    words = " ".join(
        str(block) for block in make_report(analyse(select(runs_in_folder(tmp_path)), 200)).blocks
    )
    assert "some runs of mobilenetv2-16, mobilenetv2-32 with training_digest aaaa" in words
    assert "some runs of mobilenetv2-16 with training_digest bbbb" in words


def test_a_network_that_never_names_a_class_is_not_sure_of_it(tmp_path: Path) -> None:
    """No resample moves a sensitivity of 0; the interval is Wilson's of the class's images."""
    from statsmodels.stats.proportion import proportion_confint

    never = made_up(1, [1])
    never.scores[:, never.classes.index("melanoma")] = 0
    write_run(tmp_path, never)
    found = analyse(select(runs_in_folder(tmp_path)), 200).rows[0].values
    count = int((never.labels == never.classes.index("melanoma")).sum())
    value = found["sensitivity_melanoma"]
    expected = proportion_confint(0, count, method="wilson")
    assert (value.low, value.high) == pytest.approx(expected)
    assert value.value == 0 < value.high < 0.1
    assert found["specificity_melanoma"].low > 0.96 and found["specificity_melanoma"].high == 1


def test_the_latex_report_compiles(nine: Path, tmp_path: Path) -> None:
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is missing: install texlive-latex-base")
    (tmp_path / "report.tex").write_text(to_latex(report_of(nine)))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stdout[-2000:]
    assert "Overfull" not in result.stdout


def test_the_html_report_is_one_file_with_its_figures(nine: Path, tmp_path: Path) -> None:
    comparison = analyse(select(runs_in_folder(nine)), 200)
    draw_figures(comparison, tmp_path)
    page = to_html(make_report(comparison), tmp_path)
    assert page.count('src="data:image/png;base64,') == 5
    assert "http://" not in page and "https://" not in page
