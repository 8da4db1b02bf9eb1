"""Write the digest of every image beside its version, as a registry tells it today."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from skinml.base.errors import UserError, run_command

FILES = ("docker-compose.yml", "deploy/mlflow/Dockerfile", "deploy/train/Dockerfile",
         "deploy/proxy/Dockerfile")  # fmt: skip

# An image from a registry: what is built here (skinml-…) has none.
_IMAGE = re.compile(
    r"^(?P<before>\s*image: |FROM )(?P<name>(?!skinml-)[\w./-]+:[\w.-]+)"
    r"(?P<old>@sha256:[0-9a-f]{64})?",
    re.MULTILINE,
)


def pin(text: str, digest_of: Callable[[str], str]) -> str:
    """The text of a file with `name:version@sha256:…` for each `name:version`."""
    return _IMAGE.sub(lambda m: f"{m['before']}{m['name']}@{digest_of(m['name'])}", text)


def ask_registry(name: str) -> str:
    """The digest of an image's manifest for all its platforms."""
    command = [
        "docker",
        "buildx",
        "imagetools",
        "inspect",
        "--format",
        "{{.Manifest.Digest}}",
        name,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError("docker is not here; `make pin` needs it and a registry") from None
    digest = done.stdout.strip()
    if done.returncode or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise UserError(f"{name}: no digest from the registry: {done.stderr.strip()[-500:]}")
    return digest


def main() -> int:
    digests: dict[str, str] = {}

    def digest_of(name: str) -> str:
        if name not in digests:
            digests[name] = ask_registry(name)
            print(f"{name} {digests[name]}")
        return digests[name]

    pinned = {path: pin(Path(path).read_text(), digest_of) for path in FILES}
    for path, text in pinned.items():  # all or none
        Path(path).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
