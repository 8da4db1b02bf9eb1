"""What the tests of the service share: a place for its data, and what it cannot run without."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from skinml.errors import UserError
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


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that PostgreSQL's user may pass through: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="skinml-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)
