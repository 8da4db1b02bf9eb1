"""What the tests of the service share: a place for its data, and what it cannot run without."""

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skinml.base.errors import UserError
from skinml.service import postgres

try:
    postgres.programs()
    import flask_wtf  # noqa: F401
    import prometheus_flask_exporter  # noqa: F401
    import psycopg  # noqa: F401
except (UserError, ImportError) as error:
    missing = f"the service's packages are missing ({error}): pip install -e '.[service]'"
else:
    missing = ""
needs_service = pytest.mark.skipif(bool(missing), reason=missing)
needs_caddy = pytest.mark.skipif(
    not shutil.which("caddy"), reason="the proxy is missing: apt-get install caddy"
)


def _browsing() -> Any:
    """docs/screenshots.py, which drives the browser."""
    path = Path(__file__).parents[2] / "docs" / "screenshots.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


browsing = _browsing()
needs_chromium = pytest.mark.skipif(
    not browsing.CHROMIUM.exists(),
    reason=f"no {browsing.CHROMIUM}: apt-get install chromium, as .ci/run does",
)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that PostgreSQL's user may pass through: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="skinml-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)
