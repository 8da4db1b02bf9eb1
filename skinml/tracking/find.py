"""Find the folder of a run by its MLflow id, without the server: the folders know it."""

from contextlib import suppress
from pathlib import Path

from skinml.base.errors import UserError
from skinml.base.files import at_home
from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.folder import RUN, STATE, RunFolder
from skinml.tracking.record import header


def run_ids(folder: RunFolder) -> list[str]:
    """The ids of the MLflow runs of a folder: that which has its records, that it was made for."""
    ids = [folder.published, Acknowledged.load(folder.path / STATE).run_id]
    first = header(folder) if folder.journal.exists() else None
    ids.append(first.fields["attached"] if first else "")
    return [run_id for run_id in dict.fromkeys(ids) if run_id]


def find_run(run_id: str, root: Path) -> RunFolder | None:
    """The folder of a run somewhere below `root`; several are a `UserError`.

    A folder that cannot be read is left out: it is not to keep every other run from going on.
    """
    found = []
    for path in sorted(at_home(root, "output_dir=").rglob(RUN)):
        with suppress(UserError, OSError, ValueError, KeyError):
            folder = RunFolder.open(path.parent)
            if run_id in run_ids(folder):
                found.append(folder)
    if len(found) > 1:
        raise UserError(
            f"run {run_id} has {len(found)} folders: {', '.join(str(f.path) for f in found)}; "
            "expected one: name the folder that is to go on"
        )
    return found[0] if found else None


def folder_to_resume(name: str, root: Path) -> RunFolder:
    """The folder that a person means by its path or its run's id; none is a `UserError`."""
    if (Path(name) / RUN).is_file():
        return RunFolder.open(Path(name))
    folder = find_run(name, root)
    if folder is None:
        raise UserError(
            f"resume={name!r}: no folder of such a run below {root} (output_dir), nor a run's "
            "folder by itself; expected the id of a run that was made there, or its folder (of one "
            "that cannot be read, that says why)"
        )
    return folder
