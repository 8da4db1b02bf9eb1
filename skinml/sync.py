"""Send to MLflow what it lacks of runs, from their folders: `python -m skinml.sync FOLDER…`."""

import os
import shlex
import sys
from pathlib import Path

from skinml.base.errors import UserError, run_command
from skinml.base.locks import StillLocked, exclusive
from skinml.config import Parser
from skinml.store.forwarder import send_rest
from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.folder import LOCK, STATE, RunFolder
from skinml.tracking.forwarder_process import DRAIN_LIMIT, seconds
from skinml.tracking.journal import is_written
from skinml.tracking.record import read_records, record_folder


def sync(path: Path, limit: float = DRAIN_LIMIT) -> str:
    """Bring a run's folder to MLflow, with its final status; returns the id of its run.

    The folder of a run made offline, of one whose server was away, or a copy from another machine.
    What is there already is not counted twice; a server that has lost something gets it again.
    `limit` is in seconds: for another process that sends it, and for a server that takes nothing.
    """
    folder = RunFolder.open(path)
    _refuse_links(folder)
    if not folder.journal.exists():
        if folder.published:
            return folder.published  # An earlier skinml sent it, without a journal.
        if not folder.finished:
            raise UserError(f"{path}: its run did not finish; expected a folder of a finished run")
        record_folder(folder)
    if not os.access(folder.path, os.W_OK):
        raise UserError(
            f"{path}: is read-only; expected a folder that can be written to: what MLflow has is "
            "noted in it"
        )
    if is_written(folder.journal):
        raise UserError(f"{path}: its run goes on, and sends by itself; expected one that is over")
    # Before anything is sent: of a journal that is not as a run writes it, nothing is.
    for _ in read_records(folder.journal):
        pass
    notice = (
        f"skinml: {path}: another process is sending it: waiting for its end, at most {limit:g} s"
    )
    try:
        with exclusive(folder.path / LOCK, notice, limit):
            return send_rest(folder, limit)
    except StillLocked:
        parent = shlex.quote(str(path.absolute().parent))
        raise UserError(
            f"{path}: another process sends it, for more than {limit:g} s; expected its end: if it "
            f"hangs, python -m skinml.doctor --fix --output-dir {parent} ends a "
            "forwarder and sends the rest; a skinml.sync is ended by who started it"
        ) from None


def _refuse_links(folder: RunFolder) -> None:
    """Nothing that lies outside a folder is read, or written, by way of it: it may be anybody's."""
    for place, folders, files in os.walk(folder.path):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink():
                raise UserError(
                    f"{path}: is a link; expected a folder that holds its files itself: put the "
                    "file in the place of the link, or remove it"
                )
            if name in files and not path.is_file():
                raise UserError(f"{path}: is no regular file; expected it to be removed")


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m skinml.sync",
        description="Send to MLflow what it lacks of runs: made with --offline, or while the "
        "server was away, here or on another machine. Sent twice counts once.",
        epilog="exit code: 0 all are sent; 2 one cannot be: the others are all the same",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--drain-limit",
        type=seconds,
        default=DRAIN_LIMIT,
        metavar="SECONDS",
        help="how long to try, for each folder, where the server does not answer, or another "
        "process is sending the same (default: %(default)g)",
    )
    options = parser.parse_args(argv)
    failed = False
    for path in options.folders:
        try:
            print(f"{path}: run {sync(path, options.drain_limit)}")
        except UserError as error:
            # The next one may be sent all the same.
            print(f"skinml: error: {error}", file=sys.stderr)
            failed = True
            continue
        if left_out := Acknowledged.load(path / STATE).left_out:
            print(f"skinml: warning: {path}: not sent: {left_out}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
