"""A finished run as a comparison sees it: its cell, settings and predictions table."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from skinml.backbones import BACKBONES, PAPER_BACKBONES
from skinml.base.errors import excerpt
from skinml.config import FOLDERS, Config, value_used
from skinml.evaluation.predictions import Predictions
from skinml.training.code_digest import common_part, trained_by, training_digest, why_same

PAPER_BATCH_SIZES = (16, 32, 64)


# The tags of a training by skinml that a comparison goes by.
IDENTITY = ("model", "batch_size", "seed", "split", "protocol", "data", "data_digest")


# What makes two runs of one cell repetitions of each other, and a test set its own.
REPEATED = ("seed", "split_seed")


CELL = ("model", "batch_size")


# What runs did before this was a parameter; of the others `value_used` says it.
_BEFORE = {"near_duplicates": "identical"}


_SPLIT = ("protocol", "test_fraction", "validation_fraction", "near_duplicates")


@dataclass(frozen=True, order=True)
class CellName:
    """A configuration of the grid: the network and its batch size."""

    model: str
    batch_size: int

    def __str__(self) -> str:
        return f"{self.model}-{self.batch_size}"


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One finished run as it was tracked.

    `params` and `tags` are texts, `metrics` the final figures, `started` milliseconds since 1970;
    `load` reads the predictions table of its test part, which is done once, `load_validation` that
    of its validation part, None where a run has none; `find_file` says where another file of its
    lies, None without one.
    """

    run_id: str
    started: int
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    load: Callable[[], Predictions]
    load_validation: Callable[[], Predictions | None] = lambda: None
    find_file: Callable[[str], Path | None] = lambda name: None

    @property
    def cell(self) -> CellName:
        return CellName(self.tags["model"], int(self.tags["batch_size"]))

    @property
    def network(self) -> tuple[str, ...]:
        """What the time of an answer depends on beside the device: all that shapes the network."""
        shaping = ("pooling", "head", "dense_units", "test_views")
        return (self.tags["model"], *(self.setting(name) for name in shaping))

    @property
    def device(self) -> str:
        """What the run was trained and timed on, such as "AMD EPYC (2 threads, tensorflow)"."""
        name, threads, backend = (
            self.params.get(key, "?") for key in ("device_name", "device_threads", "keras_backend")
        )
        return f"{name} ({threads} threads, {backend})"

    @property
    def weights_kind(self) -> str:
        """What its training began with: random, imagenet or file."""
        return self.tags.get("weights_kind", "?")

    @property
    def weights_files(self) -> tuple[str, ...]:
        """The digest of the weights file that it began with; empty without one."""
        return (self.setting("weights"),) if self.weights_kind == "file" else ()

    @property
    def repetition(self) -> tuple[str, str]:
        """Seed and split: what runs of different cells are paired by."""
        return self.tags["seed"], self.tags["split"]

    @property
    def test_set(self) -> tuple[str, ...]:
        """Data digest, protocol and fractions: what all runs of one table share."""
        return (self.tags["data_digest"], *(self.setting(name) for name in _SPLIT))

    @cached_property
    def predictions(self) -> Predictions:
        return self.load()

    @cached_property
    def validation(self) -> Predictions | None:
        return self.load_validation()

    def setting(self, name: str) -> str:
        """The value of a parameter as the run used it, with every `auto` filled in."""
        if name == "weights":
            return self.params.get("weights_digest", self.params.get(name, "?"))
        if name == "data":
            # Of a person's own pictures the parameter is their path, which may change.
            return self.tags["data"]
        if name in _SPLIT[1:] and self.tags["protocol"] == "challenge":
            return "official"
        used = value_used(self.params, name)
        return _BEFORE.get(name, "?") if used is None else used

    @property
    def recipe(self) -> tuple[str, ...]:
        """The settings of the run that its cell, seed and split do not name."""
        return tuple(self.setting(name) for name in RECIPE)

    @property
    def training_code(self) -> str:
        """The digest of the code that trained it, its own network's row apart.

        What counts as today's code has today's digest.
        """
        earlier = trained_by(self.tags | self.params)
        known = earlier and why_same(earlier, self.cell.model) is not None
        return common_part(training_digest(self.cell.model) if known else earlier) or "?"


# The parameters that decide a result, other than a cell's own.
RECIPE = tuple(
    option.name
    for option in fields(Config)
    if option.metadata["decides"] and option.name not in (*REPEATED, *CELL)
)


# The longest text of a run that a comparison goes by; MLflow's own limit for a parameter.
_LONGEST_TEXT = 6000


# The parameters that a comparison reads as whole numbers, where a run has them.
_COUNTS = (*REPEATED, "test_images_seen_in_training")


def make_record(
    run_id: Any,
    started: Any,
    params: Any,
    tags: Any,
    metrics: Any,
    load: Callable[[], Predictions],
    load_validation: Callable[[], Predictions | None],
    find_file: Callable[[str], Path | None],
) -> RunRecord:
    """A run from what a file or a server of somebody else says of it; odd values: `ValueError`."""
    if not isinstance(run_id, str) or not isinstance(started, int):
        raise ValueError("run_id and started: expected a text and milliseconds since 1970")
    for name, values in (("params", params), ("tags", tags), ("metrics", metrics)):
        if not isinstance(values, dict):
            raise ValueError(f"{name}: expected values by name, not {excerpt(values)}")
    used = params | {name: tags.get(name) for name in IDENTITY}
    for name, value in used.items():
        if not isinstance(value, str):
            raise ValueError(f"{name}: expected a text, not {excerpt(value)}")
        if len(value) > _LONGEST_TEXT:
            raise ValueError(f"{name}: {len(value)} letters, expected at most {_LONGEST_TEXT}")
    for name in (*IDENTITY, *(option.name for option in fields(Config))):
        if not used.get(name, "").isprintable():
            raise ValueError(f"{name}={excerpt(used[name])}: expected a text that can be printed")
    if tags["model"] not in BACKBONES:
        raise ValueError(f"model={excerpt(tags['model'])}: not a network of this skinml")
    for name in ("batch_size", "seed"):
        if not re.fullmatch("[0-9]{1,9}", tags[name]):
            raise ValueError(f"{name}={excerpt(tags[name])}: expected a whole number")
    for name in _COUNTS:
        if name in params and not re.fullmatch("[0-9]{1,9}", params[name]):
            raise ValueError(f"{name}={excerpt(params[name])}: expected a whole number")
    for name, value in metrics.items():
        # An undefined one is null in a file.
        if value is not None and not isinstance(value, int | float):
            raise ValueError(f"{name}: expected a number, not {excerpt(value)}")
    texts = {name: value for name, value in tags.items() if isinstance(value, str)}
    try:
        figures = {name: float(value) for name, value in metrics.items() if value is not None}
    except OverflowError:
        raise ValueError("metrics: a whole number that no float holds") from None
    return RunRecord(run_id, started, params, texts, figures, load, load_validation, find_file)


def paper_grid() -> list[CellName]:
    """The nine cells of the paper, in the order of its Table III."""
    return [CellName(model, size) for model in PAPER_BACKBONES for size in PAPER_BATCH_SIZES]


def portable_params(params: dict[str, str]) -> dict[str, str]:
    """Parameters as they may be published: without the folders of the machine that trained."""
    kept = {name: value for name, value in sorted(params.items()) if name not in FOLDERS}
    for name in ("weights", "data"):
        if name in kept:
            kept[name] = Path(kept[name]).name
    return kept
