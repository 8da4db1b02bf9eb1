"""Importing skinml stays cheap: no framework before the function that needs it."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]

# The linter's own two lists: what is heavy, and the [TF] modules that may import it at their top.
HEAVY = LINT["flake8-tidy-imports"]["banned-module-level-imports"]
MAY_BE_HEAVY = {path for path, rules in LINT["per-file-ignores"].items() if "TID253" in rules}

PROBE = """
import importlib, sys
heavy, modules = sys.argv[1].split(","), sys.argv[2].split(",")
for module in modules:
    importlib.import_module(module)
    for name in heavy:
        if name in sys.modules:
            print(f"{module} imports {name}")
    heavy = [name for name in heavy if name not in sys.modules]
"""


def light_modules() -> list[str]:
    """Every module of skinml but the [TF] ones, so that a new one is tested at birth."""
    paths = [path.relative_to(ROOT) for path in sorted((ROOT / "skinml").rglob("*.py"))]
    light = [path.with_suffix("") for path in paths if path.as_posix() not in MAY_BE_HEAVY]
    return [".".join(path.parts).removesuffix(".__init__") for path in light]


def test_the_heavy_list_names_every_framework() -> None:
    assert {"tensorflow", "keras", "jax", "mlflow", "pandas", "sklearn", "matplotlib"} <= set(HEAVY)


def test_importing_a_module_loads_no_framework() -> None:
    # In a process of its own: this one may have imported them all. -W error: nor does it warn.
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE, ",".join(HEAVY), ",".join(light_modules())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""
    assert found.returncode == 0, found.stderr
