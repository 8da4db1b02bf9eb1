"""What the report of a run says of how it was trained: by what, on what, and the command."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from skinml.compare.document import Block, Cell, Code, Table
from skinml.config import FOLDERS, idle_in, is_path, options_given
from skinml.evaluation.drawing import spaced
from skinml.tracking.folder import Description

_SHOWN = (
    "model", "weights", "batch_size", "seed", "data", "protocol", "test_fraction",
    "near_duplicates", "split_seed", "recipe", "head", "epochs_frozen", "epochs_finetune",
    "finetune_layers", "optimizer", "learning_rate_frozen", "learning_rate_finetune",
    "augmentation", "batch_norm", "monitor", "test_views",
)  # fmt: skip
# Shown where they are not at their defaults, which is off.
_SWITCHED_ON = ("class_weights", "label_smoothing", "mixup", "focal", "ema")
# What a command names even at its default: it is what the run is.
_NAMED = ("model", "batch_size", "seed", "data", "protocol", "split_seed")
_DIGESTS = (
    "data_digest", "weights_digest", "training_digest", "evaluation_digest", "git_commit",
    "keras_backend", "device_name", "version_python", "version_keras", "version_numpy",
)  # fmt: skip


def trained_blocks(description: Description, classes: tuple[str, ...]) -> Iterator[Block]:
    """Its images, its settings as far as they changed something, its digests and its command."""
    found = description.dataset.get("counts", {})
    params = _without_paths(description.params)
    rows = [
        [Cell(part), *(Cell(f"{found[part].get(label, 0):,}") for label in classes)]
        for part in ("train", "validation", "test")
        if part in found
    ]
    if rows:
        heads = ("part", *(spaced(label) for label in classes))
        yield Table("Images", heads, rows)
    known = {**description.tags, **params}
    used = {name: params.get(f"effective_{name}", value) for name, value in known.items()}
    given = options_given(params)
    switched_on = tuple(name for name in _SWITCHED_ON if name in given)
    idle = idle_in(used)
    settings = [name for name in (*_SHOWN, *switched_on) if name not in idle]
    yield _facts("Settings", used, settings)
    yield _facts("By which it can be told again", known, _DIGESTS)
    asked = {name: params[name] for name in _NAMED if name in params} | given
    options = " ".join(
        shlex.quote(f"--{name}={value}") for name, value in asked.items() if name not in FOLDERS
    )
    yield Code((f"python -m skinml.run {options}",))


def _without_paths(params: Mapping[str, str]) -> dict[str, str]:
    """Parameters whose paths, which tell of somebody's machine, no mail is to carry.

    A person's own pictures lie at PATH; of a file with weights its name stays.
    """
    told = dict(params)
    if is_path(params.get("data", "")):
        told["data"] = "PATH"
    if "weights" in params:
        told["weights"] = re.split(r"[/\\]", params["weights"])[-1]
    return told


def _facts(title: str, known: Mapping[str, str], names: Sequence[str]) -> Table:
    rows = [
        [Cell(name.replace("_", " ")), Cell(str(known[name]))] for name in names if name in known
    ]
    return Table(title, ("", ""), rows)
