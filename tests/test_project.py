"""The files around the package agree with it and with each other."""

import ast
import csv
import dataclasses
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from skinml.compare.__main__ import _parser as compare_parser
from skinml.compare.__main__ import _without_empty as without_empty
from skinml.config import Config
from skinml.sweep.__main__ import PAPER, PLACEMENT, parser
from skinml.sweep.cells import AXES

ROOT = Path(__file__).parent.parent


def read_yaml(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return content


def project_table() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def split_pin(requirement: str) -> tuple[str, str]:
    """Name, extras included, and version of `name[extra]==version ; marker`."""
    pin, _, _ = requirement.partition(";")
    name, equals, version = pin.strip().partition("==")
    assert equals, f"{requirement!r} is not pinned with =="
    return name, version


def conda_pip_requirements() -> list[str]:
    [section] = [part for part in read_yaml("conda.yaml")["dependencies"] if type(part) is dict]
    requirements: list[str] = section["pip"]
    return requirements


def lock_pins() -> dict[str, set[str]]:
    """The versions of each package in the lock; two where Python 3.11 and 3.12 differ."""
    pins: dict[str, set[str]] = {}
    pattern = r"^([a-z0-9-]+)(?:\[[a-z,-]+\])?==([^\s;]+)"
    for name, version in re.findall(pattern, (ROOT / "requirements.lock").read_text(), re.M):
        pins.setdefault(name, set()).add(version)
    return pins


def tracked_text_files() -> list[Path]:
    """What git tracks or would track, without what only git's owner sees."""
    listing = subprocess.run(
        # Root in a container may not be the owner of the checkout, which git otherwise refuses.
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip(f"not a git checkout: {listing.stderr.strip()}")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


# MLproject


def test_mlproject_main_has_the_fields_of_config_with_their_defaults() -> None:
    parameters = read_yaml("MLproject")["entry_points"]["main"]["parameters"]
    declared = {name: (row["type"], str(row["default"])) for name, row in parameters.items()}
    assert declared == {
        option.name: ("float" if option.type in (int, float) else "string", str(option.default))
        for option in dataclasses.fields(Config)
    }
    assert list(declared) == [option.name for option in dataclasses.fields(Config)]


def test_mlproject_main_passes_every_field_of_config_on() -> None:
    options = [f"--{o.name} {{{o.name}}}" for o in dataclasses.fields(Config)]
    command = read_yaml("MLproject")["entry_points"]["main"]["command"]
    assert command == " ".join(["python -m skinml.run", *options])


def test_mlproject_sweep_has_the_options_of_the_command_with_their_defaults() -> None:
    """All but --dry-run and --yes: `mlflow run` has made a run by then."""
    parameters = read_yaml("MLproject")["entry_points"]["sweep"]["parameters"]
    declared = {name: (row["type"], str(row["default"])) for name, row in parameters.items()}
    own = {name: ("string", default) for name, default in PAPER.items()}
    own |= {"set": ("string", ""), "jobs": ("string", "auto"), "rerun": ("string", "False")}
    own |= {name: ("string", default) for name, default in PLACEMENT.items()}
    main = read_yaml("MLproject")["entry_points"]["main"]["parameters"]
    shared = {name: (row["type"], str(row["default"])) for name, row in main.items()}
    assert declared == own | {name: row for name, row in shared.items() if name not in AXES}
    actions = {action.dest: action for action in parser()._actions}
    assert set(actions) == set(declared) | {"help", "dry_run", "yes"}
    for name, (_, default) in own.items():
        assert str(actions[name].default or "") == default


def test_mlproject_sweep_passes_its_parameters_by_their_names() -> None:
    row = read_yaml("MLproject")["entry_points"]["sweep"]
    options = [f"--{name} {{{name}}}" for name in row["parameters"]]
    assert row["command"] == " ".join(["python -m skinml.sweep", *options])


def test_the_comparison_takes_what_mlproject_passes_it() -> None:
    """Its defaults there are the command's own."""
    row = read_yaml("MLproject")["entry_points"]["compare"]
    assert row["command"].startswith("python -m skinml.compare ")
    words = row["command"].split()[3:]
    defaults = {name: str(value["default"]) for name, value in row["parameters"].items()}
    given = [word.format_map(defaults) if word.startswith("{") else word for word in words]
    options = compare_parser().parse_args(without_empty(given))
    assert options == compare_parser().parse_args([])


def entry_points() -> list[str]:
    return list(read_yaml("MLproject")["entry_points"])


@pytest.mark.parametrize("entry_point", entry_points())
def test_mlproject_entry_point_passes_its_parameters_to_a_module(entry_point: str) -> None:
    row = read_yaml("MLproject")["entry_points"][entry_point]
    assert re.findall(r"\{(\w+)\}", row["command"]) == list(row["parameters"])
    # A `path` that does not exist, `auto` for one, would leave the run RUNNING for ever.
    assert {parameter["type"] for parameter in row["parameters"].values()} <= {"float", "string"}
    module = re.match(r"python -m (skinml[\w.]*) ", row["command"])
    assert module, row["command"]
    path = ROOT.joinpath(*module[1].split("."))
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


# Versions


def test_the_training_environment_has_the_core_and_gpu_versions_of_pyproject() -> None:
    project = project_table()
    wanted = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    pins = dict(map(split_pin, conda_pip_requirements()))
    # TensorFlow stands there twice, with CUDA and, for machines that have none, without.
    assert pins.pop("tensorflow") == pins["tensorflow[and-cuda]"]
    assert pins == dict(map(split_pin, wanted))


def test_the_lock_has_the_versions_of_pyproject() -> None:
    extras = project_table()["optional-dependencies"]
    locked = [*extras["cpu"], *extras["jax"], *extras["dev"]]
    pins = lock_pins()
    for name, version in map(split_pin, [*project_table()["dependencies"], *locked]):
        # The lock has an extra (`psycopg[binary]`) as further packages.
        assert pins.get(name.partition("[")[0]) == {version}, f"{name}: run `make lock`"


def test_one_tensorflow_version_everywhere() -> None:
    extras = project_table()["optional-dependencies"]
    requirements = [*extras["cpu"], *extras["gpu"], *conda_pip_requirements()]
    pins = map(split_pin, requirements)
    assert len({version for name, version in pins if name.startswith("tensorflow")}) == 1


def test_conda_yaml_spells_its_python_as_mlflow_understands_it() -> None:
    environment = read_yaml("conda.yaml")
    plain = [part for part in environment["dependencies"] if type(part) is str]
    # `python=3.11.*`, `>=3.11` and `~=3.11` give a warning and the launching interpreter.
    assert plain == ["python=3.11", "pip"]


# Files


def test_the_lock_names_packages_not_where_they_came_from() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    for trace in ("://", "--index", "--extra-index", "--find-links", "--trusted-host"):
        assert trace not in lock


def test_no_tracked_file_names_a_machine_or_a_package_index() -> None:
    # Written in pieces, so that this file does not find itself.
    traces = re.compile(
        "|".join(
            [
                r"(?<![\w.:/}-])/(?:" + r"root|home/\w+|Users|work" + r")/",
                # An address of an attack is no place of a machine's.
                "file:" + r"///(?:root|home|Users|work|tmp|opt|mnt)\b",
                r"/opt/" + "(?:pypi|wheels)",
                r"/tmp/" + r"w\b",
                r"https?://[^\s)\"'>]*/" + r"(?:simple|pypi)(?:[/\s\"']|$)",
                r"--(?:extra-)?" + "index-url[ =]",
                "--find-" + "links[ =]",
            ]
        )
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked_text_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if traces.search(line)
    ]
    assert found == []


def test_every_make_target_is_phony_and_has_a_line_of_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = " ".join(re.findall(r"^\.PHONY: (.*)$", makefile, re.M))
    described = re.findall(r"^([a-z]+):.*  ## \S", makefile, re.M)
    # One with a hyphen is a step of others.
    assert sorted(described) == sorted(name for name in phony.split() if "-" not in name)
    listing = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.findall(r"^  make (\w+) +\S", listing.stdout, re.M) == described


def test_ci_can_be_run() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.parametrize(
    "folder", [path.parent for path in sorted((ROOT / "results").glob("*/comparison.json"))],
    ids=lambda path: path.name,
)  # fmt: skip
def test_published_figures_follow_from_the_committed_predictions(folder: Path) -> None:
    """Nothing in a published table is from nowhere: each figure is computed anew."""
    from skinml.compare.reading import runs_in_folder
    from skinml.evaluation.metrics import evaluate

    runs = {run.run_id: run for run in runs_in_folder(folder)}
    cells = json.loads((folder / "comparison.json").read_text())["cells"]
    assert {run for cell in cells for run in cell["runs"]} == runs.keys()
    for cell in cells:
        tables = [runs[run].predictions for run in cell["runs"]]
        for name, told in cell["metrics"].items():
            found = [float(evaluate(table, names=(name,))[name][0]) for table in tables]
            assert told["value"] == pytest.approx(sum(found) / len(found), abs=1e-12), name


def test_a_published_run_has_each_epoch_once_however_often_it_was_stopped() -> None:
    paths = sorted((ROOT / "results").rglob("history.csv"))
    assert len(paths) > 10
    for path in paths:
        with path.open(newline="") as file:
            epochs = [int(row["epoch"]) for row in csv.DictReader(file)]
        assert epochs == list(range(1, len(epochs) + 1)), path


def test_files_and_functions_are_short_or_say_why() -> None:
    """What is longer than a person reads at once is split, or its docstring says why it is not."""
    for path in (ROOT / "skinml").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        said = "one file" in " ".join((ast.get_docstring(tree) or "").lower().split())
        assert said or len(text.splitlines()) <= 400, f"{path}: split it, or say why it is one file"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 60, f"{path}: {node.name} has {lines} lines"
