"""How an experiment opens in the MLflow UI: its note and saved views, from `dashboards/mlflow/`.

`python -m skinml.store.views` renews them by hand, as `make ui` does; a training writes them by
itself. MLflow
keeps a saved view as JSON in a tag of the experiment. That format is not a documented interface:
MLflow is pinned, and tests/store/test_views.py looks at every view in a browser.

    experiment.md   the note, a Jinja template; it knows `experiment` (its name), `views` (their
                    keys), `url(view)`, `classes` (as Markdown) and `tasks` (of their challenge)
    views/*.json    a view a file, of which the stem is the key
        name        what the menu calls it
        order       its place in the menu, from 1 at the top
        mode        TABLE or CHART
        runs        how many runs it takes to show anything (1): it is left out until they are there
        state       in the words of MLflow's UI: searchFilter, orderByKey, selectedColumns, …; a
                    column "metrics.`test_*`" is every further headline metric of the test part
        sections    of charts (CHART), each with name, charts and, if wanted, columns and cardHeight

Classes are those of the experiment's runs. What ends with `_<class>` stands for that of each of
them, where they have no challenge with words of its own; a metric that they lack is left out.
"""

import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.base.address import without_user_info
from skinml.base.errors import UserError, first_line, run_command
from skinml.base.provenance import PACKAGE
from skinml.base.text import markdown_text
from skinml.config import Parser
from skinml.data.datasets import challenge_tasks, class_problems, classes_said
from skinml.evaluation.classes import of_class, told_classes
from skinml.evaluation.metrics import METRICS, metrics_of
from skinml.store.access import ask, check_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

FOLDER = PACKAGE.parent / "dashboards" / "mlflow"

_NOTE = "mlflow.note.content"
_VIEW = "mlflow.sharedViewState."
# A key that starts with this is ours: to be renewed, and removed when its file is gone.
_OURS = "skinml-"

# The view that an experiment is shown in first.
_RESULTS = "results-table"

# Where `make ui` serves, unless told otherwise.
_MAKE_UI = "http://127.0.0.1:5000"

# The UI makes a chart of every metric that a view does not show, in the section of this name. It
# is there from the start, closed, below ours.
_OTHER_SECTIONS = ("epoch", "Model metrics", "System metrics")

# Among the columns of a table: every headline metric of the test part that has no place of its own.
_OTHERS = "metrics.`test_*`"
# Of a column whose width nobody chose.
_WIDTH = 150

# Stands for each class. The tag of a view has room for what is made of it by so many letters: of
# columns, which stand in it three times, and of charts, each with so many letters of its own.
_EACH_CLASS = "<class>"
_ROOM, _CHART = 5000, 400

# Without these the UI shows ten runs, sorts the sections by name and smooths the curves.
_STATE = {
    "runsHiddenMode": "SHOW_ALL",
    "isAccordionReordered": True,
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0},
}

View = dict[str, Any]


def install_views(experiment_id: str, params: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give an experiment its note and saved views; returns each view's URL within the UI.

    `params` are those of the run that begins, which is shown by its classes; else the newest run's
    that names some. Writes only what differs. A note that a person wrote or changed stays, and so
    do their views. Without a checkout there are no files: returns {}.
    """
    from mlflow import MlflowClient

    if not FOLDER.is_dir():
        return {}
    client = MlflowClient()
    trainings = _trainings(client, experiment_id)
    named = (_classes_of(p) for p in (params or {}, *(run.data.params for run in trainings)))
    classes = next(filter(None, named), classes_said({}))
    # At least one: they are written as the first begins.
    trained = max(1, len(trainings))
    views = {
        key: of_classes(view, classes)
        for key, view in _read_views().items()
        if view.get("runs", 1) <= trained
    }
    experiment = client.get_experiment(experiment_id)
    now = int(time.time() * 1000)
    saved = {key: _saved(experiment.tags.get(_VIEW + _OURS + key, "")) for key in views}
    # When all were made, by those that are there: what comes later keeps its place in the menu.
    made = min(
        (o["createdAt"] + views[key]["order"] for key, o in saved.items() if "createdAt" in o),
        default=now,
    )
    for key, view in views.items():
        old = saved[key]
        new = {"name": view["name"], "state": json.dumps(_state(key, view))}
        if {name: old.get(name) for name in new} != new:
            # The menu shows the latest made at the top.
            times = {"createdAt": old.get("createdAt", made - view["order"]), "updatedAt": now}
            client.set_experiment_tag(experiment_id, _VIEW + _OURS + key, json.dumps(new | times))
    for tag in experiment.tags:
        if tag.startswith(_VIEW + _OURS) and tag.removeprefix(_VIEW + _OURS) not in views:
            client.delete_experiment_tag(experiment_id, tag)
    urls = {key: _url(experiment_id, key, view["mode"]) for key, view in views.items()}
    note = _note(experiment.name, urls, classes)
    present = experiment.tags.get(_NOTE)
    if present != note and (present is None or _is_our_note(present)):
        client.set_experiment_tag(experiment_id, _NOTE, note)
    return urls


def _trainings(client: "MlflowClient", experiment_id: str) -> list["Run"]:
    """The newest trainings of an experiment."""
    # The first moments of a run are without the tag, which a sweep and a comparison have at once.
    runs = client.search_runs([experiment_id], max_results=20)
    return [run for run in runs if run.data.tags.get("kind", "training") == "training"]


def _classes_of(params: Mapping[str, str]) -> tuple[str, ...]:
    """The classes that a run names; none where it names none that can be."""
    try:
        classes = classes_said(params) if "classes" in params else ()
        return () if class_problems(classes) else classes
    except (ValueError, TypeError, AttributeError):
        return ()


def of_classes(view: View, classes: tuple[str, ...]) -> View:
    """A view of runs with these classes: theirs in place of `<class>`, no metric they have not."""
    if view["mode"] == "TABLE":
        columns = view["state"].get("selectedColumns", [])
        room = _ROOM // max(1, sum(_EACH_CLASS in column for column in columns))
        chosen = [name for column in columns for name in _of_classes(column, classes, room)]
        return view | {"state": view["state"] | {"selectedColumns": chosen}} if chosen else view
    sections = []
    for section in view["sections"]:
        charts = []
        for chart in section["charts"]:
            keys = _of_classes(chart.get("metricKey", ""), classes, _ROOM, _CHART)
            charts += [chart | {"metricKey": key} if key else chart for key in keys]
        if charts:
            sections.append(section | {"charts": charts})
    return view | {"sections": sections}


def _of_classes(text: str, classes: tuple[str, ...], room: int, each: int = 0) -> list[str]:
    """A metric's name, alone or in a column's, for each class; itself, or none if unknown.

    As many as there is room for, if each takes so many letters beside its name.
    """
    name = text.partition("test_")[2].rstrip("`")
    if _EACH_CLASS not in text:
        return [text] if name in ("", "*") or name in metrics_of(classes) else []
    if challenge_tasks(classes):
        return []
    kind = name.removesuffix(f"_{_EACH_CLASS}")
    found = [text.replace(name, of_class(kind, label)) for label in told_classes(classes)]
    # JSON in JSON, as it stands in the tag.
    while sum(each + len(json.dumps(json.dumps(one))) for one in found) > room:
        found.pop()
    return found


def where_to_look(store: str, experiment_id: str) -> str:
    """What a person does to see an experiment's results view: its address, and the server to start.

    `store` is the tracking URI. Of a server the address is there already; a database has to be
    served first, that of a checkout by `make ui`.
    """
    view = _url(experiment_id, _RESULTS, "TABLE")
    if store.startswith(("http://", "https://")):
        return f"{_public(store)}/{view}"
    serve = "make ui"
    scheme, _, path = store.partition(":///")
    if scheme != "sqlite" or Path(path).resolve() != PACKAGE.parent / "mlflow.db":
        serve = f"mlflow server --app-name skinml --backend-store-uri {_public(store)}"
    return f"{serve}, then open {_MAKE_UI}/{view}"


def _public(uri: str) -> str:
    """An address that a path can follow, without the name and password that may be in it."""
    return without_user_info(uri).rstrip("/")


def _read_views() -> dict[str, View]:
    """The views of `FOLDER` by key, in the order of the menu."""
    views = {}
    for path in (FOLDER / "views").glob("*.json"):
        try:
            view = views[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            view["name"], view["order"], _state(path.stem, view)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: {type(error).__name__} {error}; expected JSON with name, order, mode and "
                "state, and a name and charts in each of its sections"
            ) from None
    return dict(sorted(views.items(), key=lambda item: item[1]["order"]))


def _state(key: str, view: View) -> dict[str, Any]:
    """What the UI is to show, in its own words."""
    state = _STATE | view["state"]
    if view["mode"] == "TABLE":
        columns = _columns(state.get("selectedColumns", []))
        widths = dict.fromkeys(columns, _WIDTH) | state.get("columnWidths", {})
        return state | {
            "selectedColumns": columns, "columnOrder": columns, "columnWidths": widths
        }  # fmt: skip
    sections, charts = [], []
    for index, section in enumerate(view["sections"]):
        uuid = f"{_OURS}{key}-{index}"
        charts += [_chart(f"{uuid}-{n}", uuid, c) for n, c in enumerate(section["charts"])]
        sections.append(_section(uuid, **{k: v for k, v in section.items() if k != "charts"}))
    for name in _OTHER_SECTIONS:
        sections.append(_section(f"{_OURS}{key}-{name}", name=name, display=False))
    return state | {"compareRunSections": sections, "compareRunCharts": charts}


def _columns(named: list[str]) -> list[str]:
    """The columns of a table, with what `_OTHERS` stands for in its place."""
    others = [f"metrics.`test_{row.name}`" for row in METRICS if row.headline]
    return [
        column
        for name in named
        for column in ([o for o in others if o not in named] if name == _OTHERS else [name])
    ]


def _section(uuid: str, **given: Any) -> dict[str, Any]:
    return {"uuid": uuid, "display": True, "isReordered": False, "deleted": False} | given


def _chart(uuid: str, section: str, given: dict[str, Any]) -> dict[str, Any]:
    chart = {"uuid": uuid, "metricSectionId": section, "deleted": False, "isGenerated": False}
    if given["type"] == "LINE":
        chart |= {"xAxisKey": "step", "metricKey": given["selectedMetricKeys"][0]}
        chart["lineSmoothness"] = 0
    if given["type"] == "IMAGE":
        chart["step"] = 0
    return chart | given


def _saved(value: str) -> dict[str, Any]:
    """A saved view as the tag holds it; {} where it holds none."""
    try:
        saved = json.loads(value)
    except ValueError:
        return {}
    return saved if isinstance(saved, dict) else {}


def _url(experiment_id: str, key: str, mode: str) -> str:
    return (
        f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        f"&viewStateShareKey={_OURS}{key}&compareRunsMode={mode}"
    )


def _note(experiment: str, urls: dict[str, str], classes: tuple[str, ...]) -> str:
    """The text of an experiment's note, with the mark that tells it from a person's."""
    from jinja2 import Environment, StrictUndefined, TemplateError

    def url(view: str) -> str:
        if view not in urls:
            raise UserError(
                f"{path}: url({view!r}): expected one of {', '.join(urls)}, the files of views/"
            )
        return urls[view]

    path = FOLDER / "experiment.md"
    # The note is Markdown, which the UI turns into HTML and cleans.
    jinja = Environment(undefined=StrictUndefined, trim_blocks=True, autoescape=False)
    try:
        template = jinja.from_string(path.read_text(encoding="utf-8"))
        told = ", ".join(map(markdown_text, classes))
        tasks = list(challenge_tasks(classes))
        text = template.render(
            experiment=experiment, views=list(urls), url=url, classes=told, tasks=tasks
        ).strip()
    except TemplateError as error:
        raise UserError(f"{path}: {error}; expected a Jinja template") from None
    return f"{text}\n\n<!-- skinml {_digest(text)} -->"


def _is_our_note(note: str) -> bool:
    """Whether a note is as we wrote it: its mark holds the digest of its text."""
    found = re.fullmatch(r"(.*)\n\n<!-- skinml ([0-9a-f]{16}) -->", note, re.DOTALL)
    return bool(found and found[2] == _digest(found[1]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main(argv: list[str] | None = None) -> int:
    import mlflow

    parser = Parser(
        prog="python -m skinml.store.views",
        description="Renew the note and saved views of experiments in the MLflow UI, and say where "
        "their results are.",
    )
    parser.add_argument("--experiment", metavar="NAME", help="default: all that have such views")
    parser.add_argument("--server", metavar="ADDRESS", help="of the UI, where it is served at one")
    options = parser.parse_args(argv)
    if not FOLDER.is_dir():
        print("nothing done: the views lie in dashboards/mlflow of a checkout, and this is none")
        return 0
    store = mlflow.get_tracking_uri()
    try:
        check_store(store)
        for experiment in ask(lambda: list(_experiments(options.experiment))):
            install_views(experiment.experiment_id)
            where = where_to_look(options.server or store, experiment.experiment_id)
            print(f"results of {experiment.name}: {where}")
    except mlflow.MlflowException as error:
        raise UserError(
            f"{_public(store)}: {first_line(error)}; expected a tracking server that lets "
            "you edit the experiment (MLFLOW_TRACKING_URI)"
        ) from None
    return 0


def _experiments(name: str | None) -> "Iterator[Experiment]":
    """The experiment of a name, else all that have views of ours."""
    from mlflow import MlflowClient, get_tracking_uri

    client = MlflowClient()
    if name is None:
        for experiment in client.search_experiments():
            if any(tag.startswith(_VIEW + _OURS) for tag in experiment.tags):
                yield experiment
        return
    found = client.get_experiment_by_name(name)
    if found is None:
        raise UserError(
            f"--experiment {name}: there is none at {_public(get_tracking_uri())}; expected one "
            "that a run has made (MLFLOW_TRACKING_URI)"
        )
    yield found


if __name__ == "__main__":
    sys.exit(run_command(main))
