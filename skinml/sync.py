"""Publish run folders that were made without MLflow: `python -m skinml.sync FOLDER…`."""

import sys
from pathlib import Path

from skinml.config import Parser
from skinml.errors import UserError, run_command
from skinml.registry import log_models
from skinml.tracking.folder import RunFolder
from skinml.tracking.publish import Run, open_run


def publish(run: Run, folder: RunFolder, register: bool = True) -> dict[str, str]:
    """Log all of a finished folder to its open MLflow run and mark it as published.

    What is there already is not counted twice. Returns the URI of each model by its name.
    """
    run.log_epochs(folder.read_history())
    run.log_results(folder)
    uris = log_models(folder, register)
    folder.mark_published(run.id)
    return uris


def sync(path: Path, register: bool = True) -> str:
    """Publish a finished run folder to MLflow; returns the id of its run.

    A folder is published once: the id is kept in it, and given back the next time.
    """
    folder = RunFolder.open(path)
    if not folder.finished:
        raise UserError(f"{path}: its run did not finish; expected a folder of a finished run")
    if not folder.published:
        description = folder.read_description()
        # Without system metrics: this machine's load now is not the training's.
        with open_run(description, system_metrics=False) as run:
            run.describe(description)
            publish(run, folder, register)
    return folder.published


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m skinml.sync",
        description="Publish run folders made with --offline, or on another machine, to MLflow.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    for path in parser.parse_args(argv).folders:
        print(f"{path}: run {sync(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
