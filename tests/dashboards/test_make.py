"""The committed dashboards are what the generator makes, and what Grafana's schema knows."""

import enum
import importlib.util
import json
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dashboards.conftest import ROOT, dashboards, grafana_rules

FOLDER = ROOT / "dashboards" / "grafana"
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"


def _load(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("grafana_make", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _load(FOLDER / "make.py")
make.register()


@pytest.mark.parametrize("path", make.files())
def test_what_is_committed_is_what_the_generator_makes(path: str) -> None:
    remedy = "run python dashboards/grafana/make.py and commit what it writes"
    assert (ROOT / path).read_text(encoding="utf-8") == make.files()[path], remedy


def test_nothing_is_committed_that_the_generator_does_not_make() -> None:
    made = {Path(path) for path in make.files() if path.startswith("dashboards/")}
    assert {path.relative_to(ROOT) for path in FOLDER.glob("*.json")} == made


# The schema: the types that the generator has from Grafana's own


def mistakes(value: Any, wanted: Any, where: str) -> list[str]:
    """Where a value that was read from JSON is not of the type that the schema gives it."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted in (Any, object) or isinstance(wanted, typing.TypeVar):
        return []
    if origin in (typing.Union, types.UnionType):
        found = [mistakes(value, argument, where) for argument in arguments]
        return [] if any(not each for each in found) else found[0]
    if origin is typing.Literal:
        return [] if value in arguments else [f"{where}: {value!r} is none of {arguments}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        return [m for n, v in enumerate(value) for m in mistakes(v, arguments[0], f"{where}[{n}]")]
    if origin is dict:
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no object"]
        return [m for k, v in value.items() for m in mistakes(v, arguments[1], f"{where}.{k}")]
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return [] if value in [member.value for member in wanted] else [f"{where}: {value!r}"]
    if isinstance(value, dict) and hasattr(wanted, "from_json"):
        # The SDK leaves some of the JSON below a panel as it is.
        read = wanted.from_json(value)
        return [*different(value, as_json(read), where), *mistakes(read, wanted, where)]
    if wanted is float:
        wanted = (int, float)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        return [f"{where}: {value!r} is no {wanted}"]
    return [
        mistake
        for name, hint in typing.get_type_hints(type(value)).items()
        if hasattr(value, name)
        for mistake in mistakes(getattr(value, name), hint, f"{where}.{name}")
    ]


def problems(content: dict[str, Any]) -> list[str]:
    """What Grafana's schema does not know in a dashboard: fields, then types."""
    from grafana_foundation_sdk.models.dashboard import Dashboard

    read = Dashboard.from_json(json.loads(json.dumps(content)))
    return [*different(content, as_json(read)), *mistakes(read, Dashboard, "dashboard")]


def as_json(read: Any) -> Any:
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    return json.loads(JSONEncoder().encode(read))


def different(given: Any, kept: Any, where: str = "") -> list[str]:
    """What of a JSON is lost when the schema's types have read it."""
    if isinstance(given, dict) and isinstance(kept, dict):
        lost = [f"{where}.{key}: unknown" for key in given.keys() - kept.keys()]
        shared = given.keys() & kept.keys()
        return lost + [
            d for key in shared for d in different(given[key], kept[key], f"{where}.{key}")
        ]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        pairs = zip(given, kept, strict=True)
        return [d for n, (a, b) in enumerate(pairs) for d in different(a, b, f"{where}[{n}]")]
    return [] if given == kept else [f"{where}: {given!r} is read as {kept!r}"]


@pytest.mark.parametrize("uid", dashboards())
def test_a_dashboard_is_one_to_grafanas_schema(uid: str) -> None:
    assert problems(dashboards()[uid]) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.update(refrehs="1m"), ".refrehs: unknown"),
        (lambda d: d.update(title=7), "dashboard.title: 7"),
        (lambda d: d.update(graphTooltip=9), "dashboard.graph_tooltip: 9"),
        (lambda d: d["panels"][1].update(titel="x"), ".panels[1].titel: unknown"),
        (lambda d: d["panels"][1]["gridPos"].update(w="24"), "panels[1].grid_pos.w: '24'"),
        (lambda d: d["panels"][1]["options"].update(showHeadr=True), "showHeadr: unknown"),
    ],
)
def test_the_schema_sees_a_mistake(change: Any, problem: str) -> None:
    content = dashboards()["skinml-benchmark"]
    change(content)
    assert any(problem in found for found in problems(content)), problems(content)


def test_the_schema_sees_a_mistake_in_what_the_sdk_does_not_read() -> None:
    content = dashboards()["skinml-service"]
    [step] = [step for panel in content["panels"] for step in panel.get("transformations", [])]
    step["disabled"], step["optoins"] = step.pop("options"), {}
    found = " ".join(problems(content))
    assert "optoins: unknown" in found and ".disabled: {'excludeByName'" in found


def test_a_query_of_postgresql_has_no_other_fields() -> None:
    content = dashboards()["skinml-benchmark"]
    content["panels"][1]["targets"][0]["rawSQL"] = ""
    with pytest.raises(ValueError, match="has no rawSQL"):
        problems(content)


# What the page needs


@pytest.mark.parametrize("uid", dashboards())
def test_panels_have_a_place_and_an_id_of_their_own(uid: str) -> None:
    panels = dashboards()[uid]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        place = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not place & taken, f"{panel['title']} covers another"
        taken |= place


def test_every_data_source_is_provisioned() -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources" / "skinml.yml").read_text())
    provisioned = {source["uid"]: source["type"] for source in sources["datasources"]}
    for dashboard in dashboards().values():
        for panel in dashboard["panels"]:
            for part in [panel, *panel.get("targets", [])] if panel["type"] != "row" else []:
                source = part["datasource"]
                assert provisioned[source["uid"]] == source["type"]
    for rule in grafana_rules():
        for query in rule["data"]:
            assert query["datasourceUid"] in {*provisioned, "__expr__"}


def test_no_credential_is_in_a_file() -> None:
    text = (PROVISIONING / "datasources" / "skinml.yml").read_text()
    [password] = [
        line.split(":", 1)[1].strip() for line in text.splitlines() if "password:" in line
    ]
    assert password == "${GRAFANA_DB_PASSWORD}"
    scrape = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    for job in scrape["scrape_configs"]:
        assert set(job.get("basic_auth", {})) <= {"username", "password_file"}


def test_grafana_scrapes_as_often_as_prometheus() -> None:
    """Else $__rate_interval is shorter than four scrapes, and rates have gaps."""
    sources = yaml.safe_load((PROVISIONING / "datasources" / "skinml.yml").read_text())
    [source] = [row for row in sources["datasources"] if row["type"] == "prometheus"]
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
