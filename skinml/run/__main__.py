"""Train one network and track all of it: `python -m skinml.run`, or `mlflow run .`.

The command line alone, so that `--help` and a mistyped option are answered at once; the run itself
is skinml/run/end_to_end.py.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from skinml.base.errors import run_command
from skinml.base.signals import stop_no_more, stop_on_signals, stop_with_stdin
from skinml.config import (
    Config,
    Parser,
    add_config_options,
    config_from_options,
    given_options,
    warn_of_idle_parameters,
)
from skinml.data.isic2017 import NOTICE
from skinml.tracking.forwarder_process import DRAIN_LIMIT, DRAIN_VARIABLE, UNSENT, seconds

if TYPE_CHECKING:
    from skinml.tracking.folder import RunFolder


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m skinml.run",
        description="Train one network at one batch size and track all of it in MLflow.",
        epilog=NOTICE,
    )
    parser.add_argument(
        "--resume",
        type=_named,
        metavar="RUN",
        help="go on with a run that was stopped or killed: its MLflow id (its folder is looked for "
        "below output_dir), or its folder; its parameters are those that it was started with",
    )
    parser.add_argument(
        "--offline", action="store_true", help="train without MLflow; `skinml.sync` publishes later"
    )
    parser.add_argument(
        "--yes", action="store_true", help="download data that is missing (12 GB) without asking"
    )
    parser.add_argument(
        "--drain-limit",
        type=seconds,
        metavar="SECONDS",
        help="how long to wait at the end for a server that lacks something of the run (default: "
        f"${DRAIN_VARIABLE}, else {DRAIN_LIMIT:g}); then the exit code is {UNSENT}, and "
        "`skinml.sync` sends the rest",
    )
    parser.add_argument("--stop-with-stdin", action="store_true", help=argparse.SUPPRESS)
    add_config_options(parser)
    options = parser.parse_args(argv)
    stop_on_signals()
    if options.stop_with_stdin:
        stop_with_stdin()
    config = config_from_options(options)
    earlier, given = _to_resume(options, config)
    if not earlier:
        warn_of_idle_parameters([config])
    from skinml.run.end_to_end import resume, run

    how = options.offline, options.yes, options.drain_limit
    try:
        folder = resume(earlier, given, *how) if earlier else run(config, *how)
    except (SystemExit, KeyboardInterrupt):
        stop_no_more()
        raise
    return 0 if options.offline or folder.published else UNSENT


def _named(text: str) -> str:
    """The name of a run: of a variable that is empty, a new training would begin."""
    if not text.strip():
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected the MLflow id of a run, or its folder; leave --resume out to "
            "train anew"
        )
    return text


def _to_resume(
    options: argparse.Namespace, config: Config
) -> "tuple[RunFolder | None, dict[str, object]]":
    """The folder of the run that is to go on, if one is, and the parameters that were given.

    `mlflow run` gives every parameter: what is its default counts as not given. It also makes a
    run for each new training, of which there is no folder.
    """
    given = {name: getattr(config, name) for name in given_options(options)}
    given.pop("output_dir", None)  # Where to look, rather than what to train.
    project_run = os.environ.get("MLFLOW_RUN_ID")
    if not options.resume and not project_run:
        return None, given
    from skinml.tracking.find import find_run, folder_to_resume

    root = Path(config.output_dir)
    if options.resume:
        return folder_to_resume(options.resume, root), given
    default = Config()
    given = {name: value for name, value in given.items() if value != getattr(default, name)}
    return find_run(str(project_run), root), given


if __name__ == "__main__":
    sys.exit(run_command(main))
