"""The comparison as a command: from a store or a folder to a table, a page, a run in MLflow."""

import csv
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from skinml import report
from skinml.base.errors import UserError
from skinml.compare.__main__ import main
from skinml.compare.analysis import analyse
from skinml.compare.figures import FIGURES
from skinml.compare.output import FORMATS, csv_cell
from skinml.compare.runs import paper_grid
from skinml.data.isic2017 import CLASSES, NOTICE
from tests.compare.conftest import made_up, write_grid, write_run
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from mlflow import MlflowClient

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(tmp_path_factory.mktemp("nine"))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of them where what is tested is the command: most of its time otherwise."""
    monkeypatch.setattr(analyse, "__defaults__", (200,))


_started = itertools.count(1_700_000_000_000)


def log_run(client: "MlflowClient", folder: Path, **tags: str) -> str:
    """A run in MLflow as a training leaves it, from an exported one; each newer than the last."""
    from mlflow.entities import Metric, Param

    name = tags.pop("experiment", "skinml")
    found = client.get_experiment_by_name(name)
    experiment_id = found.experiment_id if found else client.create_experiment(name)
    description = json.loads((folder / "run.json").read_text())
    status = tags.pop("status", "FINISHED")
    run = client.create_run(
        experiment_id, start_time=next(_started), tags=description["tags"] | tags
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    client.log_batch(
        run.info.run_id,
        [Metric(name, value, 1, 0) for name, value in metrics.items()],
        [Param(name, value) for name, value in description["params"].items()],
    )
    client.log_artifact(run.info.run_id, str(folder / "predictions_test.csv"))
    client.set_terminated(run.info.run_id, status)
    return str(run.info.run_id)


def log_grid(client: "MlflowClient", nine: Path, **tags: str) -> list[str]:
    return [log_run(client, path.parent, **tags) for path in sorted(nine.glob("*/run.json"))]


def test_nine_runs_in_mlflow_become_the_table(
    store: "MlflowClient", nine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_grid(store, nine)
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "Results in the form of the paper's Table III" in shown and NOTICE in shown
    assert "missing" not in shown
    assert "AUC (weighted): no winner." in "\n".join(shown.splitlines()[-6:])
    for cell in paper_grid():
        assert str(cell) in shown


@pytest.mark.parametrize("status", ["FAILED", "KILLED", "RUNNING"])
def test_a_run_that_did_not_finish_is_missing_with_its_command(
    store: "MlflowClient", nine: Path, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in nine.glob("*/run.json"):
        gone = "mobilenet-32" in path.parent.name
        log_run(store, path.parent, status=status if gone else "FINISHED")
    main([])
    shown = capsys.readouterr().out
    assert "1 cell is missing" in shown
    assert "skinml.sweep --models mobilenet --batch_sizes 32 --test_fraction 0.2" in shown


def test_only_trainings_are_compared(store: "MlflowClient", nine: Path) -> None:
    log_run(store, next(iter(nine.glob("*/run.json"))).parent, kind="sweep")
    with pytest.raises(UserError, match="no finished run"):
        main([])


def test_a_run_of_another_program_is_left_out(
    store: "MlflowClient", nine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says that it is a training too, but lacks what tells a cell."""
    log_grid(store, nine)
    found = store.get_experiment_by_name("skinml")
    assert found
    foreign = store.create_run(found.experiment_id, tags={"kind": "training"})
    store.set_terminated(foreign.info.run_id)
    main(["--format", "json"])
    shown = capsys.readouterr()
    assert "left out 1 run of another program" in shown.err
    assert len(json.loads(shown.out)["cells"]) == 9


def test_filters_choose_the_runs(
    store: "MlflowClient", nine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = log_grid(store, nine, **{"mlflow.parentRunId": "one", "note": "it's"})
    log_grid(store, nine, **{"mlflow.parentRunId": "two"})
    for arguments in (["--sweep", "one"], ["--tag", "note=it's"]):
        main([*arguments, "--format", "json"])
        cells = json.loads(capsys.readouterr().out)["cells"]
        assert {run for cell in cells for run in cell["runs"]} == set(old)
    with pytest.raises(UserError, match="no finished run"):
        main(["--protocol", "challenge"])


@pytest.fixture
def searches(store: "MlflowClient", monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The filters of the searches for trainings that are made, in pages of ten runs."""
    from skinml.store import read

    made: list[str] = []
    search = type(store).search_runs

    def told(client: Any, experiments: list[str], conditions: str, **options: Any) -> Any:
        if "'training'" in conditions:
            made.append(conditions)
        return search(client, experiments, conditions, **options)

    monkeypatch.setattr(read, "PAGE", 10)
    monkeypatch.setattr(type(store), "search_runs", told)
    return made


def test_of_many_sweeps_only_the_newest_is_read(
    store: "MlflowClient", nine: Path, searches: list[str]
) -> None:
    """Reading stops once a page of older runs adds nothing: 36 runs, 20 looked at."""
    for _ in range(4):
        log_grid(store, nine)
    main(["--format", "csv"])
    assert len(searches) == 2


def test_a_cell_that_nobody_trained_is_not_looked_for_in_every_run(
    store: "MlflowClient", nine: Path, searches: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """45 runs of other cells: 20 are read, and the store is asked for the cell itself."""
    for _ in range(6):
        for path in sorted(nine.glob("*/run.json")):
            if "nasnetmobile" not in path.parent.name and "mobilenet-64" not in path.parent.name:
                log_run(store, path.parent)
    main(["--format", "json"])
    assert len(json.loads(capsys.readouterr().out)["missing"]) == 4
    pages = [conditions for conditions in searches if "batch_size" not in conditions]
    assert len(pages) == 2 and 1 <= len(searches) - len(pages) <= 4


def test_an_old_cell_of_the_same_test_set_is_found_below_many_newer_runs(
    store: "MlflowClient", nine: Path, searches: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a cell that is nowhere and one that is far down, the second is read all the same."""
    folders = [path.parent for path in sorted(nine.glob("*/run.json"))]
    by_cell = {"-".join(folder.name.split("-")[:2]): folder for folder in folders}
    gone, old = by_cell.pop("nasnetmobile-64"), by_cell.pop("mobilenet-64")
    oldest = log_run(store, old)
    log_run(store, gone, data_digest="f" * 16, status="FAILED")
    for _ in range(5):
        for folder in by_cell.values():
            log_run(store, folder)
    main(["--format", "json"])
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == ["nasnetmobile-64"]
    assert oldest in {run for cell in found["cells"] for run in cell["runs"]}


def test_runs_of_a_plain_mlflow_run_are_found_in_its_default_experiment(
    store: "MlflowClient", nine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [run_id, *_] = log_grid(store, nine, experiment="Default")
    main(["--format", "json"])
    shown = capsys.readouterr()
    assert "no experiment 'skinml': reading 'Default'" in shown.err
    cells = json.loads(shown.out)["cells"]
    assert run_id in cells[0]["runs"] and len(cells) == 9
    # Once there is the experiment's own, it is the one.
    log_run(store, next(iter(nine.glob("*/run.json"))).parent)
    main(["--format", "json"])
    assert len(json.loads(capsys.readouterr().out)["cells"]) == 1


def test_a_mistyped_store_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlfow.db")
    for arguments in ([], ["--experiment", "skinml"]):
        with pytest.raises(UserError, match=r"mlfow\.db: no such database; expected the store"):
            main(arguments)
    assert not (tmp_path / "mlfow.db").exists()


def test_an_experiment_that_is_not_there_is_named(store: "MlflowClient") -> None:
    with pytest.raises(UserError, match=r"experiment='no-such'.*expected one of.*Default"):
        main(["--experiment", "no-such"])


def test_a_run_without_its_predictions_is_left_out_and_named(
    store: "MlflowClient", nine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [run_id, *_] = log_grid(store, nine)
    artifacts = Path(store.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    (artifacts / "predictions_test.csv").unlink()
    assert main([]) == 0
    shown = capsys.readouterr()
    told = f"left out run {run_id}: run {run_id}: predictions_test.csv cannot be read"
    assert told in shown.err
    assert f"run {run_id}, whose table cannot be read" in " ".join(shown.out.split())


def test_a_comparison_is_stored_as_a_run_of_its_own(
    store: "MlflowClient", nine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_grid(store, nine)
    main(["--robust", "--log"])
    run_id = capsys.readouterr().err.split()[-1]
    run = store.get_run(run_id)
    assert run.info.status == "FINISHED" and run.data.tags["kind"] == "comparison"
    stored = json.loads(Path(store.download_artifacts(run_id, "comparison.json")).read_text())
    assert stored["robustness"], "what was shown"
    assert "no winner" in run.data.tags["verdict_accuracy"]
    note = run.data.tags["mlflow.note.content"]
    assert "Table III" in note and NOTICE in note and len(note) < 8000, "nothing is cut off"
    assert {"report.html", "comparison.json", "figures", "runs"} <= {
        item.path for item in store.list_artifacts(run_id)
    }
    best = [v for k, v in run.data.metrics.items() if k.startswith("probability_best_accuracy/")]
    assert len(best) == 9 and sum(best) == pytest.approx(1)
    # It is no training: the next comparison does not see it.
    main(["--format", "json"])
    assert len(json.loads(capsys.readouterr().out)["cells"]) == 9


def test_a_folder_holds_everything_and_rebuilds_itself(
    nine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    main(["--from", str(nine), "--out", str(first)])
    main(["--from", str(first), "--out", str(second)])
    names = {str(path.relative_to(first)) for path in first.rglob("*") if path.is_file()}
    assert {"report.md", "report.tex", "report.html", "table.csv", "comparison.json"} <= names
    assert {f"figures/{name}.png" for name in FIGURES if name != "pictures"} <= names
    assert len([name for name in names if name.endswith("predictions_test.csv")]) == 9
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert "![" in (first / "report.md").read_text()


def test_a_run_of_such_a_folder_has_its_report_with_curves(tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["--from", str(RESULTS / "real-table-ours"), "--grid", "none", "--out", str(out)])
    own = out / "runs" / "mobilenet-16-seed1-split0"
    report.main([str(own), "--out", str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text()
    assert "1,179" in page, "nevi of the training part"
    assert "learning curves" in page.lower()
    # Where that data lay is nobody's business.
    assert "source" not in json.loads((own / "run.json").read_text())["dataset"]


def test_a_folder_that_is_rebuilt_in_place_loses_nothing(
    nine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tables come from the runs that the new ones take the place of, and some are left out."""
    runs, out = shutil.copytree(nine, tmp_path / "runs"), tmp_path / "out"
    curves = b"epoch,loss\n1,0.9\n2,0.5\n"
    for folder in sorted(runs.iterdir())[2:]:
        (folder / "history.csv").write_bytes(curves)
    main(["--from", str(runs), "--out", str(out)])
    broken, *others = sorted((out / "runs").iterdir())
    found = [path.read_bytes() for path in (out / "runs").glob("*/history.csv")]
    assert found == [curves] * 7
    (broken / "predictions_test.csv").write_text("not a table")
    (others[0] / "predictions_validation.csv").write_bytes(
        (others[0] / "predictions_test.csv").read_bytes()
    )
    before = {path: path.read_bytes() for path in (out / "runs").rglob("*") if path.is_file()}
    main(["--from", str(out), "--out", str(out)])
    assert "left out run" in capsys.readouterr().err
    after = {path: path.read_bytes() for path in (out / "runs").rglob("*") if path.is_file()}
    assert after == before and not (out / ".runs.part").exists()


def test_a_file_is_plain_whatever_the_terminal_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    texts = []
    for columns in ("60", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        main(["--paper", "--out", str(tmp_path / "report.txt")])
        texts.append((tmp_path / "report.txt").read_text())
    assert texts[0] == texts[1] and "\x1b" not in texts[0]


def test_a_format_makes_a_file_of_a_name_without_an_ending(tmp_path: Path) -> None:
    main(["--paper", "--format", "json", "--out", str(tmp_path / "report")])
    assert json.loads((tmp_path / "report").read_text())["rows"]
    (tmp_path / "v1.2").mkdir()
    for options in (["--format", "json"], []):
        with pytest.raises(UserError, match=r"v1\.2: is a folder; expected the name of a file"):
            main(["--paper", *options, "--out", str(tmp_path / "v1.2")])


def test_committed_results_need_no_server(
    nine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(["--from", str(nine)]) == 0
    assert "no winner" in capsys.readouterr().out


def test_the_data_formats_hold_the_same_figures(
    nine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--from", str(nine), "--format", "json"])
    data = json.loads(capsys.readouterr().out)
    main(["--from", str(nine), "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == len(data["cells"]) == 9
    for row, cell in zip(rows, data["cells"], strict=True):
        assert row["model"] == cell["model"]
        accuracy = cell["metrics"]["accuracy"]
        assert float(row["accuracy"]) == accuracy["value"]
        assert float(row["accuracy_low"]) == accuracy["low"]
        assert row["accuracy_sd_seeds"] == "" and accuracy["sd_seeds"] is None


def test_undefined_figures_are_null_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = made_up(1, [1])
    keep = table.labels != 0
    write_run(
        tmp_path,
        type(table)(table.image_ids[keep], table.labels[keep], table.scores[keep], CLASSES),
    )
    main(["--from", str(tmp_path), "--format", "json"])
    [cell] = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["cells"]
    assert cell["metrics"]["melanoma_auc"]["value"] is None


@pytest.mark.parametrize("kind", FORMATS)
def test_the_ending_of_a_file_names_its_format(nine: Path, tmp_path: Path, kind: str) -> None:
    from skinml.compare.output import SUFFIXES

    [suffix] = [suffix for suffix, name in SUFFIXES.items() if name == kind]
    path = tmp_path / "new folder" / f"table{suffix}"
    main(["--from", str(nine), "--out", str(path)])
    assert path.stat().st_size > 1000
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_an_unknown_ending_is_refused_before_anything_is_written(
    nine: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"table\.docx: expected one of the endings"):
        main(["--from", str(nine), "--out", str(tmp_path / "table.docx")])
    assert not list(tmp_path.glob("*.docx*"))


@pytest.mark.parametrize(
    "arguments", [["--paper", "--from", "x"], ["--tag", "novalue"], ["--format", "word"]]
)
def test_contradictions_are_refused(arguments: list[str]) -> None:
    with pytest.raises(UserError):
        main(arguments)


def test_the_papers_own_table_carries_no_winner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--paper"]) == 0
    shown = capsys.readouterr().out
    assert "550" in shown and "no winner" in shown.lower()
    main(["--paper", "--out", str(tmp_path / "paper")])
    made = {path.name for path in (tmp_path / "paper").rglob("*") if path.is_file()}
    assert made == {
        "report.md", "report.json", "report.html", "table.csv", "intervals.png", "intervals.pdf"
    }  # fmt: skip
    assert "](figures/intervals.png)" in (tmp_path / "paper" / "report.md").read_text()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "paper" / "table.csv").read_text())))
    assert len(rows) == 9 and all(float(row["ci_low"]) < float(row["ci_high"]) for row in rows)
    main(["--paper", "--format", "html"])
    assert capsys.readouterr().out.count('src="data:image/png;base64,') == 1


def test_any_published_table_can_be_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.csv").write_text("name,accuracy_percent\nours,91.0\ntheirs,70.5\n")
    main(["--published", str(tmp_path / "table.csv"), "--n", "1000", "--format", "json"])
    assert json.loads(capsys.readouterr().out)


def test_a_comparison_never_loads_tensorflow(nine: Path, tmp_path: Path) -> None:
    """Neither reading a folder, nor drawing, nor logging does."""
    shutil.copytree(nine, tmp_path / "runs")
    code = (
        "import sys\n"
        "from skinml.compare.__main__ import main\n"
        "main(['--from', 'runs', '--out', 'out', '--log'])\n"
        "loaded = {'tensorflow', 'keras', 'jax'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert result.returncode == 0, result.stderr


def test_empty_options_of_mlproject_are_as_if_they_were_not_given(
    nine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--sweep", "", "--protocol", "", "--out", "", "--from", str(nine), "--log", "False"])
    assert "no winner" in capsys.readouterr().out


def test_without_a_grid_no_cell_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_grid(tmp_path, seeds=(1, 2, 3), models=("mobilenetv2",), sizes=(16,))
    main(["--from", str(tmp_path)])
    assert "8 cells are missing" in capsys.readouterr().out
    main(["--from", str(tmp_path), "--grid", "none"])
    shown = capsys.readouterr().out
    assert "missing" not in shown and "±" in shown


def test_a_folder_keeps_no_run_of_an_earlier_comparison(nine: Path, tmp_path: Path) -> None:
    out, few = tmp_path / "out", tmp_path / "few"
    write_grid(few, sizes=(16,))
    (out / "runs" / "mine").mkdir(parents=True)
    (out / "runs" / "mine" / "run.json").write_text("{}")
    (out / "runs" / "mine" / "model.keras").write_text("not ours to remove")
    assert main(["--from", str(nine), "--out", str(out)]) == 0
    assert main(["--from", str(few), "--out", str(out)]) == 0
    assert len(list((out / "runs").glob("*/predictions_test.csv"))) == 3
    assert (out / "runs" / "mine" / "model.keras").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--from", "RUNS", "--protocol", "paper"],
        ["--from", "RUNS", "--n", "550"],
        ["--paper", "--sweep", "abc"],
        ["--paper", "--log"],
        ["--paper", "--all-pairs"],
        ["--from", "RUNS", "--all-pairs", "--format", "csv"],
        ["--n", "550"],
        ["--paper", "--n", "0"],
        ["--paper", "--format", "latex", "--out", "x.md"],
        ["--paper", "--out", "/proc/nobody/x.md"],
    ],
)
def test_an_option_that_cannot_be_followed_is_refused(nine: Path, options: list[str]) -> None:
    with pytest.raises(UserError, match="expected"):
        main([str(nine) if option == "RUNS" else option for option in options])


def test_a_run_without_its_predictions_table_is_named(
    nine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(nine, tmp_path / "copy")
    gone = next(copy.glob("*/predictions_test.csv"))
    gone.unlink()
    assert main(["--from", str(copy)]) == 0
    assert f"left out run {gone.parent.name}" in capsys.readouterr().err


def test_a_filter_that_nothing_fits_is_named(nine: Path, store: "MlflowClient") -> None:
    log_grid(store, nine)
    with pytest.raises(UserError, match="protocol=challenge"):
        main(["--protocol", "challenge"])


def test_a_comparison_in_a_project_run_is_logged_in_that_run(
    nine: Path, store: "MlflowClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mlflow run -e compare -P log=true` has made a run, in an experiment of its own."""
    log_grid(store, nine)
    run = store.create_run(store.create_experiment("projects"))
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    assert main(["--log", "true"]) == 0
    assert store.get_run(run.info.run_id).data.tags["kind"] == "comparison"
    names = {file.path for file in store.list_artifacts(run.info.run_id)}
    assert "comparison.json" in names


NINE_RUNS = ["--from", str(RESULTS / "nine-runs")]


class Pairs(NamedTuple):
    """Of the published runs: by metric whether each pair is shown to differ, and pooled tests."""

    pairs: dict[str, list[bool]]
    pooled: int

    @property
    def shown(self) -> int:
        return sum(map(sum, self.pairs.values()))


@pytest.fixture
def tests(capsys: pytest.CaptureFixture[str], few_resamples: None) -> Pairs:
    main([*NINE_RUNS, "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    pairs: dict[str, list[bool]] = {}
    for test in (*found["pairs"], *found["operating_points"]["tests"]):
        pairs.setdefault(test["metric"], []).append(test["p_images_holm"] < 0.05)
    assert len(pairs) == 3 and any(any(differ) for differ in pairs.values())
    return Pairs(pairs, sum(map(len, found["planned"].values())))


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_terminal_table_never_breaks_a_figure(
    nine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["--from", str(nine)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if "skinml.sweep" not in line) <= width
    words = " ".join(lines).split()
    for figure in ("82.00", "0.8832", "nasnetmobile-16"):
        assert figure in words


@pytest.mark.parametrize("width", [80, 100])
def test_the_nine_runs_are_read_in_a_terminal(
    tests: Pairs,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
) -> None:
    """At 100 columns each table is whole; at no width an interval goes over two lines."""
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([*NINE_RUNS, "--format", "markdown"]) == 0
    unfolded = re.sub(r"(?s)<details>.*?</details>", "", capsys.readouterr().out)
    assert main(NINE_RUNS) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(len(line) for line in lines if "skinml.sweep" not in line) <= width
    # With a full stop it is the end of a sentence.
    assert not [line for line in lines if re.fullmatch(r"\s*(to|[+−]?\d*\.?\d+(–| to)?)\s*", line)]
    # Beside the pairs that differ, the tests of the paper's own questions; the sentences at the
    # top, and at the end once more, have intervals of their own.
    tables_of = shown.partition("Test part:")[2].partition(NOTICE)[0]
    assert len(re.findall(r"[+−][\d.]+ to [+−][\d.]+", tables_of)) == tests.shown + tests.pooled
    tables = [line for line in lines if set(line.strip()) == {"─"}]
    # Folded there, and open in a terminal: the differences shown, and the runs.
    titles = unfolded.count("\n| --- ") + sum(map(any, tests.pairs.values())) + 1
    assert len(tables) == titles if width == 100 else len(tables) > titles
    text = " ".join(shown.split())
    for differ in tests.pairs.values():
        not_shown = f"{differ.count(False)} of {len(differ)} differences are not shown at 5 %"
        assert f"{not_shown} (--all-pairs" in text


def test_all_pairs_are_listed_on_request(
    tests: Pairs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # narrower tables are split, and say it twice
    counts = []
    for options in ([], ["--all-pairs"]):
        assert main([*NINE_RUNS, *options]) == 0
        shown = capsys.readouterr().out
        # In tables alone: a sentence names contrasts whose sides were not trained alike.
        counts.append(len(re.findall(r"(?m)^ *minus ", shown)))
        # First what differs.
        accuracy = shown.partition("Accuracy: the differences shown")[2]
        assert re.search(r"Accuracy: \d+ of \d+ differences are not shown at 5 %", accuracy)
    assert counts == [
        tests.shown + tests.pooled,
        tests.pooled + sum(map(len, tests.pairs.values())),
    ]


def test_a_folded_format_has_all_pairs_anyway(tests: Pairs, tmp_path: Path) -> None:
    main([*NINE_RUNS, "--out", str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text()
    assert page.count("<small>minus ") == sum(map(len, tests.pairs.values())) + tests.pooled
    # Of each metric the pairs that differ and those that do not; groups by three figures, where the
    # uncertainty comes from, the runs and the glossary.
    folded = sum(any(differ) + (not all(differ)) for differ in tests.pairs.values())
    assert page.count("<details>") == folded + 6


def test_networks_of_one_answer_are_named_in_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    """Two of three, of random weights and hardly trained."""
    runs = ["--from", str(RESULTS / "challenge-each-network"), "--grid", "none"]
    main([*runs, "--format", "json"])
    cells = json.loads(capsys.readouterr().out)["cells"]
    found = {
        f"{cell['model']}-{cell['batch_size']}": one["share"]
        for cell in cells
        for one in cell["one_class"]
    }
    assert len(cells) == 3 and found == {"mobilenet-32": 1.0, "nasnetmobile-32": 1.0}
    main([*runs, "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    told = {f"{row['model']}-{row['batch_size']}": row["one_class"] for row in rows}
    assert {cell for cell, label in told.items() if label == "nevus"} == set(found)


def test_a_network_has_one_latency_of_all_its_runs(capsys: pytest.CaptureFixture[str]) -> None:
    main([*NINE_RUNS, "--format", "json"])
    cells = json.loads(capsys.readouterr().out)["cells"]
    # On the hardware that all networks were measured on: of NASNetMobile's runs one was elsewhere.
    params = [
        json.loads(path.read_text())["params"]
        for path in (RESULTS / "nine-runs/runs").glob("*/run.json")
    ]
    networks = Counter(
        run["model"]
        for run in params
        if cells[0]["latency"]["device"].startswith(run["device_name"])
    )
    assert [cell["latency"]["runs"] for cell in cells] == [networks[c["model"]] for c in cells]
    main([*NINE_RUNS, "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len({row["latency_ms"] for row in rows}) == len(networks) > 1


def test_a_sweeps_cells_are_those_below_it_and_those_it_found_done(
    nine: Path, store: "MlflowClient", capsys: pytest.CaptureFixture[str]
) -> None:
    folders = sorted(path.parent for path in nine.glob("*/run.json"))
    earlier = [log_run(store, folder) for folder in folders[:2]]
    found = store.get_experiment_by_name("skinml")
    assert found is not None
    tags = {"kind": "sweep", "skinml.done_before": ",".join(earlier)}
    sweep = store.create_run(found.experiment_id, tags=tags).info.run_id
    below = [log_run(store, folder, **{"mlflow.parentRunId": sweep}) for folder in folders[2:]]
    # Newer, and of none of the sweep's business.
    log_run(store, folders[0])
    assert main(["--sweep", sweep, "--format", "json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert {run for cell in cells for run in cell["runs"]} == {*earlier, *below}


def test_tags_of_somebody_else_name_no_file_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder's name, HTML and markup as what a run says of its split and data."""
    split = "paper test=0.2 val=0.2 seed=../../../../outside"
    write_run(tmp_path / "from", made_up(1, [1]), split=split, data_digest="<script>[red]a[/b](x)")
    out = tmp_path / "a" / "b" / "out"
    assert main(["--from", str(tmp_path / "from"), "--grid", "none", "--out", str(out)]) == 0
    [written] = [path for path in tmp_path.rglob("run.json") if "from" not in path.parts]
    assert written.parent.parent == out / "runs"
    assert "<script" not in (out / "report.md").read_text()
    assert "[red]a[/b](x)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "written"),
    [("=1+1", "'=1+1"), ("@a", "'@a"), ("-a", "'-a"), ("-0.5", "-0.5"), (-1, -1), ("a=b", "a=b")],
)
def test_no_text_of_a_table_is_a_formula_to_a_spreadsheet(value: object, written: object) -> None:
    assert csv_cell(value) == written
