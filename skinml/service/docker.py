"""What `make up` asks of Docker first: versions that read the compose file, and its networks.

python -m skinml.service.docker       in the folder of docker-compose.yml
"""

import json
import re
import subprocess
import sys
from typing import Any

from skinml.base.errors import UserError, run_command

# Both know `start_interval`, by which a start does not wait for the next healthcheck.
ENGINE = (25, 0)
COMPOSE = (2, 20, 2)

# Of all profiles, and of `docker compose run` (orphans): whatever is on the networks.
_DOWN = ["docker", "compose", "--profile", "*", "down", "--remove-orphans"]
_INSTEAD = "or run the core without it: make serve"

# An engine that is starting, or far away, answers within a few seconds.
_PATIENCE = 60.0


def check_versions() -> None:
    """Refuse, before anything is built or started, a Docker that is missing or too old."""
    compose = _ask("compose", "version", "--short")
    if compose.returncode:
        raise UserError(f"Docker Compose is not here: install it, {_INSTEAD}")
    engine = _ask("version", "--format", "{{.Server.Version}}")
    if engine.returncode:
        said = (engine.stderr.strip().splitlines() or ["no answer"])[-1]
        raise UserError(f"no Docker engine answers ({said}): start it, {_INSTEAD}")
    for name, text, needed in (
        ("Docker Engine", engine.stdout.strip(), ENGINE),
        ("Docker Compose", compose.stdout.strip(), COMPOSE),
    ):
        found = tuple(map(int, re.findall(r"\d+", text)[:3]))
        if found < needed:
            raise UserError(
                f"{name} {text} is too old: {'.'.join(map(str, needed))} or later is needed, for "
                f"the healthchecks' start_interval; install it, {_INSTEAD}"
            )


def settle_networks() -> list[str]:
    """Stop the service if a network is open to the outside and is not to be, or the reverse.

    Compose makes a network once and, up to 2.26 at least, never anew. Returns a line for each.
    """
    config = _ask("compose", "--profile", "*", "config", "--format", "json")
    if config.returncode:
        raise UserError(config.stderr.strip() or "docker compose config failed")
    changed = []
    networks: dict[str, dict[str, Any]] = json.loads(config.stdout)["networks"]
    for network in networks.values():
        name, wanted = network["name"], bool(network.get("internal"))
        found = _ask("network", "inspect", "--format", "{{.Internal}}", name)
        if found.returncode == 0 and (found.stdout.strip() == "true") != wanted:
            words = ("open", "closed") if wanted else ("closed", "open")
            changed.append(f"network {name} was {words[0]} to the outside and is to be {words[1]}")
    if changed:
        print("\n".join(changed), "stopping the service, to make it anew", sep="\n", flush=True)
        if subprocess.run(_DOWN).returncode:
            raise UserError("docker compose down failed: end what it names, then make up again")
    return changed


def _ask(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=_PATIENCE)
    except FileNotFoundError:
        raise UserError(f"docker is not here: install it, {_INSTEAD}") from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"docker {words[0]} did not answer within {_PATIENCE:.0f} s: restart the engine, "
            f"{_INSTEAD}"
        ) from None


def main() -> int:
    check_versions()
    settle_networks()
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
