"""A machine of a cluster, made ready for a cell: its code, data and weights are the driver's.

What is not found there is fetched, by the engine's own means where it has some.
"""

import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from skinml.base.address import URI_VARIABLE, without_user_info
from skinml.base.cache import cache_dir
from skinml.base.environment import environment
from skinml.base.errors import UserError, first_line
from skinml.base.files import file_sha256
from skinml.base.locks import exclusive, lock_file
from skinml.base.processes import cores_of, own_cores
from skinml.config import AUTO
from skinml.models.weights import weights_digest
from skinml.store.access import store_errors
from skinml.store.sweeps import is_superseded, supersede
from skinml.sweep.engines.attempt import Attempt, Order
from skinml.tracking.find import run_ids
from skinml.tracking.folder import RunFolder
from skinml.training.code_digest import training_digest

# The file in a sweep's folder by which a machine knows that it sees the driver's storage.
TOKEN = "storage"

# What may be fetched.
DATA, WEIGHTS = "data", "weights"


class Missing(Exception):
    """What a machine lacks, by the names above, and could be sent."""


class Unclaimed(Exception):
    """An attempt may not begin now: its cell is done, or MLflow cannot be asked."""


@dataclass(frozen=True)
class SweepSource:
    """Where the driver has what its cells need, and how it knows it again.

    `files` maps what may be fetched to its files, by their names in a folder, with their SHA-256.
    """

    token: str
    tracking_uri: str
    """Without its user's name and password: a job is noted in a file. Its environment has them."""
    data_folder: Path
    """The folder of the prepared set."""
    files: dict[str, dict[str, str]]
    sweep: str = ""
    experiment: str = ""
    again: bool = False
    """Whether there may have been an attempt at the cell before, in whatever place."""
    done_before: frozenset[str] = frozenset()
    """Finished runs that do not count as the cell's: they ended before a `--rerun`."""

    def paths(self, what: str) -> list[Path]:
        """The files of what may be fetched, on the driver's machine."""
        if what == DATA:
            return [self.data_folder / name for name in self.files[DATA]]
        return [Path(what.removeprefix(f"{WEIGHTS} "))]


Fetch = Callable[[str, str], Iterable[bytes]]
"""(what, name) → the content of a file in pieces; raises `Missing` where it was not sent."""


def make_ready(order: Order, source: SweepSource, fetch: Fetch) -> tuple[Order, bool]:
    """The order as it is carried out here, and whether this machine shares the driver's storage.

    Other code, data or weights than the driver's are a `UserError`.
    """
    digest = training_digest(order.config.model)
    if digest != order.identity["training_digest"]:
        raise UserError(
            f"{platform.node()}: training_digest={digest} here, expected "
            f"{order.identity['training_digest']} as on the driver's machine: install the same "
            "skinml"
        )
    shared = shares_storage(order, source)
    if not shared:
        if is_local(source.tracking_uri):
            raise UserError(
                f"{platform.node()} does not see the driver's storage, nor its MLflow store "
                f"{source.tracking_uri.partition(':')[0]}; expected MLFLOW_TRACKING_URI to be the "
                "address of a tracking server"
            )
        order = replace(
            order, folder=cache_dir() / "sweeps" / order.folder.parent.name / order.name
        )
    data_dir = _find_data(order, source, fetch)
    weights = _find_weights(order, source, fetch)
    places = {"data_dir": data_dir, "weights": weights, "output_dir": str(order.folder)}
    config = replace(order.config, data_dir=data_dir, weights=weights, output_dir=str(order.folder))
    arguments = list(order.arguments)
    for name, value in places.items():
        old = f"--{name}={getattr(order.config, name)}"
        arguments = [f"--{name}={value}" if a == old else a for a in arguments]
    variables = {URI_VARIABLE: os.environ.get(URI_VARIABLE, ""), **order.variables}
    if without_user_info(variables[URI_VARIABLE]) != source.tracking_uri:
        variables[URI_VARIABLE] = source.tracking_uri
    return replace(order, config=config, arguments=arguments, variables=variables), shared


def shares_storage(order: Order, source: SweepSource) -> bool:
    """Whether the sweep's folder is the driver's, not one of the same name."""
    try:
        return (order.folder.parent / TOKEN).read_text() == source.token
    except OSError:
        return False


def is_local(uri: str) -> bool:
    """Whether a tracking URI means a file of the machine that it is read on."""
    return not uri.startswith(("http://", "https://", "databricks"))


def claim(order: Order, source: SweepSource, folder: RunFolder | None) -> bool:
    """Make a run the only one of its cell that may finish; whether it may go on.

    `folder` is that of the run, None for one that is about to begin. Raises `Unclaimed` where
    another one is finished in MLflow. `order` is one that is ready for this machine.
    """
    if not source.again:
        return True
    ids = run_ids(folder) if folder else []
    try:
        # The driver's store is asked, not the machine's own.
        with environment(order.variables):
            if any(map(is_superseded, ids)):
                return False
            if supersede(source.experiment, source.sweep, order.identity, ids, source.done_before):
                raise Unclaimed("an earlier attempt has finished it")
    except store_errors() as error:
        raise Unclaimed(f"MLflow does not answer ({first_line(error)[:200]})") from None
    return True


def absolute_uri(uri: str) -> str:
    """A tracking URI that means the same in every folder of this machine."""
    scheme = "sqlite:///"
    if uri.startswith(scheme):
        return scheme + str(Path(uri.removeprefix(scheme)).absolute())
    return str(Path(uri).absolute()) if "://" not in uri and is_local(uri) else uri


def _find_data(order: Order, source: SweepSource, fetch: Fetch) -> str:
    """The folder of the prepared set here: the driver's, one that is here, a fetched one."""
    from skinml.data.prepare import open_data
    from skinml.data.prepared import is_prepared, open_prepared

    digest = order.identity["data_digest"]
    fetched = cache_dir() / "fetched" / digest

    def holds_it(folder: Path) -> bool:
        with suppress(UserError, OSError):
            return is_prepared(folder) and open_prepared(folder).digest == digest
        return False

    for folder in (source.data_folder, fetched):
        if holds_it(folder):
            return str(folder)
    with suppress(UserError):
        # What was prepared here before; generated, if it is the demo set. Never downloaded.
        if open_data(order.config.data, AUTO).digest == digest:
            return AUTO
    _fetch_all(DATA, fetched, source.files[DATA], fetch)
    if not holds_it(fetched):
        shutil.rmtree(fetched, ignore_errors=True)
        raise UserError(f"{fetched}: not the set of data_digest={digest} that the driver sent")
    return str(fetched)


def _find_weights(order: Order, source: SweepSource, fetch: Fetch) -> str:
    """The weights' file here; imagenet and none stay what they are."""
    given = order.config.weights
    if given in ("imagenet", "none"):
        return given
    [(name, digest)] = source.files[f"{WEIGHTS} {given}"].items()
    with suppress(OSError):
        if weights_digest(given) == digest[:16]:
            return given
    folder = cache_dir() / "fetched" / f"weights-{digest[:16]}"
    _fetch_all(f"{WEIGHTS} {given}", folder, {name: digest}, fetch)
    return str(folder / name)


def _fetch_all(what: str, folder: Path, files: dict[str, str], fetch: Fetch) -> None:
    """Fetch files into a folder, once for all cells of this machine; whole, or not there."""
    notice = f"skinml: waiting for another process, which fetches {folder.name}"
    with exclusive(folder.with_name(f".{folder.name}.lock"), notice):
        if folder.exists():
            return
        part = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            for name, digest in files.items():
                with (part / Path(name).name).open("wb") as file:
                    for piece in fetch(what, name):
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
                if file_sha256(part / Path(name).name) != digest:
                    raise UserError(f"{name}: not what the driver sent; try again")
            part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def files_to_send(folder: Path) -> dict[str, str]:
    """The files of a folder with their SHA-256."""
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}


@contextmanager
def cores_here(threads: int) -> Iterator[frozenset[int]]:
    """Cores of this machine for so many threads, others than those of the cells beside it.

    All of them, an empty set, where the cache folder cannot hold the locks that tell cells apart.
    """
    cores = own_cores()
    if not threads or threads > len(cores):
        yield frozenset()
        return
    mine = hashlib.sha256(str(cores).encode()).hexdigest()[:8]
    for slot in range(len(cores) // threads):
        path = cache_dir() / "locks" / f"cores-{platform.node()}-{mine}-{threads}-{slot}"
        try:
            held, taken = lock_file(path, None)
        except OSError:
            yield frozenset()
            return
        if not taken:
            try:
                yield cores_of(slot, threads)
            finally:
                if held is not None:
                    os.close(held)
            return
    yield cores_of(0, threads)  # More cells than cores: some share.


def carry_out(order: Order, source: SweepSource, cores: frozenset[int], shared: bool) -> Attempt:
    """Begin an attempt at a cell on a machine that is ready for it."""
    return Attempt(
        order,
        cores,
        without=("data_dir", "weights"),
        patient=True,
        fresh=not shared,
        claim=lambda folder: claim(order, source, folder),
    )
