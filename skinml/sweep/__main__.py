"""The grid of models, batch sizes and seeds, a fresh process a cell: `python -m skinml.sweep`.

The command line alone, so that `--help` and a mistyped option are answered at once; the sweep
itself is skinml/sweep/driver.py.
"""

import argparse
import math
import os
import shlex
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from skinml.base.errors import UserError, run_command
from skinml.config import (
    AUTO,
    Config,
    Parser,
    add_config_options,
    given_options,
    is_true,
    warn_of_idle_parameters,
)
from skinml.data.isic2017 import NOTICE
from skinml.sweep.cells import AXES, grid_configs, make_cells, settings_of, values_of
from skinml.sweep.engines.placement import Placement, sbatch_options

if TYPE_CHECKING:
    from skinml.sweep.orders import Command

# The paper's nine cells.
PAPER = {
    "models": "mobilenet,mobilenetv2,nasnetmobile",
    "batch_sizes": "16,32,64",
    "seeds": "0",
    "split_seeds": "0",
}

# Where cells train; each needs an extra but for the first.
ENGINES = ("local", "ray", "slurm")

# What is said of it by default.
PLACEMENT = {
    "engine": "local",
    "address": "",
    "cpus": AUTO,
    "gpus": AUTO,
    "slurm": "",
    "executor": "slurm",
}

_Number = TypeVar("_Number", int, float)


def parser() -> Parser:
    result = Parser(
        prog="python -m skinml.sweep",
        description="Train a grid of configurations, each in a process of its own, and track them "
        "below one run in MLflow. Cells that have a finished run are not trained again.",
        epilog=NOTICE,
    )
    _add_grid(result)
    result.add_argument(
        "--jobs",
        default=AUTO,
        help="cells at a time (default: 1 on this machine, where with several GPUs each cell gets "
        "one; on a cluster as many as have room)",
    )
    _add_placement(result.add_argument_group("more than one machine (docs/cluster.md)"))
    result.add_argument(
        "--rerun",
        nargs="?",
        const="True",
        default="False",
        help="train the cells that are done already once more",
    )
    result.add_argument(
        "--dry-run",
        "--dry_run",
        action="store_true",
        help="list the cells and what would happen to each, train nothing",
    )
    result.add_argument(
        "--yes", action="store_true", help="download data that is missing (12 GB) without asking"
    )
    add_config_options(result, exclude=tuple(AXES))
    return result


def _add_grid(parser: Parser) -> None:
    """The options that say which cells there are."""
    for axis in AXES.values():
        names = dict.fromkeys((f"--{axis}", f"--{axis.replace('_', '-')}"))
        parser.add_argument(
            *names,
            dest=axis,
            default=PAPER[axis],
            metavar="A,B",
            help=f"{axis}, with commas (default: %(default)s)",
        )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="MODEL.OPTION=VALUE",
        help="an option for one model alone, such as mobilenetv2.weights=FILE or "
        "mobilenetv2.epochs_frozen=30; again for more, or several with spaces between them",
    )


def _add_placement(cluster: "argparse._ArgumentGroup") -> None:
    """The options that say where cells train."""
    cluster.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="where cells train: this machine, a Ray cluster, or SLURM (default: %(default)s)",
    )
    cluster.add_argument(
        "--address",
        default="",
        help="of the Ray cluster, host:port (default: $RAY_ADDRESS, else the one that this machine "
        "is part of)",
    )
    cluster.add_argument(
        "--cpus", default=AUTO, help="CPUs of a Ray node for a cell (default: --threads, else 1)"
    )
    cluster.add_argument(
        "--gpus",
        default=AUTO,
        help="GPUs of a Ray node for a cell, 0.5 for two cells on one (default: 1 where there are)",
    )
    cluster.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of sbatch for each cell, such as partition=gpu or time=12:00:00 (default: "
        "24 hours); again for more, or several with spaces between them",
    )
    cluster.add_argument(
        "--executor",
        choices=("slurm", "local", "debug"),
        default="slurm",
        help="what takes SLURM's jobs: SLURM, or to try it this machine or this process",
    )


def main(argv: list[str] | None = None, command: "Command | None" = None) -> int:
    options = parser().parse_args(argv)
    jobs = None if options.jobs == AUTO else _number("jobs", options.jobs, 1, int)
    rerun = is_true("rerun", options.rerun)
    placement = _placement(options)
    axes = {name: values_of(axis, getattr(options, axis)) for name, axis in AXES.items()}
    settings = settings_of(options.set, axes["model"])
    configs = grid_configs(axes, given_options(options), settings)
    warn_of_idle_parameters(configs)
    from skinml.data.prepare import open_data
    from skinml.data.protocols import own_parts_warning
    from skinml.run.tracked import check_settings

    check_settings()
    # Here, before any cell: side by side they would all prepare the images.
    data = open_data(configs[0].data, configs[0].data_dir, yes=options.yes)
    if any(config.protocol == "paper" for config in configs):
        # Here too: what a cell says goes into its own log.
        for line in own_parts_warning(configs[0].data, data.official_parts):
            print(f"skinml: {line}", file=sys.stderr)
    cells = make_cells(configs, data)
    if options.dry_run:
        from skinml.sweep.done import dry_run

        dry_run(cells, configs[0].data, rerun)
        return 0
    from skinml.sweep.driver import sweep
    from skinml.sweep.orders import cell_command

    return sweep(
        cells,
        jobs,
        rerun,
        command or cell_command,
        same_again(options, argv),
        placement,
        data.folder,
    )


def _placement(options: argparse.Namespace) -> Placement:
    """Where the cells are to train."""
    # A share that nobody looks at would be a promise.
    for name, engine, instead in (
        ("address", "ray", ""),
        ("cpus", "ray", " (under SLURM: --slurm cpus-per-task=2)"),
        ("gpus", "ray", " (under SLURM: --slurm gres=gpu:1)"),
        ("slurm", "slurm", ""),
        ("executor", "slurm", ""),
    ):
        given = getattr(options, name)
        if given not in (PLACEMENT[name], [], [""]) and options.engine != engine:
            raise UserError(
                f"{name}={given!r} with engine={options.engine}: expected --engine {engine}, or no "
                f"--{name}{instead}"
            )
    shares = {
        name: None
        if getattr(options, name) == AUTO
        else _number(name, getattr(options, name), 0, float)
        for name in ("cpus", "gpus")
    }
    return Placement(
        options.engine,
        options.address,
        **shares,
        slurm=sbatch_options(options.slurm),
        executor=options.executor,
    )


def _number(name: str, text: str, least: int, kind: "type[_Number]") -> "_Number":
    try:
        value = kind(text)
        if not least <= value < math.inf:
            raise ValueError
    except ValueError:
        what = {int: "a whole number", float: "a number"}[kind]
        raise UserError(f"{name}={text!r}: expected {what} of at least {least}, or auto") from None
    return value


def same_again(options: argparse.Namespace, argv: list[str] | None) -> str:
    """The command that goes on with a sweep, as it was started: by Python or by `mlflow run`."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id:
        words = ["python", "-m", "skinml.sweep", *(sys.argv[1:] if argv is None else argv)]
        return shlex.join(words)
    from skinml.store.sweeps import environment_manager

    defaults: dict[str, Any] = {**PAPER, "set": "", "jobs": AUTO, "rerun": "False", **PLACEMENT}
    defaults |= {option.name: str(option.default) for option in fields(Config)}
    given = {**vars(options), "set": " ".join(options.set), "slurm": " ".join(options.slurm)}
    words = ["mlflow", "run", ".", "-e", "sweep", "--env-manager", environment_manager(run_id)]
    words += ["--experiment-id", os.environ.get("MLFLOW_EXPERIMENT_ID", "0")]
    for name, default in defaults.items():
        if given.get(name) not in (None, default):
            words += ["-P", f"{name}={given[name]}"]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(run_command(main))
