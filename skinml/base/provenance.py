"""Where a result comes from: code, versions and machine, as text that is logged with it."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from skinml.base.files import file_sha256

PACKAGE = Path(__file__).parents[1]

_LIBRARIES = ("keras", "tensorflow", "tensorflow-cpu", "jax", "mlflow", "numpy", "scikit-learn")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content: 16 hexadecimal digits of it."""
    return file_sha256(path)[:16]


def git_state() -> tuple[str, str]:
    """The commit of the source tree and whether it is clean ("true", "false" or "unknown")."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit, "false" if _git("status", "--porcelain") else "true"
    except (OSError, subprocess.SubprocessError):
        return "unknown", "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE), *arguments]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    return result.stdout.strip()


def library_versions() -> dict[str, str]:
    """The installed versions of the libraries that a result depends on, and Python's."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def serving_requirements() -> list[str]:
    """What a serving model with an exported file needs: neither TensorFlow nor Keras."""
    return _pins("ai-edge-litert", "numpy", "pandas", "pillow", "simplejpeg")


def model_requirements(backend: str) -> list[str]:
    """What a saved model needs, pinned to what is installed here.

    TensorFlow is named by the distribution that is installed (tensorflow or tensorflow-cpu), so
    that the requirements of a model are those it was tested with.
    """
    names = ["keras", "numpy", "pandas", "pillow", "simplejpeg", "h5py"]
    names += ["tensorflow", "tensorflow-cpu"] if backend == "tensorflow" else ["jax"]
    return _pins(*names)


def _pins(*names: str) -> list[str]:
    pins = []
    for name in names:
        try:
            pins.append(f"{name}=={metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return pins
