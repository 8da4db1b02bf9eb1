"""A run that was interrupted at any instant ends as one that never was, and tells everything once.

The runs are real, of a tiny network, one process each, forked from one that has done its imports.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.config import Config
from skinml.run.__main__ import main
from skinml.run.tracked import FEATURES_DONE
from skinml.sync import sync
from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.find import find_run, folder_to_resume
from skinml.tracking.folder import Description, RunFolder
from skinml.tracking.journal import Journal, read_journal
from skinml.tracking.record import read_noted, record_start
from skinml.training.checkpoint import has_checkpoint, load_checkpoint
from tests.conftest import surroundings
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from mlflow import MlflowClient

ROOT = Path(__file__).parents[2]
FROZEN, FINETUNE = 2, 3
EPOCHS = list(range(1, FROZEN + FINETUNE + 1))
MEASURED = {"seconds", "images_per_second", "time"}

needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")

# Instants of a run: a function, which of its calls, before or after it.
Instant = tuple[str, int, str]
STEP = "skinml.training.steps._fetch"  # three a epoch
SAVED = "skinml.run.end_to_end.save_checkpoint"
WRITTEN = "skinml.training.checkpoint._verified"  # under its temporary name
TOLD = "skinml.run.tracked:Tracked.log_epoch"
APPENDED = "skinml.tracking.folder:RunFolder.append_epoch"


class Driver:
    """Asks `resume_driver.py` for runs, in a folder of its own."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        given = {
            "data": "demo",
            "data_dir": data,
            "model": "tiny",
            "protocol": "challenge",
            "weights": "none",
            "dense_units": "16,8,8",
            "batch_size": 8,
            "epochs_frozen": FROZEN,
            "epochs_finetune": FINETUNE,
            "learning_rate_finetune": 0.01,
            "device": "cpu",
            "threads": 1,
            "export": "False",  # seconds, at the end of each of many runs
        }
        self.options = [f"--{name}={value}" for name, value in given.items()]
        with (folder / "driver.log").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests/resume_driver.py"), ROOT / "tests/conftest.py"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n", (folder / "driver.log").read_text()

    def run(self, *arguments: str, at: Instant | None = None, signum: int = signal.SIGKILL) -> int:
        """The exit code of a run that gets a signal at an instant; negative for a signal."""
        assert self._process.stdin and self._process.stdout
        self.log.unlink(missing_ok=True)
        signals = [[*at, int(signum)]] if at else []
        asked = {"arguments": arguments, "signals": signals, "log": str(self.log)}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, name: str, at: Instant | None = None, *more: str) -> RunFolder:
        """A new run, offline, killed at an instant; its folder."""
        code = self.run("--offline", *self.options, f"--output_dir={name}", *more, at=at)
        assert code == (-signal.SIGKILL if at else 0), self.text
        [path] = (self.folder / name).iterdir()
        return RunFolder.open(path)

    @property
    def text(self) -> str:
        return self.log.read_text()

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory, toy_files: Path) -> Iterator[Driver]:
    folder = tmp_path_factory.mktemp("resume")
    with surroundings(folder):
        driver = Driver(folder, toy_files)
        yield driver
        driver.close()


@pytest.fixture(scope="module")
def undisturbed(driver: Driver) -> RunFolder:
    return driver.start("undisturbed")


def weights_of(folder: RunFolder, into: Path) -> dict[str, np.ndarray]:
    import h5py

    with zipfile.ZipFile(folder.model) as archive:
        archive.extract("model.weights.h5", into)
    found: dict[str, np.ndarray] = {}

    def note(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset):
            found[name] = np.asarray(entry)

    with h5py.File(into / "model.weights.h5") as file:
        file.visititems(note)
    assert len(found) > 10
    return found


def architecture_of(folder: RunFolder) -> str:
    """The network's recipe, whose shared objects are named by their place in memory."""
    with zipfile.ZipFile(folder.model) as archive:
        text = archive.read("config.json").decode()
    return re.sub(r'"shared_object_id": \d+', "", text)


def facts_of(folder: RunFolder) -> list[dict[str, str]]:
    """The history as it is spelled in its file, without what a clock measured."""
    with (folder.path / "history.csv").open(newline="") as file:
        return [
            {name: text for name, text in row.items() if name not in MEASURED}
            for row in csv.DictReader(file)
        ]


def assert_same_result(folder: RunFolder, expected: RunFolder, into: Path) -> None:
    """Weights, architecture, curves, predictions and metrics, to the last bit."""
    np.testing.assert_equal(weights_of(folder, into), weights_of(expected, into))
    assert architecture_of(folder) == architecture_of(expected)
    assert facts_of(folder) == facts_of(expected)
    for part in ("validation", "test"):
        assert folder.predictions(part).read_bytes() == expected.predictions(part).read_bytes()
    assert folder.read_text("model_summary.txt") == expected.read_text("model_summary.txt")
    clock = {"latency_ms", "latency_ms_q25", "latency_ms_q75", "training_seconds", "model_size_mb"}
    clock |= {"frozen_backbone_images"}  # The first of these runs has filled the cache for all.
    ours_, theirs_ = (
        {name: value for name, value in f.read_metrics().items() if name not in clock}
        for f in (folder, expected)
    )
    np.testing.assert_equal(ours_, theirs_)


def assert_told_once(folder: RunFolder) -> None:
    """The journal has the curves of every epoch once, as the history has them, and one end."""
    records = list(read_journal(folder.journal))
    curves = [
        record.fields
        for record in records
        if record.kind == "metrics" and "epoch/train_loss" in record.fields["values"]
    ]
    assert [fields["step"] for fields in curves] == EPOCHS
    history = folder.read_history()
    assert [row["epoch"] for row in history] == EPOCHS
    for fields, row in zip(curves, history, strict=True):
        assert fields["time"] == row["time"]
        for name, value in fields["values"].items():
            assert value == row[name.removeprefix("epoch/")], name
    kinds = Counter(record.kind for record in records)
    assert kinds["params"] == kinds["dataset"] == 1
    assert records[-1].kind == "end" and records[-1].fields["status"] == "FINISHED"
    assert len({r.fields["journal"] for r in records if r.kind == "run"}) == 1
    steps = [
        record.fields["step"]
        for record in records
        if record.kind == "metrics" and "system/cpu_utilization_percentage" in
        record.fields["values"]
    ]  # fmt: skip
    assert len(steps) == len(set(steps))


# Killed at any instant


CHAINS: dict[str, list[Instant]] = {
    # Each process is killed at its own instant, and the next one goes on from there.
    "in every stage": [
        (STEP, 2, "after"),  # no checkpoint yet: it starts over
        (SAVED, 1, "after"),  # the first one, which nobody was told of
        (STEP, 3, "after"),  # the frozen step
        (SAVED, 1, "after"),  # the border of the two steps
        (STEP, 1, "after"),  # fine-tuning
        (WRITTEN, 2, "before"),  # a checkpoint is half there
        (TOLD, 4, "after"),  # the journal has the epoch, the history not; two stood before
    ],
    "around one epoch's end": [
        (APPENDED, 3, "after"),
        (TOLD, 4, "before"),
        (STEP, 1, "before"),
        ("skinml.training.checkpoint.sync_folder", 1, "before"),
    ],
    "after the training": [
        (APPENDED, 5, "after"),
        ("skinml.evaluation.scoring.predict_part", 2, "before"),
        ("skinml.run.results.write_predictions", 2, "after"),
        ("skinml.tracking.folder:RunFolder.write_metrics", 1, "after"),
        ("skinml.tracking.folder:RunFolder.finish", 1, "before"),
        ("skinml.tracking.folder:RunFolder.finish", 1, "after"),
        ("skinml.tracking.record._file", 5, "after"),
        ("skinml.run.end_to_end.remove_checkpoints", 1, "after"),
    ],
}


@needs_signals
@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_never_was(
    driver: Driver, undisturbed: RunFolder, tmp_path: Path, chain: str
) -> None:
    first, *others = CHAINS[chain]
    folder = driver.start(chain.replace(" ", "-"), first)
    for instant in others:
        code = driver.run("--offline", "--resume", str(folder.path), at=instant)
        assert code == -signal.SIGKILL, (instant, driver.text)
        noted = read_noted(folder.journal)
        assert list(noted.epochs) == EPOCHS[: len(noted.epochs)], instant
        if noted.epochs and not folder.finished:
            checkpoint = load_checkpoint(folder.path)
            assert checkpoint and checkpoint.epoch >= len(noted.epochs), instant
    assert driver.run("--offline", "--resume", str(folder.path)) == 0, driver.text
    assert_same_result(folder, undisturbed, tmp_path)
    assert_told_once(folder)
    assert not has_checkpoint(folder.path)
    assert not list(folder.path.glob(".*")), "something temporary is left"
    assert driver.run("--offline", "--resume", str(folder.path)) == 0
    assert "is finished: there is nothing to do" in driver.text


@needs_signals
@pytest.mark.slow
def test_a_damaged_checkpoint_costs_an_epoch_and_doubles_none(
    driver: Driver, undisturbed: RunFolder, tmp_path: Path
) -> None:
    """Also: fine-tuning that goes on does not compute the frozen step, and seconds add up."""
    folder = driver.start("damaged", (APPENDED, 4, "after"))
    newest = folder.path / "checkpoint-000004"
    newest.write_bytes(newest.read_bytes()[:-100])
    before = load_checkpoint(folder.path)
    assert before and before.epoch == 3
    told = read_noted(folder.journal).epochs
    forbidden: Instant = ("skinml.training.loop.frozen_inputs", 1, "before")
    code = driver.run("--offline", "--resume", str(folder.path), at=forbidden)
    assert code == 0, driver.text
    assert f"{newest} is damaged" in driver.text
    assert "goes on after epoch 3" in driver.text
    assert "was trained again and is not what its curves show" not in driver.text
    assert read_noted(folder.journal).epochs.items() >= told.items()
    assert_same_result(folder, undisturbed, tmp_path)
    assert_told_once(folder)
    assert folder.read_metrics()["training_seconds"] > before.seconds


@needs_signals
@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "code", "reason", "at"),
    [
        (
            signal.SIGTERM,
            143,
            "stopped by SIGTERM",
            ("skinml.training.checkpoint._encode", 3, "after"),
        ),
        (signal.SIGINT, 130, "stopped by Ctrl-C", (STEP, 8, "before")),
    ],
)
def test_a_run_that_is_stopped_says_why_and_how_to_go_on(
    driver: Driver,
    undisturbed: RunFolder,
    tmp_path: Path,
    signum: int,
    code: int,
    reason: str,
    at: Instant,
) -> None:
    name = f"stopped-{signum}"
    arguments = ["--offline", *driver.options, f"--output_dir={name}"]
    assert driver.run(*arguments, at=at, signum=signum) == code, driver.text
    [path] = (driver.folder / name).iterdir()
    folder = RunFolder.open(path)
    *_, end = read_journal(folder.journal)
    assert (end.kind, end.fields["status"], end.fields["reason"]) == ("end", "KILLED", reason)
    assert "Traceback" not in driver.text
    [command] = re.findall("go on with: python -m skinml.run (.*)", driver.text)
    assert command == f"--resume {name}/{path.name} --offline", "as it was begun"
    if signum == signal.SIGINT:
        _, _, after = driver.text.partition("skinml: stopped by Ctrl-C\n")
        assert "go on with" in after and "stopped by" not in after
    checkpoint = load_checkpoint(folder.path)
    assert checkpoint and checkpoint.epoch == 2, "the last epoch's checkpoint stands"
    assert driver.run(*command.split()) == 0, driver.text
    assert_same_result(folder, undisturbed, tmp_path)
    assert_told_once(folder)


@needs_signals
@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_features_go_on_where_they_were_and_tell_how_far_they_are(
    driver: Driver, tmp_path: Path, signum: signal.Signals
) -> None:
    """Minutes of computing, before there is any checkpoint; to the bit as without an interruption.

    24 images for training in up to two views, 9 for validation: four batches of 16.
    """
    arrays = driver.folder / "cache" / "arrays"
    shutil.rmtree(arrays, ignore_errors=True)
    name = f"features-{signum}"
    start = ["--offline", *driver.options, "--seed=7", f"--output_dir={name}"]
    computed = "skinml.training.inputs.answer"
    ends = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}
    assert driver.run(*start, at=(computed, 3, "before"), signum=signum) == ends[signum]
    assert "its features of 33 images (in up to 2 views for training) are computed" in driver.text
    assert "once for all 2 epochs\n" in driver.text
    [path] = (driver.folder / name).iterdir()
    folder = RunFolder.open(path)
    again = "--offline", "--resume", str(path)
    assert driver.run(*again, at=(computed, 2, "after"), signum=signum) == ends[signum]
    first = re.search(r"; (\d+) images are done already\n", driver.text)
    assert driver.run(*again) == 0, driver.text
    second = re.search(r"; (\d+) images are done already\n", driver.text)
    assert first and second
    assert 0 < int(first[1]) < int(second[1]) < 33
    assert {found.suffix for found in arrays.iterdir()} == {".npy", ".sha256"}
    noted = [
        (record.fields["step"], record.fields["values"][FEATURES_DONE])
        for record in read_journal(folder.journal)
        if record.kind == "metrics" and FEATURES_DONE in record.fields["values"]
    ]
    assert noted == sorted(noted)
    assert noted[-1] == (33, 33)

    shutil.rmtree(arrays)
    undisturbed = driver.start(f"whole-{signum}", None, "--seed=7")
    assert "done already" not in driver.text
    assert_same_result(folder, undisturbed, tmp_path)
    images = [f.read_metrics()["frozen_backbone_images"] for f in (folder, undisturbed)]
    assert images[0] == images[1]


# Refused by name


@pytest.fixture(scope="module")
def killed(driver: Driver) -> RunFolder:
    """A run that was killed in its second epoch."""
    return driver.start("refused", (STEP, 5, "after"))


@needs_signals
@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--batch_size=32"], "batch_size=32: run {} was started with 8"),
        (
            ["--seed=1", "--dropout=0.5", "--batch_size=8", "--batch_norm=trained"],
            "seed=1: run {0} was started with 0; dropout=0.5: run {0} was started with 0.2; leave",
        ),
        (["--register=false"], "register=False: run {} was started with True"),
    ],
)
def test_a_parameter_that_differs_is_refused_by_name(
    driver: Driver, killed: RunFolder, given: list[str], message: str
) -> None:
    before = killed.journal.read_bytes()
    assert driver.run("--offline", "--resume", str(killed.path), *given) == 2
    [line] = driver.text.splitlines()
    assert line.startswith(f"skinml: error: {message.format(killed.path)}")
    assert killed.journal.read_bytes() == before


def copy_of(folder: RunFolder, to: Path, change: Callable[[Any], object]) -> RunFolder:
    """A copy of a killed run whose checkpoint says something else of its surroundings."""
    from dataclasses import replace

    from skinml.training.checkpoint import save_checkpoint

    copy = RunFolder.open(shutil.copytree(folder.path, to))
    checkpoint = load_checkpoint(copy.path)
    assert checkpoint
    facts = dict(checkpoint.surroundings)
    change(facts)
    save_checkpoint(copy.path, replace(checkpoint, surroundings=facts))
    return copy


@needs_signals
@pytest.mark.slow
@pytest.mark.parametrize("name", ["data_digest", "training_digest", "keras_backend", "device_kind"])
def test_other_data_code_or_device_is_refused_by_name(
    driver: Driver, killed: RunFolder, tmp_path: Path, name: str
) -> None:
    copy = copy_of(killed, tmp_path / "copy", lambda facts: facts.update({name: "another"}))
    assert driver.run("--offline", "--resume", str(copy.path)) == 2
    assert re.search(rf"skinml: error: {name}=[\w-]+: run .* was started with another", driver.text)
    assert copy.journal.read_bytes() == killed.journal.read_bytes()


@needs_signals
@pytest.mark.slow
def test_other_threads_are_warned_of_and_noted(
    driver: Driver, killed: RunFolder, tmp_path: Path
) -> None:
    copy = copy_of(
        killed,
        tmp_path / "copy",
        lambda facts: facts.update(device_threads="64", version_keras="2"),
    )
    instant: Instant = (SAVED, 1, "before")
    assert driver.run("--offline", "--resume", str(copy.path), at=instant) == -signal.SIGKILL
    differs = "device_threads 1 instead of 64, version_keras"
    assert f"warning: {differs}" in driver.text
    tags = [r.fields["values"] for r in read_journal(copy.journal) if r.kind == "tags"]
    assert tags[-1]["skinml.resumed_with"].startswith(differs)


@needs_signals
@pytest.mark.slow
def test_a_run_that_goes_on_is_not_continued_by_a_second(
    driver: Driver, killed: RunFolder, tmp_path: Path
) -> None:
    copy = RunFolder.open(shutil.copytree(killed.path, tmp_path / "copy"))
    journal = Journal(copy.journal)
    try:
        assert driver.run("--offline", "--resume", str(copy.path)) == 2
        assert driver.text == (
            f"skinml: error: {copy.path}: its run goes on; expected one that was stopped or "
            "killed\n"
        )
    finally:
        journal.close()


# Which run is meant


def folder_of(
    path: Path, attached: str, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> RunFolder:
    """The folder of a run that `mlflow run` started and that had no time to send anything."""
    folder = RunFolder(path)
    folder.figures.mkdir(parents=True)
    config = Config(weights="none", **options)
    params = {name: str(value) for name, value in config.as_dict().items()}
    dataset = {"name": "isic2017", "digest": "d" * 8, "source": "nowhere", "counts": {}}
    description = Description("a-run", params, {"data": "isic2017"}, dataset)
    folder.write_description(description)
    monkeypatch.setenv("MLFLOW_RUN_ID", attached)
    journal = Journal(folder.journal)
    record_start(journal, description)
    journal.close()
    return folder


def test_a_folder_is_found_by_its_runs_id_without_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "runs"
    made = folder_of(root / "one", "a" * 32, monkeypatch)
    sent = folder_of(root / "sweep" / "cell" / "two", "", monkeypatch)
    Acknowledged("", "b" * 32).save(sent.path / "forward.json")
    assert folder_to_resume("a" * 32, root) == made
    assert folder_to_resume("b" * 32, root) == sent
    assert folder_to_resume(str(sent.path), tmp_path / "elsewhere") == sent
    # One that cannot be read keeps no other from being found.
    odd = folder_of(root / "another", "d" * 32, monkeypatch)
    odd.journal.unlink()
    Journal(odd.journal).append("run", written_by="something else")
    assert folder_to_resume("a" * 32, root) == made
    assert find_run("c" * 32, root) is None
    with pytest.raises(UserError, match=f"resume='{'c' * 32}': no folder of such a run below"):
        folder_to_resume("c" * 32, root)
    shutil.copytree(made.path, root / "copy")
    with pytest.raises(UserError, match=f"run {'a' * 32} has 2 folders: .*copy, .*one; expected"):
        folder_to_resume("a" * 32, root)


def test_a_run_that_was_killed_while_it_began_notes_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "run", "", monkeypatch)
    whole = folder.journal.read_bytes().splitlines(keepends=True)
    for count in range(len(whole)):
        folder.journal.write_bytes(b"".join(whole[:count]))
        journal = Journal(folder.journal)
        record_start(journal, folder.read_description(), read_noted(folder.journal))
        journal.close()
        kinds = [record.kind for record in read_journal(folder.journal)]
        assert {"run", "params", "tags", "dataset"} == set(kinds), count
        assert kinds.count("params") == kinds.count("dataset") == 1


def test_under_mlflow_run_a_default_counts_as_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes every parameter of MLproject; the others are compared with the run's own."""
    folder_of(tmp_path / "runs" / "one", "a" * 32, monkeypatch, seed=3, data_dir="nowhere")
    defaults = [f"--{name}={value}" for name, value in Config().as_dict().items()]
    with pytest.raises(UserError, match=f"batch_size=32: run {'a' * 32} was started with 16"):
        main([*defaults, "--batch_size=32"])
    # It goes on with the run's own parameters, as far as it gets without the data.
    with pytest.raises(UserError, match=r"neither a prepared set.*nowhere"):
        main([*defaults, "--weights=none", "--seed=3"])
    monkeypatch.setenv("MLFLOW_RUN_ID", "b" * 32)
    with pytest.raises(UserError, match="neither a prepared set") as caught:
        main([*defaults, "--weights=none"])
    assert "nowhere" not in str(caught.value), "a new run has its own parameters"


# In MLflow


def points(client: "MlflowClient", run_id: str) -> list[int]:
    return [p.step for p in client.get_metric_history(run_id, "epoch/val_loss")]


@needs_signals
@pytest.mark.slow
def test_the_curves_in_mlflow_have_every_epoch_once(
    driver: Driver, store: "MlflowClient", tmp_path: Path
) -> None:
    """Sent after each kill, so that the server knows what was noted before."""
    folder = driver.start("synced", (TOLD, 2, "after"))
    run_id = sync(folder.path)
    assert points(store, run_id) == [1, 2]
    assert store.get_run(run_id).info.status == "KILLED"
    newest = folder.path / "checkpoint-000002"
    newest.write_bytes(b"")
    again: Instant = (SAVED, 2, "after")
    assert driver.run("--offline", "--resume", str(folder.path), at=again) == -signal.SIGKILL
    assert sync(folder.path) == run_id
    assert points(store, run_id) == [1, 2]
    assert driver.run("--offline", "--resume", str(folder.path)) == 0
    assert sync(folder.path) == run_id
    assert points(store, run_id) == EPOCHS
    run = store.get_run(run_id)
    assert run.info.status == "FINISHED" and "skinml.reason" not in run.data.tags
    for name in run.data.metrics:
        steps = [point.step for point in store.get_metric_history(run_id, name)]
        assert len(steps) == len(set(steps)), name
