"""Train one network and track all of it: `python -m skinml.run`, or `mlflow run .`.

The command line alone, so that `--help` and a mistyped option are answered at once; the run itself
is skinml/training_run.py.
"""

import argparse
import sys

from skinml.config import Parser, add_config_options, config_from_options
from skinml.data.isic2017 import NOTICE
from skinml.errors import run_command
from skinml.processes import stop_no_more, stop_on_sigterm, stop_with_stdin
from skinml.tracking.forwarder import DRAIN_LIMIT, DRAIN_VARIABLE, UNSENT, seconds


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m skinml.run",
        description="Train one network at one batch size and track all of it in MLflow.",
        epilog=NOTICE,
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
    stop_on_sigterm()
    if options.stop_with_stdin:
        stop_with_stdin()
    config = config_from_options(options)
    from skinml.training_run import run

    try:
        folder = run(config, options.offline, options.yes, options.drain_limit)
    except SystemExit:
        stop_no_more()
        raise
    return 0 if options.offline or folder.published else UNSENT


if __name__ == "__main__":
    sys.exit(run_command(main))
