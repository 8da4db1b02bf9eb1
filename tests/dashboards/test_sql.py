"""Every SQL query of the dashboards, as Grafana sends it, to a PostgreSQL full of real runs."""

import re
import time
from decimal import Decimal
from typing import Any

import pytest

from tests.dashboards.conftest import (
    BATCH_SIZES,
    MODELS,
    OWNER,
    READER,
    READER_PASSWORDS,
    SPLIT,
    Filled,
    dashboards,
    grafana_rules,
    panel_queries,
)

# Six hours back, a panel of some 600 pixels.
SPAN, INTERVAL = 6 * 3600, 30

CURVE = ["time", "metric", "value"]
SCORES = ["Accuracy", "Precision", "F1", "AUC"]

# What each panel's query returns: its columns in their order.
COLUMNS = {
    "Results: the newest finished run of each cell": [
        "Network",
        "Batch size",
        *(part for score in SCORES for part in (score, f"{score}, 95 %")),
        "Seed",
        "Runs",
        "Finished",
        "Run",
    ],
    "Classes: the same runs": [
        *("Network", "Batch size", "Class", "AUC", "Sensitivity", "Specificity", "Run"),
    ],
    "Running trainings": [
        "Run",
        "Epoch",
        "Of",
        "Progress",
        "Validation macro AUC",
        "Seconds an epoch",
        "Left",
        "Last epoch",
        "Started",
        "Id",
    ],
    "Loss": CURVE,
    "Accuracy": CURVE,
    "Macro AUC": CURVE,
    "Runs by status": ["Status", "Runs"],
    "Sweeps": [
        "Sweep",
        "Status",
        "Done",
        "Running",
        "Failed",
        "Cells",
        "Progress",
        "Started",
        "Reason",
        "Id",
    ],
    "What did not finish": ["Run", "Status", "Reason", "Ended", "Id"],
    "Running, and no epoch for 3 hours": ["experiment", "run", "run_id", "hours"],
    "GPU": CURVE,
    "GPU memory": CURVE,
    "CPU": CURVE,
    "Memory": CURVE,
}

SQL_PANELS = {query.panel["title"]: query for query in panel_queries() if query.is_sql}


# Grafana


def expand_macros(sql: str, start: int, end: int, interval: int) -> str:
    """What Grafana's backend makes of a query of its PostgreSQL data source.

    As pkg/tsdb/sqleng/sql_engine.go and pkg/tsdb/grafana-postgresql-datasource/macros.go do: plain
    replacements first, then macros, whose arguments end at the first bracket and at each comma.
    """
    sql = sql.replace("$__interval_ms", str(interval * 1000)).replace("$__interval", f"{interval}s")
    sql = sql.replace("$__unixEpochFrom()", str(start)).replace("$__unixEpochTo()", str(end))

    def macro(found: re.Match[str]) -> str:
        name, arguments = found[1], [argument.strip(" ") for argument in found[2].split(",")]
        if name == "__unixEpochGroupAlias":
            seconds = int(arguments[1].strip("'").removesuffix("s"))
            return f'floor(({arguments[0]})/{seconds})*{seconds} AS "time"'
        raise ValueError(f"unknown macro {name!r}: Grafana has more, the dashboards need no other")

    return re.sub(r"\$([_a-zA-Z0-9]+)\(([^\)]*)\)", macro, sql)


def fill_in(text: str, values: dict[str, str]) -> str:
    """What Grafana's page makes of ${name:sqlstring}: quoted, each quote within doubled."""
    return re.sub(
        r"\$\{(\w+):sqlstring\}", lambda m: "'" + values[m[1]].replace("'", "''") + "'", text
    )


def as_sent(sql: str, filled: Filled, split: str = SPLIT) -> str:
    now = int(time.time())
    sql = fill_in(sql, {"experiment": filled.experiment, "split": split})
    return expand_macros(sql, now - SPAN, now + 60, INTERVAL)


def answer(
    filled: Filled, sql: str, role: str = READER
) -> tuple[list[str], list[dict[str, Any]], list[type]]:
    """Columns, rows and the columns' types, seen by Grafana's own role."""
    with filled.postgres.connect(role) as connection:
        cursor = connection.execute(sql)
        columns = [column.name for column in cursor.description]
        rows = cursor.fetchall()
    types = [
        type(next((v for v in values if v is not None), None)) for values in zip(*rows, strict=True)
    ]
    return columns, [dict(zip(columns, row, strict=True)) for row in rows], types


def panel_rows(filled: Filled, title: str, **values: str) -> list[dict[str, Any]]:
    return answer(filled, as_sent(SQL_PANELS[title].target["rawSql"], filled, **values))[1]


def test_macros_are_expanded_as_grafana_does() -> None:
    sql = (
        "SELECT $__unixEpochGroupAlias(m.timestamp / 1000, $__interval) WHERE x > $__unixEpochTo()"
    )
    assert expand_macros(sql, 5, 7, 60) == (
        'SELECT floor((m.timestamp / 1000)/60)*60 AS "time" WHERE x > 7'
    )
    # A bracket within ends a macro too early, in Grafana and here.
    assert ')"' not in expand_macros("$__unixEpochGroupAlias(t, 5s)", 0, 1, 5)
    with pytest.raises(ValueError, match="__timeFilter"):
        expand_macros("WHERE $__timeFilter(t)", 0, 1, 5)
    assert fill_in("= ${split:sqlstring}", {"split": "o'clock"}) == "= 'o''clock'"


# Panels


@pytest.mark.parametrize("title", SQL_PANELS)
def test_a_panel_shows_rows_of_its_columns(title: str, filled: Filled) -> None:
    query = SQL_PANELS[title]
    sql = as_sent(query.target["rawSql"], filled)
    assert "$" not in sql.replace("$'", "'"), "a macro or variable is left"
    columns, rows, types = answer(filled, sql)
    assert columns == COLUMNS[title]
    assert rows
    if query.target["format"] == "time_series":
        # What Grafana makes curves of: a time or seconds, a name, a number.
        assert types[1:] == [str, float], types
        assert all(row["value"] is not None for row in rows)
        assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)


def test_every_panel_with_sql_is_tested() -> None:
    assert set(SQL_PANELS) == set(COLUMNS)


@pytest.mark.parametrize("title", SQL_PANELS)
def test_what_a_panel_formats_is_a_column_of_its_query(title: str) -> None:
    overrides = SQL_PANELS[title].panel["fieldConfig"]["overrides"]
    named = {override["matcher"]["options"] for override in overrides}
    assert named <= set(COLUMNS[title])


def test_the_results_are_the_newest_finished_run_of_each_cell(filled: Filled) -> None:
    rows = panel_rows(filled, "Results: the newest finished run of each cell")
    cells = [(model, size) for model in MODELS for size in BATCH_SIZES]
    # The ninth failed, and trains again now.
    assert [(row["Network"], row["Batch size"]) for row in rows] == cells[:8]
    assert [row["Accuracy"] for row in rows] == pytest.approx([0.9 - n / 50 for n in range(8)])
    first = rows[0]
    assert first["Run"] == filled.runs["done before"]
    assert first["Runs"] == 2, "the older run of the cell is counted, the other split is not"
    assert first["Accuracy, 95 %"] == "0.8500 to 0.9500"
    assert {first[score] for score in SCORES} == {0.9}
    other = panel_rows(filled, "Results: the newest finished run of each cell", split="challenge")
    assert [row["Accuracy"] for row in other] == [0.98]


def test_every_class_has_a_row(filled: Filled) -> None:
    """Also of a set of somebody's own: by the names of the metrics alone."""
    rows = panel_rows(filled, "Classes: the same runs")
    assert [row["Class"] for row in rows[:3]] == ["melanoma", "nevus", "seborrheic keratosis"]
    assert len(rows) == 8 * 3 and all(row["AUC"] == row["Sensitivity"] for row in rows)
    own = panel_rows(filled, "Classes: the same runs", split="of my own")
    named = ["Basaliom groß", "melanoma", "nævus rare", "νεύρωμα"]
    assert sorted(row["Class"] for row in own) == sorted(named)
    assert {row["Specificity"] for row in own} == {0.96}


def test_a_split_may_hold_a_quote(filled: Filled) -> None:
    sql = SQL_PANELS["Results: the newest finished run of each cell"].target["rawSql"]
    assert answer(filled, as_sent(sql, filled, split="o'clock'; DROP TABLE runs --"))[1] == []


def test_the_running_training_is_at_its_epoch(filled: Filled) -> None:
    rows = {row["Id"]: row for row in panel_rows(filled, "Running trainings")}
    assert set(rows) == {filled.runs[name] for name in ("running", "silent", "never")}
    row = rows[filled.runs["running"]]
    # 50 is what `auto` became, 10 what was given; 20 + epoch the seconds of an epoch.
    assert (row["Epoch"], row["Of"], row["Progress"]) == (3, 60, 0.05)
    assert row["Seconds an epoch"] == 22.0
    assert row["Left"] == 57 * 22.0
    assert 0 <= row["Last epoch"] < 300
    never = rows[filled.runs["never"]]
    assert (never["Epoch"], never["Of"], never["Left"]) == (None, None, None)
    assert never["Last epoch"] == pytest.approx(5 * 3600, abs=300)


def test_the_curves_are_those_of_the_running_runs(filled: Filled) -> None:
    # That of the silent run stands at its own time, within the span.
    [running, silent] = sorted({row["metric"].split(" (")[0] for row in panel_rows(filled, "Loss")})
    assert (running, silent) == ("nasnetmobile-64-seed1", "silent-run")
    rows = panel_rows(filled, "Accuracy")
    assert {row["metric"].split(") ")[1] for row in rows} == {"training", "validation"}
    validation = [row["value"] for row in rows if row["metric"].endswith("validation")]
    assert validation == pytest.approx([0.08, 0.16, 0.24])


def test_every_status_has_its_number(filled: Filled) -> None:
    rows = {row["Status"]: row["Runs"] for row in panel_rows(filled, "Runs by status")}
    # Twelve finished of which one is deleted; the sweep's own run is no training.
    assert rows == {"RUNNING": 3, "FINISHED": 11, "FAILED": 1, "KILLED": 0, "SCHEDULED": 0}


def test_the_sweep_counts_cells_not_runs(filled: Filled) -> None:
    [row] = panel_rows(filled, "Sweeps")
    assert (row["Id"], row["Status"]) == (filled.runs["sweep"], "RUNNING")
    assert (row["Done"], row["Running"], row["Failed"], row["Cells"]) == (8, 1, 1, 9)
    assert row["Progress"] == 8 / 9


def test_a_failure_gives_its_reason(filled: Filled) -> None:
    [row] = panel_rows(filled, "What did not finish")
    assert (row["Id"], row["Reason"]) == (filled.runs["failed"], "no memory left for a test")


def test_the_load_is_that_of_each_processor(filled: Filled) -> None:
    names = {row["metric"].split(") ")[1] for row in panel_rows(filled, "GPU")}
    assert names == {"gpu 0 utilization", "gpu 1 utilization"}
    assert {row["value"] for row in panel_rows(filled, "GPU")} == {87.0}
    assert {row["value"] for row in panel_rows(filled, "GPU memory")} == {25.0}
    for title in ("CPU", "Memory"):
        for row in panel_rows(filled, title):
            assert 0 <= row["value"] <= 100
            # Seconds since 1970, at the beginning of an interval.
            assert row["time"] % INTERVAL == 0 and abs(row["time"] - time.time()) < SPAN


def test_the_choices_are_the_experiments_and_their_splits(filled: Filled) -> None:
    variables = {
        variable["name"]: variable
        for variable in dashboards()["skinml-benchmark"]["templating"]["list"]
    }
    columns, rows, _ = answer(filled, as_sent(variables["experiment"]["query"], filled))
    assert columns == ["__text", "__value"]
    assert rows[0] == {"__text": "skinml", "__value": filled.experiment}
    assert {row["__text"] for row in rows} == {"skinml", "Default", "empty"}
    _, rows, _ = answer(filled, as_sent(variables["split"]["query"], filled))
    assert [row["value"] for row in rows] == [SPLIT, "of my own", "challenge"]


def test_an_empty_experiment_shows_empty_panels(filled: Filled) -> None:
    with filled.postgres.connect(READER) as connection:
        [[empty]] = connection.execute(
            "SELECT experiment_id FROM experiments WHERE name = 'empty'"
        ).fetchall()
    nothing = Filled(filled.postgres, str(empty), {})
    for title in SQL_PANELS.keys() - {"Running, and no epoch for 3 hours"}:
        rows = panel_rows(nothing, title, split="")
        expected = [0] * 5 if title == "Runs by status" else []
        assert [row.get("Runs") for row in rows] == expected, title


# The alert


def test_the_alert_names_runs_that_log_no_epoch(filled: Filled) -> None:
    [rule] = [rule for rule in grafana_rules() if rule["uid"] == "skinml-silent-run"]
    [query, condition] = rule["data"]
    sql = query["model"]["rawSql"]
    assert "$" not in sql, "an alert has no variables, and provisioning takes $ for its own"
    columns, rows, types = answer(filled, sql)
    # Grafana makes an alert of each row: its texts are labels, its one number the value.
    assert columns == ["experiment", "run", "run_id", "hours"]
    assert types == [str, str, str, Decimal]
    assert {row["run_id"]: float(row["hours"]) for row in rows} == {
        filled.runs["never"]: 5.0,
        filled.runs["silent"]: 4.0,
    }
    assert {row["experiment"] for row in rows} == {"skinml"}
    assert condition["model"]["conditions"] == [{"evaluator": {"params": [0], "type": "gt"}}]
    for name in re.findall(r"\.Labels\.(\w+)", " ".join(rule["annotations"].values())):
        assert name in columns


# The role


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM metrics",
        "UPDATE runs SET status = 'FINISHED'",
        "INSERT INTO tags (key, value, run_uuid) SELECT 'a', 'b', run_uuid FROM runs",
        "TRUNCATE latest_metrics",
        "DROP TABLE params",
        "CREATE TABLE mine (a int)",
        "CREATE TEMP TABLE mine (a int)",
        "SELECT * FROM registered_models",
        "SELECT * FROM trace_info",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY runs TO PROGRAM 'cat'",
        "SET ROLE mlflow",
        "ALTER ROLE grafana SUPERUSER",
    ],
)
@pytest.mark.parametrize("session", ["as it is", "made writable"])
def test_grafanas_role_reads_and_does_nothing_else(
    statement: str, session: str, filled: Filled
) -> None:
    import psycopg

    with filled.postgres.connect(READER) as connection:
        if session == "made writable":
            # The setting is for accidents: a role may undo it. What holds is what was granted.
            connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(
            (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)
        ):
            connection.execute(statement)
    with filled.postgres.connect(OWNER) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone()[0] > 0


def test_a_query_without_end_is_ended(filled: Filled) -> None:
    with filled.postgres.connect(READER) as connection:
        assert connection.execute("SHOW statement_timeout").fetchone()[0] == "15s"


def test_the_roles_are_made_again_without_harm(filled: Filled) -> None:
    made = filled.postgres.make_readers(**READER_PASSWORDS)
    assert (made.returncode, made.stderr) == (0, "")


@pytest.mark.parametrize(
    "passwords",
    [
        {},
        {"GRAFANA_DB_PASSWORD": "only-for-reading"},
        READER_PASSWORDS | {"EXPORTER_DB_PASSWORD": "short"},
    ],
)
def test_no_role_is_made_without_its_password(passwords: dict[str, str], filled: Filled) -> None:
    made = filled.postgres.make_readers(**passwords)
    assert made.returncode != 0
    assert "expected 12 characters or more" in made.stderr


def test_the_exporter_sees_no_table(filled: Filled) -> None:
    import psycopg

    with filled.postgres.connect("exporter") as connection:
        assert connection.execute("SELECT pg_database_size('mlflow')").fetchone()[0] > 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM public.runs")
