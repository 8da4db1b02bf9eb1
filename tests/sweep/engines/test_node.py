"""A machine of a cluster: what it must have, what it fetches, and who may finish a cell."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from skinml.base.errors import UserError
from skinml.base.files import file_sha256
from skinml.config import Config
from skinml.data.prepared import PreparedSet, open_prepared
from skinml.store.runs import SUPERSEDED
from skinml.store.sweeps import is_superseded, undo_superseded
from skinml.sweep.engines.attempt import Order
from skinml.sweep.engines.node import (
    DATA,
    TOKEN,
    WEIGHTS,
    Missing,
    SweepSource,
    Unclaimed,
    absolute_uri,
    claim,
    cores_here,
    files_to_send,
    make_ready,
)
from skinml.sync import main as sync
from skinml.tracking.folder import RunFolder
from skinml.training.code_digest import training_digest
from tests.conftest import noted

if TYPE_CHECKING:
    from mlflow import MlflowClient

SERVER = "https://you:secret@tracking.example.org"


@pytest.fixture
def order(toy_set: PreparedSet, tmp_path: Path) -> Order:
    """A cell whose sweep's folder has the token "here"."""
    folder = tmp_path / "sweep-1" / "a"
    folder.mkdir(parents=True)
    (folder.parent / TOKEN).write_text("here")
    config = Config(
        data="demo", data_dir=str(toy_set.folder), weights="none", output_dir=str(folder)
    )
    arguments = [f"--{name}={value}" for name, value in config.as_dict().items()]
    identity = {
        "training_digest": training_digest(config.model),
        "data_digest": toy_set.digest,
        "config_digest": "c",
    }
    return Order("a", config, folder, arguments, identity, {})


@pytest.fixture
def source(toy_set: PreparedSet) -> SweepSource:
    return SweepSource("here", SERVER, toy_set.folder, {DATA: files_to_send(toy_set.folder)})


def no_fetch(what: str, name: str) -> Iterator[bytes]:
    raise Missing(what)


def test_a_machine_that_sees_the_drivers_storage_takes_all_as_it_is(
    order: Order, source: SweepSource, toy_set: PreparedSet
) -> None:
    ready, shared = make_ready(order, source, no_fetch)
    assert shared
    assert ready.folder == order.folder
    assert ready.arguments == order.arguments
    assert ready.variables["MLFLOW_TRACKING_URI"] == SERVER


def test_a_folder_of_the_same_name_is_not_the_drivers(order: Order, source: SweepSource) -> None:
    """Nodes have homes of the same name: what stands in the token tells them apart."""
    for token in ("another", None):
        (order.folder.parent / TOKEN).unlink()
        if token:
            (order.folder.parent / TOKEN).write_text(token)
        ready, shared = make_ready(order, source, no_fetch)
        assert not shared
        assert ready.folder != order.folder
        assert f"--output_dir={ready.folder}" in ready.arguments
        if not token:
            break


def test_other_code_is_refused(order: Order, source: SweepSource) -> None:
    order.identity["training_digest"] = "of another version"
    with pytest.raises(UserError, match="install the same skinml"):
        make_ready(order, source, no_fetch)


def test_a_store_on_the_drivers_disk_is_refused_elsewhere_and_not_told(
    order: Order, source: SweepSource
) -> None:
    (order.folder.parent / TOKEN).unlink()
    source = dataclasses.replace(source, tracking_uri="postgresql+psycopg://you:secret@db/mlflow")
    with pytest.raises(UserError, match="expected MLFLOW_TRACKING_URI to be the address") as caught:
        make_ready(order, source, no_fetch)
    assert "secret" not in str(caught.value)


def test_data_and_weights_that_are_not_here_are_fetched_once(
    order: Order, source: SweepSource, toy_set: PreparedSet, tmp_path: Path
) -> None:
    there = tmp_path / "there.weights.h5"
    there.write_bytes(b"weights" * 1000)
    gone = str(tmp_path / "gone" / there.name)
    config = dataclasses.replace(order.config, weights=gone, data_dir="/not/here")
    arguments = [f"--{name}={value}" for name, value in config.as_dict().items()]
    order = dataclasses.replace(order, config=config, arguments=arguments)
    files = {**source.files, f"{WEIGHTS} {gone}": {there.name: file_sha256(there)}}
    source = dataclasses.replace(source, data_folder=Path("/not/here"), files=files)
    asked: list[str] = []

    def fetch(what: str, name: str) -> Iterator[bytes]:
        asked.append(name)
        whole = there.read_bytes() if what != DATA else (toy_set.folder / name).read_bytes()
        yield whole[:1000]
        yield whole[1000:]

    with pytest.raises(Missing):
        make_ready(order, source, no_fetch)
    for _ in range(2):
        ready, _ = make_ready(order, source, fetch)
        options = dict(a.removeprefix("--").split("=", 1) for a in ready.arguments)
        assert open_prepared(Path(options["data_dir"])).digest == toy_set.digest
        assert Path(options["weights"]).read_bytes() == there.read_bytes()
    assert sorted(asked) == sorted([*source.files[DATA], there.name])


def test_what_arrives_broken_is_not_kept(
    order: Order, source: SweepSource, toy_set: PreparedSet
) -> None:
    source = dataclasses.replace(source, data_folder=Path("/not/here"))

    def broken(what: str, name: str) -> Iterator[bytes]:
        yield b"something else"

    with pytest.raises(UserError, match="not what the driver sent"):
        make_ready(order, source, broken)
    with pytest.raises(Missing):
        make_ready(order, source, no_fetch)


def test_cells_beside_each_other_have_cores_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the locks that tell them apart cannot be held, each may use all."""
    monkeypatch.setattr("skinml.sweep.engines.node.own_cores", lambda: [0, 1])
    monkeypatch.setattr("skinml.base.processes.own_cores", lambda: [0, 1])
    with cores_here(1) as first, cores_here(1) as second:
        assert {*first, *second} == {0, 1} and len(first) == len(second) == 1
    with cores_here(3) as more_than_there_are:
        assert not more_than_there_are
    (tmp_path / "file").touch()
    monkeypatch.setenv("SKINML_CACHE_DIR", str(tmp_path / "file"))
    with cores_here(1) as any_of_them:
        assert not any_of_them


def test_a_tracking_uri_means_the_same_in_every_folder(tmp_path: Path) -> None:
    assert absolute_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert absolute_uri("mlruns") == f"{tmp_path}/mlruns"
    for uri in (SERVER, "postgresql+psycopg://db/mlflow"):
        assert absolute_uri(uri) == uri


# Who may finish a cell


class Cell:
    """A cell in a store, with a sweep's run."""

    def __init__(self, store: "MlflowClient", order: Order, source: SweepSource) -> None:
        self.store = store
        self.experiment = store.create_experiment("skinml-demo")
        self.sweep = store.create_run(self.experiment).info.run_id
        self.order = order
        self.source = dataclasses.replace(
            source, sweep=self.sweep, experiment=self.experiment, again=True
        )

    def run(self) -> str:
        tags = {**self.order.identity, "mlflow.parentRunId": self.sweep}
        return str(self.store.create_run(self.experiment, tags=tags).info.run_id)

    def status(self, run_id: str) -> str:
        return str(self.store.get_run(run_id).info.status)

    def claim(self) -> bool:
        return claim(self.order, self.source, None)


@pytest.fixture
def cell(store: "MlflowClient", order: Order, source: SweepSource) -> Cell:
    return Cell(store, order, source)


def test_a_new_attempt_closes_those_before_it_for_good(cell: Cell) -> None:
    before = cell.run()
    assert cell.claim()
    assert cell.status(before) == "KILLED" and is_superseded(before)


def test_a_cell_that_is_finished_is_not_begun_again(cell: Cell) -> None:
    before = cell.run()
    cell.store.set_terminated(before, "FINISHED")
    with pytest.raises(Unclaimed, match="an earlier attempt has finished it"):
        cell.claim()
    assert cell.status(before) == "FINISHED" and not is_superseded(before)


def test_it_is_the_drivers_store_that_is_asked(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What joined a cluster hours ago knows of no store, or of another one."""
    before = cell.run()
    variables = {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]}
    cell.order = dataclasses.replace(cell.order, variables=variables)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/another.db")
        assert cell.claim()
        assert not (tmp_path / "another.db").exists()
        assert os.environ["MLFLOW_TRACKING_URI"].endswith("another.db")
    assert cell.status(before) == "KILLED"


def test_runs_of_before_a_rerun_do_not_count(cell: Cell) -> None:
    before = cell.run()
    cell.store.set_terminated(before, "FINISHED")
    cell.source = dataclasses.replace(cell.source, done_before=frozenset({before}))
    assert cell.claim()
    assert cell.status(before) == "FINISHED"


def test_one_that_finishes_in_the_instant_in_which_it_is_superseded_is_undone(cell: Cell) -> None:
    before = cell.run()
    cell.store.set_tag(before, SUPERSEDED, "true")
    cell.store.set_terminated(before, "FINISHED")
    undo_superseded(cell.experiment, cell.sweep)
    assert cell.status(before) == "KILLED"


def test_without_mlflow_no_attempt_begins(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowException

    def fail(*_: object) -> None:
        raise MlflowException("no connection\nand more")

    monkeypatch.setattr("skinml.sweep.engines.node.supersede", fail)
    with pytest.raises(Unclaimed, match=r"^MLflow does not answer \(no connection\)$"):
        cell.claim()


def test_a_superseded_run_takes_nothing_more(
    cell: Cell,
    tmp_path: Path,
    finished_folder: RunFolder,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its machine may only have been cut off: what it sends later changes nothing."""
    folder = noted(finished_folder)
    assert sync([str(folder.path)]) == 0
    run_id = folder.published
    cell.store.set_terminated(run_id, "RUNNING")
    cell.store.set_tag(run_id, SUPERSEDED, "true")
    copy = RunFolder(Path(shutil.copytree(folder.path, tmp_path / "copy")))
    for state in (*copy.path.glob("*state*"), copy.path / "mlflow_run_id"):
        state.unlink(missing_ok=True)
    assert sync([str(copy.path)]) == 2
    assert "another attempt at its cell of a sweep has taken its place" in capsys.readouterr().err
    assert cell.status(run_id) == "RUNNING"
