"""Exported runs of made-up networks, for whatever reads predictions tables."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skinml.config import Config
from skinml.data.isic2017 import CLASSES
from skinml.evaluation.predictions import Predictions, write_predictions
from skinml.models.weights import weights_kind

MODELS = ("mobilenet", "mobilenetv2", "nasnetmobile")
COUNTS = (40, 90, 35)

WriteRuns = Callable[..., Path]


def made_up(skill: float, seed: Sequence[int], split: int = 0) -> Predictions:
    """A network's scores of 165 images: the images are the same for every skill and seed."""
    labels = np.repeat(np.arange(3), COUNTS)
    difficulty = np.random.default_rng([split, 99]).normal(size=(len(labels), 3))
    noise = np.random.default_rng([split, *seed]).normal(size=(len(labels), 3))
    logits = difficulty + noise + skill * np.eye(3)[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = [f"ISIC_{split}{number:06d}" for number in range(len(labels))]
    return Predictions(np.array(ids), labels, scores, CLASSES)


def write_run(folder: Path, table: Predictions, started: int = 0, **options: Any) -> Path:
    """One run as `compare --out` exports it; `options` are fields of Config, tags or params.

    Or `validation`, the predictions table of its validation part.
    """
    validation: Predictions | None = options.pop("validation", None)
    known = {name: options.pop(name) for name in list(options) if hasattr(Config, name)}
    config = Config(**{"weights": "none", **known})
    split = (
        "challenge"
        if config.protocol == "challenge"
        else f"paper test={config.test_fraction:g} val=0.2 seed={config.split_seed}"
    )
    tags = {
        "kind": "training",
        "model": config.model,
        "batch_size": str(config.batch_size),
        "seed": str(config.seed),
        "data": config.data,
        "protocol": config.protocol,
        "split": split,
        "weights_kind": weights_kind(config.weights),
        "data_digest": "0123456789abcdef",
        "training_digest": "fedcba9876543210",
    }
    params = {name: str(value) for name, value in config.as_dict().items()}
    resolved = config.resolved().as_dict()
    params |= {f"effective_{n}": str(v) for n, v in resolved.items() if str(v) != params[n]}
    params |= {"device_kind": "cpu", "device_name": "a CPU", "device_threads": "2"}
    params |= {"training_digest": tags["training_digest"], "git_commit": "c0ffee" * 6}
    tags |= {name: str(value) for name, value in options.items()}
    params |= {name: str(value) for name, value in options.items() if name in params}
    name = f"{config.model}-{config.batch_size}-s{config.seed}-{config.split_seed}-{started}"
    own = folder / name
    own.mkdir(parents=True)
    (own / "run.json").write_text(
        json.dumps({"run_id": name, "started": started, "params": params, "tags": tags})
    )
    size = {"mobilenet": 14.0, "mobilenetv2": 10.0, "nasnetmobile": 20.0}.get(config.model, 12.0)
    costs = {"parameters_millions": size / 4, "model_size_mb": size, "latency_ms": 3 * size}
    costs |= {"training_seconds": 60.0, "best_epoch": 2.0}
    (own / "metrics.json").write_text(json.dumps(costs))
    # What a test has changed of the scores are probabilities again.
    scores = table.scores / table.scores.sum(axis=1, keepdims=True)
    write_predictions(replace(table, scores=scores), own / "predictions_test.csv")
    if validation:
        write_predictions(validation, own / "predictions_validation.csv")
    return own


def write_grid(
    folder: Path,
    skill: Callable[[str, int], float] = lambda model, size: 1.0,
    seeds: Sequence[int] = (0,),
    splits: Sequence[int] = (0,),
    models: Sequence[str] = MODELS,
    sizes: Sequence[int] = (16, 32, 64),
) -> Path:
    """Runs of a whole grid."""
    number = 0
    for split in splits:
        for model in models:
            for size in sizes:
                for seed in seeds:
                    number += 1
                    table = made_up(skill(model, size), [len(model), size, seed], split)
                    write_run(
                        folder, table, started=number, model=model, batch_size=size, seed=seed,
                        split_seed=split, test_fraction=0.2,
                    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def nine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine runs of networks of the same skill: nobody wins. Read only."""
    return write_grid(tmp_path_factory.mktemp("nine"))
