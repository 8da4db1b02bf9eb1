"""What of skinml reads files of somebody else, and what must hold whatever is in them.

A `Target` turns bytes into the file, or files, that one reader takes. Where a checksum stands over
a file it is made here: what is made up lies behind it. `check` reads one such input and raises
where the answer is anything but a result or a `UserError`.
"""

import base64
import csv
import hashlib
import io
import json
import os
import re
import resource
import shutil
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image

from skinml.base.errors import Problems, UserError, shown
from skinml.compare.published.table import read_published
from skinml.compare.reading import runs_in_folder
from skinml.compare.runs import IDENTITY
from skinml.compare.selection import select_readable
from skinml.data import worklog
from skinml.data.images import IMAGE_SIZE, ImageProblem
from skinml.data.isic2017 import CLASSES, CSV_COLUMNS, OFFICIAL_PARTS
from skinml.data.official import open_pictures, read_ground_truth
from skinml.data.prepared import COLUMNS, IMAGES, MANIFEST, open_prepared, read_source
from skinml.evaluation.predictions import read_predictions
from skinml.explain.reading import read_page
from skinml.models.exported import ABOUT, read_about
from skinml.models.saved import check_saved
from skinml.predict import read_picture
from skinml.score import score_file
from skinml.service import backup_folder
from skinml.store.model_files import keras_file, read_description
from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.folder import PICTURES, RunFolder
from skinml.tracking.journal import read_journal
from skinml.tracking.record import read_noted
from skinml.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

# Bytes above what the process has before it reads, and seconds of the processor for one input.
MEMORY = 300 * 10**6
SECONDS = 20.0

# Parts the files of an input that is several.
PART = b"\n--\n"


class Violation(AssertionError):
    """An input that is answered in any other way than it should be."""


@dataclass(frozen=True)
class Target:
    """A reader: `write` makes its files in an empty folder from bytes, `read` reads them.

    `seeds` are inputs that are sound, `shapes` ones that hypothesis makes up with their structure.
    """

    what: str
    write: Callable[[Path, bytes], object]
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    shapes: SearchStrategy[bytes]


def check(target: Target, folder: Path, content: bytes) -> None:
    """Read an input in a folder of its own below `folder`, and hold it against the rules.

    Any exception but a `UserError` passes through; a `Violation` is an answer with letters that
    a terminal obeys, one that takes too long or too much memory, or a file outside the folder.
    """
    own = folder / "input"
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    target.write(own, content)
    _forget_peak()
    before, began = psutil.Process().memory_info().rss, time.process_time()
    peak = _peak()
    with _files_outside(own) as outside, redirect_stderr(io.StringIO()):
        try:
            target.read(own)
        except (UserError, ImageProblem) as error:
            if isinstance(error, UserError) and shown(str(error)) != str(error):
                raise Violation(f"a message with control characters: {error}") from None
    if _peak() > max(peak, before + MEMORY):
        raise Violation(f"{(_peak() - before) / 1e6:.0f} MB more than before")
    if (took := time.process_time() - began) > SECONDS:
        raise Violation(f"{took:.0f} s")
    if outside:
        raise Violation(f"touched {outside[0]}")


# Linux: 5 begins the peak (VmHWM, proc(5)) anew. Where it cannot, and in getrusage, the peak is the
# whole life's, so what is freed before hides as much of what a reader takes: an input is then to be
# read in a process that has had little else.
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def _forget_peak() -> None:
    """Have the peak begin at what the process has now, where the system can."""
    with suppress(OSError):
        _CLEAR.write_text("5")


def _peak() -> int:
    """The most memory that this process has had, since the peak was forgotten, in bytes."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
        if found:
            return int(found[1]) * 1024
    kilo = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo


# --- What is touched outside a folder -------------------------------------------------------------

# Audit events (PEP 578) that are of a file by its name, and those that must not be at all.
_NAMED = {
    "open", "os.listdir", "os.scandir", "os.mkdir", "os.rmdir", "os.remove", "os.rename",
    "os.link", "os.symlink", "os.truncate", "os.chmod", "os.utime",
}  # fmt: skip
_NEVER = {
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect",
    "socket.getaddrinfo", "pickle.find_class", "ctypes.dlopen",
}  # fmt: skip
# Python's own modules and packages are read when something is used for the first time.
_ROOT = Path(__file__).parents[2]
_OWN = tuple({os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, _ROOT)})

_watched: list[str] = []
_inside = ""
_reader = 0


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    # What other threads of the process do meanwhile is not the reader's.
    if not _inside or threading.get_ident() != _reader:
        return
    if event in _NEVER:
        _watched.append(f"{event} {arguments!r:.200}")
    elif event in _NAMED and arguments and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        reads = event in ("open", "os.listdir", "os.scandir") and not _writes(arguments)
        if not path.startswith(_inside) and not (reads and path.startswith((*_OWN, "/proc/"))):
            _watched.append(f"{event} {path!r:.200}")


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2] if len(arguments) > 2 else 0
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@contextmanager
def _files_outside(folder: Path) -> Iterator[list[str]]:
    """Collect what is touched outside a folder, and what no reader may do at all."""
    global _inside, _reader
    _reader = threading.get_ident()
    if not _hooked:
        sys.addaudithook(_hook)  # For the life of the process.
        _hooked.append(True)
    _watched.clear()
    _inside = os.path.realpath(folder)
    try:
        yield _watched
    finally:
        _inside = ""


_hooked: list[bool] = []


# --- Structure that hypothesis makes up -----------------------------------------------------------

_NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -1, 2**63, 1e308])
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _objects(sound: dict[str, Any]) -> SearchStrategy[bytes]:
    """A sound JSON object of which some values are other ones, missing or additional."""
    names = st.sampled_from(sorted(sound)) | st.text(max_size=8)
    changes = st.dictionaries(names, _VALUES, max_size=3)
    gone = st.sets(st.sampled_from(sorted(sound)), max_size=2)
    return st.builds(
        lambda changes, gone: _json(
            {name: value for name, value in (sound | changes).items() if name not in gone}
        ),
        changes,
        gone,
    )


# The header and the rows of a table.
_Csv = tuple[tuple[str, ...], list[tuple[str, ...]]]


def _tables(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> SearchStrategy[bytes]:
    """A sound table of which some cells are other ones, and rows longer or shorter."""
    known = [cell for row in (header, *rows) for cell in row]
    cells = st.sampled_from([*known, "", "nan", "1e999", "=1", '"', "-1"]) | st.text(max_size=9)
    row = st.sampled_from(rows) | st.lists(cells, max_size=len(header) + 1).map(tuple)
    return st.builds(
        lambda head, body: "\n".join(",".join(r) for r in (head, *body)).encode(
            "utf-8", "surrogatepass"
        ),
        st.just(header) | row,
        st.lists(row, max_size=6),
    )


# --- Targets --------------------------------------------------------------------------------------


def _name(name: str) -> Callable[[Path, bytes], object]:
    """Writes an input as a file of this name."""
    return lambda folder, content: (folder / name).write_bytes(content)


_RUN_RECORD = {
    "kind": "run", "journal": "0" * 32, "name": "mobilenet-16-seed0", "process": "host:1:1",
    "time": 1, "source": {"mlflow.user": "me"}, "server": "0" * 16, "experiment": "",
    "experiment_id": "", "default_experiment": "skinml", "attached": "", "parent": "",
}  # fmt: skip
_RECORDS: list[dict[str, Any]] = [
    _RUN_RECORD,
    {"kind": "params", "values": {"model": "mobilenet"}},
    {"kind": "tags", "values": {"split": "seed=0"}},
    {"kind": "dataset", "name": "isic2017", "digest": "0", "source": "here", "counts": {}},
    {"kind": "metrics", "step": 1, "time": 2, "values": {"epoch/train_loss": 0.5}},
    {"kind": "metrics", "step": 1, "time": 2, "values": {"system/cpu": 0.5}},
    {"kind": "artifact", "file": "note.md", "sha256": "0" * 64, "path": ""},
    {"kind": "image", "file": "a.png", "sha256": "0" * 64, "key": "a", "step": 0, "time": 1},
    {"kind": "model", "file": "model.keras", "sha256": "0" * 64, "register": True},
    {"kind": "end", "status": "FINISHED", "reason": "", "time": 3},
]  # fmt: skip
_STATE = {
    "server": "0" * 16, "run_id": "0" * 32, "sequence": 3, "offset": 9, "ended": False,
    "refused": "", "left_out": "", "uris": {},
}  # fmt: skip


def _write_journal(folder: Path, content: bytes) -> None:
    """Lines with their number and checksum, and what a server has acknowledged of them."""
    lines, _, state = content.partition(PART)
    bodies = [b"%d %s" % (number, line) for number, line in enumerate(lines.split(b"\n"), 1)]
    sealed = b"".join(b"%08x %s\n" % (zlib.crc32(body), body) for body in bodies)
    (folder / "journal.log").write_bytes(sealed)
    (folder / "forward.json").write_bytes(state)


def _read_journal(folder: Path) -> None:
    path = folder / "journal.log"
    list(read_journal(path, complete=True))
    Acknowledged.load(folder / "forward.json")
    read_noted(path)


def _journal_bytes(lines: list[bytes], state: bytes) -> bytes:
    return b"\n".join(lines) + PART + state


def _write_checkpoint(folder: Path, content: bytes) -> None:
    """A file under its digest; of a JSON object a file whose text is that, with two arrays."""
    if content[:1] == b"{":
        body = io.BytesIO()
        arrays = {"weights/00000": np.zeros(3), "optimizer/00000": np.zeros(2)}
        facts = np.frombuffer(content, np.uint8)
        np.savez(body, allow_pickle=False, facts=facts, **arrays)
        content = body.getvalue()
    digest = hashlib.sha256(content).digest()
    (folder / "checkpoint-000001").write_bytes(content + digest)


_FACTS = {
    "history": [{"epoch": 1, "step": "frozen"}], "backbone_images": 1, "best_epoch": 1,
    "best_score": 0.5, "seconds": 1.0, "config": {}, "surroundings": {},
    "lengths": {"weights": 1, "optimizer": 1, "best_weights": 1},
}  # fmt: skip


def _checkpoint_seeds() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        arrays: list[np.ndarray] = [np.zeros((2, 3), np.float32), np.ones(2)]
        checkpoint = Checkpoint([{"epoch": 1}], 1, 1, 0.5, arrays, arrays[:1], arrays)
        save_checkpoint(Path(name), checkpoint)
        sealed = Path(name, "checkpoint-000001").read_bytes()
    return [_json(_FACTS), sealed[:-32]]


_TABLE: _Csv = (("image_id", "label", *CLASSES), [("ISIC_1", "nevus", "0", "1", "0")])
_DESCRIPTION = {
    "run_id": "0" * 32, "started": 1, "name": "mobilenet-16", "dataset": {},
    "params": {"split_seed": "0", "test_fraction": "0.15"},
    "tags": dict.fromkeys(IDENTITY, "1") | {"model": "mobilenet", "protocol": "paper"},
}  # fmt: skip
_RUN_FILES = ("run.json", "metrics.json", "predictions_test.csv", "history.csv")


def _lines(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    return out.getvalue().encode()


def _write_run(folder: Path, content: bytes) -> None:
    own = folder / "run"
    own.mkdir()
    for name, part in zip(_RUN_FILES, content.split(PART), strict=False):
        (own / name).write_bytes(part)


def _read_run(folder: Path) -> None:
    own = RunFolder(folder / "run")
    for read in (
        lambda: select_readable(runs_in_folder(folder)),
        own.read_description,
        own.read_metrics,
        own.read_history,
    ):
        with suppress(UserError, FileNotFoundError):
            read()


_HISTORY: _Csv = (("epoch", "step", "time", "train_loss"), [("1", "frozen", "2", "0.5")])


def _run_shapes() -> SearchStrategy[bytes]:
    tags = _objects(_DESCRIPTION["tags"]).map(json.loads)  # type: ignore[arg-type]
    described = st.builds(lambda tags: _json(_DESCRIPTION | {"tags": tags}), tags)
    return st.tuples(
        _objects(_DESCRIPTION) | described,
        _objects({"test_accuracy": 0.5, "latency_ms": 2.0}),
        _tables(*_TABLE),
        _tables(*_HISTORY),
    ).map(PART.join)


_TRUTH: _Csv = (CSV_COLUMNS, [("ISIC_1", "1", "0"), ("ISIC_2", "0", "1"), ("ISIC_3", "0", "0")])
_SCORES: _Csv = (CSV_COLUMNS, [("ISIC_1", ".5", "0"), ("ISIC_2", "0", "1"), ("ISIC_3", "0", ".2")])


def _write_tables(folder: Path, content: bytes) -> None:
    truth, _, scores = content.partition(PART)
    (folder / "truth.csv").write_bytes(truth)
    (folder / "scores.csv").write_bytes(scores)


def _read_tables(folder: Path) -> None:
    read_ground_truth(folder / "truth.csv", Problems())
    score_file(folder / "scores.csv", folder / "truth.csv")


_SHA = "0" * 64
_MANIFEST: _Csv = (COLUMNS, [("ISIC_1", "nevus", "train", _SHA, _SHA, "ISIC_1")])


def _write_prepared(folder: Path, content: bytes) -> None:
    """A manifest and what it was made from; `content` may end with the header of the images."""
    manifest, source, header, *_ = (*content.split(PART, 2), b"", b"")
    (folder / MANIFEST).write_bytes(manifest)
    (folder / "source.json").write_bytes(source)
    rows = max(manifest.count(b"\n") - 1, 0)
    with (folder / IMAGES).open("wb") as file:
        if header:
            file.write(header)
        else:
            shape = (rows, IMAGE_SIZE, IMAGE_SIZE, 3)
            about = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, about)
        # Sparse: the pixels take no room.
        file.truncate(file.tell() + rows * IMAGE_SIZE * IMAGE_SIZE * 3)


def _npy_header(shape: Any, descr: str) -> bytes:
    out = io.BytesIO()
    about = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, about)
    return out.getvalue()


def _read_prepared(folder: Path) -> None:
    read_source(folder)
    prepared = open_prepared(folder)
    _ = prepared.digest, prepared.duplicates
    if prepared.near_duplicate_group is not None:  # Else they follow from the pixels, in the cache.
        _ = prepared.near_duplicates


def _read_preparation(folder: Path) -> None:
    journal = worklog.Worklog(folder / "journal.csv", "heading")
    journal.close()


_MLMODEL = (
    b"flavors:\n  keras:\n    data: data\n    save_exported_model: false\n  python_function:\n"
    b"    loader_module: mlflow.keras\n    code: null\nmodel_uuid: m-0\n"
)
_LAYER: dict[str, Any] = {
    "module": "keras.layers",
    "class_name": "Dense",
    "config": {},
    "registered_name": None,
}


def _write_model(folder: Path, content: bytes) -> None:
    description, _, saved = content.partition(PART)
    (folder / "MLmodel").write_bytes(description)
    if saved[:1] in (b"{", b"["):
        with zipfile.ZipFile(folder / "model.keras", "w") as archive:
            for name in ("config.json", "metadata.json", "model.weights.h5"):
                archive.writestr(name, saved if name == "config.json" else b"{}")
    else:
        (folder / "model.keras").write_bytes(saved)


def _read_model(folder: Path) -> None:
    with suppress(UserError):
        keras_file("models:/one/1", folder, read_description(folder))
    check_saved(folder / "model.keras")


def _model_seeds() -> list[bytes]:
    saved = io.BytesIO()
    with zipfile.ZipFile(saved, "w") as archive:
        for name in ("config.json", "metadata.json", "model.weights.h5"):
            archive.writestr(name, _json(_LAYER))
    return [_MLMODEL + PART + _json(_LAYER), _MLMODEL + PART + saved.getvalue()]


def _picture(form: str, mode: str = "RGB", size: tuple[int, int] = (9, 7)) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, form)
    return out.getvalue()


def _read_archive(folder: Path) -> None:
    with open_pictures(folder, Problems()) as pictures:
        for part in pictures.values():
            part.fingerprint()
            for name in part.names[:20]:
                with suppress(ImageProblem):
                    part.read(name)


def _archive_seed() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/ISIC_1.jpg", _picture("JPEG"))
    return out.getvalue()


def _write_exported(folder: Path, content: bytes) -> None:
    """A file for LiteRT, whose description lies in an archive at its end; of JSON only that."""
    if content[:1] == b"{":
        with zipfile.ZipFile(folder / "model.tflite", "w") as archive:
            archive.writestr(ABOUT, content)
    else:
        (folder / "model.tflite").write_bytes(content)


_ABOUT = {"classes": list(CLASSES), "precision": "float32", "version": "1"}


def _exported_seeds() -> list[bytes]:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(ABOUT, _json(_ABOUT))
    return [_json(_ABOUT), b"TFL3" + out.getvalue()]


_PUBLISHED: _Csv = (
    ("model", "batch_size", "accuracy_percent", "test_size"),
    [("MobileNet", "16", "80.36", "550"), ("NASNetMobile", "32", "82.00", "550")],
)
_BACKUP = {
    "database": {"sha256": _SHA, "rows": {}},
    "artifacts": {"a/b.txt": {"sha256": _SHA, "size": 1, "mtime_ns": 1}},
}


def _pieces(first: SearchStrategy[bytes], second: SearchStrategy[bytes]) -> SearchStrategy[bytes]:
    return st.tuples(first, second).map(PART.join)


_PAGE = {"classes": ["melanoma", "nevus"], "subgroups": {}, "shape": [2, 2], "colours": [[0, 0, 0]]}
_PAGE_ENTRY = {
    "id": "ISIC_1", "true": 0, "scores": [0.5, 0.5], "subgroups": {},
    "maps": base64.b64encode(bytes(8)).decode(),
    "jpeg": base64.b64encode(_picture("JPEG", size=(224, 224))).decode(),
}  # fmt: skip


def _write_page(folder: Path, content: bytes) -> None:
    frame, _, entries = content.partition(PART)
    data = frame[:-1] + b',"pictures":[' + entries + b"]}"
    (folder / PICTURES).write_bytes(
        b'<script type="application/json" id="data">' + data + b"</script>"
    )


def _read_page(folder: Path) -> None:
    for picture in read_page(folder / PICTURES).pictures.values():
        _ = picture.pixels


TARGETS: dict[str, Target] = {
    "journal": Target(
        "a run's journal and what a server has acknowledged of it",
        _write_journal,
        _read_journal,
        lambda: [_journal_bytes([_json(record) for record in _RECORDS], _json(_STATE))],
        st.builds(
            _journal_bytes,
            st.lists(st.one_of(*map(_objects, _RECORDS)) | _VALUES.map(_json), max_size=5),
            _objects({**_STATE, "checksum": 0}),
        ),
    ),
    "checkpoint": Target(
        "a training's checkpoint",
        _write_checkpoint,
        load_checkpoint,
        _checkpoint_seeds,
        _objects(_FACTS),
    ),
    "run-folder": Target(
        "a run's folder: description, metrics, history, predictions table",
        _write_run,
        _read_run,
        lambda: [
            PART.join([_json(_DESCRIPTION), b'{"test_accuracy": 0.5}', _lines(*_TABLE),
                       _lines(*_HISTORY)])
        ],
        _run_shapes(),
    ),
    "predictions": Target(
        "a predictions table",
        _name("table.csv"),
        lambda folder: read_predictions(folder / "table.csv"),
        lambda: [_lines(*_TABLE)],
        _tables(*_TABLE),
    ),
    "ground-truth": Target(
        "a ground truth, and a file of predictions that is scored against it",
        _write_tables,
        _read_tables,
        lambda: [_lines(*_TRUTH) + PART + _lines(*_SCORES)],
        _pieces(_tables(*_TRUTH), _tables(*_SCORES)),
    ),
    "prepared": Target(
        "a prepared set: manifest, source and the header of its images",
        _write_prepared,
        _read_prepared,
        lambda: [
            _lines(*_MANIFEST) + PART + b'{"folder": "a"}',
            PART.join([_lines(*_MANIFEST), b"{}", _npy_header((1, 224, 224, 3), "|u1")]),
        ],
        st.tuples(
            _tables(*_MANIFEST),
            _objects({"folder": "a", "fingerprint": "b"}),
            st.just(b"")
            | st.builds(
                _npy_header,
                st.lists(st.integers(-1, 2**62), max_size=5).map(tuple),
                st.sampled_from(["|u1", "<f8", "|O", "|V8", "<U9"]),
            ),
        ).map(PART.join),
    ),
    "preparation": Target(
        "the journal of a preparation that was stopped",
        _name("journal.csv"),
        _read_preparation,
        lambda: [b"heading\nISIC_1,1:2,a,b,c\n"],
        _tables(("heading",), [("ISIC_1", "1:2", "a", "b", "c")]),
    ),
    "model": Target(
        "a logged model's folder: MLmodel and the .keras file",
        _write_model,
        _read_model,
        _model_seeds,
        _pieces(
            st.just(_MLMODEL) | _objects({"flavors": {"keras": {"data": "data"}}}),
            _objects(_LAYER) | _VALUES.map(_json),
        ),
    ),
    "exported": Target(
        "what an exported network says of itself",
        _write_exported,
        lambda folder: read_about(folder / "model.tflite"),
        _exported_seeds,
        _objects(_ABOUT),
    ),
    "picture": Target(
        "a picture",
        _name("picture"),
        lambda folder: read_picture(folder / "picture"),
        lambda: [_picture("JPEG"), _picture("PNG"), _picture("PNG", "P"), _picture("JPEG", "L")],
        st.builds(
            lambda whole, at, byte: whole[: at % len(whole)] + byte + whole[at % len(whole) + 1 :],
            st.sampled_from([_picture("JPEG", size=(40, 30)), _picture("PNG", size=(40, 30))]),
            st.integers(0, 10**4),
            st.binary(max_size=4),
        ),
    ),
    "archive": Target(
        "an official archive of pictures",
        _name(OFFICIAL_PARTS[0].archive),
        _read_archive,
        lambda: [_archive_seed()],
        st.builds(
            lambda whole, at, byte: whole[: at % len(whole)] + byte + whole[at % len(whole) + 1 :],
            st.just(_archive_seed()),
            st.integers(0, 10**4),
            st.binary(max_size=4),
        ),
    ),
    "page": Target(
        "the page of a run's pictures",
        _write_page,
        _read_page,
        lambda: [_json(_PAGE) + PART + _json(_PAGE_ENTRY)],
        _pieces(_objects(_PAGE), _objects(_PAGE_ENTRY)),
    ),
    "published": Target(
        "a table of published accuracies",
        _name("table.csv"),
        lambda folder: read_published(folder / "table.csv"),
        lambda: [_lines(*_PUBLISHED)],
        _tables(*_PUBLISHED),
    ),
    "backup": Target(
        "the manifest of a backup",
        _name(backup_folder.MANIFEST),
        backup_folder.verify,
        lambda: [_json(_BACKUP)],
        _objects(_BACKUP),
    ),
}  # fmt: skip
