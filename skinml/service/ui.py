"""MLflow's UI, so that skinml's runs open in their results: `mlflow server --app-name skinml`.

MLflow 3.17.2 has no setting for how its UI opens: a fresh browser is led to generative AI, a list
of runs shows no metric, a saved view loses its columns and charts when it is reloaded. It has a
place for an application of one's own, the entry point `mlflow.app`. This one is MLflow's, with a
script and a style sheet in its page, `ui.js` and `ui.css`. They change what a browser shows, and
nothing that is stored.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask

SCRIPT, STYLE = (Path(__file__).with_suffix(kind) for kind in (".js", ".css"))


def create_app() -> Any:
    """What each worker of the server serves: MLflow's own application, with its page changed."""
    from mlflow.server import app
    from mlflow.server.fastapi_app import app as served

    add_script(app)
    return served


def add_script(app: "Flask") -> None:
    """Have MLflow's application serve its page with the script, which runs before all others."""
    from flask import Response

    script, style = (path.read_text(encoding="utf-8") for path in (SCRIPT, STYLE))
    page = Path(str(app.static_folder), "index.html").read_text(encoding="utf-8")
    page = page.replace("<head>", f"<head><script>{script}</script><style>{style}</style>", 1)

    def serve() -> Response:
        # A browser may hold MLflow's own page under the same address.
        return Response(page, mimetype="text/html", headers={"Cache-Control": "no-store"})

    app.view_functions["serve"] = serve
