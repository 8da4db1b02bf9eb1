"""Registered models: their names, and who is the champion."""

import contextlib
from typing import cast

import pytest
from mlflow import MlflowClient, MlflowException

from skinml.base.errors import run_command
from skinml.data.isic2017 import NOTICE
from skinml.registry import main
from skinml.store.champion import CHAMPION, settle_champion
from skinml.store.models import (
    _about_version,
    _describe,
    _log_model_metrics,
    _register_once,
    model_name,
)
from skinml.tracking.folder import Description, RunFolder

NAME = "skinml-mobilenetv2"
SERVING_NAME = f"{NAME}-serving"
TAGS = {"data_digest": "0123", "split": "challenge", "test_accuracy": "0.7500"}


def _register(store: MlflowClient, run_id: str, auc: str | None, name: str, **changed: str) -> str:
    """Register one more version of a run; returns its number."""
    with contextlib.suppress(MlflowException):  # there already
        store.create_registered_model(name)
    tags = TAGS | changed | ({"val_auc_macro": auc} if auc else {})
    version = store.create_model_version(name, "runs:/nowhere/model", run_id=run_id, tags=tags)
    return str(version.version)


def _run(store: MlflowClient, auc: str | None, name: str = NAME, **changed: str) -> str:
    """Register both versions of one more run and settle the champion, as `log_models` does.

    Returns the number of the version, which is that of the run as well.
    """
    found = store.search_model_versions(f"name LIKE '{name}%'")
    run_id = str(max((int(version.run_id or 0) for version in found), default=0) + 1)
    for each in (name, f"{name}-serving"):
        number = _register(store, run_id, auc, each, **changed)
    settle_champion(name, run_id)
    return number


def _champions(store: MlflowClient, name: str = NAME) -> list[str | None]:
    """The runs of the champion, and of the serving model's; None where there is none."""
    runs = []
    for each in (name, f"{name}-serving"):
        try:
            runs.append(store.get_model_version_by_alias(each, CHAMPION).run_id)
        except MlflowException:
            runs.append(None)
    return runs


def _champion(store: MlflowClient, name: str = NAME) -> str | None:
    """The run that both champions are of."""
    model, serving = _champions(store, name)
    assert model == serving
    return model


@pytest.mark.parametrize(
    ("data", "serving", "expected"),
    [
        ("isic2017", False, "skinml-nasnetmobile"),
        ("isic2017", True, "skinml-nasnetmobile-serving"),
        ("demo", False, "skinml-demo-nasnetmobile"),
        ("demo", True, "skinml-demo-nasnetmobile-serving"),
    ],
)
def test_generated_data_has_models_of_its_own(data: str, serving: bool, expected: str) -> None:
    description = Description("", {}, {"data": data, "model": "nasnetmobile"}, {})
    assert model_name(description, serving) == expected


def test_the_best_comparable_version_is_the_champion(
    store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    champions = []
    for auc in ("0.8000", "0.8200", "0.8200", "0.8100", None, "0.9999", "1.0000"):
        _run(store, auc)
        champions.append(_champion(store))
    # Better takes over; equal, worse and unmeasured do not.
    assert champions == ["1", "2", "2", "2", "2", "6", "7"]
    assert capsys.readouterr().err == ""


def test_any_measured_version_is_better_than_an_unmeasured_one(store: MlflowClient) -> None:
    _run(store, None)
    assert _champion(store) == "1"
    _run(store, "0.5000")
    assert _champion(store) == "2"


@pytest.mark.parametrize(
    ("key", "value"), [("data_digest", "4567"), ("split", "paper test=0.15 val=0.2 seed=0")]
)
def test_another_test_never_takes_over_and_says_how(
    key: str, value: str, store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(store, "0.8000")
    other = _run(store, "0.9900", **{key: value})
    assert _champion(store) == "1"
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{key} {TAGS[key]} there, {value} here" in line
    assert f"python -m skinml.registry promote {NAME} {other}" in line
    # The command that it names works, and what is comparable from then on is the other test.
    assert main(["promote", NAME, other]) == 0
    assert _champion(store) == other
    assert f"{NAME}@{CHAMPION} is now version {other}" in capsys.readouterr().out.splitlines()
    better = _run(store, "0.9910", **{key: value})
    assert _champion(store) == better


@pytest.mark.parametrize("deleted", [NAME, SERVING_NAME], ids=["model", "serving"])
def test_after_the_champion_is_deleted_the_best_that_remains_takes_over(
    deleted: str, store: MlflowClient
) -> None:
    """Of both names: the serving version of the best one may be what was deleted."""
    for auc in ("0.8000", "0.9000", "0.7000"):
        _run(store, auc)
    assert _champion(store) == "2"
    store.delete_model_version(deleted, "2")
    assert None in _champions(store)
    _run(store, "0.5000")
    assert _champion(store) == "1"
    store.delete_model_version(deleted, "1")
    _run(store, "0.9500")
    assert _champion(store) == "5"


def test_the_successor_is_one_that_the_deleted_champion_was_comparable_with(
    store: MlflowClient,
) -> None:
    """Which was is not to be seen any more: the run that ends next may be another test."""
    for auc in ("0.8000", "0.9000"):
        _run(store, auc)
    store.delete_model_version(NAME, "2")
    _run(store, "0.9900", split="paper")
    assert _champion(store) == "1"
    store.delete_model_version(NAME, "1")
    _run(store, "0.6000", split="paper")
    assert _champion(store) == "3", "none of the old test is left"


def test_both_champions_are_put_right_where_they_are_of_two_runs(store: MlflowClient) -> None:
    """As they were left by a version of before, or by a person in MLflow's UI."""
    for auc in ("0.8000", "0.9000", "0.7000"):
        _run(store, auc)
    store.set_registered_model_alias(SERVING_NAME, CHAMPION, "1")
    _run(store, "0.5000")
    assert _champion(store) == "2"
    store.set_registered_model_alias(NAME, CHAMPION, "1")
    settle_champion(NAME, "4")
    assert _champion(store) == "1", "what a person set at the model itself counts"


def test_a_run_with_one_version_is_no_champion(
    store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(store, "0.7000")
    _register(store, "9", "0.9000", NAME)
    settle_champion(NAME, "9")
    assert _champion(store) == "1"
    assert run_command(lambda: main(["promote", NAME, "2"])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{NAME} 2: its run has no version of {SERVING_NAME}" in line
    assert _champion(store) == "1"


@pytest.mark.parametrize("name", [NAME, SERVING_NAME])
def test_promoting_one_of_a_runs_versions_promotes_both(
    name: str, store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    for auc in ("0.9000", "0.8000"):
        _run(store, auc)
    assert main(["promote", name, "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{NAME}@{CHAMPION} is now version 2",
        f"{SERVING_NAME}@{CHAMPION} is now version 2",
    ]
    assert _champion(store) == "2"
    settle_champion(NAME, "1")
    assert _champion(store) == "2", "a run that is sent again undoes what a person decided"
    _run(store, "0.8500")
    assert _champion(store) == "3"


def test_runs_that_end_together_leave_one_champion(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one sets both aliases between the first and the second of this one."""
    set_alias = MlflowClient.set_registered_model_alias
    _run(store, "0.1000")
    between = ["0.9000"]

    def interrupted(client: MlflowClient, name: str, alias: str, version: str) -> None:
        set_alias(client, name, alias, version)
        if between:
            _run(store, between.pop())

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", interrupted)
    _run(store, "0.8000")
    assert _champion(store) == "3"


def test_a_registry_that_fails_does_not_depose_the_champion(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a registry that says so has no champion: an error is not that answer."""
    _run(store, "0.9000")
    with monkeypatch.context() as patch:

        def fail(self: MlflowClient, *_: object) -> None:
            raise MlflowException("too busy")

        patch.setattr(MlflowClient, "get_model_version_by_alias", fail)
        patch.setattr(MlflowClient, "get_registered_model", fail)
        with pytest.raises(MlflowException, match="too busy"):
            _run(store, "0.1000")
    assert _champion(store) == "1"


def test_list_shows_every_version_and_the_champion(
    store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list"]) == 0
    assert capsys.readouterr().out == "no model of skinml is registered here\n"
    _run(store, "0.8000")
    _run(store, "0.7000")
    _run(store, None, name="skinml-demo-mobilenet", split="paper")
    _run(store, "0.9000", name="somebody-elses")
    assert main(["list"]) == 0
    tail = "test_accuracy 0.7500, split challenge, data 0123"
    demo = "1 champion: val_auc_macro ?, test_accuracy 0.7500, split paper, data 0123"
    assert sorted(capsys.readouterr().out.splitlines()) == [
        f"skinml-demo-mobilenet {demo}",
        f"skinml-demo-mobilenet-serving {demo}",
        f"{NAME} 1 champion: val_auc_macro 0.8000, {tail}",
        f"{NAME} 2: val_auc_macro 0.7000, {tail}",
        f"{SERVING_NAME} 1 champion: val_auc_macro 0.8000, {tail}",
        f"{SERVING_NAME} 2: val_auc_macro 0.7000, {tail}",
    ]


def test_list_says_how_to_replace_a_champion_that_was_deleted(
    store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    for auc in ("0.8000", "0.9000", "0.7000"):
        _run(store, auc)
    store.delete_model_version(SERVING_NAME, "2")
    assert main(["list"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "promote" in line]
    command = f"python -m skinml.registry promote {NAME} 1"
    assert line.startswith(f"{NAME}: ") and line.endswith(command)
    assert main(command.split()[3:]) == 0
    assert _champion(store) == "1"
    assert main(["list"]) == 0
    assert "promote" not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "version"), [("nothing", "1"), (NAME, "9"), (NAME, "latest")])
def test_promoting_what_is_not_there_is_an_error_of_one_line(
    name: str, version: str, store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(store, "0.8000")
    assert run_command(lambda: main(["promote", name, version])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"skinml: error: {name} {version}: ")
    assert "python -m skinml.registry list" in line
    assert _champion(store) == "1"


@pytest.mark.parametrize("command", [["list"], ["promote", NAME, "1"]])
def test_a_server_that_does_not_answer_is_an_error_of_one_line(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert run_command(lambda: main(command)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "127.0.0.1" in line


def test_a_models_metrics_can_be_sent_again_however_many(store: MlflowClient) -> None:
    """A forwarder that was killed repeats its request; MLflow's store refuses it above 100."""
    experiment = store.create_experiment("many")
    run = store.create_run(experiment)
    metrics = {f"test_{number}": 0.5 for number in range(110)}
    for name, value in metrics.items():
        store.log_metric(run.info.run_id, name, value, timestamp=1, step=0)
    model = store.create_logged_model(experiment, "model", source_run_id=run.info.run_id)
    for _ in range(2):
        _log_model_metrics(run, model.model_id, metrics)
    found = store.get_logged_model(model.model_id).metrics
    assert sorted(metric.key for metric in found or []) == sorted(metrics)


class _Folder:
    """The two files of a run's folder that a version's description is made from."""

    def read_metrics(self) -> dict[str, float]:
        return {"test_accuracy": 0.71234, "test_auc_macro": 0.84321}

    def read_text(self, name: str) -> str:
        assert name == "note.md"
        return "The report.\n\n" + "x" * 6000


@pytest.mark.parametrize("data", ["isic2017", "demo"])
def test_a_model_and_its_version_say_what_they_are(store: MlflowClient, data: str) -> None:
    """To a person who meets them in the registry, and once: what somebody wrote there stays."""
    run = store.create_run(store.create_experiment("skinml"), run_name="mobilenetv2-16-seed0")
    version = _run(store, "0.8")
    about = _about_version(cast(RunFolder, _Folder()), run)
    description = Description("", {}, {"data": data, "model": "mobilenetv2"}, {})
    _describe(NAME, version, description, about)

    model = store.get_registered_model(NAME).description
    assert f"models:/{NAME}@champion" in model and "melanoma, nevus" in model and NOTICE in model
    assert ("says nothing about skin" in model) == (data == "demo")
    text = store.get_model_version(NAME, version).description
    link = f"[run mobilenetv2-16-seed0](#/experiments/1/runs/{run.info.run_id})"
    assert text is not None and text.startswith(
        f"Test accuracy 0.712, macro AUC 0.843: {link}\n\nThe report."
    )

    store.update_registered_model(NAME, "theirs")
    store.update_model_version(NAME, version, "theirs")
    _describe(NAME, version, description, about)
    assert store.get_registered_model(NAME).description == "theirs"
    assert store.get_model_version(NAME, version).description == "theirs"


def test_a_version_that_was_deleted_is_not_registered_again(store: MlflowClient) -> None:
    """By a run that is sent again: a copy of its folder, or one whose state is lost."""
    experiment = store.create_experiment("again")
    model = store.create_logged_model(experiment, "model")
    store.finalize_logged_model(model.model_id, "READY")
    for _ in range(2):
        _register_once(model.model_id, NAME, TAGS)
    [version] = store.search_model_versions(f"name = '{NAME}'")
    store.delete_model_version(NAME, str(version.version))
    _register_once(model.model_id, NAME, TAGS)
    assert store.search_model_versions(f"name = '{NAME}'") == []
    settle_champion(NAME, "1")
    store.delete_registered_model(NAME)
    settle_champion(NAME, "1")
