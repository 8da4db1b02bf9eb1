"""How an experiment opens in the MLflow UI: its note and views as tags, and in a real browser."""

import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH

from skinml.base.errors import UserError
from skinml.base.names import identifier
from skinml.compare import __main__ as compare
from skinml.data.isic2017 import CLASSES, NOTICE
from skinml.evaluation.figures import FIGURES
from skinml.evaluation.metrics import Metric, metrics_of
from skinml.evaluation.predictions import write_predictions
from skinml.run.results import Costs
from skinml.store import views
from skinml.store.publish import prepare_experiment
from skinml.store.views import install_views, main, of_classes
from skinml.sync import sync
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.record import curve_metrics
from tests.compare.conftest import made_up
from tests.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parents[2]
VIEWS = (
    "results-table",
    "curves",
    "parallel-coordinates",
    "by-model",
    "roc-grid",
    "confusion-grid",
)
NOTE = "mlflow.note.content"
TAG = "mlflow.sharedViewState."

MODELS = ("mobilenet", "mobilenetv2", "nasnetmobile")
BATCH_SIZES = (16, 32, 64)
EPOCHS = 3

# Longer than what MLflow shows of a run's description by itself.
REPORT = "A report.\n\n" + "A line of it.\n\n" * 20 + "The end of the report.\n"


def tags(store: MlflowClient, experiment_id: str) -> dict[str, str]:
    return dict(store.get_experiment(experiment_id).tags)


def saved(store: MlflowClient, experiment_id: str, key: str) -> dict[str, Any]:
    return json.loads(tags(store, experiment_id)[TAG + key])


def state(store: MlflowClient, experiment_id: str, key: str) -> dict[str, Any]:
    return json.loads(saved(store, experiment_id, key)["state"])


@pytest.fixture
def experiment(store: MlflowClient) -> str:
    """An experiment of two runs, which is what all views take."""
    made = str(store.create_experiment("skinml"))
    for _ in range(2):
        store.create_run(made)
    return made


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one view and a note, in place of dashboards/mlflow."""
    folder = tmp_path / "dashboards"
    (folder / "views").mkdir(parents=True)
    (folder / "views" / "one.json").write_text(
        json.dumps({"name": "One", "order": 1, "mode": "TABLE", "state": {"orderByAsc": True}})
    )
    (folder / "experiment.md").write_text("{{ experiment }}: [one]({{ url('one') }})\n")
    monkeypatch.setattr(views, "FOLDER", folder)
    return folder


# The tags


def test_every_view_and_the_note_are_installed(store: MlflowClient, experiment: str) -> None:
    urls = install_views(experiment)
    assert tuple(urls) == VIEWS
    present = tags(store, experiment)
    assert {key for key in present if key.startswith(TAG)} == {f"{TAG}skinml-{v}" for v in VIEWS}
    for view, url in urls.items():
        assert url.startswith(f"#/experiments/{experiment}/runs?")
        assert f"viewStateShareKey=skinml-{view}&" in url
        assert f"]({url})" in present[NOTE]
        assert len(present[f"{TAG}skinml-{view}"]) < MAX_EXPERIMENT_TAG_VAL_LENGTH
    # The menu of the UI has the latest made on top.
    made = [saved(store, experiment, f"skinml-{view}")["createdAt"] for view in VIEWS]
    assert made == sorted(made, reverse=True) and len(set(made)) == len(made)
    assert NOTICE.removesuffix(".") in present[NOTE]
    assert "{" not in present[NOTE] and "generated" not in present[NOTE]


def test_the_demo_says_that_it_says_nothing_about_skin(store: MlflowClient) -> None:
    demo = store.create_experiment("skinml-demo")
    install_views(demo)
    note = tags(store, demo)[NOTE]
    assert "say nothing about skin lesions" in note
    # The UI shows the first line alone, as far as it has room: the links.
    assert note.splitlines()[0].startswith("[Results table]")


# A comma, a quote, another alphabet: as a person may name them.
OWN = ("Basaliom, groß", "melanoma", 'nævus "rare"', "νεύρωμα")


def columns_of(store: MlflowClient, experiment: str) -> list[str]:
    shown = state(store, experiment, "skinml-results-table")["selectedColumns"]
    return [name.partition("`test_")[2].rstrip("`") for name in shown if "`test_" in name]


def test_other_classes_are_shown_by_class(store: MlflowClient, experiment: str) -> None:
    """No column of ISIC 2017's challenge stays empty; the first run's own classes count."""
    install_views(experiment, {"classes": json.dumps(OWN)})
    shown = columns_of(store, experiment)
    assert {f"auc_{identifier(label)}" for label in OWN} < set(shown)
    assert {f"sensitivity_{identifier(label)}" for label in OWN} < set(shown)
    assert set(shown) <= set(metrics_of(OWN))
    charts = state(store, experiment, "skinml-by-model")["compareRunCharts"]
    assert {f"test_auc_{identifier(label)}" for label in OWN} < {c["metricKey"] for c in charts}
    note = tags(store, experiment)[NOTE]
    assert "keratosis" not in note.partition("How to read it")[2]


def test_classes_are_those_of_the_newest_run_that_names_some(store: MlflowClient) -> None:
    made = str(store.create_experiment("skinml-own"))
    install_views(made)
    assert "keratosis_auc" in columns_of(store, made)
    for named in ('["benign", "malignant"]', "no JSON", "[]", "[1, 2]"):
        store.log_param(store.create_run(made).info.run_id, "classes", named)
    install_views(made)
    shown = columns_of(store, made)
    assert "auc_malignant" in shown and "auc_benign" not in shown
    assert not {"melanoma_auc", "keratosis_auc", "challenge_auc"} & set(shown)
    note = tags(store, made)[NOTE]
    assert "of these classes: benign, malignant" in note and "test_auc_…" in note


@pytest.mark.parametrize("letter", ["x", "ж"])
@pytest.mark.parametrize("count", [8, 50])
def test_the_views_of_many_classes_fit_into_their_tags(
    letter: str, count: int, store: MlflowClient, experiment: str
) -> None:
    classes = [f"{n:02} {letter * 77}" for n in range(count)]
    install_views(experiment, {"classes": json.dumps(classes)})
    present = tags(store, experiment)
    for view in VIEWS:
        assert len(present[f"{TAG}skinml-{view}"]) < MAX_EXPERIMENT_TAG_VAL_LENGTH
    shown = columns_of(store, experiment)
    assert f"auc_{identifier(classes[0])}" in shown and "accuracy" in shown


def test_a_view_shows_only_what_runs_log(store: MlflowClient, experiment: str) -> None:
    """A metric, figure or parameter that is renamed does not leave an empty chart behind."""
    row = dict.fromkeys(("learning_rate", "seconds", "images_per_second"), 0.0)
    row |= {f"{p}_{n}": 0.0 for p in ("train", "val") for n in ("loss", "accuracy", "auc_macro")}
    metrics = {
        *curve_metrics(dict(row)),
        *(f"{p}_{n}" for p in ("test", "val") for n in metrics_of(CLASSES)),
    }
    metrics |= set(Costs._fields)
    install_views(experiment)
    for view in VIEWS:
        text = json.dumps(state(store, experiment, f"skinml-{view}"))
        named = re.findall(r"metrics\.`([^`]+)`|\"metricKey\": \"([^\"]+)\"", text)
        for keys in re.findall(r'"selectedMetricKeys": (\[.*?\])', text):
            named += [(key, "") for key in json.loads(keys)]
        named += re.findall(r'"key": "([^"]+)(), "type": "METRIC"', text)
        assert {"".join(pair) for pair in named} <= metrics
        for keys in re.findall(r'"imageKeys": (\[.*?\])', text):
            assert set(json.loads(keys)) <= set(FIGURES)


def test_a_new_headline_metric_is_a_column_of_the_results(
    store: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its row alone."""
    row = Metric("kappa", lambda counts: counts.total, "Cohen's kappa", headline=True)
    monkeypatch.setattr(views, "METRICS", (*views.METRICS, row))
    install_views(experiment)
    shown = state(store, experiment, "skinml-results-table")
    before, after = shown["selectedColumns"].index("metrics.`test_kappa`"), "metrics.`latency_ms`"
    assert before < shown["selectedColumns"].index(after)
    assert shown["columnOrder"] == shown["selectedColumns"] == list(shown["columnWidths"])


def test_a_view_that_one_run_leaves_flat_comes_with_the_second(store: MlflowClient) -> None:
    """One bar or one line says nothing; a sweep and a comparison are no trainings."""
    made = str(store.create_experiment("skinml"))
    flat = {"parallel-coordinates", "by-model"}
    assert set(install_views(made)) == set(VIEWS) - flat  # As the first run of an experiment does.
    for kind in ("sweep", "training", "comparison"):
        store.create_run(made, tags={"kind": kind})
    assert set(install_views(made)) == set(VIEWS) - flat
    present = tags(store, made)
    assert f"{TAG}skinml-by-model" not in present
    assert "[trade-offs]" not in present[NOTE] and "[networks compared]" not in present[NOTE]
    store.create_run(made)
    assert tuple(install_views(made)) == VIEWS
    present = tags(store, made)
    assert f"{TAG}skinml-by-model" in present
    assert "[trade-offs]" in present[NOTE] and "[networks compared]" in present[NOTE]


@pytest.mark.parametrize(
    ("store", "where"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000/#/"),
        ("https://ann:secret@host.org/mlflow/", "https://host.org/mlflow/#/"),
        (f"sqlite:///{ROOT / 'mlflow.db'}", "make ui, then open http://127.0.0.1:5000/#/"),
        (
            "sqlite:////other/mlflow.db",
            "mlflow server --app-name skinml --backend-store-uri sqlite:////other/mlflow.db, "
            "then open http://127.0.0.1:5000/#/",
        ),
    ],
)
def test_a_person_is_told_the_address_of_the_results(store: str, where: str) -> None:
    view = "runs?workflowType=machine_learning&viewStateShareKey=skinml-results-table"
    assert views.where_to_look(store, "7").startswith(f"{where}experiments/7/{view}&")


def test_the_checkouts_store_is_served_by_make_ui(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by the relative address that `make demo` gives it."""
    monkeypatch.chdir(ROOT)
    assert views.where_to_look("sqlite:///mlflow.db", "1").startswith("make ui, then open ")


def test_installing_again_writes_nothing(
    store: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = install_views(experiment)
    before = tags(store, experiment)
    for method in ("set_experiment_tag", "delete_experiment_tag"):
        monkeypatch.setattr(MlflowClient, method, lambda *_: pytest.fail("something is written"))
    assert install_views(experiment) == urls
    assert tags(store, experiment) == before


def test_a_changed_file_renews_its_view_and_nothing_else(
    files: Path, store: MlflowClient, experiment: str
) -> None:
    install_views(experiment)
    old = saved(store, experiment, "skinml-one")
    path = files / "views" / "one.json"
    path.write_text(path.read_text().replace('"One"', '"First"'))
    install_views(experiment)
    new = saved(store, experiment, "skinml-one")
    assert new == old | {"name": "First", "updatedAt": new["updatedAt"]}


def test_a_view_whose_file_is_gone_goes_and_a_persons_stays(
    files: Path, store: MlflowClient, experiment: str
) -> None:
    path = files / "views" / "one.json"
    (files / "views" / "two.json").write_text(path.read_text())
    store.set_experiment_tag(experiment, f"{TAG}3f1c", "theirs")
    install_views(experiment)
    (files / "views" / "two.json").unlink()
    install_views(experiment)
    present = tags(store, experiment)
    assert {key for key in present if key.startswith(TAG)} == {f"{TAG}skinml-one", f"{TAG}3f1c"}
    assert present[f"{TAG}3f1c"] == "theirs"


def test_a_broken_tag_of_ours_is_mended(files: Path, store: MlflowClient, experiment: str) -> None:
    for broken in ("", "no JSON", "[]"):
        store.set_experiment_tag(experiment, f"{TAG}skinml-one", broken)
        install_views(experiment)
        assert saved(store, experiment, "skinml-one")["name"] == "One"


def test_our_note_is_renewed(files: Path, store: MlflowClient, experiment: str) -> None:
    install_views(experiment)
    (files / "experiment.md").write_text("another text\n")
    install_views(experiment)
    assert tags(store, experiment)[NOTE].startswith("another text\n")


@pytest.mark.parametrize("edit", ["theirs", "", "{ours} and theirs", "Theirs.\n\n{ours}"])
def test_a_note_that_a_person_wrote_or_edited_stays(
    edit: str, files: Path, store: MlflowClient, experiment: str
) -> None:
    install_views(experiment)
    note = edit.format(ours=tags(store, experiment)[NOTE])
    store.set_experiment_tag(experiment, NOTE, note)
    (files / "experiment.md").write_text("another text\n")
    install_views(experiment)
    assert tags(store, experiment).get(NOTE, "") == note


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("views/one.json", "{", "one.json: JSONDecodeError"),
        ("views/one.json", '{"name": "One", "order": 1, "state": {}}', "one.json: KeyError 'mode'"),
        ("experiment.md", "{{ url('three') }}", "'three'.*expected one of one"),
        ("experiment.md", "{{ nothing }}", "experiment.md: 'nothing' is undefined"),
        ("experiment.md", "{% if %}", "experiment.md: .*expected a Jinja template"),
    ],
)
def test_a_mistake_in_a_file_is_named(
    name: str, text: str, reason: str, files: Path, experiment: str
) -> None:
    (files / name).write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        install_views(experiment)
    assert "\n" not in str(caught.value)


# When they are installed


def test_a_training_installs_them_as_it_begins(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def install(experiment_id: str, params: dict[str, str]) -> dict[str, str]:
        asked.append(experiment_id)
        return install_views(experiment_id, params)

    monkeypatch.setattr("skinml.store.views.install_views", install)
    made = store.create_experiment("skinml-demo")
    prepare_experiment("a server", made)
    assert asked == [made]
    found = store.get_experiment(made)
    assert "say nothing about skin lesions" in found.tags[NOTE]
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_server_that_refuses_them_does_not_fail_a_training(
    store: MlflowClient,
    finished_folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(experiment_id: str, params: dict[str, str]) -> dict[str, str]:
        raise RuntimeError("permission denied\nand more")

    monkeypatch.setattr("skinml.store.views.install_views", refuse)
    assert store.get_run(sync(finished_folder.path)).info.status == "FINISHED"
    assert "warning: the experiment has no saved views: permission denied\n" in (
        capsys.readouterr().err
    )


def test_the_command_renews_the_views_and_prints_where_the_results_are(
    store: MlflowClient, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `make ui` does, of all experiments that have views; one by its name."""
    store.create_experiment("of-somebody-else")
    assert main([]) == 0 and capsys.readouterr().out == ""
    assert main(["--experiment", "skinml"]) == 0
    assert capsys.readouterr().out.startswith("results of skinml: mlflow server --app-name skinml ")
    store.delete_experiment_tag(experiment, f"{TAG}skinml-curves")
    assert main(["--server", "http://127.0.0.1:5001"]) == 0
    address = "http://127.0.0.1:5001/#/experiments/1/runs?"
    assert capsys.readouterr().out.startswith(f"results of skinml: {address}")
    assert f"{TAG}skinml-curves" in tags(store, experiment)


def test_the_command_names_an_experiment_that_is_not_there(store: MlflowClient) -> None:
    with pytest.raises(UserError, match=r"--experiment mine: there is none at sqlite://"):
        main(["--experiment", "mine"])


def test_without_a_checkout_the_command_does_nothing_and_says_so(
    store: MlflowClient,
    experiment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(views, "FOLDER", tmp_path / "nowhere")
    assert install_views(experiment) == {}
    assert main([]) == 0
    assert "nothing done" in capsys.readouterr().out
    assert tags(store, experiment).keys().isdisjoint({NOTE, f"{TAG}skinml-curves"})


# In a browser


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


browsing = _load(ROOT / "docs" / "screenshots.py")

in_a_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="the server is stopped by its process group"),
    pytest.mark.skipif(
        not browsing.CHROMIUM.exists(),
        reason=f"no {browsing.CHROMIUM}: apt-get install chromium, as .ci/run does",
    ),
]


def _finished_folder(parent: Path, model: str, batch_size: int, auc: float) -> RunFolder:
    """The folder of a finished run, written by hand: no network is in it."""
    from PIL import Image

    name = f"{model}-{batch_size}-seed0"
    split = "paper test=0.15 val=0.2 seed=0"
    config = {"model": model, "batch_size": str(batch_size), "seed": "0"}
    folder = RunFolder(parent / name)
    folder.figures.mkdir(parents=True)
    folder.write_description(
        Description(
            name,
            config | {"protocol": "paper"},
            config
            | {"kind": "training", "data": "isic2017", "split": split, "protocol": "paper"}
            | {"data_digest": "0123"},
            {"name": "isic2017", "digest": "0123", "source": "prepared", "counts": {}},
        )
    )
    for epoch in range(1, EPOCHS + 1):
        numbers = {
            f"{part}_{curve}": auc * epoch / EPOCHS
            for part in ("train", "val")
            for curve in ("loss", "accuracy", "auc_macro")
        }
        folder.append_epoch(
            {
                "epoch": epoch,
                "step": "frozen",
                **numbers,
                "learning_rate": 1e-3 / epoch,
                "seconds": 2.5,
                "images_per_second": 40.0,
                "time": 1_700_000_000_000 + 60_000 * epoch,
            }
        )
    metrics = {
        f"{part}_{metric}": auc for part in ("val", "test") for metric in metrics_of(CLASSES)
    }
    cost = ("parameters_millions", "model_size_mb", "latency_ms", "training_seconds")
    folder.write_metrics(metrics | dict.fromkeys(cost, 10 * auc))
    for figure in FIGURES:
        Image.new("RGB", (46, 56), "white").save(folder.figures / f"{figure}.png")
    write_predictions(made_up(1, [batch_size]), folder.predictions("test"))
    folder.write_text("note.md", REPORT)
    folder.finish()
    return folder


@pytest.fixture(scope="module")
def names() -> list[str]:
    """The nine runs, the best first."""
    return [f"{model}-{batch}-seed0" for model in MODELS for batch in BATCH_SIZES]


@pytest.fixture(scope="module")
def server(
    empty_store: Path, names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A server over nine published runs below a sweep, with what a view must not show."""
    folder = tmp_path_factory.mktemp("views")
    store = f"sqlite:///{folder}/mlflow.db"
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "skinml")
        monkeypatch.setenv("MLFLOW_ARTIFACT_ROOT", str(folder / "artifacts"))
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
        monkeypatch.chdir(folder)
        client = MlflowClient()
        experiment = client.create_experiment("skinml")
        sweep = client.create_run(experiment, run_name="the-sweep", tags={"kind": "sweep"})
        monkeypatch.setenv("SKINML_PARENT_RUN_ID", sweep.info.run_id)
        for index, name in enumerate(names):
            model, batch, _ = name.split("-")
            made = _finished_folder(folder / "runs", model, int(batch), 0.900123456 - index / 50)
            sync(made.path)
        client.set_terminated(sweep.info.run_id)
        for name, tag, status in (
            ("the-comparison", "comparison", "FINISHED"),
            ("a-failure", "training", "FAILED"),
        ):
            other = client.create_run(experiment, run_name=name, tags={"kind": tag})
            client.set_terminated(other.info.run_id, status)
        with browsing.mlflow_server(store) as address:
            yield address


@pytest.fixture(scope="module")
def browser(server: str) -> Iterator[Any]:
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture
def urls(server: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The view's URLs, from an installation over HTTP that finds everything in place."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    for method in ("set_experiment_tag", "delete_experiment_tag"):
        monkeypatch.setattr(MlflowClient, method, lambda *_: pytest.fail("something is written"))
    found = MlflowClient().get_experiment_by_name("skinml")
    assert found is not None
    return {view: f"{server}/{url}" for view, url in install_views(found.experiment_id).items()}


@pytest.fixture
def page(browser: Any, urls: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page of the view that the test names."""
    page = browsing.open_page(browser, urls[request.param])
    yield page
    page.close()


def _card(page: Any, title: str) -> Any:
    """A chart's card, in sight: the UI fills a card only once it is."""
    card = page.get_by_test_id("experiment-view-compare-runs-card").filter(
        has=page.get_by_text(title, exact=True)
    )
    area = page.get_by_test_id("experiment-view-compare-runs-chart-area")
    area.wait_for()
    for _ in range(600):
        if card.count():
            card.first.scroll_into_view_if_needed()
            return card.first
        area.evaluate(
            "area => { const end = area.scrollTop + area.clientHeight > area.scrollHeight - 2;"
            " area.scrollTop = end ? 0 : area.scrollTop + 200; }"
        )
        page.wait_for_timeout(200)
    pytest.fail(f"no chart {title!r}")


def _comes(read: Callable[[], object], wanted: object) -> None:
    """Waits until what is read of a page is what is wanted: the UI draws piece by piece."""
    wait_for(lambda: read() == wanted, said=lambda: f"{read()!r}, not {wanted!r}")


def _points(page: Any, title: str) -> int:
    """How many points a chart shows by now."""
    return int(_card(page, title).locator(".point").count())


def _run_names(page: Any) -> list[str]:
    page.locator(".ag-row a").first.wait_for()
    return [name for name in page.locator(".ag-row a").all_inner_texts() if name.strip()]


def _columns(page: Any) -> list[str]:
    """The headers from left to right: the page holds them in the order of their making."""
    headers = page.locator(".ag-header-cell").evaluate_all(
        "cells => cells.map(cell => [cell.getBoundingClientRect().left, cell.innerText])"
    )
    return [text for _, text in sorted(headers) if text]


# What a person looks for first, from left to right.
FIRST_COLUMNS = ["model", "batch_size", "test_accuracy", "test_auc_macro", "test_melanoma_auc"]


def _wait_for_columns(page: Any) -> None:
    """The table of results, which is drawn before the view puts its columns in order."""
    wanted = ["Run Name", "Created", *FIRST_COLUMNS]
    _comes(lambda: _columns(page)[: len(wanted)], wanted)


def on_page_of(view: str) -> list[pytest.MarkDecorator]:
    return [*in_a_browser, pytest.mark.parametrize("page", [view], indirect=True)]


def marked(marks: list[pytest.MarkDecorator]) -> Any:
    """A decorator that gives a test all of some marks."""

    def decorate(test: Any) -> Any:
        for mark in marks:
            test = mark(test)
        return test

    return decorate


@marked(on_page_of("results-table"))
def test_the_table_shows_the_nine_trainings_best_first(page: Any, names: list[str]) -> None:
    _comes(lambda: _run_names(page), names)
    _wait_for_columns(page)
    # Four digits of what is stored with all of them.
    best = page.locator('[col-id="metrics.`test_auc_macro`"]').nth(1)
    _comes(best.inner_text, "0.9001")
    _comes(page.get_by_test_id("saved-views-trigger").inner_text, "Results table")


@marked(on_page_of("curves"))
def test_the_curves_have_a_line_a_run_as_it_was_logged(page: Any, names: list[str]) -> None:
    _comes(lambda: sorted(_run_names(page)), sorted(names))
    pairs = {n: f"epoch/train_{n} vs epoch/val_{n}" for n in ("loss", "accuracy", "auc_macro")}
    lines = {f"{name} (epoch/{part}_loss)" for name in names for part in ("train", "val")}

    def missing() -> set[str]:
        legend = _card(page, pairs["loss"]).inner_text()
        return {line for line in lines if line not in legend}

    _comes(missing, set())
    alone = [f"epoch/{name}" for name in ("learning_rate", "images_per_second", "seconds")]
    for title in (*pairs.values(), *alone):
        parts = 2 if title in pairs.values() else 1
        _comes(partial(_points, page, title), parts * len(names) * EPOCHS)

    # Training and validation of a run have one colour: the stroke tells them apart.
    def strokes() -> int:
        drawn = _card(page, pairs["loss"]).locator(".js-line")
        return len(set(drawn.evaluate_all("all => all.map(line => line.style.strokeDasharray)")))

    _comes(strokes, 2)


@marked(on_page_of("parallel-coordinates"))
def test_settings_and_cost_are_drawn_against_results(page: Any, names: list[str]) -> None:
    _comes(lambda: _run_names(page), names)
    _card(page, "Parallel Coordinates").locator(".parcoords canvas").first.wait_for()
    axes = ("model", "batch_size", "seed", "test_accuracy", "test_auc_macro")

    def missing() -> list[str]:
        card = _card(page, "Parallel Coordinates")
        shown, ticks = card.inner_text(), card.text_content()
        # The UI shortens a long name where there is little room; the pointer shows it whole.
        return [name for name in axes if name not in shown] + [m for m in MODELS if m not in ticks]

    _comes(missing, [])
    for cost in ("latency_ms", "model_size_mb"):
        _comes(partial(_points, page, f"{cost} vs. test_accuracy"), len(names))


@marked(on_page_of("by-model"))
def test_networks_are_compared_by_means(page: Any) -> None:
    for metric, factor in (
        *((name, 1) for name in ("test_accuracy", "test_auc_macro", "test_f1_weighted")),
        ("test_precision_weighted", 1),
        *((name, 10) for name in ("parameters_millions", "model_size_mb", "latency_ms")),
        ("training_seconds", 10),
    ):
        _comes(partial(_points, page, metric), len(MODELS))
        # 0.9, 0.88, 0.86 and so on: the middle run of each three is their mean.
        means = [f"{factor * mean:.2f}" for mean in (0.88, 0.82, 0.76)]
        _comes(partial(_means_and_models, page, metric), (means, list(MODELS)))

    # Two networks of one colour could not be told apart.
    def colours() -> int:
        bars = _card(page, "test_accuracy").locator(".point path")
        return len(set(bars.evaluate_all("bars => bars.map(bar => bar.style.fill)")))

    _comes(colours, len(MODELS))


def _means_and_models(page: Any, metric: str) -> tuple[list[str], list[str]]:
    """The numbers on a bar chart, the greatest first, and the networks that it names."""
    card = _card(page, metric)
    text = card.inner_text()
    numbers = sorted(card.locator(".bartext").all_text_contents(), reverse=True)
    return numbers, [model for model in MODELS if f"model: {model}" in text]


@pytest.mark.parametrize(
    ("page", "figures"),
    [
        ("roc-grid", ["roc"]),
        ("confusion-grid", ["confusion_matrix_normalised", "confusion_matrix"]),
    ],
    indirect=["page"],
)
@marked(in_a_browser)
def test_the_grid_shows_every_runs_figure_best_last(
    page: Any, figures: list[str], names: list[str]
) -> None:
    for figure in figures:
        _comes(partial(_loaded, page, figure), [True] * len(names))
        # Of more than ten runs the grid shows the first of the list, in reverse.
        _comes(partial(_named, page, figure, names), names[::-1])
    assert "the-sweep" not in page.inner_text("body")


def _loaded(page: Any, figure: str) -> list[bool]:
    """Of each picture of a grid that is loaded by now, whether it is of that figure."""
    code = "all => all.filter(image => image.naturalWidth).map(image => image.src)"
    sources = _card(page, figure).locator("img").evaluate_all(code)
    return [figure in source for source in sources]


def _named(page: Any, figure: str, names: list[str]) -> list[str]:
    """The runs that a grid names, in its order."""
    return [line for line in _card(page, figure).inner_text().splitlines() if line in names]


def test_the_runs_are_compared_over_http(
    server: str, names: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The same as from a store, predictions tables included; nothing else shares the server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert compare.main(["--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == [] and len(found["cells"]) == len(names)
    assert all(len(cell["runs"]) == 1 for cell in found["cells"])
    accuracy = np.mean(made_up(1, [16]).predicted == made_up(1, [16]).labels)
    assert found["cells"][0]["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)


@marked(in_a_browser)
def test_the_notes_links_lead_to_the_views(browser: Any, server: str, urls: dict[str, str]) -> None:
    """The note's first line, which shows before it is unfolded, and the UI's menu of views."""
    page = browsing.open_page(browser, re.sub(r"\?.*", "", urls["curves"]))
    for view, url in urls.items():
        link = page.locator(f'a[href="{url.removeprefix(server + "/")}"]')
        link.wait_for()
        assert link.is_visible(), view
    with page.expect_popup() as opened:
        page.get_by_role("link", name="networks compared").click()
    other = opened.value
    other.get_by_role("button", name="Networks compared (means)").wait_for(timeout=240_000)
    other.close()
    page.get_by_test_id("saved-views-trigger").click()
    menu = page.get_by_role("menu").inner_text()
    places = [menu.index(json.loads(path.read_text())["name"]) for path in _files_in_order()]
    assert places == sorted(places)
    page.close()


def _files_in_order() -> list[Path]:
    return [ROOT / "dashboards" / "mlflow" / "views" / f"{view}.json" for view in VIEWS]


# As the page opens, in a browser that was never here


SMALL = {"width": 1280, "height": 800}


@pytest.fixture
def fresh(browser: Any) -> Iterator[Any]:
    """A page of a new profile, of the size of a small laptop's; nothing on it is closed first."""
    page = browser.new_page(viewport=SMALL)
    page.set_default_timeout(1000 * PATIENCE)
    yield page
    page.close()


def _out_of_sight(page: Any) -> list[str]:
    """Those of the first columns that are not whole in sight."""
    table = page.locator(".ag-center-cols-viewport").bounding_box()
    right = {}
    for column in FIRST_COLUMNS:
        header = page.locator(f'.ag-header-cell[col-id$="`{column}`"]').bounding_box()
        right[column] = header["x"] + header["width"]
    return [column for column in FIRST_COLUMNS if right[column] > table["x"] + table["width"]]


@marked(in_a_browser)
def test_the_start_page_leads_to_the_results(fresh: Any, server: str, names: list[str]) -> None:
    """Model training, and by a click on the experiment its runs with what was measured."""
    fresh.goto(server)
    fresh.get_by_role("link", name="skinml", exact=True).first.click()
    fresh.get_by_role("heading", name="Runs").wait_for()
    for _ in range(2):
        _wait_for_columns(fresh)
        _comes(lambda: _run_names(fresh), names)
        _comes(partial(_out_of_sight, fresh), [])
        fresh.reload()


@marked(in_a_browser)
def test_what_a_person_changes_of_the_list_stays(fresh: Any, server: str) -> None:
    """The list opens in our view once; from then on it is theirs."""
    fresh.goto(f"{server}/#/experiments/1")
    _wait_for_columns(fresh)
    key = 'MLflowLocalStorage-1.1-ExperimentPage-["1"]-ReactComponentState'
    fresh.evaluate(
        "key => { const state = JSON.parse(localStorage.getItem(key));"
        " state.selectedColumns = ['params.`seed`']; state.columnOrder = [];"
        " localStorage.setItem(key, JSON.stringify(state)); }",
        key,
    )
    fresh.goto("about:blank")
    fresh.goto(f"{server}/#/experiments/1")
    fresh.locator('.ag-header-cell[col-id="params.`seed`"]').wait_for()
    assert fresh.locator('.ag-header-cell[col-id="metrics.`test_accuracy`"]').count() == 0


@pytest.mark.parametrize("view", VIEWS)
@marked(in_a_browser)
def test_a_reloaded_view_is_the_view(view: str, fresh: Any, urls: dict[str, str]) -> None:
    """Twice, and after a step back from a run's page."""
    fresh.goto(urls[view])
    path = ROOT / "dashboards" / "mlflow" / "views" / f"{view}.json"
    kept = of_classes(json.loads(path.read_text()), CLASSES)
    for way in ("open", "reload", "reload", "back"):
        if way == "reload":
            fresh.reload()
        elif way == "back":
            here = fresh.url
            fresh.evaluate("location.hash = '#/experiments'")
            fresh.get_by_role("heading", name="Experiments").wait_for()
            fresh.go_back()
            assert fresh.url.partition("&searchFilter")[0] == here.partition("&searchFilter")[0]
        if view == "results-table":
            _wait_for_columns(fresh)
            _comes(partial(_out_of_sight, fresh), [])
        for section in kept.get("sections", []):
            fresh.get_by_text(section["name"], exact=True).first.wait_for(state="attached")
        fresh.get_by_role("button", name=kept["name"]).wait_for()


@marked(in_a_browser)
def test_a_runs_page_begins_with_its_whole_report(
    fresh: Any, server: str, urls: dict[str, str], names: list[str]
) -> None:
    """And shows what a person asks for: no lease, process or number of a journal's record."""
    found = MlflowClient().get_experiment_by_name("skinml")
    assert found is not None
    [run] = MlflowClient().search_runs([found.experiment_id], f"attributes.run_name = '{names[0]}'")
    assert {"skinml.journal", "skinml.acknowledged", "process"} <= run.data.tags.keys()
    fresh.goto(f"{server}/#/experiments/{found.experiment_id}/runs/{run.info.run_id}")
    fresh.get_by_text("The end of the report.").wait_for()
    report = fresh.get_by_test_id("note-editor-preview-content").bounding_box()
    metrics = fresh.get_by_text(re.compile(r"^Metrics \(")).bounding_box()
    assert report["y"] + report["height"] <= metrics["y"]
    assert not fresh.get_by_text("Show more").is_visible()
    fresh.get_by_text("data_digest").first.wait_for()
    # A number has all its digits here.
    fresh.get_by_text("0.900123456").first.wait_for()
    shown = fresh.locator("body").inner_text()
    assert "skinml." not in shown and "process" not in shown
    assert "0.900123456" in shown
