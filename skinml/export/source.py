"""What is exported: a trained Keras model, the run that it came from, and that run's pictures."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from skinml.base.errors import UserError
from skinml.base.files import file_sha256
from skinml.config import AUTO, Config, config_from_params, is_path
from skinml.data.datasets import classes_said, find_dataset
from skinml.data.isic2017 import NOTICE
from skinml.data.prepare import open_data
from skinml.data.prepared import PreparedSet, is_prepared
from skinml.data.protocols import assign_parts, split_of
from skinml.evaluation.answering import Chosen, read_chosen
from skinml.evaluation.results import chosen_on_validation
from skinml.store.access import store_is_needed
from skinml.store.model_files import (
    download,
    keras_file,
    metadata_of,
    params_of,
    read_description,
    run_id_of,
    with_version,
)
from skinml.store.runs import log_figures, log_file
from skinml.tracking.folder import METRICS, RunFolder

# Pictures that the ranges of an 8-bit network are found on, of the training part.
CALIBRATION = 200


class Source(NamedTuple):
    """A trained network: its `.keras` file, the parameters and the id of its run.

    `chosen` is what its run chose on validation for its answers.
    """

    uri: str
    file: Path
    params: dict[str, str]
    run_id: str
    chosen: Chosen = Chosen()

    @property
    def config(self) -> Config:
        return config_from_params(self.params)

    def about(self) -> dict[str, Any]:
        """What an exported file says of itself, but for what is measured on it."""
        classes, dataset = classes_said(self.params), find_dataset(self.params["data"])
        return {
            "model": self.uri,
            "network": self.params["model"],
            "run": self.run_id,
            "keras_sha256": file_sha256(self.file),
            "data": dataset.name,
            "data_digest": self.params["data_digest"],
            "classes": list(classes),
            "input": "uint8 (1, 224, 224, 3), raw RGB 0-255, the whole picture scaled to 224×224",
            "output": f"float32 (1, {len(classes)}), softmax scores in the order of classes",
            "notice": f"{NOTICE} {dataset.notice}".rstrip(),
            **self.chosen.metadata(),
        }


class Pictures(NamedTuple):
    """The pictures of a run: prepared set, and the part of each (N,) str."""

    data: PreparedSet
    parts: np.ndarray

    def rows(self, part: str) -> np.ndarray:
        return np.flatnonzero(self.parts == part)

    def calibration(self, count: int = CALIBRATION) -> np.ndarray:
        """Some pictures of the training part (count, 224, 224, 3), the same ones each time.

        Never of another part: what an 8-bit network is measured on must not have shaped it.
        """
        rows = self.rows("train")
        chosen = np.random.default_rng(0).permutation(rows)[:count]
        return self.data.images[np.sort(chosen)]


def open_pictures(source: Source, data_dir: str = AUTO) -> Pictures:
    """The pictures that a run was trained and validated on, in its parts.

    Other pictures than the run's are a `UserError`: figures on them would compare nothing.
    """
    config = source.config
    if data_dir != AUTO:
        config = replace(config, data_dir=data_dir)
        if is_path(config.data) and not is_prepared(Path(data_dir).expanduser()):
            # A person's own pictures, whose path is another one on this machine.
            config = replace(config, data=str(Path(data_dir).absolute()), data_dir=AUTO)
    data = open_data(config.data, config.data_dir)
    if data.digest != source.params["data_digest"]:
        raise UserError(
            f"{source.uri} was trained on data of digest {source.params['data_digest']}, "
            f"{data.folder} has {data.digest}; expected the same pictures, on which an export is "
            "verified: name their folder with --data-dir"
        )
    return Pictures(data, assign_parts(data, *split_of(config)))


@contextmanager
def open_source(uri: str) -> Iterator[Source]:
    """A logged model by its URI, or a finished run's folder; its files lie there meanwhile."""
    if (Path(uri) / "run.json").is_file():
        folder = RunFolder.open(Path(uri))
        if not folder.finished:
            raise UserError(f"{uri}: this run is not finished; expected one that is")
        params = folder.read_description().params
        metrics = folder.read_metrics() if (folder.path / METRICS).is_file() else {}
        chosen = chosen_on_validation(metrics, classes_said(params), params)
        yield Source(folder.path.name, folder.model, params, "", chosen)
        return
    with tempfile.TemporaryDirectory(prefix="skinml-model-") as name:
        yield _logged(uri, download(uri, Path(name)))


def _logged(uri: str, folder: Path) -> Source:
    description = read_description(folder)
    file, run_id = keras_file(uri, folder, description), run_id_of(description)
    params = params_of(uri, run_id)
    lacking = {"model", "data", "data_digest"} - params.keys()
    if lacking:
        raise UserError(f"{uri}: its run has no parameter {', '.join(sorted(lacking))}")
    chosen = read_chosen(metadata_of(description), classes_said(params))
    return Source(with_version(uri), file, params, run_id, chosen)


def require_run(source: Source) -> None:
    """Refuse what there is no run in a store of, to log to, before anything is converted."""
    if not source.run_id:
        raise UserError(
            f"--log: {source.uri} is a folder, not a model of a store; expected a URI such as "
            "models:/NAME@champion"
        )


def log_export(
    source: Source, file: Path, to: str, precision: str, found: dict[str, float]
) -> None:
    """Log an exported file and what was measured on it to the model's run."""
    with store_is_needed():
        log_file(source.run_id, file, f"export/{to}-{precision}")
        log_figures(source.run_id, found, {})
