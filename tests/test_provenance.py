"""The digest by which a sweep knows a result covers all the code that makes one."""

import ast
from pathlib import Path

from skinml.provenance import PACKAGE, RESULT_MODULES

# Reached from the modules below, but no figure comes out differently by a change of theirs.
HARMLESS = {"cache.py", "errors.py", "files.py", "history.py", "processes.py", "progress.py"}


def imported(path: Path) -> set[str]:
    """The modules of skinml that a module imports anywhere in it, as paths in the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skinml"):
            module = (node.module or "").split(".")[1:]
            names = [[*module, alias.name] for alias in node.names] + [module]
            found |= {
                "/".join(name) + ".py" for name in names if name and
                (PACKAGE / ("/".join(name) + ".py")).is_file()
            }  # fmt: skip
    return found


def test_all_that_training_and_prediction_import_is_in_the_digest() -> None:
    reached: set[str] = set()
    todo = {"backend.py", "data/protocols.py", "evaluation/metrics.py", "evaluation/predict.py",
            "models/classifier.py", "training.py"}  # fmt: skip
    while todo:
        name = todo.pop()
        reached.add(name)
        todo |= imported(PACKAGE / name) - reached
    assert reached - HARMLESS == set(RESULT_MODULES)


def test_the_digest_names_modules_that_exist_in_a_fixed_order() -> None:
    assert list(RESULT_MODULES) == sorted(RESULT_MODULES)
    assert all((PACKAGE / name).is_file() for name in RESULT_MODULES)
