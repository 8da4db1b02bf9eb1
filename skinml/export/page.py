"""A page that runs an exported network in a browser: static files, without a server behind them.

The network runs in LiteRT.js, Google's WebAssembly build of the runtime that `predict` uses
(Apache License 2.0), and JPEGs are decoded by libjpeg-turbo, as in Python (BSD). Their files come
from npm, by npm's own client, are checked against the digests below, and are kept in the cache: a
page can then be made without a connection.
"""

import base64
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from skinml.base.cache import cache_dir
from skinml.base.errors import UserError, first_line
from skinml.data import demo
from skinml.models.exported import FILES, read_about

_SOURCES = Path(__file__).parent / "web"


class Package(NamedTuple):
    """A package of npm, the digest that npm publishes of it, and which files of it are taken."""

    name: str
    version: str
    sha512: str
    files: tuple[str, ...]

    @property
    def archive(self) -> str:
        """What `npm pack` calls it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


# Browsers without relaxed SIMD, Safari for one, load the files called compat.
RUNTIME = (
    Package(
        "@litertjs/core",
        "2.5.3",
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        (
            "dist/index.js",
            "wasm/litert_wasm_internal.js",
            "wasm/litert_wasm_internal.wasm",
            "wasm/litert_wasm_compat_internal.js",
            "wasm/litert_wasm_compat_internal.wasm",
        ),
    ),
    Package(
        "@litertjs/wasm-utils",
        "2.5.3",
        "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
        ("dist/index.js",),
    ),
)

DECODER = Package(
    "@cwasm/jpeg-turbo",
    "0.1.3",
    "FkZxwwC6r4zhzlqM0nYGaMj/MDSrZPxLOdPdM6ySlgsMfOpNAZcLQkpNF4jP+DmsuUvRoeUD0YSMBvg3jYfK6w==",
    ("jpeg-turbo.wasm",),
)


def write_page(network: Path, out: Path) -> None:
    """Write the page of an exported LiteRT file into a folder that exists and is empty."""
    about = read_about(network)
    for source in sorted(_SOURCES.iterdir()):
        shutil.copyfile(source, out / source.name)
    shutil.copyfile(network, out / FILES["litert"])
    for name, write in (("litert", _write_runtime), ("jpeg", _write_decoder)):
        (out / name).mkdir()
        write(out / name)
    if about["data"] == "demo":
        about["generated"] = demo.COMMENT.decode()  # what its pictures hold, and no photo
    (out / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    _write_worker(out / "sw.js")


def _write_worker(worker: Path) -> None:
    """Tell the page's worker what it keeps in the browser: all files but itself and licences."""
    folder = worker.parent
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [p.relative_to(folder).as_posix() for p in found if p.name not in ("sw.js", "LICENSE")]
    # The address of the folder is that of the page, too.
    listed = json.dumps(["./", *files], indent=2)
    code = worker.read_text(encoding="utf-8").replace('["FILES"]', listed)
    worker.write_text(code.replace('"VERSION"', f'"{_digest(folder)}"'), encoding="utf-8")


def _write_runtime(folder: Path) -> None:
    core, utils = RUNTIME
    _extract(core, folder)
    with tempfile.TemporaryDirectory() as name:
        _extract(utils, Path(name))
        shutil.move(Path(name, "index.js"), folder / "wasm-utils.js")
    index = folder / "index.js"
    code = index.read_text(encoding="utf-8")
    # A browser finds a module by its address, not by the name of its package.
    code = code.replace('"@litertjs/wasm-utils"', '"./wasm-utils.js"')
    index.write_text(code, encoding="utf-8")
    _write_licence(folder, RUNTIME, "© Google LLC\n\n", "ai-edge-litert")


def _write_decoder(folder: Path) -> None:
    _extract(DECODER, folder)
    _write_licence(folder, (DECODER,), "", "simplejpeg")


def _write_licence(folder: Path, of: tuple[Package, ...], holder: str, distribution: str) -> None:
    """The packages name their licence, and do not bring its text: a distribution of Python does."""
    text = importlib.metadata.distribution(distribution).read_text("licenses/LICENSE")
    named = "".join(f"{package.name} {package.version}\n" for package in of)
    (folder / "LICENSE").write_text(f"{named}{holder}{text}", encoding="utf-8")


def _extract(package: Package, folder: Path) -> None:
    with tarfile.open(_fetch(package)) as archive:
        for name in package.files:
            found = archive.extractfile(f"package/{name}")
            assert found is not None
            (folder / Path(name).name).write_bytes(found.read())


def _fetch(package: Package) -> Path:
    """The archive of a package in the cache, where npm puts it unless it is there."""
    folder = cache_dir() / "npm"
    kept = folder / package.archive
    if kept.is_file() and _sha512(kept) == package.sha512:
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
        remedy = (
            f"expected npm (Node.js) and a connection, or the file in {folder} "
            f"(`npm pack {package.name}@{package.version}` brings it, anywhere)"
        )
        try:
            npm = shutil.which(command[0]) or command[0]
            subprocess.run([npm, *command[1:]], cwd=name, check=True, capture_output=True)
        except FileNotFoundError:
            raise UserError(
                f"--to page: npm is not here to fetch {package.name}; {remedy}"
            ) from None
        except subprocess.CalledProcessError as error:
            said = first_line(Exception(error.stderr.decode(errors="replace")))
            raise UserError(
                f"--to page: npm cannot fetch {package.name} ({said}); {remedy}"
            ) from None
        fetched = Path(name, package.archive)
        if _sha512(fetched) != package.sha512:
            raise UserError(
                f"--to page: what npm fetched is not the published {package.name} "
                f"{package.version}; {remedy}"
            )
        fetched.replace(kept)
    return kept


def _sha512(path: Path) -> str:
    """As npm writes it."""
    with path.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


def _digest(folder: Path) -> str:
    """A digest of all that a page consists of: each version has its own cache in the browser."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
