"""Load a saved Keras model without running anything that came with it.

A `.keras` file is a recipe that names classes. Keras's safe mode refuses the ones that hold Python
code; what a recipe may name here is narrower: layers, initializers, sums and products of Keras
itself, none that calls code of its own or opens a file that the recipe names.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skinml.base.errors import UserError
from skinml.base.files import check_regular
from skinml.base.notices import without_notices

_MEMBERS = ["config.json", "metadata.json", "model.weights.h5"]

# NASNetMobile's has 0.8 MB.
_LARGEST_CONFIG = 32_000_000

# By module what may be named; None is all of it but what follows.
_KNOWN: dict[str | None, frozenset[str] | None] = {
    None: frozenset({"__keras_tensor__"}),  # what one layer hands to the next
    "keras": frozenset({"Sequential", "Functional", "DTypePolicy"}),
    "keras.src.models.functional": frozenset({"Functional"}),
    "keras.layers": None,
    "keras.initializers": None,
    # The arithmetic between MobileNetV3's layers, a number and a tensor; the mean of eight views.
    "keras.src.ops.numpy": frozenset({"Add", "Multiply", "Transpose", "Flip", "Reshape", "Mean"}),
}
_CODE = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
_FILES = {"StringLookup", "IntegerLookup", "IndexLookup", "TextVectorization"}


def load_saved(path: Path) -> Any:
    """The Keras model of a `.keras` file, not compiled; a `UserError` where it is refused."""
    check_saved(path)
    with without_notices():
        import keras

    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # what a recipe made by hand brings about is anybody's guess
        told = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path.name}: Keras cannot load it ({told[:300]})") from None


def check_saved(path: Path) -> None:
    """Refuse a file that is no plain `.keras` archive of Keras's own layers, by a `UserError`."""
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            members = sorted(archive.namelist())
            if members != _MEMBERS:
                raise UserError(
                    f"{path.name}: holds {', '.join(members)[:300]}; expected {', '.join(_MEMBERS)}"
                )
            with archive.open("config.json") as file:
                text = file.read(_LARGEST_CONFIG + 1)
        if len(text) > _LARGEST_CONFIG:
            raise UserError(f"{path.name}: its config.json has more than {_LARGEST_CONFIG} bytes")
        named = list(_classes(json.loads(text)))
    except (OSError, ValueError, RecursionError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path.name}: not a .keras file that can be read ({error})") from None
    for entry in named:
        module, name = str(entry["module"]) if "module" in entry else None, str(entry["class_name"])
        known = _KNOWN.get(module, frozenset())
        allowed = name not in _CODE | _FILES if known is None else name in known
        if not allowed or entry.get("registered_name") not in (None, name):
            raise UserError(
                f"{path.name}: names {str(module)[:100]}.{name[:100]}, which may run code or "
                "read files; expected layers and initializers of Keras alone"
            )


def _classes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for part in value.values():
            yield from _classes(part)
    elif isinstance(value, list):
        for part in value:
            yield from _classes(part)
