"""Write the Grafana dashboards and Grafana's own alerts: `python dashboards/grafana/make.py`.

    dashboards/grafana/benchmark.json       results, running trainings, sweeps: MLflow's tables
    dashboards/grafana/service.json         requests, database, disk, backup: Prometheus
    deploy/grafana/provisioning/alerting/   what only SQL knows, and what Prometheus calls firing

The generator is grafana-foundation-sdk: Grafana's own, generated from the schemas of Grafana
itself, released every few weeks. grafanalib, written by hand, knows no panel type that came
after Grafana 10; grafonnet has handed over to the SDK and needs a language of its own. What the
SDK lacks is a query of the PostgreSQL data source: `Sql` is that, by the SDK's own recipe.

A panel is a row in a list below; tests/dashboards/ runs every query of the JSON as it comes out.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any, Self

from grafana_foundation_sdk.builders import alerting, bargauge, expr, stat, table, timeseries
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus as prometheus_builders
from grafana_foundation_sdk.cog import runtime
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import alerting as alerting_models
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from skinml.evaluation.metrics import METRICS

ROOT = Path(__file__).parents[2]

# The data sources of deploy/grafana/provisioning/datasources/.
POSTGRES = common.DataSourceRef("grafana-postgresql-datasource", "skinml-postgres")
PROMETHEUS = common.DataSourceRef("prometheus", "skinml-prometheus")

# Hours without an epoch after which a running training is taken for stuck. The longest epoch seen
# is NASNetMobile's on two CPU cores, five minutes; the features of a frozen step take twenty.
SILENT_HOURS = 3


class SqlQuery(Dataquery):
    """A query of Grafana's PostgreSQL data source."""

    def __init__(self, data: dict[str, Any]) -> None:
        unknown = data.keys() - {
            "refId",
            "datasource",
            "format",
            "rawSql",
            "rawQuery",
            "editorMode",
        }
        if unknown:
            raise ValueError(f"a PostgreSQL query has no {', '.join(sorted(unknown))}")
        self.data = data

    def to_json(self) -> dict[str, object]:
        return self.data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(data)


class Sql(Builder[SqlQuery]):
    """SQL as a table, or with `series` as curves: columns time, metric, value."""

    def __init__(self, sql: str, series: bool = False, ref_id: str = "A") -> None:
        self._query = SqlQuery(
            {
                "refId": ref_id,
                "datasource": {"type": POSTGRES.type_val, "uid": POSTGRES.uid},
                "format": "time_series" if series else "table",
                "rawSql": dedent(sql).strip(),
                "rawQuery": True,
                "editorMode": "code",
            }
        )

    def build(self) -> SqlQuery:
        return self._query


def register() -> None:
    """Let the SDK read `SqlQuery` from JSON, beside all that it knows itself."""
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    runtime.register_dataquery_variant(
        runtime.DataqueryConfig(str(POSTGRES.type_val), SqlQuery.from_json)
    )


# Panels


def _thresholds(*steps: tuple[float | None, str]) -> builders.ThresholdsConfig:
    return (
        builders.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value, color) for value, color in steps])
    )


def _prop(name: str, value: object) -> dashboard.DynamicConfigValue:
    return dashboard.DynamicConfigValue(name, value)


def _reduced(fields: str = "", values: bool = False) -> common_builders.ReduceDataOptions:
    return common_builders.ReduceDataOptions().calcs(["lastNotNull"]).fields(fields).values(values)


def _prom(
    expression: str, legend: str = "", instant: bool = False, ref_id: str = "A", rows: bool = False
) -> prometheus_builders.Dataquery:
    query = prometheus_builders.Dataquery().datasource(PROMETHEUS).ref_id(ref_id)
    query = query.expr(" ".join(dedent(expression).split())).legend_format(legend or "__auto")
    if rows:
        query = query.format(PromQueryFormat.TABLE)
    return query.instant() if instant else query.range()


def sql_table(title: str, sql: str, width: int = 24, height: int = 8, what: str = "") -> Any:
    return (
        table.Panel()
        .title(title)
        .description(what)
        .datasource(POSTGRES)
        .with_target(Sql(sql))
        .span(width)
        .height(height)
        .no_value("none")
    )


def _curves(title: str, unit: str, width: int, what: str) -> timeseries.Panel:
    legend = (
        common_builders.VizLegendOptions()
        .show_legend(True)
        .display_mode(common.LegendDisplayMode.TABLE)
        .placement(common.LegendPlacement.BOTTOM)
        .calcs(["lastNotNull", "max"])
    )
    tooltip = common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    return (
        timeseries.Panel()
        .title(title)
        .description(what)
        .unit(unit)
        .span(width)
        .height(8)
        .legend(legend)
        .tooltip(tooltip.sort(common.SortOrder.DESCENDING))
        .line_width(1)
        .fill_opacity(0)
        .show_points(common.VisibilityMode.AUTO)
        .span_nulls(True)
    )


def sql_curves(title: str, sql: str, unit: str = "short", width: int = 8, what: str = "") -> Any:
    return _curves(title, unit, width, what).datasource(POSTGRES).with_target(Sql(sql, series=True))


def prom_curves(
    title: str, *queries: tuple[str, str], unit: str = "short", width: int = 8, what: str = ""
) -> Any:
    """A panel of (expression, legend) pairs."""
    panel = _curves(title, unit, width, what).datasource(PROMETHEUS).min(0)
    for number, (expression, legend) in enumerate(queries):
        panel = panel.with_target(_prom(expression, legend, ref_id="ABCDEF"[number]))
    return panel


def prom_stat(
    title: str,
    expression: str,
    unit: str,
    *steps: tuple[float | None, str],
    width: int = 4,
    legend: str = "",
    what: str = "",
) -> Any:
    return (
        stat.Panel()
        .title(title)
        .description(what)
        .datasource(PROMETHEUS)
        .with_target(_prom(expression, legend, instant=True))
        .unit(unit)
        .thresholds(_thresholds(*steps))
        .color_mode(common.BigValueColorMode.BACKGROUND)
        .graph_mode(common.BigValueGraphMode.NONE)
        .reduce_options(_reduced())
        .span(width)
        .height(4)
        # Nothing to show is no good news: whatever should say it is gone.
        .no_value("no data")
    )


# The benchmark

# A cell of the results table is a network at a batch size, as in skinml.compare.
_EXPERIMENT = "${experiment:sqlstring}::int"
_TRAININGS = f"""runs r
    CROSS JOIN LATERAL (
      SELECT max(t.value) FILTER (WHERE t.key = 'kind') AS kind,
             max(t.value) FILTER (WHERE t.key = 'model') AS model,
             max(t.value) FILTER (WHERE t.key = 'batch_size') AS batch_size,
             max(t.value) FILTER (WHERE t.key = 'seed') AS seed,
             max(t.value) FILTER (WHERE t.key = 'split') AS split,
             max(t.value) FILTER (WHERE t.key = 'skinml.reason') AS reason
      FROM tags t WHERE t.run_uuid = r.run_uuid
    ) tag
    WHERE r.experiment_id = {_EXPERIMENT} AND r.lifecycle_stage = 'active'
      AND tag.kind = 'training'"""

# Milliseconds since 1970, as MLflow stores them. Cast first: the number of seconds is an integer
# of four bytes to PostgreSQL, a thousand times it is not.
_FROM, _TO = ("$__unixEpochFrom()::bigint * 1000", "$__unixEpochTo()::bigint * 1000")

# The metrics that have a column here: metric → its heading.
HEADLINE = {row.name: row.dashboard for row in METRICS if row.dashboard}


# The newest finished run of each cell, and what the cell is called.
_NEWEST = f"""WITH newest AS (
  SELECT DISTINCT ON (tag.model, tag.batch_size)
    r.run_uuid, r.name, r.start_time, r.end_time, tag.model, tag.batch_size, tag.seed,
    count(*) OVER (PARTITION BY tag.model, tag.batch_size) AS runs
  FROM {_TRAININGS}
    AND r.status = 'FINISHED' AND tag.split = ${{split:sqlstring}}
  ORDER BY tag.model, tag.batch_size, r.start_time DESC
)"""
_CELL = """n.model AS "Network",
  CASE WHEN n.batch_size ~ '^[0-9]+$' THEN n.batch_size::int END AS "Batch size\""""

# Metrics that each class has against the rest: the beginning of their names → its heading.
BY_CLASS = {"auc": "AUC", "sensitivity": "Sensitivity", "specificity": "Specificity"}


def _results_sql() -> str:
    columns, values = [], []
    for metric, title in HEADLINE.items():
        columns += [
            f'm.{metric} AS "{title}"',
            f"to_char(m.{metric}_low, 'FM0.0000') || ' to ' || to_char(m.{metric}_high, 'FM0.0000')"
            f' AS "{title}, 95 %"',
        ]
        values += [
            f"max(l.value) FILTER (WHERE l.key = 'test_{metric}{suffix}') AS {metric}{name}"
            for suffix, name in (("", ""), ("_ci_low", "_low"), ("_ci_high", "_high"))
        ]
    select, inner = ",\n  ".join(columns), ",\n    ".join(values)
    return f"""
{_NEWEST}
SELECT
  {_CELL},
  {select},
  n.seed AS "Seed",
  n.runs AS "Runs",
  to_timestamp(n.end_time / 1000.0) AS "Finished",
  n.run_uuid AS "Run"
FROM newest n
CROSS JOIN LATERAL (
  SELECT
    {inner}
  FROM latest_metrics l
  WHERE l.run_uuid = n.run_uuid AND l.key LIKE 'test\\_%' AND NOT l.is_nan
) m
ORDER BY m.accuracy DESC NULLS LAST"""


def _classes_sql() -> str:
    """A row a class of each cell, by the names of its metrics: no set of classes is expected."""
    values = ",\n    ".join(
        f"max(l.value) FILTER (WHERE l.key = 'test_{kind}_' || c.name) AS \"{title}\""
        for kind, title in BY_CLASS.items()
    )
    titles = ", ".join(f'm."{title}"' for title in BY_CLASS.values())
    return f"""
{_NEWEST}
SELECT
  {_CELL},
  replace(c.name, '_', ' ') AS "Class",
  {titles},
  n.run_uuid AS "Run"
FROM newest n
CROSS JOIN LATERAL (
  SELECT substring(f.key FROM 9) AS name FROM latest_metrics f
  WHERE f.run_uuid = n.run_uuid AND f.key LIKE 'test\\_f1\\_%'
    AND f.key !~ '^test_f1_(macro|weighted)(_ci_(low|high))?$'
) c
CROSS JOIN LATERAL (
  SELECT
    {values}
  FROM latest_metrics l
  WHERE l.run_uuid = n.run_uuid AND l.key LIKE 'test\\_%' AND NOT l.is_nan
) m
ORDER BY 1, 2, 3"""


def _epoch_curves_sql(name: str) -> str:
    return f"""
SELECT
  to_timestamp(m.timestamp / 1000.0) AS "time",
  r.name || ' (' || left(r.run_uuid, 4) || ') '
    || CASE m.key WHEN 'epoch/val_{name}' THEN 'validation' ELSE 'training' END AS metric,
  m.value
FROM {_TRAININGS.replace("runs r", "runs r JOIN metrics m ON m.run_uuid = r.run_uuid", 1)}
  AND r.status = 'RUNNING' AND m.key IN ('epoch/val_{name}', 'epoch/train_{name}')
  AND NOT m.is_nan AND m.timestamp BETWEEN {_FROM} AND {_TO}
ORDER BY 1"""


_RUNNING = f"""
SELECT
  r.name AS "Run",
  e.epoch AS "Epoch",
  p.epochs AS "Of",
  e.epoch / nullif(p.epochs, 0)::float AS "Progress",
  e.auc AS "Validation macro AUC",
  pace.seconds AS "Seconds an epoch",
  (p.epochs - e.epoch) * pace.seconds AS "Left",
  extract(epoch FROM now()) - coalesce(e.last, r.start_time) / 1000.0 AS "Last epoch",
  to_timestamp(r.start_time / 1000.0) AS "Started",
  r.run_uuid AS "Id"
FROM {
    _TRAININGS.replace(
        "runs r",
        '''runs r
    CROSS JOIN LATERAL (
      SELECT max(l.step) AS epoch, max(l.timestamp) AS last,
             max(l.value) FILTER (WHERE l.key = 'epoch/val_auc_macro') AS auc
      FROM latest_metrics l WHERE l.run_uuid = r.run_uuid AND l.key LIKE 'epoch/%'
    ) e
    CROSS JOIN LATERAL (
      -- What `auto` became is a parameter of its own. Not added up unless both are numbers.
      SELECT CASE count(*) WHEN 2 THEN sum(x.value::int) END AS epochs FROM (
        SELECT DISTINCT ON (replace(q.key, 'effective_', '')) q.value FROM params q
        WHERE q.run_uuid = r.run_uuid AND q.value ~ '^[0-9]+$'
          AND q.key IN ('epochs_frozen', 'epochs_finetune',
                        'effective_epochs_frozen', 'effective_epochs_finetune')
        ORDER BY replace(q.key, 'effective_', ''), q.key
      ) x
    ) p
    CROSS JOIN LATERAL (
      -- The last epochs: one of the frozen step says nothing of one of fine-tuning.
      SELECT avg(y.value) AS seconds FROM (
        SELECT m.value FROM metrics m WHERE m.run_uuid = r.run_uuid AND m.key = 'epoch/seconds'
        ORDER BY m.step DESC LIMIT 5
      ) y
    ) pace''',
        1,
    )
}
  AND r.status = 'RUNNING'
ORDER BY r.start_time"""

# A cell of a sweep is a configuration: the runs that tried it share its digest.
_SWEEPS = f"""
WITH sweeps AS (
  SELECT r.run_uuid, r.name, r.status, r.start_time, r.end_time,
         max(t.value) FILTER (WHERE t.key = 'cells') AS cells,
         max(t.value) FILTER (WHERE t.key = 'skinml.done_before') AS before,
         max(t.value) FILTER (WHERE t.key = 'skinml.reason') AS reason
  FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid
  WHERE r.experiment_id = {_EXPERIMENT} AND r.lifecycle_stage = 'active'
  GROUP BY r.run_uuid
  -- A start that went on with an earlier sweep has a run, but no key.
  HAVING bool_or(t.key = 'kind' AND t.value = 'sweep') AND bool_or(t.key = 'sweep_key')
  ORDER BY r.start_time DESC LIMIT 5
), tried AS (
  SELECT s.run_uuid AS sweep, c.status, digest.value AS cell
  FROM sweeps s
  JOIN tags parent ON parent.key = 'mlflow.parentRunId' AND parent.value = s.run_uuid
  JOIN runs c ON c.run_uuid = parent.run_uuid AND c.lifecycle_stage = 'active'
  JOIN tags digest ON digest.run_uuid = c.run_uuid AND digest.key = 'config_digest'
  UNION ALL
  SELECT s.run_uuid, 'FINISHED', digest.value
  FROM sweeps s
  JOIN tags digest ON digest.key = 'config_digest'
    AND digest.run_uuid = ANY (string_to_array(s.before, ','))
), cells AS (
  SELECT sweep, cell, bool_or(status = 'FINISHED') AS done, bool_or(status = 'RUNNING') AS running
  FROM tried GROUP BY sweep, cell
), counts AS (
  SELECT sweep, count(*) FILTER (WHERE done) AS done,
         count(*) FILTER (WHERE running AND NOT done) AS running,
         count(*) FILTER (WHERE NOT done AND NOT running) AS failed
  FROM cells GROUP BY sweep
)
SELECT
  s.name AS "Sweep",
  s.status AS "Status",
  coalesce(c.done, 0) AS "Done",
  coalesce(c.running, 0) AS "Running",
  coalesce(c.failed, 0) AS "Failed",
  s.cells::int AS "Cells",
  coalesce(c.done, 0) / nullif(s.cells::int, 0)::float AS "Progress",
  to_timestamp(s.start_time / 1000.0) AS "Started",
  s.reason AS "Reason",
  s.run_uuid AS "Id"
FROM sweeps s LEFT JOIN counts c ON c.sweep = s.run_uuid
ORDER BY s.start_time DESC"""

_STATUS = f"""
SELECT known.status AS "Status", count(found.status) AS "Runs"
FROM unnest(ARRAY['RUNNING', 'FINISHED', 'FAILED', 'KILLED', 'SCHEDULED'])
  WITH ORDINALITY AS known (status, place)
LEFT JOIN (
  SELECT r.status FROM {_TRAININGS}
) found ON found.status = known.status
GROUP BY known.status, known.place
ORDER BY known.place"""

_FAILURES = f"""
SELECT
  r.name AS "Run",
  r.status AS "Status",
  tag.reason AS "Reason",
  to_timestamp(coalesce(r.end_time, r.start_time) / 1000.0) AS "Ended",
  r.run_uuid AS "Id"
FROM {_TRAININGS}
  AND r.status IN ('FAILED', 'KILLED')
  AND coalesce(r.end_time, r.start_time) BETWEEN {_FROM} AND {_TO}
ORDER BY coalesce(r.end_time, r.start_time) DESC
LIMIT 20"""

# System metrics do not count: they go on for as long as the process is there, stuck or not.
# A sweep's own run logs nothing. All experiments: nobody needs to have chosen one.
SILENT = f"""
SELECT
  e.name AS "experiment",
  r.name AS "run",
  r.run_uuid AS "run_id",
  round((extract(epoch FROM now()) - greatest(r.start_time, last.at) / 1000.0) / 3600, 1) AS "hours"
FROM runs r
JOIN experiments e ON e.experiment_id = r.experiment_id
LEFT JOIN LATERAL (
  SELECT max(l.timestamp) AS at FROM latest_metrics l
  WHERE l.run_uuid = r.run_uuid AND l.key NOT LIKE 'system/%'
) last ON true
WHERE r.status = 'RUNNING' AND r.lifecycle_stage = 'active' AND e.lifecycle_stage = 'active'
  AND NOT EXISTS (
    SELECT FROM tags t WHERE t.run_uuid = r.run_uuid AND t.key = 'kind' AND t.value = 'sweep'
  )
  AND greatest(r.start_time, last.at) < extract(epoch FROM now() - interval '{SILENT_HOURS} hours')
    * 1000
ORDER BY 4 DESC"""


def _system_sql(pattern: str) -> str:
    """The load that runs logged, averaged over the panel's interval; `pattern` takes the name."""
    return f"""
SELECT
  $__unixEpochGroupAlias(m.timestamp / 1000, $__interval),
  r.name || ' (' || left(r.run_uuid, 4) || ') '
    || replace(substring(m.key FROM '^system/{pattern}$'), '_', ' ') AS metric,
  avg(m.value) AS value
FROM runs r
JOIN metrics m ON m.run_uuid = r.run_uuid
WHERE r.experiment_id = {_EXPERIMENT} AND r.lifecycle_stage = 'active'
  AND r.start_time <= {_TO} AND coalesce(r.end_time, {_TO}) >= {_FROM}
  AND m.key ~ '^system/{pattern}$' AND NOT m.is_nan
  AND m.timestamp BETWEEN {_FROM} AND {_TO}
GROUP BY 1, 2
ORDER BY 1"""


def _run_link(column: str) -> Callable[[Any], Any]:
    """Make a column of run ids lead to the run in the MLflow UI."""
    # The proxy leads /mlflow/ of Grafana's site to MLflow's, and browsers keep what is after the #.
    url = "${mlflow:raw}/#/experiments/${experiment}/runs/${__value.raw}"
    link = {"title": "open in MLflow", "url": url, "targetBlank": True}
    return lambda panel: panel.override_by_name(
        column, [_prop("links", [link]), _prop("custom.width", 120)]
    )


def _in_columns(panel: Any, columns: dict[str, dict[str, object]]) -> Any:
    for name, properties in columns.items():
        panel = panel.override_by_name(name, [_prop(*item) for item in properties.items()])
    return panel


_PROGRESS: dict[str, object] = {
    "unit": "percentunit",
    "min": 0,
    "max": 1,
    "custom.cellOptions": {"type": "gauge", "mode": "basic"},
}
_COLORS = {
    "RUNNING": "blue",
    "FINISHED": "green",
    "FAILED": "red",
    "KILLED": "orange",
    "SCHEDULED": "purple",
}


def _status_column() -> dict[str, object]:
    options = {
        name: {"color": color, "index": n} for n, (name, color) in enumerate(_COLORS.items())
    }
    return {
        "mappings": [{"type": "value", "options": options}],
        "custom.cellOptions": {"type": "color-text"},
    }


class _Hidden(builders.ConstantVariable):
    """A constant that does not show; its builder cannot say so itself."""

    def build(self) -> dashboard.VariableModel:
        model = super().build()
        model.hide = dashboard.VariableHide.HIDE_VARIABLE
        return model


def benchmark() -> builders.Dashboard:
    score = {"decimals": 4, "unit": "none"}
    results = sql_table(
        "Results: the newest finished run of each cell",
        _results_sql(),
        height=11,
        what=(
            "Test part, with 95 % bootstrap intervals over the test images; weighted precision, F1 "
            "and AUC, as in the paper's Table III. One split, all seeds. Intervals that overlap do "
            "not rank two networks: python -m skinml.compare tests that."
        ),
    )
    results = _in_columns(results, dict.fromkeys(HEADLINE.values(), score))
    results = _run_link("Run")(results)
    by_class = sql_table(
        "Classes: the same runs",
        _classes_sql(),
        height=9,
        what="Test part, each class against the rest. Of two classes one: the other says the same.",
    )
    by_class = _in_columns(by_class, dict.fromkeys(BY_CLASS.values(), score))
    by_class = _run_link("Run")(by_class)
    running = sql_table(
        "Running trainings",
        _RUNNING,
        width=24,
        height=7,
        what="Time left is that of the last five epochs: before fine-tuning it says too little.",
    )
    seconds = {"unit": "s", "decimals": 0}
    running = _in_columns(
        running,
        {
            "Progress": _PROGRESS,
            "Validation macro AUC": score,
            "Seconds an epoch": {"unit": "s", "decimals": 1},
            "Left": seconds,
            "Last epoch": {
                **seconds,
                "thresholds": {
                    "mode": "absolute",
                    "steps": [
                        {"value": None, "color": "text"},
                        {"value": 3600 * SILENT_HOURS, "color": "red"},
                    ],
                },
                "custom.cellOptions": {"type": "color-text"},
            },
        },
    )
    running = _run_link("Id")(running)
    status = (
        bargauge.Panel()
        .title("Runs by status")
        .description("All trainings of the experiment.")
        .datasource(POSTGRES)
        .with_target(Sql(_STATUS))
        .reduce_options(_reduced("/^Runs$/", values=True))
        .orientation(common.VizOrientation.HORIZONTAL)
        .display_mode(common.BarGaugeDisplayMode.BASIC)
        .min(0)
        .span(6)
        .height(8)
    )
    sweeps = sql_table(
        "Sweeps",
        _SWEEPS,
        width=18,
        what="The newest five. Failed are cells without a finished run that do not train now.",
    )
    sweeps = _in_columns(sweeps, {"Progress": _PROGRESS, "Status": _status_column()})
    failures = _in_columns(
        sql_table("What did not finish", _FAILURES, width=14), {"Status": _status_column()}
    )
    silent = sql_table(
        f"Running, and no epoch for {SILENT_HOURS} hours",
        SILENT,
        width=10,
        what="In all experiments. An alert says so too. Its process may be gone, or stuck.",
    )
    built = (
        builders.Dashboard("Benchmark")
        .uid("skinml-benchmark")
        .description("Made by dashboards/grafana/make.py: a change here is lost at the next start.")
        .tags(["skinml"])
        .readonly()
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .time("now-24h", "now")
        .refresh("1m")
        .with_variable(
            builders.QueryVariable("experiment")
            .label("Experiment")
            .datasource(POSTGRES)
            .query(EXPERIMENTS)
            .refresh(dashboard.VariableRefresh.ON_DASHBOARD_LOAD)
        )
        .with_variable(
            builders.QueryVariable("split")
            .label("Split")
            .datasource(POSTGRES)
            .query(SPLITS)
            .refresh(dashboard.VariableRefresh.ON_DASHBOARD_LOAD)
        )
        .with_variable(_Hidden("mlflow").value("/mlflow"))
    )
    cpu, memory = "(cpu_utilization)_percentage", "(system_memory_usage)_percentage"
    return _laid_out(
        built,
        {
            "Results": [results, by_class],
            "Now": [
                running,
                sql_curves("Loss", _epoch_curves_sql("loss")),
                sql_curves("Accuracy", _epoch_curves_sql("accuracy"), "percentunit"),
                sql_curves("Macro AUC", _epoch_curves_sql("auc_macro")),
            ],
            "Runs": [
                status,
                _run_link("Id")(sweeps),
                _run_link("Id")(failures),
                _run_link("run_id")(silent),
            ],
            "Machines that train": [
                sql_curves("GPU", _system_sql("(gpu_[0-9]+_utilization)_percentage"), "percent", 6),
                sql_curves(
                    "GPU memory", _system_sql("(gpu_[0-9]+_memory_usage)_percentage"), "percent", 6
                ),
                sql_curves("CPU", _system_sql(cpu), "percent", 6),
                sql_curves("Memory", _system_sql(memory), "percent", 6),
            ],
        },
    )


# The variables: the experiment with the newest run first, its splits likewise.
EXPERIMENTS = dedent("""\
    SELECT e.name AS __text, e.experiment_id::text AS __value
    FROM experiments e LEFT JOIN runs r ON r.experiment_id = e.experiment_id
    WHERE e.lifecycle_stage = 'active'
    GROUP BY e.experiment_id
    ORDER BY max(r.start_time) DESC NULLS LAST""")
SPLITS = dedent(f"""\
    SELECT t.value
    FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'split'
    WHERE r.experiment_id = {_EXPERIMENT} AND r.lifecycle_stage = 'active'
      AND r.status = 'FINISHED'
    GROUP BY t.value
    ORDER BY max(r.start_time) DESC""")


# The service

# By method, as MLflow's metrics know no path: a GET reads, a POST logs or searches. Uploads and
# downloads of artifacts are not among them at all. 401 is left out of the errors: a browser's first
# request.
_REQUESTS = 'mlflow_http_request_total{job="mlflow"}'
_BUCKETS = 'mlflow_http_request_duration_seconds_bucket{job="mlflow"}'
_DATABASE = 'datname=~"$database"'


def _quantiles(share: float) -> str:
    # A method that nobody uses now has no latency, and NaN is not one.
    return f"""histogram_quantile({share},
      sum by (le, method) (rate({_BUCKETS}[$__rate_interval]))) >= 0"""


def service() -> builders.Dashboard:
    good_above = ((None, "red"), (1, "green"))
    targets = prom_stat(
        "Up", 'min by (job) (up{job!=""})', "none", *good_above, width=8, legend="{{job}}"
    ).mappings(
        [
            dashboard.ValueMap(
                {
                    "0": dashboard.ValueMappingResult("down", "red", index=0),
                    "1": dashboard.ValueMappingResult("up", "green", index=1),
                }
            )
        ]
    )
    firing = (
        table.Panel()
        .title("Alerts")
        .description("Of Prometheus; deploy/prometheus/rules/ has their words.")
        .datasource(PROMETHEUS)
        .with_target(
            _prom("sum by (alertname, alertstate, severity) (ALERTS)", instant=True, rows=True)
        )
        .span(8)
        .height(8)
        .no_value("none")
        .with_transformation(
            dashboard.DataTransformerConfig(
                "organize", options={"excludeByName": {"Time": True, "Value": True}}
            )
        )
    )
    built = (
        builders.Dashboard("Service")
        .uid("skinml-service")
        .description("Made by dashboards/grafana/make.py: a change here is lost at the next start.")
        .tags(["skinml"])
        .readonly()
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .time("now-6h", "now")
        .refresh("30s")
        .with_variable(
            builders.QueryVariable("database")
            .label("Database")
            .datasource(PROMETHEUS)
            .query(
                {
                    "qryType": 1,
                    "query": 'label_values(pg_database_size_bytes{datname!~"template.*"}, datname)',
                    "refId": "PrometheusVariableQueryEditor-VariableQuery",
                }
            )
            .multi(True)
            .include_all(True)
            .current(dashboard.VariableOption(text=["All"], value=["$__all"], selected=True))
            .refresh(dashboard.VariableRefresh.ON_DASHBOARD_LOAD)
        )
    )
    share = f"""sum(rate(mlflow_http_request_total{{job="mlflow",status=~"5.."}}[$__rate_interval]))
      / sum(rate({_REQUESTS}[$__rate_interval])) or sum(rate({_REQUESTS}[$__rate_interval])) * 0"""
    return _laid_out(
        built,
        {
            "Now": [
                targets,
                prom_stat(
                    "Since the last backup",
                    "time() - max(skinml_backup_last_success_timestamp_seconds)",
                    "s",
                    (None, "green"),
                    (26 * 3600, "red"),
                    what="An alert fires after 26 hours.",
                ),
                prom_stat(
                    "Connections in use",
                    """sum(pg_stat_activity_count{job="postgres"})
                      / min(pg_settings_max_connections{job="postgres"})""",
                    "percentunit",
                    (None, "green"),
                    (0.8, "red"),
                ),
                firing,
            ],
            "Requests": [
                prom_curves(
                    "Requests",
                    (
                        f"sum by (method, status) (rate({_REQUESTS}[$__rate_interval]))",
                        "{{method}} {{status}}",
                    ),
                    unit="reqps",
                ),
                prom_curves(
                    "Errors",
                    (share, "of the server (5xx)"),
                    (
                        f"""sum(rate(mlflow_http_request_total{{job="mlflow",status=~"4..",
                          status!="401"}}[$__rate_interval]))
                          / sum(rate({_REQUESTS}[$__rate_interval]))
                          or sum(rate({_REQUESTS}[$__rate_interval])) * 0""",
                        "of a caller (4xx but 401)",
                    ),
                    unit="percentunit",
                    what="The share of all requests.",
                ),
                prom_curves(
                    "Latency",
                    (_quantiles(0.5), "{{method}} median"),
                    (_quantiles(0.95), "{{method}} 95 %"),
                    (_quantiles(0.99), "{{method}} 99 %"),
                    unit="s",
                    what=(
                        "GET reads, POST logs or searches. MLflow's metrics know the method, not "
                        "the path, and leave out the artifacts."
                    ),
                ),
            ],
            "Database": [
                prom_curves(
                    "Connections",
                    (
                        f"sum by (datname, state) (pg_stat_activity_count{{{_DATABASE}}}) > 0",
                        "{{datname}} {{state}}",
                    ),
                    ("min(pg_settings_max_connections)", "limit"),
                ),
                prom_curves(
                    "Size", (f"pg_database_size_bytes{{{_DATABASE}}}", "{{datname}}"), unit="bytes"
                ),
                prom_curves(
                    "Transactions",
                    (
                        f"sum(rate(pg_stat_database_xact_commit{{{_DATABASE}}}[$__rate_interval]))",
                        "committed",
                    ),
                    (
                        f"""sum(rate(pg_stat_database_xact_rollback{{{_DATABASE}}}
                          [$__rate_interval]))""",
                        "rolled back",
                    ),
                    unit="ops",
                ),
            ],
            "Disk and backup": [
                prom_curves(
                    "Artifact volume",
                    ("skinml_artifacts_filesystem_size_bytes", "size of the disk"),
                    ("skinml_artifacts_filesystem_free_bytes", "free"),
                    ("skinml_backup_last_artifacts_bytes", "artifacts, at the last backup"),
                    unit="bytes",
                ),
                prom_curves(
                    "Backup volume",
                    ("skinml_backups_filesystem_size_bytes", "size of the disk"),
                    ("skinml_backups_filesystem_free_bytes", "free"),
                    ("skinml_backup_last_database_bytes", "the last dump of the database"),
                    unit="bytes",
                ),
                prom_curves(
                    "Backup age",
                    ("time() - skinml_backup_last_success_timestamp_seconds", "age"),
                    unit="s",
                    what="Falls to nothing at each backup that succeeds.",
                ),
            ],
        },
    )


def _laid_out(built: builders.Dashboard, rows: dict[str, list[Any]]) -> builders.Dashboard:
    """Add rows of panels, each panel with an id of its own, so that a link to it stays one."""
    number = 0
    for title, panels in rows.items():
        number += 1
        built = built.with_row(builders.Row(title).id(number))
        for panel in panels:
            number += 1
            built = built.with_panel(panel.id(number))
    return built


# The alerts that Grafana itself evaluates, and the one that carries those of Prometheus


def _rule(
    uid: str, title: str, query: Any, source: common.DataSourceRef, wait: str, **words: str
) -> dict[str, object]:
    """A rule as provisioning reads it: fires for each row or series of the query above 0."""
    condition = (
        expr.TypeThreshold()
        .ref_id("C")
        .expression("A")
        .datasource(common.DataSourceRef("__expr__", "__expr__"))
        .conditions(
            [
                expr.ExprTypeThresholdConditions().evaluator(
                    expr.ExprTypeThresholdConditionsEvaluator().params([0]).type("gt")
                )
            ]
        )
    )
    span = alerting_models.RelativeTimeRange(600, 0)
    rule = (
        alerting.Rule(title)
        .uid(uid)
        .condition("C")
        .with_query(
            alerting.Query("A")
            .datasource_uid(str(source.uid))
            .relative_time_range(span)
            .model(query)
        )
        .with_query(
            alerting.Query("C")
            .datasource_uid("__expr__")
            .relative_time_range(span)
            .model(condition)
        )
        # No row is no problem; a data source that does not answer is one.
        .no_data_state("OK")
        .exec_err_state("Alerting")
        .for_val(wait)
        .annotations(words)
        .labels({"severity": "warning"})
        .build()
    )
    made = json.loads(JSONEncoder().encode(rule))
    # A file gives the folder, the group and the organisation once, for all of its rules.
    return {
        key: value for key, value in made.items() if key not in ("folderUID", "ruleGroup", "orgID")
    }


def alerts() -> dict[str, object]:
    silent = _rule(
        "skinml-silent-run",
        "A training logs nothing",
        Sql(SILENT),
        POSTGRES,
        "5m",
        # In braces, not with a dollar: provisioning takes that for an environment variable.
        summary="{{ .Labels.run }} in {{ .Labels.experiment }} is RUNNING and has logged no epoch "
        f"for more than {SILENT_HOURS} hours.",
        description="Look at its process. One that is gone leaves the run RUNNING for ever: end it "
        "with MlflowClient().set_terminated(run_id, 'KILLED'); a sweep that is started again does "
        "so by itself. Run {{ .Labels.run_id }}.",
    )
    firing = _rule(
        "skinml-prometheus",
        "Prometheus has an alert",
        _prom('sum by (alertname) (ALERTS{alertstate="firing"})', instant=True),
        PROMETHEUS,
        "0s",  # Prometheus has waited.
        summary="{{ .Labels.alertname }} is firing in Prometheus.",
        description="deploy/prometheus/rules/ says what it means and what to do. Where this alert "
        "has the state Error, Prometheus itself does not answer.",
    )
    group = {"orgId": 1, "name": "skinml", "folder": "skinml", "interval": "1m"}
    return {"apiVersion": 1, "groups": [{**group, "rules": [silent, firing]}]}


def contact() -> dict[str, object]:
    """Who is told of an alert: one address, by mail, each time and again after half a day."""
    receiver = alerting_models.ContactPoint(
        uid="skinml-mail", type_val="email", settings={"addresses": "$ALERT_EMAIL"}
    )
    policy = alerting.NotificationPolicy()
    policy = policy.receiver("skinml").group_by(["alertname"]).repeat_interval("12h")
    made: dict[str, Any] = json.loads(JSONEncoder().encode([receiver, policy.build()]))
    return {
        "apiVersion": 1,
        "contactPoints": [{"orgId": 1, "name": "skinml", "receivers": [made[0]]}],
        "policies": [{"orgId": 1, **made[1]}],
    }


def files() -> dict[str, str]:
    """What this makes: the path from the repository's root → the file's content."""
    made = {
        "dashboards/grafana/benchmark.json": benchmark().build(),
        "dashboards/grafana/service.json": service().build(),
        "deploy/grafana/provisioning/alerting/rules.json": alerts(),
        "deploy/grafana/provisioning/alerting/contact.json": contact(),
    }
    encoder = JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False)
    return {path: encoder.encode(content) + "\n" for path, content in made.items()}


def main() -> int:
    for path, text in files().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
