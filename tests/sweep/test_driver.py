"""A sweep: which cells it trains, in what processes, and what stands when it is stopped.

Three kinds of cells. QUICK ones, a script without any library, for how they are scheduled. Those of
stand_in_training.py, with a real MLflow run but no network to train, for what is left of a sweep
that is stopped or killed. And one that trains a real network, started by `mlflow run`.
"""

import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from pytest import CaptureFixture, MonkeyPatch

from skinml.base.errors import UserError
from skinml.base.processes import cores_of
from skinml.config import Config
from skinml.data.prepared import PreparedSet
from skinml.evaluation.predictions import write_predictions
from skinml.sweep.__main__ import main
from skinml.sweep.alone import only_one
from skinml.sweep.engines.local import LocalEngine, visible_gpus
from skinml.sweep.orders import cell_command
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.journal import Journal
from skinml.tracking.record import record_end, record_start
from skinml.training.code_digest import evaluation_digest
from tests.sweeps import ROOT, StartedSweep
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

needs_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="this system cannot choose cores"
)
needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")

# What a cell does, by its name without seeds, stands in plan.json: "fail", "sigkill", "silent",
# "wait" (for the file go) or nothing.
QUICK = """
import json, os, signal, sys, time
from pathlib import Path

options = dict(a.removeprefix("--").split("=", 1) for a in sys.argv[1:] if "=" in a)
name = f"{options['model']}-{options['batch_size']}"
plan = json.loads(Path("plan.json").read_text()).get(name, "")
seen = Path("seen")
seen.mkdir(exist_ok=True)
record = {"start": time.time(), "pid": os.getpid(), "session": os.getsid(0),
          "cores": sorted(getattr(os, "sched_getaffinity", lambda _: [])(0)), "options": options,
          "variables": {k: v for k, v in os.environ.items() if "MLFLOW" in k or "SKINML" in k
                        or k == "CUDA_VISIBLE_DEVICES"}}
(seen / f"{name}.json").write_text(json.dumps(record))
print("a first line")
if plan == "fail":
    print("Traceback (most recent call last):\\n  ...\\n\\x1b[31mValueError: no luck\\x1b[0m\\n")
    sys.exit(1)
if plan == "sigkill":
    os.kill(os.getpid(), signal.SIGKILL)
while plan == "wait" and not Path("go").exists():
    time.sleep(0.05)
time.sleep(0.3)
record["end"] = time.time()
(seen / f"{name}.json").write_text(json.dumps(record))
if plan == "silent":
    sys.exit(0)
folder = Path(options.get("resume", f"{options['output_dir']}/run-{time.time_ns()}"))
folder.mkdir(exist_ok=True)
row = {"epoch": 1, "step": "finetune", "val_auc_macro": 0.9, "time": int(time.time() * 1000)}
(folder / "history.csv").write_text(f"{','.join(row)}\\n{','.join(map(str, row.values()))}\\n")
(folder / "metrics.json").write_text('{"test_accuracy": 0.75, "test_auc_macro": 0.875}')
(folder / "mlflow_run_id").write_text("f" * 32)
(folder / "FINISHED").touch()
"""


@pytest.fixture
def options(toy_set: PreparedSet) -> list[str]:
    """Two models at two batch sizes on the toy set."""
    given = {
        "models": "mobilenet,mobilenetv2",
        "batch_sizes": "16,32",
        "data": "demo",
        "data_dir": str(toy_set.folder),
        "protocol": "challenge",
        "weights": "none",
        "epochs_finetune": "3",
    }
    return [f"--{name}={value}" for name, value in given.items()]


Sweep = Callable[..., int]


@pytest.fixture
def sweep(store: "MlflowClient", options: list[str], tmp_path: Path) -> Sweep:
    """Runs a sweep of QUICK cells in this process; keywords say what a cell does."""
    (tmp_path / "quick.py").write_text(QUICK)

    def sweep(*more: str, **plan: str) -> int:
        by_name = {name.replace("_", "-"): what for name, what in plan.items()}
        (tmp_path / "plan.json").write_text(json.dumps(by_name))
        return main(
            [*options, *more],
            lambda config: [sys.executable, "quick.py", *cell_command(config)[3:]],
        )

    return sweep


def seen() -> dict[str, dict[str, Any]]:
    """What the cells that were started wrote down."""
    return {path.stem: json.loads(path.read_text()) for path in Path("seen").glob("*.json")}


def sweep_runs(experiment: str = "skinml-demo") -> "list[Run]":
    """The runs that stand for sweeps."""
    return [run for run in all_runs(experiment) if run.data.tags.get("kind") == "sweep"]


def all_runs(experiment: str = "skinml-demo") -> "list[Run]":
    from mlflow import MlflowClient

    client = MlflowClient()
    found = client.get_experiment_by_name(experiment)
    assert found
    return list(client.search_runs([found.experiment_id]))


ALL = {"mobilenet-16", "mobilenet-32", "mobilenetv2-16", "mobilenetv2-32"}


# Every cell, each in a process of its own


def test_every_cell_is_trained_below_one_run(sweep: Sweep, capsys: CaptureFixture[str]) -> None:
    assert sweep() == 0
    cells = seen()
    assert set(cells) == ALL
    [run] = sweep_runs()
    assert run.info.status == "FINISHED"
    assert run.data.tags["cells"] == "4"
    key = run.data.tags["sweep_key"]
    for name, cell in cells.items():
        assert cell["session"] == cell["pid"] != os.getsid(0), "a Ctrl-C would reach it"
        assert cell["variables"]["SKINML_PARENT_RUN_ID"] == run.info.run_id
        assert cell["variables"]["MLFLOW_EXPERIMENT_ID"] == run.info.experiment_id
        folder = Path("runs") / f"sweep-{key}" / f"{name}-seed0-split0"
        assert cell["options"]["output_dir"] == str(folder)
        assert list(folder.glob("log-*.txt"))
    assert "4 of 4 done" in run.data.tags["mlflow.note.content"]
    assert run.data.tags["mlflow.note.content"].count("| 0.7500 | 0.8750 |") == 4
    captured = capsys.readouterr()
    assert captured.out.count("0.750") == 4
    assert "python -m skinml.compare --experiment skinml-demo" in captured.err
    assert "go on" not in captured.err


def test_a_cell_gets_every_option_of_the_sweep_and_its_models_own(sweep: Sweep) -> None:
    setting = "mobilenetv2.epochs_frozen=30 mobilenetv2.dense_units=64,32,16"
    assert sweep("--dropout", "0.5", "--set", setting, "--models=mobilenet,mobilenetv2") == 0
    for name, cell in seen().items():
        own = name.startswith("mobilenetv2")
        assert set(cell["options"]) == set(Config.__dataclass_fields__)
        assert cell["options"]["dropout"] == "0.5"
        assert cell["options"]["epochs_frozen"] == ("30" if own else "auto")
        assert cell["options"]["dense_units"] == ("64,32,16" if own else "256,128,64")


@pytest.mark.parametrize("jobs", [1, 3])
def test_as_many_cells_train_at_a_time_as_there_are_jobs(sweep: Sweep, jobs: int) -> None:
    assert sweep(f"--jobs={jobs}") == 0
    spans = [(cell["start"], cell["end"]) for cell in seen().values()]
    at_once = [sum(start <= moment < end for start, end in spans) for moment, _ in spans]
    assert max(at_once) == jobs


@needs_cores
def test_jobs_with_threads_of_their_own_get_cores_of_their_own() -> None:
    """`skinml.run --threads 1` takes the first core that it may use."""
    cores = sorted(os.sched_getaffinity(0))
    assert cores_of(0, 0) == set()
    assert cores_of(0, len(cores) + 1) == set(), "the cell says that it cannot be"
    assert cores_of(1, len(cores)) == set(cores)
    for slot in range(2 * len(cores)):
        assert cores_of(slot, 1) == {cores[slot % len(cores)]}


@needs_cores
def test_a_cell_starts_on_its_cores_and_the_sweep_keeps_its_own(
    sweep: Sweep, capsys: CaptureFixture[str]
) -> None:
    before = os.sched_getaffinity(0)
    assert sweep("--jobs=2", "--threads=1") == 0
    assert os.sched_getaffinity(0) == before
    used = Counter(tuple(cell["cores"]) for cell in seen().values())
    assert all(len(cores) == 1 for cores in used)
    assert len(used) == min(2, len(before))


def test_jobs_that_share_cores_are_warned_of(sweep: Sweep, capsys: CaptureFixture[str]) -> None:
    assert sweep("--jobs=2", "--device=cpu") == 0
    assert "2 jobs of" in capsys.readouterr().err
    assert {cell["options"]["threads"] for cell in seen().values()} == {"0"}


def test_gpus_are_those_that_are_there_and_visible() -> None:
    assert visible_gpus({}, lambda: 2) == ["0", "1"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3, 1"}, lambda: 4) == ["3", "1"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "GPU-1a2b"}, lambda: 4) == ["GPU-1a2b"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1,-1,0"}, lambda: 4) == ["1"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, lambda: 4) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0"}, lambda: 0) == []


def test_each_job_has_one_of_several_gpus(sweep: Sweep, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr("skinml.sweep.driver.visible_gpus", lambda variables: ["4", "7"])
    assert sweep("--jobs=2") == 0
    times: dict[str, list[tuple[float, float]]] = {}
    for cell in seen().values():
        gpu = cell["variables"]["CUDA_VISIBLE_DEVICES"]
        times.setdefault(gpu, []).append((cell["start"], cell["end"]))
    assert times.keys() == {"4", "7"} and sum(map(len, times.values())) == 4
    # No GPU has two at a time.
    for own in map(sorted, times.values()):
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(own))


# Failures


@needs_signals
def test_a_failing_cell_does_not_stop_the_others(sweep: Sweep, capsys: CaptureFixture[str]) -> None:
    code = sweep(mobilenet_16="fail", mobilenet_32="sigkill", mobilenetv2_16="silent")
    assert code == 1
    assert set(seen()) == ALL
    captured = capsys.readouterr()
    [run] = sweep_runs()
    log = Path("runs") / f"sweep-{run.data.tags['sweep_key']}" / "mobilenet-16-seed0-split0"
    [log] = log.glob("log-*.txt")
    assert f"mobilenet-16-seed0-split0 failed: ValueError: no luck; its log: {log}" in captured.err
    assert "a first line" in log.read_text()
    assert "mobilenet-32-seed0-split0 failed: killed by SIGKILL" in captured.err
    assert "mobilenetv2-16-seed0-split0 failed: ended without a finished run" in captured.err
    assert "1 of 4 done, 3 failed" in captured.err
    assert "go on (what is done stays done) with: python -m skinml.sweep --models" in captured.err
    assert run.info.status == "FAILED"
    assert run.data.tags["skinml.reason"] == "3 of 4 cells failed"
    assert "failed: killed by SIGKILL" in run.data.tags["mlflow.note.content"]


def test_the_run_of_a_sweep_that_goes_on_is_kept(sweep: Sweep) -> None:
    assert sweep(mobilenet_16="fail") == 1
    [first] = sweep_runs()
    assert sweep("--jobs=4") == 0
    [second] = sweep_runs()
    assert second.info.run_id == first.info.run_id
    assert second.info.status == "FINISHED"
    assert "skinml.reason" not in second.data.tags


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--jobs=0"], "jobs='0': expected a whole number of at least 1"),
        (["--rerun=perhaps"], "rerun='perhaps': expected true or false"),
        (["--models=mobilenet,resnet", "--batch_sizes=0"], "model='resnet'"),
        (["--models=mobilenet,resnet", "--batch_sizes=0"], "batch_size=0: expected at least 1"),
        (["--batch_sizes=16,16"], "are one configuration"),
        (["--weights=missing.h5"], "weights='missing.h5'"),
        (["--set=mobilenet.no=1"], "set='mobilenet.no=1'"),
        (["--data=isic2017", "--data_dir=nowhere"], "neither a prepared set"),
        (["--output_dir=a-file"], "output_dir=a-file: cannot make the sweep's folder"),
        (["--no_such=1"], "unrecognized arguments: --no_such=1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_before_anything_starts(
    sweep: Sweep, more: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "a-file").touch()
    with pytest.raises(UserError) as caught:
        sweep(*more)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "seen").exists()
    assert not (tmp_path / "runs").exists()


# What is done already


def finished_run(store: "MlflowClient", tags: dict[str, str], status: str = "FINISHED") -> str:
    experiment = store.get_experiment_by_name("skinml-demo")
    made = experiment.experiment_id if experiment else store.create_experiment("skinml-demo")
    evaluated = {"evaluation_digest": evaluation_digest()}
    run_id = store.create_run(made, tags=evaluated | tags).info.run_id
    store.log_metric(run_id, "test_accuracy", 0.625)
    store.log_metric(run_id, "test_auc_macro", 0.6875)
    store.set_terminated(run_id, status)
    return str(run_id)


@pytest.fixture
def identities(options: list[str], toy_set: PreparedSet) -> dict[str, dict[str, str]]:
    """The tags that runs of the cells have, by the cell's name without seeds."""
    from skinml.run.description import identity

    shared: dict[str, Any] = {"data": "demo", "protocol": "challenge", "weights": "none"}
    return {
        f"{model}-{batch_size}": identity(
            Config(model=model, batch_size=batch_size, epochs_finetune=3, **shared), toy_set.digest
        )
        for model in ("mobilenet", "mobilenetv2")
        for batch_size in (16, 32)
    }


@pytest.fixture
def known(store: "MlflowClient", identities: dict[str, dict[str, str]]) -> str:
    """Runs as they may stand in the experiment: one of them does a cell; its id."""
    done = finished_run(store, identities["mobilenet-16"])
    finished_run(store, identities["mobilenet-32"] | {"data_digest": "another"})
    reason = {"skinml.reason": "out of memory"}
    finished_run(store, identities["mobilenetv2-16"] | reason, "FAILED")
    return done


def test_only_a_finished_run_of_the_same_configuration_data_and_code_is_done(
    sweep: Sweep, known: str, capsys: CaptureFixture[str]
) -> None:
    assert sweep() == 0
    assert set(seen()) == ALL - {"mobilenet-16"}
    captured = capsys.readouterr()
    assert f"mobilenet-16-seed0-split0 done before; run {known}" in captured.err
    assert "0.625" in captured.out
    assert "4 of 4 done (1 before)" in captured.err


def test_finished_runs_of_earlier_code_are_told_for_what_they_are_taken(
    sweep: Sweep,
    identities: dict[str, dict[str, str]],
    store: "MlflowClient",
    monkeypatch: MonkeyPatch,
    capsys: CaptureFixture[str],
) -> None:
    """Those that count as today's are done; others are trained anew. Both with the reason."""
    from skinml.training import code_digest

    def earlier(cell: str, digest: str, name: str = "training_digest") -> str:
        tags = {key: value for key, value in identities[cell].items() if key != "training_digest"}
        return finished_run(store, tags | {name: digest})

    now = identities["mobilenet-16"]["training_digest"].partition("-")[0]
    same = code_digest.SameTrainings(now, {"aaaa": "a variable was renamed"})
    monkeypatch.setattr(code_digest, "SAME_TRAININGS", same)
    counts = earlier("mobilenet-16", "aaaa", "code_digest")
    other = earlier("mobilenet-32", "bbbb-0000")
    of_whole_files = earlier("mobilenetv2-16", "cccc", "code_digest")
    assert sweep("--dry-run") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == (
        f"mobilenet-16-seed0-split0    done: run {counts} (its training code aaaa counts as "
        "today's: a variable was renamed)"
    )
    assert told[1].endswith(f"missing (run {other} is of other training code: bbbb-0000)")
    assert told[2].endswith(f"missing (run {of_whole_files} is of other training code: cccc)")
    assert sweep() == 0
    assert set(seen()) == ALL - {"mobilenet-16"}
    assert "mobilenet-16-seed0-split0: its training code aaaa counts" in capsys.readouterr().err


def test_an_outdated_evaluation_is_computed_anew_without_a_training(
    sweep: Sweep,
    identities: dict[str, dict[str, str]],
    store: "MlflowClient",
    tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:
    """From the predictions tables, once; a run whose tables are gone keeps its figures."""
    from skinml.evaluation.metrics import point_metrics
    from tests.compare.conftest import made_up

    run_id = finished_run(store, identities["mobilenet-16"] | {"evaluation_digest": "earlier"})
    tables = {part: made_up(1, [seed]) for seed, part in enumerate(("validation", "test"))}
    for part, table in tables.items():
        write_predictions(table, tmp_path / f"predictions_{part}.csv")
        store.log_artifact(run_id, str(tmp_path / f"predictions_{part}.csv"))
    earlier = {"evaluation_digest": "earlier"}
    without_tables = finished_run(store, identities["mobilenet-32"] | earlier)
    assert sweep("--dry-run") == 0
    computed = "its figures to be computed anew from its predictions tables"
    assert f"done: run {run_id}, {computed}" in capsys.readouterr().out
    assert sweep() == 0
    assert set(seen()) == ALL - {"mobilenet-16", "mobilenet-32"}
    run = store.get_run(run_id)
    assert run.data.tags["evaluation_digest"] == evaluation_digest()
    expected = point_metrics(tables["test"])
    assert run.data.metrics["test_accuracy"] == expected["accuracy"] != 0.625
    assert run.data.metrics["test_melanoma_auc"] == expected["melanoma_auc"]
    assert "val_auc_macro" in run.data.metrics and "test_accuracy_ci_low" in run.data.metrics
    captured = capsys.readouterr()
    assert f"the figures of run {run_id} are computed anew" in captured.err
    assert f"run {without_tables}: predictions_validation.csv cannot be read" in captured.err
    assert f"{expected['accuracy']:.3f}" in captured.out
    assert store.get_run(without_tables).data.metrics["test_accuracy"] == 0.625
    assert sweep() == 0
    assert f"the figures of run {run_id}" not in capsys.readouterr().err


def test_rerun_repeats_all(sweep: Sweep, known: str) -> None:
    assert sweep("--rerun") == 0
    assert set(seen()) == ALL


def test_a_dry_run_lists_every_cell_and_writes_nothing(
    sweep: Sweep, known: str, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        store = list(connection.iterdump())
    assert sweep("--dry-run") == 0
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert list(connection.iterdump()) == store
    after = set(tmp_path.rglob("*"))
    assert after - set(before) == {tmp_path / "plan.json"}
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["mobilenet-16-seed0-split0", f"done: run {known}"],
        ["mobilenet-32-seed0-split0", "missing"],
        ["mobilenetv2-16-seed0-split0", "failed before: out of memory"],
        ["mobilenetv2-32-seed0-split0", "missing"],
        ["1", "of 4 done, 3 to train"],
    ]


def test_parameters_without_effect_are_warned_of_once_for_all_cells(
    sweep: Sweep, capsys: CaptureFixture[str]
) -> None:
    given = "--protocol=challenge", "--test_fraction=0.3", "--split_seeds=4", "--weight_decay=0.1"
    assert sweep("--dry-run", *given, "--set", "mobilenet.optimizer=sgd") == 0
    assert [line for line in capsys.readouterr().err.splitlines() if "warning" in line] == [
        "skinml: warning: test_fraction=0.3, split_seed=4 have no effect with protocol=challenge",
        "skinml: warning: weight_decay=0.1 has no effect with optimizer=sgd",
    ]


def test_a_dry_run_of_a_rerun_says_that_nothing_is_done(
    sweep: Sweep, known: str, capsys: CaptureFixture[str]
) -> None:
    assert sweep("--dry-run", "--rerun") == 0
    assert "0 of 4 done, 4 to train" in capsys.readouterr().out


def test_a_cell_that_someone_else_finishes_meanwhile_is_not_trained_again(
    sweep: Sweep,
    identities: dict[str, dict[str, str]],
    store: "MlflowClient",
    monkeypatch: MonkeyPatch,
) -> None:
    start = LocalEngine.start

    def start_and_finish_another(*given: Any) -> Any:
        worker = start(*given)
        if not seen_by_others:
            seen_by_others.append(finished_run(store, identities["mobilenetv2-32"]))
        return worker

    seen_by_others: list[str] = []
    monkeypatch.setattr(LocalEngine, "start", start_and_finish_another)
    assert sweep() == 0
    assert set(seen()) == ALL - {"mobilenetv2-32"}


def test_what_was_trained_but_not_published_is_published_and_not_trained_again(
    sweep: Sweep,
    identities: dict[str, dict[str, str]],
    finished_folder: RunFolder,
    monkeypatch: MonkeyPatch,
    capsys: CaptureFixture[str],
) -> None:
    """The server was away when a training ended; its folder lies where the cell writes."""
    assert sweep() == 0
    [before] = sweep_runs()
    root = next(Path("runs").glob("sweep-*"))
    for name, changes in (("mobilenet-16", {}), ("mobilenet-32", {"training_digest": "another"})):
        cell = shutil.copytree(finished_folder.path, root / f"{name}-seed0-split0" / "trained")
        described = json.loads((cell / "run.json").read_text())
        described["tags"] |= identities[name] | changes
        (cell / "run.json").write_text(json.dumps(described))
    shutil.rmtree("seen")
    assert sweep() == 0
    assert set(seen()) == ALL - {"mobilenet-16"}, "one of other code is trained again"
    [published] = [
        run for run in all_runs()
        if run.data.tags.get("mlflow.parentRunId") == before.info.run_id
        and run.data.tags.get("config_digest") == identities["mobilenet-16"]["config_digest"]
    ]  # fmt: skip
    assert published.info.status == "FINISHED"
    assert "mobilenet-16-seed0-split0: publishing" in capsys.readouterr().err


def interrupted(
    name: str, identity: dict[str, str], cell: dict[str, Any], status: str = ""
) -> RunFolder:
    """A folder of an earlier run of a cell, as a kill or an end of that status leaves it."""
    folder = RunFolder(Path(cell["options"]["output_dir"]).resolve() / name)
    folder.figures.mkdir(parents=True)
    tags = {"data": "demo", **identity}
    dataset = {"name": "demo", "digest": "d", "source": "demo", "counts": {}}
    folder.write_description(Description(name, cell["options"], tags, dataset))
    journal = Journal(folder.journal)
    record_start(journal, folder.read_description())
    if status:
        record_end(journal, status)
    journal.close()
    return folder


def test_a_cell_goes_on_in_the_folder_of_its_own_that_was_interrupted(
    sweep: Sweep, identities: dict[str, dict[str, str]]
) -> None:
    """Not in one of other code or options, nor of a run that is done; unless all is trained again.

    Its process refuses what it was not started with: a cell must not ask it to.
    """
    assert sweep() == 0
    cells = seen()
    own = identities["mobilenet-16"], cells["mobilenet-16"]
    newest = interrupted("b", *own)
    interrupted("a", *own)
    interrupted("c", *own, "FINISHED")
    interrupted("d", {**own[0], "training_digest": "another"}, own[1])
    options = {**own[1]["options"], "register": "False"}
    interrupted("e", own[0], {"options": options})
    stopped = interrupted("b", identities["mobilenet-32"], cells["mobilenet-32"], "KILLED")
    shutil.rmtree("seen")
    assert sweep() == 0
    given = {name: cell["options"].get("resume") for name, cell in seen().items()}
    assert {name: Path(path).resolve() for name, path in given.items() if path} == {
        "mobilenet-16": newest.path,
        "mobilenet-32": stopped.path,
    }
    assert set(given) == ALL
    assert sweep("--rerun") == 0
    assert all("resume" not in cell["options"] for cell in seen().values())


def test_a_server_that_does_not_answer_is_one_line(sweep: Sweep, monkeypatch: MonkeyPatch) -> None:
    from mlflow import MlflowException

    from skinml.sweep import driver as module

    def fail(*_: Any) -> None:
        raise MlflowException("no connection\nand more")

    monkeypatch.setattr(module.SweepRun, "open", fail)
    with pytest.raises(UserError, match=r"no connection\); expected a tracking server"):
        sweep()


def test_output_that_nobody_reads_any_more_ends_no_cell(
    sweep: Sweep, monkeypatch: MonkeyPatch
) -> None:
    """`python -m skinml.sweep | tee log` and Ctrl-C: rich turns a broken pipe into SystemExit."""
    from skinml.sweep import driver as module

    def broken(*_: Any) -> None:
        raise SystemExit(1)

    @contextmanager
    def display(_: int) -> Iterator[Any]:
        yield broken

    monkeypatch.setattr(module, "display", display)
    assert sweep() == 0
    assert [run.info.status for run in sweep_runs()] == ["FINISHED"]


# One at a time


def test_a_second_sweep_of_the_same_cells_is_refused_while_the_first_runs(
    sweep: Sweep, store: "MlflowClient"
) -> None:
    assert sweep() == 0
    [run] = sweep_runs()
    with only_one(run.data.tags["sweep_key"]), pytest.raises(UserError) as caught:
        sweep("--rerun")
    assert f"is running on this machine already (process {os.getpid()})" in str(caught.value)
    assert [run.info.status for run in sweep_runs()] == ["FINISHED"]
    assert sweep() == 0, "the lock is lifted"


def test_what_an_earlier_start_left_behind_is_ended_before_anything_starts(
    sweep: Sweep, store: "MlflowClient", capsys: CaptureFixture[str]
) -> None:
    """A cell that outlived its killed sweep would train beside the one that replaces it."""
    from skinml.base.processes import process_name

    assert sweep() == 0
    [run] = sweep_runs()
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    tags = {"mlflow.parentRunId": run.info.run_id, "process": process_name(sleeper.pid)}
    left = store.create_run(run.info.experiment_id, tags=tags).info.run_id
    assert sweep() == 0
    assert not psutil.pid_exists(sleeper.pid)
    sleeper.wait()
    assert store.get_run(left).info.status == "KILLED"
    closed = f"{left}: its process is gone, without a word: closed as KILLED"
    assert closed in capsys.readouterr().err


# Under `mlflow run`


def test_the_words_to_go_on_are_of_mlflow_run_where_that_started_it(
    sweep: Sweep, store: "MlflowClient", monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    experiment = store.create_experiment("skinml-demo")
    run_id = store.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    assert sweep("--set", "mobilenet.dropout=0.1 mobilenet.pooling=2x2", mobilenet_16="fail") == 1
    [run] = sweep_runs()
    assert (run.info.run_id, run.info.status) == (run_id, "FAILED")
    assert all("MLFLOW_RUN_ID" not in cell["variables"] for cell in seen().values())
    [line] = [line for line in capsys.readouterr().err.splitlines() if "go on" in line]
    command = line.partition(" with: ")[2]
    assert command.startswith(
        f"mlflow run . -e sweep --env-manager local --experiment-id {experiment} "
        "-P models=mobilenet,mobilenetv2 -P batch_sizes=16,32 -P "
    )
    assert "'set=mobilenet.dropout=0.1 mobilenet.pooling=2x2'" in command
    assert "epochs_finetune=3" in command
    assert "epochs_frozen" not in command, "a default"


# Stopped and killed: real processes, honest runs


@pytest.fixture
def start(
    store: "MlflowClient", options: list[str], tmp_path: Path
) -> Iterator[Callable[..., StartedSweep]]:
    """Starts sweeps of two cells; $SKINML_TEST_SLOW may be the second one, MobileNetV2."""
    started: list[StartedSweep] = []
    few = [*options, "--batch_sizes=16"]

    def start(*more: str, **variables: str) -> StartedSweep:
        started.append(StartedSweep([*few, *more], tmp_path, variables))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def slow_run() -> "Run | None":
    """The run of the cell that never ends, once it has trained an epoch."""
    from mlflow import MlflowClient

    if MlflowClient().get_experiment_by_name("skinml-demo") is None:
        return None
    found = [
        run
        for run in all_runs()
        if run.info.status == "RUNNING"
        and run.data.tags.get("model") == "mobilenetv2"
        and "epoch/train_loss" in run.data.metrics
    ]
    return found[0] if found else None


def statuses() -> dict[str, list[str]]:
    """Statuses of the runs of every model, sorted, and of the sweeps."""
    found: dict[str, list[str]] = {}
    for run in all_runs():
        found.setdefault(run.data.tags.get("model", "sweep"), []).append(run.info.status)
    return {name: sorted(values) for name, values in found.items()}


def pid_of(run: "Run") -> int:
    return int(run.data.tags["process"].rsplit(" ", 2)[1])


# The interrupted cell went on as the run that it was.
FINISHED_AFTER_ALL = {
    "sweep": ["FINISHED"],
    "mobilenet": ["FINISHED"],
    "mobilenetv2": ["FINISHED"],
}


def assert_went_on(child: "Run") -> None:
    """The cell's own run is finished, with every epoch of its curves once."""
    from mlflow import MlflowClient

    run = MlflowClient().get_run(child.info.run_id)
    assert run.info.status == "FINISHED"
    assert "skinml.reason" not in run.data.tags
    points = MlflowClient().get_metric_history(child.info.run_id, "epoch/train_loss")
    assert [point.step for point in points] == [1, 2, 3]
    [folder] = [path.parent for path in Path("runs").glob("sweep-*/mobilenetv2-*/*/FINISHED")]
    assert (folder / "mlflow_run_id").read_text().strip() == child.info.run_id
    assert [row["epoch"] for row in RunFolder(folder).read_history()] == [1, 2, 3]


@needs_signals
@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_sweep_that_is_stopped_stops_its_cells_and_goes_on_later(
    start: Callable[..., StartedSweep], signum: int, code: int
) -> None:
    first = start(SKINML_TEST_SLOW="mobilenetv2")
    child = first.until(slow_run, pause=1)
    # As a terminal does with Ctrl-C: to the whole group.
    os.killpg(first.process.pid, signum)
    assert first.wait() == code
    assert not psutil.pid_exists(pid_of(child))
    assert statuses() == {
        "sweep": ["KILLED"],
        "mobilenet": ["FINISHED"],
        "mobilenetv2": ["KILLED"],
    }
    [run] = sweep_runs()
    assert run.data.tags["skinml.reason"] == f"stopped by {signal.Signals(signum).name}"
    assert child.info.run_id in run.data.tags["mlflow.note.content"]
    text = first.log.read_text()
    assert "mobilenetv2-16-seed0-split0 stopped: after epoch 1/3" in text
    assert "go on (what is done stays done) with: python -m skinml.sweep --models" in text
    # It was the sweep's SIGTERM that the cell got, not the terminal's Ctrl-C.
    reasons = {r.info.run_id: r.data.tags.get("skinml.reason") for r in all_runs()}
    assert reasons[child.info.run_id] == "stopped by SIGTERM"
    if signum == signal.SIGTERM:
        return  # What it left is what Ctrl-C leaves: the same goes on from it.

    assert start().wait() == 0
    assert statuses() == FINISHED_AFTER_ALL
    assert_went_on(child)
    [again] = sweep_runs()
    assert again.info.run_id == run.info.run_id


@needs_signals
@pytest.mark.slow
def test_a_second_ctrl_c_kills_at_once(start: Callable[..., StartedSweep], tmp_path: Path) -> None:
    """A cell that does not react to SIGTERM is given 20 seconds, but not after a second Ctrl-C."""
    first = start(SKINML_TEST_SLOW="mobilenetv2")
    child = psutil.Process(pid_of(first.until(slow_run, pause=1)))
    child.suspend()
    first.process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert first.process.poll() is None
    assert child.status() == psutil.STATUS_STOPPED
    first.process.send_signal(signal.SIGINT)
    child.wait(PATIENCE)
    assert first.wait() == 130
    assert statuses() == {
        "sweep": ["KILLED"],
        "mobilenet": ["FINISHED"],
        "mobilenetv2": ["KILLED"],
    }


@needs_signals
@pytest.mark.slow
@pytest.mark.parametrize("with_its_cells", [False, True])
def test_a_sweep_that_is_killed_leaves_no_process_and_goes_on_later(
    start: Callable[..., StartedSweep], with_its_cells: bool
) -> None:
    """SIGKILL of the sweep alone, and of all its cells too, as when the machine goes down."""
    first = start(SKINML_TEST_SLOW="mobilenetv2")
    child = first.until(slow_run, pause=1)
    process = psutil.Process(pid_of(child))
    if with_its_cells:
        process.suspend()  # It cannot close its run.
    first.process.kill()
    first.process.wait()
    if with_its_cells:
        for forwarder in process.children():
            forwarder.kill()
        process.kill()
    process.wait(PATIENCE)
    assert statuses()["mobilenetv2"] == ["RUNNING" if with_its_cells else "KILLED"]
    assert statuses()["sweep"] == ["RUNNING"]
    [run] = sweep_runs()

    second = start()
    assert second.wait() == 0
    assert "(1 before)" in second.log.read_text()
    assert ("its process is gone" in second.log.read_text()) == with_its_cells
    assert statuses() == FINISHED_AFTER_ALL
    assert_went_on(child)
    [again] = sweep_runs()
    assert again.info.run_id == run.info.run_id
    parents = {r.data.tags.get("mlflow.parentRunId") for r in all_runs()}
    assert parents == {None, run.info.run_id}


@needs_signals
@pytest.mark.slow
def test_a_cell_that_is_killed_is_closed_and_the_sweep_goes_on(
    start: Callable[..., StartedSweep],
) -> None:
    first = start(SKINML_TEST_SLOW="mobilenetv2")
    os.kill(pid_of(first.until(slow_run, pause=1)), signal.SIGKILL)
    assert first.wait() == 1
    assert "mobilenetv2-16-seed0-split0 failed: killed by SIGKILL" in first.log.read_text()
    assert statuses() == {
        "sweep": ["FAILED"],
        "mobilenet": ["FINISHED"],
        "mobilenetv2": ["KILLED"],
    }


# A real network, started by `mlflow run`


@pytest.mark.slow
def test_mlflow_run_trains_a_sweep_and_later_goes_on_with_it(
    toy_set: PreparedSet, store: "MlflowClient", tmp_path: Path
) -> None:
    parameters = {
        "models": "mobilenetv3small",
        "batch_sizes": "16",
        "data": "demo",
        "data_dir": str(toy_set.folder),
        "protocol": "challenge",
        "set": "mobilenetv3small.weights=none, mobilenetv3small.epochs_finetune=1",
        "register": "false",
        "export": "false",
        "output_dir": str(tmp_path / "runs"),
    }
    words = [f"{name}={value}" for name, value in parameters.items()]
    command = ["mlflow", "run", str(ROOT), "-e", "sweep", "--env-manager", "local"]
    command += ["--experiment-name", "mine", *(w for word in words for w in ("-P", word))]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for start in (1, 2):
        result = subprocess.run(
            [sys.executable, "-m", *command],
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert f"1 of 1 done{' (1 before)' * (start - 1)}" in result.stderr
    second, *others = sorted(all_runs("mine"), key=lambda run: -run.info.start_time)
    assert all(run.info.status == "FINISHED" for run in (second, *others))
    [first] = [run for run in others if run.data.tags["kind"] == "sweep"]
    [cell] = [run for run in others if run.data.tags["kind"] == "training"]
    assert cell.data.tags["mlflow.parentRunId"] == first.info.run_id
    assert "test_auc_macro" in cell.data.metrics
    assert second.data.tags["continues"] == first.info.run_id
    assert cell.info.run_id in first.data.tags["mlflow.note.content"]
